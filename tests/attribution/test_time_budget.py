"""`time_budget`: what is drawn in the time there is, and when a run ends."""

import time
from types import SimpleNamespace

import networks
import pytest
import torch
from torch import nn

import interactgraph as itg
from interactgraph import InteractGraphError
from interactgraph.attribution import time_budget as module
from interactgraph.attribution.methods import differentiating
from interactgraph.attribution.methods.nodes_in_time import NodesInTime
from interactgraph.attribution.methods.sampled_columns import SampledColumns
from interactgraph.attribution.path_nodes import nodes_for
from interactgraph.attribution.time_budget import TimeBudget


def net():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 20), nn.GELU(), nn.LayerNorm(20), nn.Linear(20, 8), nn.Tanh(), nn.Linear(8, 12)
    )
    return model.double(), list(torch.randn(40, 6, dtype=torch.float64).split(8))


def run(**options):
    model, data = net()
    return itg.interaction_graph(model, data, ["0", "5"], progress=False, **options)


def test_all_of_all_where_there_is_time():
    options = {"tolerance": 1e-9, "n_steps": 256}
    exact, found = run(engine="forward", **options), run(time_budget=600, **options)
    (plan,) = found.metadata["plans"]
    assert plan["sources_per_sample"] == 20
    torch.testing.assert_close(found.weights("0", "5"), exact.weights("0", "5"))
    torch.testing.assert_close(
        found.standard_error("0", "5"), exact.standard_error("0", "5"), rtol=0.03, atol=0
    )
    assert not found.notes


@pytest.mark.parametrize("drawn", [0.0, 0.01, 500.0])
def test_as_many_nodes_as_draws_can_tell_apart(drawn, monkeypatch):
    """Of the rules that were tried, that of the smallest error of integral and draws together."""

    def learn(self, pair, *parts):
        self.errors[pair] = self.drawn_errors[pair] = drawn

    monkeypatch.setattr(TimeBudget, "learn", learn)
    monkeypatch.setattr(NodesInTime, "looks_again", property(lambda self: False))
    tried = []
    monkeypatch.setattr(
        differentiating, "nodes_for", lambda *args: tried.append(nodes_for(*args)) or tried[-1]
    )
    found = run(time_budget=600, tolerance=1e-6, n_steps=256)
    ((rule, _, steps),) = tried
    n = len(rule.nodes)
    best = min(steps, key=lambda step: 4 * step[1] ** 2 + drawn**2 * len(step[0].nodes) / n)
    used = found.metadata["plans"][0]["n_steps_used"]
    assert used == len(best[0].nodes)
    assert (used == n) == (drawn == 0)
    assert (used == 4) == (drawn == 500)
    assert any("the path integral is off" in note for note in found.notes) == (drawn > 0)


def test_nodes_that_were_broken_off_replace_none(monkeypatch):
    monkeypatch.setattr(TimeBudget, "learn", lambda *args: None)
    monkeypatch.setattr(NodesInTime, "looks_again", property(lambda self: True))
    monkeypatch.setattr(NodesInTime, "time_left", lambda self: self.n_batches_seen < 2)
    found = run(time_budget=600, tolerance=1e-3)
    assert found.metadata["plans"][0]["n_steps_used"] > 4
    assert found.completeness["0", "5"] < 0.01
    assert not found.notes


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(module.time, "perf_counter", lambda: self.now)


def test_a_run_ends_in_time(monkeypatch):
    """Two pairs, 80 samples, two of them first; 1 s for a sample, 0.1 or 0.4 s for a draw."""
    a, b = 1.0, {"p": 0.1, "q": 0.4}
    for seconds in (100.0, 400.0, 2000.0):
        clock = Clock(monkeypatch)
        budget = TimeBudget(seconds, 0.0, pairs=[("p", "x"), ("q", "x")])
        drawn = {"p": [], "q": []}
        for n in (2, 6, *[8] * 9):
            if not budget.begins(n, 80 - budget.n_read - n):
                break
            for pair in budget.pairs:
                ks, price = drawn[pair[0]], b[pair[0]]
                clock.now += n * a
                k = budget.draws(pair, n, 100, a, 0 if ks else price)
                clock.now += n * k * price
                budget.spent(pair, n, k, n * a, n * k * price)
                ks.append(k)
            budget.n_read += n
        assert clock.now <= 1.1 * seconds
        assert clock.now >= 0.8 * seconds
        mean = {pair: sum(ks) / len(ks) for pair, ks in drawn.items()}
        if seconds == 2000:
            assert not budget.ended
            # Equal variances: as one over the square root of the price.
            assert mean["p"] / mean["q"] == pytest.approx(2, rel=0.25)
        else:
            # Fewer samples, with the draws that are best whatever the time; few of the first.
            assert budget.ended
            assert drawn["p"][:2] == [16, int((100 * a / b["p"]) ** 0.5)]


