"""Graphs for the tests: from plain matrices, and with modules that are known."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from interactgraph.graph import InteractionGraph


def graph_of(*blocks: np.ndarray, strength: str = "rms", errors: tuple = ()) -> InteractionGraph:
    """A chain of layers l0, l1, ... from blocks `[targets, sources]`."""
    sizes = [blocks[0].shape[1], *(block.shape[0] for block in blocks)]
    layers = [f"l{k}" for k in range(len(sizes))]
    pairs = list(itertools.pairwise(layers))
    return InteractionGraph(
        layers,
        tuple(pairs),
        {layer: [f"{layer}:{j}" for j in range(n)] for layer, n in zip(layers, sizes, strict=True)},
        {p: {strength: torch.as_tensor(b)} for p, b in zip(pairs, blocks, strict=True)},
        {p: {strength: torch.as_tensor(e)} for p, e in zip(pairs, errors, strict=False)},
    )


def planted(
    seed: int, contrast: float = 4.0, sizes: tuple[int, ...] = (24, 48, 36), n_modules: int = 4
) -> tuple[InteractionGraph, np.ndarray]:
    """Heavy-tailed feature strengths and noise; weights inside modules times `contrast`."""
    generator = np.random.default_rng(seed)
    modules = [generator.permutation(np.arange(n) % n_modules) for n in sizes]
    blocks = []
    for source, target in itertools.pairwise(modules):
        out, into = (np.exp(generator.normal(size=len(m))) for m in (source, target))
        noise = np.exp(generator.normal(size=(len(target), len(source))))
        inside = np.where(target[:, None] == source, contrast, 1.0)
        blocks.append(into[:, None] * out * noise * inside)
    return graph_of(*blocks), np.concatenate(modules)
