"""Pictures as files, or on axes of a figure that is shown."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InteractGraphError
from ..files import replacing
from .axes import plot_curves, plot_graph

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..communities import Partition
    from ..graph import InteractionGraph

__all__ = ["draw", "draw_curves", "graph_size", "picture"]

_FORMATS = (".png", ".svg", ".pdf")
_Size = tuple[float, float]


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
    name = graph.check_strength(strength) if graph.pairs else "no edges"

    def paint(axes: Axes) -> None:
        plot_graph(axes, graph, partition=partition, strength=strength, n_edges=n_edges)
        title = f"{name}: the {n_edges} strongest edges of each pair"
        if partition is not None:
            title += f"; colours: {len(partition.modules)} modules"
        axes.set_title(title, fontsize=9, color="0.35", parse_math=False)

    picture(paint, graph_size(graph), path)
    return Path(path)


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
    picture(lambda axes: plot_curves(axes, curves, x=x, y=y), (6.4, 4.4), path)
    return Path(path)


def graph_size(graph: InteractionGraph) -> _Size:
    """Inches in which the columns of a graph can be told apart."""
    return min(max(2.4 * len(graph.layers), 6.4), 30.0), 7.0


def picture(
    paint: Callable[[Axes], None],
    size: _Size,
    path: str | os.PathLike[str] | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Paints on given axes, or on those of a new figure, and writes the figure to a file.

    Args:
        paint: draws on axes.
        size: of a new figure, in inches.
        path: a .png, .svg or .pdf file; None: nothing is written.
        axes: where to; None: those of a new figure, which is one of pyplot, so that notebooks show
            it, unless it is only written.

    Returns:
        The axes.

    Raises:
        InteractGraphError: matplotlib is not installed, or the path cannot be written.
    """
    file = None if path is None else Path(path)
    if file is not None and file.suffix.lower() not in _FORMATS:
        raise InteractGraphError(f"cannot draw {file}: the suffix must be one of {_FORMATS}")
    if axes is None:
        axes = _new_axes(size, shown=file is None)
    paint(axes)
    if file is not None:
        with replacing(file) as temporary:
            axes.figure.canvas.print_figure(temporary, format=file.suffix[1:].lower(), dpi=150)
    return axes


def _new_axes(size: _Size, shown: bool) -> Axes:
    try:
        if shown:
            from matplotlib import pyplot

            return pyplot.subplots(figsize=size, layout="constrained")[1]
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InteractGraphError(
            "pictures need matplotlib; install it with: pip install 'interactgraph[report]'"
        ) from error
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure.add_subplot()
