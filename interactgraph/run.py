"""`interaction_graph`: plan, run, graph; the only place where everything meets."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import RandomSampler
from tqdm import tqdm

from . import __version__
from .attribution import (
    ENGINES,
    SAMPLINGS,
    PairEngine,
    PairProblem,
    check_strengths,
    feature_segment,
    flatten_positions,
)
from .attribution.baseline import Baseline, check_baseline, mean_activations, place
from .attribution.grouped import Key
from .attribution.memory import default_budget
from .checkpoint import Checkpoint, fingerprint
from .distributed import World, join_world
from .errors import InteractGraphError
from .features import FeatureMap, fit_feature_maps, guess_feature_dim, named_map
from .graph import InteractionGraph, Pair
from .model import (
    Forward,
    Runner,
    Site,
    batches_of,
    check_data,
    check_finite,
    check_segment,
    first_tensor,
    is_convolutional,
    prepared,
    probe,
    resolve_sites,
    samples_in,
    take_samples,
)

__all__ = ["interaction_graph"]

METHODS = ("integrated_gradients", "gradient", "ablation", "shapley")
_LARGE_RESIDUAL = 0.1  # of the completeness, above which the result carries a note
_STRIDE = 1_000_003  # between the seeds of two processes
_MOST_PASSES = 64  # over the data, to reach target_error
_STRONGEST = 100  # edges of each pair that target_error is about
_RANGED = 512  # samples at a time in which values are looked at
_PLANNED = 16  # samples of the first batch that the run is planned with

Features = str | FeatureMap | Mapping[str, "str | FeatureMap"]
PositionMask = str | Callable[[Any], Tensor]
Groups = str | int | Sequence[Any] | Tensor | Callable[[Any], Any]


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
        sources: source features drawn for each sample; the strengths are unbiased estimates then
            (`max` a lower bound), and the standard errors include the sampling. None: exact. A
            closed form that costs less than the draws is used instead.
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
    data = check_data(data)
    sites = {site.name: site for site in resolve_sites(model, layers)}
    chosen = _check_pairs(list(sites), pairs)
    source_layers = list(dict.fromkeys(source for source, _ in chosen))
    names = check_strengths(strengths)
    _check_method(method, engine, sources, tolerance)
    _check_choice("engine", engine, ENGINES)
    if n_steps < 1 or n_steps != int(n_steps):
        raise InteractGraphError(f"n_steps={n_steps!r}; it must be a whole number of at least 1")
    if sources is not None and (sources < 1 or sources != int(sources)):
        raise InteractGraphError(f"sources={sources!r}; it must be a whole number of at least 1")
    _check_choice("sampling", sampling, SAMPLINGS)
    _check_draws(sources, sampling, engine, names)
    if target_error is not None and not 0 < target_error < 1:
        raise InteractGraphError(f"target_error={target_error!r}; it must be between 0 and 1")
    if target_error is not None and names[0] == "max":
        raise InteractGraphError("target_error needs a strength with an error first, not 'max'")
    if tolerance is not None and not tolerance > 0:
        raise InteractGraphError(f"tolerance={tolerance!r}; it must be above zero")
    if folds is not None and (folds < 2 or folds != int(folds)):
        raise InteractGraphError(f"folds={folds!r}; it must be a whole number of at least 2")
    if isinstance(groups, (Tensor, Sequence)) and not isinstance(groups, str):
        _check_order(data, "groups given in the order of the data need")
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
    }
    world = join_world(device)
    if world.size > 1:
        _check_order(data, "several processes need")
        if target_error is not None:
            raise InteractGraphError(
                f"target_error={target_error} in {world.size} processes, none of which knows the "
                "error alone; run one process, or leave it out"
            )
        world.check(data, fingerprint(model.state_dict()))
    runner = Runner.on(model, forward, world.device(device), dtype)
    with prepared(runner.model), torch.no_grad():
        first = _first(data)
        with contextlib.suppress(Exception):  # what is wrong here is said better by the probe
            runner = runner.with_written(first)
        run = _Run(
            runner, data, sites, chosen, asked_maps, baselines, position_mask, groups, folds or 0,
            world, progress and not world.rank,
        )  # fmt: skip
        saved = None
        if checkpoint is not None:
            _check_order(data, "checkpoint needs")
            identity = {
                "weights": fingerprint(model.state_dict()),
                "memory": memory_budget,
                "processes": world.size,
            }
            folder = Path(checkpoint)
            if world.size > 1:
                folder /= f"process-{world.rank}"
            run.checkpoint = Checkpoint(folder, {**recipe, **identity}, checkpoint_seconds)
            saved = run.checkpoint.load()
        run.maps = fit_feature_maps(
            runner, data, sites, chosen, asked_maps, run._mask, progress=progress
        )
        sample = run.look(first)
        if saved is None:
            run.find_means()
            budget = memory_budget or default_budget(run.device)
        else:
            run.baselines, budget = saved["baselines"], saved["budget"]
        engines = {
            pair: PairEngine(
                pair,
                run.function(pair),
                names,
                engine,
                method,
                int(n_steps),
                budget,
                sources=sources,
                sampling=sampling,
                tolerance=tolerance,
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
        "n_samples": run.n_samples,
        "n_batches": run.n_batches,
        "n_passes": run.n_passes,
        "n_processes": world.size,
        "device": str(run.device),
        "dtype": str(run.dtype).removeprefix("torch."),
        "memory_budget": budget,
        "baseline_outside_range": run.outside(),
        "notes": [
            note
            for pair, e in engines.items()
            for note in (*e.notes, *_remarks(e, blocks[pair], method))
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
        n_samples = sums.n_samples
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


def _by_layer(
    tables: Sequence[dict[str, tuple[Tensor, Tensor]]],
) -> dict[str, list[tuple[Tensor, Tensor]]]:
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for table in tables:
        for layer, ends in table.items():
            found.setdefault(layer, []).append(ends)
    return found


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


def _check_order(data: Any, who: str) -> None:
    """Stops where the data comes in another order each time."""
    if isinstance(getattr(data, "sampler", None), RandomSampler):
        raise InteractGraphError(
            f"{who} batches in the same order each time, and this DataLoader shuffles; "
            "give one with shuffle=False"
        )


def _check_pairs(layers: list[str], pairs: Sequence[Pair] | None) -> list[Pair]:
    if pairs is None:
        if len(layers) < 2:
            raise InteractGraphError(f"layers={layers}: at least two are needed, source and target")
        return list(pairwise(layers))
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


def _first(data: Iterable[Any]) -> Any:
    for batch in batches_of(data):
        tensor = first_tensor(batch)
        if tensor is None or not tensor.ndim or len(tensor):
            return batch
    raise InteractGraphError("every batch of the data is empty; at least one sample is needed")


@dataclass(eq=False)
class _Run:
    """Passes over the data with everything that is known about the layers."""

    runner: Runner
    data: Iterable[Any]
    sites: dict[str, Site]
    pairs: list[Pair]
    maps: dict[str, FeatureMap]
    baselines: dict[str, str | Tensor]
    position_mask: PositionMask | None
    groups: Groups | None
    n_folds: int
    world: World
    progress: bool
    feature_dims: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    ranges: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    divisible: bool = True
    _starts: dict[str, Tensor] = field(default_factory=dict)
    n_passes: int = 0
    _in_pass: int = 0  # batches of this pass so far
    _offset: int = 0  # samples of this pass so far, in all processes
    checkpoint: Checkpoint | None = None
    n_samples: int = 0
    n_batches: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32

    # --- before the run --------------------------------------------------------------------------

    def look(self, batch: Any) -> Any:
        """Learns shapes from the first batch and checks what can be checked on it.

        Returns:
            A few samples of it to plan with; the whole batch where it cannot be cut.
        """
        batch = self._sample(self.runner.convert(batch))
        self.runner, found = probe(self.runner, batch, list(self.sites.values()), self.pairs)
        for source, target in self.pairs:
            check_segment(self.runner, batch, self.sites[source], self.sites[target], found)
        for name, activation in found.items():
            module = self.runner.model.get_submodule(self.sites[name].module)
            guess = guess_feature_dim(activation.shape, is_convolutional(module))
            feature_map = self.maps[name].to(activation.device, activation.dtype)
            self.maps[name] = feature_map.bind(name, activation.shape, guess)
            asked = getattr(self.maps[name], "feature_dim", None)
            self.feature_dims[name] = asked if isinstance(asked, int) else guess
            self.sizes[name] = self.maps[name].at(activation).encode(activation).shape[-1]
            self.device, self.dtype = activation.device, activation.dtype
        return batch

    def _sample(self, batch: Any) -> Any:
        """A few samples of the batch. Cutting is trusted where only one tensor has samples."""
        n, cut_tensors = samples_in(batch)
        if n <= _PLANNED:
            self.divisible = n > 0
            return batch
        few = take_samples(batch, n, 0, _PLANNED)
        self.divisible = cut_tensors == 1
        if cut_tensors > 1:
            sites = list(self.sites.values())
            whole = self.runner.activations(batch, sites)
            try:
                part = self.runner.activations(few, sites)
            except (InteractGraphError, RuntimeError, IndexError, ValueError):
                return batch
            self.divisible = all(
                len(part[name]) == _PLANNED
                and torch.allclose(part[name], whole[name][:_PLANNED], rtol=1e-3, atol=1e-4)
                for name in whole
            )
        return few if self.divisible else batch

    def find_means(self) -> None:
        """Replaces "mean" by the mean activation, in one pass over the data."""
        wanted = [layer for layer, entry in self.baselines.items() if isinstance(entry, str)
                  and entry == "mean"]  # fmt: skip
        if not wanted:
            return
        sites = [self.sites[layer] for layer in wanted]

        def batches() -> Iterator[dict[str, tuple[Tensor, Tensor | None]]]:
            for batch in self._bar(batches_of(self.data), "mean activations"):
                batch = self.runner.convert(batch)
                found = self.runner.activations(batch, sites)
                mask = self._mask(batch)
                yield {
                    layer: (value, self._mask_for(mask, self._positions(layer, value), layer))
                    for layer, value in found.items()
                }

        means = mean_activations(batches, wanted, self.maps, self.feature_dims)
        self.baselines = {**self.baselines, **means}

    def function(self, pair: Pair) -> Callable[[Any], Callable[[Tensor], Tensor]]:
        """Batch -> the pair's segment in feature coordinates on that batch."""
        source, target = pair

        def make(batch: Any) -> Callable[[Tensor], Tensor]:
            segment = self.runner.segment(batch, self.sites[source], self.sites[target])
            maps = self._maps_at(batch, pair)
            return feature_segment(segment, *maps, self._shapes[source])

        return make

    def _maps_at(self, batch: Any, pair: Pair) -> tuple[FeatureMap, FeatureMap]:
        """The pair's maps around the samples of a batch, for maps that depend on the sample.

        From the batch and not from activations at hand, so that a traced segment holds for others.
        """
        source, target = (self.maps[layer] for layer in pair)
        if source.depends_on_sample or target.depends_on_sample:
            found = self.runner.activations(batch, [self.sites[layer] for layer in pair])
            return source.at(found[pair[0]]), target.at(found[pair[1]])
        return source, target

    # --- the run ---------------------------------------------------------------------------------

    def accumulate(
        self, engines: dict[Pair, PairEngine], target_error: float | None = None
    ) -> None:
        """Adds every batch to every pair, in one pass or until the error is below the target."""
        limit = min(engine.max_samples() for engine in engines.values())
        drawn = any(engine.is_drawn for engine in engines.values())
        reached = False
        with self._bar_of_passes(engines) as bar:
            bar.update(self.n_batches * self._passes(engines) / self.world.size)
            while True:
                for number, batch in enumerate(batches_of(self.data)):
                    if number < self._in_pass:
                        continue
                    self._add(engines, batch, limit, bar)
                    self._in_pass += 1
                    if self.checkpoint is not None and self.checkpoint.due:
                        self.checkpoint.save(self.state(engines))
                    # Looked at after 1, 2, 4, ... batches: a look costs about as much as the sums.
                    power_of_two = not self.n_batches & (self.n_batches - 1)
                    reached = power_of_two and self._precise(engines, target_error)
                    if reached:
                        break
                self.n_passes += 1
                again = target_error is not None and drawn and self.n_passes < _MOST_PASSES
                if reached or not again or self._precise(engines, target_error):
                    break
                self._in_pass = self._offset = 0
            for engine in engines.values():
                engine.finish()
        if target_error is not None:
            self._note_precision(engines, target_error, early=reached)

    def _precise(self, engines: dict[Pair, PairEngine], target_error: float | None) -> bool:
        """Whether each of the strongest edges of every pair has a small relative error."""
        return target_error is not None and all(
            self._error(engine) < target_error for engine in engines.values()
        )

    @staticmethod
    def _error(engine: PairEngine) -> float:
        """The largest relative standard error among the strongest edges."""
        engine.finish()
        sums, name = engine.sums.total(), engine.strengths[0]
        strength, error = sums.strength(name).abs().flatten(), sums.standard_error(name)
        assert error is not None
        top = strength.topk(min(_STRONGEST, len(strength))).indices
        top = top[strength[top] > 0]
        worst = (error.flatten()[top] / strength[top]).max() if len(top) else torch.tensor(0.0)
        return math.inf if worst.isnan() else float(worst)

    def _note_precision(
        self, engines: dict[Pair, PairEngine], target_error: float, *, early: bool
    ) -> None:
        for pair, engine in engines.items():
            found = self._error(engine)
            text = f"{' -> '.join(pair)}: standard error of the strongest edges at most {found:.2g}"
            if found >= target_error:
                engine.notes.append(f"{text}, above target_error={target_error:g}")
            elif early:
                engine.notes.append(f"{text} after {self.n_batches} batches, the rest was not read")

    def _add(self, engines: dict[Pair, PairEngine], batch: Any, limit: int, bar: tqdm) -> None:
        """Adds one batch, where it belongs to this process."""
        if not self.world.takes(self.n_batches):
            self._offset += samples_in(batch)[0]
            self.n_batches += 1
            return
        for piece in self._pieces(self.runner.convert(batch), limit):
            problems = self.problems(piece, self.n_batches)
            n_samples = next(iter(problems.values())).n_samples
            keys = self._keys(piece, n_samples)
            for pair, engine in engines.items():
                bar.set_postfix_str(" -> ".join(pair), refresh=False)
                engine.add(problems[pair], piece, bar.update, keys)
            self.n_samples += n_samples
            self._offset += n_samples
        self.n_batches += 1

    def add_up(self, engines: dict[Pair, PairEngine]) -> None:
        """Adds what all processes have found."""
        self.world.add_up(engines.values())
        self.n_samples = sum(self.world.gather(self.n_samples))
        for layer, found in _by_layer(self.world.gather(self.ranges)).items():
            self.ranges[layer] = (
                torch.stack([low.to(self.device) for low, _ in found]).amin(0),
                torch.stack([high.to(self.device) for _, high in found]).amax(0),
            )

    def _keys(self, batch: Any, n_samples: int) -> list[Key] | None:
        """Group and fold of each sample of a batch."""
        if self.groups is None and not self.n_folds:
            return None
        names = [None] * n_samples if self.groups is None else self._names(batch, n_samples)
        folds = [
            (self._offset + n) % self.n_folds if self.n_folds else None for n in range(n_samples)
        ]
        return list(zip(names, folds, strict=True))

    def _names(self, batch: Any, n_samples: int) -> list[str]:
        """The group of each sample of a batch."""
        found: Any
        if callable(self.groups):
            found, where = self.groups(batch), "groups gives"
        elif isinstance(self.groups, (str, int)):
            kind = Mapping if isinstance(self.groups, str) else (tuple, list)
            try:
                found = batch[self.groups] if isinstance(batch, kind) else None  # type: ignore[index]
            except (KeyError, IndexError):
                found = None
            where = f"groups={self.groups!r} of a batch holds"
            if found is None:
                raise InteractGraphError(
                    f"groups={self.groups!r} is in no {type(batch).__name__} batch; give a key of "
                    "dict batches, a place in tuples, a function of the batch, or one name for "
                    "each sample"
                )
        else:
            assert self.groups is not None
            found = self.groups[self._offset : self._offset + n_samples]
            where = f"groups names {len(self.groups)} samples; from {self._offset} on it has"
        values = found.tolist() if hasattr(found, "tolist") else list(found)
        if len(values) != n_samples or any(isinstance(value, (list, tuple)) for value in values):
            raise InteractGraphError(
                f"{where} {len(values)} entries for {n_samples} samples; one name or number for "
                "each sample is needed"
            )
        return [str(value) for value in values]

    def state(self, engines: dict[Pair, PairEngine]) -> dict[str, Any]:
        """Where the run is, for a checkpoint between two batches."""
        return {
            "baselines": self.baselines,
            "budget": next(iter(engines.values())).memory_budget,
            "ranges": {layer: list(ends) for layer, ends in self.ranges.items()},
            "n_samples": self.n_samples,
            "n_batches": self.n_batches,
            "place": [self.n_passes, self._in_pass, self._offset],
            "engines": [engine.state() for engine in engines.values()],
        }

    def restore(self, state: dict[str, Any], engines: dict[Pair, PairEngine]) -> None:
        """Goes back to what `state` gave."""
        self.ranges = {
            layer: (low.to(self.device), high.to(self.device))
            for layer, (low, high) in state["ranges"].items()
        }
        self.n_samples, self.n_batches = state["n_samples"], state["n_batches"]
        self.n_passes, self._in_pass, self._offset = state["place"]
        for engine, saved in zip(engines.values(), state["engines"], strict=True):
            engine.restore(saved)

    def _pieces(self, batch: Any, limit: int) -> Iterator[Any]:
        """The batch, in parts where the memory budget asks for it and the batch can be cut."""
        tensor = first_tensor(batch)
        if tensor is not None and tensor.ndim and not len(tensor):
            return
        n, _ = samples_in(batch)
        if n <= limit or not self.divisible:
            yield batch
            return
        for start in range(0, n, limit):
            yield take_samples(batch, n, start, min(start + limit, n))

    def problems(self, batch: Any, number: int) -> dict[Pair, PairProblem]:
        """The activations of a batch as one problem for each pair."""
        found = self.runner.activations(batch, list(self.sites.values()))
        check_finite(found, number)
        mask = self._mask(batch)
        z: dict[str, Tensor] = {}
        self._shapes = {}
        for layer, activation in found.items():
            encoded = self.maps[layer].at(activation).encode(activation)
            if encoded.shape[-1] != self.sizes[layer]:
                raise InteractGraphError(
                    f"layer {layer!r} has {encoded.shape[-1]} features in batch {number} and had "
                    f"{self.sizes[layer]} in the first one; features must be the same in all "
                    "batches. Pad the data to one length, or put the varying axis elsewhere "
                    "with feature_dim"
                )
            self._shapes[layer] = tuple(encoded.shape[1:-1])
            z[layer] = flatten_positions(encoded)
        steps = {layer: self._step(layer, found[layer], z[layer], mask) for layer in self.baselines}
        return {
            (source, target): PairProblem(
                function=self.function((source, target))(batch),
                z=z[source],
                dz=steps[source],
                y=z[target],
                mask=self._mask_for(mask, z[target].shape[1], target),
                fixed_baseline=mask is None and not self.maps[source].depends_on_sample,
            )
            for source, target in self.pairs
        }

    def _step(self, layer: str, activation: Tensor, z: Tensor, mask: Tensor | None) -> Tensor:
        """The step z - z0, `[b, s, j]`, zero at positions that do not count."""
        start = place(self.baselines[layer], activation, self.feature_dims[layer], layer)
        z0 = flatten_positions(self.maps[layer].at(activation).encode(start))
        self._widen(layer, z, z0)
        step = z - z0 if z0.any() else z
        here = self._mask_for(mask, z.shape[1], layer)
        return step if here is None else step * here[..., None]

    def _widen(self, layer: str, z: Tensor, z0: Tensor) -> None:
        """Widens the range of values seen in the data, until it holds the baseline."""
        self._starts[layer] = z0[0]
        for rows in z.split(_RANGED):
            if self._beyond(layer) == 0:
                return
            low, high = rows.amin((0, 1)), rows.amax((0, 1))  # much faster than aminmax
            if layer in self.ranges:
                low = torch.minimum(low, self.ranges[layer][0])
                high = torch.maximum(high, self.ranges[layer][1])
            self.ranges[layer] = (low, high)

    def _beyond(self, layer: str) -> float:
        """Share of the features whose baseline lies outside the values seen in the data."""
        if layer not in self.ranges:
            return 1.0
        (low, high), z0 = self.ranges[layer], self._starts[layer]
        return float(((z0 < low) | (z0 > high)).any(0).double().mean())

    def outside(self) -> dict[str, float]:
        """Layer -> share of its features whose baseline lies outside the values in the data."""
        return {layer: round(self._beyond(layer), 6) for layer in self.ranges}

    # --- masks and bars --------------------------------------------------------------------------

    def _mask(self, batch: Any) -> Tensor | None:
        if self.position_mask is None:
            return None
        if isinstance(self.position_mask, str):
            if not isinstance(batch, Mapping) or self.position_mask not in batch:
                raise InteractGraphError(
                    f"position_mask={self.position_mask!r} is no key of the batches; give a key of "
                    "dict batches, or a function of the batch"
                )
            mask = batch[self.position_mask]
        else:
            mask = self.position_mask(batch)
        if not isinstance(mask, Tensor) or mask.ndim != 2:
            raise InteractGraphError(
                "position_mask must give a tensor [samples, positions], got "
                + (f"shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else repr(mask)[:60])
            )
        return mask.to(self.device) != 0

    def _mask_for(self, mask: Tensor | None, positions: int, layer: str) -> Tensor | None:
        """The mask of a layer; one with a single position (pooled) has none."""
        if mask is None or (positions == 1 and mask.shape[1] != 1):
            return None
        if mask.shape[1] != positions:
            raise InteractGraphError(
                f"position_mask has {mask.shape[1]} positions, layer {layer!r} has {positions}"
            )
        return mask

    def _positions(self, layer: str, activation: Tensor) -> int:
        return int(self.maps[layer].encode(activation[:1]).shape[1:-1].numel())

    @staticmethod
    def _passes(engines: dict[Pair, PairEngine]) -> float:
        return sum(engine.plan.passes for engine in engines.values() if engine.plan)

    def _n_batches(self) -> int | None:
        try:
            return len(self.data)  # type: ignore[arg-type]
        except TypeError:
            return None

    def _bar(self, batches: Iterable[Any], text: str) -> Iterable[Any]:
        return tqdm(
            batches, desc=text, total=self._n_batches(), disable=not self.progress, leave=False
        )

    def _bar_of_passes(self, engines: dict[Pair, PairEngine]) -> tqdm:
        passes = self._passes(engines)
        n_batches = self._n_batches()
        return tqdm(
            desc="interactions",
            total=None if n_batches is None else passes * n_batches / self.world.size,
            disable=not self.progress,
            smoothing=0.05,
            bar_format=None
            if n_batches is None
            else "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}",
        )


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
