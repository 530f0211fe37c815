"""Configurations and tensors in files of other packages, checked where they are used."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import FileError, MissingFileError

__all__ = ["StoredConfig", "StoredTensors"]


@dataclass(frozen=True)
class StoredConfig:
    """Values of a JSON file, whose types are checked where they are used.

    Attributes:
        path: of the file, and the section in it, for messages.
        values: as they are.
    """

    path: str
    values: Mapping[str, Any]

    @staticmethod
    def beside(file: Path, name: str) -> StoredConfig:
        """The configuration in the folder of a file of weights.

        Raises:
            FileError: it is not there, or no JSON table.
        """
        path = file.parent / name
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise MissingFileError(
                f"{file} needs its configuration, {name}, in the same folder"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise FileError(f"cannot read {path}: {error}") from error
        if not isinstance(values, dict):
            raise FileError(f"{path} holds a {type(values).__name__} and no table of options")
        return StoredConfig(str(path), values)

    def text(self, key: str, default: str) -> str:
        """A value that must be text where it is given."""
        return self._typed(key, default, str, "text")

    def flag(self, key: str, default: bool) -> bool:
        """A value that must be true or false where it is given."""
        return self._typed(key, default, bool, "true or false")

    def section(self, key: str) -> StoredConfig:
        """A table inside; an empty one where it is not given."""
        values: dict[str, Any] = self._typed(key, {}, dict, "a table of options")
        return StoredConfig(f"{self.path}: {key}", values)

    def hook(self) -> str | None:
        """Where the dictionary was trained, as sae_lens says it."""
        metadata = self.values.get("metadata")
        for values in (metadata if isinstance(metadata, dict) else {}, self.values):
            for key in ("hook_name", "hook_point"):
                if isinstance(values.get(key), str):
                    return str(values[key])
        return None

    def _typed(self, key: str, default: Any, kind: type, words: str) -> Any:
        value = self.values.get(key, default)
        if not isinstance(value, kind):
            raise FileError(f"{self.path}: {key}={value!r} must be {words}")
        return value


@dataclass(frozen=True)
class StoredTensors:
    """Tensors of a file, in single precision or better, whose shapes are checked on use.

    Attributes:
        path: of the file.
        values: tensors as they are stored.
    """

    path: Path
    values: Mapping[str, Tensor]

    @staticmethod
    def of(file: Path) -> StoredTensors:
        """Of a safetensors file."""
        try:
            return StoredTensors(file, load_file(file))
        except (OSError, ValueError, SafetensorError) as error:
            raise FileError(f"cannot read {file}: {error}") from error

    @staticmethod
    def of_arrays(file: Path) -> StoredTensors:
        """Of a NumPy archive."""
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return StoredTensors(file, {key: torch.as_tensor(arrays[key]) for key in arrays})
        except (OSError, ValueError, TypeError, AttributeError, EOFError, KeyError,
                zipfile.BadZipFile) as error:  # fmt: skip
            raise FileError(f"cannot read {file}: {error}") from error

    @staticmethod
    def of_pickle(file: Path, allow_pickle: bool) -> StoredTensors:
        """The state dict of a pickle; code of the file runs only where there is no other way."""
        if not allow_pickle:
            raise FileError(
                f"{file} is a pickle, which can run any code when it is read; where you trust it, "
                "give allow_pickle=True"
            )
        try:
            found = torch.load(file, map_location="cpu", weights_only=True)
        except Exception:  # a damaged file, or one that holds more than tensors
            try:
                found = torch.load(file, map_location="cpu", weights_only=False)
            except Exception as error:  # the file's own code may raise anything
                raise FileError(f"cannot read {file}: {type(error).__name__}: {error}") from error
        if isinstance(found, nn.Module):
            found = found.state_dict()
        if not isinstance(found, Mapping) or not all(isinstance(key, str) for key in found):
            raise FileError(f"{file} holds a {type(found).__name__} and no table of tensors")
        return StoredTensors(file, {k: v for k, v in found.items() if isinstance(v, Tensor)})

    def matrix(self, name: str, rows: int | None = None, columns: int | None = None) -> Tensor:
        """A matrix; None: of any number of rows or columns."""
        return self._shaped(name, (rows, columns))

    def vector(self, name: str, length: int) -> Tensor:
        """A vector."""
        return self._shaped(name, (length,))

    def number(self, name: str) -> Tensor:
        """A tensor without axes."""
        return self._shaped(name, ())

    def _shaped(self, name: str, shape: tuple[int | None, ...]) -> Tensor:
        if name not in self.values:
            raise FileError(f"{self.path} has no tensor {name!r}; it holds {sorted(self.values)}")
        tensor = self.values[name].detach()
        fits = tensor.ndim == len(shape) and all(
            wanted in (None, found) for wanted, found in zip(shape, tensor.shape, strict=True)
        )
        if not fits or not tensor.is_floating_point():
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise FileError(
                f"{self.path}: {name} is a {tensor.dtype} of shape {tuple(tensor.shape)}; it must "
                f"be of floating-point numbers and shape ({wanted})"
            )
        return tensor if tensor.dtype == torch.float64 else tensor.float()
