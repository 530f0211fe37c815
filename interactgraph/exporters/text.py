"""Text that a file format can hold: what it cannot is replaced by something visible."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

__all__ = ["csv_text", "distinct", "json_text", "xml_text"]

# UTF-8 has no lone surrogates; a Python string has them where undecodable bytes were read.
_SURROGATES = "\ud800-\udfff"

_NOT_XML = re.compile(f"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff{_SURROGATES}]")
_NOT_CSV = re.compile(f"[\x00{_SURROGATES}]")
_NOT_JSON = re.compile(f"[{_SURROGATES}]")


def _visible(match: re.Match[str]) -> str:
    """The control picture of a control character, the replacement character for the rest."""
    code = ord(match[0])
    return chr(0x2400 + code) if code < 0x20 else "\ufffd"


def xml_text(text: str) -> str:
    """Without the characters that XML 1.0 forbids even when they are escaped."""
    return _NOT_XML.sub(_visible, text)


def csv_text(text: str) -> str:
    """Without NUL, at which many readers of tables stop."""
    return _NOT_CSV.sub(_visible, text)


def json_text(text: str) -> str:
    """JSON escapes everything but lone surrogates."""
    return _NOT_JSON.sub(_visible, text)


def distinct(
    names: Iterable[str],
    clean: Callable[[str], str],
    taken: Iterable[str] = (),
    key: Callable[[str], str] = str,
) -> list[str]:
    """Cleaned names that still differ from each other and from those that are taken.

    Args:
        names: any text.
        clean: one of the functions above.
        taken: names that must not be used, as `key` gives them.
        key: what has to differ, such as `str.lower` where readers ignore case.
    """
    used = set(taken)
    result = []
    for name in map(clean, names):
        while key(name) in used:
            name += "_"
        used.add(key(name))
        result.append(name)
    return result
