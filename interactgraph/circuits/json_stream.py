"""JSON read value by value from a file that does not fit into memory, with positions in its text.

The values themselves are parsed by the standard library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn, TextIO

__all__ = ["JsonStream", "MalformedError"]

_CHUNK = 1 << 20  # characters
_LONGEST = 1 << 28  # characters of one value that is read as a whole
_SPACE = re.compile(r"[ \t\n\r]*")


class MalformedError(ValueError):
    """The text is no JSON; the message says what and where."""


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


class JsonStream:
    """Walks through a JSON text; whoever asks for a member or an item must read its value."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._text = ""
        self._at = 0  # in `_text`
        self._before = 0  # characters that were read and dropped
        self._ended = False
        self._decode = json.JSONDecoder(parse_constant=_refuse).raw_decode

    @property
    def position(self) -> int:
        """Characters before the next one."""
        return self._before + self._at

    def _wrong(self, what: str) -> MalformedError:
        return MalformedError(f"{what} at character {self.position}")

    def _more(self) -> None:
        """Reads on; twice as much as is waiting, so that long values take few attempts."""
        self._before += self._at
        self._text = self._text[self._at :]
        self._at = 0
        new = self._file.read(max(_CHUNK, len(self._text)))
        self._ended = not new
        self._text += new

    def peek(self) -> str:
        """The next character that is no space, "" at the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            assert match is not None  # it matches nothing, too
            self._at = match.end()
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._more()

    def take(self, characters: str) -> str:
        """The next character, which must be one of these."""
        found = self.peek()
        if not found or found not in characters:
            wanted = " or ".join(repr(c) for c in characters)
            raise self._wrong(f"{found!r} where {wanted} should be" if found else "it ends early")
        self._at += 1
        return found

    def value(self) -> Any:
        """The next value as a whole."""
        if not self.peek():
            raise self._wrong("it ends early")
        while True:
            try:
                value, end = self._decode(self._text, self._at)
                # A number may go on in what has not been read yet: 1 in 1.5, or in 1e+5.
                if end + 2 < len(self._text) or self._ended:
                    self._at = end
                    return value
            except RecursionError:
                raise self._wrong("a value too deep to read") from None
            except ValueError as error:
                if self._ended or len(self._text) - self._at > _LONGEST:
                    what = error.msg if isinstance(error, json.JSONDecodeError) else error
                    raise self._wrong(f"{what} in the value") from None
            self._more()

    def members(self) -> Iterator[str]:
        """Keys of the object that comes next."""
        self.take("{")
        if self.peek() == "}":
            self.take("}")
            return
        while True:
            if self.peek() != '"':
                self.take('"')
            key = self.value()
            self.take(":")
            self.peek()
            yield key
            if self.take(",}") == "}":
                return

    def items(self) -> Iterator[Any]:
        """Values of the array that comes next."""
        self.take("[")
        if self.peek() == "]":
            self.take("]")
            return
        while True:
            yield self.value()
            if self.take(",]") == "]":
                return