def test_pieces_grow_until_they_take_a_tenth_of_the_time(monkeypatch):
    Clock(monkeypatch)
    assert TimeBudget().most_samples > 1 << 60
    pair = ("p", "x")
    budget = TimeBudget(100.0, 0.0, pairs=[pair])
    assert budget.most_samples == 2
    budget.draws(pair, 2, 100, 0.1, 0.01)
    budget.spent(pair, 2, 10, 0.2, 0.2)
    budget.n_read = 2
    assert budget.most_samples == 8
    budget.n_read = 16
    assert budget.most_samples == 50  # of 0.2 s each
    budget.others = 16 * 9.8
    assert budget.most_samples == 1


def test_parts_of_the_variance_decide_how_many_are_drawn(monkeypatch):
    Clock(monkeypatch)
    pair = ("p", "x")
    budget = TimeBudget(1000.0, 0.0, pairs=[pair])
    assert budget.begins(1, 1e9)
    budget.draws(pair, 1, 1000, 2.0, 0.5)
    budget.spent(pair, 1, 10, 2.0, 5.0)
    unknown = int((1000 * 2.0 / 0.5) ** 0.5)
    assert budget.draws(pair, 1, 1000, 2.0, 0) == unknown
    budget.learn(pair, between=3.0, of_draws=6.0, size=1.0)  # of one sample, which tells nothing
    assert budget.draws(pair, 1, 1000, 2.0, 0) == unknown
    budget.spent(pair, 7, 10, 14.0, 35.0)
    budget.learn(pair, between=1e-9, of_draws=6.0, size=1.0)  # V lost in rounding
    assert budget.draws(pair, 1, 1000, 2.0, 0) == unknown
    budget.learn(pair, between=3.0, of_draws=6.0, size=1.0)  # D = 60, V = 3
    assert budget.draws(pair, 1, 1000, 2.0, 0) == int((60 / 3 * 2.0 / 0.5) ** 0.5)
    # Not knowing how much data there is changes nothing where not all can be read anyway.
    assert budget.begins(1, None)
    assert budget.draws(pair, 1, 1000, 2.0, 0) == int((60 / 3 * 2.0 / 0.5) ** 0.5)
    # A resumed run goes on with what is left of the time and what was learned.
    again = TimeBudget(1000.0, 0.0, pairs=[pair])
    again.restore([100.0, *budget.state()[1:]])
    assert again.left == budget.left - 100
    assert again.begins(1, None)
    assert again.draws(pair, 1, 1000, 2.0, 0) == budget.draws(pair, 1, 1000, 2.0, 0)


def test_what_a_draw_costs_is_what_the_latest_ones_did():
    pair = ("p", "x")
    budget = TimeBudget(1000.0, 0.0, pairs=[pair])
    budget.draws(pair, 1, 1000, 2.0, 0.5)
    budget.spent(pair, 2, 10, 2.0, 20.0)
    assert budget.costs[pair].b == 1.0
    budget.spent(pair, 2, 10, 2.0, 60.0)  # twice as many path nodes and more
    assert budget.costs[pair].b == 2.0
    budget.spent(pair, 2, 10, 2.0, 60.0)
    assert budget.costs[pair].b == 2.5


def test_longer_samples_cost_more_and_get_fewer_draws(monkeypatch):
    Clock(monkeypatch)
    pair = ("p", "x")
    budget = TimeBudget(1000.0, 0.0, pairs=[pair])
    assert budget.begins(10, 90.0)
    budget.draws(pair, 10, 1000, 0.0, 0.1)
    budget.spent(pair, 10, 16, 0.0, 16.0, 10)  # 0.01 s for each position
    assert budget.begins(10, 80.0)
    usual = budget.draws(pair, 10, 1000, 0.0, 0, 10)
    # What is left for 90 samples at 0.1 s a draw.
    assert usual == pytest.approx(budget.left / 90 / 0.1, abs=1)
    longer = budget.draws(pair, 10, 1000, 0.0, 0, 40)
    # k as 1 / sqrt(b), so that a sample of four times the length takes twice the time.
    assert longer == pytest.approx(2 * budget.left / (10 * 2 + 80) / 0.4, abs=1)


