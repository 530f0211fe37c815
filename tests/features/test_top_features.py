"""The strongest features, and all others as one: against plain autograd, and against the whole."""

from dataclasses import replace

import pytest
import reference
import torch
from torch import nn

import interactgraph as itg
from interactgraph import InputError
from interactgraph.features import PCA, Dictionary, Heads, Neurons, TopFeatures

POSITIONS, SIZE = 3, 6
KEPT = [1, 4]  # of the source, by `SCALE`
OTHERS = [0, 2, 3, 5]
SCALE = torch.tensor([0.1, 3.0, 0.5, 0.2, 2.0, 1.0], dtype=torch.float64)


class Mix(nn.Module):
    def forward(self, x):
        return x + x.mean(1, keepdim=True).tanh()


class Scale(nn.Module):
    def forward(self, x):
        return x * SCALE


def case():
    torch.manual_seed(0)
    model = nn.Sequential(Scale(), nn.Linear(SIZE, 8), nn.GELU(), Mix(), nn.Linear(8, 5)).double()
    return model, torch.randn(7, POSITIONS, SIZE, dtype=torch.float64).split(4)


def run(model, data, layers=("0", "4"), **options):
    options = {"strengths": ("rms", "mean"), "tolerance": None, "n_steps": 4} | options
    return itg.interaction_graph(model, data, layers, progress=False, **options)


def along(rest, direction):
    return (rest * direction).sum(-1, keepdim=True)


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def test_graph_is_that_of_autograd():
    model, data = case()
    graph = run(model, data, top_features={"0": 2, "4": 3})
    source, target = (graph.features[layer].chosen for layer in ("0", "4"))
    assert source.tolist() == KEPT
    left = [i for i in range(5) if i not in target.tolist()]
    parts = []
    for batch in data:
        x, y = batch * SCALE, model(batch)
        directions = unit(x[..., OTHERS]), unit(y[..., left])

        def function(z, directions=directions):
            f = torch.zeros(*z.shape[:-1], SIZE, dtype=z.dtype)
            f[..., KEPT] = z[..., :-1]
            f[..., OTHERS] = z[..., -1:] * directions[0]
            y = model[1:](f)
            return torch.cat([y[..., target], along(y[..., left], directions[1])], -1)

        z = torch.cat([x[..., KEPT], x[..., OTHERS].norm(dim=-1, keepdim=True)], -1)
        parts.append(reference.attributions(function, z, torch.zeros_like(z), 4))
    expected = reference.strengths(parts)
    for name in ("rms", "mean"):
        assert torch.allclose(graph.weights("0", "4", name), torch.tensor(expected[name]))
    assert graph.labels["0"] == ("0:1", "0:4", "0:rest")
    assert graph.labels["4"] == (*(f"4:{i}" for i in target.tolist()), "4:rest")


@pytest.mark.parametrize(
    "features", [Neurons(), PCA(), Dictionary.random(SIZE, 20, k=3), Heads(3)], ids=lambda m: m.kind
)
def test_rest_is_the_sum_of_what_it_holds(features):
    model, data = case()
    whole = run(model, data, features={"0": features}).weights("0", "4", "mean")
    graph = run(model, data, features={"0": features}, top_features={"0": 2})
    part, chosen = graph.weights("0", "4", "mean"), graph.features["0"].chosen
    assert len(chosen) == 2
    assert torch.allclose(part[:, :-1], whole[:, chosen])
    assert torch.allclose(part.sum(1), whole.sum(1))
    exact = run(model, data, features={"0": features}, top_features={"0": 2}, n_steps=32)
    assert exact.completeness["0", "4"] < 1e-6


def test_error_of_a_dictionary_belongs_to_the_rest():
    model, data = case()
    dictionary = Dictionary.random(SIZE, 20, k=1)
    whole = run(model, data, features={"0": dictionary})
    assert whole.labels["0"] == (*(f"0:{j}" for j in range(20)), "0:error")
    x = torch.cat(data) * SCALE
    z = whole.features["0"].at(x).encode(x).flatten(0, 1).square().mean(0)
    assert z.argmax() == 20
    graph = run(model, data, features={"0": dictionary}, top_features={"0": 3})
    assert graph.features["0"].chosen.tolist() == sorted(z[:20].topk(3).indices.tolist())


