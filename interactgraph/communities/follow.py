"""Partitions of single pairs of layers, joined where they share a layer: modules followed in depth.

Modules of a -> b and of b -> c both cover the features of b: a module goes on in the one of the
next pair that it is matched with there, splits where its features there are in several, and merges
where several meet in one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..errors import InteractGraphError
from .comparison import Match, compare
from .flow import NOTABLE
from .partition import Partition

__all__ = ["FollowedModules", "Joint", "follow_modules"]


@dataclass(frozen=True, eq=False)
class Joint:
    """Two consecutive partitions and the layers that both have.

    Attributes:
        layers: that both have.
        overlap: number of shared features there, int64 `[modules of the next, modules]`.
        matches: one-to-one pairs of modules (`first` of the one, `second` of the next), with the
            largest number of shared features in total.
        agreement: adjusted mutual information of both there.
        splits: module -> modules of the next that have at least a quarter of its features each,
            where these are several.
        merges: module of the next -> modules that give at least a quarter of its features each.
    """

    layers: tuple[str, ...]
    overlap: np.ndarray
    matches: list[Match]
    agreement: float
    splits: dict[int, list[int]]
    merges: dict[int, list[int]]


@dataclass(frozen=True, eq=False)
class FollowedModules:
    """Modules followed through a series of partitions.

    Attributes:
        tracks: each a dictionary, number of the partition -> its module; modules that are matched
            from one partition to the next are one track, longest ones first.
        joints: of each partition with the next one.
    """

    tracks: list[dict[int, int]]
    joints: list[Joint]

    def summary(self) -> str:
        """A line for each track that goes on, and for each split and merge."""
        lines = []
        for track in self.tracks:
            if len(track) > 1:
                steps = " -> ".join(f"{module} (pair {k})" for k, module in track.items())
                lines.append(f"followed: {steps}")
        for k, joint in enumerate(self.joints):
            where = f"{', '.join(joint.layers)} (pairs {k} and {k + 1})"
            lines.append(f"{where}: adjusted mutual information {joint.agreement:.2f}")
            lines += [f"  {a} splits into {_list(b)}" for a, b in joint.splits.items()]
            lines += [f"  {b} comes from {_list(a)}" for b, a in joint.merges.items()]
        return "\n".join(lines)


def follow_modules(partitions: Sequence[Partition]) -> FollowedModules:
    """Matches the modules of consecutive partitions on the layers that both have.

    Args:
        partitions: of consecutive pairs of layers, each with a layer in common with the next one:
            `[find_modules(graph of a -> b), find_modules(graph of b -> c), ...]`.

    Raises:
        InteractGraphError: neighbours without a common layer, or with different features there.

    Example:
        >>> import interactgraph as itg
        >>> net = itg.zoo.planted_modules(widths=(8, 12, 8), n_modules=2, n_samples=128)
        >>> graphs = [
        ...     itg.interaction_graph(net.model, net.data, pair, progress=False)
        ...     for pair in (net.layers[:2], net.layers[1:])
        ... ]
        >>> each = [itg.find_modules(graph, n_modules=2, n_runs=2) for graph in graphs]
        >>> len(itg.follow_modules(each).tracks)
        2
    """
    if not partitions:
        raise InteractGraphError("there are no partitions to follow modules through")
    joints = [_joint(a, b) for a, b in pairwise(partitions)]
    tracks = [{0: module} for module in range(partitions[0].n_modules)]
    for k, (joint, after) in enumerate(zip(joints, partitions[1:], strict=True)):
        ends = {track[k]: track for track in tracks if k in track}
        goes_on = {match.second: match.first for match in joint.matches}
        for module in range(after.n_modules):
            if module in goes_on:
                ends[goes_on[module]][k + 1] = module
            else:
                tracks.append({k + 1: module})
    return FollowedModules(sorted(tracks, key=len, reverse=True), joints)


def _joint(one: Partition, other: Partition) -> Joint:
    found = compare(one, other)
    layers = tuple(layer for layer in one.layers if layer in other.membership)
    a, b = (np.concatenate([each.membership[layer] for layer in layers]) for each in (one, other))
    both = (a >= 0) & (b >= 0)
    overlap = np.zeros((other.n_modules, one.n_modules), np.int64)
    np.add.at(overlap, (b[both], a[both]), 1)
    return Joint(
        layers, overlap, found.matches, found.adjusted_mutual_information, _parts(overlap.T),
        _parts(overlap),
    )  # fmt: skip


def _parts(overlap: np.ndarray) -> dict[int, list[int]]:
    """Of every row the columns with a notable share of it, where these are several."""
    parts = {}
    for number, row in enumerate(overlap):
        columns = np.flatnonzero((row > 0) & (row >= NOTABLE * row.sum()))
        if len(columns) > 1:
            parts[number] = columns.tolist()
    return parts


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
