"""Short strings that tell whether a model, data or options are those of before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .features import FeatureMap

__all__ = ["description", "fingerprint"]

_DEPTH = 8  # to which data are looked into
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def fingerprint(value: Any) -> str:
    """A short string that changes when a tensor, array or plain value in some data does.

    Containers, mappings and attributes of objects are looked into; what hides its values from that
    counts by its type.
    """
    digest = hashlib.sha256()
    _digest(value, digest, 0)
    return digest.hexdigest()[:16]


def _digest(value: Any, digest: Any, depth: int) -> None:
    if isinstance(value, np.ndarray) and value.dtype != object:
        digest.update(f"{value.shape} {value.dtype}".encode())
        digest.update(np.ascontiguousarray(value).view(np.uint8).data if value.size else b"")
    elif isinstance(value, Tensor):
        digest.update(f"{tuple(value.shape)} {value.dtype}".encode())
        if not value.is_meta:
            plain = value.detach().cpu()
            plain = plain.to_dense() if plain.layout != torch.strided else plain
            flat = plain.resolve_conj().resolve_neg().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    elif isinstance(value, _PLAIN):
        digest.update(repr(value).encode())
    else:
        digest.update(type(value).__qualname__.encode())
        parts: Iterable[Any] = ()
        if isinstance(value, Mapping):
            parts = (part for item in value.items() for part in item)
        elif isinstance(value, (list, tuple)):
            parts = value
        elif hasattr(value, "__dict__"):
            parts = (part for item in vars(value).items() for part in item)
        for part in parts if depth < _DEPTH else ():
            _digest(part, digest, depth + 1)


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
    return value if isinstance(value, _PLAIN) else str(value)
