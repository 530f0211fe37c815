"""`interaction_graph`: options -> layers -> plans -> loop over batches -> graph."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from time import perf_counter
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .attribution.loop import BatchLoop
from .attribution.memory import default_budget, keep_heap
from .attribution.options import Options, Pair
from .attribution.pair_run import PairRun
from .attribution.planner import check_method
from .attribution.same_run import SameRun, check_means, first_derivatives
from .attribution.time_budget import TimeBudget
from .checkpoint import Checkpoint, fingerprint
from .distributed import World, join_world
from .errors import InteractGraphError, InteractGraphWarning
from .features import FeatureMap
from .graph import InteractionGraph
from .layers import Baseline, Layers
from .model import (
    Batches,
    Forward,
    LayerNames,
    PositionMask,
    Runner,
    check_data,
    load_model,
    prepared,
    resolve_sites,
    wide_enough,
)
from .result import graph_of

__all__ = ["interaction_graph"]

_STRIDE = 1_000_003  # between the seeds of two processes

Features = str | FeatureMap | Mapping[str, "str | FeatureMap"]
Groups = str | int | Sequence[Any] | Tensor | Any


def interaction_graph(
    model: nn.Module,
    data: Iterable[Any],
    layers: str | Sequence[str],
    *,
    pairs: Sequence[Pair] | None = None,
    features: Features = "neurons",
    top_features: int | Mapping[str, int] | None = None,
    method: str | type = "integrated_gradients",
    baseline: Baseline = "zero",
    strengths: Sequence[str] = ("rms",),
    freeze: str | Sequence[str] = (),
    skip: Literal["keep", "remove"] = "keep",
    n_steps: int = 64,
    tolerance: float | None = 0.02,
    engine: Literal["auto", "closed_form", "forward", "reverse"] = "auto",
    sources: int | None = None,
    sampling: Literal["importance", "uniform", "signs"] = "importance",
    positions: int | None = None,
    max_edges: int | None = None,
    target_error: float | None = None,
    time_budget: float | None = None,
    seed: int = 0,
    groups: Groups | None = None,
    folds: int | None = None,
    position_mask: PositionMask | None = None,
    skip_positions: int = 0,
    examples: bool = True,
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
        model: the network, a program of `torch.export`, or the path of one (`.pt2`). It runs in
            eval mode; flags and gradients are restored afterwards.
        data: batches, iterable more than once (a DataLoader, a list), or one tensor of samples. A
            batch is a tensor, a tuple or list whose first element is the input, or a dict of
            keyword arguments; with `forward` it is anything.
        layers: names of two or more layers in order of execution: a module's dotted name (its
            output), `NAME.input`, `input` or `output` (the model's). A name may be a glob
            (`encoder.layer.*`), a preset ("residual", "attention", "heads", "mlp": in every block)
            or a name of TransformerLens or nnterp (`blocks.3.hook_resid_post`,
            `layers_output[3]`); names in the other options, too.
        pairs: (source, target) layers; default: consecutive layers.
        features: "neurons", another name of `interactgraph.features.NAMES` ("pca",
            "local_interaction_basis", ...), a `FeatureMap`, or {layer: one of these}.
        top_features: keeps so many features of each layer, those of largest mean square over the
            data, which takes one pass; all others move as one feature, the last one, see
            `features.TopFeatures`. A number, or {layer: number}. None: all.
        method: what A is: "integrated_gradients"; "gradient" (at the sample, times z - z0);
            "ablation" (each source feature set to its baseline); "shapley" (sampled Shapley values,
            `n_steps` random orders); "baseline_gradient" (the slope at the baseline);
            "expected_gradients" (baselines drawn from the data); "expected_shapley" (`n_steps` / 8
            paths of single features for each sample, from the baseline and from other samples); or
            a captum attribution class that takes a forward function, such as
            `captum.attr.FeatureAblation`.
        baseline: "zero" (every feature at zero: of a centred basis its offset, of a dictionary no
            code and no error), "mean" (the mean activation over samples and positions), a tensor
            (an activation), or {layer: one of these}.
        strengths: how A is averaged: "rms" sqrt(mean A^2), "mean" (signed), "max" max |A|, or
            another of `interactgraph.attribution.strengths`; the first is the graph's default.
        freeze: what is held fixed at the values that a sample gives it, of "attention" (the
            patterns) and "layernorm" (the scales of normalisations): edges then say how vectors
            are moved and added, and not how they change where the model attends. A block becomes
            linear but for its perceptron, so that fewer path nodes or a closed form serve.
            "attention" is a softmax over the last of three or more axes, "layernorm" what
            `torch.nn.functional` normalises by and roots with one number for each position;
            `metadata["frozen"]` says how many there are in each pair.
        skip: "remove" takes the source's activation off the target's, so that the edges are those
            of what the layers between them add to a residual stream (the Jacobian minus the
            identity). Layers of a pair have activations of one shape, and targets are neurons or a
            basis. "keep": edges hold what only passes through, too.
        n_steps: most nodes on the path, where a quadrature is used.
        tolerance: relative error of the path integral, of its sum (the completeness residual) and
            of single edges; nodes are placed on every batch where the path bends until the error is
            below it, and a note says where it is not. None: exactly `n_steps` Gauss-Legendre nodes.
        engine: "closed_form", "forward", "reverse", or "auto": the cheapest.
        sources: source features drawn for each sample, without repeats; means are completed by the
            steps of all features on all samples, which are known (ratio and regression estimates,
            whose bias is below their error; `max` is a lower bound), and the standard errors
            include the sampling. None: exact. A closed form that costs less than the draws is used
            instead.
        sampling: "importance" (by how much a feature moves on the sample and a running estimate of
            its worth, mixed with uniform), "uniform", or "signs": `sources` Rademacher probes
            (Hutchinson 1990) over target positions, for strengths=("rms",) in reverse mode.
        positions: target positions drawn for each sample, without repeats, all edges of each: for
            averages over positions where single ones can be computed, as in a block of a
            transformer, and for less where `freeze` leaves it one nonlinearity. Standard errors
            include the draws. None: all.
        max_edges: keeps so many edges of each pair, the strongest ones (by the first strength), as
            sparse matrices, and adds up sparsely: for dictionaries of many features, whose matrix
            of all edges would not fit. Sums of four times as many edges are kept on the way; where
            there are more, the smallest are dropped, and `metadata["kept_edges"]` and a note say
            how strong an edge may be that is not there, and how much one that is there may lack.
            None: all edges.
        target_error: ends the run when the standard error of each of the 100 strongest edges of
            every pair is below this share of its strength: early, where the data suffices, and
            after up to 64 passes over the data with new draws, where `sources` or `positions` are
            drawn. Data must come in random order to be ended early.
        time_budget: seconds that the run may take. It measures its first batch, and draws so many
            source features of so many samples (or target positions with all edges, where that
            tells more in the same time) that the error is smallest at the end: all of all
            where there is time, which is exact. Data must come in random order where not all of it
            can be read. How much is drawn depends on the machine; `metadata["plans"]` says it.
        seed: decides the draws.
        groups: keeps averages per group of samples in the same pass, in `graph.groups`: one name or
            number for each sample, in the order of the data; a function of the batch that gives
            them; or where they are in a batch, a key of dict batches or a place in tuples (1 for
            batches (x, y)).
        folds: keeps averages over this many disjoint parts of the samples, in `graph.folds`, from
            which `bootstrap` tells how sure modules are.
        position_mask: which positions count, a function of the batch that returns bool `[b, p]`, or
            the key of such a tensor in dict batches. Others are left out as sources and as targets.
            None: the batches' "attention_mask", where they hold one that fits the layers.
        skip_positions: leaves out so many of the positions that count at the start of each sample,
            as sources and as targets: where language models attend to the first token whatever it
            is, its activations drown those of the others.
        examples: keeps for every feature the samples on which it is most active
            (`graph.examples`) and those that drive its strongest edges (`graph.drivers`; not with
            `max_edges`; where target positions are drawn, by what these alone contribute, which is
            less than all of a sample does). False saves up to a third of the time of short runs.
        labels: {layer: one label for each feature}.
        forward: `forward(model, batch)` calls the model on a batch.
        device: where to compute; a model elsewhere is copied there.
        dtype: what to compute in; a model in another dtype is copied. None: the model's, and
            single precision for a model in half precision.
        memory_budget: bytes of working memory, the sums of all pairs included, besides the model,
            its activations, the factors of frozen blocks (of each pair as many numbers as heads and
            one more, times hidden and source features) and the graph; default: half of what is
            free, at most 2 GiB on a CPU.
        checkpoint: a folder; the run saves there how far it is, and the same call goes on from
            there after it was killed, to the same numbers. Data must come in the same order.
        checkpoint_seconds: time after which the next end of a batch is saved; so much, and the
            batch at hand, is lost at most.
        progress: show a progress bar with the time left. Ctrl-C ends the run after the samples at
            hand and gives their graph, with a note; a second one raises `KeyboardInterrupt` at
            once. A checkpoint stays, so that the same call goes on.

    Returns:
        The graph, with standard errors, completeness and the full recipe in `metadata`. What makes
        it doubtful is in `graph.notes` and issued as `InteractGraphWarning`.

    Raises:
        InteractGraphError: bad input; the message says what was found and how to mend it.

    Example:
        >>> import interactgraph as itg
        >>> net = itg.zoo.planted_modules(widths=(8, 12, 8), n_modules=2, n_samples=128)
        >>> graph = itg.interaction_graph(net.model, net.data, net.layers, progress=False)
        >>> graph.weights("input", "1").shape  # [target features, source features]
        torch.Size([12, 8])
        >>> graph.completeness["input", "1"] < 1e-5
        True
    """
    started = perf_counter()
    keep_heap()
    batches = check_data(data)
    model = load_model(model)
    names = LayerNames(model, layers)
    sites = resolve_sites(model, names.layers)
    options = Options(
        layers=[site.name for site in sites], pairs=names.pairs(pairs),
        features=names.keys(features), top_features=names.keys(top_features), method=method,
        baseline=names.keys(baseline), strengths=strengths, freeze=freeze, skip=skip,
        n_steps=n_steps, tolerance=tolerance, engine=engine,
        sources=sources, sampling=sampling, positions=positions, max_edges=max_edges,
        target_error=target_error, time_budget=time_budget,
        seed=seed, groups=groups, folds=folds, position_mask=position_mask,
        skip_positions=skip_positions, examples=examples, labels=names.keys(labels),
        forward=forward, device=device, dtype=dtype, memory_budget=memory_budget,
        checkpoint=checkpoint, checkpoint_seconds=checkpoint_seconds, progress=progress,
    )  # fmt: skip
    check_method(options)
    time = TimeBudget(options.time_budget or math.inf, started)
    maps = {layer: each.of_model(model, layer) for layer, each in options.feature_maps().items()}
    baselines, recipe = options.baselines(), _recipe(options, model)
    if names.told and progress:
        tqdm.write("\n".join(names.told), file=sys.stderr)
    world = join_world(device)
    _check_order(options, batches, world, recipe)
    dtype = wide_enough(model, dtype, options.freeze)
    runner = Runner.on(model, forward, world.device(device), dtype, options.freeze)
    with prepared(runner.model), torch.no_grad():
        saves, saved = _checkpoint(options, recipe, world)
        prepared_layers = Layers.look(
            runner, batches, sites, options.pair_list, maps, baselines=baselines,
            position_mask=position_mask, skip_positions=options.skip_positions,
            without_skip=options.skip == "remove",
            progress=progress and not world.rank,
        ).fitted()  # fmt: skip
        independent = prepared_layers.check_segments()
        if options.freeze:
            recipe["frozen"] = prepared_layers.frozen()
        prepared_layers = prepared_layers.with_means()
        budget = options.memory_budget or default_budget(prepared_layers.device)
        if saved is not None:
            check_means(prepared_layers.baselines, saved["baselines"])
            prepared_layers = prepared_layers.with_baselines(saved["baselines"])
            budget = saved["budget"]
        encoded = prepared_layers.encode(prepared_layers.sample)
        problems = prepared_layers.problems(encoded)
        seed = options.seed + _STRIDE * world.rank
        runs = PairRun.planned(problems, options, budget, seed, time)
        loop = BatchLoop(options, prepared_layers, runs, world, independent, saves, budget=time)
        if saves is not None:
            loop.same = SameRun(options, prepared_layers, first_derivatives(problems))
        loop.ranges.add(encoded)
        if saved is not None:
            loop.restore(saved)
        loop.run()
    graph = graph_of(loop, {**recipe, "seconds": round(perf_counter() - started, 3)})
    if saves is not None and not loop.interrupted:
        saves.done()
    for note in graph.notes:
        warnings.warn(note, InteractGraphWarning, stacklevel=2)
    return graph


