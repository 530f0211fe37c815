"""Which samples stand behind a module, and modules of some samples judged by others."""

import math
import warnings

import numpy as np
import pytest
import torch
from communities.planted_graphs import graph_of, of_sentences, planted, sampled
from torch import nn

import interactgraph as itg
from interactgraph import InteractGraphError, InteractGraphWarning
from interactgraph.communities import Partition, constants
from interactgraph.communities.held_out_samples import held_out_samples_test
from interactgraph.features import Dictionary


def modular(seed, n_samples=24, sizes=(24, 30, 24)):
    """Squares on every sample of planted modules that all samples use, and the modules."""
    graph, labels = planted(seed, contrast=5.0, sizes=sizes)
    draw = np.random.default_rng(seed)
    squares = [
        graph.weights(*pair).numpy() ** 2
        * draw.chisquare(4, size=(n_samples, *graph.weights(*pair).shape)) / 4
        for pair in graph.pairs
    ]  # fmt: skip
    return squares, labels


def test_effective_samples_are_the_participation_ratio():
    """One over the concentration of X over samples, weighed by the edges' strength."""
    squares, labels = modular(0, n_samples=9)
    graph = sampled(*squares)
    found = itg.sample_support(graph, Partition.from_labels(labels, graph.n_features, quality=0))
    total, concentration = np.zeros(len(labels)), np.zeros(len(labels))
    starts = np.cumsum([0, *graph.n_features.values()])
    for k, x in enumerate(squares):
        share = (x**2).sum(0) / x.sum(0) ** 2
        weight = x.mean(0) / x.mean(0).sum()
        for axis, start in ((0, starts[k]), (1, starts[k + 1])):
            rows = slice(start, start + weight.shape[1 - axis])
            total[rows] += weight.sum(axis)
            concentration[rows] += (weight * share).sum(axis)
    modules = Partition.from_labels(labels, graph.n_features, quality=0).labels
    for each in found:
        inside = modules == each.module
        expected = np.median(total[inside] / concentration[inside])
        assert each.effective_samples == pytest.approx(expected, rel=1e-9)
        assert 1 < each.effective_samples < 9
        assert each.few == 0
        assert each.fold is None
        assert each.group is None
        assert "effective samples" in str(each)


def test_shares_of_folds_and_groups():
    """All of a module's strength from one group, an even share from every fold."""
    squares, labels = modular(1)
    names = np.array(["x", "x", "y"] * 8)
    starts = np.cumsum([0, 24, 30, 24])
    for k, x in enumerate(squares):
        into, out = labels[starts[k + 1] : starts[k + 2]], labels[starts[k] : starts[k + 1]]
        x[np.ix_(names != "y", into == 2, range(len(out)))] = 0
        x[np.ix_(names != "y", range(len(into)), out == 2)] = 0
    graph = sampled(*squares, n_folds=4, groups=names)
    partition = Partition.from_labels(labels, graph.n_features, quality=0)
    (special,) = {int(m) for m in partition.labels[labels == 2]}
    for each in itg.sample_support(graph, partition):
        assert each.group.part == ("y" if each.module == special else "x")
        assert each.is_of_group == (each.module == special)
        assert not each.is_handful
    only = itg.sample_support(graph, partition)[special]
    assert only.group.strength == pytest.approx(1)
    assert only.group.features == 1
    assert 0.25 <= only.fold.strength < 0.5
    assert "group y has 100% of its strength" in str(only)


def test_modules_that_are_samples_are_caught():
    graph = sampled(*of_sentences(), n_folds=4)
    with pytest.warns(InteractGraphWarning, match="owe their strength to a handful of samples"):
        partition = itg.find_modules(graph, n_runs=2, resolution=1.0)
    assert partition.significant
    assert any("do not hold on the others" in note for note in partition.notes)
    support = itg.sample_support(graph, partition)
    assert all(each.is_handful for each in support)
    assert [each.effective_samples for each in support] == pytest.approx([1] * len(support))
    assert all(each.fold.features == 1 for each in support)


