"""Sampled Shapley values: what feature j adds when it comes after those before it in random orders.

From its baseline to its value, mean over orders (Castro et al. 2009, "Polynomial calculation of the
Shapley value based on sampling"); d_src forward passes for each order. The sum over j is
y(z) - y(z0) for every order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ...layers import PairProblem
from ..completeness import residual_of
from ..contributions import Contribution
from .method import PairContext, Tick, no_tick
from .pass_method import PassMethod

__all__ = ["Shapley"]


class Shapley(PassMethod):
    """`n_steps` random orders for every batch."""

    name = "shapley"
    engine = "perturbation"
    definitions = ("shapley",)

    def __init__(self, context: PairContext) -> None:
        super().__init__(context)
        self._orders = context.generator()

    @property
    def n_steps(self) -> int:
        """Orders."""
        return self.context.options.n_steps

    def cost(self, problem: PairProblem) -> float:
        return float(problem.n_sources * self.n_steps)

    def working_bytes(self, problem: PairProblem) -> int:
        """All columns grow side by side."""
        return super().working_bytes(problem) * problem.n_sources

    def contributions(self, problem: PairProblem, tick: Tick = no_tick) -> Iterator[Contribution]:
        a = problem.y.new_zeros(*problem.y.shape, problem.n_sources)
        for _ in range(self.n_steps):
            z, before = problem.path.start, problem.y0.expand_as(problem.y)
            for j in torch.randperm(problem.n_sources, generator=self._orders).tolist():
                z = z.clone()
                z[..., j] = problem.z[..., j]
                after = problem.segment(z)
                a[..., j] += (after - before) / self.n_steps
                before = after
            tick(problem.n_sources)
        yield self.context.block(a, problem)
        yield residual_of(a.sum(-1), problem)

    def state(self) -> dict[str, Any]:
        return {"orders": self._orders.get_state()}

    def restore(self, state: dict[str, Any]) -> None:
        self._orders.set_state(state["orders"])
