"""What the page shows, as one plain dictionary: the page's script reads nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..communities import constants
from ..exporters.layout import column_order
from ..exporters.palette import module_colour
from ..exporters.table import check_finite, node_modules
from ..exporters.text import xml_text
from ..graph import Edges
from ..sparse import n_nonzero
from ..validation.module_effect import WORDS
from .columns import column_heights
from .embedding import packed, plain
from .figures import (
    block_means,
    histograms,
    strong_edge_error,
    strongest_edges,
    strongest_neighbours,
)

if TYPE_CHECKING:
    from ..communities import Partition, ResolutionProfile
    from ..graph import InteractionGraph
    from ..validation import ModuleEffect
    from .ablation_file import Curve

__all__ = ["contents"]

_AFFINITIES = 3  # modules that are listed for every feature
_NEIGHBOURS = 8  # strongest edges in and out that are listed for every feature, and exact
_HEAT_CELLS = 600_000  # of all heat maps together
_HEAT_MOST = 160  # rows and columns of one
_NOT_RECIPE = (
    "plans",
    "notes",
    "feature_maps",
    "baseline_outside_range",
    "seconds",
    "layers",
    "pairs",
)


def contents(
    graph: InteractionGraph,
    partition: Partition | None,
    *,
    n_edges: int,
    profile: ResolutionProfile | None,
    curves: Mapping[tuple[str, str], Curve] | None,
    effects: Sequence[ModuleEffect] | None,
) -> dict[str, Any]:
    """See `interactgraph.report.write_report`."""
    module = node_modules(graph, partition)
    shown = np.full(graph.n_nodes, -1) if module is None else module
    return {
        "version": __version__,
        "title": _model(graph),
        "layers": [{"name": xml_text(layer), "n": n} for layer, n in graph.n_features.items()],
        "labels": [xml_text(str(text)) for layer in graph.layers for text in graph.labels[layer]],
        "examples": _examples(graph),
        "drivers": _drivers(graph),
        "recipe": _recipe(graph),
        "run": _run(graph),
        "notes": [
            xml_text(note)
            for note in (*graph.notes, *(() if partition is None else partition.notes))
        ],
        "pairs": [_pair(graph, number) for number in range(len(graph.pairs))],
        "strengths": list(map(xml_text, graph.strengths)),
        "edges": _edges(graph, n_edges),
        "nodes": _nodes(graph, partition, shown),
        "partition": None if partition is None else _partition(graph, partition, shown),
        "heat": _heat(graph, shown),
        "histograms": [_histogram(graph, strength) for strength in graph.strengths],
        "profile": None if profile is None else _profile(profile),
        "curves": _curves(graph, curves or {}),
        "effects": [_effect(effect) for effect in effects or ()],
    }


def _model(graph: InteractionGraph) -> str:
    return xml_text(str(graph.metadata.get("model", "interaction graph")))


def _examples(graph: InteractionGraph) -> list[list[str]] | None:
    """Of every node the samples on which it is most active, in words."""
    if not any(graph.examples.values()):
        return None
    texts: list[list[str]] = []
    for layer, n in graph.n_features.items():
        known = graph.examples.get(layer)
        for feature in range(n):
            found = [] if known is None else known.of(feature)
            texts.append([xml_text(f"{example.value:.3g} on {example}") for example in found])
    return texts


def _drivers(graph: InteractionGraph) -> list[list[str]] | None:
    """Of every node the samples that drive its strongest edges, in words."""
    if not graph.drivers:
        return None
    return [
        [
            xml_text(f"{words}: {'; '.join(map(str, drivers))}")
            for words, drivers in graph.driven(layer, feature)
        ]
        for layer, n in graph.n_features.items()
        for feature in range(n)
    ]


def _recipe(graph: InteractionGraph) -> list[list[str]]:
    """Everything of the recipe that says something, in words."""
    rows = []
    for name, value in graph.metadata.items():
        if name in _NOT_RECIPE or value in (None, [], {}, ()):
            continue
        rows.append([xml_text(name), xml_text(_in_words(value))])
    return rows


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        kinds = {str(item) for item in value.values()}
        if len(kinds) == 1:
            return kinds.pop()
        return ", ".join(f"{key}: {item}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(
            " → ".join(map(str, item)) if isinstance(item, (list, tuple)) else str(item)
            for item in value
        )
    return str(value)


def _run(graph: InteractionGraph) -> dict[str, Any]:
    recipe = graph.metadata
    names = ("method", "n_samples", "seconds")
    return plain({name: recipe.get(name) for name in names})


def _pair(graph: InteractionGraph, number: int) -> dict[str, Any]:
    """A pair with its honesty figures."""
    source, target = graph.pairs[number]
    plans = graph.metadata.get("plans", [])
    plan = plans[number] if number < len(plans) else {}
    layers = list(graph.layers)
    return plain(
        {
            "source": layers.index(source),
            "target": layers.index(target),
            "how": xml_text(f"{plan['engine']} ({plan['method']})") if plan else None,
            "drawn": plan.get("sources_per_sample"),
            "positions": plan.get("positions_per_sample"),
            "completeness": graph.completeness.get((source, target)),
            "error": strong_edge_error(graph, source, target),
            "edges": [n_nonzero(graph.weights(source, target, s)) for s in graph.strengths],
        }
    )


def _edges(graph: InteractionGraph, most: int) -> dict[str, Any]:
    """The strongest edges in every strength, with all strengths of each."""
    if not graph.pairs:
        none = np.zeros(0)
        return {"source": packed(none, "u4"), "target": packed(none, "u4"), "strengths": []}
    tops: dict[str, Edges] = {}
    for strength in graph.strengths:
        edges = graph.edges(strength)
        check_finite(graph, edges, strength)
        top = strongest_edges(edges, len(graph.pairs), most)
        tops[strength] = Edges(*(array[top] for array in edges))
    listed = {name: top.source * graph.n_nodes + top.target for name, top in tops.items()}
    # The first strength's order comes first, so that the page need not sort to show it.
    keys, first = np.unique(np.concatenate(list(listed.values())), return_index=True)
    order = np.argsort(first, kind="stable")
    keys, first = keys[order], first[order]
    shown = Edges(*(np.concatenate(arrays)[first] for arrays in zip(*tops.values(), strict=True)))
    values = []
    for strength in graph.strengths:
        error = graph.values_at(shown, strength, error=True)
        values.append(
            {
                "weight": packed(graph.values_at(shown, strength), "f4"),
                "error": None if np.isnan(error).all() else packed(error, "f4"),
                "listed": packed(np.isin(keys, listed[strength]), "u1"),
            }
        )
    ends = "u2" if graph.n_nodes < 2**16 else "u4"
    return {
        "source": packed(shown.source, ends),
        "target": packed(shown.target, ends),
        "strengths": values,
    }


def _nodes(
    graph: InteractionGraph, partition: Partition | None, module: np.ndarray
) -> dict[str, Any]:
    """Of every node its module, its place in its column, its strengths and strongest edges."""
    strengths = []
    for strength in graph.strengths:
        sides = {}
        for side in ("in", "out"):
            found = strongest_neighbours(graph, strength, _NEIGHBOURS, side)
            sides[side] = {
                "node": packed(found.node, "i4"),
                "weight": packed(found.weight, "f4"),
                "error": packed(found.error, "f4"),
            }
        strengths.append({"total": packed(graph.node_strength(strength), "f4"), **sides})
    confidence = None
    if partition is not None and partition.confidence:
        parts = [
            partition.confidence.get(layer, np.full(n, np.nan))
            for layer, n in graph.n_features.items()
        ]
        confidence = packed(np.concatenate(parts), "f4")
    order = _order(graph, module)
    heights, steps = column_heights(list(graph.n_features.values()), order, module)
    return {
        "module": packed(module, "i4"),
        "order": packed(order, "u4"),
        "height": packed(heights, "f4"),
        "step": packed(steps, "f4"),
        "confidence": confidence,
        "affinity": _affinity(graph, partition),
        "neighbours": _NEIGHBOURS,
        "strengths": strengths,
    }


def _affinity(graph: InteractionGraph, partition: Partition | None) -> dict[str, Any] | None:
    """The modules that each node belongs to most, with intervals and what it is called."""
    if partition is None or not partition.affinity:
        return None
    n = min(_AFFINITIES, partition.n_modules)
    module, share, low, high = (
        np.full((graph.n_nodes, n), fill) for fill in (-1.0, 0, np.nan, np.nan)
    )
    for layer, values in partition.affinity.items():
        rows = np.arange(graph.offsets[layer], graph.offsets[layer] + len(values))[:, None]
        most = np.argsort(-values, axis=1, kind="stable")[:, :n]
        share[rows[:, 0]] = np.take_along_axis(values, most, 1)
        module[rows[:, 0]] = np.where(share[rows[:, 0]] > 0, most, -1)
        if layer in partition.affinity_interval:
            ends = np.take_along_axis(partition.affinity_interval[layer], most[:, :, None], 1)
            low[rows[:, 0]], high[rows[:, 0]] = ends[:, :, 0], ends[:, :, 1]
    role = np.zeros(graph.n_nodes)
    for mixture in partition.mixtures():
        role[graph.offsets[mixture.layer] + mixture.feature] = 1 + (mixture.kind == "hub")
    return {
        "n": n,
        "module": packed(module, "i4"),
        "share": packed(share, "f4"),
        "low": packed(low, "f4") if partition.affinity_interval else None,
        "high": packed(high, "f4") if partition.affinity_interval else None,
        "role": packed(role, "u1"),
    }


def _order(graph: InteractionGraph, module: np.ndarray) -> np.ndarray:
    """Nodes layer by layer from the top of each column down."""
    strength = graph.node_strength() if graph.pairs else np.zeros(graph.n_nodes)
    return column_order(list(graph.n_features.values()), module, strength)


def _partition(graph: InteractionGraph, partition: Partition, module: np.ndarray) -> dict[str, Any]:
    name = partition.strength if partition.strength in graph.strengths else None
    # From module to module over all pairs; the last row and column are features in none.
    flow = np.zeros((partition.n_modules + 1,) * 2)
    for block in partition.flow(graph, name).blocks.values():
        flow += block
    inside = flow.diagonal()
    touching = flow.sum(0) + flow.sum(1) - inside
    share = np.divide(inside, touching, out=np.zeros_like(inside), where=touching > 0)
    sizes = [
        np.bincount(numbers[numbers >= 0], minlength=partition.n_modules)
        for numbers in partition.membership.values()
    ]
    modules = [
        {
            "colour": "#{:02x}{:02x}{:02x}".format(*module_colour(number)),
            "sizes": [int(size[number]) for size in sizes],
            "inside": float(share[number]),
            "agreement": _module_agreement(partition, number),
            "z_score": _or_nan(partition.module_z_scores, number),
            "p_value": _or_nan(partition.module_p_values, number),
        }
        for number in range(partition.n_modules)
    ]
    details = partition.details
    return plain(
        {
            "summary": xml_text(partition.summary()),
            "quality": partition.quality,
            "agreement": partition.agreement,
            "p_value": partition.p_value,
            "z_score": partition.z_score,
            "significant": partition.significant,
            "significance": xml_text(str(details.get("significance", ""))),
            "null": xml_text(partition.null),
            "resolution": partition.resolution,
            "weighting": xml_text(partition.weighting),
            "strength": xml_text(partition.strength),
            "n_runs": partition.n_runs,
            "seed": partition.seed,
            "isolated": int((module < 0).sum()),
            "grey": "#{:02x}{:02x}{:02x}".format(*module_colour(-1)),
            "inside": float(inside[:-1].sum() / flow.sum()) if flow.sum() else 0.0,
            "search": _search(details.get("resolution_excess")),
            "search_z": _search(details.get("resolutions")),
            "least_z": constants.LEAST_Z,
            "modules": modules,
        }
    )


def _or_nan(values: np.ndarray, number: int) -> float:
    return float(values[number]) if len(values) else float("nan")


def _module_agreement(partition: Partition, number: int) -> float:
    """Mean over the module's features of how often they were with it; NaN where not measured."""
    values = [
        confidence[partition.membership[layer] == number]
        for layer, confidence in partition.confidence.items()
    ]
    known = np.concatenate([np.zeros(0), *values])
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else float("nan")


