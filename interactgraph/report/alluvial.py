"""Modules across depth as an alluvial diagram.

M. Rosvall and C. T. Bergstrom, Mapping change in large networks, PLoS ONE 5, e8694, 2010.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..exporters.palette import module_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.path import Path

    from ..communities import ModuleFlow

__all__ = ["flow_boxes", "plot_flow"]

_WIDTH = 0.07  # of a box, in columns
_GAP = 0.15  # of the height of a column, for all gaps together
_FAINT = 0.004  # share of a pair's strength below which a band is not drawn
_NAMED = 0.03  # height of a box that holds its number

Boxes = dict[str, dict[int, tuple[float, float]]]


def flow_boxes(flow: ModuleFlow) -> Boxes:
    """Layer -> module -> bottom and height of its box, largest module numbers at the bottom.

    A box is as high as the module's share of what leaves the layer and of what enters it, mean of
    both where there are both.
    """
    boxes: Boxes = {}
    for layer in flow.layers:
        shares = []
        for (source, target), block in flow.blocks.items():
            if (total := block.sum()) > 0 and layer in (source, target):
                shares.append(block.sum(0 if layer == source else 1) / total)
        if not shares:
            boxes[layer] = {}
            continue
        height = np.mean(shares, axis=0)
        there = np.flatnonzero(height > 0)
        gap = _GAP / max(len(there) - 1, 1)
        bottom, boxes[layer] = 1.0, {}
        for place in there.tolist():
            size = (1 - _GAP if len(there) > 1 else 1.0) * float(height[place])
            module = -1 if place == len(height) - 1 else place
            boxes[layer][module] = (bottom - size, size)
            bottom -= size + gap
    return boxes


def plot_flow(axes: Axes, flow: ModuleFlow) -> None:
    """Draws layers as columns, modules as boxes, and strength between them as bands.

    At both ends a band takes the share that it has of its box. Bands within a module have its
    colour, others are grey; features in no module are the grey box. Only pairs of layers that are
    neighbours in the picture are drawn.

    Args:
        axes: where to.
        flow: strength between the modules of pairs of layers.
    """
    boxes = flow_boxes(flow)
    column = {layer: number for number, layer in enumerate(flow.layers)}
    for pair in flow.blocks:
        if column[pair[1]] - column[pair[0]] == 1:
            _draw_bands(axes, flow, pair, boxes, column[pair[0]])
    for layer, of_layer in boxes.items():
        _draw_boxes(axes, of_layer, column[layer])
        text = layer if len(layer) <= 24 else f"{layer[:9]}…{layer[-14:]}"
        axes.text(
            column[layer], 1.02, text, ha="center", va="bottom", fontsize=9, fontweight="bold",
            parse_math=False,
        )  # fmt: skip
    axes.set_xlim(-0.3, max(len(flow.layers) - 1, 0) + 0.3)
    axes.set_ylim(-0.02, 1.1)
    axes.set_axis_off()


def _draw_boxes(axes: Axes, boxes: dict[int, tuple[float, float]], x: int) -> None:
    from matplotlib.patches import Rectangle

    for module, (bottom, height) in boxes.items():
        axes.add_patch(
            Rectangle(
                (x - _WIDTH / 2, bottom), _WIDTH, height, facecolor=_colour(module), linewidth=0,
                zorder=2,
            )
        )  # fmt: skip
        if height >= _NAMED and module >= 0:
            axes.text(
                x, bottom + height / 2, str(module), ha="center", va="center", fontsize=7,
                color="white" if sum(_colour(module)) < 1.9 else "black", zorder=3,
            )  # fmt: skip


def _draw_bands(axes: Axes, flow: ModuleFlow, pair: tuple[str, str], boxes: Boxes, x: int) -> None:
    """The bands of a pair; at each box they are ordered by the box at their other end."""
    from matplotlib.patches import PathPatch

    block = flow.blocks[pair]
    total = block.sum()
    if total <= 0:
        return
    starts = _ends(block.T, boxes[pair[0]])
    ends = _ends(block, boxes[pair[1]])
    for (n, m), value in np.ndenumerate(block):
        if value < _FAINT * total:
            continue
        left, right = starts[m, n], ends[n, m]
        inside = n == m and n < len(block) - 1
        axes.add_patch(
            PathPatch(
                _band(x + _WIDTH / 2, x + 1 - _WIDTH / 2, *left, *right),
                facecolor=_colour(n) if inside else (0.55, 0.55, 0.55), linewidth=0,
                alpha=0.55 if inside else 0.25, zorder=1,
            )
        )  # fmt: skip


def _ends(block: np.ndarray, boxes: dict[int, tuple[float, float]]) -> np.ndarray:
    """Top and bottom of every band at the boxes of its rows, `[rows, columns, 2]`."""
    ends = np.zeros((*block.shape, 2))
    for row, values in enumerate(block):
        module = -1 if row == len(block) - 1 else row
        if module not in boxes or values.sum() <= 0:
            continue
        bottom, height = boxes[module]
        done = np.append(0.0, np.cumsum(values)) / values.sum()
        ends[row, :, 0] = bottom + height * (1 - done[:-1])
        ends[row, :, 1] = bottom + height * (1 - done[1:])
    return ends


def _band(
    left: float, right: float, left_top: float, left_bottom: float, right_top: float,
    right_bottom: float,
) -> Path:  # fmt: skip
    from matplotlib.path import Path

    middle = (left + right) / 2
    points = [
        (left, left_top), (middle, left_top), (middle, right_top), (right, right_top),
        (right, right_bottom), (middle, right_bottom), (middle, left_bottom), (left, left_bottom),
        (left, left_top),
    ]  # fmt: skip
    codes = [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3, Path.CLOSEPOLY]
    return Path(points, codes)


def _colour(module: int) -> tuple[float, float, float]:
    red, green, blue = module_colour(module)
    return red / 255, green / 255, blue / 255
