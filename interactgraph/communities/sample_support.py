"""Which samples stand behind a module: many, a handful, or those of one group.

For an edge with X_b its square (`rms`) or absolute value (`mean_abs`) on sample b, the effective
number of samples is the participation ratio

    n_eff = (sum of X_b)^2 / sum of X_b^2,   1 / n_eff = 1 / B + (B - 1) / B (SE(m) / m)^2

of B samples: one where a single sample makes the edge, B where all do alike. The standard error of
the mean m holds it, so that no run over the samples is needed (see `attribution.strengths`; equal
numbers of positions). SE(m) / m is twice that of sqrt(m), for `rms`. Edges are weighed by m, each
block by one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ..attribution.strengths import STRENGTHS
from ..errors import InteractGraphError
from ..graph import InteractionGraph
from ..sparse import is_sparse, lookup, map_values, nonzero, sums, values_of, with_values
from . import constants
from .partition import Partition

__all__ = ["ModuleSupport", "PartShare", "sample_support"]


class PartShare(NamedTuple):
    """What one part of the samples, a fold or a group, has of a module.

    Attributes:
        part: name of the part that has most.
        strength: its share of the strength of the module's features.
        features: share of the module's features of whose strength a single part, any one, has
            nearly all (`constants.NEARLY_ALL`).
    """

    part: str
    strength: float
    features: float


@dataclass(frozen=True)
class ModuleSupport:
    """The samples behind a module.

    Attributes:
        module: its number.
        effective_samples: effective number of samples of a feature's edges, median over the
            module's features; NaN where the graph does not say (no standard errors, drawn features,
            another strength than `rms` and `mean_abs`).
        few: share of its features with fewer than `constants.FEW_SAMPLES` effective samples.
        fold: of folds, None where the graph has fewer than two.
        group: of groups, None where the graph has fewer than two.
    """

    module: int
    effective_samples: float
    few: float
    fold: PartShare | None
    group: PartShare | None

    @property
    def is_handful(self) -> bool:
        """Whether most of its features owe their strength to one or two samples, or one fold."""
        folds = 0.0 if self.fold is None else self.fold.features
        return max(self.few, folds) > constants.MOST_FEATURES

    @property
    def is_of_group(self) -> bool:
        """Whether most of its features owe their strength to a single group."""
        return self.group is not None and self.group.features > constants.MOST_FEATURES

    def __str__(self) -> str:
        text = f"module {self.module}:"
        if not math.isnan(self.effective_samples):
            text += f" {self.effective_samples:.1f} effective samples (median of its features),"
            text += f" {self.few:.0%} of its features live on one or two;"
        for kind, share in (("fold", self.fold), ("group", self.group)):
            if share is not None:
                text += f" {kind} {share.part} has {share.strength:.0%} of its strength, and "
                text += f"{share.features:.0%} of its features live on a single {kind};"
        return text.rstrip(";:") + ("" if text.endswith(";") else ": the graph does not say")


def sample_support(
    graph: InteractionGraph, partition: Partition, strength: str | None = None
) -> list[ModuleSupport]:
    """Says of every module how many samples it comes from, and whether one part has it all.

    Args:
        graph: the graph; folds and groups are used where it has them.
        partition: its modules.
        strength: which strength; None: that of the partition, or the graph's first.

    Returns:
        One entry for each module.

    Raises:
        InteractGraphError: no such strength, or the partition is of another graph.

    Example:
        >>> import interactgraph as itg
        >>> net = itg.zoo.planted_modules(widths=(8, 12, 8), n_modules=2, n_samples=128)
        >>> graph = itg.interaction_graph(net.model, net.data, net.layers, folds=4, progress=False)
        >>> support = itg.sample_support(graph, itg.find_modules(graph, n_modules=2, n_runs=2))
        >>> any(each.is_handful for each in support)
        False
    """
    n_features = {layer: len(modules) for layer, modules in partition.membership.items()}
    if n_features != graph.n_features:
        raise InteractGraphError(
            f"the partition is of another graph: its layers have {n_features} features, the "
            f"graph's {graph.n_features}"
        )
    if not graph.pairs:
        return []
    name = graph.check_strength(strength or partition.strength or None)
    effective = _effective_samples(graph, name)
    folds = {str(number): fold for number, fold in enumerate(graph.folds)}
    by_fold, by_group = (_shares(graph, parts, name) for parts in (folds, graph.groups))
    support = []
    for module in range(partition.n_modules):
        inside = partition.labels == module
        known = effective[inside]
        known = known[np.isfinite(known)]
        support.append(
            ModuleSupport(
                module,
                float(np.median(known)) if len(known) else math.nan,
                float((known < constants.FEW_SAMPLES).mean()) if len(known) else math.nan,
                _part_share(by_fold, inside),
                _part_share(by_group, inside),
            )
        )
    return support


def _degree(name: str) -> int:
    """The power of a strength that is a mean over samples."""
    return STRENGTHS[name].degree if name in STRENGTHS else 1


def _effective_samples(graph: InteractionGraph, name: str) -> np.ndarray:
    """Effective number of samples of every node's edges, `[nodes]`; NaN where not known."""
    n_samples = graph.metadata.get("n_samples")
    if name not in ("rms", "mean_abs") or not n_samples:
        return np.full(graph.n_nodes, np.nan)
    total, concentration = np.zeros(graph.n_nodes), np.zeros(graph.n_nodes)
    plans = graph.metadata.get("plans") or [{}] * len(graph.pairs)
    for pair, plan in zip(graph.pairs, plans, strict=True):
        errors = graph.standard_errors.get(pair, {}).get(name)
        drawn = "sources_per_sample" in plan or "positions_per_sample" in plan
        if errors is None or drawn:
            continue
        value, powers = graph.weights(*pair, name).detach().double(), _powers(graph, pair, name)
        error = errors.detach().double()
        if is_sparse(value):
            rows, columns, _ = nonzero(powers)
            value, error = (lookup(each, rows, columns) for each in (value, error))
        weight = values_of(powers) / values_of(powers).sum().clamp_min(1e-300)
        relative = _degree(name) * (error / value.abs()).nan_to_num(0.0, 0.0)
        share = 1 / n_samples + (n_samples - 1) / n_samples * relative.square()
        _add(total, graph, pair, with_values(powers, weight))
        _add(concentration, graph, pair, with_values(powers, weight * share))
    return np.divide(total, concentration, out=np.full(graph.n_nodes, np.nan), where=total > 0)


