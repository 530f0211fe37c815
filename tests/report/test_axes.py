import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import interactgraph as itg
from interactgraph.exporters import module_colour
from interactgraph.report import (
    plot_blocks,
    plot_curves,
    plot_graph,
    plot_modules,
    plot_profile,
    plot_strengths,
)
from interactgraph.report.columns import column_heights


@pytest.fixture
def axes():
    return Figure(figsize=(6, 4)).add_subplot()


def test_heights_have_gaps_between_modules():
    module = np.array([0, 0, 1, -1, 2, 2])
    order = np.array([1, 0, 2, 3, 5, 4])
    y, steps = column_heights([4, 2, 0], order, module)
    assert steps[2] == 0
    assert y[4] == pytest.approx(0.75)  # one module: no gap
    assert y[1] == pytest.approx(steps[0] / 2)
    assert y[0] - y[1] == pytest.approx(steps[0])
    assert y[2] - y[0] == pytest.approx(steps[0] + 0.018)
    assert y[3] + steps[0] / 2 == pytest.approx(1)
    many, steps = column_heights([100], np.arange(100), np.arange(100))
    assert steps[0] == pytest.approx(0.78 / 100)  # gaps take 22 % of a column at most
    assert many.max() + steps[0] / 2 == pytest.approx(1)


def test_graph_has_its_edges_and_module_colours(axes, graph, partition):
    plot_graph(axes, graph, partition=partition, strength="mean", n_edges=7)
    lines, bars = axes.collections
    assert len(lines.get_segments()) == 14
    assert len(bars.get_paths()) == graph.n_nodes
    module = partition.labels
    for node, colour in enumerate(bars.get_facecolors()):
        assert colour[:3] == pytest.approx(np.array(module_colour(module[node])) / 255)
    layer = np.repeat(np.arange(3), list(graph.n_features.values()))
    middle = [path.vertices[:4].mean(0) for path in bars.get_paths()]
    assert np.array(middle)[:, 0] == pytest.approx(layer)
    # Every line joins two bars of neighbouring layers, with the colour of a module they share.
    where = {tuple(np.round(place, 9)): node for node, place in enumerate(middle)}
    weight = {(s, t): abs(w) for s, t, w in zip(*graph.edges("mean")[:3], strict=True)}
    drawn = []
    for segment, colour in zip(lines.get_segments(), lines.get_colors(), strict=True):
        source, target = (where[tuple(np.round(end, 9))] for end in segment)
        drawn.append(weight[source, target])
        if module[source] == module[target] >= 0:
            assert colour[:3] == pytest.approx(np.array(module_colour(module[source])) / 255)
        else:
            assert len(set(colour[:3])) == 1
    assert max(drawn) == max(weight.values())


def test_awkward_names_are_not_formulas(tmp_path, hostile_graph):
    graph = hostile_graph.replace(
        labels={layer: ["$\\frac", "a\nb", "\ud800"] * 3 + ["x"] * (n - 9) if n > 9 else ["$^"] * n
                for layer, n in hostile_graph.n_features.items()}
    )  # fmt: skip
    graph.plot(tmp_path / "a.svg")
    assert (tmp_path / "a.svg").stat().st_size > 0


def test_blocks_follow_modules(axes, graph, partition):
    plot_blocks(axes, graph, *graph.pairs[0], partition=partition, strength="mean")
    (image,) = axes.images
    weight = graph.weights(*graph.pairs[0], "mean").abs().numpy()
    shown = np.asarray(image.get_array())
    assert shown.shape == weight.shape
    assert np.sort(shown.ravel() ** 2) == pytest.approx(np.sort(weight.ravel()), rel=1e-6)
    a, b = (partition.membership[layer] for layer in graph.pairs[0])
    for module in range(partition.n_modules):
        rows, columns = (slice(*np.searchsorted(np.sort(ends[ends >= 0]), [module, module + 1]))
                         for ends in (b, a))  # fmt: skip
        inside = weight[b == module][:, a == module]
        assert (shown[rows, columns] ** 2).sum() == pytest.approx(inside.sum(), rel=1e-6)


def test_strengths_count_edges(axes, graph):
    plot_strengths(axes, graph, strength="mean")
    counts = [patch.get_data().values.sum() for patch in axes.patches]
    assert counts == [int((graph.weights(*pair) != 0).sum()) for pair in graph.pairs]


def test_modules_fill_the_layers(axes, partition):
    plot_modules(axes, partition)
    heights = np.array([[bar.get_height() for bar in group] for group in axes.containers])
    assert heights.sum(0) == pytest.approx(np.ones(3))
    sizes = [len(m) for m in partition.membership.values()]
    assert heights[-1] == pytest.approx([1 / n for n in sizes])  # one of each is in no module
    assert to_rgb(axes.containers[1][0].get_facecolor()) == pytest.approx(
        np.array(module_colour(1)) / 255
    )


def test_profile_and_curves(axes, graph):
    profile = itg.resolution_profile(graph, resolutions=[0.5, 1.0, 2.0], n_runs=2)
    plot_profile(axes, profile)
    assert axes.lines[0].get_ydata().tolist() == [p.n_modules for p in profile.partitions]
    other = Figure().add_subplot()
    plot_curves(other, {"a": ({1: 0.2, 10: 0.9}, 0.95)}, x="edges", y="accuracy")
    assert other.lines[0].get_xdata().tolist() == [1, 10]
    assert other.lines[1].get_ydata()[0] == 0.95


@pytest.mark.parametrize("suffix", ["svg", "png", "pdf"])
def test_plot_methods_write_files_and_use_axes(suffix, axes, graph, partition, tmp_path):
    graph.plot(tmp_path / f"a.{suffix}", partition=partition)
    partition.plot(tmp_path / f"b.{suffix}")
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"a.{suffix}", f"b.{suffix}"]
    assert graph.plot(axes=axes) is axes
    assert partition.plot(axes=axes) is axes
    with pytest.raises(itg.InteractGraphError, match="suffix must be one of"):
        graph.plot(tmp_path / "a.bmp")


def test_plot_without_a_file_is_a_figure_of_pyplot(graph):
    mpl.use("agg")
    from matplotlib import pyplot

    axes = graph.plot()
    assert pyplot.fignum_exists(axes.figure.number)
    pyplot.close(axes.figure)
