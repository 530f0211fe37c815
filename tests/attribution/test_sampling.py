"""Drawn source features: little bias, the right standard errors; path nodes by tolerance."""

import networks
import numpy as np
import pytest
import torch
from torch import nn

import interactgraph as itg
from interactgraph import InteractGraphError
from interactgraph.attribution import planner
from interactgraph.attribution.methods import DoesNotApply
from interactgraph.attribution.methods.closed_passes import SampledClosedColumns
from interactgraph.attribution.methods.factored_maps import FactoredMaps
from interactgraph.attribution.strengths import check_strengths
from interactgraph.attribution.sums.strength_sums import StrengthSums

ALL = ("rms", "mean_abs", "mean", "max")


def net():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 9), nn.GELU(), nn.LayerNorm(9), nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 4)
    )
    return model.double(), torch.randn(400, 6, dtype=torch.float64)


def run(model, x, **options):
    return itg.interaction_graph(
        model, list(x.split(50)), ["0", "5"], engine="forward", n_steps=2, tolerance=None,
        progress=False, strengths=ALL, **options,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ["importance", "uniform"])
@pytest.mark.parametrize("sources", [1, 3])
def test_little_bias_over_seeds_and_errors_cover(sampling, sources):
    model, x = net()
    exact = run(model, x)
    draws = [run(model, x, sources=sources, sampling=sampling, seed=s) for s in range(60)]
    assert draws[0].metadata["plans"][0]["method"] == "sampled_columns"
    for name in ("mean", "mean_abs"):
        found = torch.stack([g.weights("0", "5", name) for g in draws])
        true = exact.weights("0", "5", name)
        off = (found.mean(0) - true) / found.std(0)
        assert float(off.abs().mean()) < 0.2  # the bias, in spreads of one run
    squares = torch.stack([g.weights("0", "5", "rms").square() for g in draws])
    true = exact.weights("0", "5", "rms").square()
    off = (squares.mean(0) - true) / squares.std(0)
    assert float(off.abs().mean()) < 0.2
    # Standard errors are those of the whole estimate, data and draws together; against the exact
    # value on the same data, which has the error of the data too, they are never too small.
    error = torch.stack([g.standard_error("0", "5", "mean") for g in draws])
    deviation = torch.stack([g.weights("0", "5", "mean") for g in draws]) - exact.weights(
        "0", "5", "mean"
    )
    covered = float((deviation.abs() <= 2 * error).double().mean())
    assert 0.93 <= covered <= 1.0
    # The part of the draws alone is the right one.
    of_draws = error.square() - exact.standard_error("0", "5", "mean").square()
    assert 0.6 < float(deviation.square().mean() / of_draws.mean()) < 1.25


def test_all_that_are_drawn_are_exact():
    """Near to as many draws as features, the error of the draws goes to zero."""
    model, x = net()
    exact = run(model, x)
    few, most = (run(model, x, sources=k) for k in (3, 8))
    assert exact.n_features["0"] == 9
    for name in ("rms", "mean"):
        true = exact.weights("0", "5", name)
        off = [float((g.weights("0", "5", name) - true).norm() / true.norm()) for g in (few, most)]
        assert off[1] < 0.2 * off[0]
        errors = [g.standard_error("0", "5", name) for g in (exact, most)]
        assert float(errors[1].norm() / errors[0].norm()) < 1.05


def test_largest_is_a_lower_bound():
    model, x = net()
    exact, drawn = run(model, x), run(model, x, sources=2)
    assert (drawn.weights("0", "5", "max") <= exact.weights("0", "5", "max") + 1e-12).all()


def test_importance_beats_uniform_where_features_differ():
    model, x = net()
    model[3].weight.data[:, :7] *= 0.05
    exact = run(model, x).weights("0", "5")

    def miss(sampling):
        drawn = [run(model, x, sources=1, sampling=sampling, seed=s) for s in range(8)]
        return np.mean([float((g.weights("0", "5") - exact).norm()) for g in drawn])

    assert miss("importance") < miss("uniform")


