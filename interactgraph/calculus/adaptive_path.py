"""A path that finds its nodes: few where the derivative hardly changes, many where it does.

From a baseline of zero, a normalisation makes a residual stream change almost entirely at tiny u,
where evenly spread nodes see nothing. The path is divided into panels with four Gauss-Legendre
nodes each. A panel is compared with its two halves, the one that is furthest off is replaced by
them, and so on, until all together are as close as is asked for. The first panel is divided near
zero and the others on a logarithmic scale, so that ever smaller u are reached in few steps.

The derivative along the path needs one product for each node whatever the number of features, so
that looking is cheap. What is compared are several directions at once: the path itself, whose
integral is known (completeness), and features with random signs, whose squared error is that of
all single features together on average (Hutchinson 1990).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from .path import PathRule, gauss_legendre

__all__ = ["AdaptiveRule", "adaptive_rule"]

_NODES = 4  # of a panel
_FIRST = 1 / 16  # where a panel that begins at zero is divided, as a share of it

Derivative = Callable[[float], Tensor]  # u -> [c, n]: n numbers in each of c directions


class AdaptiveRule(NamedTuple):
    """Nodes and weights that were found.

    Attributes:
        rule: of the path.
        error: estimated relative error, the largest of all directions.
        steps: the rules on the way, of ever more nodes, with their errors; the last one is `rule`.
    """

    rule: PathRule
    error: float
    steps: tuple[tuple[PathRule, float], ...] = ()


@dataclass(frozen=True, eq=False)
class _Panel:
    start: float
    end: float
    derivative: Derivative

    @property
    def rule(self) -> PathRule:
        nodes, weights = gauss_legendre(_NODES)
        length = self.end - self.start
        return PathRule(
            tuple(self.start + length * u for u in nodes), tuple(length * w for w in weights)
        )

    @cached_property
    def integral(self) -> Tensor:
        """By its own nodes, float64 `[c, n]`."""
        return self.rule.integral(lambda u: self.derivative(u).double())

    @cached_property
    def halves(self) -> tuple[_Panel, _Panel]:
        if self.start == 0:
            middle = self.end * _FIRST
        elif self.end > 4 * self.start:
            middle = (self.start * self.end) ** 0.5
        else:
            middle = (self.start + self.end) / 2
        return (
            _Panel(self.start, middle, self.derivative), _Panel(middle, self.end, self.derivative)
        )  # fmt: skip

    @cached_property
    def refined(self) -> Tensor:
        """The integral by the nodes of its halves."""
        return self.halves[0].integral + self.halves[1].integral

    @cached_property
    def unseen(self) -> Tensor:
        """What a bend between the start and the first node could hold, `[c, n]`."""
        first = self.rule.nodes[0]
        step = self.derivative(self.start).double() - self.derivative(first).double()
        return (step * (first - self.start)).nan_to_num(0.0, 0.0, 0.0)

    @cached_property
    def error(self) -> Tensor:
        """Of the integral, as the halves see it, `[c, n]`."""
        return self.integral - self.refined


def adaptive_rule(
    derivative: Derivative,
    change: Tensor,
    tolerance: float,
    most: int,
    time_left: Callable[[], bool] = lambda: True,
) -> AdaptiveRule:
    """Divides the path where that helps most, until the error is below the tolerance.

    Args:
        derivative: along the path, in the first direction, and along others, `[c, n]` at u.
        change: the integral of the first direction, which is known, `[n]`.
        tolerance: of the relative error of every direction.
        most: nodes that may be used; at least one panel is.
        time_left: whether there is time to look at more.
    """
    panels = [_Panel(0.0, 1.0, derivative)]
    change = change.double()
    steps: list[tuple[PathRule, float]] = []
    while True:
        scale = _norm(torch.stack([panel.refined for panel in panels]).sum(0))
        scale = torch.where(scale > 0, scale, 1.0)
        sizes = torch.stack([_norm(panel.error) for panel in panels])  # [panels, c]
        sizes[0] = torch.maximum(sizes[0], _norm(panels[0].unseen))
        sizes /= scale
        together = _norm(torch.stack([panel.error for panel in panels]).sum(0)) / scale
        missed = torch.stack([panel.integral[0] for panel in panels]).sum(0) - change
        known = torch.linalg.vector_norm(missed) / _positive(torch.linalg.vector_norm(change))
        estimated = float(torch.maximum(together, sizes.square().sum(0).sqrt()).max())
        error = max(estimated, float(known))
        nodes, weights = zip(*(panel.rule for panel in panels), strict=True)
        steps.append((PathRule(tuple(chain(*nodes)), tuple(chain(*weights))), error))
        if not error > tolerance or _NODES * (len(panels) + 1) > most or not time_left():
            break
        worst = int(sizes.amax(1).argmax())
        panels[worst : worst + 1] = panels[worst].halves
    return AdaptiveRule(*steps[-1], tuple(steps))


def _norm(x: Tensor) -> Tensor:
    """Of every direction, `[c]`."""
    return torch.linalg.vector_norm(x, dim=1)


def _positive(x: Tensor) -> Tensor:
    return x if x > 0 else torch.ones_like(x)
