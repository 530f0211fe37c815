"""Pruning: which edges are kept."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import number, whole
from ..errors import InputError
from ..sparse import first_of_rows, is_sparse, kept_at, nonzero, sparse_matrix, values_of
from .interaction_graph import InteractionGraph, Pair

__all__ = ["prune"]


def prune(
    graph: InteractionGraph,
    threshold: float | None,
    relative: float | None,
    top_k: int | None,
    top_k_per_target: int | None,
    strength: str | None,
) -> InteractionGraph:
    """See `InteractionGraph.prune`."""
    rules = {
        "threshold": threshold,
        "relative": relative,
        "top_k": top_k,
        "top_k_per_target": top_k_per_target,
    }
    given = {name: value for name, value in rules.items() if value is not None}
    if not given:
        raise InputError(f"pruning needs at least one rule of {', '.join(rules)}")
    for name, value in given.items():
        if name.startswith("top_k"):
            whole(name, value, 0)
        elif number(name, value) < 0:
            raise InputError(f"{name}={value!r} makes no sense as a pruning rule")
    strength = graph.check_strength(strength)

    kept = {
        pair: _kept(block[strength], threshold, relative, top_k, top_k_per_target)
        for pair, block in graph.blocks.items()
    }
    return _keep(graph, kept, {**given, "strength": strength})


def _keep(graph: InteractionGraph, kept: dict[Pair, Tensor], rule: dict) -> InteractionGraph:
    """The graph with these edges only, and its groups and folds with the same ones."""
    blocks, errors = {}, {}
    for pair, block in graph.blocks.items():
        blocks[pair] = {name: kept_at(matrix, kept[pair]) for name, matrix in block.items()}
        errors[pair] = {
            name: kept_at(matrix, kept[pair])
            for name, matrix in graph.standard_errors.get(pair, {}).items()
        }
    return graph.replace(
        blocks=blocks,
        standard_errors=errors,
        metadata={**graph.metadata, "pruned": [*graph.metadata.get("pruned", []), rule]},
        groups={name: _keep(group, kept, rule) for name, group in graph.groups.items()},
        folds=tuple(_keep(fold, kept, rule) for fold in graph.folds),
    )


def _kept(
    weight: Tensor,
    threshold: float | None,
    relative: float | None,
    top_k: int | None,
    top_k_per_target: int | None,
) -> Tensor:
    """Which entries of the weights `[i, j]` pass every rule, as `kept_at` takes it."""
    size = values_of(weight).abs()
    kept = size > 0
    if threshold is not None:
        kept &= size >= threshold
    if relative is not None and size.numel():
        kept &= size >= relative * size.max()
    if top_k is not None and size.numel():
        kept &= _largest(size.flatten()[None], top_k).view_as(size)
    if not is_sparse(weight):
        if top_k_per_target is not None and size.numel():
            kept &= _largest(size, top_k_per_target)
        return kept
    rows, columns, values = nonzero(weight)
    if top_k_per_target is not None:
        order, rank = first_of_rows(rows, size)
        first = torch.zeros_like(kept)
        first[order] = rank < top_k_per_target
        kept &= first
    return sparse_matrix(rows[kept], columns[kept], values[kept], weight.shape)


def _largest(size: Tensor, k: int) -> Tensor:
    """Marks exactly the k largest entries of each row (ties broken by `topk`)."""
    mask = torch.zeros_like(size, dtype=torch.bool)
    return mask.scatter_(1, size.topk(min(int(k), size.shape[1]), dim=1).indices, True)