def test_dictionary_features_of_single_sentences():
    """A dictionary whose features fire in one sentence each, from the model to the warning."""
    torch.manual_seed(0)
    n_sentences, own, n_positions = 12, 3, 5
    n = n_sentences * own
    owner = torch.arange(n) // own
    mix = torch.randn(n, n, dtype=torch.float64) / n**0.5
    within = torch.rand(n, n, dtype=torch.float64) + 0.2
    within = within * (owner[:, None] == owner)
    model = nn.Sequential(nn.Identity(), nn.Linear(n, n, bias=False)).double()
    model[1].weight.data = mix
    x = torch.rand(n_sentences, n_positions, n, dtype=torch.float64)
    x = x * (owner == torch.arange(n_sentences)[:, None])[:, None]
    read = within @ torch.linalg.inv(mix)
    dictionaries = {
        "0": Dictionary(encoder=torch.eye(n).double(), decoder=torch.eye(n).double()),
        "1": Dictionary(encoder=read, decoder=torch.linalg.inv(read)),
    }
    graph = itg.interaction_graph(
        model, [x[:5], x[5:]], ["0", "1"], features=dictionaries, folds=4, progress=False
    )
    with pytest.warns(InteractGraphWarning, match="no more than a list of these"):
        partition = itg.find_modules(graph, n_runs=2, resolution=1.0)
    assert partition.significant
    codes = partition.membership["0"][:n]
    assert itg.communities.adjusted_mutual_information(codes, owner.numpy()) > 0.95


def test_modules_of_all_samples_are_not():
    squares, _ = modular(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", InteractGraphWarning)
        partition = itg.find_modules(sampled(*squares, n_folds=4), n_runs=2, resolution=1.0)
    assert partition.significant
    assert partition.notes == ()
    assert partition.details["held_out_samples"]["p_value"] < 1e-3


@pytest.mark.slow
def test_level_with_samples_held_out():
    """Edges that do not depend on modules, though they are the same on all samples."""
    scores = []
    for seed in range(16):
        graph, _ = planted(seed, contrast=1.0, sizes=(16, 20, 16))
        draw = np.random.default_rng(seed)
        squares = [graph.weights(*pair).numpy() ** 2 * draw.chisquare(4, size=(6, *graph.weights(
            *pair).shape)) for pair in graph.pairs]  # fmt: skip
        folds = sampled(*squares, n_folds=3).folds
        scores.append(held_out_samples_test(folds, n_starts=1, seed=seed).z_score)
    assert abs(np.mean(scores)) < 3 / 16**0.5
    assert 0.6 < np.std(scores) < 1.5


def test_what_the_graph_does_not_say():
    graph = graph_of(np.ones((3, 4)))
    (only,) = itg.sample_support(graph, Partition({"l0": [0] * 4, "l1": [0] * 3}, quality=0))
    assert math.isnan(only.effective_samples)
    assert not only.is_handful
    assert "does not say" in str(only)
    with pytest.raises(InteractGraphError, match="of another graph"):
        itg.sample_support(graph, Partition({"l0": [0]}, quality=0))
    assert constants.FEW_SAMPLES < 3


def test_sparse_graphs_say_the_same():
    graph = sampled(*of_sentences(), n_folds=3)
    partition = itg.find_modules(graph, n_runs=2, resolution=1.0, significance=False)
    for one, other in zip(
        itg.sample_support(graph, partition),
        itg.sample_support(graph.to_sparse(), partition),
        strict=True,
    ):
        assert one.effective_samples == pytest.approx(other.effective_samples)
        assert (one.few, one.is_handful) == (pytest.approx(other.few), other.is_handful)
        assert one.fold.features == pytest.approx(other.fold.features)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InteractGraphWarning)
        notes = itg.find_modules(graph.to_sparse(), n_runs=2, resolution=1.0).notes
    assert any("a handful of samples" in note or "one or two samples" in note for note in notes)
