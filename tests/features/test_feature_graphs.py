"""Graphs in fitted bases and dictionaries, from `interactgraph.interaction_graph`."""

from dataclasses import replace

import networks
import pytest
import reference
import torch
from torch import nn

import interactgraph as itg
from interactgraph import InteractGraphError
from interactgraph.cli.info import describe_graph
from interactgraph.features import PCA, Dictionary, LocalInteractionBasis


def chain():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 7), nn.GELU(), nn.Linear(7, 3)
    ).double()
    return model, torch.randn(24, 5, dtype=torch.float64).split(10)


def dictionary(size, features, seed):
    generator = torch.Generator().manual_seed(seed)
    encoder = torch.randn(features, size, generator=generator, dtype=torch.float64)
    decoder = torch.randn(size, features, generator=generator, dtype=torch.float64) / features
    return Dictionary(encoder, decoder, encoder_bias=encoder[:, 0])


@pytest.mark.parametrize("name", ["pca", "lib", "local_interaction_basis", "random_rotation"])
def test_names(name):
    model, data = chain()
    graph = itg.interaction_graph(model, data, ["1", "3", "4"], features=name, progress=False)
    feature_map = graph.features["1"]
    assert feature_map.n_features == graph.n_features["1"]
    f = model[:2](data[0]).detach()
    torch.testing.assert_close(feature_map.decode(feature_map.encode(f)), f, atol=1e-4, rtol=0)


def test_strengths_in_fitted_bases():
    model, data = chain()
    graph = itg.interaction_graph(
        model, data, ["1", "3"], features={"1": LocalInteractionBasis(rank=4), "3": PCA(rank=3)},
        n_steps=4, tolerance=None, engine="forward", progress=False,
    )  # fmt: skip
    assert graph.n_features == {"1": 4, "3": 3}
    one, two = graph.features["1"], graph.features["3"]
    a = []
    for x in data:
        z = one.encode(model[:2](x).detach())[:, None]
        z0 = torch.zeros_like(z)  # of features, whose activation is the offset of the basis
        a.append(reference.attributions(
            lambda z: two.encode(model[2:4](one.decode(z[:, 0])))[:, None], z, z0, 4
        ))  # fmt: skip
    expected = torch.from_numpy(reference.strengths(a)["rms"])
    torch.testing.assert_close(graph.weights("1", "3"), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("make", [
    lambda: PCA(rank=3),
    lambda: LocalInteractionBasis(n_probes=2),
    lambda: dictionary(6, 9, 0),
])  # fmt: skip
def test_saved_with_the_graph(make, tmp_path):
    model, data = chain()
    graph = itg.interaction_graph(model, data, ["1", "3"], features={"1": make()}, progress=False)
    graph.save(tmp_path / "g.safetensors")
    again = itg.load(tmp_path / "g.safetensors").features["1"]
    f = model[:2](data[1]).detach()
    assert again.kind == make().kind
    torch.testing.assert_close(again.encode(f), graph.features["1"].encode(f), rtol=0, atol=0)
    if isinstance(again, (PCA, LocalInteractionBasis)):
        torch.testing.assert_close(again.eigenvalues, graph.features["1"].eigenvalues)


@pytest.mark.parametrize("engine", ["auto", "forward", "reverse"])
def test_dictionaries_keep_completeness(engine):
    """Source and target dictionaries with their error features, against the slow reference."""
    model, data = chain()
    one, two = dictionary(6, 9, 0), dictionary(7, 8, 1)
    graph = itg.interaction_graph(
        model, data, ["1", "3"], features={"1": one, "3": two}, n_steps=60,
        tolerance=None, engine=engine, progress=False,
    )  # fmt: skip
    assert graph.n_features == {"1": 10, "3": 9}
    assert graph.completeness["1", "3"] < 1e-2  # the ReLU of the target's codes has kinks
    a = []
    for x in data:
        f = model[:2](x).detach()
        here, there = one.at(f), two.at(model[2:4](f).detach())
        z = here.encode(f)[:, None]
        z0 = torch.zeros_like(z)
        a.append(reference.attributions(
            lambda z, here=here, there=there: there.encode(
                model[2:4](here.decode(z[:, 0]))
            )[:, None], z, z0, 60,
        ))  # fmt: skip
        assert torch.allclose(here.decode(z[:, 0]), f)
    expected = torch.from_numpy(reference.strengths(a)["rms"])
    torch.testing.assert_close(graph.weights("1", "3"), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("engine", ["auto", "forward", "reverse"])
@pytest.mark.parametrize("normalization", ["layer_norm", "constant_norm_rescale"])
def test_normalised_dictionaries_keep_completeness(normalization, engine):
    """On both sides; the scale of every sample is held fixed."""
    model, data = chain()
    one, two = (
        replace(each, normalization=normalization)
        for each in (dictionary(6, 9, 0), dictionary(7, 8, 1))
    )
    graph = itg.interaction_graph(
        model, data, ["1", "3"], features={"1": one, "3": two}, n_steps=40,
        tolerance=None, engine=engine, progress=False,
    )  # fmt: skip

    def scale(f):
        if normalization == "layer_norm":
            return f.mean(-1, keepdim=True), f.std(-1, keepdim=True), 1e-5
        return 0, f.square().mean(-1, keepdim=True).sqrt(), 0

    def codes(d, f, of):
        center, size, epsilon = scale(of)
        return ((f - center) / (size + epsilon) @ d.encoder.T + d.encoder_bias).relu()

    def output(d, z, of):
        center, size, _ = scale(of)
        return z @ d.decoder.T * size + center

    a = []
    for x in data:
        f = model[:2](x).detach()
        g = model[2:4](f).detach()
        e, wrong = f - output(one, codes(one, f, f), f), g - output(two, codes(two, g, g), g)
        size, along = e.norm(dim=-1, keepdim=True), wrong / wrong.norm(dim=-1, keepdim=True)

        def function(z, f=f, g=g, e=e, size=size, along=along):
            z = z[:, 0]
            y = model[2:4](output(one, z[:, :-1], f) + z[:, -1:] * e / size)
            found = codes(two, y, g)
            error = ((y - output(two, found, g)) * along).sum(-1, keepdim=True)
            return torch.cat([found, error], -1)[:, None]

        z = torch.cat([codes(one, f, f), size], -1)[:, None]
        a.append(reference.attributions(function, z, torch.zeros_like(z), 40))
    expected = torch.from_numpy(reference.strengths(a)["rms"])
    torch.testing.assert_close(graph.weights("1", "3"), expected, rtol=1e-9, atol=1e-12)


def test_dictionary_of_an_affine_segment_in_closed_form():
    """The closed form is recorded on one batch; the error's direction is every sample's own."""
    model, data = chain()
    values = [
        itg.interaction_graph(
            model, data, ["1", "2"], features={"1": dictionary(6, 9, 0)}, engine=engine,
            progress=False,
        )
        for engine in ("auto", "forward")
    ]  # fmt: skip
    torch.testing.assert_close(values[0].weights("1", "2"), values[1].weights("1", "2"))


def test_position_mask_reaches_the_fit():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), networks.Block(6)).double()
    x = torch.randn(6, 5, 4, dtype=torch.float64)
    keep = torch.ones(6, 5, dtype=torch.bool)
    keep[3:, 3:] = False
    found = itg.interaction_graph(
        model, [(x, keep)], ["0", "1"], features="pca",
        position_mask=lambda batch: batch[1], progress=False,
    ).features["0"]  # fmt: skip
    rows = model[0](x).detach()[keep]
    torch.testing.assert_close(found.offset, rows.mean(0))
    values = torch.linalg.eigvalsh(rows.T.cov(correction=0)).flip(0)
    torch.testing.assert_close(found.eigenvalues, values[: found.n_features])


