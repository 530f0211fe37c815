import numpy as np
import torch
from communities.planted_graphs import planted

from interactgraph.communities.held_out import contrast, folds_of, held_out, rank_one_fit
from interactgraph.communities.network import Network
from interactgraph.communities.weighting import FORMULAS


def test_each_entry_is_hidden_once():
    network = Network.from_graph(planted(0)[0])
    folds = list(folds_of(network, 5, 0))
    for k in range(2):
        times = torch.stack([fold.hidden[k] for fold in folds]).sum(0)
        assert (times == 1).all()
        sizes = [int(fold.hidden[k].sum()) for fold in folds]
        assert max(sizes) - min(sizes) <= 1


def test_the_search_sees_nothing_of_what_is_hidden():
    network = Network.from_graph(planted(0)[0])
    first = next(folds_of(network, 5, 0))
    changed = network.map(lambda b: b.weight)
    for block, hidden in zip(changed.blocks, first.hidden, strict=True):
        block.weight[hidden] = 1e3 * torch.rand(int(hidden.sum()), dtype=torch.float64)
    second = next(folds_of(changed, 5, 0))
    for a, b in zip(first.visible.blocks, second.visible.blocks, strict=True):
        torch.testing.assert_close(a.weight, b.weight)


def test_rank_one_graphs_leave_nothing():
    network = Network.from_graph(planted(0)[0])
    exact = network.map(lambda b: rank_one_fit(b.weight, torch.ones_like(b.weight) > 0))
    result = held_out(exact, FORMULAS["root_normalised"], n_folds=4, n_starts=2, seed=0)
    assert abs(result.excess) < 1e-6


def test_excess_is_the_modularity_of_hidden_entries():
    """With modules that are certain, it is near the modularity of the roots under them."""
    graph, truth = planted(1, 10.0)
    network = Network.from_graph(graph)
    result = held_out(network, FORMULAS["root_normalised"], n_folds=5, n_starts=3, seed=0)
    parts = np.split(truth, [24, 72])
    expected = []
    for k, block in enumerate(network.blocks):
        v = block.weight.sqrt().numpy()
        residual = v - np.outer(v.sum(1), v.sum(0)) / v.sum()
        expected.append(residual[parts[k + 1][:, None] == parts[k]].sum() / v.sum())
    assert 0.85 < result.excess / np.mean(expected) < 1.15
    assert result.z_score > 5


def test_contrasts_do_not_see_strengths():
    """Whatever is a row effect or a column effect, on what is hidden, counts for nothing."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.rand(12, 9, dtype=torch.float64, generator=draw)
    weight *= torch.rand(12, 9, generator=draw) < 0.6
    inside = (torch.rand(12, 9, generator=draw) < 0.3) & (weight > 0)
    c = contrast(inside, weight, n_rounds=300)
    for axis in (0, 1):
        assert (weight * c).sum(axis).abs().max() < 1e-9
    assert not c[weight == 0].any()
    # The least squares fit of two-way effects leaves the same.
    rows, columns = torch.nonzero(weight, as_tuple=True)
    root = weight[rows, columns].sqrt()
    design = torch.zeros(len(rows), 21, dtype=torch.float64)
    design[torch.arange(len(rows)), rows] = design[torch.arange(len(rows)), 12 + columns] = root
    target = inside[rows, columns] * root
    left = target - design @ torch.linalg.lstsq(design, target, driver="gelsd").solution
    torch.testing.assert_close(c[rows, columns] * root, left, atol=1e-9, rtol=0)
    assert not contrast(inside[:1], weight[:1]).any()  # a row alone has nothing to compare with


def test_contrasts_of_few_entries_are_exact():
    """Where hidden entries hang together by chains, fitting in turns would hardly move."""
    draw = torch.Generator().manual_seed(1)
    chain = torch.zeros(40, 40, dtype=torch.float64)
    for k in range(39):
        chain[k, k] = chain[k, k + 1] = 1 + float(torch.rand((), generator=draw))
    inside = (torch.rand(40, 40, generator=draw) < 0.5) & (chain > 0)
    assert not contrast(inside, chain).any()  # a tree: rows and columns explain everything
    assert not contrast(inside.mT, chain.mT).any()
    wide = torch.rand(12, 700, dtype=torch.float64, generator=draw)
    wide *= torch.rand(12, 700, generator=draw) < 0.2
    c = contrast((torch.rand(12, 700, generator=draw) < 0.3) & (wide > 0), wide)
    for axis in (0, 1):
        assert (wide * c).sum(axis).abs().max() < 1e-9
