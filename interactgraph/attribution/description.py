"""What was given to a run, as JSON values that tell it from another run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import PLAIN, fingerprint
from ..features import FeatureMap

__all__ = ["description"]


def description(value: Any) -> Any:
    """JSON values that change when something given to a run does, as far as can be seen."""
    if isinstance(value, Tensor):
        return fingerprint(value)
    if isinstance(value, FeatureMap):
        config, tensors = value.state()
        return [description(config), fingerprint(tensors)]
    if isinstance(value, Mapping):
        return {str(key): description(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return hashlib.sha256(repr([description(part) for part in value]).encode()).hexdigest()[:16]
    if callable(value) and not isinstance(value, (type, torch.dtype)):
        # By name alone: what it does shows in the batches and activations, which are compared.
        return getattr(value, "__qualname__", type(value).__qualname__)
    return value if isinstance(value, PLAIN) else str(value)
