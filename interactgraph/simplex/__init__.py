"""Layers whose activations stay on the probability simplex.

A network of them moves one unit of probability from feature to feature, so that its graph can be
read from its weights: the edge j -> i of a stochastic linear map on a sample x is W_ij x_j with the
zero baseline. Products, powers and patterns of attention do not depend on the size of what they
receive, and jump at zero: `baseline="mean"`, which is on the simplex, is theirs.
"""

from .attention import SimplexAttention
from .layers import Power, SimplexBias, StochasticLinear
from .operations import log_addition, log_on_simplex, power, product, sinkhorn
from .residual import LogAdditionResidual, ProductResidual

__all__ = [
    "LogAdditionResidual",
    "Power",
    "ProductResidual",
    "SimplexAttention",
    "SimplexBias",
    "StochasticLinear",
    "log_addition",
    "log_on_simplex",
    "power",
    "product",
    "sinkhorn",
]
