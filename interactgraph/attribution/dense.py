"""The closed form with explicit matrices, for segments that treat positions alike.

Where L1, L2 and L3 act on the feature axis only, they are matrices W1 `[k, j]`, W2 `[i, k]`,
W3 `[i, j]`, and no pass through the segment is needed:

- *one map*: A[b,t,i,j] = left[b,t,i] W[i,j] right[b,t,j]. Then sum A^2 = W^2 * (left^2)' (right^2):
  one matrix product per strength for any number of samples.
- *two maps*: A[b,t,i,j] = (sum_k W2[i,k] g[b,t,k] W1[k,j] + W3[i,j]) dz[b,t,j].

That the maps are such matrices is verified with random vectors: two linear maps that agree on a
random vector are equal with probability one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model.structure import Held, Structure
from .closed_form import bend_function
from .forward import jvps
from .problem import PairProblem
from .secant import derivative, secant_slope

__all__ = ["DenseMaps", "Factors", "dense_maps", "one_row"]

_BASIS_ROWS = 1024


@dataclass(frozen=True, eq=False)
class Factors:
    """A on a batch as left[b,t,i] W[i,j] right[b,t,j], and sum_j A for its completeness."""

    left: Tensor | None
    right: Tensor
    total: Tensor


@dataclass(frozen=True, eq=False)
class DenseMaps:
    """Explicit matrices of a segment.

    Attributes:
        structure: what the segment computes.
        held: values that do not depend on z or on the batch.
        before: W1 `[k, j]`; None: the segment is affine.
        after: W2 `[i, k]`; None: the target is the pointwise function itself, i = k.
        skip: W3 `[i, j]`; None: zero.
        to_traced: pre-activation `[b, s, k]` -> the shape in which it was traced.
        from_traced: the way back.
        p0: pre-activation at a baseline that is the same for all samples, `[1 or b, s, k]`.
        bias: constant part of the pre-activation, `[1 or b, s, k]`.
    """

    structure: Structure
    held: Held
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
        return self.structure.is_scalar_bend(0, self.held) and (
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

    def slopes(self, problem: PairProblem, *, gradient: bool) -> tuple[Tensor, Tensor]:
        """(slopes g, steps dp) of the pre-activation, `[b, s, k]`.

        Args:
            problem: the pair on the batch.
            gradient: slopes at the sample instead of averages over the path.
        """
        assert self.before is not None
        dp = problem.dz @ self.before.mT
        p0 = self.p0
        if p0 is None:
            assert self.bias is not None
            p0 = (problem.z - problem.dz) @ self.before.mT + self.bias
        phi = bend_function(self.structure, 0, self.held)
        if self.structure.is_scalar_bend(0, self.held):
            slope = derivative(phi, p0 + dp) if gradient else secant_slope(phi, p0, dp)
            return slope, dp
        p0_traced, dp_traced = self.to_traced(p0.expand_as(dp)), self.to_traced(dp)
        if gradient:
            slope = derivative(phi, p0_traced + dp_traced)
        else:
            slope = secant_slope(phi, p0_traced, dp_traced, scalar=False)
        return self.from_traced(slope), dp

    def factors(self, problem: PairProblem, *, gradient: bool) -> Factors:
        """A as a product, for segments with one map."""
        if self.before is None:
            assert self.skip is not None
            return Factors(None, problem.dz, problem.dz @ self.skip.mT)
        slope, dp = self.slopes(problem, gradient=gradient)
        if self.after is None:
            return Factors(slope, problem.dz, slope * dp)
        return Factors(None, slope * problem.dz, (slope * dp) @ self.after.mT)

    def total(self, problem: PairProblem, slopes: Tensor, steps: Tensor) -> Tensor:
        """sum_j A, `[b, t, i]`, from what `slopes` gave."""
        moved = slopes * steps
        if self.after is not None:
            moved = moved @ self.after.mT
        return moved if self.skip is None else moved + problem.dz @ self.skip.mT

    def blocks(
        self, problem: PairProblem, slopes: Tensor, samples: int
    ) -> Iterator[tuple[slice, Tensor]]:
        """A for a few samples at a time, `[b, t, i, j]`, for segments with two maps.

        Args:
            problem: the pair on the batch.
            slopes: `[b, s, k]`.
            samples: at a time.

        Yields:
            Which samples, and their A.
        """
        assert self.before is not None
        for start in range(0, problem.n_samples, samples):
            here = slice(start, min(start + samples, problem.n_samples))
            g = slopes[here]
            if self.after is None:
                a = g[..., None] * self.before
            else:
                a = (g[..., None, :] * self.after) @ self.before
            if self.skip is not None:
                a = a + self.skip
            yield here, a * problem.dz[here, :, None, :]

    def block_bytes(self, problem: PairProblem) -> int:
        """Working memory of `blocks` for one sample."""
        n_targets, n_sources = problem.y.shape[2], problem.z.shape[2]
        n_hidden = 0 if self.before is None or self.after is None else self.before.shape[0]
        per_position = n_targets * (n_hidden + 2 * n_sources)
        return problem.z.element_size() * problem.z.shape[1] * per_position


def dense_maps(
    structure: Structure, inputs: Sequence[Tensor], problem: PairProblem, seed: int = 0
) -> DenseMaps | None:
    """The matrices of a segment, None where it has none that hold for every position and batch."""
    same_positions = problem.z.shape[:2] == problem.y.shape[:2]
    if not structure.held_maps or not same_positions or len(structure.bends) > 1:
        return None
    held = structure.prepare(inputs)
    z, n_targets = problem.z, problem.y.shape[2]
    generator = torch.Generator().manual_seed(seed)

    guesses = [x for x in structure.constants(held) if x.ndim == 2]

    if structure.root is None:
        skip = _matrix(lambda v: jvps(lambda x: structure.affine(x, held, ()), z, v), z, n_targets,
                       guesses, generator)  # fmt: skip
        return None if skip is None else DenseMaps(structure, held, None, None, skip, _same, _same)

    p = structure.preactivation(z, held)
    h = structure.bend(0, p, held)
    for to_traced, from_traced in _layouts(p, z.shape[0], z.shape[1]):
        p_like = from_traced(p)

        def before(v: Tensor, from_traced: _Reshape = from_traced) -> Tensor:
            moved = jvps(lambda x: structure.preactivation(x, held), z, v)
            return torch.vmap(from_traced)(moved)

        def after(v: Tensor, to_traced: _Reshape = to_traced) -> Tensor:
            return jvps(lambda x: structure.after([x], z, held), h, torch.vmap(to_traced)(v))

        w1 = _matrix(before, z, p_like.shape[2], guesses, generator)
        w2 = None if w1 is None else _matrix(after, p_like, n_targets, guesses, generator)
        if w1 is None or w2 is None:
            continue
        w3 = None
        if structure.skips():
            w3 = _matrix(lambda v: jvps(lambda x: structure.after([h], x, held), z, v), z,
                         n_targets, guesses, generator)  # fmt: skip
            if w3 is None:
                continue
        bias = one_row(from_traced(structure.preactivation(torch.zeros_like(z), held)))
        p0 = None
        if problem.fixed_baseline:
            p0 = one_row(from_traced(structure.preactivation(z - problem.dz, held)))
        eye = torch.eye(w2.shape[0], w2.shape[1], dtype=w2.dtype, device=w2.device)
        identity = w2.shape[0] == w2.shape[1] and torch.equal(w2, eye)
        after_map = None if identity else w2
        return DenseMaps(structure, held, w1, after_map, w3, to_traced, from_traced, p0, bias)
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
    found = linear(probe[None])[0]
    if tuple(found.shape) != (n_samples, n_positions, n_out):
        return None

    def agrees(expected: Tensor, digits: float) -> bool:
        scale = expected.abs().max() + torch.finfo(like.dtype).tiny
        return bool((found - expected).abs().max() <= digits * scale)

    single = like.dtype != torch.float64
    if n_in == n_out and torch.equal(found, probe):
        return torch.eye(n_in, dtype=like.dtype, device=like.device)
    for guess in guesses:
        for matrix in (guess, guess.mT):
            fits = matrix.shape == (n_out, n_in) and matrix.dtype == like.dtype
            if fits and agrees(probe @ matrix.mT, 1e-5 if single else 1e-12):
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
    return matrix if agrees(probe @ matrix.mT, 1e-4 if single else 1e-10) else None
