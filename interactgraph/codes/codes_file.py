"""Groups of samples as a JSON file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import FileError, MissingFileError
from ..files import replacing

__all__ = ["load_groups", "save_groups"]

_KEY, _FORMAT = "interactgraph_codes", 1


def save_groups(
    path: str | os.PathLike[str], groups: Sequence[str], about: Mapping[str, Any]
) -> None:
    """Writes one name for each sample, and what else is known.

    Args:
        path: of the file.
        groups: names, `[samples]`.
        about: JSON values, by name.
    """
    content = {_KEY: _FORMAT, **about, "groups": list(groups)}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")


def load_groups(path: str | os.PathLike[str]) -> list[str]:
    """The names that `save_groups` wrote.

    Raises:
        FileError: the file is missing, or holds something else.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingFileError(f"there is no file {os.fspath(path)}") from error
    except (OSError, ValueError) as error:
        raise FileError(f"cannot read {os.fspath(path)}: {error}") from error
    if not isinstance(content, dict) or content.get(_KEY) != _FORMAT:
        raise FileError(
            f"{os.fspath(path)} is no file that `interactgraph codes` of this version wrote"
        )
    return [str(name) for name in content["groups"]]
