"""The closed form with explicit matrices, for segments that treat positions alike.

Where L1, L2 and L3 act on the feature axis only, they are matrices W1 `[k, j]`, W2 `[i, k]`,
W3 `[i, j]`, and no pass through the segment is needed:

- *one matrix*: A[b,t,i,j] = left[b,t,i] W[i,j] right[b,t,j]. Then sum A^2 is
  W^2 * (left^2)' (right^2): one matrix product per strength for any number of samples.
- *two matrices*: A[b,t,i,j] = (sum_k W2[i,k] g[b,t,k] W1[k,j] + W3[i,j]) dz[b,t,j].

That the maps are such matrices is verified with random vectors: two linear maps that agree on a
random vector are equal with probability one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .derivatives import jvps
from .path import StraightPath
from .rounding import tolerance
from .secant import derivative, secant_slope
from .secant_lines import nonlinearity_of
from .structure import Constants, Structure

__all__ = ["DenseMaps", "Factors", "Slopes", "dense_maps", "one_row"]

_BASIS_ROWS = 1024


@dataclass(frozen=True, eq=False)
class Factors:
    """A on a batch as left[b,t,i] W[i,j] right[b,t,j], and sum_j A for its completeness."""

    left: Tensor | None
    right: Tensor
    total: Tensor


class Slopes(NamedTuple):
    """Of the nonlinearity on a batch.

    Attributes:
        g: slopes, `[b, s, k]`.
        dp: displacements of the pre-activation, `[b, s, k]`.
    """

    g: Tensor
    dp: Tensor


@dataclass(frozen=True, eq=False)
class DenseMaps:
    """Explicit matrices of a segment.

    Attributes:
        structure: what the segment computes.
        constants: values that do not depend on z or on the batch.
        before: W1 `[k, j]`; None: the segment is affine.
        after: W2 `[i, k]`; None: the target is the pointwise function itself, i = k.
        skip: W3 `[i, j]`; None: zero.
        to_traced: pre-activation `[b, s, k]` -> the shape in which it was traced.
        from_traced: the way back.
        p0: pre-activation at a baseline that is the same for all samples, `[1 or b, s, k]`.
        bias: constant part of the pre-activation, `[1 or b, s, k]`.
    """

    structure: Structure
    constants: Constants
    before: Tensor | None
    after: Tensor | None
    skip: Tensor | None
    to_traced: Callable[[Tensor], Tensor]
    from_traced: Callable[[Tensor], Tensor]
    p0: Tensor | None = None
    bias: Tensor | None = None

    @property
    def portable(self) -> bool:
        """Whether the matrices serve batches with any number of samples, not only as traced."""
        if self.before is None:
            return True
        return self.structure.is_scalar(0, self.constants) and (
            self.bias is None or self.bias.shape[0] == 1
        )

    @property
    def one_map(self) -> Tensor | None:
        """The matrix W `[i, j]` where A has the form left W right, else None."""
        if self.before is None:
            return self.skip
        if self.after is None:
            return self.before if self.skip is None else None
        if self.skip is None and self._diagonal is not None:
            return self.after * self._diagonal
        return None

    @property
    def _diagonal(self) -> Tensor | None:
        """W1 as a vector where it is diagonal: a pointwise function of the source features."""
        if self.before is None or self.before.shape[0] != self.before.shape[1]:
            return None
        diagonal = self.before.diagonal()
        return diagonal if torch.equal(self.before, torch.diag(diagonal)) else None

    def slopes(self, path: StraightPath, slopes_at: float | None = None) -> Slopes | None:
        """Of the pre-activation; None: the segment is affine.

        Args:
            path: from the baseline to the sample.
            slopes_at: the point u of the path whose slopes are taken; None: their averages over it.
        """
        if self.before is None:
            return None
        dp = path.displacement @ self.before.mT
        p0 = self.p0
        if p0 is None:
            assert self.bias is not None
            p0 = path.start @ self.before.mT + self.bias
        phi = nonlinearity_of(self.structure, 0, self.constants)
        if self.structure.is_scalar(0, self.constants):
            if slopes_at is None:
                return Slopes(secant_slope(phi, p0, dp), dp)
            return Slopes(derivative(phi, p0 + slopes_at * dp), dp)
        p0_traced, dp_traced = self.to_traced(p0.expand_as(dp)), self.to_traced(dp)
        if slopes_at is None:
            slope = secant_slope(phi, p0_traced, dp_traced, scalar=False)
        else:
            slope = derivative(phi, p0_traced + slopes_at * dp_traced)
        return Slopes(self.from_traced(slope), dp)

    def factors(self, path: StraightPath, slopes_at: float | None = None) -> Factors:
        """A as a product, where there is `one_map`; arguments as for `slopes`."""
        dz = path.displacement
        slopes = self.slopes(path, slopes_at)
        if slopes is None:
            assert self.skip is not None
            return Factors(None, dz, dz @ self.skip.mT)
        slope, dp = slopes
        if self.after is None:
            return Factors(slope, dz, slope * dp)
        return Factors(None, slope * dz, (slope * dp) @ self.after.mT)

    def total(self, path: StraightPath, slopes: Slopes | None) -> Tensor:
        """sum_j A, `[b, t, i]`, from what `slopes` gave."""
        around = None if self.skip is None else path.displacement @ self.skip.mT
        if slopes is None:
            assert around is not None
            return around
        moved = slopes.g * slopes.dp
        if self.after is not None:
            moved = moved @ self.after.mT
        return moved if around is None else moved + around

    def blocks(
        self, path: StraightPath, slopes: Slopes | None, samples: int
    ) -> Iterator[tuple[slice, Tensor]]:
        """A for a few samples at a time, `[b, t, i, j]`.

        Args:
            path: from the baseline to the sample.
            slopes: from `slopes`.
            samples: at a time.

        Yields:
            Which samples, and their A.
        """
        for start in range(0, len(path.end), samples):
            span = slice(start, min(start + samples, len(path.end)))
            yield span, self._jacobian(slopes, span) * path.displacement[span, :, None, :]

    def _jacobian(self, slopes: Slopes | None, span: slice) -> Tensor:
        """The Jacobian of some samples with these slopes, `[b or 1, t or 1, i, j]`."""
        if slopes is None or self.before is None:
            assert self.skip is not None
            return self.skip[None, None]
        g = slopes.g[span]
        if self.after is None:
            through = g[..., None] * self.before
        else:
            through = (g[..., None, :] * self.after) @ self.before
        return through if self.skip is None else through + self.skip

    def block_bytes(self, path: StraightPath, n_targets: int) -> int:
        """Working memory of `blocks` for one sample."""
        _, n_positions, n_sources = path.end.shape
        n_hidden = 0 if self.before is None or self.after is None else self.before.shape[0]
        per_position = n_targets * (n_hidden + 2 * n_sources)
        return path.end.element_size() * n_positions * per_position


def dense_maps(
    structure: Structure,
    inputs: Sequence[Tensor],
    path: StraightPath,
    shape: Sequence[int],
    *,
    common_start: bool,
    seed: int = 0,
) -> DenseMaps | None:
    """The matrices of a segment, None where it has none that hold for every position and batch.

    Args:
        structure: what it computes.
        inputs: tensors of the batch.
        path: from the baseline to the sample.
        shape: of its result, `[b, t, i]`.
        common_start: whether the baseline is the same for all samples of all batches.
        seed: of the random vectors that the matrices are verified with.
    """
    same_positions = tuple(path.end.shape[:2]) == tuple(shape[:2])
    if not structure.fixed_maps or not same_positions or len(structure.nonlinearities) > 1:
        return None
    constants = structure.constants(inputs)
    z, n_targets = path.end, shape[2]
    generator = torch.Generator().manual_seed(seed)
    guesses = [x for x in structure.coefficients(constants) if x.ndim == 2]

    def matrix(linear: _Reshape, like: Tensor, n_out: int) -> Tensor | None:
        return _matrix(linear, like, n_out, guesses, generator)

    def derivative_of(function: _Reshape) -> _Reshape:
        return lambda tangents: jvps(function, z, tangents)

    if structure.root is None:
        skip = matrix(derivative_of(lambda x: structure.affine(x, constants, ())), z, n_targets)
        if skip is None:
            return None
        return DenseMaps(structure, constants, None, None, skip, _same, _same)
    p = structure.preactivation(z, constants)
    h = structure.nonlinearity(0, p, constants)
    into = derivative_of(lambda x: structure.preactivation(x, constants))
    for to_traced, from_traced in _layouts(p, z.shape[0], z.shape[1]):

        def before(v: Tensor, from_traced: _Reshape = from_traced) -> Tensor:
            return torch.vmap(from_traced)(into(v))

        def after(v: Tensor, to_traced: _Reshape = to_traced) -> Tensor:
            return jvps(lambda x: structure.after([x], z, constants), h, torch.vmap(to_traced)(v))

        p_like = from_traced(p)
        w1 = matrix(before, z, p_like.shape[2])
        w2 = None if w1 is None else matrix(after, p_like, n_targets)
        if w1 is None or w2 is None:
            continue
        w3 = None
        if structure.skips():
            w3 = matrix(derivative_of(lambda x: structure.after([h], x, constants)), z, n_targets)
            if w3 is None:
                continue
        bias = one_row(from_traced(structure.preactivation(torch.zeros_like(z), constants)))
        p0 = None
        if common_start:
            p0 = one_row(from_traced(structure.preactivation(path.start, constants)))
        eye = torch.eye(w2.shape[0], w2.shape[1], dtype=w2.dtype, device=w2.device)
        identity = w2.shape[0] == w2.shape[1] and torch.equal(w2, eye)
        after_map = None if identity else w2
        return DenseMaps(structure, constants, w1, after_map, w3, to_traced, from_traced, p0, bias)
    return None


_Reshape = Callable[[Tensor], Tensor]


def one_row(x: Tensor) -> Tensor:
    """The first row `[1, ...]` where all are equal, else `x`."""
    return x[:1].clone() if torch.equal(x, x[:1].expand_as(x)) else x


def _same(x: Tensor) -> Tensor:
    return x


def _layouts(p: Tensor, n_samples: int, n_positions: int) -> Iterator[tuple[_Reshape, _Reshape]]:
    """Ways to read a traced pre-activation as `[b, s, k]`: features last, or channels first."""
    if p.numel() == 0 or p.numel() % (n_samples * n_positions):
        return
    yield (
        lambda x: x.reshape(p.shape),
        lambda x: x.reshape(n_samples, n_positions, -1),
    )
    if p.ndim >= 3 and p.shape[0] == n_samples and p[0, 0].numel() == n_positions:
        yield (
            lambda x: x.movedim(-1, 1).reshape(p.shape),
            lambda x: x.reshape(n_samples, -1, n_positions).movedim(1, -1),
        )


def _matrix(
    linear: _Reshape,
    like: Tensor,
    n_out: int,
    guesses: Sequence[Tensor],
    generator: torch.Generator,
) -> Tensor | None:
    """The matrix `[out, in]` of a linear map that acts on the feature axis only, or None.

    Args:
        linear: many tangents at a time, `[c, b, s, in] -> [c, b, s, out]`.
        like: an example of one tangent, `[b, s, in]`.
        n_out: its output features.
        guesses: matrices that may be it or its transpose; a wrong guess costs one product.
        generator: of the random vectors that a matrix is verified with.
    """
    n_samples, n_positions, n_in = like.shape
    probe = torch.randn(like.shape, generator=generator).to(like)
    image = linear(probe[None])[0]
    if tuple(image.shape) != (n_samples, n_positions, n_out):
        return None

    def agrees(expected: Tensor, level: str) -> bool:
        scale = expected.abs().max() + torch.finfo(like.dtype).tiny
        return bool((image - expected).abs().max() <= tolerance(level, like.dtype) * scale)

    if n_in == n_out and torch.equal(image, probe):
        return torch.eye(n_in, dtype=like.dtype, device=like.device)
    for guess in guesses:
        for matrix in (guess, guess.mT):
            fits = matrix.shape == (n_out, n_in) and matrix.dtype == like.dtype
            if fits and agrees(probe @ matrix.mT, "products"):
                return matrix
    # Every sample and position can carry another basis vector; few samples take several tangents.
    rows = n_samples * n_positions
    tangents = max(1, min(_BASIS_ROWS, n_in) // rows)
    columns = []
    for start in range(0, n_in, rows * tangents):
        n_here = min(rows * tangents, n_in - start)
        basis = like.new_zeros(rows * tangents, n_in)
        index = torch.arange(n_here, device=like.device)
        basis[index, index + start] = 1
        columns.append(linear(basis.view(tangents, *like.shape)).reshape(-1, n_out)[:n_here])
    matrix = torch.cat(columns).mT.contiguous()
    return matrix if agrees(probe @ matrix.mT, "maps") else None