def test_one_seed_decides_everything():
    model, x = net()
    a, b, c = (run(model, x, sources=1, seed=s).weights("0", "5") for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_sequences_with_masks_have_little_bias_too():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), networks.Block(6)).double()
    x = torch.randn(60, 5, 4, dtype=torch.float64)
    keep = torch.arange(5) < torch.randint(1, 6, (60, 1))
    data = [(x, keep)]
    options = {
        "strengths": ("mean",), "n_steps": 2, "tolerance": None, "engine": "forward",
        "progress": False,
        "position_mask": lambda batch: batch[1],
    }  # fmt: skip
    exact = itg.interaction_graph(model, data, ["0", "1"], **options).weights("0", "1")
    drawn = [
        itg.interaction_graph(model, data, ["0", "1"], sources=2, seed=s, **options)
        for s in range(30)
    ]
    found = torch.stack([g.weights("0", "1") for g in drawn])
    off = (found.mean(0) - exact) / found.std(0)
    assert float(off.abs().mean()) < 0.25


def test_exact_closed_form_is_taken_where_it_costs_less():
    case = networks.make("mlp")
    graph = itg.interaction_graph(
        case.model,
        case.batches,
        ["input", "1"],
        sources=1,
        progress=False,
        n_steps=8,
        tolerance=None,
    )
    assert graph.metadata["plans"][0]["engine"] == "closed_form"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"sources": 0}, "sources=0"),
        ({"sources": 1, "engine": "reverse"}, "engine='reverse' does not"),
        ({"sampling": "signs"}, "needs a number of probes"),
        ({"sampling": "signs", "sources": 1, "strengths": ("mean", "rms")}, "nothing else"),
        ({"sampling": "signs", "sources": 1, "engine": "forward"}, "nothing else"),
        ({"target_error": 2}, "between 0 and 1"),
        ({"target_error": 0.1, "strengths": ("max",)}, "not 'max'"),
        ({"sampling": "magic"}, "sampling='magic' is unknown"),
        ({"tolerance": 0.0}, "tolerance=0.0"),
    ],
)
def test_options(options, match):
    model, x = net()
    with pytest.raises(InteractGraphError, match=match):
        itg.interaction_graph(model, x, ["0", "5"], progress=False, **options)


def test_tolerance_takes_as_many_nodes_as_it_needs():
    model, x = net()
    options = {"progress": False, "baseline": torch.ones(9)}
    coarse = itg.interaction_graph(
        model, [x], ["0", "5"], engine="forward", n_steps=1, tolerance=None, **options
    )
    assert coarse.completeness["0", "5"] > 1e-4
    for engine in ("forward", "reverse"):
        nodes = []
        for tolerance in (0.02, 1e-3, 1e-5):
            fine = itg.interaction_graph(
                model, [x], ["0", "5"], engine=engine, tolerance=tolerance, **options
            )
            assert fine.completeness["0", "5"] <= tolerance
            assert fine.metadata["notes"] == []
            nodes.append(fine.metadata["plans"][0]["n_steps_used"])
        assert nodes[0] < nodes[1] < nodes[2] <= 64


def test_tolerance_that_cannot_be_reached_is_reported():
    _, x = net()
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU()).double()
    graph = itg.interaction_graph(
        model, [x[:5]], ["0", "3"], engine="reverse", tolerance=1e-13, n_steps=40, progress=False
    )
    assert "above tolerance=1e-13, with 40 of at most n_steps=40" in graph.metadata["notes"][0]


@pytest.mark.parametrize("name", ["transformer", "mlp", "two_inputs"])
def test_signs_are_unbiased_with_right_errors(name):
    case = networks.make(name)
    options = {"engine": "reverse", "progress": False, "n_steps": 2, "tolerance": None}
    layers = [case.source, case.target]
    exact = itg.interaction_graph(case.model, case.batches, layers, **options).weights(*layers)
    draws = [
        itg.interaction_graph(
            case.model, case.batches, layers, sources=2, sampling="signs", seed=seed, **options
        )
        for seed in range(120)
    ]
    assert draws[0].metadata["plans"][0]["method"] == "rademacher_rows"
    found = torch.stack([g.weights(*layers) for g in draws])
    found, exact = found.square(), exact.square()
    off = (found.mean(0) - exact) / (found.std(0) / len(draws) ** 0.5 + 1e-12)
    assert float(off[exact.abs() > 1e-9].abs().mean()) < 1.2
    assert float(off.abs().max()) < 5


