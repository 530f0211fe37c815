"""Pictures on matplotlib axes: the graph, its blocks, strengths, modules and curves.

Every function draws on the axes that it is given, so that pictures can be arranged in a figure of
one's own; `interactgraph.report.draw` and the `plot` methods make the figure themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..exporters.layout import column_order
from ..exporters.palette import module_colour, module_colours
from ..exporters.table import check_finite, node_modules
from .columns import column_heights
from .figures import block_means, histograms, strongest_edges

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..communities import Partition, ResolutionProfile
    from ..graph import InteractionGraph

__all__ = [
    "plot_blocks",
    "plot_curves",
    "plot_graph",
    "plot_modules",
    "plot_profile",
    "plot_strengths",
]

_GREY = 0.55
_NAMED = 45  # features of a layer whose labels can be read beside it
_FULL = 0.004  # of the height of a column
_LEGEND = 12  # modules named below the picture
_MANY = 20_000  # edges that a vector file holds as an image
_BLOCKS = 400  # rows and columns of a heat map


def plot_graph(
    axes: Axes,
    graph: InteractionGraph,
    *,
    partition: Partition | None = None,
    strength: str | None = None,
    n_edges: int = 400,
) -> None:
    """Draws layers as columns and features as bars, with the strongest edges between them.

    Within a column modules are blocks, largest first, and a module's strongest feature is on top;
    a bar is the wider the stronger its feature.

    Args:
        axes: where to.
        graph: the graph.
        partition: modules, for the colours; edges inside a module have its colour, others are grey.
        strength: which strength is the weight; None: the graph's first.
        n_edges: how many edges of each pair of layers are drawn, the strongest ones.

    Raises:
        InteractGraphError: no such strength, or a partition of another graph.
    """
    found = node_modules(graph, partition)
    module = np.full(graph.n_nodes, -1) if found is None else found
    total = graph.node_strength(strength) if graph.pairs else np.zeros(graph.n_nodes)
    sizes = list(graph.n_features.values())
    y, steps = column_heights(sizes, column_order(sizes, module, total), module)
    layer = np.repeat(np.arange(len(sizes)), sizes)
    if graph.pairs:
        _draw_edges(axes, graph, strength, n_edges, layer, y, module)
    _draw_features(axes, layer, y, steps, total, module)
    _name_layers(axes, graph)
    _name_features(axes, graph, layer, y)
    if partition is not None:
        _name_modules(axes, partition)
    axes.set_xlim(-0.25, max(len(sizes) - 1, 0) + 0.4)
    axes.set_ylim(1.02, -0.07)
    axes.set_axis_off()


def _draw_edges(
    axes: Axes,
    graph: InteractionGraph,
    strength: str | None,
    n_edges: int,
    layer: np.ndarray,
    y: np.ndarray,
    module: np.ndarray,
) -> None:
    from matplotlib.collections import LineCollection

    name = graph.check_strength(strength)
    edges = graph.edges(name)
    check_finite(graph, edges, name)
    top = strongest_edges(edges, len(graph.pairs), n_edges * len(graph.pairs))
    top = top[::-1]  # strong ones over weak ones
    source, target, pair = edges.source[top], edges.target[top], edges.pair[top]
    weight = np.abs(edges.weight[top])
    largest = np.zeros(len(graph.pairs))
    np.maximum.at(largest, pair, weight)
    share = np.sqrt(weight / largest[pair])
    colour = np.full((len(top), 4), _GREY)
    inside = (module[source] == module[target]) & (module[source] >= 0)
    colour[inside, :3] = module_colours(module)[source[inside]] / 255
    faint = np.clip((800 / max(len(top) / len(graph.pairs), 1)) ** 0.4, 0.3, 1)
    colour[:, 3] = np.where(inside, 0.15 + 0.75 * share, 0.08 + 0.45 * share) * faint
    order = np.argsort(inside, kind="stable")
    lines = np.stack(
        [np.stack([layer[ends], y[ends]], 1) for ends in (source[order], target[order])], 1
    )
    axes.add_collection(
        LineCollection(
            list(lines), colors=colour[order], linewidths=0.3 + 1.9 * share[order] ** 2,
            rasterized=len(top) > _MANY, zorder=1,
        )
    )  # fmt: skip


def _draw_features(
    axes: Axes,
    layer: np.ndarray,
    y: np.ndarray,
    steps: np.ndarray,
    total: np.ndarray,
    module: np.ndarray,
) -> None:
    from matplotlib.collections import PolyCollection

    most = total.max(initial=0.0)
    share = np.sqrt(total / most) if most > 0 else np.full(len(total), 0.3)
    width, step = 0.012 + 0.032 * share, steps[layer]
    # Where a feature is not much higher than a dot, gaps would only make patterns.
    height = np.where(step < _FULL, 0.5 * step, np.minimum(0.4 * step, 0.009))
    corners = np.stack(
        [
            np.stack([layer + a * width, y + b * height], 1)
            for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))
        ],
        1,
    )
    axes.add_collection(
        PolyCollection(
            list(corners),
            facecolors=module_colours(module) / 255,
            linewidths=0,
            zorder=2,
            snap=False,
        )
    )


def _name_layers(axes: Axes, graph: InteractionGraph) -> None:
    for x, (name, n) in enumerate(graph.n_features.items()):
        text = name if len(name) <= 24 else f"{name[:9]}…{name[-14:]}"
        options: dict[str, Any] = {"ha": "center", "va": "bottom", "parse_math": False}
        axes.text(x, -0.035, text, fontsize=9, fontweight="bold", **options)
        axes.text(x, -0.012, f"{n} features", fontsize=7.5, color="0.4", **options)


def _name_features(axes: Axes, graph: InteractionGraph, layer: np.ndarray, y: np.ndarray) -> None:
    """Labels beside columns that have room for them, without the layer's name."""
    for number, (name, n) in enumerate(graph.n_features.items()):
        if n > _NAMED:
            continue
        start = graph.offsets[name]
        for j, label in enumerate(graph.labels[name]):
            text = str(label).removeprefix(f"{name}:")
            text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
            text = text if len(text) <= 24 else f"{text[:23]}…"
            axes.text(
                number + 0.06, y[start + j], text, fontsize=6.5, va="center", parse_math=False,
                zorder=3,
            )  # fmt: skip


