"""Measures of sparsity: small where a few entries are large and the others exactly zero."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..errors import InteractGraphError

__all__ = ["SPARSITIES", "check_sparsity", "relative_size"]

# (squares of the entries, eps relative to the mean square) -> one number, less is sparser
SparsityMeasure = Callable[[Tensor, float], Tensor]


def log(squares: Tensor, eps: float) -> Tensor:
    """The mean logarithm of 1 + x^2 / eps: what a small entry gains by becoming zero is largest."""
    return (squares / eps).log1p().mean()


def l1(squares: Tensor, eps: float) -> Tensor:
    """Mean |x|, rounded off below sqrt(eps); the mean square does not change under rotation."""
    return ((squares + eps).sqrt() - eps**0.5).mean()


def lhalf(squares: Tensor, eps: float) -> Tensor:
    """Mean |x|^(1/2), rounded off below sqrt(eps)."""
    return ((squares + eps) ** 0.25 - eps**0.25).mean()


def kurtosis(squares: Tensor, eps: float) -> Tensor:
    """Minus mean x^4 (varimax): smooth, prefers few large entries over exact zeros."""
    return -squares.square().mean()


SPARSITIES: dict[str, SparsityMeasure] = {
    "log": log,
    "l1": l1,
    "lhalf": lhalf,
    "kurtosis": kurtosis,
}


def check_sparsity(name: str) -> SparsityMeasure:
    """The measure of that name.

    Raises:
        InteractGraphError: there is none.
    """
    if name not in SPARSITIES:
        raise InteractGraphError(
            f"sparsity={name!r} is unknown; choose one of {', '.join(SPARSITIES)}"
        )
    return SPARSITIES[name]


def relative_size(squares: Tensor) -> float:
    """(sum |x|)^2 / (n sum x^2): 1 where all entries are as large, 1/n where one is all there is.

    Rows of different scale count alike in no way: it is one number for the whole array, used to
    compare bases on held-out samples, whatever the rotation was trained on.
    """
    size = squares.sqrt()
    total = float(squares.sum())
    return float(size.sum()) ** 2 / (size.numel() * total) if total > 0 else 0.0