def test_signs_over_positions_cost_one_pass_for_each_target():
    case = networks.make("transformer")
    graph = itg.interaction_graph(
        case.model, case.batches, [case.source, case.target], engine="reverse", sources=1,
        sampling="signs", progress=False, n_steps=2, tolerance=None,
    )  # fmt: skip
    costs = graph.metadata["plans"][0]["costs"]
    assert costs["reverse (rademacher_rows)"] == 2 * (6 * 2 + 1)


def test_target_error_goes_on_over_the_data():
    model, x = net()
    options = {"engine": "forward", "n_steps": 1, "tolerance": None, "progress": False}

    def worst(graph):
        strength, error = (f("0", "5").flatten() for f in (graph.weights, graph.standard_error))
        top = strength.topk(min(100, len(strength))).indices
        return float((error[top] / strength[top]).max())

    once = itg.interaction_graph(model, x.split(8), ["0", "5"], sources=1, **options)
    least = worst(itg.interaction_graph(model, x.split(8), ["0", "5"], **options))
    target = (worst(once) + least) / 2
    more = itg.interaction_graph(
        model, x.split(8), ["0", "5"], sources=1, target_error=target, **options
    )
    assert more.metadata["n_passes"] > 1
    assert more.metadata["n_samples"] == len(x)
    assert not any("target_error" in note for note in more.metadata["notes"])
    assert least < worst(more) < target < worst(once)


@pytest.mark.parametrize("n_passes", [2, 30])
def test_error_of_several_passes_is_that_of_the_samples_and_the_draws(n_passes):
    generator = torch.Generator().manual_seed(0)
    n, trials = 80, 400  # every column is a trial of its own
    pairs = (
        torch.tensor([[1.0], [1.5]]),
        torch.tensor([[1.0], [1.0]]),
    )  # spreads of samples, draws
    strengths = check_strengths("mean")
    parts = [StrengthSums(strengths, (2, trials), torch.device("cpu")) for _ in range(2)]
    samples = 5 + torch.randn(n, 2, trials, generator=generator) * pairs[0]
    for number in range(1, n_passes + 1):
        drawn = samples + torch.randn(samples.shape, generator=generator) * pairs[1]
        for part, some in zip(parts, drawn.split(50), strict=True):
            positions = torch.ones(len(some), dtype=torch.int64)
            part.count(positions)
            part.add({"mean": some}, positions)
            part.end_pass(number)
    sums = StrengthSums.merged(parts)
    spread_of_trials = sums.strength("mean").var(1)
    found = (sums.standard_error("mean") ** 2).mean(1)
    left = (sums.standard_error("mean", of_draws=False) ** 2).mean(1)
    # With two passes the share of the draws is hardly known; then the error is rather too large.
    above = 1.15 if n_passes == 30 else 1.5
    for row, (a, b) in enumerate(zip(*pairs, strict=True)):
        expected = float(a**2 + b**2 / n_passes) / n
        assert 0.85 * expected < float(found[row]) < above * expected
        assert 0.8 < float(spread_of_trials[row]) / expected < 1.2
        assert float(left[row]) <= float(found[row])


def test_target_error_ends_an_exact_run_early_and_says_so():
    model, x = net()
    data = torch.cat([x] * 40).split(8)
    graph = itg.interaction_graph(
        model,
        data,
        ["0", "5"],
        engine="forward",
        n_steps=1,
        tolerance=None,
        target_error=0.2,
        progress=False,
    )
    assert graph.metadata["n_batches"] < len(data)
    assert any("the rest was not read" in note for note in graph.notes)
    short = itg.interaction_graph(
        model,
        data[:1],
        ["0", "5"],
        engine="forward",
        n_steps=1,
        tolerance=None,
        target_error=1e-4,
        progress=False,
    )
    assert any("above target_error=0.0001" in note for note in short.notes)


def wide():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(60, 20), nn.LayerNorm(20), nn.GELU(), nn.Linear(20, 5))
    return model.double(), torch.randn(64, 60, dtype=torch.float64).relu()


