"""The baseline: what stands for "this layer says nothing".

"zero" is every feature at zero: the zero activation for neurons, the offset of a centred basis, no
code and no error of a dictionary. "mean" and tensors are activations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError

__all__ = ["Baseline", "check_baseline", "place"]

Baseline = str | Tensor | Mapping[str, "str | Tensor"]


def check_baseline(baseline: Any, sources: Sequence[str]) -> dict[str, str | Tensor]:
    """One entry, "zero", "mean" or a tensor, for each source layer.

    Raises:
        InputError: something else, or a layer that is no source.
    """
    if isinstance(baseline, Mapping):
        unknown = [layer for layer in baseline if layer not in sources]
        if unknown:
            raise InputError(
                f"baseline names {unknown}, which are no source layers; those are {list(sources)}"
            )
        entries = {layer: baseline.get(layer, "zero") for layer in sources}
    else:
        entries = dict.fromkeys(sources, baseline)
    for layer, entry in entries.items():
        if not (isinstance(entry, Tensor) or entry in ("zero", "mean")):
            raise InputError(
                f"baseline {entry!r} of layer {layer!r} is unknown; use 'zero', 'mean' or a tensor "
                "in activation space"
            )
    return entries


def place(entry: Tensor, activation: Tensor, feature_dim: int, layer: str) -> Tensor:
    """The baseline as one activation, `[1, ...]`.

    Args:
        entry: a vector over the feature axis, or a tensor that broadcasts to one sample.
        activation: an activation of the layer, `[b, ...]`.
        feature_dim: its feature axis.
        layer: its name.

    Raises:
        InputError: the tensor does not fit.
    """
    value = entry.to(activation)
    shape = activation.shape[1:]
    if not torch.isfinite(value).all():
        raise InputError(f"the baseline of layer {layer!r} is not finite")
    if value.ndim == 1 and value.shape[0] == activation.shape[feature_dim]:
        value = value.view([-1 if axis == feature_dim else 1 for axis in range(1, activation.ndim)])
    try:
        return value.expand(shape)[None]
    except RuntimeError:
        try:
            return value.expand(1, *shape)
        except RuntimeError:
            raise InputError(
                f"the baseline of layer {layer!r} has shape {tuple(entry.shape)}; it must be a "
                f"vector of {activation.shape[feature_dim]} features or broadcast to one "
                f"activation, {tuple(shape)}"
            ) from None
