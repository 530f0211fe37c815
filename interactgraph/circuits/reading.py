"""Attribution graphs from files of circuit-tracer and Neuronpedia."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from ..errors import FileError, MissingFileError
from .attribution_graph import AttributionGraph, Builder, Edit
from .json_stream import JsonStream, MalformedError

__all__ = ["load_attribution_graph", "open_text"]


@contextmanager
def open_text(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """The text of a file, unpacked where it ends in .gz; line ends stay as they are.

    Raises:
        FileError: it is missing, cannot be read, or is no UTF-8.
    """
    path = Path(path)
    try:
        with contextlib.ExitStack() as stack:
            raw = stack.enter_context(path.open("rb"))
            binary = gzip.GzipFile(fileobj=raw) if path.suffix.lower() == ".gz" else raw
            yield stack.enter_context(io.TextIOWrapper(binary, encoding="utf-8", newline=""))
    except FileNotFoundError as error:
        raise MissingFileError(f"there is no file {path}") from error
    except UnicodeDecodeError as error:
        raise FileError(f"cannot read {path}: it is no text in UTF-8 ({error.reason})") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise FileError(f"cannot read {path}: {reason}") from error


def load_attribution_graph(path: str | os.PathLike[str]) -> AttributionGraph:
    """Reads an attribution graph, link by link: memory is needed for its links as numbers only.

    Args:
        path: a file of circuit-tracer or Neuronpedia; `.json`, or `.json.gz`.

    Raises:
        FileError: the file is missing, is no JSON, or no attribution graph.
    """
    builder = Builder(os.fspath(path))
    edit = None
    try:
        with open_text(path) as file:
            stream = JsonStream(file)
            if stream.peek() != "{":
                raise MalformedError("it does not begin with '{'")
            for key in stream.members():
                if key in ("nodes", "links"):
                    if stream.peek() != "[":
                        raise builder.wrong(f"{key!r} is no list")
                    builder.add_all(key, stream.items())
                elif key == "qParams" and stream.peek() == "{":
                    edit = _read_settings(stream, builder)
                else:
                    builder.set(key, stream.value())
            if stream.peek():
                raise MalformedError(f"something follows at character {stream.position}")
        status = os.stat(path)
    except MalformedError as error:
        raise FileError(f"{os.fspath(path)} is no JSON: {error}") from error
    except ValueError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"cannot read {os.fspath(path)!r}: {error}") from error
    if edit is not None:
        edit = edit._replace(size=status.st_size, changed=status.st_mtime_ns)
    return builder.graph(path, edit)


def _read_settings(stream: JsonStream, builder: Builder) -> Edit:
    """Reads `qParams` and says where more supernodes go."""
    start = stream.position + 1
    settings = {}
    edit = None
    for key in stream.members():
        begin = stream.position
        value = stream.value()
        if key in settings:
            raise builder.wrong(f"its 'qParams' has {key!r} twice")
        settings[key] = value
        if key == "supernodes" and value is None:
            edit = Edit(begin, stream.position, "[", "]")
        elif key == "supernodes":
            end = stream.position - 1  # of its closing bracket
            edit = Edit(end, end, ", " if value else "", "")
    builder.set("qParams", settings)
    return edit or Edit(start, start, '"supernodes": [', "], " if settings else "]")
