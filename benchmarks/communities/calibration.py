"""Level and power of the held-out test."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from interactgraph.communities.network import Network
from interactgraph.communities.significance import held_out_test
from interactgraph.graph import InteractionGraph

from .graphs import chain
from .multi_task import edges_of, make_data, recipes, train
from .planted import planted


def calibration(cache: Path) -> str:
    lines = [
        "## Significance\n",
        "Held-out test at 5 %. Unstructured: level 1 of four families.\n",
        "| graphs | n | z, mean | z, spread | p <= 0.05 |",
        "| --- | --- | --- | --- | --- |",
    ]
    unstructured = [(f, 1, s) for f in ("block", "mult", "sparse", "spiky") for s in range(40)]
    narrow = ((8, 100, 8), (10, 200, 10), (6, 50, 6))
    weak = [("block", 1.5), ("floor", 1), ("mult", 1.5), ("sparse", 6), ("spiky", 30)]
    sets = {"unstructured": unstructured}
    sets |= {f"{f} {r}": [(f, r, s) for s in range(10)] for f, r in weak}
    graphs = {name: [(planted(*case).graph, case[2]) for case in cases]
              for name, cases in sets.items()}  # fmt: skip
    for sizes in narrow:
        name = "unstructured, layers of " + ", ".join(map(str, sizes))
        graphs[name] = [(rank_one(sizes, seed), seed) for seed in range(100)]
    for name, cases in graphs.items():
        z = np.array([_z(*case) for case in cases])
        lines.append(f"| {name} | {len(z)} | {z.mean():.2f} | {z.std():.2f} | "
                     f"{(z > 1.645).mean():.3f} |")  # fmt: skip
    return "\n".join(lines)


def rank_one(sizes: tuple[int, ...], seed: int) -> InteractionGraph:
    """Products of two lognormal strengths (sigma 1), times lognormal noise (sigma 1.5)."""
    draw = torch.Generator().manual_seed(seed)
    blocks = []
    for n, m in pairwise(sizes):
        out, into, noise = (torch.randn(*shape, generator=draw, dtype=torch.float64)
                            for shape in ((n,), (m, 1), (m, n)))  # fmt: skip
        blocks.append(torch.exp(out + into + 1.5 * noise))
    return chain({"rms": blocks})


def _z(graph: InteractionGraph, seed: int) -> float:
    return held_out_test(Network.from_graph(graph), seed=seed).z_score


def untrained(cache: Path) -> str:
    """Networks as they are initialised have no modules."""
    z = []
    for recipe in (r._replace(steps=0, seed=100 + k) for k, r in enumerate(recipes(20))):
        model = train(recipe)
        x, _, _ = make_data(recipe, 4096, 2)
        rms, _, _ = edges_of(model, x)
        z.append(_z(chain({"rms": rms}), recipe.seed))
    accepted = int((np.array(z) <= 1.645).sum())
    return (
        f"## Untrained networks\n\np > 0.05 in {accepted} of {len(z)} ReLU networks as they are "
        f"initialised; z = {np.mean(z):.2f} +- {np.std(z):.2f}."
    )
