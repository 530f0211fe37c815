"""What a module does: take it away, measure what the model can no longer do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..checks import whole
from ..communities import Partition
from ..errors import InteractGraphError
from ..graph import InteractionGraph
from ..layers import Layers
from ..model import (
    Forward,
    PositionMask,
    Runner,
    check_data,
    load_model,
    prepared,
    resolve_sites,
)
from .controls import Masks, matched_set, relative_strength, set_size
from .measures import Measure, check_measure
from .module_ablation import WAYS, ModuleAblation, Outcome
from .module_effect import ModuleEffect, share_inside, specialisation, strongest_features

__all__ = ["WAYS", "Baselines", "ModuleEffect", "ablate_modules", "check", "hidden_layers", "look"]

Baselines = str | Tensor | Mapping[str, "str | Tensor"]


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

    Example:
        >>> import interactgraph as itg
        >>> net = itg.zoo.planted_modules(widths=(8, 12, 8), n_modules=2, n_samples=128)
        >>> graph = itg.interaction_graph(net.model, net.data, net.layers, progress=False)
        >>> partition = itg.find_modules(graph, n_modules=2, n_runs=2)
        >>> effects = itg.ablate_modules(
        ...     graph, partition, net.model, net.data, measures="similarity", n_controls=1,
        ...     progress=False,
        ... )
        >>> len(effects)
        2
    """
    checked = _check_measures(measures)
    n_controls, seed = whole("n_controls", n_controls, 0), whole("seed", seed, 0)
    layers = hidden_layers(graph) if layers is None else list(dict.fromkeys(layers))
    check(graph, partition, ways, layers, baseline)
    sets = {
        number: {layer: partition.membership[layer] == number for layer in layers}
        for number in range(len(partition.modules))
    }
    sets = {n: masks for n, masks in sets.items() if set_size(masks) >= min_size}
    random = np.random.default_rng(seed)
    controls = {
        n: [matched_set(graph, masks, random) for _ in range(n_controls)]
        for n, masks in sets.items()
    }
    runner = Runner.on(load_model(model), forward, None, None)
    with prepared(model), torch.no_grad():
        batches = check_data(data)
        batches.keep_order("module ablation, which goes over the data many times, needs")
        looked = look(graph, runner, batches, layers, baseline, position_mask)
        ablation = ModuleAblation(looked, checked, classes)
        passes = len(sets) * len(ways) * (1 + n_controls)
        with tqdm(total=passes, desc="module ablation", disable=not progress, leave=False) as bar:

            def run(masks: Masks, way: str) -> Outcome:
                outcome = ablation.run(masks, way)
                bar.update()
                return outcome

            intact = ablation.run(None, "features")
            samples = ablation.max_activating_samples(sets)
            return [
                _effect(
                    graph, partition, number, samples[number], intact, controls[number],
                    {way: run(masks, way) for way in ways},
                    {way: [run(drawn, way) for drawn in controls[number]] for way in ways},
                    masks,
                )
                for number, masks in sets.items()
            ]  # fmt: skip


def _effect(
    graph: InteractionGraph,
    partition: Partition,
    number: int,
    samples: Sequence[int],
    intact: Outcome,
    controls: Sequence[Masks],
    without: Mapping[str, Outcome],
    without_controls: Mapping[str, Sequence[Outcome]],
    masks: Masks,
) -> ModuleEffect:
    """What the outcomes say about one module."""
    names = list(intact.values)
    by_class = {
        way: {name: intact.drop_by_class(outcome, name) for name in names}
        for way, outcome in without.items()
        if intact.classes
    }
    return ModuleEffect(
        module=number,
        size={k: int((v == number).sum()) for k, v in partition.membership.items()},
        strongest=strongest_features(graph, partition, number),
        share_inside=share_inside(graph, partition, number),
        max_activating_samples=samples,
        intact={name: intact.mean(name) for name in names},
        effect={
            way: {name: intact.drop(outcome, name) for name in names}
            for way, outcome in without.items()
        },
        control={
            way: {name: [intact.drop(outcome, name) for outcome in outcomes] for name in names}
            for way, outcomes in without_controls.items()
        },
        control_strength=relative_strength(graph, masks, controls),
        by_class=by_class,
        specialisation={
            way: {name: specialisation(drops) for name, drops in table.items()}
            for way, table in by_class.items()
        },
    )


def look(
    graph: InteractionGraph,
    runner: Runner,
    batches: Iterable[Any],
    layers: Sequence[str],
    baseline: Baselines,
    position_mask: PositionMask | None,
) -> Layers:
    """The layers of the graph with the baselines that features are set to."""
    names = list(dict.fromkeys([*layers, *(layer for pair in graph.pairs for layer in pair)]))
    asked = {
        layer: baseline.get(layer, "mean") if isinstance(baseline, Mapping) else baseline
        for layer in names
    }
    for entry in asked.values():
        if isinstance(entry, str) and entry not in ("mean", "zero"):
            raise InteractGraphError(
                f"baseline={entry!r} is unknown; use 'mean', 'zero' or a tensor in activation space"
            )
    sites = resolve_sites(runner.model, names)
    looked = Layers.look(
        runner, batches, sites, [], graph.features, baselines=asked, position_mask=position_mask
    )
    return looked.fitted().with_means().changed(pairs=graph.pairs)


def _check_measures(measures: str | Mapping[str, str | Measure]) -> dict[str, Measure]:
    chosen = {measures: measures} if isinstance(measures, str) else measures
    if not isinstance(chosen, Mapping) or not chosen:
        raise InteractGraphError(
            f"measures={measures!r}; give a name, or {{name: name or function}}"
        )
    return {name: check_measure(measure) for name, measure in chosen.items()}


def check(
    graph: InteractionGraph,
    partition: Partition,
    ways: Sequence[str],
    layers: Sequence[str],
    baseline: Baselines,
) -> None:
    """Stops where what is asked for does not fit the graph."""
    unknown = [way for way in ways if way not in WAYS]
    if unknown or not ways:
        raise InteractGraphError(f"ways={list(ways)}; choose of {', '.join(WAYS)}")
    for layer in [*layers, *(baseline if isinstance(baseline, Mapping) else ())]:
        if layer not in graph.layers:
            raise InteractGraphError(f"layer {layer!r} is not in the graph: {list(graph.layers)}")
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