def _colour(module: int) -> tuple[float, float, float]:
    red, green, blue = module_colour(module)
    return red / 255, green / 255, blue / 255


def _name_modules(axes: Axes, partition: Partition) -> None:
    from matplotlib.patches import Patch

    sizes = partition.sizes[:_LEGEND]
    handles = [
        Patch(color=_colour(number), label=f"module {number} ({size})")
        for number, size in enumerate(sizes)
    ]
    more = partition.n_modules - len(sizes)
    if more:
        handles.append(Patch(color="none", label=f"and {more} smaller ones"))
    if handles:
        axes.legend(
            handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.0), frameon=False,
            ncols=math.ceil(len(handles) / math.ceil(len(handles) / 7)), fontsize=7.5,
            handlelength=1, handleheight=1,
        )  # fmt: skip


def plot_blocks(
    axes: Axes,
    graph: InteractionGraph,
    source: str,
    target: str,
    *,
    partition: Partition | None = None,
    strength: str | None = None,
) -> None:
    """Draws the strengths of a pair as a heat map, features ordered by module.

    Args:
        axes: where to.
        graph: the graph.
        source: source layer, the columns.
        target: target layer, the rows.
        partition: modules, for the order and the colours at the edges.
        strength: which strength; None: the graph's first. Its shade is the square root of its
            absolute value; in large layers of the mean over neighbours.

    Raises:
        InteractGraphError: no such pair or strength, or a partition of another graph.
    """
    name = graph.check_strength(strength)
    weight = graph.weights(source, target, name)
    found = node_modules(graph, partition)
    module = np.full(graph.n_nodes, -1) if found is None else found
    sizes = list(graph.n_features.values())
    order = column_order(sizes, module, graph.node_strength(name))
    columns, rows = (
        order[graph.offsets[layer] : graph.offsets[layer] + graph.n_features[layer]]
        for layer in (source, target)
    )
    numbers = rows - graph.offsets[target], columns - graph.offsets[source]
    means = np.sqrt(block_means(weight, *numbers, _BLOCKS))
    extent = (0, len(columns), len(rows), 0)
    axes.imshow(means, cmap="Blues", aspect="auto", extent=extent, interpolation="nearest", vmin=0)
    if found is not None:
        for ends, across in ((columns, True), (rows, False)):
            strip = module_colours(module[ends]).astype(np.uint8)
            box = (0, 1.01, 1, 0.03) if across else (-0.04, 0, 0.03, 1)
            inset = axes.inset_axes(box)
            inset.imshow(strip[None] if across else strip[:, None], aspect="auto")
            inset.set_axis_off()
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(f"{source} ({len(columns)} features)", parse_math=False)
    axes.set_ylabel(f"{target} ({len(rows)} features)", labelpad=20, parse_math=False)


