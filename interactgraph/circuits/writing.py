"""Supernodes into a copy of the file that they were found in; nothing else is touched."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ..errors import FileError
from ..exporters.markup import text_file
from .attribution_graph import AttributionGraph
from .reading import open_text

if TYPE_CHECKING:
    from .suggest import Supernode

__all__ = ["save_supernodes"]

_CHUNK = 1 << 20  # characters


def save_supernodes(
    graph: AttributionGraph, groups: Sequence[Supernode], path: str | os.PathLike[str]
) -> None:
    """Copies the graph's file and adds groups to `qParams.supernodes`, after those it has.

    Every other character of the file stays as it is.

    Args:
        graph: as `load_attribution_graph` read it.
        groups: what `supernodes` returned for it.
        path: the file to write, which may be the same; `.gz` compresses it.

    Raises:
        FileError: the graph comes from no file, the file has changed since, or cannot be written.
    """
    if graph.path is None or graph.edit is None:
        raise FileError(
            "the graph was not read from a file, so there is none to copy; add "
            "[[g.label, *g.ids] for g in groups] to its qParams['supernodes'] yourself"
        )
    edit = graph.edit
    with open_text(graph.path) as source:
        status = os.stat(graph.path)
        if (status.st_size, status.st_mtime_ns) != (edit.size, edit.changed):
            raise FileError(f"{os.fspath(graph.path)} has changed since it was read; read it again")
        with text_file(Path(path)) as target:
            if groups:
                _copy(source, target, edit.start)
                entries = ", ".join(json.dumps([group.label, *group.ids]) for group in groups)
                target.write(f"{edit.before}{entries}{edit.after}")
                source.read(edit.end - edit.start)
            _copy(source, target)


def _copy(source: TextIO, target: TextIO, length: int | None = None) -> None:
    """Copies so many characters, or the rest."""
    while length is None or length > 0:
        text = source.read(_CHUNK if length is None else min(_CHUNK, length))
        if not text:
            return
        target.write(text)
        if length is not None:
            length -= len(text)
