"""Expected Shapley values against the sum over all sets of features and all starts."""

from itertools import combinations
from math import factorial

import networks
import pytest
import torch
from resumed import assert_resumed_is_bit_identical

import interactgraph as itg
from interactgraph import InteractGraphError

OPTIONS = {"method": "expected_shapley", "progress": False}


def steps_by_hand(function, z, start):
    """Mean over all orders of A and of A^2, `[b, t, i, j]` each, set by set of those before j."""
    d = z.shape[2]
    totals = [0.0, 0.0]
    for j in range(d):
        others = [k for k in range(d) if k != j]
        sums = [0.0, 0.0]
        for size in range(d):
            weight = factorial(size) * factorial(d - size - 1) / factorial(d)
            for before in combinations(others, size):
                ends = []
                for moved in (before, (*before, j)):
                    point = start.clone()
                    point[:, :, list(moved)] = z[:, :, list(moved)]
                    ends.append(function(point))
                step = (ends[1] - ends[0]).detach()
                sums = [sums[0] + weight * step, sums[1] + weight * step**2]
        column = torch.eye(d, dtype=z.dtype)[j]
        totals = [totals[k] + sums[k][..., None] * column for k in range(2)]
    return totals


@pytest.mark.parametrize("name", ["mlp", pytest.param("transformer", marks=pytest.mark.slow)])
def test_mean_over_seeds_is_the_mean_over_orders_and_starts(name):
    case = networks.make(name)
    x = torch.cat(case.batches)[:4]
    activation, by_hand = case.by_hand(x)
    shape = activation.shape[1:]
    z = activation.detach().reshape(len(x), -1, shape[-1])

    def function(z):
        y = by_hand(z.reshape(-1, *shape))
        return y.reshape(len(z), -1, y.shape[-1])

    signed, squared = steps_by_hand(function, z, torch.zeros_like(z))
    for shift in range(1, len(z)):  # half of the paths start from another sample
        each = steps_by_hand(function, z, z.roll(shift, 0))
        signed, squared = signed + each[0] / (len(z) - 1), squared + each[1] / (len(z) - 1)
    expected = {"mean": signed.mean((0, 1)) / 2, "rms": squared.mean((0, 1)) / 2}
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
    assert all(g.completeness[case.source, case.target] < 1e-12 for g in graphs)


@pytest.mark.parametrize(("n_steps", "paths"), [(1, 1), (8, 1), (16, 2), (25, 3), (64, 8)])
def test_one_path_for_every_eight_steps_and_passes_for_features_that_move(n_steps, paths):
    model = torch.nn.Sequential(torch.nn.Linear(9, 4), torch.nn.Tanh()).double()
    x = torch.zeros(6, 9, dtype=torch.float64)
    x[:, :3] = 1  # no sample differs from another, and 3 features from the baseline
    graph = itg.interaction_graph(model, [x], ["input", "1"], n_steps=n_steps, **OPTIONS)
    plan = graph.metadata["plans"][0]
    assert (plan["n_steps"], plan["passes_per_sample"]) == (paths, 3 * paths)
    assert torch.all(graph.weights("input", "1")[:, 3:] == 0)


def test_it_sees_what_cancels_along_the_straight_path():
    """A step relu(100 (x - c) + 1) - relu(100 (x - c)) with c = one / 2: the slopes cancel."""

    class Step(torch.nn.Module):
        def forward(self, z):
            x, one = z[:, :1], z[:, 1:]
            after = 100 * (x - one / 2)
            return (after + one).relu() - after.relu()

    z = torch.tensor([[1.0, 1.0], [2.0, 1.0], [3.0, 1.0]], dtype=torch.float64)
    straight, drawn = (
        itg.interaction_graph(Step(), [z], ["input", "output"], **{**OPTIONS, "method": method})
        for method in ("integrated_gradients", "expected_shapley")
    )
    assert float(straight.weights("input", "output")[0, 0]) < 1e-9
    assert float(drawn.weights("input", "output")[0, 0]) > 0.3


def test_padding_is_no_start():
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


def test_resumed_run_is_bit_identical(tmp_path):
    model = networks.make("transformer").model
    batches = list(torch.randn(15, 5, 4, dtype=torch.float64).split(3))
    assert_resumed_is_bit_identical(model, batches, ["0", "output"], 3, tmp_path, **OPTIONS)


@pytest.mark.parametrize("options", [{"engine": "forward"}, {"sources": 2}, {"tolerance": 0.1}])
def test_options_that_do_not_apply(options):
    case = networks.make("mlp")
    with pytest.raises(InteractGraphError, match="do not apply"):
        itg.interaction_graph(case.model, case.batches, ["input", "4"], **OPTIONS, **options)


def test_a_baseline_without_a_value():
    class Ratio(torch.nn.Module):
        def forward(self, x):
            return x / x.norm(dim=1, keepdim=True)

    x = torch.randn(4, 3, dtype=torch.float64)
    with pytest.raises(InteractGraphError, match="not finite at the baseline"):
        itg.interaction_graph(Ratio(), [x], ["input", "output"], **OPTIONS)