def test_nodes_are_as_good_as_the_draws_beside_them():
    budget = TimeBudget(1000.0, 0.0)
    context = SimpleNamespace(
        options=SimpleNamespace(tolerance=0.02), budget=budget, pair=("p", "x")
    )
    method = SampledColumns.__new__(SampledColumns)
    method.context = context
    assert method.tolerance == 0.02
    budget.errors["p", "x"] = 0.3
    assert method.tolerance == pytest.approx(0.1)
    budget.errors["p", "x"] = 0.01
    assert method.tolerance == 0.02
    context.options.tolerance = None
    assert method.tolerance is None


def test_one_large_batch_is_as_good_as_many_small_ones():
    model, _ = net()
    x = torch.randn(200_000, 6, dtype=torch.float64)
    options = {"progress": False, "engine": "forward"}
    itg.interaction_graph(model, [x[:8]], ["0", "5"], sources=2, **options)  # torch's imports
    graph = itg.interaction_graph(model, [x], ["0", "5"], time_budget=1.0, **options)
    assert 2 < graph.metadata["n_samples"] < 200_000  # more than the first piece, however slow
    assert any("time_budget=1 s ended the run" in note for note in graph.notes)


def test_data_that_do_not_say_how_many_they_are_are_read_no_more_than_needed():
    class Stream:
        n_read = 0

        def __iter__(self):
            while True:
                self.n_read += 1
                yield torch.randn(8, 6, dtype=torch.float64)

    model, _ = net()
    data = Stream()
    graph = itg.interaction_graph(model, data, ["0", "5"], progress=False, time_budget=1.0)
    assert 0 < 8 * data.n_read - graph.metadata["n_samples"] <= 24
    assert any("ended the run" in note for note in graph.notes)


def test_a_real_run_ends_in_time_and_says_so():
    model, _ = net()
    data = list(torch.randn(4000, 6, dtype=torch.float64).split(8))
    started = time.perf_counter()
    graph = itg.interaction_graph(model, data, ["0", "5"], progress=False, time_budget=1.0)
    assert time.perf_counter() - started < 30  # it ends at all; how near is the fake clock's test
    assert graph.metadata["n_samples"] < 4000
    assert any("time_budget=1 s ended the run" in note for note in graph.notes)
    assert bool((graph.standard_error("0", "5") >= 0).all())


def test_rows_where_they_cost_less():
    """784 pixels, say, to a few classes: exact on what is read, and the run ends in time."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 60), nn.LayerNorm(60), nn.Tanh(), nn.Linear(60, 2))
    data = list(torch.randn(8000, 4).split(8))
    graph = itg.interaction_graph(model, data, ["0", "3"], progress=False, time_budget=0.5)
    (plan,) = graph.metadata["plans"]
    assert (plan["method"], plan["positions_per_sample"]) == ("drawn_positions_on_path", 1)
    assert graph.metadata["n_samples"] < 8000
    assert any("ended the run" in note for note in graph.notes)


def test_closed_forms_stay_exact():
    case, layers = networks.make("mlp"), ["input", "1", "3"]
    options = {"progress": False}
    exact = itg.interaction_graph(case.model, case.batches, layers, **options)
    found = itg.interaction_graph(case.model, case.batches, layers, time_budget=60, **options)
    assert {plan["engine"] for plan in found.metadata["plans"]} >= {"closed_form"}
    for pair in exact.pairs:
        torch.testing.assert_close(found.weights(*pair), exact.weights(*pair))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"sources": 2}, "leave one of the two out"),
        ({"engine": "reverse"}, "which engine='reverse'"),
        ({"target_error": 0.1}, "both say when a run ends"),
        ({"strengths": ("max",)}, "not 'max'"),
        ({"method": "ablation"}, "time_budget and tolerance do not apply"),
        ({"method": "baseline_gradient", "time_budget": -1}, "time_budget=-1"),
    ],
)
def test_options(options, match):
    with pytest.raises(InteractGraphError, match=match):
        run(**{"time_budget": 5, **options})


@pytest.mark.parametrize(
    ("text", "value"), [("90", 90), ("45s", 45), ("10min", 600), ("1.5h", 5400), ("2 m", 120)]
)
def test_times_on_the_command_line(text, value):
    from interactgraph.cli.options import seconds

    assert seconds(text) == value
