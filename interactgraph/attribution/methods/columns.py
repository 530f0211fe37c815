"""Forward mode: one JVP whose tangent is (z - z0) of feature j gives column j for all targets.

A[b,t,i,j] = sum_a weight_a sum_s (z - z0)[b,s,j] dy[b,t,i]/dz[b,s,j] (z(u_a)): the sum over s is
the JVP itself. Features that do not move on a sample share passes with others, see `packing`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ...calculus.path import PathRule
from ...layers import PairProblem
from ..completeness import residual_of
from ..contributions import Contribution, Draws
from ..packing import Packing, packed_columns, sums_of_pairs
from ..source_path import SourcePath
from .forward_mode import ForwardMode, column_blocks
from .method import PairContext, Tick, no_tick

__all__ = ["Columns"]

_BLOCK = 1 << 23  # bytes of A that are reduced together, where nothing speaks for more


class Columns(ForwardMode):
    """Every column by a JVP at every node."""

    name = "columns"

    def __init__(self, context: PairContext, *, vmapped: bool = True) -> None:
        super().__init__(context, vmapped=vmapped)
        self.n_passes_packed = 0
        self._generator = context.generator()

    def why_not(self, problem: PairProblem) -> str | None:
        options = self.context.options
        drawn = options.sources is not None and options.sources < problem.n_sources
        if options.engine == self.engine and drawn:
            return "source features are to be drawn"
        return None

    def cost(self, problem: PairProblem) -> float:
        return self.n_steps * (self.context.packer.n_passes(problem) + 1.0)

    def contributions(self, problem: PairProblem, tick: Tick = no_tick) -> Iterator[Contribution]:
        path = self.path_of(problem)
        yield from self.blocks(problem, path, self.rule_for(problem, path), tick)

    def blocks(
        self, problem: PairProblem, path: SourcePath, rule: PathRule, tick: Tick
    ) -> Iterator[Contribution]:
        """All columns, and their completeness."""
        free = self.context.sums.free
        packing = self.context.packer.packing(problem, path, rule, free, self._generator)
        if packing is not None:
            yield from self._packed(problem, path, rule, packing, tick)
            return
        chunk = self.chunk(problem, problem.n_sources, problem.y)
        at_once = self.at_once(problem)
        if len(rule.nodes) == 1 and problem.z.device.type == "cpu":
            # With several nodes, every block linearises all of them again.
            block = _BLOCK // (problem.y.numel() * problem.y.element_size())
            chunk = min(chunk, max(1, block // at_once) * at_once)
        total = torch.zeros_like(problem.y)
        for columns, a in column_blocks(path, problem.y, rule, chunk, at_once, tick):
            total += a.sum(-1)
            yield self.context.block(a, problem, columns=columns)
        yield residual_of(total, problem)

    def _packed(
        self,
        problem: PairProblem,
        path: SourcePath,
        rule: PathRule,
        packing: Packing,
        tick: Tick,
    ) -> Iterator[Contribution]:
        """All columns, by passes that carry several features."""
        n_passes = len(packing.features)
        self.n_passes_packed = max(n_passes, self.n_passes_packed)
        chunk = max(1, n_passes)  # none, where nothing moves
        if not packing.by_position:
            chunk = self.chunk(problem, n_passes, problem.y)
        total = torch.zeros_like(problem.y)
        for start in range(0, n_passes, chunk):
            some = packing.passes(start, start + chunk)
            a = packed_columns(path, problem.y, rule, some, self.at_once(problem), tick)
            total += a.sum(0)
            strengths = self.context.strengths
            sums, samples, features = sums_of_pairs(a, some, problem.mask, strengths)
            yield Draws(sums, torch.ones_like(features), features, samples)
        yield residual_of(total, problem)

    def record(self) -> dict[str, Any]:
        record = super().record()
        if self.n_passes_packed:
            record["passes_packed"] = self.n_passes_packed
            record["positions_packed"] = self.context.packer.positions_apart
        return record

    def state(self) -> dict[str, Any]:
        return {
            **super().state(),
            "n_passes_packed": self.n_passes_packed,
            "generator": self._generator.get_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.n_passes_packed = state["n_passes_packed"]
        self._generator.set_state(state["generator"])
