"""Output paths are tried before the work, not after it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ..errors import InteractGraphError

__all__ = ["check_writable"]


def check_writable(path: str | os.PathLike[str]) -> None:
    """Fails now if a file could not be written there later; leaves nothing behind.

    Raises:
        InteractGraphError: says why.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder")
        folder = path.parent
        while not folder.exists():
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InteractGraphError(
            f"cannot write {path}: {error.strerror or error}; choose another output path"
        ) from error
