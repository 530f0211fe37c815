"""Which features of two maps of the same activation point the same way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..errors import InteractGraphError
from .dictionary import Dictionary
from .feature_map import FeatureMap
from .linear import LinearMap
from .neurons import Neurons

__all__ = ["Counterparts", "counterparts", "mean_max_cosine"]


@dataclass(frozen=True, eq=False)
class Counterparts:
    """For every feature of one map its counterpart in another one.

    Attributes:
        index: its number there, -1: none, int64 `[features of the first]`.
        cosines: of the two directions, with sign, float64; NaN without a counterpart.
    """

    index: np.ndarray
    cosines: np.ndarray


def counterparts(
    first: FeatureMap, second: FeatureMap, n_first: int, n_second: int
) -> Counterparts:
    """Matches features one to one so that the sum of the |cosines| of their directions is largest.

    The direction of a feature is what it adds to the activation when it grows: a column of the
    decoder, a unit vector for a neuron. The error of a dictionary, which has none, goes with the
    error of another one. Maps that are equal are matched by number.

    Args:
        first: a fitted feature map.
        second: another one.
        n_first: features of the first one.
        n_second: features of the second one.

    Raises:
        InteractGraphError: maps of other activations, or without directions.
    """
    if n_first == n_second and _equal(first, second):
        return Counterparts(np.arange(n_first), np.ones(n_first))
    size = next((s for s in (_size(first), _size(second)) if s is not None), n_first)
    a, b = _directions(first, size), _directions(second, size)
    if a.shape[1] != b.shape[1]:
        raise InteractGraphError(
            f"features of activations of sizes {a.shape[1]} and {b.shape[1]} have no directions in "
            "common; compare graphs of the same layers"
        )
    cosines = (a @ b.mT).numpy()
    index, similarity = np.full(n_first, -1), np.full(n_first, np.nan)
    rows, columns = linear_sum_assignment(-np.abs(cosines))
    index[rows], similarity[rows] = columns, cosines[rows, columns]
    if n_first > len(a) and n_second > len(b):  # both have an error
        index[-1], similarity[-1] = n_second - 1, 1.0
    return Counterparts(index, similarity)


def mean_max_cosine(first: FeatureMap, second: FeatureMap) -> tuple[float, float]:
    """How well each map's directions are found in the other: the mean largest |cosine|, both ways.

    Mean max cosine similarity as of dictionaries (Sharkey et al. 2022), with the sign left out. The
    first number is of the first map's features: low where it has features that the second lacks.

    Args:
        first: a fitted feature map with directions.
        second: another one of the same activation.

    Raises:
        InteractGraphError: maps of other activations, or without directions.
    """
    sizes = [size for size in (_size(first), _size(second)) if size is not None]
    if isinstance(first, Neurons) and isinstance(second, Neurons):
        return 1.0, 1.0
    if not sizes:
        raise InteractGraphError(
            f"features of kind {first.kind!r} and {second.kind!r} have no directions that are known"
        )
    a, b = _directions(first, sizes[0]), _directions(second, sizes[0])
    if a.shape[1] != b.shape[1]:
        raise InteractGraphError(
            f"features of activations of sizes {a.shape[1]} and {b.shape[1]} have no directions in "
            "common"
        )
    cosines = (a @ b.mT).abs()
    return float(cosines.amax(1).mean()), float(cosines.amax(0).mean())


def _equal(first: FeatureMap, second: FeatureMap) -> bool:
    if isinstance(first, Neurons) and isinstance(second, Neurons):
        return True
    (_, one), (_, other) = first.state(), second.state()
    return (
        type(first) is type(second)
        and one.keys() == other.keys()
        and all(torch.equal(tensor.cpu(), other[name].cpu()) for name, tensor in one.items())
    )


def _size(feature_map: FeatureMap) -> int | None:
    decoder = getattr(feature_map, "decoder", None)
    return len(decoder) if isinstance(decoder, Tensor) else None


def _directions(feature_map: FeatureMap, size: int) -> Tensor:
    """Unit directions, float64 `[features, activation size]`."""
    if isinstance(feature_map, Neurons):
        return torch.eye(size, dtype=torch.float64)
    decoder = getattr(feature_map, "decoder", None)
    if not isinstance(feature_map, (LinearMap, Dictionary)) or not isinstance(decoder, Tensor):
        raise InteractGraphError(
            f"features of a {type(feature_map).__name__} have no directions to compare; compare "
            "graphs in the same features"
        )
    columns = decoder.detach().to("cpu", torch.float64).mT
    return torch.nn.functional.normalize(columns, dim=1)
