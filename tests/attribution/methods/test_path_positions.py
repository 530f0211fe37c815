"""Drawn target positions where a segment bends on the way: all edges at a few positions."""

import pytest
import torch
from frozen_blocks import WIDTH, Block, Gated, counts, network, plan_of, samples

import interactgraph as itg
from interactgraph.attribution.methods import differentiating
from interactgraph.attribution.methods.path_positions import PathPositions
from interactgraph.attribution.path_nodes import nodes_for
from interactgraph.calculus.factors import NotFactored
from interactgraph.calculus.row_tangents import NotRowwise, RowTangents

PAIR = ("0", "1")
OPTIONS = {"progress": False, "strengths": ("rms", "mean"), "tolerance": None, "n_steps": 6}


def run(net, data, **options):
    return itg.interaction_graph(net, data, list(PAIR), **{**OPTIONS, **options})


def assert_same(graph, exact):
    for name in OPTIONS["strengths"]:
        torch.testing.assert_close(graph.weights(*PAIR, name), exact.weights(*PAIR, name))
        torch.testing.assert_close(
            graph.standard_error(*PAIR, name), exact.standard_error(*PAIR, name)
        )
    assert graph.completeness[PAIR] == pytest.approx(exact.completeness[PAIR])


@pytest.mark.parametrize(
    "options",
    [
        {}, {"method": "gradient"}, {"baseline": "mean"}, {"position_mask": counts},
        {"skip": "remove"}, {"skip_positions": 1}, {"features": "pca"}, {"memory_budget": 20_000},
        {"groups": [0, 1, 1, 0] * 2, "folds": 2}, {"tolerance": 1e-3, "n_steps": 64},
    ],
    ids=lambda options: "-".join(options),
)  # fmt: skip
def test_as_many_as_there_are_is_exact(options):
    torch.manual_seed(0)
    net, data = network(Gated(causal=True)), [samples(4, 6), samples(4, 6, seed=2)]
    exact = run(net, data, engine="forward", **options)
    graph = run(net, data, positions=6, **options)
    assert plan_of(graph)["method"] == "drawn_positions_on_path"
    assert_same(graph, exact)


def test_lengths_differ():
    torch.manual_seed(0)
    net, data = network(Block(post=True)), [samples(2, n, seed=n) for n in (5, 3, 1, 5)]
    assert_same(run(net, data, positions=9), run(net, data, engine="forward"))


def test_it_is_without_bias():
    torch.manual_seed(0)
    net, data = network(Block(causal=True)), [samples(12, 6)]
    exact = run(net, data, engine="forward", position_mask=counts)
    n = 40
    found = {"rms": [], "mean": []}
    for seed in range(n):
        graph = run(net, data, position_mask=counts, positions=2, seed=seed)
        found["rms"].append(graph.weights(*PAIR).square())
        found["mean"].append(graph.weights(*PAIR, "mean"))
    assert plan_of(graph)["positions_per_sample"] == 2
    for name, expected in (
        ("rms", exact.weights(*PAIR).square()), ("mean", exact.weights(*PAIR, "mean")),
    ):  # fmt: skip
        values = torch.stack(found[name])
        off = (values.mean(0) - expected) / (values.std(0) / n**0.5)
        assert float(off.square().mean()) == pytest.approx(1, abs=0.6)


def test_draws_go_on_after_an_interruption(tmp_path, monkeypatch):
    net, data = network(Block()), [samples(3, 6, seed=seed) for seed in range(4)]
    options = {"positions": 2, "tolerance": 1e-2, "n_steps": 64}
    whole = run(net, data, **options)
    contributions, calls = PathPositions.contributions, []

    def failing(self, *args):
        calls.append(self)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return contributions(self, *args)

    monkeypatch.setattr(PathPositions, "contributions", failing)
    with pytest.raises(KeyboardInterrupt):
        run(net, data, checkpoint=tmp_path, checkpoint_seconds=0, **options)
    monkeypatch.undo()
    resumed = run(net, data, checkpoint=tmp_path, checkpoint_seconds=0, **options)
    assert torch.equal(resumed.weights(*PAIR), whole.weights(*PAIR))
    assert torch.equal(resumed.standard_error(*PAIR), whole.standard_error(*PAIR))


