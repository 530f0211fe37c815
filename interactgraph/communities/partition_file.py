"""A partition as a JSON file."""

from __future__ import annotations

import json
import math
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FileError, InteractGraphError, MissingFileError
from ..files import replacing
from .partition import Partition

__all__ = ["load_partition", "save_partition"]

_FORMAT = 1
_DECIMALS = 6
_OWN_FORM = (
    "membership", "confidence", "module_z_scores", "details", "affinity", "affinity_interval",
)  # fmt: skip
_PLAIN = [f.name for f in fields(Partition) if f.name not in _OWN_FORM]


def save_partition(partition: Partition, path: str | os.PathLike[str]) -> None:
    """See `Partition.save`."""
    content = {
        "interactgraph_partition": _FORMAT,
        **{name: _to_json(getattr(partition, name)) for name in _PLAIN},
        "details": _to_json(dict(partition.details)),
        "affinity": {layer: _packed(partition, layer) for layer in partition.affinity},
        "confidence": {k: _to_json(v.tolist()) for k, v in partition.confidence.items()},
        "module_z_scores": _to_json(partition.module_z_scores.tolist()),
        "membership": {k: v.tolist() for k, v in partition.membership.items()},
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")


def _packed(partition: Partition, layer: str) -> dict[str, list[Any]]:
    """Affinities of a layer, without those that are zero, to six decimals."""
    columns = {"share": partition.affinity[layer].round(_DECIMALS)}
    if layer in partition.affinity_interval:
        low, high = np.moveaxis(partition.affinity_interval[layer].round(_DECIMALS), -1, 0)
        columns |= {"low": low, "high": high}
    feature, module = np.nonzero(np.maximum.reduce(list(columns.values())))
    return {
        "feature": feature.tolist(),
        "module": module.tolist(),
        **{name: values[feature, module].tolist() for name, values in columns.items()},
    }


def _unpacked(stored: Any, membership: Any, n_modules: int) -> tuple[dict[str, Any], ...]:
    """Affinities and their intervals, layer -> `[features, modules]` and `[features, modules, 2]`.

    Raises:
        ValueError: a feature or module that the membership does not have.
    """
    affinity: dict[str, np.ndarray] = {}
    interval: dict[str, np.ndarray] = {}
    for layer, columns in stored.items():
        shape = (len(membership[layer]), n_modules)
        where = np.array(columns["feature"], np.int64), np.array(columns["module"], np.int64)
        if any((k < 0).any() or (k >= n).any() for k, n in zip(where, shape, strict=True)):
            raise ValueError(f"affinity of layer {layer!r} names features or modules out of range")
        found = {}
        for name in ("share", "low", "high"):
            if name in columns:
                found[name] = np.zeros(shape)
                found[name][where] = np.array(columns[name], np.float64)
        affinity[layer] = found["share"]
        if "low" in found:
            interval[layer] = np.stack([found["low"], found["high"]], 2)
    return affinity, interval


def _to_json(value: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    return value


def _array(values: list[float | None]) -> np.ndarray:
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def load_partition(path: str | os.PathLike[str]) -> Partition:
    """Reads a partition that `Partition.save` wrote.

    Raises:
        FileError: the file is missing, truncated, or not a partition.
    """
    name = os.fspath(path)
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        version = content.pop("interactgraph_partition", None)
        if version is None:
            raise FileError(
                f"{name} is not a partition; give a file that partition.save or "
                "`interactgraph modules` wrote"
            )
        if version > _FORMAT:
            raise FileError(
                f"the partition file has format {version}, this version reads up to {_FORMAT}; "
                "install a newer interactgraph"
            )
        plain: dict[str, Any] = {n: math.nan if content[n] is None else content[n] for n in _PLAIN}
        confidence = {layer: _array(values) for layer, values in content["confidence"].items()}
        membership = content["membership"]
        numbers = [module for modules in membership.values() for module in modules]
        affinity, interval = _unpacked(
            content.get("affinity", {}), membership, int(max(numbers, default=-1)) + 1
        )
        return Partition(
            membership, confidence=confidence, affinity=affinity, affinity_interval=interval,
            module_z_scores=_array(content.get("module_z_scores", [])), details=content["details"],
            **plain,
        )  # fmt: skip
    except FileNotFoundError:
        raise MissingFileError(f"there is no partition file {name}") from None
    except InteractGraphError:
        raise
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise FileError(
            f"{name} is not a complete partition ({error}); it may be truncated or written by "
            "another program"
        ) from error
