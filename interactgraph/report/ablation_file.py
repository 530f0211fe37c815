"""What `interactgraph ablate -o` wrote, read for the report."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from ..errors import FileError, InteractGraphError, MissingFileError
from ..validation import ModuleEffect

__all__ = ["AblationCurve", "Curve", "read_ablation"]

Pair = tuple[str, str]


class Curve(Protocol):
    """What a chart shows of a pair: `EdgesRequired` has it, and what is read from a file."""

    @property
    def n_edges(self) -> int:
        """Fewest edges that keep the measure."""
        ...

    @property
    def intact(self) -> float:
        """Measure of the intact model."""
        ...

    @property
    def curve(self) -> Mapping[int, float]:
        """Edges kept -> measure."""
        ...


@dataclass(frozen=True)
class AblationCurve:
    """The curve of a pair, as it stands in a file; see `Curve`."""

    n_edges: int
    intact: float
    curve: Mapping[int, float]


def read_ablation(
    path: str | os.PathLike[str],
) -> tuple[dict[Pair, Curve], list[ModuleEffect]]:
    """Reads an `edge_ablation.json` or a `module_ablation.json`.

    Returns:
        Curves by pair of layers, and effects of modules; one of both is empty.

    Raises:
        FileError: the file is missing or is none.
    """
    name = os.fspath(path)
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if all("curve" in entry for entry in content):
            return {(entry["source"], entry["target"]): _curve(entry) for entry in content}, []
        return {}, [_effect(entry) for entry in content]
    except FileNotFoundError:
        raise MissingFileError(f"there is no file {name}") from None
    except InteractGraphError:
        raise
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise FileError(
            f"{name} is no result of an ablation ({error}); give the edge_ablation.json or "
            "module_ablation.json that `interactgraph ablate -o DIR` wrote"
        ) from error


def _curve(entry: Mapping[str, Any]) -> AblationCurve:
    points = {int(n): float(value) for n, value in entry["curve"]}
    return AblationCurve(int(entry["n_edges"]), float(entry["intact"]), points)


def _effect(entry: Mapping[str, Any]) -> ModuleEffect:
    named = {field.name: _with_nan(entry[field.name]) for field in fields(ModuleEffect)}
    effect = ModuleEffect(**named)
    str(effect)  # fails here if something of it is no number
    return effect


def _with_nan(value: Any) -> Any:
    """Null stands for what is not a number."""
    if isinstance(value, dict):
        return {key: _with_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_nan(item) for item in value]
    return math.nan if value is None else value
