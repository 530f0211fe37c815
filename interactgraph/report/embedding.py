"""Data inside a page, so that nothing of them can become markup or script."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import numpy as np

__all__ = ["as_script_data", "packed", "plain"]

# In the JSON of a script element only these could end it or open a comment; JSON reads the
# escapes as the characters themselves.
_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})

_LARGEST = float(np.finfo(np.float32).max)
_KINDS = {"f4": "<f4", "u1": "u1", "u2": "<u2", "u4": "<u4", "i4": "<i4"}


def as_script_data(value: Any) -> str:
    """JSON in ASCII that may stand inside a `<script type="application/json">` element.

    `JSON.parse` of the element's text gives the value back, lone surrogates included.

    Args:
        value: dictionaries, lists, strings, finite numbers, booleans and None.

    Raises:
        ValueError: a number is not finite; `plain` turns those into None.
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.translate(_ESCAPES)


def packed(array: np.ndarray, kind: str) -> dict[str, str]:
    """An array as base64 of little-endian numbers, for a typed array of the page.

    Args:
        array: any shape; read row by row.
        kind: "f4", "u1", "u2", "u4" or "i4".
    """
    if kind == "f4":  # what is too large for it stays finite
        finite = np.isfinite(array)
        array = np.where(finite, np.clip(array, -_LARGEST, _LARGEST), array)
    data = np.ascontiguousarray(array).astype(_KINDS[kind]).tobytes()
    return {"kind": kind, "base64": base64.b64encode(data).decode("ascii")}


def plain(value: Any) -> Any:
    """What JSON can hold: numbers of numpy as Python's, None where a number is not finite."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
