"""The mean squared Jacobian of affine-pointwise-affine segments, without a pass per target.

Where y = B phi(A f + a) + C f + c, the Jacobian of a sample is J = B diag(g) A + C with the slopes
g = phi'(A f + a). Only the slopes differ between samples, so

    sum_b J'J = A' (B'B * sum_b g g') A + A' diag(sum_b g) B'C + (its transpose) + n C'C,

with `*` elementwise: a sample adds k^2 products for k hidden units, where one VJP for each of r
target features costs r times the products of the segment and adds r d^2 for d source neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .structure import Constants, NoClosedForm, Structure, read_structure
from .tape import NoTape, record

__all__ = ["AffineNonlinearAffine", "SlopeMoments"]


@dataclass(frozen=True, eq=False)
class AffineNonlinearAffine:
    """A function of this kind on one batch.

    Attributes:
        structure: read off the recorded function.
        constants: what does not depend on the source.
        point: source activation `[b, s, d]`.
        n_rows: target positions times target features.
    """

    structure: Structure
    constants: Constants
    point: Tensor
    n_rows: int

    @staticmethod
    def read(
        function: Callable[[Tensor], Tensor], point: Tensor, n_rows: int
    ) -> AffineNonlinearAffine | None:
        """The function, if it is affine-pointwise-affine (not affine alone).

        Args:
            function: `[b, s, d] -> [b, t, i]`.
            point: `[b, s, d]`.
            n_rows: t times i.
        """
        try:
            structure = read_structure(record(function, [point]))
        except (NoTape, NoClosedForm):
            return None
        root = structure.root
        if root is None or root.shape is None or root.shape.numel() % len(point):
            return None
        # Whether something is positive, for one, has no slope to take.
        dtypes = [node.dtype for node in structure.nonlinearities]
        if any(dtype is None or not dtype.is_floating_point for dtype in dtypes):
            return None
        return AffineNonlinearAffine(structure, structure.constants(()), point, n_rows)

    @property
    def n_hidden(self) -> int:
        """Pre-activations of a sample."""
        root = self.structure.root
        assert root is not None
        assert root.shape is not None
        return root.shape.numel() // len(self.point)

    def slopes(self, point: Tensor) -> Tensor:
        """Slopes of every nonlinearity at a point `[b, s, d]`: `[b, nonlinearities * k]`."""
        p = self.structure.preactivation(point, self.constants)
        return torch.cat(
            [
                self.structure.slope(index, p, self.constants).reshape(len(point), -1)
                for index in range(len(self.structure.nonlinearities))
            ],
            1,
        )

    def matrices(self) -> tuple[Tensor, Tensor, Tensor]:
        """A `[k, s * d]`, B `[r, nonlinearities * k]` and C `[r, s * d]`, float64."""
        with torch.enable_grad():
            z = self.point.detach().requires_grad_(True)
            p = self.structure.preactivation(z, self.constants)
            n = len(self.point)
            (before,) = zip(*_rows(p, [z], n, self.n_hidden), strict=True)
            point = self.structure.preactivation(self.point, self.constants)
            nonlinearities = [
                self.structure.nonlinearity(index, point, self.constants)
                .detach()
                .requires_grad_(True)
                for index in range(len(self.structure.nonlinearities))
            ]
            y = self.structure.after(nonlinearities, z, self.constants)
            *after, around = zip(*_rows(y, [*nonlinearities, z], n, self.n_rows), strict=True)
        stacked = [torch.cat(part).double() for part in (before, *after, around)]
        return stacked[0], torch.cat(stacked[1:-1], 1), stacked[-1]


def _rows(y: Tensor, sources: list[Tensor], n: int, n_rows: int) -> Iterator[list[Tensor]]:
    """The Jacobians of an affine map, some rows at a time, each `[rows, elements of a sample]`.

    Every one of the n samples of the batch carries another row.
    """
    for start in range(0, n_rows, n):
        n_block = min(n, n_rows - start)
        cotangents = y.new_zeros(n, n_rows)
        cotangents[torch.arange(n_block), start + torch.arange(n_block)] = 1
        gradients = torch.autograd.grad(
            y, sources, cotangents.reshape(y.shape), retain_graph=True, allow_unused=True
        )
        yield [
            (torch.zeros_like(source) if part is None else part).reshape(n, -1)[:n_block]
            for source, part in zip(sources, gradients, strict=True)
        ]


@dataclass(eq=False)
class SlopeMoments:
    """Running sum of J'J over samples and source positions.

    Attributes:
        shape: source positions and neurons (s, d).
        before: A, `[k, s * d]`.
        after: B, `[r, nonlinearities * k]`.
        around: C, `[r, s * d]`.
        slopes: sum of g over samples, `[nonlinearities * k]`.
        products: sum of g g' over samples, `[nonlinearities * k, nonlinearities * k]`.
        count: samples.
    """

    shape: tuple[int, int]
    before: Tensor
    after: Tensor
    around: Tensor
    slopes: Tensor = field(init=False)
    products: Tensor = field(init=False)
    count: int = 0

    def __post_init__(self) -> None:
        self.slopes = self.after.new_zeros(self.after.shape[1])
        self.products = self.after.new_zeros(self.after.shape[1], self.after.shape[1])

    def add(self, slopes: Tensor) -> None:
        """Adds samples with slopes `[b, nonlinearities * k]`."""
        slopes = slopes.double()
        self.slopes += slopes.sum(0)
        self.products.addmm_(slopes.mT, slopes)
        self.count += len(slopes)

    def pulled_back(self, cotangents: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
        """C'J of samples with these slopes, and the sum of the sizes of its terms.

        Args:
            cotangents: c, `[b, r]`.
            slopes: `[b, nonlinearities * k]`.

        Returns:
            Two float64 tensors `[b, s, d]`; rounding of c'J is relative to the second one.
        """
        terms = [cotangents, slopes.double(), self.before, self.after, self.around]
        moments, sizes = (
            ((c @ after * g).unflatten(1, (-1, len(before))).sum(1) @ before + c @ around)
            for c, g, before, after, around in (terms, [term.abs() for term in terms])
        )
        return moments.unflatten(1, self.shape), sizes.unflatten(1, self.shape)

    @property
    def total(self) -> Tensor:
        """The sum, `[d, d]`."""
        n_nonlinearities = self.after.shape[1] // len(self.before)
        before, around = self.before.repeat(n_nonlinearities, 1), self.around
        curved = (self.after.mT @ self.after * self.products) @ before
        crossed = self.slopes[:, None] * (self.after.mT @ around)
        # Positions meet themselves only: rows of (k, s) or (r, s) are summed over.
        by_position = [m.unflatten(1, self.shape).flatten(0, 1) for m in (before, curved, crossed)]
        outer, inner, cross = by_position
        straight = around.unflatten(1, self.shape).flatten(0, 1)
        mixed = outer.mT @ cross
        return outer.mT @ inner + mixed + mixed.mT + self.count * (straight.mT @ straight)
