"""From what was added up to the graph, with everything that is needed to run it again."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .attribution.accumulator import Key
from .attribution.groups import SampleKeys
from .attribution.loop import BatchLoop
from .attribution.pair_run import PairRun
from .attribution.sums.sparse_sums import SparseSums
from .errors import InteractGraphError
from .features import FeatureMap
from .graph import InteractionGraph, Pair
from .graph.self_edges import self_edges_dominate
from .notes import all_zero, baseline_outside, never_drawn, passes_through, underflow
from .sparse import values_of

__all__ = ["graph_of"]

_OUTSIDE = 0.5  # share of features whose baseline is outside the data, above which a note says so
_SMALL = 1e-12  # a change of the target that is so small that strengths may underflow
_TINY = 1e-17  # a strength whose square is below what single precision holds precisely

_Blocks = dict[Pair, dict[str, Tensor]]


def graph_of(loop: BatchLoop, recipe: Mapping[str, Any]) -> InteractionGraph:
    """The graph of a loop that has ended.

    Args:
        loop: over all batches.
        recipe: what the metadata begin with.

    Raises:
        InteractGraphError: strengths that are not finite, or labels that do not fit.
    """
    layers, runs, options = loop.layers, loop.runs, loop.options
    dtype = torch.float64 if layers.dtype == torch.float64 else torch.float32
    blocks, errors, _ = _blocks(runs, dtype)
    maps = {site: layers.maps[site] for site in layers.sites}
    metadata = {
        **recipe,
        "position_mask": loop.mask_in_recipe(recipe["position_mask"]),
        "plans": [run.plan.as_metadata() for run in runs.values()],
        "feature_maps": {layer: _recorded(feature_map) for layer, feature_map in maps.items()},
        "n_samples": loop.n_samples,
        "n_batches": loop.n_batches,
        "n_passes": loop.n_passes,
        "n_processes": loop.world.size,
        "device": str(layers.device),
        "dtype": str(layers.dtype).removeprefix("torch."),
        "memory_budget": next(iter(runs.values())).sums.memory.total,
        "baseline_outside_range": loop.ranges.outside(),
        **_kept_edges(runs),
        "notes": [
            *layers.notes,
            *loop.mask_notes(),
            *loop.time_notes(),
            *(
                baseline_outside(layer, share, _name(options.baselines()[layer]))
                for layer, share in loop.ranges.outside().items()
                if share > _OUTSIDE
            ),
            *([] if loop.left_data else SampleKeys(options).left_over(loop.n_samples)),
            *(
                note
                for pair, run in runs.items()
                for note in (
                    *run.context.notes.values(),
                    *_remarks(run, blocks[pair], layers.dtype),
                )
            ),
        ],
        "seconds": recipe["seconds"],
    }
    label = getattr(layers.data.source, "label", None)
    of_samples = label if _takes_one(label) else None
    graph = InteractionGraph(
        layers=tuple(layers.sites),
        pairs=tuple(runs),
        labels=_labels({layer: maps[layer].names(layer) for layer in maps}, options.labels),
        blocks=blocks,
        standard_errors=errors,
        completeness={pair: run.sums.completeness.relative for pair, run in runs.items()},
        features={layer: feature_map.to("cpu") for layer, feature_map in maps.items()},
        metadata=metadata,
        examples=loop.examples.labelled(label),
        drivers={
            pair: found
            for pair, run in runs.items()
            if (found := run.sums.drivers(of_samples, loop.n_passes))
        },
    )
    return _with_parts(graph, runs, dtype)


def _blocks(
    runs: Mapping[Pair, PairRun],
    dtype: torch.dtype,
    wanted: Callable[[Key], bool] = lambda key: True,
) -> tuple[_Blocks, _Blocks, int]:
    """Strengths and standard errors of every pair, by name, and the number of samples."""
    blocks: _Blocks = {}
    errors: _Blocks = {}
    n_samples = 0
    for pair, run in runs.items():
        sums = run.sums.total(wanted)
        names = [strength.name for strength in sums.strengths]
        n_samples = sums.n_samples // sums.passes.number
        blocks[pair] = {name: sums.strength(name, dtype).cpu() for name in names}
        errors[pair] = {
            name: error.cpu()
            for name in names
            if (error := sums.standard_error(name, dtype)) is not None
        }
    return blocks, errors, n_samples


def _with_parts(
    graph: InteractionGraph, runs: Mapping[Pair, PairRun], dtype: torch.dtype
) -> InteractionGraph:
    """The graph with those of its groups and folds."""

    def part(what: str, value: Any) -> InteractionGraph:
        place = ("group", "fold").index(what)
        blocks, errors, n_samples = _blocks(runs, dtype, lambda key: key[place] == value)
        notes = [*graph.metadata["notes"], *_unknown(runs, lambda key: key[place] == value)]
        kept = _kept_edges(runs, lambda key: key[place] == value)
        metadata = {
            **graph.metadata, **kept, what: value, "n_samples": n_samples, "notes": notes
        }  # fmt: skip
        return graph.replace(
            blocks=blocks, standard_errors=errors, completeness={}, metadata=metadata, examples={},
            drivers={},
        )  # fmt: skip

    keys = next(iter(runs.values())).sums.tables
    names = sorted({group for group, _ in keys if group is not None}, key=_natural)
    folds = sorted({fold for _, fold in keys if fold is not None})
    parts = {name: part("group", name) for name in names}
    whole = list(graph.metadata["notes"])
    for name, each in parts.items():
        of_part = each.metadata["notes"][len(whole) :]
        whole += [f"in group {name!r}: {note}" for note in of_part if note not in whole]
    return graph.replace(
        groups=parts,
        folds=tuple(part("fold", fold) for fold in folds),
        metadata={**graph.metadata, "notes": whole},
    )


def _kept_edges(
    runs: Mapping[Pair, PairRun], wanted: Callable[[Key], bool] = lambda key: True
) -> dict[str, Any]:
    """For the recipe, where few edges are kept: what is known of the others, pair by pair."""
    totals = [run.sums.total(wanted) for run in runs.values()]
    kept = [
        {"dropped": total.n_dropped, **total.bounds()}
        for total in totals
        if isinstance(total, SparseSums)
    ]
    return {"kept_edges": kept} if kept else {}


def _unknown(runs: Mapping[Pair, PairRun], wanted: Callable[[Key], bool]) -> Iterator[str]:
    """Features that were never drawn in a part of the data."""
    for run in runs.values():
        draws = run.sums.total(wanted).draws
        if draws.any and (number := int(draws.unknown.sum())):
            yield never_drawn(run.context.name, number, len(draws.unknown), draws.unknown_share)


def _natural(name: str) -> tuple[int, float, str]:
    """Numbers by size, then words."""
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name


def _name(entry: str | Tensor) -> str:
    return entry if isinstance(entry, str) else "tensor"


def _takes_one(label: Callable[..., str] | None) -> bool:
    """Whether the data's words for a place can be asked for a sample as a whole."""
    if label is None:
        return False
    try:
        inspect.signature(label).bind(0)
    except (TypeError, ValueError):
        return False
    return True


