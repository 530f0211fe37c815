"""Drawn target positions: all edges at a few positions of each sample, without bias."""

import pytest
import torch
from frozen_blocks import WIDTH, Block, Gated, counts, network, plan_of, samples

import interactgraph as itg
from interactgraph.attribution.methods import DoesNotApply
from interactgraph.attribution.methods.drawn_positions import DrawnPositions
from interactgraph.attribution.time_budget import TimeBudget

PAIR = ("0", "1")
OPTIONS = {"freeze": ("attention", "layernorm"), "progress": False, "strengths": ("rms", "mean")}


def run(net, data, **options):
    return itg.interaction_graph(net, data, list(PAIR), **{**OPTIONS, **options})


def test_as_many_as_there_are_is_exact():
    net, data = network(Block(causal=True)), [samples(4, 6), samples(3, 6, seed=2)]
    exact = run(net, data, position_mask=counts)
    graph = run(net, data, position_mask=counts, positions=6)
    assert plan_of(graph)["method"] == "drawn_positions"
    assert plan_of(graph)["positions_per_sample"] == round((5 * 6 + 2 * 4 - 6 + 4) / 7, 2)
    for name in OPTIONS["strengths"]:
        torch.testing.assert_close(graph.weights(*PAIR, name), exact.weights(*PAIR, name))
        torch.testing.assert_close(
            graph.standard_error(*PAIR, name), exact.standard_error(*PAIR, name)
        )


def test_means_are_without_bias_and_errors_include_the_draws():
    torch.manual_seed(0)
    net, data = network(Block(causal=True)), [samples(24, 6)]
    exact = run(net, data, position_mask=counts)
    n = 40
    squares, means, off = [], [], []
    for seed in range(n):
        graph = run(net, data, position_mask=counts, positions=2, seed=seed)
        squares.append(graph.weights(*PAIR).square())
        means.append(graph.weights(*PAIR, "mean"))
        error = graph.standard_error(*PAIR, "mean")
        off.append((means[-1] - exact.weights(*PAIR, "mean")) / error)
    assert plan_of(graph)["positions_per_sample"] == 2
    for found, expected in (
        (squares, exact.weights(*PAIR).square()), (means, exact.weights(*PAIR, "mean")),
    ):  # fmt: skip
        found = torch.stack(found)
        off_mean = (found.mean(0) - expected) / (found.std(0) / n**0.5)
        assert float(off_mean.square().mean()) == pytest.approx(1, abs=0.6)
        assert float(off_mean.abs().max()) < 4.5
    # Of the same samples each time, so that errors between samples are more than what is seen.
    seen = float(torch.stack(off).square().mean())
    assert 0.2 < seen < 1.1
    errors = run(net, data, position_mask=counts).standard_error(*PAIR, "mean")
    assert float((error / errors).mean()) > 1.1


def test_draws_go_on_after_an_interruption(tmp_path, monkeypatch):
    net, data = network(Block()), [samples(3, 6, seed=seed) for seed in range(4)]
    whole = run(net, data, positions=2)
    options = {"positions": 2, "checkpoint": tmp_path, "checkpoint_seconds": 0}
    contributions, calls = DrawnPositions.contributions, []

    def failing(self, *args):
        calls.append(self)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return contributions(self, *args)

    monkeypatch.setattr(DrawnPositions, "contributions", failing)
    with pytest.raises(KeyboardInterrupt):
        run(net, data, **options)
    monkeypatch.undo()
    resumed = run(net, data, **options)
    assert torch.equal(resumed.weights(*PAIR), whole.weights(*PAIR))
    assert torch.equal(resumed.standard_error(*PAIR), whole.standard_error(*PAIR))
    assert plan_of(resumed)["positions_per_sample"] == 2


def test_a_target_error_takes_further_passes():
    net, data = network(Block()), [samples(64, 6)]
    exact = run(net, data)
    graph = run(net, data, positions=2, target_error=0.4)
    assert graph.metadata["n_passes"] >= 1
    error = (graph.weights(*PAIR) - exact.weights(*PAIR)) / exact.weights(*PAIR)
    assert float(error.abs().max()) < 0.4


def test_a_time_budget_draws_positions():
    """All of them where there is time, and no source features."""
    torch.manual_seed(0)
    net = network(Block(causal=True))
    wide = torch.nn.Sequential(torch.nn.Linear(WIDTH, 24), torch.nn.Linear(24, WIDTH), *net)
    data = [samples(8, 6, seed=seed) for seed in range(3)]
    exact = itg.interaction_graph(wide.double(), data, ["0", "3"], **OPTIONS)
    graph = itg.interaction_graph(wide, data, ["0", "3"], time_budget=600, **OPTIONS)
    plan = plan_of(graph)
    assert (plan["method"], plan["positions_per_sample"]) == ("drawn_positions", 6)
    assert "sources_per_sample" not in plan
    torch.testing.assert_close(graph.weights("0", "3"), exact.weights("0", "3"))
    largest = {**OPTIONS, "strengths": ("rms", "max")}
    graph = itg.interaction_graph(wide, data, ["0", "3"], time_budget=600, **largest)
    assert plan_of(graph)["method"] != "drawn_positions"