def drawn(model, x, **options):
    return itg.interaction_graph(
        model, list(x.split(16)), ["input", "3"], engine="forward", method="gradient",
        progress=False, **options,
    )  # fmt: skip


def test_what_was_never_drawn_is_unknown():
    """16 draws among 60 features: the others are 0 with an infinite error, not 0 +- 0."""
    model, x = wide()
    exact, graph = drawn(model, x[:16]), drawn(model, x[:16], sources=1)
    weights, error = graph.weights("input", "3"), graph.standard_error("input", "3")
    unknown = error.isinf().all(0)
    assert 60 - 16 <= int(unknown.sum()) < 60
    assert not weights[:, unknown].any()
    assert not ((weights == 0) & (error == 0) & (exact.weights("input", "3") != 0)).any()
    (note,) = graph.notes
    assert f"{int(unknown.sum())} of 60 source features were never drawn" in note


def test_a_largest_value_alone_says_what_was_never_drawn():
    model, x = wide()
    graph = drawn(model, x[:16], sources=1, strengths=("max",))
    assert any("of 60 source features were never drawn" in note for note in graph.notes)


def test_a_share_of_which_no_draw_was_part_is_not_known_to_be_zero():
    model, x = wide()
    exact = drawn(model, x, strengths=("exceedance",)).weights("input", "3")
    covered = []
    for seed in range(20):
        graph = drawn(model, x, strengths=("exceedance",), sources=8, seed=seed)
        weights, error = graph.weights("input", "3"), graph.standard_error("input", "3")
        assert not ((weights == 0) & (error == 0) & (exact != 0)).any()
        covered.append(float(((weights - exact).abs() <= 2 * error).double().mean()))
    assert sum(covered) / 20 > 0.92


def test_a_feature_that_never_moves_is_known_to_be_zero():
    model, x = wide()
    x[:, 7] = 0
    graph = drawn(model, x, sources=4)
    assert not graph.weights("input", "3")[:, 7].any()
    assert not graph.standard_error("input", "3")[:, 7].any()


@pytest.mark.parametrize("sampling", ["importance", "uniform"])
def test_every_feature_is_drawn_where_there_are_draws_enough(sampling):
    model, x = wide()
    x[:, 30:] *= 1e-3  # whose worth alone would never have them drawn
    graph = drawn(model, x, sources=4, sampling=sampling)
    assert graph.standard_error("input", "3").isfinite().all()
    assert not graph.notes


def test_as_many_draws_as_features_are_the_exact_run():
    model, x = wide()
    exact = drawn(model, x)
    for sources in (60, 100):
        graph = drawn(model, x, sources=sources)
        assert torch.equal(graph.weights("input", "3"), exact.weights("input", "3"))
        assert graph.metadata["plans"][0]["method"] == "columns"


@pytest.mark.slow
@pytest.mark.parametrize(("n", "sources"), [(16, 4), (64, 4), (64, 16)])
def test_errors_of_few_draws_cover(n, sources):
    model, x = wide()
    names = ("rms", "mean_abs", "mean")
    exact = drawn(model, x[:n], strengths=names)
    covered = dict.fromkeys(names, 0.0)
    for seed in range(60):
        graph = drawn(model, x[:n], strengths=names, sources=sources, seed=seed)
        for name in names:
            off = (graph.weights("input", "3", name) - exact.weights("input", "3", name)).abs()
            within = off <= 2 * graph.standard_error("input", "3", name)
            covered[name] += float(within.double().mean()) / 60
    assert min(covered.values()) > 0.92


def frozen_block(n=40, width=6):
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(width, 2, 12, activation="gelu", batch_first=True)
    net = nn.Sequential(nn.Linear(width, width), block).double()
    return net, torch.randn(n, 4, width, generator=torch.Generator().manual_seed(1)).double()


@pytest.fixture
def passes_alone(monkeypatch):
    """Leaves out factors of positions and features, which cost less than draws of so few."""
    others = tuple(each for each in planner.METHODS if not issubclass(each, FactoredMaps))
    monkeypatch.setattr(planner, "METHODS", others)