def _search(resolutions: Any) -> list[list[float]]:
    """Held-out scores of the resolutions that were tried, ascending.

    A resolution has none where no hidden edge was inside a module (NaN, None in files).
    """
    if not isinstance(resolutions, Mapping):
        return []
    known = {key: score for key, score in resolutions.items() if score is not None}
    return sorted([float(key), float(score)] for key, score in known.items() if np.isfinite(score))


def _heat(graph: InteractionGraph, module: np.ndarray) -> list[dict[str, Any]]:
    """For every pair and strength the mean absolute strength of blocks, modules in order."""
    n = max(len(graph.pairs) * len(graph.strengths), 1)
    most = int(np.clip((_HEAT_CELLS / n) ** 0.5, 24, _HEAT_MOST))
    order, offsets, sizes = _order(graph, module), graph.offsets, graph.n_features
    maps = []
    for source, target in graph.pairs:
        columns, rows = (
            order[offsets[layer] : offsets[layer] + sizes[layer]] - offsets[layer]
            for layer in (source, target)
        )
        images = []
        for strength in graph.strengths:
            means = block_means(graph.weights(source, target, strength), rows, columns, most)
            largest = float(means.max(initial=0.0))
            shade = np.sqrt(means / largest) if largest > 0 else means
            images.append({"largest": largest, "shade": packed(np.rint(255 * shade), "u1")})
        maps.append(
            {"rows": min(len(rows), most), "columns": min(len(columns), most), "images": images}
        )
    return plain(maps)


