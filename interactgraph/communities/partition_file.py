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
_OWN_FORM = ("membership", "confidence", "module_z_scores", "details")
_PLAIN = [f.name for f in fields(Partition) if f.name not in _OWN_FORM]


def save_partition(partition: Partition, path: str | os.PathLike[str]) -> None:
    """See `Partition.save`."""
    content = {
        "interactgraph_partition": _FORMAT,
        **{name: _to_json(getattr(partition, name)) for name in _PLAIN},
        "details": _to_json(dict(partition.details)),
        "confidence": {k: _to_json(v.tolist()) for k, v in partition.confidence.items()},
        "module_z_scores": _to_json(partition.module_z_scores.tolist()),
        "membership": {k: v.tolist() for k, v in partition.membership.items()},
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")


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
        return Partition(
            content["membership"],
            confidence={layer: _array(values) for layer, values in content["confidence"].items()},
            module_z_scores=_array(content.get("module_z_scores", [])),
            details=content["details"],
            **plain,
        )
    except FileNotFoundError:
        raise MissingFileError(f"there is no partition file {name}") from None
    except InteractGraphError:
        raise
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise FileError(
            f"{name} is not a complete partition ({error}); it may be truncated or written by "
            "another program"
        ) from error
