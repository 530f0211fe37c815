"""Packing: source features that do not move on a sample need no pass there.

The samples of a batch are independent, so one JVP can carry another feature for each sample, and
where the segment treats positions independently, another one for each position. With sparse
features (ReLU neurons, sparse autoencoders) the number of passes is then the largest number of
features that move on any sample or position, not the size of the dictionary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..calculus.path import PathRule
from ..calculus.rounding import tolerance
from ..layers import PairProblem
from .source_path import SourcePath
from .strengths import Strength
from .sums.strength_sums import at_least_single

__all__ = [
    "Packer",
    "Packing",
    "keeps_positions_apart",
    "pack",
    "packed_columns",
    "positions_are_independent",
    "sums_of_pairs",
]

_WORTH_IT = 2  # times fewer passes
_PROBED = 8  # positions that are moved one at a time


@dataclass(frozen=True, eq=False)
class Packing:
    """Which source feature each pass carries.

    Attributes:
        features: int64 `[pass, b, 1 or s]`.
        used: whether the pass carries one there, bool, same shape.
    """

    features: Tensor
    used: Tensor

    @property
    def by_position(self) -> bool:
        """Whether positions of a sample carry different features."""
        return self.features.shape[2] > 1

    def passes(self, start: int, stop: int) -> Packing:
        """Some of the passes."""
        return Packing(self.features[start:stop], self.used[start:stop])


@dataclass(eq=False)
class Packer:
    """How the moving features of each batch go into few passes.

    Attributes:
        positions_apart: whether positions may carry different features; found on the first samples
            where that would save passes.
    """

    positions_apart: bool = False
    _looked: bool = False

    def n_passes(self, problem: PairProblem) -> int:
        """Passes by source features: fewer than features where few of them move at a time."""
        sparse = pack(problem.displacement, by_position=True)
        if sparse is None:
            return problem.n_sources
        if not self._looked:
            self._looked, self.positions_apart = True, positions_are_independent(problem)
        packing: Packing | None = sparse
        if not self.positions_apart:
            packing = pack(problem.displacement, by_position=False)
        return problem.n_sources if packing is None else len(packing.features)

    def packing(
        self,
        problem: PairProblem,
        path: SourcePath,
        rule: PathRule,
        free: int,
        generator: torch.Generator,
    ) -> Packing | None:
        """How the features that move on a batch go into few passes; None: they do not.

        Args:
            problem: the pair on the batch.
            path: of its source.
            rule: path nodes.
            free: bytes of working memory.
            generator: of the check that positions are still apart.
        """
        if self.positions_apart:
            packing = pack(problem.displacement, by_position=True)
            if (
                packing is not None
                # All passes together, with the sums of their pairs.
                and len(packing.features) * problem.y.nbytes * 8 <= free
                and all(keeps_positions_apart(path, u, generator) for u in rule.nodes)
            ):
                return packing
        return pack(problem.displacement, by_position=False)


def pack(dz: Tensor, *, by_position: bool) -> Packing | None:
    """The fewest passes that carry every feature that moves; None: packing is not worth it.

    Args:
        dz: steps, `[b, s, j]`.
        by_position: positions may carry different features.
    """
    moves = dz != 0
    if not by_position:
        moves = moves.any(1, keepdim=True)
    n_moving = moves.sum(-1)  # [b, 1 or s]
    n_passes = int(n_moving.max()) if n_moving.numel() else 0
    if n_passes * _WORTH_IT > dz.shape[2]:
        return None
    features = torch.zeros(n_passes, *n_moving.shape, dtype=torch.int64, device=dz.device)
    used = torch.zeros_like(features, dtype=torch.bool)
    b, s, j = moves.nonzero(as_tuple=True)
    # Moving features come place by place; count them within each place.
    before = n_moving.flatten().cumsum(0) - n_moving.flatten()
    place = b * n_moving.shape[1] + s
    number = torch.arange(len(j), device=dz.device) - before[place]
    features[number, b, s] = j
    used[number, b, s] = True
    return Packing(features, used)


def packed_columns(
    path: SourcePath,
    like: Tensor,
    rule: PathRule,
    packing: Packing,
    at_once: int,
    tick: Callable[[float], None] = lambda passes: None,
    *,
    total: Tensor | None = None,
) -> Tensor:
    """A of the feature that each pass carries, `[pass, b, t, i]`; zero where it carries none.

    Args:
        path: of the source on a batch.
        like: target features `[b, t, i]`, for shape and dtype.
        rule: path nodes.
        packing: of the samples.
        at_once: tangents that go through the segment together.
        tick: told the number of passes done.
        total: where sum_j A is added up at one more pass for each node, `[b, t, i]`; None: nowhere.
    """
    n_passes = len(packing.features)
    a = like.new_zeros(n_passes, *like.shape)
    for u, weight in zip(*rule, strict=True):
        linear = path.linearize(u)
        if total is not None:
            total.add_(linear(path.path.displacement[None])[0], alpha=weight)
        for start in range(0, n_passes, at_once):
            span = slice(start, min(start + at_once, n_passes))
            tangents = path.chosen(packing.features[span], packing.used[span])
            a[span].add_(linear(tangents), alpha=weight)
            tick(span.stop - span.start)
    return a


def sums_of_pairs(
    a: Tensor, packing: Packing, mask: Tensor | None, strengths: Sequence[Strength]
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Sums over positions for every sample and feature that moves on it.

    Args:
        a: from `packed_columns`.
        packing: the packing.
        mask: target positions that count, bool `[b, t]`; None: all.
        strengths: which.

    Returns:
        Strength -> X_b `[pair, i]`; samples and features of the pairs, int64 `[pair]`.
    """
    n_samples, n_targets = a.shape[1], a.shape[3]
    n_features = int(packing.features.max()) + 1 if packing.features.numel() else 1
    sample = torch.arange(n_samples, device=a.device)[:, None]
    number = (sample * n_features + packing.features).expand(*a.shape[:3])
    used = packing.used.expand(*a.shape[:3])
    if mask is not None:
        used = used & mask
    pairs, where = number[used].unique(return_inverse=True)
    values = at_least_single(a[used])  # [n, i]
    sums = {}
    for strength in strengths:
        total = values.new_zeros(len(pairs), n_targets)
        strength.scatter_positions(total, where, strength.entry(values))
        sums[strength.name] = total
    return sums, pairs // n_features, pairs % n_features


