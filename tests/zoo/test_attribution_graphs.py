"""Planted attribution graphs: what is planted is there, and files are as the tools write them."""

import numpy as np
import pytest

from interactgraph import InputError
from interactgraph.circuits import AttributionGraph
from interactgraph.zoo import planted_attribution_graph


def test_links_go_from_earlier_to_later_layers_and_positions():
    for seed in range(5):
        graph = AttributionGraph.from_content(planted_attribution_graph(seed).content)
        assert (graph.depth[graph.source] < graph.depth[graph.target]).all()
        assert (graph.positions[graph.source] <= graph.positions[graph.target]).all()
        kinds = np.array(graph.kinds)
        assert not np.isin(kinds[graph.target], ["embedding", "error"]).any()
        assert set(kinds) == {"feature", "embedding", "error", "logit"}


def test_without_cross_talk_members_read_and_write_the_same():
    drawn = planted_attribution_graph(0, cross_talk=0, n_singles=0, alike=0, n_groups=4)
    graph = AttributionGraph.from_content(drawn.content)
    group = np.array([drawn.truth.get(name, -1) for name in graph.ids])
    dense = np.abs(graph.matrix.toarray())
    between = np.zeros((4, 4), bool)
    for a in range(4):
        for b in range(4):
            between[b, a] = dense[np.ix_(group == b, group == a)].any()
    assert between.sum() < 12
    assert planted_attribution_graph(0).content == planted_attribution_graph(0).content


@pytest.mark.parametrize("options", [{"cross_talk": 1}, {"alike": -0.1}, {"n_groups": 0}])
def test_options(options):
    with pytest.raises(InputError, match=next(iter(options))):
        planted_attribution_graph(0, **options)
