"""How the modules depend on the resolution: profile, plateaus, a given number of modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..checks import choice, positive, whole
from ..errors import InteractGraphError
from ..graph import InteractionGraph
from . import constants
from .auto_weighting import named_weighting
from .mutual_information import adjusted_mutual_information
from .network import Network
from .objective import make_objective
from .partition import Partition
from .runs import check_runs, choose_algorithm, count_modules, mean_agreement, search
from .self_edges import SELF_EDGES, read_network

__all__ = ["Plateau", "ResolutionProfile", "resolution_for", "resolution_profile"]


@dataclass(frozen=True)
class Plateau:
    """A range of resolutions over which the modules stay the same.

    Attributes:
        low: smallest resolution.
        high: largest one.
        n_modules: number of modules, median.
        agreement: between runs, mean over the plateau.
        best: index into the profile's rows of the most agreed partition.
    """

    low: float
    high: float
    n_modules: int
    agreement: float
    best: int


@dataclass(frozen=True)
class ResolutionProfile:
    """Partitions over a range of resolutions.

    Attributes:
        partitions: one for each resolution, ascending.
        plateaus: ranges without change, longest first (ratio of the ends, times agreement); ranges
            with one module, or with more modules than half the features, are left out.
    """

    partitions: list[Partition]
    plateaus: list[Plateau]

    def summary(self) -> str:
        """A table for people: resolution, modules, quality, agreement; then the plateaus."""
        lines = ["resolution  modules  quality  agreement"]
        lines += [
            f"{p.resolution:10.3f}  {p.n_modules:7d}  {p.quality:7.3f}  {p.agreement:9.2f}"
            for p in self.partitions
        ]
        lines += [
            f"plateau: {p.n_modules} modules from {p.low:.2f} to {p.high:.2f}, agreement "
            f"{p.agreement:.2f}"
            for p in self.plateaus
        ]
        return "\n".join(lines)


def resolution_profile(
    graph: InteractionGraph,
    strength: str | None = None,
    *,
    resolutions: Sequence[float] | None = None,
    null: str = "layered",
    n_runs: int = 5,
    seed: int = 0,
    self_edges: Literal["auto", "keep"] = "auto",
    weighting: str = "auto",
    block_weight: str = "equal",
    algorithm: str = "auto",
) -> ResolutionProfile:
    """Finds modules over a range of resolutions.

    Args:
        graph: interaction strengths.
        strength: which strength is the weight; None: the graph's first.
        resolutions: default: 21 from 0.5 to 2, evenly spaced on a logarithmic scale.
        null: as for `find_modules`.
        n_runs: runs at each resolution.
        seed: of the first run at every resolution.
        self_edges: as for `find_modules`.
        weighting: as for `find_modules`.
        block_weight: as for `find_modules`.
        algorithm: as for `find_modules`.

    Example:
        >>> import interactgraph as itg
        >>> net = itg.zoo.planted_modules(widths=(8, 12, 8), n_modules=2, n_samples=128)
        >>> graph = itg.interaction_graph(net.model, net.data, net.layers, progress=False)
        >>> profile = itg.resolution_profile(graph, resolutions=[0.7, 1.0], n_runs=2)
        >>> [partition.resolution for partition in profile.partitions]
        [0.7, 1.0]
    """
    n_runs, seed = check_runs(n_runs, seed, 1.0)
    given = np.geomspace(0.5, 2, 21).tolist() if resolutions is None else list(resolutions)
    values = sorted(positive("a resolution", float(r) if hasattr(r, "item") else r) for r in given)
    choice("self_edges", self_edges, SELF_EDGES)
    network, _ = read_network(graph, strength, None, self_edges)
    weighed = named_weighting(weighting).weigh(network, seed)
    weighted, decided = weighed.network, weighed.decided
    recorded: dict[str, Any] = {"null": null, "weighting": weighting, "seed": seed}
    recorded |= {"n_runs": n_runs, "strength": graph.check_strength(strength)}
    if not weighted.blocks:
        return ResolutionProfile([], [])
    partitions = []
    for resolution in values:
        objective = make_objective(weighted, null, resolution, block_weight)
        runs = search(objective, choose_algorithm(algorithm, objective), n_runs, seed)
        qualities = [objective.quality(labels) for labels in runs]
        best = int(np.argmax(qualities))
        partitions.append(
            Partition.from_labels(
                runs[best],
                graph.n_features,
                quality=qualities[best],
                agreement=mean_agreement(runs),
                resolution=resolution,
                details=decided,
                **recorded,
            )
        )
    return ResolutionProfile(partitions, find_plateaus(partitions))


def find_plateaus(partitions: Sequence[Partition]) -> list[Plateau]:
    """Ranges of at least two resolutions whose neighbouring partitions agree."""
    groups: list[list[int]] = [[0]] if partitions else []
    for k in range(1, len(partitions)):
        before, after = (partitions[i].labels for i in (k - 1, k))
        placed = after >= 0
        if adjusted_mutual_information(before[placed], after[placed]) >= constants.SAME_PLATEAU:
            groups[-1].append(k)
        else:
            groups.append([k])
    plateaus = []
    for group in groups:
        number = int(np.median([partitions[k].n_modules for k in group]))
        most = (partitions[group[0]].labels >= 0).sum() / 2
        if len(group) < 2 or not 1 < number <= most:
            continue
        agreements = np.nan_to_num([partitions[k].agreement for k in group], nan=1.0)
        best = group[int(np.argmax(agreements))]
        low, high = partitions[group[0]].resolution, partitions[group[-1]].resolution
        plateaus.append(Plateau(low, high, number, float(agreements.mean()), best))
    return sorted(plateaus, key=lambda p: -np.log(p.high / p.low) * max(p.agreement, 0))


def resolution_for(
    n_modules: int, weighted: Network, null: str, block_weight: str, algorithm: str, seed: int
) -> tuple[float, np.ndarray]:
    """The resolution whose best partition comes nearest to a number of modules, by bisection.

    Returns:
        The resolution, and the labels of the partition.

    Raises:
        InteractGraphError: the number is not between 1 and the number of features.
    """
    most = int(weighted.connected.sum())
    if whole("n_modules", n_modules) > most:
        raise InteractGraphError(
            f"n_modules={n_modules}, but the graph has {most} features; ask for fewer"
        )
    low, high = np.log(1e-3), np.log(1e3)
    tried: dict[float, np.ndarray] = {}
    for step in range(16):
        middle = 0.0 if step == 0 else (low + high) / 2
        objective = make_objective(weighted, null, float(np.exp(middle)), block_weight)
        runs = search(objective, choose_algorithm(algorithm, objective), 3, seed)
        labels = tried[middle] = max(runs, key=objective.quality)
        number = count_modules(labels)
        if number == n_modules:
            break
        low, high = (middle, high) if number < n_modules else (low, middle)
    nearest = min(tried, key=lambda r: abs(count_modules(tried[r]) - n_modules))
    return float(np.exp(nearest)), tried[nearest]
