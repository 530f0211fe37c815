"""Expected gradients against the mean over all baselines, by plain autograd."""

import networks
import pytest
import reference
import torch
from resumed import assert_resumed_is_bit_identical

import interactgraph as itg
from interactgraph import InteractGraphError
from interactgraph.attribution.methods.expected_gradients import Reservoir

OPTIONS = {"method": "expected_gradients", "n_steps": 3, "tolerance": None, "progress": False}


def flat(case, batch):
    activation, function = case.by_hand(batch)
    last = activation.detach()
    z = last.reshape(len(last), -1, last.shape[-1])

    def of(z, rows=slice(None)):
        y = function(z.reshape(z.shape[0], *last.shape[1:]))
        return y.reshape(y.shape[0], -1, y.shape[-1])

    return z, of


@pytest.mark.parametrize("name", ["mlp", pytest.param("transformer", marks=pytest.mark.slow)])
def test_mean_over_seeds_is_the_mean_over_all_other_samples(name):
    case = networks.make(name)
    x = torch.cat(case.batches)
    z, function = flat(case, x)
    each = []
    for shift in range(1, len(z)):
        each.append(reference.attributions(function, z, z.roll(shift, 0), 3))
    a = torch.stack(each)  # [baseline, b, t, i, j]
    expected = {"mean": a.mean((0, 1, 2)), "rms": a.square().mean((0, 1, 2))}
    graphs = [
        itg.interaction_graph(
            case.model, [x], [case.source, case.target], strengths=("mean", "rms"), seed=seed,
            **OPTIONS,
        )
        for seed in range(150)
    ]  # fmt: skip
    for strength, exact in expected.items():
        found = torch.stack([g.weights(case.source, case.target, strength) for g in graphs])
        found = found.square() if strength == "rms" else found
        off = (found.mean(0) - exact) / (found.std(0) / len(graphs) ** 0.5 + 1e-12)
        assert float(off.abs().mean()) < 1.1
        assert float(off.abs().max()) < 5


def test_errors_include_the_draw():
    """On many samples: the spread over seeds is part of the standard error, never above it."""
    torch.manual_seed(0)
    case = networks.make("mlp")
    x = torch.randn(200, 6, dtype=torch.float64)
    graphs = [
        itg.interaction_graph(
            case.model, x.split(40), ["input", "4"], strengths=("mean",), seed=s, **OPTIONS
        )
        for s in range(30)
    ]
    spread = torch.stack([g.weights("input", "4") for g in graphs]).std(0)
    error = torch.stack([g.standard_error("input", "4") for g in graphs]).mean(0)
    assert float((spread / error).max()) < 1.1
    assert float((spread / error).mean()) > 0.4
    assert all(g.completeness["input", "4"] < 0.02 for g in graphs)


@pytest.mark.parametrize("name", ["mlp", "transformer", "two_inputs", "tuple_output"])
def test_both_ways_of_differentiating_draw_the_same(name):
    case = networks.make(name)
    layers = [case.source, case.target]
    one, other = (
        itg.interaction_graph(case.model, case.batches, layers, engine=engine, **OPTIONS)
        for engine in ("forward", "reverse")
    )
    torch.testing.assert_close(one.weights(*layers), other.weights(*layers))
    assert one.metadata["plans"][0]["method"] == "expected_columns"


def test_padding_is_no_baseline():
    case = networks.make("transformer")
    x = torch.randn(6, 5, 4, dtype=torch.float64)
    keep = torch.arange(5) < torch.tensor([5, 3, 1, 4, 5, 2])[:, None]
    wild = torch.where(keep[..., None], x, 1e6)
    graphs = [
        itg.interaction_graph(
            torch.nn.Sequential(case.model[0], torch.nn.GELU()), [(data, keep)], ["0", "1"],
            position_mask=lambda batch: batch[1], **OPTIONS,
        )
        for data in (x, wild)
    ]  # fmt: skip
    torch.testing.assert_close(graphs[0].weights("0", "1"), graphs[1].weights("0", "1"))


def test_no_sample_is_its_own_baseline_and_earlier_ones_are_kept():
    generator = torch.Generator().manual_seed(0)
    reservoir = Reservoir(generator)
    for start in (0, 4, 8):
        z = torch.arange(start, start + 4).double()[:, None, None]
        for _ in range(20):
            drawn = Reservoir(generator)
            drawn.kept, drawn.seen = dict(reservoir.kept), dict(reservoir.seen)
            baseline = drawn.draw(z, torch.ones(4, 1, dtype=torch.bool))
            assert not (baseline == z).any()
            assert bool((baseline < start + 4).all())
        reservoir.draw(z, torch.ones(4, 1, dtype=torch.bool))
    assert reservoir.kept["1"].flatten().tolist() == list(range(12))


def test_resumed_run_is_bit_identical(tmp_path):
    model = networks.make("transformer").model
    batches = list(torch.randn(24, 5, 4, dtype=torch.float64).split(4))
    assert_resumed_is_bit_identical(model, batches, ["0", "output"], 4, tmp_path, **OPTIONS)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"sources": 2}, "sources=2 does not apply"), ({"baseline": "mean"}, "leave baseline out")],
)
def test_options_that_do_not_go_together(options, match):
    case = networks.make("mlp")
    with pytest.raises(InteractGraphError, match=match):
        itg.interaction_graph(case.model, case.batches, ["input", "4"], **OPTIONS, **options)


def test_a_sample_without_another_one_moves_nowhere():
    """The first sample of all, alone in its batch, where features that do not move are packed."""
    model = torch.nn.Sequential(torch.nn.Linear(40, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))
    x = torch.zeros(3, 2, 40)
    x[..., 0] = torch.arange(3)[:, None]
    layers = ["input", "2"]
    options = OPTIONS | {"engine": "forward"}
    alone = itg.interaction_graph(model, [x[:1], x[1:]], layers, **options)
    assert alone.weights(*layers)[:, 0].any()
    assert not alone.weights(*layers)[:, 1:].any()
