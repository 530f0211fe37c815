"""Which axis of an activation holds the features: what the modules around it say."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

__all__ = ["FeatureAxis", "ModuleCall", "feature_axes", "watched_modules"]

_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)
_LAST = (nn.Linear, nn.Embedding, nn.RNNBase, nn.MultiheadAttention, nn.RMSNorm)


@dataclass(frozen=True)
class FeatureAxis:
    """The axis of an activation that holds its features.

    Attributes:
        axis: its number.
        sure: whether a module that the activation enters or leaves, or one that passes it on
            entry by entry, says so; else it is a guess from the shape.
    """

    axis: int
    sure: bool


@dataclass(frozen=True, eq=False)
class ModuleCall:
    """What entered and left a module, its real tensors."""

    module: nn.Module
    given: tuple[Tensor, ...]
    result: tuple[Tensor, ...]


@contextlib.contextmanager
def watched_modules(model: nn.Module) -> Iterator[list[ModuleCall]]:
    """Collects what enters and leaves every module while the model runs."""
    calls: list[ModuleCall] = []

    def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        calls.append(ModuleCall(module, _real((args, kwargs)), _real(output)))

    with contextlib.ExitStack() as stack:
        for module in model.modules():
            handle = module.register_forward_hook(note, with_kwargs=True)
            stack.callback(handle.remove)
        yield calls


def feature_axes(
    calls: list[ModuleCall], activations: Mapping[str, Tensor]
) -> dict[str, FeatureAxis]:
    """The feature axis of each activation of a pass in which `calls` were collected."""
    axis_of: dict[int, int] = {}
    for call in calls:
        axis = _axis_of(call.module)
        if axis is not None:
            for tensor in (*call.given[:1], *call.result[:1]):
                if tensor.ndim >= 2:
                    axis_of.setdefault(id(tensor), axis % tensor.ndim)
    # Modules that keep the shape, such as activation functions, keep the axis.
    keeping = [
        (call.given[0], call.result[0])
        for call in calls
        if call.given and call.result and call.given[0].shape == call.result[0].shape
    ]
    for given, result in keeping:
        if id(given) in axis_of:
            axis_of.setdefault(id(result), axis_of[id(given)])
    for given, result in reversed(keeping):
        if id(result) in axis_of:
            axis_of.setdefault(id(given), axis_of[id(result)])
    known: dict[int, set[int]] = {}
    for call in calls:
        axis = _axis_of(call.module)
        for tensor in (*call.given[:1], *call.result[:1]):
            if axis is not None and tensor.ndim >= 2:
                known.setdefault(tensor.ndim, set()).add(axis % tensor.ndim)
    return {
        name: FeatureAxis(axis_of[id(value)], sure=True)
        if id(value) in axis_of
        else _guess(value.ndim, known.get(value.ndim, set()))
        for name, value in activations.items()
    }


def _axis_of(module: nn.Module) -> int | None:
    if isinstance(module, _CHANNELS_FIRST):
        return 1
    if isinstance(module, nn.LayerNorm):
        return -1 if len(module.normalized_shape) == 1 else None
    return -1 if isinstance(module, _LAST) else None


def _guess(ndim: int, known: set[int]) -> FeatureAxis:
    """As in the rest of the model; else channels of images, and the last axis otherwise."""
    if len(known) == 1:
        return FeatureAxis(next(iter(known)), sure=True)
    return FeatureAxis(1 if ndim >= 4 else ndim - 1, sure=ndim <= 2)


def _real(value: Any) -> tuple[Tensor, ...]:
    leaves = pytree.tree_leaves(value)
    return tuple(x for x in leaves if isinstance(x, Tensor) and torch.is_floating_point(x))
