import numpy as np
import pytest
import torch
from communities.planted_graphs import graph_of, planted

from interactgraph import InteractGraphError, find_modules
from interactgraph.communities import adjusted_rand_index, backbone
from interactgraph.communities.backbone import disparity


def test_disparity_formula():
    w = np.random.default_rng(0).lognormal(size=(4, 5))
    w[1, 2] = 0
    got = disparity(torch.as_tensor(w)).exp().numpy()
    for i in range(4):
        for j in range(5):
            rows, columns = np.count_nonzero(w[i]), np.count_nonzero(w[:, j])
            by_target = (1 - w[i, j] / w[i].sum()) ** (rows - 1)
            by_source = (1 - w[i, j] / w[:, j].sum()) ** (columns - 1)
            assert got[i, j] == pytest.approx(min(by_target, by_source))


def test_shares_that_are_kept():
    graph, _ = planted(0)
    for pair in graph.pairs:
        n = graph.weights(*pair).numel()
        kept = torch.count_nonzero(backbone(graph, keep=0.25).weights(*pair))
        assert kept == round(0.25 * n)
        kept = backbone(graph, "per_target", keep=0.25).weights(*pair) > 0
        assert (kept.sum(1) == round(0.25 * kept.shape[1])).all()


def test_shares_are_of_edges_not_of_entries():
    w = np.random.default_rng(0).lognormal(size=(30, 40))
    w[np.random.default_rng(1).random(w.shape) < 0.9] = 0
    graph = graph_of(w)
    n = np.count_nonzero(w)
    kept = backbone(graph, keep=0.3).weights("l0", "l1")
    assert torch.count_nonzero(kept) == round(0.3 * n)
    kept = (backbone(graph, "per_target", keep=0.3).weights("l0", "l1") > 0).sum(1).numpy()
    degree = np.count_nonzero(w, axis=1)
    assert (kept == np.minimum(np.maximum(np.round(0.3 * degree), 1), degree)).all()


def test_standard_errors_decide():
    w = np.array([[1.0, 2.0], [3.0, 4.0]])
    graph = graph_of(w, errors=(np.array([[0.6, 0.9], [1.0, 3.0]]),))
    kept = backbone(graph, "standard_error").weights("l0", "l1")
    assert kept.tolist() == [[0, 2], [3, 0]]
    with pytest.raises(InteractGraphError, match="no standard error"):
        backbone(planted(0)[0], "standard_error")


def test_modules_survive():
    graph, truth = planted(0, 8.0)
    cut = backbone(graph, keep=0.3)
    assert cut.metadata["backbone"]["keep"] == 0.3
    partition = find_modules(cut, n_runs=3, significance=False)
    assert adjusted_rand_index(partition.labels, truth) > 0.8


def test_options():
    with pytest.raises(InteractGraphError, match="method 'top' is not known"):
        backbone(planted(0)[0], "top")
    with pytest.raises(InteractGraphError, match="keep=0 must be a share"):
        backbone(planted(0)[0], keep=0)
    with pytest.raises(InteractGraphError, match="errors=-1 must be"):
        backbone(planted(0)[0], "standard_error", errors=-1)