def test_features_of_a_dictionary_keep_their_numbers():
    model, data = case()
    dictionary = Dictionary.random(SIZE, 40, k=1)
    graph = run(model, data, features={"0": replace(dictionary, drop_dead=True)})
    alive = graph.features["0"].alive.tolist()
    assert 0 < len(alive) < 40
    assert graph.labels["0"] == (*(f"0:{j}" for j in alive), "0:error")


def test_chosen_are_those_of_largest_mean_square():
    model, data = case()
    first, positions = torch.tensor([3, 4]), torch.ones(7, POSITIONS, dtype=torch.bool)
    graph = run(model, data, features={"0": TopFeatures(Neurons(), 2, first)})
    assert graph.labels["0"] == ("0:3", "0:4", "0:rest")
    positions[:, 1:] = False  # at the first one, feature 0 is the largest
    x = torch.cat(data).clone()
    x[:, 0, 0] = 1000.0
    masked = [(x, positions)]
    graph = run(
        model, masked, top_features={"0": 1}, forward=lambda model, batch: model(batch[0]),
        position_mask=lambda batch: batch[1],
    )  # fmt: skip
    assert graph.labels["0"] == ("0:0", "0:rest")
    assert run(model, data, top_features={"0": 1}).labels["0"] == ("0:1", "0:rest")


def test_layer_with_no_more_features_keeps_its_map():
    model, data = case()
    graph = run(model, data, top_features=5)
    assert graph.n_features == {"0": 6, "4": 5}
    plain = run(model, data)
    chosen = graph.features["0"].chosen
    assert torch.allclose(graph.weights("0", "4")[:, :-1], plain.weights("0", "4")[:, chosen])


def test_saved_and_loaded(tmp_path):
    model, data = case()
    dictionary = Dictionary.random(SIZE, 20, k=3)
    graph = run(model, data, features={"0": dictionary}, top_features={"0": 2, "4": 2})
    graph.save(tmp_path / "graph.safetensors")
    again = itg.load(tmp_path / "graph.safetensors")
    assert again.labels == graph.labels
    map_ = again.features["0"]
    assert isinstance(map_, TopFeatures)
    assert isinstance(map_.features, Dictionary)
    assert map_.direction is None
    x = torch.cat(data) * SCALE
    assert torch.allclose(map_.at(x).decode(map_.at(x).encode(x)), x)
    same = run(model, data, features=dict(again.features))
    assert torch.equal(same.weights("0", "4"), graph.weights("0", "4"))


def test_wide_dictionaries_go_through_the_activation():
    x = torch.randn(4, POSITIONS, SIZE, dtype=torch.float64)
    dictionary = Dictionary.random(SIZE, 20, k=3).bind("0", x.shape, 2)
    around = TopFeatures(dictionary, 2, torch.tensor([3, 8])).at(x)
    z = around.encode(x)
    directions = around.directions
    moved = torch.randn_like(z)
    by_rows = moved[..., :-1] @ directions.rows + moved[..., -1:] * directions.extra
    assert torch.allclose(around.decode(z + moved) - around.decode(z), by_rows)


def test_from_the_command_line(tmp_path):
    from interactgraph.cli import main

    (tmp_path / "code.py").write_text(
        "import torch\nfrom torch import nn\ntorch.manual_seed(0)\n"
        "net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5))\n"
        "data = torch.randn(16, 4)\n"
    )
    code, out = tmp_path / "code.py", tmp_path / "g.safetensors"
    options = ["--layers", "0", "2", "--top-features", "2", "-o", str(out), "--no-progress"]
    assert main(["build", f"{code}:net", f"{code}:data", *options]) == 0
    assert itg.load(out).n_features == {"0": 3, "2": 3}
    assert itg.load(out).metadata["top_features"] == 2


@pytest.mark.parametrize("value", [0, 1.5, "3", {"0": 0}, {"9": 1}])
def test_bad_numbers(value):
    model, data = case()
    with pytest.raises(InputError, match="top_features"):
        run(model, data, top_features=value)
