"""Gradient at the baseline: A[b,t,i,j] = sum_s (z - z0)[b,s,j] dy[b,t,i]/dz[b,s,j] (z0).

The first-order effect of switching features on, where `gradient` is that of switching them off
(attribution patching, arXiv 2310.10348, in the other direction). One node instead of an integral.
"""

from __future__ import annotations

from typing import ClassVar

from ...calculus.path import PathRule
from .affine import Affine
from .closed_passes import ClosedColumns, ClosedRows
from .columns import Columns
from .method import Method
from .rows import Rows
from .two_maps import TwoMaps

__all__ = ["AT_BASELINE"]


class _AtBaseline(Method):
    """A method with its slopes at the baseline."""

    definitions: ClassVar[tuple[str, ...]] = ("baseline_gradient",)
    rule = PathRule((0.0,), (1.0,))
    slopes_at = 0.0
    integrates = False


class BaselineAffine(_AtBaseline, Affine):
    """As `Affine`."""


class BaselineTwoMaps(_AtBaseline, TwoMaps):
    """As `TwoMaps`."""


class BaselineClosedColumns(_AtBaseline, ClosedColumns):
    """As `ClosedColumns`."""


class BaselineClosedRows(_AtBaseline, ClosedRows):
    """As `ClosedRows`."""


class BaselineColumns(_AtBaseline, Columns):
    """As `Columns`."""


class BaselineRows(_AtBaseline, Rows):
    """As `Rows`."""


AT_BASELINE: tuple[type[Method], ...] = (
    BaselineAffine,
    BaselineTwoMaps,
    BaselineClosedColumns,
    BaselineClosedRows,
    BaselineColumns,
    BaselineRows,
)
