"""Residual connections on the simplex: what takes the place of x + f(x)."""

from __future__ import annotations

from torch import Tensor, nn

from .layers import Tempered
from .operations import log_addition, product

__all__ = ["LogAdditionResidual", "ProductResidual"]


class _Residual(Tempered):
    """A branch beside which its input goes on.

    Args:
        branch: f.
        temperature: T of the branch.
        learn_temperature: whether log T is learned.
    """

    def __init__(
        self, branch: nn.Module, *, temperature: float = 1.0, learn_temperature: bool = False
    ) -> None:
        super().__init__(temperature, learn_temperature)
        self.branch = branch


class ProductResidual(_Residual):
    """x f(x)^(1/T), entry by entry and normalised; nothing changes where f(x) is uniform.

    Args:
        branch: f, from simplex to simplex. `StochasticLinear(n, n, identity=0)` is near uniform at
            the start.
        temperature: T of the branch.
        learn_temperature: whether log T is learned.

    Raises:
        InputError: the temperature is not above 0.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Points `[..., i]` -> `[..., i]`."""
        return product(x, self.branch(x), self.temperature)


class LogAdditionResidual(_Residual):
    """softmax(log x + f(x) / T): addition in log space; nothing changes where f(x) is constant.

    With f(x) = V x every feature j votes for the log odds V_ij of every feature i.

    Args:
        branch: f, from the simplex to scores, any real numbers, such as `nn.Linear`.
        temperature: T of the scores.
        learn_temperature: whether log T is learned.

    Raises:
        InputError: the temperature is not above 0.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Points `[..., i]` -> `[..., i]`."""
        return log_addition(x, self.branch(x), self.temperature)
