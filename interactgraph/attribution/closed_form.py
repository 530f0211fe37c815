"""The closed form: the path integral without quadrature.

Where a segment is affine-pointwise-affine, y = L2 phi(L1 z) + L3 z + c, the pre-activation moves on
a straight line with z, so the path integral of phi' is the secant slope
g_k = (phi(p1_k) - phi(p0_k)) / (p1_k - p0_k) and

    A[b,t,i,j] = sum_s [L2 diag(g) L1 + L3][b,t,i,s,j] (z - z0)[b,s,j]

exactly. The same lines with slopes phi'(p1) give gradient x activation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..model.structure import Held, NoClosedForm, Structure
from .forward import jvps
from .problem import FeatureFunction, PairProblem
from .secant import secant_slope

__all__ = ["StraightSegment", "check_structure", "straighten"]


@dataclass(frozen=True, eq=False)
class StraightSegment:
    """The segment of one batch with its pointwise function replaced by secants: affine in z.

    Attributes:
        structure: what the segment computes.
        held: values that do not depend on z.
        lines: (h0, slope, p0) of each bend.
        p0: pre-activation at the baseline, as traced; None if the segment is affine.
    """

    structure: Structure
    held: Held
    lines: tuple[tuple[Tensor, Tensor, Tensor], ...]
    p0: Tensor | None

    def __call__(self, z: Tensor) -> Tensor:
        """`[b, s, j] -> [b, t, i]`, equal to the segment at both ends of the path."""
        return self.structure.affine(z, self.held, self.lines)

    def problem(self, problem: PairProblem) -> PairProblem:
        """The same problem with the straight function: any one path node is exact for it."""
        return replace(problem, function=self, taped=None)


def straighten(
    structure: Structure, inputs: Sequence[Tensor], problem: PairProblem, *, gradient: bool = False
) -> StraightSegment:
    """Finds the slopes of a batch.

    Args:
        structure: of the segment, traced with these shapes.
        inputs: tensors of the batch.
        problem: the pair on the batch.
        gradient: slopes at the sample instead of averages over the path.
    """
    held = structure.prepare(inputs)
    if structure.root is None:
        return StraightSegment(structure, held, (), None)
    z0 = problem.z - problem.dz
    p0 = structure.preactivation(z0, held)
    # L1 (z - z0) rather than p1 - p0: no digits are lost where the two nearly meet.
    dp = jvps(lambda z: structure.preactivation(z, held), z0, problem.dz[None])[0]
    lines = []
    for index in range(len(structure.bends)):
        phi = bend_function(structure, index, held)
        if gradient:
            slope = structure.slope(index, p0 + dp, held)
        else:
            slope = secant_slope(phi, p0, dp, scalar=structure.is_scalar_bend(index, held))
        lines.append((phi(p0), slope, p0))
    return StraightSegment(structure, held, tuple(lines), p0)


def bend_function(structure: Structure, index: int, held: Held) -> Callable[[Tensor], Tensor]:
    """Phi of one bend as a function of the pre-activation."""
    return lambda p: structure.bend(index, p, held)


def check_structure(
    structure: Structure,
    inputs: Sequence[Tensor],
    problem: PairProblem,
    function: FeatureFunction,
    seed: int = 0,
) -> None:
    """Compares the structure with forward mode on a batch: same value, same derivative on the path.

    The derivative of the segment at a point of the path must be that of the affine maps with
    phi' at this point as slopes. No quadrature is involved, so the two agree to rounding.

    Args:
        structure: what was read off the traced segment.
        inputs: tensors of the batch.
        problem: the pair on the batch.
        function: the segment itself.
        seed: of the random point and direction.

    Raises:
        NoClosedForm: they disagree.
    """
    generator = torch.Generator().manual_seed(seed)
    held = structure.prepare(inputs)
    point = problem.at(float(torch.rand((), generator=generator)))
    # The scale of z - z0 where it moves, a little everywhere, so that every coefficient is seen.
    scale = problem.dz.abs().mean() + 1e-3
    noise = torch.randn(problem.z.shape, generator=generator).to(problem.z)
    tangent = noise * scale
    lines = []
    if structure.root is not None:
        p = structure.preactivation(point, held)
        for index in range(len(structure.bends)):
            phi = bend_function(structure, index, held)
            lines.append((phi(p), structure.slope(index, p, held), p))
    straight = StraightSegment(structure, held, tuple(lines), None)
    expected = torch.func.jvp(function, (point,), (tangent,))
    found = torch.func.jvp(straight, (point,), (tangent,))
    tolerance = 1e-3 if problem.z.dtype != torch.float64 else 1e-9
    for what, a, b in zip(("value", "derivative"), found, expected, strict=True):
        largest = b.abs().max()
        if not bool((a - b).abs().max() <= tolerance * largest + 1e-30):
            raise NoClosedForm(f"its {what} disagrees with forward mode on the first batch")
