import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interactgraph import InteractGraphError
from interactgraph.graph import InteractionGraph

PAIR = ("a", "b")
ROWS = [[4.0, -3.0, 0.0], [1.0, 0.5, -2.0]]


@pytest.fixture
def small():
    mean = torch.tensor(ROWS)
    return InteractionGraph(
        layers=PAIR,
        pairs=[PAIR],
        labels={"a": "xyz", "b": "uv"},
        blocks={PAIR: {"mean": mean, "rms": mean.abs() + 1}},
        standard_errors={PAIR: {"rms": mean.abs() / 10 + 0.1}},
        metadata={"seed": 1},
    )


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ({"threshold": 2}, [[4, -3, 0], [0, 0, -2]]),
        ({"threshold": 0}, ROWS),
        ({"relative": 0.75}, [[4, -3, 0], [0, 0, 0]]),
        ({"relative": 0}, ROWS),
        ({"top_k": 3}, [[4, -3, 0], [0, 0, -2]]),
        ({"top_k": 0}, [[0, 0, 0], [0, 0, 0]]),
        ({"top_k": 100}, ROWS),
        ({"top_k_per_target": 1}, [[4, 0, 0], [0, 0, -2]]),
        ({"top_k_per_target": 9}, ROWS),
        ({"top_k_per_target": 1, "threshold": 3}, [[4, 0, 0], [0, 0, 0]]),
        ({"top_k": 2, "relative": 0.9}, [[4, 0, 0], [0, 0, 0]]),
    ],
)
def test_rules(small, rule, kept):
    pruned = small.prune(**rule)
    kept = torch.tensor(kept, dtype=torch.float32)
    assert torch.equal(pruned.weights(*PAIR, "mean"), kept)
    # Dropped edges lose all their strengths, kept ones none.
    for name, table in (("rms", small.weights), ("rms", small.standard_error)):
        before = table(*PAIR, name)
        after = (pruned.weights if table == small.weights else pruned.standard_error)(*PAIR, name)
        assert torch.equal(after, torch.where(kept != 0, before, 0))


def test_strength_that_decides(small):
    assert small.prune(3.5).weights(*PAIR, "mean").count_nonzero() == 1
    assert small.prune(3.5, strength="rms").weights(*PAIR, "mean").count_nonzero() == 2


def test_the_original_is_unchanged(small):
    small.prune(top_k=0)
    assert torch.equal(small.weights(*PAIR), torch.tensor(ROWS))


def test_history(small):
    pruned = small.prune(1).prune(top_k=2, strength="rms")
    assert pruned.metadata == {
        "seed": 1,
        "pruned": [{"threshold": 1, "strength": "mean"}, {"top_k": 2, "strength": "rms"}],
    }
    assert "pruned" not in small.metadata


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_dropped_edges_lose_values_that_are_not_finite(small, bad):
    errors = {PAIR: {"rms": torch.full((2, 3), bad)}}
    pruned = small.replace(standard_errors=errors).prune(threshold=3)
    found = pruned.standard_error(*PAIR, "rms")
    assert torch.equal(found != 0, pruned.weights(*PAIR) != 0)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 1.0, -1.0, 2.0]), min_size=12, max_size=12),
    st.integers(0, 14),
)
def test_top_k_keeps_exactly_k_also_with_ties(values, k):
    block = torch.tensor(values).reshape(3, 4)
    graph = InteractionGraph(PAIR, [PAIR], {"a": "wxyz", "b": "uvt"}, {PAIR: {"mean": block}})
    occupied = int(block.count_nonzero())
    assert graph.prune(top_k=k).weights(*PAIR).count_nonzero() == min(k, occupied)
    rows = graph.prune(top_k_per_target=k).weights(*PAIR).count_nonzero(dim=1)
    assert torch.equal(rows, block.count_nonzero(dim=1).clamp(max=k))


def test_layer_without_features():
    graph = InteractionGraph(PAIR, [PAIR], {"a": [], "b": "uv"}, {PAIR: {"rms": torch.zeros(2, 0)}})
    pruned = graph.prune(0.1, relative=0.1, top_k=2, top_k_per_target=1)
    assert pruned.weights(*PAIR).shape == (2, 0)


@pytest.mark.parametrize(
    "rule",
    [
        {"threshold": -1},
        {"threshold": float("nan")},
        {"relative": -0.1},
        {"top_k": 1.5},
        {"top_k": -2},
        {"top_k": float("inf")},
        {"top_k_per_target": 0.5},
    ],
)
def test_senseless_rules(small, rule):
    with pytest.raises(InteractGraphError, match=f"{next(iter(rule))}=.* (makes no sense|must be)"):
        small.prune(**rule)


def test_no_rule(small):
    with pytest.raises(InteractGraphError, match="at least one rule of threshold, relative"):
        small.prune()


def test_unknown_strength(small):
    with pytest.raises(InteractGraphError, match="'max'"):
        small.prune(1, strength="max")
