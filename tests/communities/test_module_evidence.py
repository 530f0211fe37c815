"""Held-out evidence for single modules, against dense least squares; its level and its power."""

import numpy as np
import pytest
from communities.planted_graphs import planted

from interactgraph.communities.held_out import searched_folds
from interactgraph.communities.module_evidence import ModuleTally
from interactgraph.communities.multiple_tests import holm, one_sided
from interactgraph.communities.network import Network
from interactgraph.communities.significance import held_out_test, held_out_tests
from interactgraph.communities.weighting import FORMULAS


def reference(network, labels, **options):
    """T and its variance of every module: M and c of every module formed, least squares dense."""
    members = np.split(labels, network.offsets[1:-1])
    n_modules = labels.max() + 1
    total, variance = np.zeros(n_modules), np.zeros(n_modules)
    for fold, objective, found in searched_folds(
        network, FORMULAS["root_normalised"], 1.0, **options
    ):
        for k, block in enumerate(network.blocks):
            v, e, hidden = (x[k].numpy() for x in (fold.roots, fold.expected, fold.hidden))
            into, out = (objective.layer_labels(found, n).numpy()
                         for n in (block.target, block.source))  # fmt: skip
            inside = hidden & (into[:, None] == out)
            rows, columns = np.nonzero(hidden & (e > 0))
            n, m = v.shape
            design = np.zeros((len(rows), n + m))
            design[np.arange(len(rows)), rows] = design[np.arange(len(rows)), n + columns] = 1
            root = np.sqrt(e[rows, columns])
            r = (v - e)[rows, columns] / v.sum()
            for module in range(n_modules):
                a, b = (members[n] == module for n in (block.target, block.source))
                wanted = (inside * (a[:, None].astype(float) + b) / 2)[rows, columns]
                fit = np.linalg.lstsq(design * root[:, None], wanted * root, rcond=None)[0]
                c = wanted - design @ fit
                total[module] += (c * r).sum()
                variance[module] += (c**2 * r**2).sum()
    return total, variance


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
    total, variance = reference(network, labels, **options)
    assert np.allclose(tally.total, total, rtol=1e-7, atol=1e-12)
    assert np.allclose(tally.variance, variance, rtol=1e-7, atol=1e-16)


def test_modules_add_up_to_the_graph():
    graph, labels = planted(1, contrast=2.0)
    network = Network.from_graph(graph)
    one = np.zeros(len(labels), int)
    test, z = held_out_tests(network, one)
    assert z[0] == pytest.approx(test.z_score, rel=1e-9)
    assert test == held_out_test(network)


def test_holm_is_the_procedure_of_its_paper():
    p = np.array([0.03, np.nan, 0.005, 0.04, 0.9])
    assert holm(p) == pytest.approx([0.09, np.nan, 0.02, 0.09, 0.9], nan_ok=True)
    assert len(holm([])) == 0
    assert one_sided(np.array([0.0, np.nan])) == pytest.approx([0.5, np.nan], nan_ok=True)