def test_what_a_time_budget_learns(monkeypatch):
    """The variance that draws add is that between draws."""
    torch.manual_seed(0)
    net, data = network(Block(causal=True)), [samples(8, 6, seed=seed) for seed in range(3)]
    learned, methods = [], []
    init = DrawnPositions.__init__

    def remember(self, context):
        init(self, context)
        methods.append(self)

    monkeypatch.setattr(DrawnPositions, "__init__", remember)
    monkeypatch.setattr(DrawnPositions, "cost", lambda self, problem: 0.0)
    draws = TimeBudget.draws
    monkeypatch.setattr(TimeBudget, "draws", lambda *args: draws(*args) and 2)
    sums = []
    for seed in range(40):
        graph = run(net, data, time_budget=600, seed=seed, strengths=("rms",))
        sums.append(graph.weights(*PAIR).square() * (24 * 6))
        learned.append(methods[-1]._of_draws * methods[-1]._n_samples / methods[-1]._n_told)
    seen = float(torch.stack(sums).var(0).sum())
    assert sum(learned) / len(learned) == pytest.approx(seen, rel=0.35)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strengths": ("rms", "max")}, "do not tell the largest one: max"),
        ({"strengths": ("rms", "exceedance")}, "do not tell the largest one: exceedance"),
        ({"sources": 2}, "leave one of the two out"),
        ({"time_budget": 2.0}, "leave one of the two out"),
        ({"engine": "reverse"}, "engine='reverse'"),
        ({"method": "ablation"}, "computes all target positions"),
        ({"freeze": (), "engine": "closed_form"}, "of 0 -> 1 cannot be drawn: no closed form"),
    ],
)
def test_where_positions_are_not_drawn(options, message):
    with pytest.raises(itg.InputError, match=message):
        run(network(Block()), [samples()], positions=2, **options)


def test_gated_perceptrons_have_no_closed_form():
    with pytest.raises(itg.InputError, match="combines different functions"):
        run(network(Gated()), [samples()], positions=2, engine="closed_form")
    graph = run(network(Gated()), [samples()], positions=2)
    assert plan_of(graph)["method"] == "drawn_positions_on_path"


def test_samples_that_drive_edges_count_with_what_was_drawn():
    """Never more than all positions of a sample contribute, as estimates of samples could be."""
    net, data = network(Block()), [samples(5, 6)]
    some, alone = run(net, data, positions=2), run(net, data, groups=list(range(5)))
    assert any("their shares count these alone" in note for note in some.metadata["notes"])
    of_sample = torch.stack([alone.groups[str(b)].weights(*PAIR).square() for b in range(5)])
    drivers = some.drivers[PAIR][0]
    targets = torch.arange(WIDTH)
    every = some.weights(*PAIR).square()[targets, drivers.partners] * 5
    for k in range(3):
        amount = drivers.shares[k] * every
        assert (amount <= of_sample[drivers.samples[k], targets, drivers.partners] + 1e-6).all()
        assert (amount > 0).all()
    whole, every = run(net, data), run(net, data, positions=6, target_error=1e-3)
    assert every.metadata["n_passes"] == 1  # nothing was left to chance
    for one, other in zip(every.drivers[PAIR], whole.drivers[PAIR], strict=True):
        assert torch.equal(one.samples, other.samples)
        torch.testing.assert_close(one.shares, other.shares)
    again = run(net, data, sources=2, engine="forward", target_error=1e-3, n_steps=32, seed=1)
    assert again.metadata["n_passes"] > 1
    for side in again.drivers[PAIR]:
        assert float(side.shares.sum(0).max()) > 0.4  # of one pass, whose samples come again


def test_a_batch_on_which_it_does_not_hold_is_computed_whole(monkeypatch):
    net, data = network(Block()), [samples(3, 6), samples(3, 6, seed=2)]
    exact = run(net, data)
    factors = DrawnPositions.factors

    def wrong(self, problem):
        found, slopes, problem = factors(self, problem)
        found.before[0].mul_(1.01)
        return found, slopes, problem

    monkeypatch.setattr(DrawnPositions, "factors", wrong)
    with pytest.warns(itg.InteractGraphWarning, match="factored_maps"):
        graph = run(net, data, positions=2, engine="closed_form")
    torch.testing.assert_close(graph.weights(*PAIR), exact.weights(*PAIR))
    # Other ways to draw positions come first.
    with pytest.warns(itg.InteractGraphWarning, match="drawn_positions_on_path"):
        graph = run(net, data, positions=6)
    torch.testing.assert_close(graph.weights(*PAIR), exact.weights(*PAIR), rtol=1e-3, atol=1e-5)


def test_another_way_to_draw_positions_is_timed_by_itself(monkeypatch):
    """Seconds of a draw in the closed form say nothing of what one costs elsewhere."""
    net = network(Block())
    data = [samples(8, 6, seed=seed) for seed in range(3)]
    monkeypatch.setattr(DrawnPositions, "cost", lambda self, problem: 0.0)
    contributions, draws, told = DrawnPositions.contributions, TimeBudget.draws, []

    def later_not(self, problem, *args):
        if self._n_samples >= 8:
            raise DoesNotApply("it was enough")
        return contributions(self, problem, *args)

    def listen(self, pair, n_samples, n_features, a, b, *rest):
        told.append(b)
        return draws(self, pair, n_samples, n_features, a, b, *rest)

    monkeypatch.setattr(DrawnPositions, "contributions", later_not)
    monkeypatch.setattr(TimeBudget, "draws", listen)
    with pytest.warns(itg.InteractGraphWarning, match="drawn_positions_on_path"):
        run(net, data, time_budget=60)
    assert sum(b > 0 for b in told) == 2