def _histogram(graph: InteractionGraph, strength: str) -> dict[str, Any]:
    ends, counts = histograms(graph, strength)
    return {"low": float(ends[0]), "high": float(ends[-1]), "counts": counts.tolist()}


def _profile(profile: ResolutionProfile) -> dict[str, Any]:
    return plain(
        {
            "rows": [
                [p.resolution, p.n_modules, p.quality, p.agreement] for p in profile.partitions
            ],
            "plateaus": [[p.low, p.high, p.n_modules, p.agreement] for p in profile.plateaus],
        }
    )


def _curves(
    graph: InteractionGraph, curves: Mapping[tuple[str, str], Curve]
) -> list[dict[str, Any]]:
    return plain(
        [
            {
                "name": xml_text(" → ".join(pair)),
                "n_edges": one.n_edges,
                "of": graph.weights(*pair).numel(),
                "intact": one.intact,
                "points": [[n, value] for n, value in sorted(one.curve.items())],
            }
            for pair, one in curves.items()
        ]
    )


def _effect(effect: ModuleEffect) -> dict[str, Any]:
    """What taking a module away does to every measure, and what random sets do."""
    rows = []
    for way, drops in effect.effect.items():
        for name, drop in drops.items():
            controls = effect.control[way][name]
            rows.append(
                {
                    "what": xml_text(name if way == "features" else f"{WORDS[way]}: {name}"),
                    "intact": effect.intact[name],
                    "without": effect.intact[name] - drop,
                    "control": effect.intact[name] - float(np.mean(controls)) if controls else None,
                    "spread": float(np.std(controls)) if controls else None,
                }
            )
    samples = ", ".join(map(str, effect.max_activating_samples))
    return plain({"module": effect.module, "rows": rows, "samples": samples})