def test_an_exact_closed_form_that_costs_less_is_taken_in_the_place_of_draws():
    net, x = frozen_block()
    options = {"freeze": ("attention", "layernorm"), "progress": False}
    exact = itg.interaction_graph(net, x.split(16), ["0", "1"], **options)
    graph = itg.interaction_graph(net, x.split(16), ["0", "1"], sources=5, **options)
    assert graph.metadata["plans"][0]["method"] == "factored_maps"
    assert torch.equal(graph.weights("0", "1"), exact.weights("0", "1"))


@pytest.mark.usefixtures("passes_alone")
def test_drawn_columns_of_a_closed_form():
    """The same draws as in forward mode, whose nodes approach what the secants are exactly."""
    net, x = frozen_block()
    options = {"freeze": ("attention", "layernorm"), "sources": 2, "progress": False}
    graph = itg.interaction_graph(net, x.split(16), ["0", "1"], **options)
    assert graph.metadata["plans"][0]["method"] == "sampled_closed_columns"
    forward = itg.interaction_graph(
        net, x.split(16), ["0", "1"], engine="forward", tolerance=1e-10, n_steps=128, **options
    )
    assert forward.metadata["plans"][0]["method"] == "sampled_columns"
    for what in (itg.InteractionGraph.weights, itg.InteractionGraph.standard_error):
        torch.testing.assert_close(
            what(graph, "0", "1"), what(forward, "0", "1"), rtol=1e-7, atol=1e-9
        )
    asked = itg.interaction_graph(net, x.split(16), ["0", "1"], engine="closed_form", **options)
    assert torch.equal(asked.weights("0", "1"), graph.weights("0", "1"))
    with pytest.raises(itg.InteractGraphError, match="engine='closed_form' is not possible"):
        itg.interaction_graph(net, [x], ["0", "1"], engine="closed_form", sources=2, progress=False)


@pytest.mark.usefixtures("passes_alone")
def test_where_a_closed_form_fails_columns_are_drawn_all_the_same(monkeypatch):
    """Exact batches beside drawn ones would be taken for drawn ones, whose estimate completes."""
    net, x = frozen_block(80)
    plain, calls = SampledClosedColumns.affine_function, []

    def moody(self, problem):
        calls.append(1)
        if len(calls) > 3:
            raise DoesNotApply("it holds no longer")
        return plain(self, problem)

    monkeypatch.setattr(SampledClosedColumns, "affine_function", moody)
    options = {"freeze": ("attention", "layernorm"), "progress": False}
    exact = itg.interaction_graph(net, [x], ["0", "1"], **options)
    graph = itg.interaction_graph(net, x.split(8), ["0", "1"], sources=3, **options)
    assert any("sampled_columns where the planned closed form" in note for note in graph.notes)
    off = (graph.weights("0", "1") - exact.weights("0", "1")).norm()
    assert float(off / exact.weights("0", "1").norm()) < 0.1


@pytest.mark.usefixtures("passes_alone")
def test_a_time_budget_draws_from_a_closed_form():
    net, x = frozen_block(100, 16)
    options = {"freeze": ("attention", "layernorm"), "progress": False}
    exact = itg.interaction_graph(net, [x], ["0", "1"], **options)
    graph = itg.interaction_graph(net, [x], ["0", "1"], time_budget=20, **options)
    plan = graph.metadata["plans"][0]
    assert plan["method"] == "sampled_closed_columns"
    assert plan["sources_per_sample"] == 16
    torch.testing.assert_close(graph.weights("0", "1"), exact.weights("0", "1"))


def test_draws_that_do_not_fit_into_memory_together():
    """Few passes at a time: the same draws, whose sums differ by rounding."""
    net, x = frozen_block(64, 16)
    options = {"sources": 9, "progress": False}
    whole = itg.interaction_graph(net, [x], ["0", "1"], **options)
    parts = itg.interaction_graph(net, [x], ["0", "1"], memory_budget=3 << 20, **options)
    for what in (itg.InteractionGraph.weights, itg.InteractionGraph.standard_error):
        torch.testing.assert_close(what(parts, "0", "1"), what(whole, "0", "1"))
