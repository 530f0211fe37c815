"""Reverse mode: one VJP for every target feature and target position gives a row of A."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ...calculus.derivatives import pull_back
from ...calculus.path import PathRule, at_sample
from ...layers import PairProblem
from ..completeness import residual_of
from ..contributions import Contribution, Entries
from ..source_path import SourcePath
from .differentiating import Differentiating
from .method import VJP, Tick, no_tick

__all__ = ["Rows"]


class Rows(Differentiating):
    """Every row by a VJP at every node."""

    name = "rows"
    engine = "reverse"

    def why_not(self, problem: PairProblem) -> str | None:
        options = self.context.options
        if options.engine == self.engine and options.sources is not None:
            return "random signs are asked for"
        return None

    def cost(self, problem: PairProblem) -> float:
        return self.n_steps * (problem.n_rows * VJP + 1.0)

    def working_bytes(self, problem: PairProblem) -> int:
        return self.pass_bytes(problem, problem.z)

    def two_derivatives(self, problem: PairProblem, *, vmapped: bool) -> Tensor:
        blocks = row_blocks(problem, problem.segment, at_sample(), 2, vmapped=vmapped)
        return next(blocks)[-1]

    def contributions(self, problem: PairProblem, tick: Tick = no_tick) -> Iterator[Contribution]:
        path = SourcePath.in_features(problem, vmapped=self.vmapped)
        yield from self.blocks(problem, problem.segment, self.rule_for(problem, path), tick)

    def blocks(
        self,
        problem: PairProblem,
        function: Callable[[Tensor], Tensor],
        rule: PathRule,
        tick: Tick,
    ) -> Iterator[Contribution]:
        """All rows of a function of the source features, and their completeness."""
        n_positions = problem.y.shape[1]
        chunk = self.row_chunk(problem, problem.n_rows)
        total = torch.zeros_like(problem.y)
        sums: dict[str, Tensor] = {}
        blocks = row_blocks(problem, function, rule, chunk, tick, vmapped=self.vmapped)
        for rows, where, a in blocks:
            total[:, where, rows] = a.sum(-1)
            part = self.context.reduce(a, problem, positions=where)
            sums = part if where.start == 0 else self.context.joined(sums, part)
            if where.stop == n_positions:
                yield Entries(sums, rows=rows)
        yield residual_of(total, problem)


def row_blocks(
    problem: PairProblem,
    function: Callable[[Tensor], Tensor],
    rule: PathRule,
    chunk: int,
    tick: Tick = no_tick,
    *,
    vmapped: bool = True,
) -> Iterator[tuple[slice, slice, Tensor]]:
    """A[b, t, i, j] for a few target features and target positions at a time.

    Target positions run fastest, so that the positions of one feature come one after another.

    Args:
        problem: the pair on a batch.
        function: of the source features: the segment, or what stands for it.
        rule: path nodes.
        chunk: VJPs at a time.
        tick: told the number of passes done.
        vmapped: many derivatives at a time; else one after the other.

    Yields:
        Target features, target positions and their `[b, t, i, j]`.
    """
    _, n_positions, n_targets = problem.y.shape
    features = max(1, chunk // n_positions)
    positions = min(chunk, n_positions)
    for i in range(0, n_targets, features):
        rows = slice(i, min(i + features, n_targets))
        for t in range(0, n_positions, positions):
            where = slice(t, min(t + positions, n_positions))
            cotangents = _one_hot(problem.y, rows, where)
            total = integrated_products(problem, function, rule, cotangents, tick, vmapped=vmapped)
            block = total.unflatten(0, (rows.stop - rows.start, where.stop - where.start))
            yield rows, where, block.permute(2, 1, 0, 3)


def integrated_products(
    problem: PairProblem,
    function: Callable[[Tensor], Tensor],
    rule: PathRule,
    cotangents: Tensor,
    tick: Tick,
    *,
    vmapped: bool,
) -> Tensor:
    """sum_s (z - z0)[b,s,j] times the integral of c'dy/dz over the path, `[c, b, j]`.

    Args:
        problem: the pair on a batch.
        function: of the source features.
        rule: path nodes.
        cotangents: c, `[c, b, t, i]`.
        tick: told the number of passes done.
        vmapped: many derivatives at a time; else one after the other.
    """

    def products(u: float) -> Tensor:
        gradients = pull_back(function, problem.path.at(u), vmapped=vmapped)(cotangents)
        tick(len(cotangents))
        return (gradients * problem.displacement).sum(-2)

    return rule.integral(products)


def _one_hot(y: Tensor, rows: slice, positions: slice) -> Tensor:
    """Cotangents that pick target features and positions one by one, `[i*t, b, t, i]`."""
    n_i, n_t = rows.stop - rows.start, positions.stop - positions.start
    cotangents = y.new_zeros(n_i, n_t, *y.shape)
    feature = torch.arange(n_i, device=y.device)[:, None]
    position = torch.arange(n_t, device=y.device)[None, :]
    cotangents[feature, position, :, position + positions.start, feature + rows.start] = 1
    return cotangents.flatten(0, 1)
