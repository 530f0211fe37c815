"""Checkpoints: the sums and the position in the data, saved whole every so many seconds.

A state is a tree of dicts, lists, tensors and JSON values in one safetensors file. Sums are saved
as they are, half-filled buffers included, so that a resumed run adds the same numbers in the same
order as one that was never interrupted.
"""

from __future__ import annotations

import copyreg
import dis
import functools
import hashlib
import inspect
import json
import os
import random
import time
from collections.abc import Mapping
from pathlib import Path
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .errors import InteractGraphError
from .features import FeatureMap
from .files import replacing

__all__ = ["Checkpoint", "description", "fingerprint"]

_NAME = "interactions.checkpoint"
_TENSOR = "__tensor__"


class Checkpoint:
    """Saves and restores the state of a run in a folder.

    Args:
        folder: where; made if it does not exist.
        recipe: what the run computes; a checkpoint of another recipe is refused.
        seconds: at least this long between two saves.
    """

    def __init__(self, folder: str | os.PathLike[str], recipe: Any, seconds: float) -> None:
        if not seconds >= 0:
            raise InteractGraphError(f"checkpoint_seconds={seconds!r}; it must not be negative")
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


def fingerprint(tensors: Mapping[str, Any]) -> str:
    """A short string that changes when a tensor does; what is no tensor counts by its type."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            digest.update(f"{name} {type(tensor).__qualname__}".encode())
            continue
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        if not tensor.is_meta:
            plain = tensor.detach().cpu()
            plain = plain.to_dense() if plain.layout != torch.strided else plain
            flat = plain.resolve_conj().resolve_neg().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()[:16]


def description(value: Any) -> Any:
    """JSON values that change when something given to a run does, as far as can be seen."""
    if isinstance(value, Tensor):
        return fingerprint({"": value})
    if isinstance(value, FeatureMap):
        config, tensors = value.state()
        return [description(config), fingerprint(tensors)]
    if isinstance(value, Mapping):
        return {str(key): description(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return hashlib.sha256(repr([description(part) for part in value]).encode()).hexdigest()[:16]
    if callable(value) and not isinstance(value, (type, torch.dtype)):
        name = getattr(value, "__qualname__", type(value).__qualname__)
        try:
            parts = _of_function(value, {})
        except RecursionError:
            parts = getattr(getattr(value, "__code__", None), "co_code", b"")
        return f"{name} {hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"
    return value if isinstance(value, _PLAIN) else str(value)


_PLAIN = (bool, int, float, complex, str, bytes, type(None))
# What changes without being changed by anybody, or differs between processes.
_PASSING = (torch.Generator, random.Random, np.random.Generator, type(os.environ))


def _of_function(value: Any, seen: dict[int, Any]) -> Any:
    """What a function does, as far as can be seen: its code and the values that it refers to.

    Other objects count by what pickling would keep of them; those that cannot be pickled, and
    classes, by their name.
    """
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, (Tensor, nn.Module)):
        tensors = {"": value} if isinstance(value, Tensor) else value.state_dict()
        try:
            found = fingerprint(tensors)
        except (RuntimeError, TypeError, NotImplementedError):  # nested, quantised, uninitialised
            found = _name_of(type(value))
        return found if isinstance(value, Tensor) else [repr(value), found]
    if isinstance(value, np.ndarray) and value.dtype != object:
        return [value.shape, str(value.dtype), hashlib.sha256(value.tobytes()).hexdigest()]
    if isinstance(value, (type, ModuleType)):
        return _name_of(value)
    if isinstance(value, _PASSING):
        return _name_of(type(value))
    if id(value) in seen:
        return "again"
    seen[id(value)] = value  # alive, so that nothing else gets its number

    def of(part: Any) -> Any:
        return _of_function(part, seen)

    if isinstance(value, (list, tuple)):
        return [of(part) for part in value]
    if isinstance(value, (set, frozenset)):
        return sorted(repr(of(part)) for part in value)
    if isinstance(value, Mapping):
        return [[of(key), of(part)] for key, part in value.items()]
    if isinstance(value, CodeType):
        return [value.co_code, of(value.co_consts), value.co_names]
    if isinstance(value, functools.partial):
        return [of(value.func), of(value.args), of(value.keywords)]
    if isinstance(value, MethodType):
        return [of(value.__func__), of(value.__self__)]
    if isinstance(value, FunctionType):
        cells = [_content(cell) for cell in value.__closure__ or ()]
        # Names that the code looks up: numbers, tensors and functions, not whole modules.
        used = [value.__globals__.get(name) for name in _names(value.__code__)]
        known = [part for part in used if not isinstance(part, (ModuleType, type))]
        parts = (value.__code__, value.__defaults__, value.__kwdefaults__, cells, known)
        return [of(part) for part in parts]
    if hasattr(value, "__wrapped__"):
        return of(value.__wrapped__)
    call = inspect.getattr_static(type(value), "__call__", None)
    own = [of(call)] if isinstance(call, FunctionType) else []
    return [_name_of(type(value)), *own, *(of(part) for part in _reduced(value))]


def _reduced(value: Any) -> list[Any]:
    """What pickling would keep of an object: arguments and state, or a name."""
    reduce = copyreg.dispatch_table.get(type(value))
    try:
        reduced = value.__reduce_ex__(4) if reduce is None else reduce(value)
    except Exception:  # whatever the object's own code raises: it counts by its type
        return []
    if isinstance(reduced, str):
        return [reduced]
    made, arguments, state, *items = (*reduced, None)[:5]
    return [_name_of(made), arguments, state, *(list(part) for part in items if part is not None)]


def _name_of(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value))}"


def _names(code: CodeType) -> list[str]:
    """Global names that code looks up, functions inside it included."""
    inner = (part for part in code.co_consts if isinstance(part, CodeType))
    own = [i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")]
    return [*own, *(name for part in inner for name in _names(part))]


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


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
