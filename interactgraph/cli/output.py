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
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InteractGraphError(
            f"cannot write {str(path)!r}: {reason}; choose another output path"
        ) from error