def test_a_time_budget_draws_positions():
    """All of them where there is time."""
    torch.manual_seed(0)
    net = network(Block(causal=True))
    wide = torch.nn.Sequential(torch.nn.Linear(WIDTH, 24), torch.nn.Linear(24, WIDTH), *net)
    data = [samples(8, 6, seed=seed) for seed in range(3)]
    options = {"progress": False, "tolerance": 1e-6, "n_steps": 64}
    exact = itg.interaction_graph(wide.double(), data, ["0", "3"], engine="forward", **options)
    graph = itg.interaction_graph(wide, data, ["0", "3"], time_budget=600, **options)
    plan = plan_of(graph)
    assert (plan["method"], plan["positions_per_sample"]) == ("drawn_positions_on_path", 6)
    torch.testing.assert_close(graph.weights("0", "3"), exact.weights("0", "3"), rtol=1e-5, atol=0)


def test_what_disagrees_with_forward_mode_is_refused(monkeypatch):
    at = RowTangents.at
    monkeypatch.setattr(RowTangents, "at", lambda *args: 1.01 * at(*args))
    with pytest.raises(itg.InputError, match="disagree with forward mode"):
        run(network(Block()), [samples()], positions=2)


def test_two_blocks_have_no_single_positions():
    net = torch.nn.Sequential(*network(Block()), Block()).double()
    with pytest.raises(itg.InputError, match="are not computed alone: what all positions hold"):
        itg.interaction_graph(net, [samples()], ["0", "2"], positions=2, progress=False)


class Branches(torch.nn.Module):
    """Takes another way on batches of another length."""

    def __init__(self):
        super().__init__()
        self.usual, self.other = Block(), Gated(causal=True)

    def forward(self, x):
        return self.usual(x) if x.shape[1] == 4 else self.other(x)


def test_every_record_is_compared_with_forward_mode(monkeypatch):
    """A batch on which it does not hold is computed whole, in time where there is an end."""
    torch.manual_seed(0)
    net, data = network(Branches()), [samples(2, 4), samples(2, 5), samples(2, 4, seed=3)]
    exact = run(net, data, engine="forward")
    at = RowTangents.at

    def wrong(self, *args):
        return at(self, *args) * (1.01 if self.target[1] == 5 else 1)

    monkeypatch.setattr(RowTangents, "at", wrong)
    with pytest.warns(itg.InteractGraphWarning, match="disagree with forward mode"):
        graph = run(net, data, positions=9)
    assert_same(graph, exact)


def test_an_operation_that_fails_later_is_no_way_to_go(monkeypatch):
    torch.manual_seed(0)
    net, data = network(Block()), [samples(2, 4), samples(2, 5)]
    exact, at = run(net, data, engine="forward"), RowTangents.at
    for error in (NotFactored("of other values"), NotRowwise("so"), RuntimeError("no kernel")):

        def failing(self, *args, error=error):
            if self.target[1] == 5:
                raise error
            return at(self, *args)

        monkeypatch.setattr(RowTangents, "at", failing)
        with pytest.warns(itg.InteractGraphWarning, match="single target positions fail"):
            assert_same(run(net, data, positions=9), exact)


def test_a_first_batch_without_positions():
    net, data = network(Block()), [samples(2, 4), samples(3, 4, seed=2)]
    options = {"position_mask": lambda x: torch.full(x.shape[:2], len(x) > 2)}
    assert_same(
        run(net, data, positions=4, **options), run(net, data, engine="forward", **options)
    )  # fmt: skip


def test_nodes_are_placed_on_every_batch(monkeypatch):
    torch.manual_seed(0)
    net, options = network(Block()), {"tolerance": 0.02, "n_steps": 64}
    data = [samples(2, 4), samples(2, 4, seed=2), 20 * samples(2, 4, seed=3)]
    exact, placed = run(net, data, engine="forward", **options), []
    monkeypatch.setattr(
        differentiating, "nodes_for", lambda *args: placed.append(nodes_for(*args)) or placed[-1]
    )
    graph = run(net, data, positions=4, **options)
    assert len(placed) == 3
    torch.testing.assert_close(graph.weights(*PAIR), exact.weights(*PAIR), rtol=1e-3, atol=1e-4)
