import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from interactgraph.exporters.layout import column_positions, node_sizes


@st.composite
def nodes(draw):
    sizes = draw(st.lists(st.integers(0, 12), min_size=1, max_size=5))
    module = draw(hnp.arrays(np.int64, sum(sizes), elements=st.integers(-1, 3)))
    strength = draw(hnp.arrays(np.float64, sum(sizes), elements=st.integers(0, 3)))
    return sizes, module, strength


@settings(deadline=None)
@given(nodes())
def test_columns(case):
    sizes, module, strength = case
    x, y = column_positions(sizes, module, strength)
    start, columns = 0, []
    for size in sizes:
        here = slice(start, start + size)
        start += size
        if not size:
            continue
        assert len(set(x[here])) == 1
        columns.append(x[here][0])
        # Centred, evenly spread over the same height whatever the number of features.
        height = np.ptp(y[here]) * size / (size - 1) if size > 1 else 600
        assert np.isclose(height, 600)
        assert np.isclose(y[here].mean(), 0)
        # From top to bottom: modules in order, isolated ones last, the strongest first in each.
        down = np.argsort(-y[here])
        order = [
            (m if m >= 0 else 99, -s) for m, s in zip(module[here], strength[here], strict=True)
        ]
        assert [order[k] for k in down] == sorted(order)
    assert columns == sorted(set(columns))


def test_fullest_layer_sets_the_height():
    strength = np.ones(1010)
    _, y = column_positions([1000, 10], np.zeros(1010, np.int64), strength)
    gaps = np.diff(np.sort(y[:1000]))
    assert np.allclose(gaps, 12)
    assert np.ptp(y[1000:]) > 0.85 * np.ptp(y[:1000])


def test_layers_are_centred():
    x, _ = column_positions([1, 1, 1], np.zeros(3, np.int64), np.ones(3))
    assert np.allclose(x, [-450, 0, 450])


def test_area_is_proportional_to_strength():
    sizes = node_sizes(np.array([1.0, 0.25, 0.0625, 0.0]))
    assert np.allclose(sizes, [10, 5, 2.5, 2])


def test_sizes_of_a_graph_without_edges():
    assert np.allclose(node_sizes(np.zeros(3)), 2)
    assert node_sizes(np.zeros(0)).shape == (0,)