def positions_are_independent(problem: PairProblem) -> bool:
    """Whether a target position depends on the source position of the same number only.

    Every position is moved by itself, or a few with the first, middle and last among them; nothing
    may move elsewhere. `keeps_positions_apart` repeats the check on later batches.
    """
    n_positions = problem.z.shape[1]
    if n_positions == 1 or problem.y.shape[1] != n_positions:
        return False
    probed = {round(k * (n_positions - 1) / (_PROBED - 1)) for k in range(_PROBED)}
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(problem.z.shape, generator=generator).to(problem.z)
    noise = noise * problem.z.std().nan_to_num(1.0)
    for position in sorted(probed | {n_positions // 2}):
        moved = problem.z.clone()
        moved[:, position] += noise[:, position]
        change = (problem.segment(moved) - problem.y).abs()
        change[:, position] = 0
        if float(change.max()) > _rounding(problem.y):
            return False
    return True


def keeps_positions_apart(path: SourcePath, u: float, generator: torch.Generator) -> bool:
    """The same, in the derivative at one point: half of the positions move, the others must not."""
    moves = path.path.displacement
    still = torch.rand(moves.shape[:2], generator=generator).to(moves.device) < 0.5
    change = path.linearize(u)(moves.masked_fill(still[..., None], 0.0)[None])[0].abs()
    moved = change * still[..., None]
    return float(moved.max()) <= _rounding(change) if moved.numel() else True


def _rounding(values: Tensor) -> float:
    return tolerance("products", values.dtype) * float(values.abs().max()) + 1e-30
