"""Modules from simplex to simplex: linear map, bias, power."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import number, positive, whole
from ..errors import InputError, ModelError
from .operations import power, product

__all__ = ["Power", "SimplexBias", "StochasticLinear", "Tempered", "check_width"]


class Tempered(nn.Module):
    """A module with a temperature, which is kept as its logarithm so that it stays positive.

    Args:
        temperature: T.
        learn_temperature: whether its logarithm is a parameter; else it is a buffer.

    Raises:
        InputError: the temperature is not above 0.
    """

    log_temperature: Tensor

    def __init__(self, temperature: float, learn_temperature: bool) -> None:
        super().__init__()
        value = torch.tensor(math.log(positive("temperature", temperature)))
        if learn_temperature:
            self.log_temperature = nn.Parameter(value)
        else:
            self.register_buffer("log_temperature", value)

    @property
    def temperature(self) -> Tensor:
        """T, a number."""
        return self.log_temperature.exp()


class StochasticLinear(Tempered):
    """y = W x with W = softmax(logits / T) over the outputs i: every input is divided among them.

    Columns of W sum to one, so that y is on the simplex where x is. The map is linear in x: with
    the zero baseline, integrated gradients give A[i, j] = W_ij x_j exactly.

    At the start, W is a mixture of the uniform map and of the identity (input j goes to output
    floor(j n_out / n_in)), whatever T is.

    Args:
        n_in: features of x.
        n_out: features of y.
        identity: share of the identity in W at the start, from 0 to below 1. In a branch of a
            residual, 0 is what changes nothing.
        noise: standard deviation of what is added to log W at the start.
        temperature: T; a step of the same size in the logits changes W by 1/T as much.
        learn_temperature: whether log T is learned.

    Raises:
        InputError: a size, the share, the noise or the temperature makes no sense.

    Example:
        >>> layer = StochasticLinear(4, 2, identity=0.5, noise=0)
        >>> layer.weight.detach()
        tensor([[0.7500, 0.7500, 0.2500, 0.2500],
                [0.2500, 0.2500, 0.7500, 0.7500]])
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        identity: float = 0.9,
        noise: float = 0.01,
        temperature: float = 1.0,
        learn_temperature: bool = False,
    ) -> None:
        super().__init__(temperature, learn_temperature)
        self.n_in, self.n_out = whole("n_in", n_in), whole("n_out", n_out)
        if not 0 <= number("identity", identity) < 1:
            raise InputError(f"identity={identity} must be at least 0 and below 1; it is a share")
        if number("noise", noise) < 0:
            raise InputError(f"noise={noise} must not be negative; it is a standard deviation")
        home = torch.arange(self.n_in) * self.n_out // self.n_in
        above = math.log1p(identity * self.n_out / (1 - identity))
        start = noise * torch.randn(self.n_out, self.n_in)
        start[home, torch.arange(self.n_in)] += above
        self.logits = nn.Parameter(start * temperature)

    @property
    def weight(self) -> Tensor:
        """W, `[i, j]`; columns sum to one."""
        return (self.logits / self.temperature).softmax(0)

    def forward(self, x: Tensor) -> Tensor:
        """Points `[..., n_in]` -> `[..., n_out]`.

        Raises:
            ModelError: x has another last axis.
        """
        check_width("StochasticLinear", x, self.n_in)
        return F.linear(x, self.weight)

    def extra_repr(self) -> str:
        """Sizes, for `print`."""
        return f"{self.n_in}, {self.n_out}, temperature={float(self.temperature):.3g}"


class SimplexBias(Tempered):
    """The product with a learned point b = softmax(logits / T); uniform at the start: no change.

    Args:
        size: features.
        temperature: T.
        learn_temperature: whether log T is learned.

    Raises:
        InputError: the size or the temperature makes no sense.
    """

    def __init__(
        self, size: int, *, temperature: float = 1.0, learn_temperature: bool = False
    ) -> None:
        super().__init__(temperature, learn_temperature)
        self.size = whole("size", size)
        self.logits = nn.Parameter(torch.zeros(self.size))

    @property
    def bias(self) -> Tensor:
        """b, `[i]`."""
        return (self.logits / self.temperature).softmax(0)

    def forward(self, x: Tensor) -> Tensor:
        """Points `[..., size]` -> `[..., size]`.

        Raises:
            ModelError: x has another last axis.
        """
        check_width("SimplexBias", x, self.size)
        return product(x, self.bias)

    def extra_repr(self) -> str:
        """Sizes, for `print`."""
        return f"{self.size}, temperature={float(self.temperature):.3g}"


class Power(Tempered):
    """x^(1/T), normalised: what makes features compete. T below 1 sharpens, 1 changes nothing.

    Args:
        temperature: T.
        learn_temperature: whether log T is learned.

    Raises:
        InputError: the temperature is not above 0.
    """

    def __init__(self, temperature: float = 1.0, *, learn_temperature: bool = False) -> None:
        super().__init__(temperature, learn_temperature)

    def forward(self, x: Tensor) -> Tensor:
        """Points `[..., i]` -> `[..., i]`."""
        return power(x, self.temperature)

    def extra_repr(self) -> str:
        """Temperature, for `print`."""
        return f"temperature={float(self.temperature):.3g}"


def check_width(name: str, x: Tensor, size: int) -> None:
    """Raises `ModelError` where the last axis of x has another size."""
    if not x.ndim or x.shape[-1] != size:
        raise ModelError(f"{name} got {tuple(x.shape)}; the last axis must hold {size} features")
