"""The closed form: the path integral without quadrature.

Where a function is affine-pointwise-affine, y = L2 phi(L1 z) + L3 z + c, the pre-activation moves
on a straight line with z, so the path integral of phi' is the secant slope
g_k = (phi(p1_k) - phi(p0_k)) / (p1_k - p0_k) and

    A[b,t,i,j] = sum_s [L2 diag(g) L1 + L3][b,t,i,s,j] (z - z0)[b,s,j]

exactly. The same lines with slopes phi'(p1) give gradient x activation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .path import StraightPath
from .rounding import is_close
from .secant import secant_slope
from .structure import Constants, NoClosedForm, Structure

__all__ = ["SecantFunction", "at_point", "check_structure", "nonlinearity_of", "straighten"]


@dataclass(frozen=True, eq=False)
class SecantFunction:
    """A function on one batch with its nonlinearity replaced by secants: affine in z.

    Attributes:
        structure: what the function computes.
        constants: values that do not depend on z.
        lines: (h0, slope, p0) of each nonlinearity.
    """

    structure: Structure
    constants: Constants
    lines: tuple[tuple[Tensor, Tensor, Tensor], ...]

    def __call__(self, z: Tensor) -> Tensor:
        """`[b, s, j] -> [b, t, i]`; with secants, the function's value at both ends of the path."""
        return self.structure.affine(z, self.constants, self.lines)


def straighten(
    structure: Structure,
    inputs: Sequence[Tensor],
    path: StraightPath,
    slopes_at: float | None = None,
    *,
    constants: Constants | None = None,
) -> SecantFunction:
    """Finds the slopes of a batch.

    Args:
        structure: of the function, recorded with these shapes.
        inputs: tensors of the batch.
        path: from the baseline to the sample.
        slopes_at: the point u of the path whose slopes are taken; None: their averages over it.
        constants: values that do not depend on z; None: not known yet.
    """
    if constants is None:
        constants = structure.constants(inputs)
    if structure.root is None:
        return SecantFunction(structure, constants, ())
    p0 = structure.preactivation(path.start, constants)
    # L1 (z - z0) rather than p1 - p0: no digits are lost where the two nearly meet.
    dp: Tensor = torch.func.jvp(
        lambda z: structure.preactivation(z, constants), (path.start,), (path.displacement,)
    )[1]
    lines = []
    for index in range(len(structure.nonlinearities)):
        phi = nonlinearity_of(structure, index, constants)
        if slopes_at is None:
            slope = secant_slope(phi, p0, dp, scalar=structure.is_scalar(index, constants))
        else:
            slope = structure.slope(index, p0 + slopes_at * dp, constants)
        lines.append((phi(p0), slope, p0))
    return SecantFunction(structure, constants, tuple(lines))


def at_point(structure: Structure, point: Tensor, constants: Constants) -> SecantFunction:
    """The function with its nonlinearity replaced by tangents at a point, `[b, s, j]`."""
    lines = []
    if structure.root is not None:
        p = structure.preactivation(point, constants)
        for index in range(len(structure.nonlinearities)):
            phi = nonlinearity_of(structure, index, constants)
            lines.append((phi(p), structure.slope(index, p, constants), p))
    return SecantFunction(structure, constants, tuple(lines))


def nonlinearity_of(
    structure: Structure, index: int, constants: Constants
) -> Callable[[Tensor], Tensor]:
    """Phi of one nonlinearity as a function of the pre-activation."""
    return lambda p: structure.nonlinearity(index, p, constants)


def check_structure(
    structure: Structure,
    inputs: Sequence[Tensor],
    path: StraightPath,
    function: Callable[[Tensor], Tensor],
    seed: int = 0,
) -> None:
    """Compares the structure with forward mode on a batch: same value, same derivative on the path.

    The derivative of the function at a point of the path must be that of the affine maps with
    phi' at this point as slopes. No quadrature is involved, so the two agree to rounding.

    Args:
        structure: what was read off the recorded function.
        inputs: tensors of the batch.
        path: from the baseline to the sample.
        function: the function itself.
        seed: of the random point and direction.

    Raises:
        NoClosedForm: they disagree.
    """
    generator = torch.Generator().manual_seed(seed)
    constants = structure.constants(inputs)
    point = path.at(float(torch.rand((), generator=generator)))
    # The scale of z - z0 where it moves, a little everywhere, so that every coefficient is seen.
    scale = path.displacement.abs().mean() + 1e-3
    tangent = torch.randn(point.shape, generator=generator).to(point) * scale
    straight = at_point(structure, point, constants)
    expected = torch.func.jvp(function, (point,), (tangent,))
    found = torch.func.jvp(straight, (point,), (tangent,))
    for what, a, b in zip(("value", "derivative"), found, expected, strict=True):
        if not is_close(a, b):
            raise NoClosedForm(f"its {what} disagrees with forward mode on the first batch")
