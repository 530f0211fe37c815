"""Significance of single modules: level on unstructured graphs, power where some are real."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from interactgraph import Partition, find_modules
from interactgraph.graph import InteractionGraph

from .calibration import rank_one
from .graphs import chain
from .planted import N_MODULES, planted

SEEDS = range(2000, 2020)
LEVEL = 0.05
FAMILIES = ("block", "mult", "sparse", "spiky")
HALF = (("block", 2), ("block", 3), ("mult", 2), ("mult", 3))


def modules(cache: Path) -> str:
    lines = [
        "## Significance of modules\n",
        f"One-sided 5 % tests of single modules (z above 1.645), and graphs in which any module is "
        f"below {LEVEL} after Holm's correction; seeds that nothing was chosen on. Modules at "
        "resolution 1, weighting `root_normalised`, 2 runs, but for \"default\".\n",
        "| unstructured graphs | n | modules | z, mean | z, spread | modules rejected | "
        "graphs with any |",
        "| --- |" + " --- |" * 6,
    ]  # fmt: skip
    every: list[Partition] = []
    for family in FAMILIES:
        found = [_found(planted(family, 1, seed).graph, seed) for seed in SEEDS]
        lines.append(_level(family, found))
        every += found
    for sizes in ((8, 100, 8), (32, 64, 48, 32)):
        found = [_found(rank_one(sizes, seed), seed) for seed in SEEDS]
        lines.append(_level(f"layers of {', '.join(map(str, sizes))}", found))
        every += found
    lines.append(_level("**all**", every))
    found = [find_modules(planted("mult", 1, s).graph, seed=s, n_runs=4) for s in SEEDS[:10]]
    lines.append(_level("mult, default", found))
    lines += [
        "\nPlanted graphs in which the first three of six modules are real, and the other features "
        "have only their strengths in common (5 seeds). A module found counts as real where most "
        "of its features are.\n",
        "| graphs | real modules found significant | others found significant |",
        "| --- | --- | --- |",
    ]
    for family, level in HALF:
        real, rest = [], []
        for seed in SEEDS[:5]:
            graph, truth = half_planted(family, level, seed)
            for yes, significant in _verdicts(_found(graph, seed), truth):
                (real if yes else rest).append(significant)
        lines.append(f"| {family} {level} | {_share(real)} | {_share(rest)} |")
    return "\n".join(lines)


def _found(graph: InteractionGraph, seed: int) -> Partition:
    return find_modules(graph, weighting="root_normalised", resolution=1.0, n_runs=2, seed=seed)


def _level(name: str, found: list[Partition]) -> str:
    z = np.concatenate([each.module_z_scores for each in found])
    z = z[np.isfinite(z)]
    any_module = np.mean([bool(each.significant_modules) for each in found])
    return (
        f"| {name} | {len(found)} | {len(z)} | {z.mean():.2f} | {z.std():.2f} | "
        f"{(z > 1.645).mean():.3f} | {any_module:.3f} |"
    )


def half_planted(family: str, level: float, seed: int) -> tuple[InteractionGraph, np.ndarray]:
    """A planted graph without the signal inside the second half of its modules.

    Returns:
        The graph, and the module of each node, -1 in the half that has none.
    """
    known = planted(family, level, seed)
    sizes = np.cumsum(list(known.graph.n_features.values()))[:-1]
    ends = np.split(known.truth, sizes)
    blocks = []
    for k, pair in enumerate(known.graph.pairs):
        quiet = (ends[k + 1][:, None] == ends[k]) & (ends[k] >= N_MODULES // 2)
        blocks.append(known.graph.weights(*pair) * torch.from_numpy(np.where(quiet, 1 / level, 1)))
    return chain({"rms": blocks}), np.where(known.truth < N_MODULES // 2, known.truth, -1)


def _verdicts(found: Partition, truth: np.ndarray) -> list[tuple[bool, bool]]:
    """Of every module of at least 5 features: whether it is real, and whether it is significant."""
    sure = set(found.significant_modules)
    return [
        (bool((truth[found.labels == module] >= 0).mean() > 0.5), module in sure)
        for module, size in enumerate(found.sizes)
        if size >= 5
    ]


def _share(significant: list[bool]) -> str:
    return f"{sum(significant)} of {len(significant)}" if significant else "none found"
