"""What a module does: take it away, measure what the model can no longer do.

Features are set to the baseline inside a forward pass, in every layer at once, and the model runs
on from there; what a feature map leaves out of an activation stays as it is. The same is done with
random sets of as many features of about the same strength, because taking away any strong features
hurts: only what a module costs beyond that is its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..attribution import flatten_positions
from ..attribution.baseline import place
from ..checks import whole
from ..communities import Partition
from ..errors import InteractGraphError
from ..graph import InteractionGraph, Pair
from ..model import (
    RESULT,
    Batches,
    Forward,
    PositionMask,
    Runner,
    Site,
    check_data,
    check_finite,
    layer_mask,
    look_first,
    prepared,
    probe,
    read_mask,
    resolve_sites,
)
from .measures import Measure, check_measure, take

__all__ = ["WAYS", "ModuleEffect", "ablate_modules", "hidden_layers"]

WAYS = ("features", "edges", "others")
_NEAREST = 8  # features of similar strength, or a third, that a control feature is drawn from
_TRIES = 20  # sets of such features, of which one becomes a control
_DRIVING = 5  # samples listed for a module

_Change = Callable[[Tensor, Tensor], Tensor]  # (z, z0) -> z, [b, *positions, j]


@dataclass(frozen=True)
class ModuleEffect:
    """A module and what taking it away does.

    Attributes:
        module: its number in the partition.
        size: layer -> number of its features.
        strongest: layer -> labels of its strongest features.
        share_inside: share of the absolute weight of its features' edges that stays inside.
        driving_samples: numbers of the samples that move its features most, in data order.
        intact: measure -> mean over samples for the intact model.
        effect: way -> measure -> how much the measure falls.
        control: way -> measure -> falls for random sets of equal size and similar strength.
        control_strength: strength of these sets over that of the module, mean; NaN without any.
        by_class: way -> measure -> fall for each class of the samples; empty without labels.
        specialisation: way -> measure -> share of the class that suffers most in the fall over all
            classes (rises count as none): 1 where one class suffers alone, 1 / classes where all
            suffer alike.
    """

    module: int
    size: Mapping[str, int]
    strongest: Mapping[str, Sequence[str]]
    share_inside: float
    driving_samples: Sequence[int]
    intact: Mapping[str, float]
    effect: Mapping[str, Mapping[str, float]]
    control: Mapping[str, Mapping[str, Sequence[float]]]
    control_strength: float = math.nan
    by_class: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    specialisation: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __str__(self) -> str:
        sizes = ", ".join(f"{layer}: {n}" for layer, n in self.size.items() if n)
        lines = [
            f"module {self.module} ({sizes}), {self.share_inside:.0%} of its weight inside",
            *(
                f"  strongest in {layer}: {', '.join(labels)}"
                for layer, labels in self.strongest.items()
                if labels
            ),
            f"  driven most by samples {', '.join(map(str, self.driving_samples))}",
        ]
        for way, effects in self.effect.items():
            for name, fall in effects.items():
                text = f"  {_WORDS[way]}: {name} {self.intact[name]:.4g} falls by {fall:.4g}"
                controls = self.control[way][name]
                if controls:
                    mean, spread = np.mean(controls), np.std(controls)
                    text += (
                        f" (random sets as large and {self.control_strength:.2g} times as strong: "
                        f"{mean:.4g} +- {spread:.2g})"
                    )
                classes = self.by_class.get(way, {}).get(name)
                if classes:
                    worst = max(classes, key=lambda label: classes[label])
                    share = self.specialisation[way][name]
                    text += (
                        f"; class {worst} suffers most ({classes[worst]:.3g}, share {share:.2f})"
                    )
                lines.append(text)
        return "\n".join(lines)


_WORDS = {
    "features": "without it",
    "edges": "without its internal edges",
    "others": "with nothing but it",
}


def hidden_layers(graph: InteractionGraph) -> list[str]:
    """Layers that are source and target of pairs: neither the data nor the answer."""
    sources, targets = ({pair[k] for pair in graph.pairs} for k in range(2))
    return [layer for layer in graph.layers if layer in sources and layer in targets]


def ablate_modules(
    graph: InteractionGraph,
    partition: Partition,
    model: nn.Module,
    data: Iterable[Any],
    *,
    ways: Sequence[str] = ("features",),
    measures: str | Mapping[str, str | Measure] = "accuracy",
    layers: Sequence[str] | None = None,
    baseline: str | Tensor | Mapping[str, str | Tensor] = "mean",
    min_size: int = 2,
    n_controls: int = 10,
    classes: Callable[[Any], Tensor] | None = None,
    position_mask: PositionMask | None = None,
    forward: Forward | None = None,
    seed: int = 0,
    progress: bool = True,
) -> list[ModuleEffect]:
    """Takes every module away and measures what the model can no longer do.

    Args:
        graph: the graph; its feature maps are used.
        partition: its modules.
        model: the network.
        data: batches; for "accuracy" and "log_likelihood" they hold labels, `(input, labels)`.
        ways: "features": the module's features at the baseline; "edges": only its internal edges
            cut, so that its features are recomputed with the module's own source features at the
            baseline and everything else sees the features as they are (one more pass for each
            layer pair, which must form a chain); "others": everything but the module at the
            baseline.
        measures: a name of `validation.MEASURES`, or {name: one of these or a function (output,
            batch, intact output) -> one number for each sample}. More is better. The output is the
            model's first tensor; for a model that gives several, let `forward` return the one that
            is measured.
        layers: where features are taken away; None: layers that are source and target of pairs, so
            neither the data nor the answers themselves.
        baseline: "mean" (over the data), "zero", a tensor in activation space, or {layer: one of
            these}.
        min_size: modules with fewer features in these layers are left out.
        n_controls: random sets for each module and way; 0: none.
        classes: batch -> class of each sample, for the fall by class; None: integer labels of
            `(input, labels)` batches, where there are such.
        position_mask: which positions count, in means over the data and in named measures, as for
            `interaction_graph`.
        forward: `forward(model, batch)` calls the model on a batch.
        seed: of the random sets.
        progress: show a progress bar.

    Returns:
        One entry for each module, in the partition's order.

    Raises:
        InteractGraphError: bad input; the message says what was found and how to mend it.
    """
    unknown = [way for way in ways if way not in WAYS]
    if unknown or not ways:
        raise InteractGraphError(f"ways={list(ways)}; choose of {', '.join(WAYS)}")
    chosen = {"accuracy": "accuracy"} if measures == "accuracy" else measures
    if isinstance(chosen, str):
        chosen = {chosen: chosen}
    if not isinstance(chosen, Mapping) or not chosen:
        raise InteractGraphError(
            f"measures={measures!r}; give a name, or {{name: name or function}}"
        )
    checked = {name: check_measure(measure) for name, measure in chosen.items()}
    n_controls, seed = whole("n_controls", n_controls, 0), whole("seed", seed, 0)
    layers = hidden_layers(graph) if layers is None else list(layers)
    asked_for = dict(baseline) if isinstance(baseline, Mapping) else {}
    for layer in [*layers, *asked_for]:
        if layer not in graph.layers:
            raise InteractGraphError(f"layer {layer!r} is not in the graph: {list(graph.layers)}")
    layers = list(dict.fromkeys(layers))
    if missing := [layer for layer in graph.layers if layer not in graph.features]:
        raise InteractGraphError(
            f"the graph does not say what the features of {missing} are; build it with "
            "interaction_graph, or give it features={layer: map}"
        )
    if "edges" in ways and not any(s in layers and t in layers for s, t in graph.pairs):
        raise InteractGraphError(
            f"layers={layers} hold no layer pair of the graph, so there are no internal edges to "
            f"cut; its pairs are {list(graph.pairs)}"
        )
    if not layers:
        raise InteractGraphError(
            "the graph has no layer that is both source and target of pairs; say which layers "
            "features are taken away in: layers=[...]"
        )
    if partition.layers != graph.layers or any(
        len(partition.membership[layer]) != n for layer, n in graph.n_features.items()
    ):
        raise InteractGraphError(
            f"the partition has layers {list(partition.layers)} and the graph {graph!r}; give the "
            "partition of this graph"
        )
    sets = {
        number: {layer: partition.membership[layer] == number for layer in layers}
        for number in range(len(partition.modules))
    }
    sets = {n: masks for n, masks in sets.items() if _size(masks) >= min_size}
    random = np.random.default_rng(seed)
    controls = {
        n: [_matched(graph, masks, random) for _ in range(n_controls)] for n, masks in sets.items()
    }
    runner = Runner.on(model, forward, None, None)
    with prepared(model), torch.no_grad():
        batches = check_data(data)
        batches.keep_order("module ablation, which goes over the data many times, needs")
        ablation = _Ablation(
            graph, runner, batches, layers, baseline, checked, classes, position_mask
        )
        ablation.look()
        passes = len(sets) * len(ways) * (1 + n_controls)
        with tqdm(total=passes, desc="module ablation", disable=not progress, leave=False) as bar:
            intact = ablation.run(None, "features")
            driving = ablation.driving(sets)
            found = []
            for number, masks in sets.items():
                effect: dict[str, Any] = {}
                control: dict[str, Any] = {}
                by_class: dict[str, Any] = {}
                for way in ways:
                    outcome = ablation.run(masks, way)
                    bar.update()
                    effect[way] = {name: intact.mean(name) - outcome.mean(name) for name in checked}
                    by_class[way] = {
                        name: intact.falls(outcome, name) for name in checked if intact.classes
                    }
                    others = []
                    for drawn in controls[number]:
                        others.append(ablation.run(drawn, way))
                        bar.update()
                    control[way] = {
                        name: [intact.mean(name) - other.mean(name) for other in others]
                        for name in checked
                    }
                found.append(
                    ModuleEffect(
                        module=number,
                        size={k: int((v == number).sum()) for k, v in partition.membership.items()},
                        strongest=_strongest(graph, partition, number),
                        share_inside=_share_inside(graph, partition, number),
                        driving_samples=driving[number],
                        intact={name: intact.mean(name) for name in checked},
                        effect=effect,
                        control=control,
                        control_strength=_relative_strength(graph, masks, controls[number]),
                        by_class=by_class if intact.classes else {},
                        specialisation={
                            way: {name: _specialisation(falls) for name, falls in table.items()}
                            for way, table in by_class.items()
                        }
                        if intact.classes
                        else {},
                    )
                )
    return found


_Masks = Mapping[str, np.ndarray]


def _size(masks: _Masks) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


def _matched(graph: InteractionGraph, masks: _Masks, random: np.random.Generator) -> _Masks:
    """As many features in each layer, about as strong together as the module's.

    From all features, the module's included: what any such set costs, module or not. Each is drawn
    from those close in strength to one of the module's. Where that one is among the strongest, all
    these are weaker; so the set is the one of several that comes closest in sum.
    """
    strength, offsets = graph.node_strength(), graph.offsets
    drawn = {}
    for layer, mask in masks.items():
        own = strength[offsets[layer] : offsets[layer] + len(mask)]
        n_near = max(_NEAREST, len(mask) // 3)
        order = np.argsort(own, kind="stable")
        first = _windows(own[order], n_near)[np.argsort(order)]
        tries = [_near(order, first, n_near, mask, random) for _ in range(_TRIES)]
        drawn[layer] = min(tries, key=lambda taken: abs(own[taken].sum() - own[mask].sum()))
    return drawn


def _windows(rising: np.ndarray, size: int) -> np.ndarray:
    """For each value where the `size` values nearest to it start, in rising order."""
    last = max(0, len(rising) - size)
    starts, start = np.zeros(len(rising), np.int64), 0
    for position, value in enumerate(rising):
        while start < last and rising[start + size] - value < value - rising[start]:
            start += 1
        starts[position] = start
    return starts


def _near(
    order: np.ndarray, first: np.ndarray, n_near: int, mask: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """For each feature of the mask another one of similar strength, all different.

    Args:
        order: features by strength.
        first: for each feature the place in `order` where those nearest to it start.
        n_near: how many these are.
        mask: the module's features.
        random: draws.
    """
    taken = np.zeros_like(mask)
    for j in random.permutation(np.flatnonzero(mask)):
        start, stop = first[j], min(first[j] + n_near, len(order))
        while taken[order[start:stop]].all():  # all of them are in the set by now
            start, stop = max(0, start - n_near), min(stop + n_near, len(order))
        one = order[random.integers(start, stop)]
        while taken[one]:
            one = order[random.integers(start, stop)]
        taken[one] = True
    return taken


def _relative_strength(graph: InteractionGraph, masks: _Masks, controls: Sequence[_Masks]) -> float:
    """Mean strength of the controls over that of the module; NaN where there is none."""
    strength, offsets = graph.node_strength(), graph.offsets

    def total(chosen: _Masks) -> float:
        return sum(
            float(strength[offsets[layer] : offsets[layer] + len(mask)][mask].sum())
            for layer, mask in chosen.items()
        )

    own = total(masks)
    if not controls or not own:
        return math.nan
    return float(np.mean([total(drawn) for drawn in controls])) / own


def _strongest(graph: InteractionGraph, partition: Partition, number: int) -> dict[str, list[str]]:
    strength, offsets = graph.node_strength(), graph.offsets
    found = {}
    for layer, modules in partition.membership.items():
        own = np.flatnonzero(modules == number)
        order = own[np.argsort(-strength[own + offsets[layer]])][:5]
        found[layer] = [graph.labels[layer][j] for j in order]
    return found


def _share_inside(graph: InteractionGraph, partition: Partition, number: int) -> float:
    inside = total = 0.0
    for source, target in graph.pairs:
        weight = graph.weights(source, target).abs().double()
        rows = torch.from_numpy(partition.membership[target] == number)
        columns = torch.from_numpy(partition.membership[source] == number)
        both = float(weight[rows][:, columns].sum())
        inside += both
        total += float(weight[rows].sum()) + float(weight[:, columns].sum()) - both
    return inside / total if total else 0.0


def _specialisation(falls: Mapping[str, float]) -> float:
    clipped = np.clip(list(falls.values()), 0, None)
    return float(clipped.max() / clipped.sum()) if clipped.sum() > 0 else float("nan")


def _taken(mask: np.ndarray, values: Tensor) -> _Change:
    """Other values for some features."""
    own = torch.from_numpy(mask).to(values.device)
    return lambda z, z0: torch.where(own, values, z)


@dataclass(frozen=True, eq=False)
class _Outcome:
    """Values of every measure on every sample, and the samples' classes."""

    values: Mapping[str, Tensor]
    classes: Sequence[str]

    def mean(self, name: str) -> float:
        return float(self.values[name].double().mean())

    def falls(self, other: _Outcome, name: str) -> dict[str, float]:
        fall = (self.values[name] - other.values[name]).double().numpy()
        labels = np.array(self.classes)
        return {str(label): float(fall[labels == label].mean()) for label in np.unique(labels)}


