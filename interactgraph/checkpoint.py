"""Checkpoints: the sums and the position in the data, saved whole every so many seconds.

A state is a tree of dicts, lists, tensors and JSON values in one safetensors file. Sums are saved
as they are, half-filled buffers included, so that a resumed run adds the same numbers in the same
order as one that was never interrupted.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import InteractGraphError
from .files import replacing

__all__ = ["PLAIN", "Checkpoint", "fingerprint"]

_NAME = "interactions.checkpoint"
_TENSOR = "__tensor__"
_DEPTH = 8  # to which data are looked into
PLAIN = (bool, int, float, complex, str, bytes, type(None))


class Checkpoint:
    """Saves and restores the state of a run in a folder.

    Args:
        folder: where; made if it does not exist.
        recipe: what the run computes; a checkpoint of another recipe is refused.
        seconds: at least this long between two saves.
    """

    def __init__(self, folder: str | os.PathLike[str], recipe: Any, seconds: float) -> None:
        self.path = Path(folder) / _NAME
        self.recipe = json.loads(json.dumps(recipe))
        self.seconds = seconds
        self._last = time.monotonic()

    def load(self) -> Any | None:
        """The saved state, None if there is none.

        Raises:
            InteractGraphError: the checkpoint belongs to another run, or is damaged.
        """
        for leftover in self.path.parent.glob(f".{_NAME}.*.part"):
            leftover.unlink(missing_ok=True)  # of a run that was killed while it saved
        with replacing(
            self.path.with_suffix(".test")
        ) as temporary:  # cannot be written: say so now
            temporary.write_bytes(b"")
        self.path.with_suffix(".test").unlink()
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                header = json.loads((file.metadata() or {})["interactgraph-checkpoint"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
            raise InteractGraphError(
                f"{self.path} is no complete checkpoint ({error}); delete it to start again"
            ) from error
        for key in {**self.recipe, **header["recipe"]}:
            asked, saved = self.recipe.get(key), header["recipe"].get(key)
            if asked != saved:
                raise InteractGraphError(
                    f"the checkpoint in {self.path.parent} belongs to another run: its {key} is "
                    f"{saved!r}, now it is {asked!r}; use another folder or delete {self.path.name}"
                )
        return _unpack(header["state"], tensors)

    @property
    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self._last >= self.seconds

    def save(self, state: Any) -> None:
        """Saves a state, whole or not at all."""
        tensors: dict[str, Tensor] = {}
        header = {"recipe": self.recipe, "state": _pack(state, tensors)}
        with replacing(self.path) as temporary:
            metadata = {"interactgraph-checkpoint": json.dumps(header)}
            save_file(tensors, temporary, metadata=metadata)
        self._last = time.monotonic()

    def done(self) -> None:
        """Removes the checkpoint of a run that has ended well."""
        self.path.unlink(missing_ok=True)


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
    elif isinstance(value, PLAIN):
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


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        # A copy of its own: views of one tensor cannot be saved side by side.
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {_TENSOR: name}
    if isinstance(value, dict):
        return {str(key): _pack(part, tensors) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_pack(part, tensors) for part in value]
    return value


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if set(value) == {_TENSOR}:
            return tensors[value[_TENSOR]]
        return {key: _unpack(part, tensors) for key, part in value.items()}
    if isinstance(value, list):
        return [_unpack(part, tensors) for part in value]
    return value
