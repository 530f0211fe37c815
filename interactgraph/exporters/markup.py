"""Writing text fast: values become text in whole columns, columns become rows."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO
from xml.sax.saxutils import escape

import numpy as np

from ..files import replacing

__all__ = ["constant", "escaped", "fragments", "opened", "rows", "text_file"]

# Line breaks and tabs in attributes are read back as spaces unless they are escaped; some readers
# take the last two for line breaks too, as XML 1.1 does.
_ENTITIES = {
    '"': "&quot;",
    "\n": "&#10;",
    "\r": "&#13;",
    "\t": "&#9;",
    "\x85": "&#133;",
    "\u2028": "&#8232;",
}
_LEVEL = 6  # of compression: 9 takes three times as long for files 2 % smaller


def escaped(text: str) -> str:
    """Text for the inside of an element or of an attribute in double quotes."""
    return escape(text, _ENTITIES)


def fragments(before: str, values: np.ndarray, after: str) -> list[str]:
    """Each number between two pieces of text, exact to the last digit; nothing for NaN."""
    return [f"{before}{v!r}{after}" if v == v else "" for v in values.tolist()]


def constant(text: str, length: int) -> list[str]:
    """The same text in each row."""
    return [text] * length


def rows(columns: Iterable[list[str]]) -> Iterator[str]:
    """Puts columns of text side by side."""
    return map("".join, zip(*columns, strict=True))


@contextmanager
def text_file(path: Path) -> Iterator[TextIO]:
    """A file for UTF-8 text that appears whole or not at all, compressed where it ends in .gz."""
    with (
        replacing(path) as temporary,
        opened(temporary, path.suffix.lower() == ".gz") as file,
    ):
        yield file


@contextmanager
def opened(path: Path, packed: bool) -> Iterator[TextIO]:
    """A file for UTF-8 text, compressed or not; the same text gives the same bytes."""
    with ExitStack() as stack:
        raw: Any = stack.enter_context(path.open("wb"))
        if packed:
            raw = stack.enter_context(gzip.GzipFile("", "wb", _LEVEL, fileobj=raw, mtime=0))
        yield stack.enter_context(io.TextIOWrapper(raw, encoding="utf-8", newline="\n"))
