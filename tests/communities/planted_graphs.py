"""Graphs for the tests: from plain matrices, and with modules that are known."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

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


def sampled(
    *squares: np.ndarray, n_folds: int = 0, groups: Sequence[str] | None = None
) -> InteractionGraph:
    """A chain of layers from mean squares on every sample, `[samples, targets, sources]` each."""
    blocks = [np.sqrt(x.mean(0)) for x in squares]
    errors = []
    for x, rms in zip(squares, blocks, strict=True):
        error = x.std(0, ddof=1) / np.sqrt(len(x)) if len(x) > 1 else np.full(x[0].shape, np.inf)
        errors.append(np.where(rms > 0, error / (2 * np.maximum(rms, 1e-300)), 0))
    graph = graph_of(*blocks, errors=tuple(errors))
    samples = np.arange(len(squares[0]))
    names = np.array(groups if groups is not None else [])
    return graph.replace(
        metadata={"n_samples": len(samples)},
        folds=[sampled(*(x[samples % n_folds == k] for x in squares)) for k in range(n_folds)],
        groups={name: sampled(*(x[names == name] for x in squares)) for name in np.unique(names)},
    )


def of_sentences(n_sentences: int = 12, own: int = 3, seed: int = 0) -> list[np.ndarray]:
    """Squares of a chain of three layers whose features live on one sample each."""
    draw = np.random.default_rng(seed)
    n = n_sentences * own
    owner = np.arange(n) // own
    alive = owner == np.arange(n_sentences)[:, None]
    both = alive[:, :, None] & alive[:, None]
    return [both * draw.lognormal(size=(n_sentences, n, n)) for _ in range(2)]
