"""Modules of sparse graphs: the same numbers as from the same dense blocks."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from communities.planted_graphs import graph_of, planted

import interactgraph as itg
from interactgraph.communities import (
    adjusted_mutual_information,
    backbone,
    mean_graph,
    module_tree,
)
from interactgraph.communities.held_out import Fold, Tally, contrast, folds_of, rank_one_fit
from interactgraph.communities.hidden_cells import (
    HiddenCells,
    RankOne,
    _contrast_parts,
    fit_rank_one,
    hidden_cells,
)
from interactgraph.communities.leiden import Leiden
from interactgraph.communities.network import Network
from interactgraph.communities.objective import Objective, make_objective
from interactgraph.communities.self_edges import explained_self_edges
from interactgraph.communities.significance import held_out_test
from interactgraph.communities.spectral import Spectrum
from interactgraph.communities.sweeps import Sweeps
from interactgraph.communities.weighting import FORMULAS, keep_connected
from interactgraph.sparse import is_sparse, values_of


@pytest.fixture
def both():
    graph, truth = planted(2)
    graph = graph.prune(top_k=500)
    return graph, graph.to_sparse(), truth


def networks(both):
    return [Network.from_graph(graph) for graph in both[:2]]


def test_networks(both):
    dense, sparse = networks(both)
    assert dense.n_edges == sparse.n_edges
    assert (dense.connected == sparse.connected).all()
    for a, b in zip(dense.blocks, sparse.blocks, strict=True):
        assert is_sparse(b.weight)
        assert torch.equal(a.weight, b.weight.to_dense())
        assert b.total == pytest.approx(a.total)


@pytest.mark.parametrize("name", [*FORMULAS])
def test_weightings(both, name):
    dense, sparse = (
        keep_connected(network.map(FORMULAS[name].block), network) for network in networks(both)
    )
    for a, b in zip(dense.blocks, sparse.blocks, strict=True):
        assert is_sparse(b.weight)
        torch.testing.assert_close(b.weight.to_dense(), a.weight, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("null", ["layered", "cpm", "directed", "undirected"])
def test_objectives(both, null):
    labels = np.random.default_rng(0).integers(-1, 5, len(both[2]))
    dense, sparse = (make_objective(network, null, 0.9, "total") for network in networks(both))
    assert sparse.quality(labels) == pytest.approx(dense.quality(labels), rel=1e-12)
    a, b = (Leiden(objective).run(0) for objective in (dense, sparse))
    assert (a == b).all()
    if not isinstance(dense, Objective):
        return
    assert isinstance(sparse, Objective)
    torch.testing.assert_close(
        Spectrum(sparse).rows.abs(), Spectrum(dense).rows.abs(), rtol=1e-6, atol=1e-9
    )
    a, b = (Sweeps(objective).run(1) for objective in (dense, sparse))
    assert (a == b).all()


def test_self_edges():
    torch.manual_seed(0)
    block = networks((planted(0, sizes=(20, 20))[0].prune(top_k=120),) * 2)[0].blocks[0]
    weight = block.weight + torch.eye(20, dtype=torch.float64)
    dense = block._replace(weight=weight)
    sparse = dense._replace(weight=weight.to_sparse())
    a, b = explained_self_edges(dense), explained_self_edges(sparse)
    torch.testing.assert_close(b.weight.to_dense(), a.weight, rtol=1e-10, atol=1e-14)
    assert b.total == pytest.approx(a.total)


# --- held-out edges ------------------------------------------------------------------------------


def test_each_pair_is_hidden_once():
    weight = torch.zeros(300, 170, dtype=torch.float64).to_sparse()
    folds = hidden_cells(weight, 5, np.random.default_rng(0))
    rows, columns = torch.meshgrid(torch.arange(300), torch.arange(170), indexing="ij")
    times = torch.stack([fold.at(rows, columns) for fold in folds])
    assert (times.sum(0) == 1).all()
    shares = times.double().mean((1, 2))
    assert (shares - 0.2).abs().max() < 0.02
    # About as many in every row and column.
    assert (times.double().mean(2) - 0.2).abs().max() < 0.1
    assert (times.double().mean(1) - 0.2).abs().max() < 0.2


@pytest.mark.parametrize("contrasted", [False, True])
def test_sums_over_cells_are_those_over_pairs(both, contrasted):
    """Against the dense formulas on the same hidden pairs."""
    dense, sparse = networks(both)
    objective = make_objective(dense, "layered", 1.0)
    assert isinstance(objective, Objective)
    labels = np.where(np.random.default_rng(1).random(len(both[2])) < 0.1, -1, both[2])
    tallies = Tally(contrasted=contrasted), Tally(contrasted=contrasted)
    for fold in folds_of(sparse, 4, 3):
        hidden, expected = [], []
        for block, cells, factors in zip(sparse.blocks, fold.hidden, fold.expected, strict=True):
            assert isinstance(cells, HiddenCells)
            n, m = block.weight.shape
            rows, columns = torch.meshgrid(torch.arange(n), torch.arange(m), indexing="ij")
            hidden.append(cells.at(rows, columns))
            v = block.weight.to_dense().sqrt()
            expected.append(rank_one_fit(v, ~hidden[-1]))
            torch.testing.assert_close(torch.outer(*factors), expected[-1], rtol=1e-9, atol=1e-12)
        roots = [block.weight.to_dense().sqrt() for block in sparse.blocks]
        tallies[0].add_fold(dense, Fold(hidden, roots, expected, dense), objective, labels)
        tallies[1].add_fold(sparse, fold, objective, labels)
    for name in ("total", "variance"):
        a, b = (getattr(tally, name) for tally in tallies)
        assert b == pytest.approx(a, rel=1e-6, abs=1e-10), name


def test_one_module_says_nothing(both):
    _, sparse = networks(both)
    objective = make_objective(sparse, "layered", 1.0)
    tally = Tally(contrasted=True)
    for fold in folds_of(sparse, 4, 3):
        tally.add_fold(sparse, fold, objective, np.zeros(len(both[2]), np.int64))
    assert np.isnan(tally.z_score)


def test_the_search_sees_nothing_of_what_is_hidden(both):
    _, sparse = networks(both)
    first = next(folds_of(sparse, 5, 0))
    for block, seen, cells in zip(sparse.blocks, first.visible.blocks, first.hidden, strict=True):
        rows, columns = block.weight.indices()
        assert len(values_of(seen.weight)) == int((~cells.at(rows, columns)).sum())
        assert not cells.at(*seen.weight.indices()).any()
        changed = torch.sparse_coo_tensor(
            block.weight.indices(),
            torch.where(cells.at(rows, columns), 9.0, values_of(block.weight)),
            block.weight.shape,
            is_coalesced=True,
        )
        for a, b in zip(
            fit_rank_one(changed, cells), fit_rank_one(block.weight, cells), strict=True
        ):
            assert torch.equal(a, b)


def random_graph(seed, n=(90, 70, 80), n_edges=1200):
    """Edges drawn by heavy-tailed strengths of their ends, and nothing else."""
    draw = np.random.default_rng(seed)
    blocks = []
    for n_source, n_target in pairwise(n):
        out, into = (np.exp(draw.normal(size=k)) for k in (n_source, n_target))
        chance = np.minimum(np.outer(into, out) / (into.sum() * out.sum()) * n_edges, 1)
        block = (draw.random(chance.shape) < chance) * np.exp(draw.normal(size=chance.shape))
        blocks.append(block)
    return graph_of(*blocks).to_sparse()


def test_modules(both):
    dense, sparse, truth = both
    found = itg.find_modules(sparse, n_runs=2, resolution=1.0)
    expected = itg.find_modules(dense, n_runs=2, resolution=1.0)
    assert (
        adjusted_mutual_information(found.labels, truth)
        > adjusted_mutual_information(expected.labels, truth) - 0.05
    )
    assert found.p_value < 1e-4


@pytest.mark.slow
def test_random_sparse_graphs_are_rejected_as_often_as_asked():
    z = np.array(
        [
            held_out_test(Network.from_graph(random_graph(seed)), n_starts=1, seed=seed).z_score
            for seed in range(60)
        ]
    )
    assert abs(z.mean()) < 0.5
    assert 0.6 < z.std() < 1.4
    assert (z > 1.645).mean() < 0.15


def test_backbones(both):
    dense, sparse = (graph for graph in both[:2])
    for method in ("disparity", "per_target"):
        a, b = (backbone(graph, method, keep=0.4) for graph in (dense, sparse))
        for pair in dense.pairs:
            assert torch.equal(a.weights(*pair), b.weights(*pair).to_dense())


def test_trees_and_means_of_folds(both):
    dense, sparse = both[:2]
    other = dense.prune(top_k=200)
    a = mean_graph([dense, other])
    b = mean_graph([sparse, other.to_sparse()])
    for pair in dense.pairs:
        torch.testing.assert_close(b.weights(*pair).to_dense(), a.weights(*pair))
    partition = itg.find_modules(sparse, n_runs=1, resolution=1.0, significance=False)
    tree = module_tree(sparse, partition, max_depth=1)
    assert len(tree.children) == partition.n_modules


def test_contrasts_by_cells():
    """x and y of the dense contrast, with weights that are a product on the hidden pairs."""
    draw = np.random.default_rng(0)
    a, b = (torch.as_tensor(draw.random(n) + 0.1) for n in (40, 30))
    (cells,) = hidden_cells(torch.zeros(40, 30).double().to_sparse(), 3, draw)[:1]
    into, out = (torch.as_tensor(draw.integers(0, 3, n)) for n in (40, 30))
    rows, columns = torch.meshgrid(torch.arange(40), torch.arange(30), indexing="ij")
    hidden = cells.at(rows, columns)
    inside = hidden & (into[:, None] == out)
    expected = contrast(inside, torch.where(hidden, torch.outer(a, b), 0))
    x, y = _contrast_parts(RankOne(a, b), cells, into, out)
    found = torch.where(hidden, inside.double() - x[:, None] - y, 0)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
