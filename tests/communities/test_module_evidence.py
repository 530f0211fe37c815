"""Held-out evidence for single modules, against dense least squares; its level and its power."""

import numpy as np
import pytest
import torch
from communities.planted_graphs import planted

from interactgraph.communities.held_out import searched_folds
from interactgraph.communities.module_evidence import ModuleTally
from interactgraph.communities.multiple_tests import holm, one_sided
from interactgraph.communities.network import Network
from interactgraph.communities.objective import make_objective
from interactgraph.communities.partition import Partition, by_size
from interactgraph.communities.runs import sweep_runs
from interactgraph.communities.significance import NullScores, held_out_test, held_out_tests
from interactgraph.communities.weighting import FORMULAS


def reference(network, labels, **options):
    """T, G, W: M and c of every module formed, least squares dense; and g from one regression."""
    members = np.split(labels, network.offsets[1:-1])
    n_modules = labels.max() + 1
    total = np.zeros(n_modules)
    gram, spread = np.zeros((n_modules, n_modules)), np.zeros((n_modules, n_modules))
    left, right = [], []  # of the regression on all at once
    for fold, objective, found in searched_folds(
        network, FORMULAS["root_normalised"], 1.0, **options
    ):
        for k, block in enumerate(network.blocks):
            v, e, hidden = (x[k].numpy() for x in (fold.values, fold.expected, fold.hidden))
            into, out = (
                objective.layer_labels(found, n).numpy() for n in (block.target, block.source)
            )
            inside = hidden & (into[:, None] == out)
            rows, columns = np.nonzero(hidden & (e > 0))
            n, m = v.shape
            design = np.zeros((len(rows), n + m))
            design[np.arange(len(rows)), rows] = design[np.arange(len(rows)), n + columns] = 1
            e, r = e[rows, columns] / v.sum(), (v - e)[rows, columns] / v.sum()
            wanted = np.zeros((len(rows), n_modules))
            for module in range(n_modules):
                a, b = (members[n] == module for n in (block.target, block.source))
                wanted[:, module] = (inside * (a[:, None].astype(float) + b) / 2)[rows, columns]
            root = np.sqrt(e)[:, None]
            fit = np.linalg.lstsq(design * root, wanted * root, rcond=None)[0]
            c = wanted - design @ fit
            total += c.T @ r
            gram += c.T @ (e[:, None] * c)
            spread += c.T @ (r[:, None] ** 2 * c)
            left.append((design * root, wanted * root))
            right.append(r / root[:, 0])
    widths = np.cumsum([0, *(design.shape[1] for design, _ in left)])
    everything = np.zeros((sum(map(len, right)), widths[-1] + n_modules))
    start = 0
    for (design, wanted), one, other in zip(left, widths[:-1], widths[1:], strict=True):
        rows = slice(start, start + len(design))
        everything[rows, one:other], everything[rows, widths[-1] :] = design, wanted
        start += len(design)
    fitted = np.linalg.lstsq(everything, np.concatenate(right), rcond=None)[0]
    return total, gram, spread, fitted[widths[-1] :]


@pytest.mark.parametrize("sizes", [(9, 14, 8), (12, 7, 10)])
def test_against_dense_least_squares(sizes):
    graph, labels = planted(3, contrast=2.0, sizes=sizes, n_modules=3)
    network = Network.from_graph(graph)
    options = {"n_folds": 3, "n_starts": 1, "seed": 0}
    tally = ModuleTally(network, labels)
    for fold, objective, found in searched_folds(
        network, FORMULAS["root_normalised"], 1.0, **options
    ):
        tally.add_fold(network, fold, objective, found)
    total, gram, spread, g = reference(network, labels, **options)
    assert np.allclose(tally.total, total, rtol=1e-7, atol=1e-12)
    assert np.allclose(tally.gram, gram, rtol=1e-7, atol=1e-12)
    assert np.allclose(tally.spread, spread, rtol=1e-7, atol=1e-16)
    inverse = np.linalg.inv(gram)
    z = g / np.sqrt((inverse @ spread @ inverse).diagonal())
    assert tally.z_scores() == pytest.approx(z, rel=1e-6)


def test_modules_add_up_to_the_graph():
    graph, labels = planted(1, contrast=2.0)
    network = Network.from_graph(graph)
    one = np.zeros(len(labels), int)
    test, modules = held_out_tests(network, one)
    assert modules.z_scores()[0] == pytest.approx(test.z_score, rel=1e-9)
    assert test == held_out_test(network)
    null = NullScores.of([0.2, 0.4, 3.0])
    shifted = null.test(test.z_score)
    z = modules.z_scores(null.mean, null.variance)
    assert z[0] == pytest.approx(shifted.z_score)
    told = {"spectral_null": {"n": null.n}}
    whole = Partition.from_labels(
        one, graph.n_features, quality=0.0, module_z_scores=z, details=told
    )
    assert whole.module_p_values[0] == pytest.approx(shifted.p_value)


def test_holm_is_the_procedure_of_its_paper():
    p = np.array([0.03, np.nan, 0.005, 0.04, 0.9])
    assert holm(p) == pytest.approx([0.09, np.nan, 0.02, 0.09, 0.9], nan_ok=True)
    assert len(holm([])) == 0
    assert one_sided(np.array([0.0, np.nan])) == pytest.approx([0.5, np.nan], nan_ok=True)


@pytest.mark.slow
def test_level_of_modules():
    """Graphs of strengths alone: z of modules is standard normal, Holm holds the level."""
    scores, any_module = [], []
    for seed in range(12):
        graph, _ = planted(seed, contrast=1.0, sizes=(16, 24, 18))
        network = Network.from_graph(graph)
        weighted = network.map(FORMULAS["root_normalised"].block)
        labels = by_size(sweep_runs(make_objective(weighted, "layered", 1.0), [seed])[0])
        z = held_out_tests(network, labels, n_starts=1, seed=seed)[1].z_scores()
        scores += z[np.isfinite(z)].tolist()
        any_module.append(np.nanmin(holm(one_sided(z))) <= 0.05)
    assert abs(np.mean(scores)) < 4 / len(scores) ** 0.5
    assert 0.75 < np.std(scores) < 1.25
    assert np.mean(np.array(scores) > 1.645) < 0.1
    assert np.mean(any_module) < 0.2


def test_power_where_only_some_modules_are_real():
    """Two modules of four: the features of the others have only their strengths in common."""
    for seed in range(2):
        graph, labels = planted(seed, contrast=6.0)
        graph = graph.replace(
            blocks={pair: {"rms": _without(graph, labels, pair, seed)} for pair in graph.pairs}
        )
        z = held_out_tests(Network.from_graph(graph), labels, seed=seed)[1].z_scores()
        p = holm(one_sided(z))
        assert (p[:2] < 1e-3).all()
        assert (p[2:] > 0.05).all()


def _without(graph, labels, pair, seed):
    """The weights with those of modules 2 and 3 as outside of modules."""
    ends = np.split(labels, np.cumsum(list(graph.n_features.values()))[:-1])
    out, into = (ends[graph.layers.index(layer)] for layer in pair)
    rest = (into[:, None] == out) & (out >= 2)
    return graph.weights(*pair) * torch.from_numpy(np.where(rest, 1 / 6.0, 1.0))
