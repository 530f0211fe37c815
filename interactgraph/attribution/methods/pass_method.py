"""What methods share that send passes through the segment: how many at a time fit into memory."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ...layers import PairProblem
from ..memory import Footprint, footprint
from .method import Method, PairContext

__all__ = ["PassMethod"]

_CACHE = 1 << 21  # bytes
_GRADIENTS = 1 << 24  # bytes of intermediate gradients at a time, on a CPU
_ROWS = 8  # VJPs at a time that share a forward pass, at least


class PassMethod(Method):
    """A method that sends passes through the segment: forwards, or of derivatives."""

    def __init__(self, context: PairContext) -> None:
        super().__init__(context)
        self._footprint: Footprint | None = None

    def working_bytes(self, problem: PairProblem) -> int:
        return self.pass_bytes(problem, problem.y)

    def segment_footprint(self, problem: PairProblem) -> Footprint:
        """Bytes of the intermediate results of one pass, for each sample; measured once."""
        if self._footprint is None:
            self._footprint = footprint(*self._measured(problem))
        return self._footprint

    def _measured(self, problem: PairProblem) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """The function that passes go through, and a point."""
        return problem.segment, problem.z

    def pass_bytes(self, problem: PairProblem, ends: Tensor) -> int:
        """Working memory of one JVP or VJP with the sums of its block.

        Args:
            problem: the pair on the batch.
            ends: what a pass ends in: y of a JVP, z of a VJP.
        """
        size, across = problem.z.element_size(), ends.shape[2]
        reduced = problem.n_samples * across * (16 + 2 * size) * len(self.context.strengths)
        both = problem.y.numel() + problem.z.numel()
        largest = int(self.segment_footprint(problem).largest * problem.n_samples)
        return 3 * largest + size * (both + 3 * ends.numel()) + reduced

    def chunk(self, problem: PairProblem, n_passes: int, ends: Tensor) -> int:
        """Passes whose results are held together."""
        held = int(self.segment_footprint(problem).total * problem.n_samples)
        most = (self.context.sums.free - held) // self.pass_bytes(problem, ends)
        return int(max(1, min(n_passes, most)))

    def row_chunk(self, problem: PairProblem, n_rows: int) -> int:
        """As `chunk`, for VJPs: on a CPU so few that their gradients stay small."""
        chunk = self.chunk(problem, n_rows, problem.z)
        if problem.z.device.type != "cpu":
            return chunk
        largest = max(1.0, self.segment_footprint(problem).largest * problem.n_samples)
        return max(1, min(chunk, max(_ROWS, int(_GRADIENTS / largest))))

    def at_once(self, problem: PairProblem) -> int:
        """Tangents at a time: on a CPU so many that intermediate results stay in the cache."""
        if problem.z.device.type != "cpu":
            return problem.n_sources
        largest = self.segment_footprint(problem).largest * problem.n_samples
        return int(max(1, _CACHE // max(1, largest)))
