"""`find_modules`: the search for modules, from a graph to a partition."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import torch

from ..errors import InteractGraphError
from ..graph import InteractionGraph
from .leiden import Leiden
from .mutual_information import adjusted_mutual_information
from .network import Network
from .objective import NULLS, Objective, PooledObjective, make_objective
from .partition import Partition
from .significance import held_out_test
from .sweeps import Sweeps
from .weighting import apply_weighting

__all__ = ["find_modules"]

ALGORITHMS = ("leiden+sweeps", "leiden", "sweeps")


def find_modules(
    graph: InteractionGraph,
    strength: str | None = None,
    *,
    null: str = "layered",
    resolution: float = 1.0,
    n_runs: int = 10,
    seed: int = 0,
    weighting: str = "strength_normalised",
    block_weight: str = "equal",
    algorithm: str = "auto",
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
        resolution: factor of the null model; larger values give more and smaller modules.
        n_runs: number of runs, seeds `seed`, `seed + 1`, ...; the best quality is kept.
        seed: same seed, same partition.
        weighting: how strengths become weights, one of `WEIGHTINGS`.
        block_weight: "equal": every pair of layers counts the same; "total": by its strength.
        algorithm: "leiden", "sweeps" (matrix products, for dense graphs and GPUs) or
            "leiden+sweeps" (Leiden, polished by sweeps); "auto": what recovers best for the size.
        significance: whether to test, on held-out edges, that there is any structure at all.
        device: where sweeps run; None: where the graph's weights are.

    Returns:
        The best partition, with its quality, the agreement of the runs and a p-value.

    Raises:
        InteractGraphError: an option that is not known, or weights that are not finite.
    """
    if null not in NULLS:
        raise InteractGraphError(f"null model {null!r} is not known; choose {', '.join(NULLS)}")
    if n_runs < 1:
        raise InteractGraphError(f"n_runs={n_runs} must be at least 1")
    network = Network.from_graph(graph, strength, device)
    weighted = apply_weighting(network, weighting)
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
    objective = make_objective(weighted, null, resolution, block_weight)
    algorithm = choose_algorithm(algorithm, objective)
    runs = search(objective, algorithm, n_runs, seed)
    qualities = [objective.quality(labels) for labels in runs]
    best = int(np.argmax(qualities))
    if significance:
        test = held_out_test(network, resolution, seed=seed)
        recorded.update(z_score=test.z_score, p_value=test.p_value)
    return Partition.from_labels(
        runs[best],
        graph.n_features,
        quality=qualities[best],
        agreement=mean_agreement(runs),
        details={"algorithm": algorithm, "qualities": qualities, "block_weight": block_weight},
        **recorded,
    )


def choose_algorithm(algorithm: str, objective: Objective | PooledObjective) -> str:
    """Resolves "auto".

    Raises:
        InteractGraphError: not known, or sweeps for a null model that is blind to layers.
    """
    if algorithm not in (*ALGORITHMS, "auto"):
        raise InteractGraphError(
            f"algorithm {algorithm!r} is not known; choose auto, {', '.join(ALGORITHMS)}"
        )
    if isinstance(objective, PooledObjective):
        if "sweeps" in algorithm:
            raise InteractGraphError(
                f"algorithm {algorithm!r} needs a null model per block (layered, cpm); the null "
                f"model {objective.null!r} is found by leiden"
            )
        return "leiden"
    return "sweeps" if algorithm == "auto" else algorithm


def search(
    objective: Objective | PooledObjective, algorithm: str, n_runs: int, seed: int
) -> list[np.ndarray]:
    """Labels of every run, each `[nodes]`."""
    leiden = Leiden(objective) if "leiden" in algorithm else None
    sweeps = Sweeps(objective) if isinstance(objective, Objective) else None
    runs = []
    for run_seed in range(seed, seed + n_runs):
        if leiden is None:
            assert sweeps is not None
            labels = sweeps.run(run_seed)
        else:
            labels = leiden.run(run_seed)
            if "sweeps" in algorithm and sweeps is not None:
                labels = sweeps.polish(labels)
        runs.append(labels)
    return runs


def mean_agreement(runs: list[np.ndarray]) -> float:
    """Adjusted mutual information, mean over pairs of runs; NaN for one run."""
    if len(runs) < 2:
        return math.nan
    placed = runs[0] >= 0
    return float(
        np.mean(
            [adjusted_mutual_information(a[placed], b[placed]) for a, b in combinations(runs, 2)]
        )
    )