def _recorded(feature_map: FeatureMap) -> dict[str, Any]:
    """A feature map's options and what fitting found out, without its matrices."""
    options, _ = feature_map.state()
    return {**options, "n_features": feature_map.n_features, "remark": feature_map.remark}


def _remarks(run: PairRun, block: dict[str, Tensor], dtype: torch.dtype) -> Iterator[str]:
    """What a reader of the result has to know.

    Raises:
        InteractGraphError: the strengths are not numbers.
    """
    name = run.context.name
    strongest = max(
        float(torch.linalg.vector_norm(values_of(strength), torch.inf))
        for strength in block.values()
    )
    if not math.isfinite(strongest):
        raise InteractGraphError(
            f"interaction strengths of {name} are not finite although the activations are: slopes "
            "or their squares overflow; compute in a wider dtype (dtype=torch.float32 or float64)"
        )
    missed, change = run.sums.completeness.missed, run.sums.completeness.change
    small = (change or missed) and math.sqrt(change) < _SMALL
    if (strongest < _TINY or change == 0) and small and dtype != torch.float64:
        yield underflow(name, str(dtype))
    elif strongest == change == 0:
        yield all_zero(name)
    if self_edges_dominate(next(iter(block.values()))):
        yield passes_through(name)


def _labels(
    names: Mapping[str, Sequence[str]], labels: Mapping[str, Sequence[str]] | None
) -> dict[str, list[str]]:
    named = {layer: list(each) for layer, each in names.items()}
    for layer, given in (labels or {}).items():
        if layer not in named:
            raise InteractGraphError(f"labels name {layer!r}, which is not in layers={[*named]}")
        if len(given) != len(named[layer]):
            raise InteractGraphError(
                f"layer {layer!r} has {len(named[layer])} features and {len(given)} labels"
            )
        named[layer] = [str(label) for label in given]
    return named
