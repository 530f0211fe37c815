"""Backbones: the edges worth keeping before clustering or drawing a large graph."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import InteractGraphError
from ..graph import InteractionGraph
from ..sparse import first_of_rows, is_sparse, kept_at, lookup, nonzero, sparse_matrix

__all__ = ["backbone"]

METHODS = ("disparity", "per_target", "standard_error")


def backbone(
    graph: InteractionGraph,
    method: str = "disparity",
    *,
    keep: float = 0.3,
    errors: float = 2.0,
    strength: str | None = None,
) -> InteractionGraph:
    """The graph with the edges that stand out; the others have all their strengths set to zero.

    Cutting edges costs recovery on dense graphs; `find_modules` needs no backbone.

    Args:
        graph: the graph.
        method: "disparity": edges that are large among those of either of their ends (Serrano,
            Boguna & Vespignani, PNAS 106, 6483, 2009); "per_target": the largest ones into each
            target feature; "standard_error": those larger than `errors` standard errors.
        keep: share of the edges that is kept, of each pair ("disparity") or into each target
            feature ("per_target"), at least one.
        errors: number of standard errors ("standard_error").
        strength: the strength that decides; None: the graph's first.

    Raises:
        InteractGraphError: a method that is not known, a share outside (0, 1], or no standard
            errors in the graph.
    """
    if method not in METHODS:
        raise InteractGraphError(f"method {method!r} is not known; choose {', '.join(METHODS)}")
    if not 0 < keep <= 1:
        raise InteractGraphError(f"keep={keep!r} must be a share of edges, above 0 and at most 1")
    if not errors >= 0:
        raise InteractGraphError(f"errors={errors!r} must be a number that is not negative")
    strength = graph.check_strength(strength)
    blocks, standard_errors = {}, {}
    for pair, block in graph.blocks.items():
        if is_sparse(block[strength]):
            errors_of = graph.standard_errors.get(pair, {})
            if method == "standard_error":
                graph.standard_error(*pair, strength)
            kept = _kept_entries(
                block[strength], errors_of.get(strength), method, keep=keep, errors=errors
            )
            blocks[pair] = {name: kept_at(matrix, kept) for name, matrix in block.items()}
            standard_errors[pair] = {n: kept_at(matrix, kept) for n, matrix in errors_of.items()}
            continue
        size = block[strength].abs()
        if method == "standard_error":
            kept = size > errors * graph.standard_error(*pair, strength)
        elif method == "disparity":
            score = torch.where(size > 0, -disparity(size), -math.inf)
            kept = _first(score.view(1, -1), keep).view_as(size)
        else:
            kept = _first(torch.where(size > 0, size, -math.inf), keep)
        kept &= size > 0
        blocks[pair] = {name: matrix * kept for name, matrix in block.items()}
        standard_errors[pair] = {
            name: matrix.where(kept, 0)
            for name, matrix in graph.standard_errors.get(pair, {}).items()
        }
    recipe = {"method": method, "keep": keep, "errors": errors, "strength": strength}
    metadata = {**graph.metadata, "backbone": recipe}
    return graph.replace(
        blocks=blocks, standard_errors=standard_errors, metadata=metadata, groups={}, folds=()
    )


def disparity(size: Tensor) -> Tensor:
    """Logarithm of the chance that an edge is so large among its end's, better end, `[i, j]`.

    (1 - w / s)^(k - 1) for an end with k edges of total s, if its strength were broken at random.
    """
    size = size.to(torch.float64)
    logs = []
    for dim in (0, 1):
        degree = (size > 0).sum(dim, keepdim=True)
        share = size / size.sum(dim, keepdim=True).clamp_min(torch.finfo(size.dtype).tiny)
        logs.append(torch.where(degree > 1, (degree - 1) * torch.log1p(-share.clamp_max(1)), 0))
    return torch.minimum(*logs)


def _first(score: Tensor, keep: float) -> Tensor:
    """Marks the share of each row's edges with the largest scores; -inf is no edge."""
    k = (keep * (score > -math.inf).sum(1, keepdim=True)).round().clamp_min(1)
    rank = score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return rank < k


def _kept_entries(
    weight: Tensor, error: Tensor | None, method: str, *, keep: float, errors: float
) -> Tensor:
    """Of sparse weights those that `backbone` keeps."""
    rows, columns, values = nonzero(weight)
    size = values.abs().double()
    if method == "standard_error":
        assert error is not None
        inside = size > errors * lookup(error, rows, columns)
    elif method == "disparity":
        logs = []
        for ends, n in ((columns, weight.shape[1]), (rows, weight.shape[0])):
            degree = torch.bincount(ends, minlength=n)[ends]
            share = size / size.new_zeros(n).index_add_(0, ends, size)[ends]
            logs.append(torch.where(degree > 1, (degree - 1) * torch.log1p(-share.clamp_max(1)), 0))
        inside = _first(-torch.minimum(*logs)[None], keep)[0]
    else:
        order, rank = first_of_rows(rows, size)
        degree = torch.bincount(rows, minlength=weight.shape[0])
        k = (keep * degree).round().clamp_min(1)
        inside = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        inside[order] = rank < k[rows[order]]
    return sparse_matrix(rows[inside], columns[inside], values[inside], weight.shape)
