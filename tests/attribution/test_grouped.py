"""Groups and folds of samples, kept apart in one pass, against runs on their samples alone."""

import networks
import pytest
import torch

import interactgraph as itg
from interactgraph import InteractGraphError
from interactgraph.communities import mean_graph

ALL = ("rms", "mean_abs", "mean", "max")
LABELS = [0, 1, 1, 0, 2, 1]


def run(case, batches, **options):
    return itg.interaction_graph(
        case.model, batches, [case.source, case.target], strengths=ALL, progress=False, **options
    )


def check(found, expected):
    for pair in expected.pairs:
        for name in ALL:
            torch.testing.assert_close(
                found.weights(*pair, name), expected.weights(*pair, name), rtol=1e-9, atol=1e-15
            )
            if name != "max":
                torch.testing.assert_close(
                    found.standard_error(*pair, name), expected.standard_error(*pair, name),
                    rtol=1e-5, atol=1e-9,
                )  # fmt: skip


@pytest.mark.parametrize("engine", ["closed_form", "forward", "reverse"])
@pytest.mark.parametrize("pair", [("input", "1"), ("1", "4"), ("input", "4")])
def test_groups_are_runs_on_their_samples(engine, pair):
    case = networks.make("mlp")
    case.source, case.target = pair
    if pair == ("input", "4") and engine == "closed_form":
        pytest.skip("two pointwise functions have no closed form")
    x = torch.cat(case.batches)
    found = run(case, x.split(4), engine=engine, groups=LABELS, folds=2)
    check(found, run(case, x.split(4), engine=engine))
    assert list(found.groups) == ["0", "1", "2"]
    for name, graph in found.groups.items():
        own = x[torch.tensor(LABELS) == int(name)]
        check(graph, run(case, [own], engine=engine)) if len(own) > 1 else None
        assert graph.metadata["n_samples"] == len(own)
        assert graph.metadata["group"] == name
    for fold, graph in enumerate(found.folds):
        check(graph, run(case, [x[fold::2]], engine=engine))


@pytest.mark.parametrize("method", ["ablation", "shapley"])
def test_perturbation_keeps_groups_too(method):
    case = networks.make("mlp")
    x = torch.cat(case.batches)
    found = run(
        case, [x], method=method, groups=lambda batch: batch[:, 0] > 0, n_steps=2, tolerance=None
    )
    assert set(found.groups) == {"False", "True"}
    n = [g.metadata["n_samples"] for g in found.groups.values()]
    square = [g.weights("input", "4", "rms").square() for g in found.groups.values()]
    mixed = (n[0] * square[0] + n[1] * square[1]) / sum(n)
    torch.testing.assert_close(mixed.sqrt(), found.weights("input", "4", "rms"))


def test_groups_of_sequences_with_padding():
    case = networks.make("transformer")
    x = torch.cat(case.batches)
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[1, 3:] = mask[2, 1:] = False
    batches = [{"input": x, "mask": mask, "kind": torch.tensor([0, 1, 1, 0])}]
    options = {"position_mask": "mask", "forward": lambda model, b: model(b["input"])}
    found = run(case, batches, groups="kind", **options)
    for kind, rows in ((0, [0, 3]), (1, [1, 2])):
        own = [{"input": x[rows], "mask": mask[rows]}]
        check(found.groups[str(kind)], run(case, own, **options))
    check(found, run(case, batches, **options))


def test_drawn_sources_keep_groups():
    case = networks.make("mlp")
    x = torch.cat(case.batches)
    exact = run(case, [x], engine="forward", groups=LABELS)
    drawn = [
        run(case, [x], engine="forward", sources=5, groups=LABELS, seed=seed) for seed in range(80)
    ]
    for name in exact.groups:
        squares = [graph.groups[name].weights("input", "4").square() for graph in drawn]
        a, b = torch.stack(squares).mean(0), exact.groups[name].weights("input", "4").square()
        assert float((a - b).norm() / b.norm()) < 0.2
    whole = run(case, [x], engine="forward", sources=6, groups=LABELS)
    assert torch.equal(whole.weights("input", "4"), exact.weights("input", "4"))


def test_groups_survive_the_file_and_pruning(tmp_path):
    case = networks.make("mlp")
    graph = run(case, [torch.cat(case.batches)], groups=LABELS, folds=3).prune(top_k=5)
    graph.save(tmp_path / "g.safetensors")
    again = itg.load(tmp_path / "g.safetensors")
    assert list(again.groups) == list(graph.groups)
    assert len(again.folds) == 3
    for one, other in zip(
        [*graph.groups.values(), *graph.folds], [*again.groups.values(), *again.folds], strict=True
    ):
        assert dict(one.metadata) == dict(other.metadata)
        assert int((other.weights("input", "4", "max") != 0).sum()) <= 5
        for name in ALL:
            assert torch.equal(one.weights("input", "4", name), other.weights("input", "4", name))


def test_difference_finds_the_edge_that_only_one_group_uses():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
    x = torch.rand(200, 4)
    x[::2, 2] = 0
    graph = itg.interaction_graph(
        model, [x], ["input", "0"], groups=[n % 2 for n in range(200)], progress=False
    )
    found = itg.differences(graph.groups["0"], graph.groups["1"], top_k=3)
    assert {edge.source for edge in found} == {"input:2"}
    assert all(edge.one == 0 and edge.z < -5 for edge in found)


def test_bootstrap_takes_the_folds_of_one_pass():
    case = networks.make("mlp")
    x = torch.randn(43, 6, dtype=torch.float64)
    graph = run(case, [x], folds=5)
    partition = itg.bootstrap(graph, n_samples=4, significance=False, n_runs=2)
    # Of the whole graph, its standard errors included.
    plain = itg.find_modules(graph, significance=False, n_runs=2)
    assert partition.labels.tolist() == plain.labels.tolist()
    assert partition.quality == plain.quality
    # The folds together are the graph, whatever their sizes.
    mean = mean_graph(graph.folds)
    for pair in graph.pairs:
        torch.testing.assert_close(mean.weights(*pair), graph.weights(*pair))
    assert set(partition.confidence) == {"input", "4"}
    with pytest.raises(InteractGraphError, match="no folds"):
        itg.bootstrap(run(case, [x]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": [0, 1]}, "names 2 samples"),
        ({"groups": "kind"}, "groups='kind' is in no Tensor batch"),
        ({"groups": lambda batch: [1]}, "1 entries for 6 samples"),
        ({"folds": 1}, "at least 2"),
        ({"groups": range(6), "memory_budget": 2000}, "groups and folds .* memory budget"),
    ],
)
def test_bad_groups(options, message):
    case = networks.make("mlp")
    with pytest.raises(InteractGraphError, match=message):
        run(case, [torch.cat(case.batches)], **options)


def test_features_that_were_never_drawn_in_a_group():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(6, 40), torch.nn.GELU(), torch.nn.LayerNorm(40), torch.nn.Linear(40, 8)
    )
    graph = itg.interaction_graph(
        model, torch.randn(32, 6).split(8), ["0", "3"], sources=4, progress=False,
        groups=["common"] * 30 + ["rare"] * 2,
    )  # fmt: skip
    rare = graph.groups["rare"]
    assert bool(rare.standard_error("0", "3").isinf().any())
    assert any("were never drawn" in note for note in rare.notes)
    assert any(note.startswith("in group 'rare': 0 -> 3:") for note in graph.notes)
    assert not any("never drawn" in note for note in graph.groups["common"].notes)
