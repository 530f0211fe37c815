"""The true edges between the residual axes of a compiled transformer.

The weights say which axes can be joined at all: through value and output matrices of a head,
through its scores (where the other side of the product is ever used, and whatever the head
writes), or through a hidden unit. Of these, an edge is true if there is proof of it: two states of
the residual stream that differ in the source axis alone, after which the target axis differs. In
these states, every axis is at zero or has, at all positions, the values of one of the inputs.
"""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise

import torch
from torch import Tensor

from .compiled_model import AttentionHalf, CompiledTransformer, MLPHalf

__all__ = ["true_edges"]

_TOLERANCE = 1e-4  # that an axis has to move: values of programs differ by far more
_SAMPLES = 64  # of a batch at a time
_PATIENCE = 60  # rounds without a new edge
_KEPT = (1.0, 0.9, 0.7, 0.5, 0.3, 0.1)  # shares of axes that are not zero, in turn


@torch.no_grad()
def true_edges(
    model: CompiledTransformer, data: list[Tensor], seed: int = 0
) -> dict[tuple[str, str], Tensor]:
    """The true edges between consecutive residual states, and nothing but these.

    Args:
        model: the network; computed in double precision.
        data: inputs, token numbers `[b, t]`.
        seed: of the states that are tried.

    Returns:
        (source, target) -> bool `[target axis, source axis]`; the diagonal is what the residual
        connection carries on.
    """
    model = deepcopy(model).double()
    residuals: dict[str, list[Tensor]] = {name: [] for name in model.residual_states}
    for batch in data:
        state = batch
        for name in residuals:
            state = model.get_submodule(name)(state)
            residuals[name].append(state)
    edges = {}
    for source, target in pairwise(residuals):
        half = model.get_submodule(target)
        assert isinstance(half, (AttentionHalf, MLPHalf))
        alive = torch.stack([x.flatten(0, 1).any(0) for x in residuals[source]]).any(0)
        possible = half.joins(alive) & alive
        possible |= torch.diag(alive)
        edges[source, target] = _proven(half, residuals[source], possible, seed)
    return edges


def _proven(
    half: AttentionHalf | MLPHalf, states: list[Tensor], possible: Tensor, seed: int
) -> Tensor:
    """Those of the possible edges `[i, j]` for which two states were found."""
    generator = torch.Generator().manual_seed(seed)
    proven, idle, number = torch.zeros_like(possible), 0, 0
    while idle < _PATIENCE and not torch.equal(proven, possible):
        batch = states[int(torch.randint(len(states), (), generator=generator))]
        n, _, d = batch.shape
        one, other = (
            batch[torch.randint(n, (min(n, _SAMPLES),), generator=generator)] for _ in range(2)
        )
        # Zero, this input's values, or those of another input of the same length.
        share = _KEPT[number % len(_KEPT)]
        kept = torch.rand(len(one), 1, d, generator=generator) < share
        mixed = torch.rand(len(one), 1, 1, generator=generator) < 0.5
        theirs = mixed & (torch.rand(len(one), 1, d, generator=generator) < 0.5)
        values = torch.where(theirs, other, one)
        context = torch.where(kept, values, 0.0)
        before = proven.clone()
        for j in (possible & ~proven).any(0).nonzero()[:, 0].tolist():
            ends = []
            for end in (0.0, values[..., j]):
                state = context.clone()
                state[..., j] = end
                ends.append(half(state))
            moved = ((ends[1] - ends[0]).abs() > _TOLERANCE).flatten(0, 1).any(0)
            proven[:, j] |= moved & possible[:, j]
        idle = 0 if not torch.equal(proven, before) else idle + 1
        number += 1
    return proven
