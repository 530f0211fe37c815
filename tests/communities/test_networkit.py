import sys

import pytest
from communities.planted_graphs import planted

from interactgraph import InteractGraphError, find_modules
from interactgraph.communities import adjusted_rand_index


def test_networkit_starts_are_polished():
    pytest.importorskip("networkit", reason="networkit is not installed")
    graph, truth = planted(0, 8.0, (48, 96, 48))
    partition = find_modules(graph, algorithm="networkit", n_runs=3, significance=False)
    assert adjusted_rand_index(partition.labels, truth) > 0.9


def test_without_networkit_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "networkit", None)
    with pytest.raises(InteractGraphError, match=r"pip install 'interactgraph\[networkit\]'"):
        find_modules(planted(0)[0], algorithm="networkit", significance=False)