def _recipe(options: Options, model: nn.Module) -> dict[str, Any]:
    """What is computed, of which model."""
    from . import __version__

    return {
        "interactgraph": __version__,
        "torch": torch.__version__,
        "model": f"{type(model).__module__}.{type(model).__qualname__}",
        **options.recipe(),
        "weights": fingerprint(model.state_dict()),
    }


def _check_order(
    options: Options, batches: Batches, world: World, recipe: Mapping[str, Any]
) -> None:
    """Stops where the data would have to come in the same order and does not."""
    if options.groups_in_order:
        batches.keep_order("groups given in the order of the data need")
    if world.size > 1:
        batches.keep_order("several processes need")
        if options.target_error is not None and options.checkpoint is not None:
            raise InteractGraphError(
                f"target_error={options.target_error} and checkpoint= in {world.size} processes: "
                "these compare their errors on the way, and would go on from different places "
                "after a kill; leave one of the two out, or run one process"
            )
        world.check(batches.source, recipe["weights"])
    if options.checkpoint is not None:
        batches.keep_order("checkpoint needs")


def _checkpoint(
    options: Options, recipe: Mapping[str, Any], world: World
) -> tuple[Checkpoint | None, Any]:
    """Where the run is saved, and what an interrupted one has left there."""
    folder = options.checkpoint_folder
    if folder is None:
        return None, None
    if world.size > 1:
        folder /= f"process-{world.rank}"
    identity = {**recipe, **options.identity(), "processes": world.size}
    checkpoint = Checkpoint(folder, identity, options.checkpoint_seconds)
    return checkpoint, checkpoint.load()
