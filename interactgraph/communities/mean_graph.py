"""One graph over several parts of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..attribution.strengths import STRENGTHS
from ..errors import InteractGraphError
from ..graph import InteractionGraph

__all__ = ["mean_graph"]


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
            name: _pooled(name, torch.stack([fold.blocks[pair][name] for fold in folds]), share)
            for name in first.strengths
        }
    return first.replace(blocks=blocks, standard_errors={})


def _pooled(name: str, values: Tensor, share: Tensor) -> Tensor:
    """By the strength's own rule; one that is not ours counts as a mean."""
    strength = STRENGTHS.get(name, STRENGTHS["mean"])
    return strength.pooled(values, share.to(values)[:, None, None])
