"""Operations on the simplex: those of Aitchison's geometry, and Sinkhorn's normalisation.

Points are non-negative and sum to one along the last axis. Products and powers are sums and
multiples of logarithms (Aitchison, The Statistical Analysis of Compositional Data, 1986; Pawlowsky-
Glahn & Egozcue 2001), which neither overflow nor underflow. Before a logarithm is taken, eps^2 is
added (eps: the rounding unit of the dtype). That is below rounding, and bounds derivatives: in the
coordinates log(x + eps^2), the derivative of a product by x is at most 1 and by y at most 1/T, and
a unit of these coordinates is at least eps^2 in x.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import whole

__all__ = ["log_addition", "log_on_simplex", "power", "product", "sinkhorn"]

Temperature = float | Tensor


def log_on_simplex(x: Tensor) -> Tensor:
    """log(x + eps^2): the logarithm, finite and with finite derivatives at zero.

    Args:
        x: probabilities, any shape.
    """
    return (x + torch.finfo(x.dtype).eps ** 2).log()


def product(x: Tensor, y: Tensor, temperature: Temperature = 1.0) -> Tensor:
    """x_i y_i^(1/T) / sum_k x_k y_k^(1/T): Aitchison's perturbation of x by y^(1/T).

    A uniform y changes nothing, at any temperature.

    Args:
        x: points of the simplex, `[..., i]`.
        y: others, of a shape that broadcasts.
        temperature: T of y; large: y counts for little.

    Returns:
        Points of the simplex, `[..., i]`.

    Example:
        >>> x = torch.tensor([0.5, 0.3, 0.2])
        >>> product(x, torch.tensor([0.25, 0.25, 0.5]))
        tensor([0.4167, 0.2500, 0.3333])
    """
    return log_addition(x, log_on_simplex(y), temperature)


def log_addition(x: Tensor, scores: Tensor, temperature: Temperature = 1.0) -> Tensor:
    """x_i exp(v_i / T) / sum_k x_k exp(v_k / T): scores v are added to the logarithm of x.

    Scores that are all the same change nothing. `product` is the case v = log y.

    Args:
        x: points of the simplex, `[..., i]`.
        scores: v, any real numbers, of a shape that broadcasts.
        temperature: T.

    Returns:
        Points of the simplex, `[..., i]`.
    """
    return (log_on_simplex(x) + scores / temperature).softmax(-1)


def power(x: Tensor, temperature: Temperature) -> Tensor:
    """x_i^(1/T) / sum_k x_k^(1/T): Aitchison's power; T below 1 sharpens, above 1 flattens.

    Args:
        x: points of the simplex, `[..., i]`.
        temperature: T.

    Returns:
        Points of the simplex, `[..., i]`.
    """
    return (log_on_simplex(x) / temperature).softmax(-1)


def sinkhorn(scores: Tensor, n_steps: int = 10) -> Tensor:
    """exp(scores) with rows and columns divided by their sums in turn, rows last.

    Rows sum to one; columns do in the limit (Sinkhorn & Knopp 1967). As attention patterns: Sander
    et al., Sinkformers, arXiv 2110.11773.

    Args:
        scores: `[..., t, t]`.
        n_steps: how often columns are normalised; 0: a softmax over rows.

    Returns:
        Patterns, `[..., t, t]`.

    Raises:
        InputError: `n_steps` is no whole number of at least 0.
    """
    for _ in range(whole("n_steps", n_steps, 0)):
        scores = scores.log_softmax(-2).log_softmax(-1)
    return scores.softmax(-1)
