"""A look at the first batch: what the model writes to, and how batches can be cut."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .batches import Batches, Cut
from .runner import Runner
from .sites import Site

__all__ = ["FirstLook", "look_first"]

_FEW = 16  # samples to plan and probe with


class FirstLook(NamedTuple):
    """What the first batch tells.

    Attributes:
        runner: told what a forward pass writes to.
        batch: a few samples, converted; the whole batch where it cannot be cut.
        cut: how batches of this kind can be cut.
    """

    runner: Runner
    batch: Any
    cut: Cut


def look_first(runner: Runner, data: Batches, sites: Sequence[Site]) -> FirstLook:
    """Runs the model on the first batch or a part of it. Never raises for what the model does.

    A batch that is a tensor, or starts with one that alone is passed to the model, is cut without
    a doubt. Any other way to cut is tried: the activations of the part must be those of the whole.

    Args:
        runner: the model, prepared.
        data: the batches.
        sites: where the activations are compared.
    """
    batch = runner.convert(data.first())
    cut = _sure_cut(batch) if runner.forward is None else None
    few = batch if cut is None else cut.take(batch, 0, _FEW)
    with torch.no_grad(), contextlib.suppress(Exception):  # a probe says better what is wrong
        if cut is not None:
            with contextlib.suppress(Exception):  # such as a model that wants its own batch size
                watching, n = runner.watching(_copied(few)), cut.n_samples(batch) or 0
                if 1 < n <= _FEW:
                    watching.activations(_copied(cut.take(batch, 0, n // 2)), sites)
                return FirstLook(watching, few, cut)
        runner = runner.watching(_copied(batch))
        if cut is None and (cut := _tried_cut(runner, batch, sites)).places:
            return FirstLook(runner, cut.take(batch, 0, _FEW), cut)
    return FirstLook(runner, batch, Cut())


def _sure_cut(batch: Any) -> Cut | None:
    """Where only the first tensor of a batch is passed to the model."""
    argument = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if not isinstance(argument, Tensor) or not argument.ndim:
        return None
    return Cut(tuple(
        place
        for place, leaf in enumerate(pytree.tree_leaves(batch))
        if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == len(argument)
    ))  # fmt: skip


def _tried_cut(runner: Runner, batch: Any, sites: Sequence[Site]) -> Cut:
    whole = runner.activations(batch, sites)
    n = min(len(activation) for activation in whole.values())
    leaves = pytree.tree_leaves(batch)
    cut = Cut(tuple(
        place
        for place, leaf in enumerate(leaves)
        if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == n
    ))  # fmt: skip
    stop = min(_FEW, n - 1)
    if stop < 1 or not cut.places:
        return Cut()
    part = runner.activations(cut.take(batch, 0, stop), sites)
    same = all(
        len(part[name]) == stop
        and torch.allclose(part[name], whole[name][:stop], rtol=1e-3, atol=1e-4)
        for name in whole
    )
    return cut if same else Cut()


def _copied(batch: Any) -> Any:
    return pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, batch)
