"""Graphs with modules that are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from interactgraph.graph import InteractionGraph


class KnownGraph(NamedTuple):
    """A graph, its name, and the true module of each node (-1: none known, not scored).

    `composition`: the share of each true module in each node, `[nodes, modules]`, where known.
    """

    name: str
    graph: InteractionGraph
    truth: np.ndarray
    composition: np.ndarray | None = None


def chain(
    blocks: Mapping[str, Sequence[Tensor | np.ndarray]],
    errors: Mapping[str, Sequence[Tensor | np.ndarray]] | None = None,
) -> InteractionGraph:
    """A chain of layers from strength -> blocks `[targets, sources]`."""
    first = next(iter(blocks.values()))
    sizes = [first[0].shape[1], *(block.shape[0] for block in first)]
    layers = [f"layer {k}" for k in range(len(sizes))]
    pairs = tuple(pairwise(layers))

    def table(strengths: Mapping[str, Sequence[Tensor | np.ndarray]]) -> dict:
        return {
            pair: {name: torch.as_tensor(matrices[k]) for name, matrices in strengths.items()}
            for k, pair in enumerate(pairs)
        }

    labels = {layer: [str(j) for j in range(n)] for layer, n in zip(layers, sizes, strict=True)}
    return InteractionGraph(layers, pairs, labels, table(blocks), table(errors or {}))