@dataclass(eq=False)
class _Ablation:
    """Runs of the model with features taken away."""

    graph: InteractionGraph
    runner: Runner
    data: Batches
    layers: Sequence[str]
    baseline: str | Tensor | Mapping[str, str | Tensor]
    measures: Mapping[str, Measure]
    classes: Callable[[Any], Tensor] | None
    position_mask: PositionMask | None
    sites: dict[str, Site] = field(default_factory=dict)
    dims: dict[str, int] = field(default_factory=dict)
    starts: dict[str, str | Tensor] = field(default_factory=dict)
    _intact: list[Tensor] = field(default_factory=list)

    def look(self) -> None:
        """Learns the layers' shapes and their baselines."""
        wanted = [*self.layers, *(layer for pair in self.graph.pairs for layer in pair)]
        names = list(dict.fromkeys(wanted))
        self.sites = {s.name: s for s in resolve_sites(self.runner.model, names)}
        sites = list(self.sites.values())
        self.runner, first, _ = look_first(self.runner, self.data, sites)
        self.runner, _, axes = probe(self.runner, first, sites, [])
        for layer in self.sites:
            own = getattr(self.graph.features[layer], "feature_dim", None)
            self.dims[layer] = own if isinstance(own, int) else axes[layer].axis
        sums: dict[str, Tensor] = {}
        count: dict[str, int] = {}
        for number, batch in enumerate(self.data):
            batch = self.runner.convert(batch)
            found = self.runner.activations(batch, sites)
            check_finite(found, number)
            for layer, activation in found.items():
                rows = flatten_positions(activation.movedim(self.dims[layer], -1).double())
                mask = self._mask(batch, layer, rows)
                rows = rows.flatten(0, 1) if mask is None else rows[mask]
                sums[layer] = sums.get(layer, 0) + rows.sum(0)
                count[layer] = count.get(layer, 0) + len(rows)
        for layer in self.sites:
            asked = self.baseline
            if isinstance(asked, Mapping):
                asked = asked.get(layer, "mean")
            if isinstance(asked, str) and asked not in ("mean", "zero"):
                raise InteractGraphError(
                    f"baseline={asked!r} is unknown; use 'mean', 'zero' or a tensor in activation "
                    "space"
                )
            mean = sums[layer] / count[layer]
            self.starts[layer] = mean if isinstance(asked, str) and asked == "mean" else asked

    def _mask(self, batch: Any, layer: str, values: Tensor) -> Tensor | None:
        """The positions of values `[b, p, d]` that count."""
        mask = read_mask(self.position_mask, batch, values.device)
        return layer_mask(mask, values.shape[1], layer)

    def _changed(self, layer: str, activation: Tensor, change: _Change) -> Tensor:
        """The activation with its features changed; what the map leaves out stays."""
        feature_map = self.graph.features[layer].to(activation.device, activation.dtype)
        feature_map = feature_map.at(activation)
        z = feature_map.encode(activation)
        start = self.starts[layer]
        if isinstance(start, Tensor):
            start = start.to(activation)
        z0 = feature_map.encode(place(start, activation, self.dims[layer], layer))
        return activation + feature_map.decode(change(z, z0)) - feature_map.decode(z)

    def _masked(self, masks: _Masks, way: str) -> dict[str, _Change]:
        def at_baseline(mask: np.ndarray) -> _Change:
            gone = torch.from_numpy(mask)
            return lambda z, z0: torch.where(gone.to(z.device), z0, z)

        return {
            layer: at_baseline(~mask if way == "others" else mask) for layer, mask in masks.items()
        }

    def _output(self, batch: Any, masks: _Masks | None, way: str) -> Tensor:
        changes = {} if masks is None else self._masked(masks, way)
        if way == "edges" and masks is not None:
            return self._without_edges(batch, masks, changes)

        def changed(layer: str) -> Callable[[Tensor], Tensor]:
            return lambda activation: self._changed(layer, activation, changes[layer])

        return self.runner.output(batch, {self.sites[layer]: changed(layer) for layer in changes})

    def _without_edges(self, batch: Any, masks: _Masks, changes: Mapping[str, _Change]) -> Tensor:
        """The module's target features see its source features at the baseline, others do not."""
        pairs = self._chain(masks)
        source = pairs[0][0]
        activation = self.runner.activations(batch, [self.sites[source]])[source]
        for source, target in pairs:
            segment = self.runner.segment(batch, self.sites[source], self.sites[target])
            intact = segment(activation)
            cut = segment(self._changed(source, activation, changes[source]))
            feature_map = self.graph.features[target].to(intact.device, intact.dtype).at(intact)
            z_cut = feature_map.encode(cut)
            activation = self._changed(target, intact, _taken(masks[target], z_cut))
        if not self.runner.goes_on_after(self.sites[target]):
            return activation
        return self.runner.segment(batch, self.sites[target], RESULT)(activation)

    def _chain(self, masks: _Masks) -> list[Pair]:
        """Pairs between the layers concerned, each starting where the one before it ends."""
        pairs = [pair for pair in self.graph.pairs if pair[0] in masks and pair[1] in masks]
        for one, other in pairwise(pairs):
            if one[1] != other[0]:
                raise InteractGraphError(
                    f"pairs {one} and {other} form no chain; internal edges can only be cut in "
                    "graphs whose pairs follow each other"
                )
        return pairs

    def run(self, masks: _Masks | None, way: str) -> _Outcome:
        """Every measure on every sample with features or edges taken away; None: intact."""
        values: dict[str, list[Tensor]] = {name: [] for name in self.measures}
        classes: list[str] = []
        for number, batch in enumerate(self.data):
            batch = self.runner.convert(batch)
            output = self._output(batch, masks, way)
            if masks is None:
                self._intact.append(output)
                classes += self._classes(batch, len(output))
            intact, mask = self._intact[number], read_mask(self.position_mask, batch)
            for name, measure in self.measures.items():
                found = take(measure, output, batch, intact, mask, name)
                values[name].append(found.cpu())
        joined = {name: torch.cat(parts) for name, parts in values.items()}
        n_samples = len(next(iter(joined.values()), ()))
        # Classes that only some batches have are no classes of the data.
        return _Outcome(joined, classes if len(classes) == n_samples else [])

    def _classes(self, batch: Any, n_samples: int) -> list[str]:
        found: Any = None
        if self.classes is not None:
            found = self.classes(batch)
            if not hasattr(found, "__len__") or len(found) != n_samples:
                raise InteractGraphError(
                    f"classes gives {repr(found)[:60]} for a batch of {n_samples} samples; it must "
                    "give one class for each"
                )
        elif isinstance(batch, (tuple, list)) and len(batch) > 1 and isinstance(batch[1], Tensor):
            found = batch[1]
            if found.ndim != 1 or found.dtype.is_floating_point:
                return []
        if found is None or len(found) != n_samples:
            return []
        return [str(value) for value in (found.tolist() if hasattr(found, "tolist") else found)]

    def driving(self, sets: Mapping[int, _Masks]) -> dict[int, list[int]]:
        """The samples on which each module's features are furthest from the baseline.

        In units of each feature's root mean square distance.
        """
        distances: dict[str, list[Tensor]] = {layer: [] for layer in self.layers}
        for batch in self.data:
            sites = [self.sites[layer] for layer in self.layers]
            batch = self.runner.convert(batch)
            found = self.runner.activations(batch, sites)
            for layer, activation in found.items():

                def keep(z: Tensor, z0: Tensor, layer: str = layer, batch: Any = batch) -> Tensor:
                    moved = flatten_positions((z - z0).square())
                    mask = self._mask(batch, layer, moved)
                    moved = moved if mask is None else moved * mask[..., None]
                    distances[layer].append(moved.sum(1))
                    return z

                self._changed(layer, activation, keep)
        scaled = {}
        for layer, parts in distances.items():
            whole = torch.cat(parts).double().cpu()
            scaled[layer] = whole / whole.mean(0).clamp(min=1e-300)
        found_samples = {}
        for number, masks in sets.items():
            score = torch.stack(
                [scaled[layer][:, torch.from_numpy(mask)].sum(1) for layer, mask in masks.items()]
            ).sum(0)
            found_samples[number] = score.topk(min(_DRIVING, len(score))).indices.tolist()
        return found_samples