def _shares(
    graph: InteractionGraph, parts: Mapping[str, InteractionGraph], name: str
) -> tuple[list[str], np.ndarray]:
    """Names of the parts, and what each has of every node's strength, `[parts, nodes]`."""
    totals = np.zeros((len(parts), graph.n_nodes))
    for pair in graph.pairs:
        scale = float(values_of(_powers(graph, pair, name)).sum())
        for total, part in zip(totals, parts.values(), strict=True):
            n_samples = float(part.metadata.get("n_samples", 1))
            _add(
                total,
                graph,
                pair,
                _powers(part, pair, name) * (n_samples / scale if scale else 0.0),
            )
    return list(parts), totals


def _powers(graph: InteractionGraph, pair: tuple[str, str], name: str) -> Tensor:
    """Means over samples of a pair's squares, or absolute values, float64 `[i, j]`."""
    weights = graph.weights(*pair, name).detach().double()
    return map_values(weights, lambda values: values.abs() ** _degree(name))


def _add(total: np.ndarray, graph: InteractionGraph, pair: tuple[str, str], weight: Tensor) -> None:
    """Adds a block's sums over rows and columns to the nodes."""
    source, target = (graph.offsets[layer] for layer in pair)
    of_rows, of_columns = sums(weight)
    total[source : source + weight.shape[1]] += of_columns.cpu().numpy()
    total[target : target + weight.shape[0]] += of_rows.cpu().numpy()


def _part_share(shares: tuple[list[str], np.ndarray], inside: np.ndarray) -> PartShare | None:
    """What the parts have of the features of a module."""
    names, totals = shares
    of_module = totals[:, inside]
    alive = of_module[:, of_module.sum(0) > 0]
    if len(names) < 2 or not alive.size:
        return None
    whole = alive.sum(1) / alive.sum()
    nearly = (alive / alive.sum(0)).max(0) >= constants.NEARLY_ALL
    best = int(whole.argmax())
    return PartShare(names[best], float(whole[best]), float(nearly.mean()))
