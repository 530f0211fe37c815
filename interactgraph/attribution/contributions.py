"""What a method gives for a batch, and an `Accumulator` takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from .completeness import Residual

__all__ = ["Contribution", "Displacements", "Draws", "Entries", "OuterProduct"]


class Entries(NamedTuple):
    """Some entries of A, reduced over target positions.

    Attributes:
        sums: strength -> X_b, `[b, i, j]`, see `Strength`.
        samples: which samples of the batch.
        rows: which target features.
        columns: which source features.
        weights: that the sum over the drawn positions of each sample was multiplied with, `[b]`;
            None: all positions were added.
    """

    sums: Mapping[str, Tensor]
    samples: slice = slice(None)
    rows: slice = slice(None)
    columns: slice = slice(None)
    weights: Tensor | None = None


@dataclass(frozen=True, eq=False)
class OuterProduct:
    """All of A as left[b,t,i] W[i,j] right[b,t,j].

    Attributes:
        left: `[b, t, i]`, None: one.
        right: `[b, t, j]`, zero at positions that do not count.
        matrix: W, `[i, j]`, the same for all batches.
    """

    left: Tensor | None
    right: Tensor
    matrix: Tensor


@dataclass(frozen=True, eq=False)
class Draws:
    """One source feature of one sample in each row, reduced over target positions.

    Attributes:
        sums: strength -> X_b, `[n, i]`.
        weights: one over the probability of each row, `[n]`.
        features: source features, int64 `[n]`.
        samples: numbers of the samples in the batch, int64 `[n]`.
    """

    sums: Mapping[str, Tensor]
    weights: Tensor
    features: Tensor
    samples: Tensor


@dataclass(frozen=True, eq=False)
class Displacements:
    """How far all source features move, before some of them are drawn.

    Attributes:
        known: strength -> x[b, j], see `Strength.known`.
        lengths: how far each feature moves, sum over positions of its absolute value, `[b, j]`.
        chances: probability that each source feature is drawn on each sample, `[b, j]`.
    """

    known: Mapping[str, Tensor]
    lengths: Tensor
    chances: Tensor


Contribution = Entries | OuterProduct | Draws | Displacements | Residual
