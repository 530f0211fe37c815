"""One graph over several parts of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..attribution.strengths import STRENGTHS
from ..errors import InteractGraphError
from ..graph import InteractionGraph
from ..sparse import is_sparse, lookup, nonzero, sparse_matrix, tidy

__all__ = ["mean_graph", "pooled_strengths"]


def mean_graph(folds: Sequence[InteractionGraph]) -> InteractionGraph:
    """The graph over all folds: means of strengths, root mean squares of `rms`, largest `max`.

    Folds count by their samples.

    Raises:
        InteractGraphError: the folds have different layers, features or strengths.
    """
    first = folds[0]
    for other in folds[1:]:
        same = (first.layers, first.pairs, first.n_features, first.strengths)
        if same != (other.layers, other.pairs, other.n_features, other.strengths):
            raise InteractGraphError(
                f"folds must be graphs of the same layers, features and strengths; got {first!r} "
                f"and {other!r}"
            )
    sizes = torch.tensor([float(fold.metadata.get("n_samples", 1)) for fold in folds])
    share = sizes / sizes.sum()
    blocks: dict[tuple[str, str], Mapping[str, Tensor]] = {}
    for pair in first.pairs:
        blocks[pair] = {
            name: pooled_strengths(name, [fold.blocks[pair][name] for fold in folds], share)
            for name in first.strengths
        }
    return first.replace(blocks=blocks, standard_errors={})


def pooled_strengths(name: str, parts: Sequence[Tensor], share: Tensor) -> Tensor:
    """A strength over several parts of the data, by its own rule; an unknown one as a mean.

    Args:
        name: of the strength.
        parts: its blocks, `[i, j]` each, dense or sparse.
        share: of the samples that each part has.
    """
    strength = STRENGTHS.get(name, STRENGTHS["mean"])
    if not any(map(is_sparse, parts)):
        values = torch.stack(list(parts))
        return strength.pooled(values, share.to(values)[:, None, None])
    places = torch.cat([torch.stack(nonzero(part)[:2]) for part in parts], 1).unique(dim=1)
    rows, columns = places[0], places[1]
    values = torch.stack([lookup(part, rows, columns) for part in parts])[:, None]
    found = strength.pooled(values, share.to(values)[:, None, None])[0]
    return tidy(sparse_matrix(rows, columns, found, parts[0].shape))
