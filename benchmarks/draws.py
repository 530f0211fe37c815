"""Drawn source features: how often exact values lie within two standard errors.

Networks that the size of the errors was not chosen on. Writes its section of benchmarks/README.md:
`python benchmarks/draws.py`.
"""

from __future__ import annotations

from typing import Any

import page
import torch
from engines import Block
from torch import nn

import interactgraph as itg

SEEDS = 100
STRENGTHS = ("rms", "mean_abs", "mean")


def cases() -> dict[str, tuple[nn.Module, Any, list[str]]]:
    """Name -> model, data, layers."""
    torch.manual_seed(5)
    blocks = nn.Sequential(nn.Linear(4, 24), Block(24, 2), Block(24, 2)).double()
    convolutional = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 12, 3), nn.ReLU(), nn.Conv2d(12, 8, 3)
    ).double()
    planted = itg.zoo.planted_modules(widths=(24, 32, 24), n_modules=3, n_samples=256)
    sequences = torch.randn(64, 6, 4, dtype=torch.float64)
    pictures = torch.randn(64, 3, 10, 10, dtype=torch.float64)
    return {
        "transformer block": (blocks, sequences.split(16), ["1", "2"]),
        "convolutions": (convolutional, pictures.split(16), ["1", "4"]),
        "planted modules": (planted.model, planted.data, list(planted.layers[:2])),
    }


def covered(model: nn.Module, data: Any, layers: list[str], sources: int) -> list[float]:
    """Share of all edges within two errors, mean over seeds, of each strength."""
    options: dict[str, Any] = {
        "strengths": STRENGTHS, "engine": "forward", "method": "gradient", "progress": False,
    }  # fmt: skip
    exact = itg.interaction_graph(model, data, layers, **options)
    totals = dict.fromkeys(STRENGTHS, 0.0)
    for seed in range(SEEDS):
        graph = itg.interaction_graph(model, data, layers, sources=sources, seed=seed, **options)
        for name in STRENGTHS:
            off = (graph.weights(*layers, name) - exact.weights(*layers, name)).abs()
            within = off <= 2 * graph.standard_error(*layers, name)
            totals[name] += float(within.double().mean()) / SEEDS
    return list(totals.values())


def main() -> None:
    """Measures all of them."""
    rows = [
        f"| {name} | {sources} | " + " | ".join(f"{share:.1%}" for share in shares) + " |"
        for name, case in cases().items()
        for sources in (1, 4)
        for shares in [covered(*case, sources)]
    ]
    page.write("draws", [
        "## Drawn source features: edges within two standard errors of the exact value",
        "",
        f"By `python benchmarks/draws.py`, {SEEDS} seeds, 64 samples (planted modules: 256), "
        "method gradient; networks that the size of the errors was not chosen on.",
        "",
        "| model | drawn for each sample | " + " | ".join(STRENGTHS) + " |",
        "| --- | --- |" + " --- |" * len(STRENGTHS),
        *rows,
    ])  # fmt: skip


if __name__ == "__main__":
    main()