def test_unknown_name():
    model, data = chain()
    with pytest.raises(InteractGraphError, match=r"'pac' \(did you mean 'pca'\?\)"):
        itg.interaction_graph(model, data, ["1", "3"], features="pac", progress=False)


def test_layers_in_the_wrong_order_are_found_before_fitting():
    model, data = chain()
    with pytest.raises(InteractGraphError, match="runs after"):
        itg.interaction_graph(model, data, ["3", "1"], features="lib", progress=False)


def test_the_recipe_holds_options_and_ranks(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 4))
    bias = torch.tensor([9.0, 9.0, 9.0, -9.0])  # the last one never fires
    maps = {
        "input": itg.features.PCA(rank=3),
        "1": "local_interaction_basis",
        "2": itg.features.Dictionary(torch.eye(4), torch.eye(4), bias, drop_dead=True),
    }
    graph = itg.interaction_graph(
        model, torch.randn(50, 6), ["input", "1", "2"], features=maps, progress=False
    )
    graph.save(tmp_path / "g.safetensors")
    graph = itg.load(tmp_path / "g.safetensors")
    found = graph.metadata["feature_maps"]
    assert found["input"]["rank"] == 3
    assert found["input"]["full_rank"] == 6
    assert found["input"]["remark"] == "pca, 3 directions of 6"
    assert found["1"]["n_features"] == graph.n_features["1"]
    remark = "3 of the dictionary's 4 fire on the data; "
    assert found["2"]["remark"].startswith(remark)
    assert found["2"]["remark"].endswith(" unexplained, 3 features active on average")
    text = describe_graph(graph)
    assert "input: 3 features (pca, 3 directions of 6)" in text
    assert "fire on the data" in text


def test_dictionary_behind_attention_with_a_padding_mask():
    """A mask that is changed in place is recorded, with the error feature's directions too."""

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 6)
            self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
            self.last = nn.Linear(6, 7)

        def forward(self, x):
            padding = x[..., 0] > 1e9
            padding[:, -1] = True
            h = self.first(x)
            return self.last(h + self.attention(h, h, h, key_padding_mask=padding)[0])

    torch.manual_seed(0)
    model, data = Attention().double().eval(), list(torch.randn(8, 4, 6).double().split(4))
    graphs = [
        itg.interaction_graph(
            model, data, ["first", "last"], features={"first": dictionary(6, 9, 0)},
            engine=engine, n_steps=8, tolerance=None, progress=False,
        )
        for engine in ("auto", "forward", "reverse")
    ]  # fmt: skip
    assert graphs[0].n_features["first"] == 10
    auto, forward, reverse = (graph.weights("first", "last") for graph in graphs)
    torch.testing.assert_close(auto, forward)
    torch.testing.assert_close(forward, reverse)
