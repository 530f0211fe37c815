"""Do two sets of directions agree: one-to-one matching by the Hungarian method."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..errors import InteractGraphError
from .random_rotation import random_orthogonal

__all__ = ["Matching", "match_rows"]


@dataclass(frozen=True, eq=False)
class Matching:
    """Rows of one matrix assigned to rows of another so that the sum of |cosines| is largest.

    Attributes:
        assignment: for each row of the first, the row of the second, int64 `[rows]`.
        cosines: |cosine| of every match, float64 `[rows]`.
        control: mean matched |cosine| of the second with random rotations, one for each draw.
    """

    assignment: np.ndarray
    cosines: np.ndarray
    control: np.ndarray

    @property
    def mean(self) -> float:
        """Mean matched |cosine|."""
        return float(self.cosines.mean())


def match_rows(first: Tensor, second: Tensor, *, n_controls: int = 20, seed: int = 0) -> Matching:
    """Matches the rows of two matrices `[rows, d]`.

    Args:
        first: directions.
        second: as many or more directions.
        n_controls: random rotations that the match is compared with.
        seed: of these.

    Raises:
        InteractGraphError: shapes that cannot be matched.
    """
    shapes = first.ndim == second.ndim == 2 and first.shape[1] == second.shape[1]
    if not shapes or len(first) > len(second):
        raise InteractGraphError(
            f"cannot match rows of shapes {tuple(first.shape)} and {tuple(second.shape)}; both "
            "must be matrices of directions in the same space, the second with as many or more"
        )
    if not (first.isfinite().all() and second.isfinite().all()):
        raise InteractGraphError("cannot match rows that are not finite")
    assignment, cosines = _match(first, second)
    control = []
    for draw in range(n_controls):
        q = random_orthogonal(second.shape[1], seed + draw).to(second)
        control.append(float(_match(first, second @ q)[1].mean()))
    return Matching(assignment, cosines, np.array(control))


def _match(first: Tensor, second: Tensor) -> tuple[np.ndarray, np.ndarray]:
    one = torch.nn.functional.normalize(first.detach().to("cpu", torch.float64), dim=1)
    two = torch.nn.functional.normalize(second.detach().to("cpu", torch.float64), dim=1)
    cosines = (one @ two.mT).abs().numpy()
    rows, columns = linear_sum_assignment(-cosines)
    return columns.astype(np.int64), cosines[rows, columns]
