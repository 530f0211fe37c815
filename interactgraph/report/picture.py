"""One picture of a graph: layers as columns, features coloured by module, strongest edges."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InteractGraphError
from ..exporters.table import tabulate
from ..files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..communities import Partition
    from ..graph import InteractionGraph

__all__ = ["draw", "draw_curves"]

_FORMATS = (".png", ".svg", ".pdf")


def draw(
    graph: InteractionGraph,
    path: str | os.PathLike[str],
    *,
    partition: Partition | None = None,
    strength: str | None = None,
    n_edges: int = 400,
) -> Path:
    """Draws a graph.

    Args:
        graph: the graph.
        path: a .png, .svg or .pdf file.
        partition: modules, for the colours; edges inside a module have its colour, others are grey.
        strength: which strength is the weight; None: the graph's first.
        n_edges: how many edges of each pair of layers are drawn, the strongest ones.

    Returns:
        The file.

    Raises:
        InteractGraphError: matplotlib is not installed, or the path cannot be written.
    """
    path = Path(path)
    figure = _figure(path, (3.2 * max(len(graph.layers), 2), 7))
    from matplotlib.collections import LineCollection

    strength = graph.check_strength(strength)
    shown = graph.prune(top_k=n_edges, strength=strength)
    # Nodes from the whole graph, so that sizes and order do not depend on the edges drawn.
    table = tabulate(graph, partition, strength, str)
    edges = shown.edges(strength)

    axes = figure.add_subplot()
    weight = np.abs(edges.weight)
    largest = np.ones(len(graph.pairs))
    np.maximum.at(largest, edges.pair, 0)
    for pair in range(len(graph.pairs)):
        of_pair = edges.pair == pair
        largest[pair] = weight[of_pair].max() if of_pair.any() else 1.0
    share = weight / largest[edges.pair]
    order = np.argsort(share)
    source, target, share = edges.source[order], edges.target[order], share[order]
    colours = np.full((len(source), 4), 0.55)
    if table.module is not None:
        same = (table.module[source] == table.module[target]) & (table.module[source] >= 0)
        colours[same, :3] = table.colour[source[same]] / 255
    colours[:, 3] = 0.15 + 0.75 * share
    x, y = table.x, table.y
    lines = np.stack([np.stack([x[source], y[source]], 1), np.stack([x[target], y[target]], 1)], 1)
    axes.add_collection(LineCollection(list(lines), colors=colours, linewidths=0.3 + 2 * share))
    axes.scatter(x, y, s=(table.size * 1.6) ** 2 / 4, c=table.colour / 255, zorder=2, linewidths=0)
    top = float(y.max(initial=0.0))
    for layer in graph.layers:
        start = graph.offsets[layer]
        if graph.n_features[layer]:
            axes.annotate(
                f"{layer} ({graph.n_features[layer]})", (x[start], top), (0, 14),
                textcoords="offset points", ha="center",
            )  # fmt: skip
    axes.autoscale_view()
    axes.margins(0.06)
    axes.set_axis_off()
    title = f"{strength}: the {n_edges} strongest edges of each pair"
    if partition is not None:
        title += f"; colours: {len(partition.modules)} modules"
    figure.suptitle(title, fontsize=10)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=150)
    return path


def draw_curves(
    curves: Mapping[str, tuple[Mapping[int, float], float]],
    path: str | os.PathLike[str],
    *,
    x: str,
    y: str,
) -> Path:
    """Draws curves over numbers of edges or features, each with a level to compare it with.

    Args:
        curves: name -> (number -> value, level).
        path: a .png, .svg or .pdf file.
        x: what the numbers are.
        y: what the values are.

    Returns:
        The file.

    Raises:
        InteractGraphError: matplotlib is not installed, or the path cannot be written.
    """
    path = Path(path)
    figure = _figure(path, (6.4, 4.4))
    axes = figure.add_subplot()
    for name, (curve, level) in curves.items():
        (line,) = axes.plot(list(curve), list(curve.values()), marker="o", ms=3, label=name)
        axes.axhline(level, color=line.get_color(), lw=0.8, ls=":")
    axes.set_xscale("symlog")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.legend(frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=150)
    return path


def _figure(path: Path, size: tuple[float, float]) -> Figure:
    if path.suffix.lower() not in _FORMATS:
        raise InteractGraphError(f"cannot draw {path}: the suffix must be one of {_FORMATS}")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InteractGraphError(
            "pictures need matplotlib; install it with: pip install 'interactgraph[report]'"
        ) from error
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
