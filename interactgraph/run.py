"""`interaction_graph`: plan, run, graph; the only place where everything meets."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from . import __version__
from .attribution import (
    ENGINES,
    SAMPLINGS,
    PairEngine,
    check_strengths,
)
from .attribution.baseline import Baseline, check_baseline
from .attribution.grouped import Key
from .attribution.memory import default_budget, keep_heap
from .checkpoint import Checkpoint, description, fingerprint
from .checks import positive, whole, whole_or_none
from .distributed import join_world
from .errors import InteractGraphError
from .features import FeatureMap, fit_feature_maps, named_map
from .graph import InteractionGraph, Pair
from .model import (
    Forward,
    PositionMask,
    Runner,
    check_data,
    prepared,
    resolve_sites,
)
from .passes import Groups, Passes

__all__ = ["interaction_graph"]

METHODS = ("integrated_gradients", "gradient", "ablation", "shapley")
_LARGE_RESIDUAL = 0.1  # of the completeness, above which the result carries a note
_STRIDE = 1_000_003  # between the seeds of two processes

Features = str | FeatureMap | Mapping[str, "str | FeatureMap"]


def interaction_graph(
    model: nn.Module,
    data: Iterable[Any],
    layers: Sequence[str],
    *,
    pairs: Sequence[Pair] | None = None,
    features: Features = "neurons",
    method: str | type = "integrated_gradients",
    baseline: Baseline = "zero",
    strengths: Sequence[str] = ("rms",),
    n_steps: int = 8,
    tolerance: float | None = None,
    engine: Literal["auto", "closed_form", "forward", "reverse"] = "auto",
    sources: int | None = None,
    sampling: Literal["importance", "uniform", "signs"] = "importance",
    target_error: float | None = None,
    seed: int = 0,
    groups: Groups | None = None,
    folds: int | None = None,
    position_mask: PositionMask | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
    forward: Forward | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    memory_budget: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 60.0,
    progress: bool = True,
) -> InteractionGraph:
    """How strongly every feature of one layer drives every feature of the next, over a dataset.

    For source features z, target features y and the straight path from the baseline z0 to z,

        A[b,t,i,j] = sum_s (z - z0)[b,s,j] integral_0^1 dy[b,t,i]/dz[b,s,j] (z0 + u (z - z0)) du

    (integrated gradients, Sundararajan et al. 2017, arXiv 1703.01365, eq. 1, between two layers as
    in layer conductance). A strength is an average of A over samples b and target positions t.

    Args:
        model: the network. It runs in eval mode; flags and gradients are restored afterwards.
        data: batches, iterable more than once (a DataLoader, a list), or one tensor of samples. A
            batch is a tensor, a tuple or list whose first element is the input, or a dict of
            keyword arguments; with `forward` it is anything.
        layers: names of two or more layers in order of execution: a module's dotted name (its
            output), `NAME.input`, `input` or `output` (the model's).
        pairs: (source, target) layers; default: consecutive layers.
        features: "neurons", another name of `interactgraph.features.NAMES` ("pca",
            "local_interaction_basis", ...), a `FeatureMap`, or {layer: one of these}.
        method: "integrated_gradients"; "gradient" (gradient at the sample times z - z0);
            "ablation" (each source feature set to its baseline); "shapley" (sampled Shapley values,
            `n_steps` random orders); or a captum attribution class that takes a forward function,
            such as `captum.attr.FeatureAblation`.
        baseline: "zero", "mean" (over samples and positions), a tensor, or {layer: one of these},
            in activation space.
        strengths: of "rms" sqrt(mean A^2), "mean_abs" mean |A|, "mean" (signed), "max" max |A|; the
            first is the default weight of the graph.
        n_steps: Gauss-Legendre nodes on the path, where a quadrature is used.
        tolerance: doubles the nodes on every batch until the completeness residual is below it.
        engine: "closed_form", "forward", "reverse", or "auto": the cheapest.
        sources: source features drawn for each sample; the means are unbiased estimates then, with
            the steps of the features as control variates (`max` a lower bound; a mean of squares
            or sizes that is estimated below zero counts as zero), and the standard errors include
            the sampling. None: exact. A closed form that costs less than the draws is used instead.
        sampling: "importance" (by how much a feature moves on the sample and a running estimate of
            its worth, mixed with uniform), "uniform", or "signs": `sources` random-sign probes,
            over all source features for strengths=("mean",), over target positions for ("rms",).
        target_error: ends the run when the standard error of each of the 100 strongest edges of
            every pair is below this share of its strength: early, where the data suffices, and
            after up to 64 passes over the data with new draws, where `sources` are drawn. Data must
            come in random order to be ended early.
        seed: decides the draws.
        groups: keeps averages per group of samples in the same pass, in `graph.groups`: one name or
            number for each sample, in the order of the data; a function of the batch that gives
            them; or where they are in a batch, a key of dict batches or a place in tuples (1 for
            batches (x, y)).
        folds: keeps averages over this many disjoint parts of the samples, in `graph.folds`, from
            which `bootstrap` tells how sure modules are.
        position_mask: which positions count, a function of the batch that returns bool `[b, p]`, or
            the key of such a tensor in dict batches ("attention_mask"). Others are left out as
            sources and as targets.
        labels: {layer: one label for each feature}.
        forward: `forward(model, batch)` calls the model on a batch.
        device: where to compute; a model elsewhere is copied there.
        dtype: what to compute in; a model in another dtype is copied.
        memory_budget: bytes of working memory, besides the model, its activations and the graph;
            default: half of what is free, at most 2 GiB on a CPU.
        checkpoint: a folder; the run saves there how far it is, and the same call goes on from
            there after it was killed, to the same numbers. Data must come in the same order.
        checkpoint_seconds: time between two saves; so much is lost at most.
        progress: show a progress bar with the time left.

    Returns:
        The graph, with standard errors, completeness and the full recipe in `metadata`.

    Raises:
        InteractGraphError: bad input; the message says what was found and how to mend it.
    """
    started = time.perf_counter()
    keep_heap()
    data = check_data(data)
    sites = {site.name: site for site in resolve_sites(model, layers)}
    chosen = _check_pairs(list(sites), pairs)
    source_layers = list(dict.fromkeys(source for source, _ in chosen))
    names = check_strengths(strengths)
    _check_method(method, engine, sources, tolerance)
    _check_choice("engine", engine, ENGINES)
    n_steps = whole("n_steps", n_steps, 1)
    sources = whole_or_none("sources", sources)
    folds = whole_or_none("folds", folds, 2)
    seed = whole("seed", seed, 0)
    _check_choice("sampling", sampling, SAMPLINGS)
    _check_draws(sources, sampling, engine, names)
    if target_error is not None and positive("target_error", target_error) >= 1:
        raise InteractGraphError(f"target_error={target_error!r}; it must be between 0 and 1")
    if target_error is not None and names[0] == "max":
        raise InteractGraphError("target_error needs a strength with an error first, not 'max'")
    if memory_budget is not None:
        memory_budget = whole("memory_budget", memory_budget, 1)
    if tolerance is not None:
        tolerance = positive("tolerance", tolerance)
    if labels is not None and not all(
        isinstance(names_of, Sequence) for names_of in dict(labels).values()
    ):
        raise InteractGraphError("labels must give a list of names for each layer that it has")
    if isinstance(groups, (Tensor, Sequence)) and not isinstance(groups, str):
        data.keep_order("groups given in the order of the data need")
    asked_maps = _check_features(features, list(sites))
    baselines = check_baseline(baseline, source_layers)

    recipe = {
        "interactgraph": __version__,
        "torch": torch.__version__,
        "model": f"{type(model).__module__}.{type(model).__qualname__}",
        "layers": list(sites),
        "pairs": [list(pair) for pair in chosen],
        "features": {layer: feature_map.kind for layer, feature_map in asked_maps.items()},
        "method": method if isinstance(method, str) else f"captum.{method.__name__}",
        "baseline": {k: v if isinstance(v, str) else "tensor" for k, v in baselines.items()},
        "strengths": list(names),
        "n_steps": int(n_steps),
        "tolerance": tolerance,
        "engine": engine,
        "sources": sources,
        "sampling": sampling,
        "target_error": target_error,
        "seed": seed,
        "folds": folds,
        "groups": description(groups),
        "position_mask": description(position_mask),
        "forward": description(forward),
        "weights": fingerprint(model.state_dict()),
    }
    world = join_world(device)
    if world.size > 1:
        data.keep_order("several processes need")
        if target_error is not None and checkpoint is not None:
            raise InteractGraphError(
                f"target_error={target_error} and checkpoint= in {world.size} processes: these "
                "compare their errors on the way, and would go on from different places after a "
                "kill; leave one of the two out, or run one process"
            )
        world.check(data.source, recipe["weights"])
    runner = Runner.on(model, forward, world.device(device), dtype)
    with prepared(runner.model), torch.no_grad():
        run = Passes(
            runner, data, sites, chosen, asked_maps, baselines, position_mask, groups, folds or 0,
            world, progress and not world.rank,
        )  # fmt: skip
        saved = None
        if checkpoint is not None:
            data.keep_order("checkpoint needs")
            identity = {
                "memory": memory_budget,
                "processes": world.size,
                "dtype": description(dtype),
                "baselines": description(baselines),
                "feature maps": description(asked_maps),
                "first batch": description(pytree.tree_leaves(data.first())),
            }
            folder = Path(checkpoint)
            if world.size > 1:
                folder /= f"process-{world.rank}"
            run.checkpoint = Checkpoint(folder, {**recipe, **identity}, checkpoint_seconds)
            saved = run.checkpoint.load()
        run.maps = fit_feature_maps(
            runner, data, sites, chosen, asked_maps, position_mask, progress
        )
        sample = run.look()
        if saved is None:
            run.find_means()
            budget = memory_budget or default_budget(run.device)
        else:
            run.baselines, budget = saved["baselines"], saved["budget"]
        engines = {
            pair: PairEngine(
                pair,
                run.function(pair),
                run.entry(pair),
                names,
                engine,
                method,
                int(n_steps),
                budget,
                sources=sources,
                sampling=sampling,
                tolerance=tolerance,
                cut=run.cut,
                seed=seed + number + _STRIDE * world.rank,
            )
            for number, pair in enumerate(chosen)
        }
        problems = run.problems(sample, 0)
        for pair, pair_engine in engines.items():
            pair_engine.prepare(problems[pair], sample)
        if saved is not None:
            run.restore(saved, engines)
        run.accumulate(engines, target_error)
        run.add_up(engines)

    kept = torch.float64 if run.dtype == torch.float64 else torch.float32
    blocks, errors, _ = _blocks(engines, kept)
    metadata = {
        **recipe,
        "plans": [e.as_metadata() for e in engines.values()],
        "feature_maps": {layer: _recorded(feature_map) for layer, feature_map in run.maps.items()},
        "n_samples": run.n_samples,
        "n_batches": run.n_batches,
        "n_passes": run.n_passes,
        "n_processes": world.size,
        "device": str(run.device),
        "dtype": str(run.dtype).removeprefix("torch."),
        "memory_budget": budget,
        "baseline_outside_range": run.outside(),
        "notes": [
            *run.notes,
            *_groups_left_over(groups, run.n_samples),
            *(
                note
                for pair, e in engines.items()
                for note in (*e.notes, *_remarks(e, blocks[pair], method))
            ),
        ],
        "seconds": round(time.perf_counter() - started, 3),
    }
    graph = InteractionGraph(
        layers=tuple(sites),
        pairs=tuple(engines),
        labels=_labels(run.sizes, labels),
        blocks=blocks,
        standard_errors=errors,
        completeness={pair: e.completeness.relative for pair, e in engines.items()},
        features={layer: feature_map.to("cpu") for layer, feature_map in run.maps.items()},
        metadata=metadata,
    )
    graph = _with_parts(graph, engines, kept)
    if run.checkpoint is not None:
        run.checkpoint.done()
    return graph


def _recorded(feature_map: FeatureMap) -> dict[str, Any]:
    """A feature map's options and what fitting found out, without its matrices."""
    options, _ = feature_map.state()
    return {**options, "n_features": feature_map.n_features, "remark": feature_map.remark}


def _groups_left_over(groups: Any, n_samples: int) -> Iterator[str]:
    named = isinstance(groups, (Tensor, Sequence)) and not isinstance(groups, str)
    if named and len(groups) != n_samples:
        yield f"groups names {len(groups)} samples and the data has {n_samples}: is it shifted?"


def _check_draws(
    sources: int | None, sampling: str, engine: str, strengths: tuple[str, ...]
) -> None:
    if sources is None:
        if sampling == "signs":
            raise InteractGraphError("sampling='signs' needs a number of probes: sources=8")
        return
    if sampling != "signs":
        if engine in ("closed_form", "reverse"):
            raise InteractGraphError(
                f"sources={sources} draws source features, which engine={engine!r} does not; "
                "use engine='forward' or 'auto'"
            )
        return
    engines: dict[tuple[str, ...], str] = {("mean",): "forward", ("rms",): "reverse"}
    wanted = engines.get(strengths)
    if wanted is None or engine not in ("auto", wanted):
        raise InteractGraphError(
            f"sampling='signs' with engine={engine!r} and strengths={list(strengths)}; signs over "
            "source features estimate strengths=('mean',) in forward mode, signs over target "
            "positions strengths=('rms',) in reverse mode, and nothing else"
        )


def _check_method(method: Any, engine: str, sources: int | None, tolerance: float | None) -> None:
    if not (isinstance(method, type) and hasattr(method, "attribute")):
        _check_choice("method", method, METHODS)
    if method not in METHODS[:2] and (engine != "auto" or sources or tolerance):
        raise InteractGraphError(
            f"method={getattr(method, '__name__', method)!r} differentiates nothing, so engine, "
            "sources and tolerance do not apply; leave them out"
        )


_Blocks = dict[Pair, dict[str, Tensor]]


def _blocks(
    engines: dict[Pair, PairEngine],
    dtype: torch.dtype,
    wanted: Callable[[Key], bool] = lambda key: True,
) -> tuple[_Blocks, _Blocks, int]:
    """Strengths and standard errors of every pair, by name, and the number of samples."""
    blocks: _Blocks = {}
    errors: _Blocks = {}
    n_samples = 0
    for pair, engine in engines.items():
        sums = engine.sums.total(wanted)
        n_samples = sums.n_samples // sums.n_passes
        blocks[pair] = {name: sums.strength(name, dtype).cpu() for name in engine.strengths}
        errors[pair] = {
            name: error.cpu()
            for name in engine.strengths
            if (error := sums.standard_error(name, dtype)) is not None
        }
    return blocks, errors, n_samples


def _with_parts(
    graph: InteractionGraph, engines: dict[Pair, PairEngine], dtype: torch.dtype
) -> InteractionGraph:
    """The graph with those of its groups and folds."""

    def part(what: str, value: Any) -> InteractionGraph:
        place = ("group", "fold").index(what)
        blocks, errors, n_samples = _blocks(engines, dtype, lambda key: key[place] == value)
        metadata = {**graph.metadata, what: value, "n_samples": n_samples}
        return graph.replace(
            blocks=blocks, standard_errors=errors, completeness={}, metadata=metadata
        )

    keys = next(iter(engines.values())).sums.tables
    names = sorted({group for group, _ in keys if group is not None}, key=_natural)
    folds = sorted({fold for _, fold in keys if fold is not None})
    return graph.replace(
        groups={name: part("group", name) for name in names},
        folds=tuple(part("fold", fold) for fold in folds),
    )


def _natural(name: str) -> tuple[int, float, str]:
    """Numbers by size, then words."""
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name


def _remarks(engine: PairEngine, block: dict[str, Tensor], method: Any) -> Iterator[str]:
    """What a reader of the result has to know.

    Raises:
        InteractGraphError: the strengths are not numbers.
    """
    pair = " -> ".join(engine.pair)
    strongest = max(
        float(torch.linalg.vector_norm(strength, torch.inf)) for strength in block.values()
    )
    residual = engine.completeness.relative
    if not math.isfinite(strongest):
        raise InteractGraphError(
            f"interaction strengths of {pair} are not finite although the activations are: slopes "
            "or their squares overflow; compute in a wider dtype (dtype=torch.float32 or float64)"
        )
    if strongest == 0:
        yield f"{pair}: every interaction is zero; the target does not depend on the source"
    if method == "integrated_gradients" and residual > _LARGE_RESIDUAL:
        yield (
            f"{pair}: the completeness residual is {residual:.2g}; raise n_steps, set tolerance, "
            "or take a baseline away from where the segment bends sharply (baseline='mean')"
        )
    if not isinstance(method, str) and residual > _LARGE_RESIDUAL:
        yield (
            f"{pair}: what {method.__name__} gives does not add up to the change of the target "
            f"(residual {residual:.2g}); its values are no shares of it"
        )


def _check_pairs(layers: list[str], pairs: Sequence[Pair] | None) -> list[Pair]:
    if pairs is None:
        if len(layers) < 2:
            raise InteractGraphError(f"layers={layers}: at least two are needed, source and target")
        return list(pairwise(layers))
    for pair in pairs:
        if isinstance(pair, str) or len(pair) != 2:
            raise InteractGraphError(f"pairs must be (source, target) names, got {pair!r}")
    chosen = [(str(source), str(target)) for source, target in pairs]
    for source, target in chosen:
        for layer in (source, target):
            if layer not in layers:
                raise InteractGraphError(f"pairs name {layer!r}, which is not in layers={layers}")
        if source == target:
            raise InteractGraphError(
                f"pair {source!r} -> {target!r}: source and target must differ"
            )
    if not chosen or len(set(chosen)) < len(chosen):
        raise InteractGraphError("pairs must name at least one pair, each once")
    return chosen


def _check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise InteractGraphError(f"{name}={value!r} is unknown; choose one of {', '.join(choices)}")


def _check_features(features: Features, layers: list[str]) -> dict[str, FeatureMap]:
    if isinstance(features, Mapping):
        unknown = [layer for layer in features if layer not in layers]
        if unknown:
            raise InteractGraphError(f"features name {unknown}, which are not in layers={layers}")
        entries = {layer: features.get(layer, "neurons") for layer in layers}
    else:
        entries = dict.fromkeys(layers, features)
    maps: dict[str, FeatureMap] = {}
    for layer, entry in entries.items():
        maps[layer] = named_map(entry, layer)
    return maps


def _labels(
    sizes: dict[str, int], labels: Mapping[str, Sequence[str]] | None
) -> dict[str, list[str]]:
    named = {layer: [f"{layer}:{j}" for j in range(size)] for layer, size in sizes.items()}
    for layer, given in (labels or {}).items():
        if layer not in named:
            raise InteractGraphError(f"labels name {layer!r}, which is not in layers={[*named]}")
        if len(given) != sizes[layer]:
            raise InteractGraphError(
                f"layer {layer!r} has {sizes[layer]} features and {len(given)} labels"
            )
        named[layer] = [str(label) for label in given]
    return named
