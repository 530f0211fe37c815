"""Draws the pictures of gephi.md from a GEXF file alone, as `interactgraph demo` writes it.

    python docs/gephi.py interactgraph-demo/graph.gexf

They are no screenshots: matplotlib draws the positions, colours, sizes and weights that stand in
the file, and those that the steps of the guide make of them. The layout is ForceAtlas 2, in the
implementation of networkx.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import networkx
import numpy as np
from matplotlib import pyplot
from matplotlib.patches import FancyArrowPatch
from PIL import Image

HERE = Path(__file__).parent


def colour(view: networkx.DiGraph, node: str) -> tuple[float, ...]:
    """Red, green and blue of a node, 0 to 1."""
    return tuple(view.nodes[node]["viz"]["color"][c] / 255 for c in "rgb")


def placed(view: networkx.DiGraph) -> dict[str, np.ndarray]:
    """Where the file puts the nodes."""
    places = {node: viz["position"] for node, viz in view.nodes(data="viz")}
    return {node: np.array([place["x"], place["y"]]) for node, place in places.items()}


def draw(
    view: networkx.DiGraph,
    places: dict[str, np.ndarray],
    name: str,
    *,
    unit: float = 1.0,
    curved: bool = False,
) -> None:
    """Edges in the colour of their source, as wide as their weight; nodes as the file says."""
    figure, axes = pyplot.subplots(figsize=(9, 5.6), dpi=100)
    largest = max((w for *_, w in view.edges(data="weight")), default=1.0)
    for source, target, weight in sorted(view.edges(data="weight"), key=lambda edge: edge[2]):
        arrow = FancyArrowPatch(
            places[source], places[target], arrowstyle="-",
            connectionstyle="arc3,rad=0.15" if curved else "arc3",
            linewidth=0.2 + 2.5 * weight / largest, color=colour(view, source), alpha=0.45,
        )  # fmt: skip
        axes.add_patch(arrow)
    points = np.array([places[node] for node in view])
    radius = np.array([view.nodes[node]["viz"]["size"] for node in view])
    axes.scatter(
        *points.T, s=(1.6 * unit * radius) ** 2, c=[colour(view, node) for node in view],
        edgecolors="white", linewidths=0.4, zorder=3,
    )  # fmt: skip
    margin = 0.05 * np.ptp(points, axis=0)
    axes.set_xlim(points[:, 0].min() - margin[0], points[:, 0].max() + margin[0])
    axes.set_ylim(points[:, 1].min() - margin[1], points[:, 1].max() + margin[1])
    axes.axis("off")
    figure.tight_layout(pad=0)
    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    picture.quantize(96).save(HERE / f"{name}.png", optimize=True)
    pyplot.close(figure)


def strongest(view: networkx.DiGraph, share: float) -> networkx.DiGraph:
    """Edges of at least this share of the largest weight, and the nodes that keep one."""
    largest = max(w for *_, w in view.edges(data="weight"))
    kept = [(a, b) for a, b, w in view.edges(data="weight") if w >= share * largest]
    return view.edge_subgraph(kept).copy()


def force_atlas(view: networkx.DiGraph) -> dict[str, np.ndarray]:
    """The layout of ForceAtlas 2, from where the file puts the nodes."""
    both = view.to_undirected()
    mean = np.mean([weight for *_, weight in both.edges(data="weight")])
    for *_, values in both.edges(data=True):
        values["weight"] /= mean
    return networkx.forceatlas2_layout(
        both, pos=placed(view), max_iter=500, scaling_ratio=10.0, gravity=0.5, weight="weight",
        seed=0,
    )  # fmt: skip


def main() -> None:
    """Draws all three."""
    view = networkx.read_gexf(sys.argv[1])
    draw(view, placed(view), "gephi-opened")
    few = strongest(view, 0.05)
    draw(few, placed(few), "gephi-filtered")
    draw(few, force_atlas(few), "gephi-figure", curved=True, unit=1.3)


if __name__ == "__main__":
    main()
