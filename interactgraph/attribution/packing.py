"""Packing: source features that do not move on a sample need no pass there.

The samples of a batch are independent, so one JVP can carry another feature for each sample, and
where the segment treats positions independently, another one for each position. With sparse
features (ReLU neurons, sparse autoencoders) the number of passes is then the largest number of
features that move on any sample or position, not the size of the dictionary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .forward import linearize
from .problem import PairProblem
from .quadrature import PathRule
from .strengths import at_least_single

__all__ = [
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
    problem: PairProblem,
    rule: PathRule,
    packing: Packing,
    at_once: int,
    tick: Callable[[float], None] = lambda passes: None,
    *,
    total: Tensor | None = None,
) -> Tensor:
    """A of the feature that each pass carries, `[pass, b, t, i]`; zero where it carries none.

    Args:
        problem: the pair on a batch.
        rule: path nodes.
        packing: of its samples.
        at_once: tangents that go through the segment together.
        tick: told the number of passes done.
        total: where sum_j A is added up at one more pass for each node, `[b, t, i]`; None: nowhere.
    """
    n_passes = len(packing.features)
    a = problem.y.new_zeros(n_passes, *problem.y.shape)
    for u, weight in zip(*rule, strict=True):
        linear = linearize(problem, u)
        if total is not None:
            total.add_(linear(problem.dz[None])[0], alpha=weight)
        for start in range(0, n_passes, at_once):
            here = slice(start, min(start + at_once, n_passes))
            tangents = problem.carried(packing.features[here], packing.used[here])
            a[here].add_(linear(tangents), alpha=weight)
            tick(here.stop - here.start)
    return a


def sums_of_pairs(
    a: Tensor, packing: Packing, mask: Tensor | None, names: tuple[str, ...]
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Sums over positions for every sample and feature that moves on it.

    Args:
        a: from `packed_columns`.
        packing: the packing.
        mask: target positions that count, bool `[b, t]`; None: all.
        names: strengths.

    Returns:
        Strength -> sums `[pair, i]`; samples and features of the pairs, int64 `[pair]`.
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
    for name in names:
        size = values if name == "mean" else values.square() if name == "rms" else values.abs()
        total = values.new_zeros(len(pairs), n_targets)
        if name == "max":
            index = where[:, None].expand_as(size)
            sums[name] = total.scatter_reduce_(0, index, size, "amax")
        else:
            sums[name] = total.index_add_(0, where, size)
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
        change = (problem.function(moved) - problem.y).abs()
        change[:, position] = 0
        if float(change.max()) > _rounding(problem.y):
            return False
    return True


def keeps_positions_apart(problem: PairProblem, u: float, generator: torch.Generator) -> bool:
    """The same, in the derivative at one point: half of the positions move, the others must not."""
    still = torch.rand(problem.z.shape[:2], generator=generator).to(problem.z.device) < 0.5
    tangent = problem.dz.masked_fill(still[..., None], 0.0)
    change = linearize(problem, u)(tangent[None])[0].abs()
    moved = change * still[..., None]
    return float(moved.max()) <= _rounding(change) if moved.numel() else True


def _rounding(values: Tensor) -> float:
    digits = 1e-5 if values.dtype != torch.float64 else 1e-11
    return digits * float(values.abs().max()) + 1e-30
