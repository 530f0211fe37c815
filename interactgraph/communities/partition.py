"""What a search for modules returns."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from numbers import Real
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InteractGraphError
from .multiple_tests import holm, one_sided

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..graph import InteractionGraph
    from .flow import ModuleFlow
    from .mixtures import Mixture

__all__ = ["Partition", "by_size", "split_layers"]

SIGNIFICANT = 0.05


@dataclass(frozen=True, eq=False, repr=False)
class Partition:
    """Modules of an interaction graph. Module 0 is the largest; do not modify the arrays.

    Attributes:
        membership: layer -> module of each feature, int64; -1 for a feature without edges.
        quality: value of the objective, see `null`; for "layered" the mean of Barber's bipartite
            modularity over the pairs of layers.
        agreement: adjusted mutual information between runs, mean over pairs of runs; NaN for one
            run. Near 1: the runs found the same modules.
        p_value: probability of so much held-out structure if the weights were nothing but the
            product of a source strength and a target strength; NaN where it was not tested, or
            could not be (`details["significance"]` says so).
        z_score: the statistic behind `p_value`, standard normal where there is no structure; along
            skip connections Student's t with n - 1 degrees of freedom, from the n networks of
            `details["spectral_null"]`.
        null: null model: "layered", "undirected", "directed" or "cpm".
        resolution: factor of the null model; larger values give more and smaller modules.
        weighting: how strengths became weights.
        strength: which strength of the graph was used.
        seed: seed of the first run.
        n_runs: number of runs; the one of best quality is kept.
        confidence: layer -> for each feature the share of its module it was together with, mean
            over runs or bootstrap samples; NaN for features without edges. Empty: not measured.
        affinity: layer -> how much each feature belongs to each module, `[features, modules]`: the
            share of its strength, inputs and outputs, that goes there above what is spread over all
            modules as their strengths have it (`communities/affinity.py` has the formula). Rows sum
            to at most 1, to 0 for a hub. Empty: not measured.
        affinity_interval: layer -> the ends of 95 % intervals of `affinity`, `[features, modules,
            2]`, from the folds of the graph; empty where it has none.
        module_z_scores: for each module the statistic of its share of the held-out structure,
            distributed as `z_score` for features that only their strengths have in common, float64
            `[modules]`; NaN where it could not be tested. Empty: not tested.
        details: anything else about how it was found (algorithm, qualities of the runs, ...).
    """

    membership: Mapping[str, np.ndarray]
    quality: float
    agreement: float = math.nan
    p_value: float = math.nan
    z_score: float = math.nan
    null: str = "layered"
    resolution: float = 1.0
    weighting: str = "raw"
    strength: str = ""
    seed: int = 0
    n_runs: int = 1
    confidence: Mapping[str, np.ndarray] = field(default_factory=dict)
    affinity: Mapping[str, np.ndarray] = field(default_factory=dict)
    affinity_interval: Mapping[str, np.ndarray] = field(default_factory=dict)
    module_z_scores: np.ndarray = field(default_factory=lambda: np.zeros(0))
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        membership = {}
        for layer, modules in self.membership.items():
            membership[str(layer)] = _module_numbers(str(layer), modules)
        object.__setattr__(self, "membership", MappingProxyType(membership))
        confidence = {str(k): np.array(v, dtype=np.float64) for k, v in self.confidence.items()}
        for layer, values in confidence.items():
            if layer not in membership or values.shape != membership[layer].shape:
                raise InteractGraphError(
                    f"confidence of layer {layer!r} has shape {values.shape}; it must give one "
                    "number for each feature of a layer of the membership"
                )
        object.__setattr__(self, "confidence", MappingProxyType(confidence))
        object.__setattr__(self, "details", MappingProxyType(dict(self.details)))
        numbers = np.unique(self.labels)
        numbers = numbers[numbers >= 0]
        if not np.array_equal(numbers, np.arange(len(numbers))):
            raise InteractGraphError(
                "module numbers must be 0, 1, 2, ... without gaps (and -1 for isolated features), "
                f"found {numbers[:10].tolist()}"
            )
        z_scores = np.array(self.module_z_scores, dtype=np.float64)
        if z_scores.shape not in ((0,), (len(numbers),)):
            raise InteractGraphError(
                f"module_z_scores has shape {z_scores.shape}; it must give one number for each of "
                f"the {len(numbers)} modules, or none"
            )
        z_scores.flags.writeable = False
        object.__setattr__(self, "module_z_scores", z_scores)
        for name, more in (("affinity", ()), ("affinity_interval", (2,))):
            object.__setattr__(self, name, MappingProxyType(self._shares(name, more)))

    def _shares(self, name: str, more: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Layer -> shares of all features in all modules, `[features, modules, *more]`."""
        given = {str(k): np.array(v, dtype=np.float64) for k, v in getattr(self, name).items()}
        for layer, values in given.items():
            shape = (len(self.membership.get(layer, ())), self.n_modules, *more)
            if layer not in self.membership or values.shape != shape:
                raise InteractGraphError(
                    f"{name} of layer {layer!r} has shape {values.shape}; it must be {shape}, "
                    "[features, modules, ...], for a layer of the membership"
                )
        return given

    @classmethod
    def from_labels(
        cls, labels: np.ndarray, n_features: Mapping[str, int], **fields: Any
    ) -> Partition:
        """From one label per node, in the graph's node order; modules are renumbered by size.

        Args:
            labels: any integers, negative ones for features that belong nowhere, `[nodes]`.
            n_features: layer -> number of features, in order.
            **fields: the other fields.
        """
        if len(labels) != sum(n_features.values()):
            raise InteractGraphError(
                f"{len(labels)} labels were given, the layers have {sum(n_features.values())} "
                "features"
            )
        return cls(split_layers(by_size(labels), n_features), **fields)

    @property
    def layers(self) -> tuple[str, ...]:
        """Layer names, in order."""
        return tuple(self.membership)

    @cached_property
    def labels(self) -> np.ndarray:
        """Module of each node, layer by layer, int64 `[nodes]`."""
        parts = [np.zeros(0, np.int64), *self.membership.values()]
        labels = np.concatenate(parts)
        labels.flags.writeable = False
        return labels

    @property
    def n_modules(self) -> int:
        """Number of modules."""
        return int(self.labels.max(initial=-1)) + 1

    @cached_property
    def modules(self) -> list[dict[str, np.ndarray]]:
        """For each module, largest first: layer -> numbers of its features (layers it is in)."""
        modules: list[dict[str, np.ndarray]] = [{} for _ in range(self.n_modules)]
        for layer, numbers in self.membership.items():
            for module in np.unique(numbers[numbers >= 0]).tolist():
                modules[module][layer] = np.flatnonzero(numbers == module)
        return modules

    @property
    def sizes(self) -> list[int]:
        """Number of features of each module, largest first."""
        counts = np.bincount(self.labels[self.labels >= 0], minlength=self.n_modules)
        return [int(count) for count in counts]

    @property
    def significant(self) -> bool | None:
        """Whether the p-value is at most 0.05; None where it was not tested."""
        return None if math.isnan(self.p_value) else self.p_value <= SIGNIFICANT

    @cached_property
    def module_p_values(self) -> np.ndarray:
        """Of each module: probability of such a `module_z_scores` by chance, float64 `[modules]`.

        Corrected for the number of modules (Holm), so that in 95 % of the graphs that are nothing
        but strengths no module is below 0.05. NaN where it could not be tested; empty: not tested.
        """
        n = self.details.get("spectral_null", {}).get("n", 0)
        values = holm(one_sided(self.module_z_scores, n))
        values.flags.writeable = False
        return values

    @property
    def significant_modules(self) -> list[int]:
        """Modules that are more than strengths and chance: a `module_p_values` of at most 0.05."""
        return np.flatnonzero(self.module_p_values <= SIGNIFICANT).tolist()

    @property
    def notes(self) -> tuple[str, ...]:
        """What makes the modules doubtful; issued as warnings when they were found."""
        return tuple(self.details.get("notes", ()))

    def mixtures(self, least: float = 0.25) -> list[Mixture]:
        """Features that are not of one module alone, in the order of the nodes.

        "mixture": two or more modules have an affinity of `least`, surely above 0 where there are
        intervals; "hub": more than half of the strength is spread over all modules as their
        strengths have it (affinities sum to less than 1/2).

        Args:
            least: smallest affinity that counts.

        Example:
            >>> import numpy as np, interactgraph as itg
            >>> affinity = {"a": np.array([[1.0, 0.0], [0.4, 0.6], [0.1, 0.0]])}
            >>> partition = itg.Partition({"a": [0, 1, 0]}, quality=0.0, affinity=affinity)
            >>> [(m.feature, m.kind, m.modules) for m in partition.mixtures()]
            [(1, 'mixture', (1, 0)), (2, 'hub', (0,))]
        """
        from .mixtures import mixtures

        return mixtures(self, least)

    def summary(self) -> str:
        """One or two lines for people: what was found and how far it can be trusted."""
        if not self.n_modules:
            return "no modules: the graph has no edges"
        sizes = ", ".join(map(str, self.sizes[:12])) + (", ..." if self.n_modules > 12 else "")
        text = f"{self.n_modules} modules (features: {sizes}), {self.null} quality "
        text += f"{self.quality:.3f}"
        if not math.isnan(self.agreement):
            resampled = self.details.get("bootstrap_samples")
            of = f"with {resampled} resampled graphs" if resampled else f"of {self.n_runs} runs"
            text += f", agreement {of} {self.agreement:.2f}"
        if self.significant is None:
            return "\n".join([text, *filter(None, [self.details.get("significance")])])
        test = f"held-out edges: z = {self.z_score:.1f}, p = {self.p_value:.2g}"
        if narrow := self.details.get("untested_pairs"):
            test += f", without {', '.join(narrow)}: too narrow to test"
        if self.significant:
            return f"{text}\n{test}{self._which_are_real()}"
        return f"no modular structure found ({test})\nbest partition anyway: {text}"

    def _which_are_real(self) -> str:
        """How many modules are significant, for the summary; empty where it was not tested."""
        n_tested = int(np.isfinite(self.module_p_values).sum())
        if not n_tested:
            return ""
        text = f"; {len(self.significant_modules)} of {self.n_modules} modules are more than chance"
        untested = self.n_modules - n_tested
        return f"{text} ({untested} could not be tested)" if untested else text

    def _repr_html_(self) -> str:
        """A table for notebooks: the modules and how many features of each layer they hold."""
        layers = list(self.membership)
        tested = len(self.module_p_values) > 0
        names = ["module", "features", *layers, *(["z", "p"] if tested else [])]
        head = "".join(f"<th>{escape(name)}</th>" for name in names)
        rows = []
        for number in range(self.n_modules):
            counts = [int((self.membership[layer] == number).sum()) for layer in layers]
            shown: list[object] = [number, sum(counts), *counts]
            if tested:
                shown += [f"{self.module_z_scores[number]:.1f}"]
                shown += [f"{self.module_p_values[number]:.2g}"]
            cells = "".join(f"<td>{cell}</td>" for cell in shown)
            rows.append(f"<tr>{cells}</tr>")
        text = escape(self.summary()).replace("\n", "<br>")
        table = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
        return f"<p>{text}</p><table>{table}</table>"

    def __repr__(self) -> str:
        return (
            f"Partition({self.n_modules} modules, quality={self.quality:.4g}, "
            f"agreement={self.agreement:.3g}, p_value={self.p_value:.3g})"
        )

    def plot(self, path: str | os.PathLike[str] | None = None, *, axes: Axes | None = None) -> Axes:
        """Draws with matplotlib which share of the features of each layer every module has.

        `graph.plot(partition=partition)` draws the modules in their graph.

        Args:
            path: a .png, .svg or .pdf file to write; None: none, and notebooks show the figure.
            axes: where to draw; None: a new figure.

        Returns:
            The axes.

        Raises:
            InteractGraphError: matplotlib is not installed, or the path cannot be written.
        """
        from ..report.axes import plot_modules
        from ..report.picture import picture

        size = (min(max(0.9 * len(self.layers) + 2.5, 5.0), 20.0), 4.0)
        return picture(lambda axes: plot_modules(axes, self), size, path, axes)

    def flow(self, graph: InteractionGraph, strength: str | None = None) -> ModuleFlow:
        """How much strength goes from each module of a layer to each of the next.

        See `interactgraph.module_flow`.

        Args:
            graph: the graph that this is a partition of.
            strength: which strength; None: that of the partition, or the graph's first.

        Raises:
            InteractGraphError: no such strength, or another graph.
        """
        from .flow import module_flow

        return module_flow(graph, self, strength)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the partition to a JSON file, whole or not at all; `load` reads it.

        Raises:
            InteractGraphError: the path cannot be written.
        """
        from .partition_file import save_partition

        save_partition(self, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Partition:
        """Reads what `save` wrote.

        Raises:
            InteractGraphError: the file is missing, truncated, or not a partition.
        """
        from .partition_file import load_partition

        return load_partition(path)


def _module_numbers(layer: str, modules: Any) -> np.ndarray:
    """The module of each feature of a layer, int64, read only.

    Raises:
        InteractGraphError: no list of whole numbers of at least -1.
    """
    try:
        given = np.array(modules)
    except ValueError:  # rows of different lengths
        given = np.array(None)
    if given.ndim != 1:
        raise InteractGraphError(
            f"membership of layer {layer!r} has shape {given.shape}, expected one module number "
            "for each feature"
        )
    with np.errstate(invalid="ignore", over="ignore"):  # inf, half precision
        right = (
            (given >= -1) & (given < 2**63) & (given % 1 == 0)
            if given.dtype.kind in "iuf"
            else np.array([_is_module(entry) for entry in given], dtype=bool)
        )
    if not right.all():
        raise InteractGraphError(
            f"membership of layer {layer!r} holds {given[~right][0]!r}; module numbers must be "
            "whole, and -1 for features that are in none"
        )
    array = given.astype(np.int64)
    array.flags.writeable = False
    return array


def _is_module(entry: Any) -> bool:
    real = isinstance(entry, Real) and not isinstance(entry, (bool, np.timedelta64))
    return bool(real and -1 <= entry < 2**63 and entry % 1 == 0)


def by_size(labels: np.ndarray) -> np.ndarray:
    """Renumbers labels 0, 1, ... from the largest group down; negative ones become -1.

    Groups of equal size keep the order of their first members, so the result depends on the
    grouping only, not on the numbers it came with.
    """
    labels = np.asarray(labels)
    result = np.full(len(labels), -1, np.int64)
    inside = labels >= 0
    if inside.any():
        _, first, inverse, counts = np.unique(
            labels[inside], return_index=True, return_inverse=True, return_counts=True
        )
        order = np.lexsort((first, -counts))
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        result[inside] = rank[inverse]
    return result


def split_layers(values: np.ndarray, n_features: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Values per node, in the graph's node order, as layer -> values per feature."""
    ends = np.cumsum([0, *n_features.values()])
    return {
        layer: values[start:end]
        for layer, start, end in zip(n_features, ends[:-1], ends[1:], strict=True)
    }
