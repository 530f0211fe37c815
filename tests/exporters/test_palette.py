import re

import numpy as np

import interactgraph as itg
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


def test_every_file_has_the_colours_of_the_palette(graph, partition, tmp_path):
    numbers = np.concatenate([partition.membership[layer] for layer in graph.layers])
    wanted = ["#{:02x}{:02x}{:02x}".format(*module_colour(number)) for number in numbers.tolist()]

    def text(suffix):
        (path,) = itg.export(graph, tmp_path / f"g.{suffix}", partition=partition)
        return path.read_text(encoding="utf-8")

    gexf = re.findall(r'<viz:color r="(\d+)" g="(\d+)" b="(\d+)"', text("gexf"))
    assert ["#{:02x}{:02x}{:02x}".format(*map(int, rgb)) for rgb in gexf] == wanted
    found = re.findall(r'<data key="[rgb]">(\d+)</data>' * 3, text("graphml"))
    assert ["#{:02x}{:02x}{:02x}".format(*map(int, rgb)) for rgb in found] == wanted
    for suffix in ("json", "cyjs"):
        assert re.findall(r'"color":"(#\w+)"', text(suffix)) == wanted
    assert re.findall(r'fillcolor="(#\w+)"', text("dot")) == wanted
    page = tmp_path / "report.html"
    itg.write_report(graph, page, partition=itg.Partition(partition.membership, 0.3))
    assert {"#0072b2", "#e69f00", "#999999"} == set(wanted)
    assert all(colour in page.read_text(encoding="utf-8") for colour in set(wanted))