def plot_strengths(axes: Axes, graph: InteractionGraph, *, strength: str | None = None) -> None:
    """Draws how the absolute strengths of each pair are distributed, zeros left out.

    Args:
        axes: where to.
        graph: the graph.
        strength: which strength; None: the graph's first.

    Raises:
        InteractGraphError: no such strength.
    """
    name = graph.check_strength(strength)
    ends, counts = histograms(graph, name)
    for (source, target), row in zip(graph.pairs, counts, strict=True):
        axes.stairs(row, 10**ends, label=f"{source} → {target}", linewidth=1.4)
    axes.set_xscale("log")
    axes.set_xlabel(f"|{name}|", parse_math=False)
    axes.set_ylabel("edges")
    for text in axes.legend(frameon=False, fontsize=8).get_texts():
        text.set_parse_math(False)


def plot_modules(axes: Axes, partition: Partition) -> None:
    """Draws which share of the features of each layer every module has.

    Args:
        axes: where to.
        partition: the modules; features in none are grey.
    """
    layers = partition.layers
    n = np.array([len(partition.membership[layer]) for layer in layers])
    done = np.zeros(len(layers))
    for number in [*range(partition.n_modules), -1]:
        counts = np.array([(partition.membership[layer] == number).sum() for layer in layers])
        share = np.divide(counts, n, out=np.zeros(len(n)), where=n > 0)
        axes.bar(
            np.arange(len(layers)), share, bottom=done, width=0.7,
            color=_colour(number),
        )  # fmt: skip
        done += share
    axes.set_xticks(np.arange(len(layers)), layers, parse_math=False)
    if max(map(len, layers), default=0) > 10:
        axes.tick_params(axis="x", rotation=30)
    axes.set_ylabel("share of the features")
    axes.set_ylim(0, 1)
    axes.spines[["top", "right"]].set_visible(False)
    _name_modules_beside(axes, partition)


def _name_modules_beside(axes: Axes, partition: Partition) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(color=_colour(number), label=f"{number} ({size})")
        for number, size in enumerate(partition.sizes[:_LEGEND])
    ]
    if handles:
        axes.legend(
            handles=handles, title="module (features)", loc="center left", fontsize=8,
            bbox_to_anchor=(1.0, 0.5), frameon=False, title_fontsize=8,
        )  # fmt: skip


def plot_profile(axes: Axes, profile: ResolutionProfile) -> None:
    """Draws number of modules and agreement of the runs over the resolution.

    Args:
        axes: where to; a second axis on the right is added.
        profile: what `resolution_profile` found.
    """
    resolutions = [partition.resolution for partition in profile.partitions]
    (line,) = axes.plot(
        resolutions, [partition.n_modules for partition in profile.partitions], "o-", ms=3,
        color=_colour(0), label="modules",
    )  # fmt: skip
    for plateau in profile.plateaus:
        axes.axvspan(plateau.low, plateau.high, color="0.93", zorder=0)
    right = axes.twinx()
    (other,) = right.plot(
        resolutions, [partition.agreement for partition in profile.partitions], "s--", ms=3,
        color=_colour(3), label="agreement of the runs",
    )  # fmt: skip
    axes.set_xscale("log")
    some = resolutions[:: max(len(resolutions) // 5, 1)]
    axes.set_xticks(some, [f"{resolution:.2g}" for resolution in some])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("resolution")
    axes.set_ylabel("modules")
    right.set_ylabel("agreement")
    right.set_ylim(0, 1.05)
    axes.legend(
        handles=[line, other], frameon=False, fontsize=8, ncols=2, loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
    )  # fmt: skip


def plot_curves(
    axes: Axes, curves: Mapping[str, tuple[Mapping[int, float], float]], *, x: str, y: str
) -> None:
    """Draws curves over numbers of edges or features, each with a level to compare it with.

    Args:
        axes: where to.
        curves: name -> (number -> value, level).
        x: what the numbers are.
        y: what the values are.
    """
    for name, (curve, level) in curves.items():
        (line,) = axes.plot(list(curve), list(curve.values()), marker="o", ms=3, label=name)
        axes.axhline(level, color=line.get_color(), lw=0.8, ls=":")
    axes.set_xscale("symlog")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if curves:
        axes.legend(frameon=False)
