"""Modules taken away, against the same written by hand on a network of two separate halves."""

import numpy as np
import pytest
import torch
from communities.planted_graphs import graph_of
from torch import nn

import interactgraph as itg
from interactgraph import InteractGraphError
from interactgraph.validation import ablate_modules
from interactgraph.validation.controls import _near, _windows, matched_set, relative_strength

HALF = {"input": 3, "1": 4, "3": 4, "4": 2}


def halves():
    """Two networks side by side; features of the first half come first."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4)
    ).double()
    with torch.no_grad():
        for linear in model[::2]:
            a, b = (n // 2 for n in linear.weight.shape)
            linear.weight[:a, b:] = linear.weight[a:, :b] = 0
    x = torch.randn(40, 6, dtype=torch.float64)
    y = model(x)
    answers = torch.stack([y[:, :2].argmax(1), y[:, 2:].argmax(1)], 1)
    return model, x, [(x[:25], answers[:25]), (x[25:], answers[25:])]


def right(half):
    def measure(output, batch, intact):
        return (output[:, 2 * half : 2 * half + 2].argmax(1) == batch[1][:, half]).double()

    return measure


MEASURES = {"first": right(0), "second": right(1)}


@pytest.fixture
def found():
    model, x, data = halves()
    graph = itg.interaction_graph(model, [x], list(HALF), progress=False)
    membership = {layer: np.arange(2 * n) // n for layer, n in HALF.items()}
    return model, x, data, graph, itg.Partition(membership, quality=1.0)


@pytest.mark.parametrize("baseline", ["mean", "zero"])
def test_features_at_the_baseline(found, baseline):
    model, x, data, graph, partition = found
    effects = ablate_modules(
        graph, partition, model, data, measures=MEASURES, baseline=baseline, n_controls=3,
        progress=False,
    )  # fmt: skip
    for module, effect in enumerate(effects):
        h = model[:2](x)
        own = slice(4 * module, 4 * module + 4)
        fill = (h.mean(0) if baseline == "mean" else torch.zeros(8).double())[own]
        h = h.clone()
        h[:, own] = fill
        g = model[2:4](h).clone()
        reference = model[:4](x)
        g[:, own] = (reference.mean(0) if baseline == "mean" else torch.zeros(8).double())[own]
        output = model[4](g)
        for half, name in enumerate(MEASURES):
            good = torch.cat([batch[1] for batch in data])[:, half]
            kept = (output[:, 2 * half : 2 * half + 2].argmax(1) == good).double().mean()
            assert effect.effect["features"][name] == pytest.approx(1 - float(kept))
            assert len(effect.control["features"][name]) == 3
        assert effect.effect["features"][["second", "first"][module]] == 0
        assert effect.share_inside == pytest.approx(1)
        assert effect.size == HALF


def test_others_is_the_opposite(found):
    model, _, data, graph, partition = found
    effects = ablate_modules(
        graph, partition, model, data, ways=("features", "others"), measures=MEASURES,
        n_controls=0, progress=False,
    )  # fmt: skip
    one, two = effects
    assert one.effect["features"] == two.effect["others"]
    assert two.effect["features"] == one.effect["others"]
    assert one.control["features"]["first"] == []


def test_internal_edges_are_cut_and_others_kept(found):
    model, x, data, graph, partition = found
    with torch.no_grad():
        model[2].weight[4:, :4] = 0.5  # the first half now feeds the second one
    measures = {"out": lambda output, batch, intact: output[:, 0] + 3 * output[:, 3]}
    effect = ablate_modules(
        graph, partition, model, data, ways=("edges",), measures=measures, n_controls=0,
        progress=False,
    )[0]  # fmt: skip
    h = model[:2](x)
    cut = h.clone()
    cut[:, :4] = h.mean(0)[:4]
    g = torch.cat([model[2:4](cut)[:, :4], model[2:4](h)[:, 4:]], 1)
    change = measures["out"](model(x) - model[4](g), None, None).mean()
    assert effect.effect["edges"]["out"] == pytest.approx(float(change.detach()))


def test_feature_maps_keep_what_they_leave_out(found):
    model, x, data, _, _ = found
    maps = itg.features.PCA(rank=3)
    graph = itg.interaction_graph(
        model, [x], ["input", "1", "4"], features={"1": maps}, progress=False
    )
    partition = itg.Partition(
        {"input": np.zeros(6), "1": np.array([0, 1, 1]), "4": np.zeros(4)}, quality=1.0
    )
    measures = {"out": lambda output, batch, intact: output[:, 0]}
    effect = ablate_modules(
        graph, partition, model, data, measures=measures, min_size=1, n_controls=0, progress=False
    )[0]
    h = model[:2](x)
    fitted = graph.features["1"].to(dtype=torch.float64)
    z = fitted.encode(h)
    shift = z.clone()
    shift[:, 0] = fitted.encode(h.mean(0, keepdim=True))[:, 0]
    moved = h + fitted.decode(shift) - fitted.decode(z)
    change = (model(x) - model[2:](moved))[:, 0].mean()
    assert effect.effect["features"]["out"] == pytest.approx(float(change.detach()))


def test_classes_specialisation_and_max_activating_samples(found):
    model, x, data, graph, partition = found
    loud = 7
    x[loud, :3] *= 100
    labelled = [(x, torch.cat([answers for _, answers in data])[:, 0])]
    effect = ablate_modules(
        graph, partition, model, labelled,
        measures={"right": lambda output, batch, intact: (
            output[:, :2].argmax(1) == batch[1]).double()},
        n_controls=0, progress=False,
    )[0]  # fmt: skip
    falls = effect.by_class["features"]["right"]
    assert set(falls) == {"0", "1"}
    clipped = [max(fall, 0) for fall in falls.values()]
    assert effect.specialisation["features"]["right"] == pytest.approx(max(clipped) / sum(clipped))
    assert "module 0" in str(effect)
    assert "share" in str(effect)
    assert len(effect.max_activating_samples) == 5
    assert loud in effect.max_activating_samples


def test_model_is_left_as_it_was(found):
    model, _, data, graph, partition = found
    model.train()

    def broken(output, batch, intact):
        raise RuntimeError("no measure")

    with pytest.raises(RuntimeError, match="no measure"):
        ablate_modules(graph, partition, model, data, measures={"x": broken}, progress=False)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"ways": ("all",)}, "ways="),
        ({"measures": "goodness"}, "goodness"),
        ({"layers": ["7"]}, "'7' is not in the graph"),
        ({"baseline": "median"}, "baseline='median'"),
        ({"measures": {"a": lambda o, b, i: o}}, "measure 'a' gives shape .* one number for each"),
        ({"baseline": {"8": "zero"}}, "'8' is not in the graph"),
        ({"layers": ["1"], "ways": ("edges",)}, "no internal edges to cut"),
        ({"n_controls": -1}, "n_controls=-1 must be a whole number"),
        ({"seed": -1}, "seed=-1 must be a whole number"),
        ({"classes": lambda batch: [1, 2]}, r"classes gives \[1, 2\] for a batch of 25"),
    ],
)
def test_bad_input(found, options, match):
    model, _, data, graph, partition = found
    options = {"measures": MEASURES, **options}
    with pytest.raises(InteractGraphError, match=match):
        ablate_modules(graph, partition, model, data, progress=False, **options)


def test_partition_of_another_graph(found):
    model, _, data, graph, _ = found
    with pytest.raises(InteractGraphError, match="partition of this graph"):
        ablate_modules(graph, itg.Partition({"1": np.zeros(8)}, quality=0.0), model, data)


def test_shuffled_data(found):
    model, x, _, graph, partition = found
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, torch.zeros(len(x)).long()), batch_size=8, shuffle=True
    )
    with pytest.raises(InteractGraphError, match="this DataLoader shuffles"):
        ablate_modules(graph, partition, model, loader, progress=False)


def test_padding_is_no_part_of_the_mean():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.randn(8, 3, 3, dtype=torch.float64)
    mask = torch.ones(8, 3, dtype=torch.bool)
    mask[:, 2] = False
    x[~mask] = 100.0
    data = [{"input": x, "m": mask}]
    options = {"position_mask": "m", "forward": lambda model, batch: model(batch["input"])}
    graph = itg.interaction_graph(model, data, ["0", "1"], progress=False, **options)
    partition = itg.Partition({"0": np.array([0, 0, 1, 1]), "1": np.array([0, 0, 1, 1])}, 1.0)
    effect = ablate_modules(
        graph, partition, model, data, measures="similarity", layers=["0"], n_controls=0,
        progress=False, **options,
    )[0]  # fmt: skip
    h = model[0](x)
    cut = h.clone()
    cut[..., :2] = h[mask].mean(0)[:2]
    moved = (model(x) - model[1:](cut)) * mask[..., None]
    expected = moved.square().flatten(1).sum(1).mean()
    assert effect.effect["features"]["similarity"] == pytest.approx(float(expected.detach()))


def test_measures_of_booleans_and_classes_of_some_batches(found):
    model, _, data, graph, partition = found
    mixed = [(data[0][0], data[0][1][:, 0]), data[1][0]]
    effect = ablate_modules(
        graph, partition, model, mixed, n_controls=0, progress=False,
        measures={"same": lambda output, batch, intact: output.argmax(1) == intact.argmax(1)},
    )[0]  # fmt: skip
    assert effect.intact["same"] == 1.0
    assert effect.by_class == {}
    with pytest.raises(InteractGraphError, match="measures="):
        ablate_modules(graph, partition, model, data, measures=["accuracy"], progress=False)


@pytest.mark.parametrize("way", ["features", "others", "edges"])
def test_what_forward_returns_is_measured(found, way):
    """Not the first tensor of the model itself, and after what `forward` does to it."""
    model, x, data, graph, partition = found
    layers = ["1", "3"]
    graph = itg.interaction_graph(model, [x], layers, progress=False)
    partition = itg.Partition({layer: partition.membership[layer] for layer in layers}, quality=1.0)
    options = {"measures": MEASURES, "ways": [way], "layers": layers}
    options |= {"n_controls": 0, "progress": False}
    expected = ablate_modules(graph, partition, model, data, **options)

    class Wrapped(nn.Module):  # the same modules under the same names
        def __init__(self):
            super().__init__()
            for name, module in model.named_children():
                self.add_module(name, module)

        def forward(self, x):
            hidden = self.get_submodule("2")(self.get_submodule("1")(self.get_submodule("0")(x)))
            hidden = self.get_submodule("3")(hidden)
            return {"hidden": hidden, "logits": 1 - self.get_submodule("4")(hidden)}

    got = ablate_modules(
        graph, partition, Wrapped(), data, forward=lambda m, b: 1 - m(b[0])["logits"], **options
    )
    for one, other in zip(expected, got, strict=True):
        assert one.intact == other.intact == {"first": 1.0, "second": 1.0}
        assert one.effect == other.effect


def test_results_that_are_no_output(found):
    model, _, data, graph, partition = found
    for forward, message in (
        (lambda m, b: m(b[0]) is None or None, "gives a NoneType without a tensor"),
        (lambda m, b: [m(b[0]).sum()], "one number, such as a loss"),
    ):
        with pytest.raises(InteractGraphError, match=message):
            ablate_modules(graph, partition, model, data, forward=forward, progress=False)


def test_controls_are_about_as_strong():
    """Also for a module of the strongest features of a heavy-tailed layer."""
    ratios = []
    for seed in range(10):
        draw = torch.Generator().manual_seed(seed)
        scale = torch.exp(1.5 * torch.randn(16, generator=draw, dtype=torch.float64))
        weight = torch.outer(scale, scale) * torch.rand(16, 16, generator=draw)
        graph = graph_of(weight.numpy(), weight.numpy())
        strongest = np.zeros(16, bool)
        strongest[scale.argsort(descending=True)[:4].numpy()] = True
        random = np.random.default_rng(seed)
        controls = [matched_set(graph, {"l1": strongest}, random) for _ in range(10)]
        assert {int(drawn["l1"].sum()) for drawn in controls} == {4}
        ratios.append(relative_strength(graph, {"l1": strongest}, controls))
        assert ratios[-1] < 1
    assert np.mean(ratios) > 0.6
    assert np.isnan(relative_strength(graph, {"l1": strongest}, []))


def test_graphs_without_feature_maps(found):
    model, _, data, graph, partition = found
    with pytest.raises(InteractGraphError, match="does not say what the features of"):
        ablate_modules(graph.replace(features={}), partition, model, data, progress=False)


def test_windows_of_the_nearest():
    draw = np.random.default_rng(0)
    for size in (1, 3, 8, 20):
        rising = np.sort(draw.integers(0, 30, 20)).astype(float)
        starts = _windows(rising, size)
        for position, start in enumerate(starts):
            distance = np.abs(rising - rising[position])
            assert 0 <= start < start + size <= 20
            assert distance[start : start + size].max() == np.sort(distance)[size - 1]


def test_a_control_of_all_features_there_are():
    order, first = np.arange(6), np.zeros(6, np.int64)
    everything = np.ones(6, bool)
    assert _near(order, first, 2, everything, np.random.default_rng(0)).all()
