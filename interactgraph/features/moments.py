"""Mean and covariance of activations in one pass, float64."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import InteractGraphError

__all__ = ["Moments", "eigenvectors", "moments_of"]


class Moments(NamedTuple):
    """Mean `[d]`, covariance G = mean (f - m)(f - m)' `[d, d]`, number of rows."""

    mean: Tensor
    covariance: Tensor
    n_rows: int


def moments_of(batches: Iterable[Tensor]) -> Moments:
    """Moments of rows `[n, d]`.

    Batches are joined by Chan, Golub and LeVeque's update (Algorithms for computing the sample
    variance, 1983, eq. 2.1), so that a mean far from zero costs no digits.

    Raises:
        InteractGraphError: there is no row.
    """
    mean, scatter, count = None, None, 0
    for rows in batches:
        if not len(rows):
            continue
        rows = rows.to(torch.float64)
        batch_mean = rows.mean(0)
        centred = rows - batch_mean
        part = centred.mT @ centred
        if mean is None or scatter is None:
            mean, scatter, count = batch_mean, part, len(rows)
            continue
        step, total = batch_mean - mean, count + len(rows)
        scatter += part + torch.outer(step, step) * (count * len(rows) / total)
        mean = mean + step * (len(rows) / total)
        count = total
    if mean is None or scatter is None:
        raise InteractGraphError(
            "there is no activation to fit a feature map to; check the data and position_mask"
        )
    return Moments(mean, scatter / count, count)


def eigenvectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of a symmetric matrix, largest first, not negative, and eigenvectors (columns).

    The sign of every vector makes its largest entry positive, so that runs agree.
    """
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return values, vectors * largest.sign()
