"""Derivatives one at a time, where torch cannot take many or takes them wrong."""

from __future__ import annotations

from ...layers import PairProblem
from .columns import Columns
from .method import PairContext
from .rows import Rows

__all__ = ["ColumnsOneByOne", "RowsOneByOne"]

_SLOWER = 4.0  # than many at a time, as a guess: it depends on the segment


class ColumnsOneByOne(Columns):
    """As `Columns`, with one JVP after the other."""

    name = "columns_one_by_one"

    def __init__(self, context: PairContext) -> None:
        super().__init__(context, vmapped=False)

    def cost(self, problem: PairProblem) -> float:
        return _SLOWER * super().cost(problem)


class RowsOneByOne(Rows):
    """As `Rows`, with one VJP after the other by plain autograd."""

    name = "rows_one_by_one"

    def __init__(self, context: PairContext) -> None:
        super().__init__(context, vmapped=False)

    def cost(self, problem: PairProblem) -> float:
        return _SLOWER * super().cost(problem)
