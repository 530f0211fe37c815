"""Attention whose queries, keys, values and results are points of the simplex."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import whole
from ..errors import InputError, ModelError
from .layers import StochasticLinear, Tempered, check_width
from .operations import log_on_simplex, sinkhorn

__all__ = ["SimplexAttention"]


class SimplexAttention(Tempered):
    """Positions receive mixtures of what others hold, so that they stay on the simplex.

    With stochastic maps Q, K, V of each head h and a stochastic map O of all of them,

        p[h,t,s] ~ (sum_i (Q_h x_t)_i (K_h x_s)_i)^(1/T), normalised over s
        y_t = O (sum_s p[h,t,s] V_h x_s / n_heads)_h

    The overlap of two points takes the place of the scaled dot product, and its power that of the
    exponential. With `n_sinkhorn` steps, p is normalised over t and s in turn: every position then
    gives as much as it receives.

    As the branch of a `ProductResidual` it changes next to nothing at the start: O is near uniform,
    the other maps are near the identity.

    Args:
        width: features of a position, a multiple of `n_heads`.
        n_heads: heads, each of width / n_heads features.
        causal: whether a position receives from itself and those before it only.
        n_sinkhorn: steps of Sinkhorn's normalisation; 0: over s alone.
        temperature: T of the patterns.
        learn_temperature: whether log T is learned.

    Raises:
        InputError: sizes or the temperature make no sense, or causal patterns are to be
            normalised over both axes.
    """

    def __init__(
        self,
        width: int,
        n_heads: int = 1,
        *,
        causal: bool = False,
        n_sinkhorn: int = 0,
        temperature: float = 1.0,
        learn_temperature: bool = False,
    ) -> None:
        super().__init__(temperature, learn_temperature)
        self.width, self.n_heads = whole("width", width), whole("n_heads", n_heads)
        self.n_sinkhorn, self.causal = whole("n_sinkhorn", n_sinkhorn, 0), causal
        if self.width % self.n_heads:
            raise InputError(f"width={width} must be a multiple of n_heads={n_heads}")
        if causal and n_sinkhorn:
            raise InputError(
                f"causal=True with n_sinkhorn={n_sinkhorn}: the only causal pattern whose rows and "
                "columns sum to one is the identity; choose one of both"
            )
        size = self.width // self.n_heads
        self.query, self.key, self.value = (
            torch.nn.ModuleList(StochasticLinear(self.width, size) for _ in range(self.n_heads))
            for _ in range(3)
        )
        self.out = StochasticLinear(self.width, self.width, identity=0.0)

    def patterns(self, x: Tensor) -> Tensor:
        """How much of s each position t receives.

        Args:
            x: points, `[..., s, width]`.

        Returns:
            Patterns, `[..., h, t, s]`; rows sum to one.

        Raises:
            ModelError: x has no position axis or another last axis.
        """
        check_width("SimplexAttention", x, self.width)
        if x.ndim < 2:
            raise ModelError("SimplexAttention got one point; it needs positions [..., s, width]")
        query, key = (
            torch.stack([head(x) for head in heads], -3) for heads in (self.query, self.key)
        )
        scores = log_on_simplex(query @ key.mT) / self.temperature
        if self.causal:
            later = torch.ones_like(scores, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        return sinkhorn(scores, self.n_sinkhorn)

    def forward(self, x: Tensor) -> Tensor:
        """Points `[..., s, width]` -> `[..., t, width]`."""
        patterns = self.patterns(x)
        mixed = patterns @ torch.stack([head(x) for head in self.value], -3)  # [..., h, t, i]
        return self.out(mixed.movedim(-3, -2).flatten(-2) / self.n_heads)
