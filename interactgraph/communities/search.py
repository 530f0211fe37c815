"""`find_modules`: the search for modules, from a graph to a partition."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
import torch

from ..checks import choice
from ..errors import InteractGraphError, InteractGraphWarning
from ..graph import InteractionGraph
from .affinity import module_affinity
from .auto_resolution import best_resolution, resolution_scores
from .auto_weighting import named_weighting
from .confidence import co_assignment
from .evidence import edge_evidence, sample_evidence
from .objective import NULLS, make_objective
from .partition import Partition, by_size, split_layers
from .resolution import resolution_for
from .runs import check_runs, choose_algorithm, count_modules, mean_agreement, search
from .self_edges import SELF_EDGES, read_network

__all__ = ["find_modules"]


def find_modules(
    graph: InteractionGraph,
    strength: str | None = None,
    *,
    null: str = "layered",
    resolution: float | Literal["auto"] = "auto",
    n_runs: int = 10,
    seed: int = 0,
    self_edges: Literal["auto", "keep"] = "auto",
    weighting: str = "auto",
    block_weight: str = "equal",
    algorithm: str = "auto",
    n_modules: int | None = None,
    significance: bool = True,
    device: torch.device | str | None = None,
) -> Partition:
    """Finds modules: groups of features that drive each other more than their strengths explain.

    Args:
        graph: interaction strengths.
        strength: which strength is the weight (signed ones by absolute value); None: the graph's
            first.
        null: what is expected without modules. "layered": in every pair of layers the product of
            both features' strengths (Barber). "cpm": the same for all pairs of features of two
            layers. "undirected", "directed": plain modularity, blind to layers; on layered graphs
            it mostly finds the layers.
        resolution: factor of the null model; larger values give more and smaller modules. "auto":
            the one nearest to 1 of those whose modules say most (four fifths of the most at
            least) about edges that were hidden when they were found; where these speak for no
            modules, 0.1 for graphs that fall apart by themselves (into parts with hardly any weight
            between them), which are not divided further; 1 for all others, and for null models
            other than "layered". Finding it takes several times as long as the runs themselves.
        n_runs: number of runs, seeds `seed`, `seed + 1`, ...; the best quality is kept.
        seed: same seed, same partition.
        self_edges: "auto": where most features have the target of their own number as their
            strongest one, as along a residual stream, edges of equal numbers count as what the
            null model expects, so that the skip connection is no structure; the partition's
            details name the pairs. "keep": they count like others.
        weighting: how strengths become weights, one of `WEIGHTINGS`.
        block_weight: "equal": every pair of layers counts the same; "total": by its strength.
        algorithm: "sweeps" (whole layers at once; also on GPUs), "leiden", "leiden+sweeps" (Leiden,
            polished by sweeps) or "networkit" (its parallel Leiden, polished by sweeps; needs the
            extra of that name); "auto": "sweeps" where the null model allows it, else "leiden".
        n_modules: ask for this many modules: the resolution is searched for and `resolution` is
            ignored. The nearest number is returned where the graph does not fall into so many.
        significance: whether to test, on held-out edges, that there is any structure at all and
            which modules are more than chance; where the graph has folds, on held-out samples, too.
        device: where sweeps run; None: where the graph's weights are.

    Returns:
        The best partition, with its quality, the agreement of the runs and a p-value.

    Raises:
        InteractGraphError: an option that is not known, or weights that are not finite.

    Example:
        >>> import interactgraph as itg
        >>> net = itg.zoo.planted_modules(widths=(8, 12, 8), n_modules=2, n_samples=128)
        >>> graph = itg.interaction_graph(net.model, net.data, net.layers, progress=False)
        >>> partition = itg.find_modules(graph, n_modules=2, n_runs=2)
        >>> partition.n_modules
        2
        >>> partition.membership["1"].shape
        (12,)
    """
    if null not in NULLS:
        raise InteractGraphError(f"null model {null!r} is not known; choose {', '.join(NULLS)}")
    n_runs, seed = check_runs(n_runs, seed, resolution)
    choice("self_edges", self_edges, SELF_EDGES)
    network, passing = read_network(graph, strength, device, self_edges)
    weighed = named_weighting(weighting).weigh(network, seed)
    weighted, decided = weighed.network, dict[str, Any](weighed.decided)
    if passing:
        decided["self_edges"] = passing
    # The test asks at a resolution that was not chosen by edges that it hides.
    tested_at = 1.0 if resolution == "auto" else resolution
    if resolution == "auto":
        resolution = 1.0
        if n_modules is None and null == "layered" and weighted.blocks:
            automatic = weighed.scores
            if automatic is None:
                (automatic,) = resolution_scores(network, [weighed.weighting], seed)
            resolution = best_resolution(automatic, weighted, block_weight, seed)
            decided["resolutions"] = {str(r): round(s.z, 3) for r, s in automatic.items()}
            decided["resolution_excess"] = {
                str(r): round(s.excess, 5) for r, s in automatic.items()
            }
    recorded: dict[str, Any] = {
        "null": null,
        "resolution": float(resolution),
        "weighting": weighting,
        "strength": graph.check_strength(strength) if graph.pairs else "",
        "seed": seed,
        "n_runs": n_runs,
    }
    if not weighted.blocks:
        nowhere = np.full(graph.n_nodes, -1, np.int64)
        return Partition.from_labels(nowhere, graph.n_features, quality=0.0, **recorded)
    asked: list[np.ndarray] = []
    if n_modules is not None:
        resolution, labels = resolution_for(
            n_modules, weighted, null, block_weight, algorithm, seed
        )
        asked = [labels]
        recorded["resolution"] = resolution
    objective = make_objective(weighted, null, resolution, block_weight)
    algorithm = choose_algorithm(algorithm, objective)
    runs = search(objective, algorithm, n_runs, seed)
    qualities = [objective.quality(labels) for labels in runs]
    best = runs[int(np.argmax(qualities))]
    if n_modules is not None:  # runs at one resolution differ in their number of modules
        wanted = n_modules
        best = min(
            (*runs, *asked),
            key=lambda labels: (abs(count_modules(labels) - wanted), -objective.quality(labels)),
        )
    confidence = split_layers(co_assignment(best, runs), graph.n_features)
    if significance:
        tested, told = edge_evidence(network, best, tested_at, bool(passing), seed)
        recorded.update(tested)
        decided.update(told)
    affinity = module_affinity(graph, network, by_size(best), strength, passing)
    partition = Partition.from_labels(
        best,
        graph.n_features,
        affinity=affinity.shares,
        affinity_interval=affinity.intervals,
        quality=objective.quality(best),
        agreement=mean_agreement(runs),
        confidence=confidence,
        details={
            "algorithm": algorithm,
            "qualities": qualities,
            "block_weight": block_weight,
            **decided,
        },
        **recorded,
    )
    if not significance:
        return partition
    partition = sample_evidence(partition, graph, network, tested_at, self_edges)
    for note in partition.notes:
        warnings.warn(note, InteractGraphWarning, stacklevel=2)
    return partition
