import numpy as np

from interactgraph.exporters.palette import ISOLATED, module_colour, module_colours


def distance(a, b):
    """Weighted RGB distance ("redmean"), 0 to 765: close to what people see."""
    a, b = np.array(a, float), np.array(b, float)
    red = (a[..., 0] + b[..., 0]) / 2
    d = (a - b) ** 2
    return np.sqrt(
        (2 + red / 256) * d[..., 0] + 4 * d[..., 1] + (2 + (255 - red) / 256) * d[..., 2]
    )


def distances(n):
    colours = np.array([ISOLATED, *map(module_colour, range(n))])
    table = distance(colours[:, None], colours[None])
    return table[~np.eye(n + 1, dtype=bool)]


def test_colours_differ_from_each_other_and_from_grey():
    assert distances(7).min() > 100
    assert distances(30).min() > 50
    assert distances(200).min() > 0


def test_colours_are_in_range():
    colours = np.array([module_colour(k) for k in range(-1, 1000)])
    assert colours.min() >= 0
    assert colours.max() <= 255


def test_isolated_features_are_grey():
    assert module_colour(-1) == ISOLATED


def test_many_at_once():
    modules = np.array([3, -1, 50, 3])
    assert module_colours(modules).tolist() == [list(module_colour(m)) for m in (3, -1, 50, 3)]
    assert module_colours(np.zeros(0, np.int64)).shape == (0, 3)
