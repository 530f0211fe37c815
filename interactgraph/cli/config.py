"""`--config run.toml`: a file that holds any flag."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import takewhile
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
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", nargs="?")  # without a value the command's parser complains
    asked, rest = finder.parse_known_args(arguments)
    if asked.config is None or not rest:
        return list(arguments)
    command, *given = rest
    try:
        table = tomllib.loads(Path(asked.config).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InteractGraphError(f"cannot read --config {asked.config}: {error}") from error
    positional, flags = [], []
    for key, value in table.items():
        values = [_text(key, v) for v in (value if isinstance(value, list) else [value])]
        if key in ("model", "data", "graph", "output_file"):
            positional += values
        elif value is True:
            flags.append(f"--{key.replace('_', '-')}")
        elif value is not False:
            flags += [f"--{key.replace('_', '-')}", *values]
    # Positional arguments come first: a flag that takes several values would swallow them.
    first = list(takewhile(lambda argument: not argument.startswith("-"), given))
    return [command, *(first or positional), *flags, *given[len(first) :]]


def _text(key: str, value: Any) -> str:
    if isinstance(value, (str, int, float)):
        return str(value)
    raise InteractGraphError(f"--config: {key} holds {value!r}; use strings, numbers or lists")
