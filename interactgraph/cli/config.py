"""`--config run.toml`: a file that holds any flag."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InteractGraphError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["with_config"]


def with_config(arguments: Sequence[str]) -> list[str]:
    """The arguments with the flags of `--config FILE` put before those on the command line.

    Keys are flags without dashes in front, `model` and `data` the positional arguments; a list is
    several values, true a switch. What the command line says wins.

    Raises:
        InteractGraphError: the file cannot be read or holds something else.
    """
    arguments = list(arguments)
    place = next((n for n, a in enumerate(arguments) if a.split("=")[0] == "--config"), None)
    if place is None or not arguments or arguments[0].startswith("-"):
        return arguments
    if "=" in arguments[place]:
        path = arguments[place].split("=", 1)[1]
        rest = arguments[:place] + arguments[place + 1 :]
    elif place + 1 < len(arguments):
        path = arguments[place + 1]
        rest = arguments[:place] + arguments[place + 2 :]
    else:
        return arguments
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InteractGraphError(f"cannot read --config {path}: {error}") from error
    positional, flags = [], []
    for key, value in table.items():
        values = [_text(key, v) for v in (value if isinstance(value, list) else [value])]
        if key in ("model", "data", "graph", "output_file"):
            positional += values
        elif value is True:
            flags.append(f"--{key.replace('_', '-')}")
        elif value is not False:
            flags += [f"--{key.replace('_', '-')}", *values]
    command, given = rest[0], rest[1:]
    named = [] if given and not given[0].startswith("-") else positional
    return (
        [command, *named, *flags, *given]
        if named
        else [command, *_front(given), *flags, *_back(given)]
    )


def _front(given: list[str]) -> list[str]:
    """Positional arguments, which come first."""
    stop = next((n for n, a in enumerate(given) if a.startswith("-")), len(given))
    return given[:stop]


def _back(given: list[str]) -> list[str]:
    return given[len(_front(given)) :]


def _text(key: str, value: Any) -> str:
    if isinstance(value, (str, int, float)):
        return str(value)
    raise InteractGraphError(f"--config: {key} holds {value!r}; use strings, numbers or lists")
