"""Checks of options that many functions have."""

from __future__ import annotations

import sys
from collections.abc import Collection
from numbers import Real
from typing import Any

from .errors import InputError

__all__ = ["choice", "number", "positive", "whole", "whole_or_none"]


def whole(name: str, value: Any, least: int = 1) -> int:
    """The value as a whole number.

    Args:
        name: of the option, for the message.
        value: what was given; 5.0 is a whole number, "5" and True are none.
        least: smallest number allowed.

    Raises:
        InputError: it is none, or too small.
    """
    try:
        number = int(value)
        if isinstance(value, (str, bool)) or number != value or number < least:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name}={value!r} must be a whole number of at least {least}") from None
    return number


def number(name: str, value: Any) -> float:
    """The value as a finite number.

    Args:
        name: of the option, for the message.
        value: what was given; text and True are no numbers.

    Raises:
        InputError: it is none.
    """
    if not _is_number(value):
        raise InputError(f"{name}={value!r} must be a number")
    return float(value)


def positive(name: str, value: Any) -> float:
    """The value as a number above zero.

    Args:
        name: of the option, for the message.
        value: what was given; text and True are no numbers.

    Raises:
        InputError: it is none, or not finite, or not above zero.
    """
    if not (_is_number(value) and value > 0):
        raise InputError(f"{name}={value!r} must be a number above 0")
    return float(value)


def _is_number(value: Any) -> bool:
    real = isinstance(value, Real) and not isinstance(value, bool)
    return bool(real and abs(value) <= sys.float_info.max)


def whole_or_none(name: str, value: Any, least: int = 1) -> int | None:
    """As `whole`; None is let through."""
    return None if value is None else whole(name, value, least)


def choice(name: str, value: Any, choices: Collection[str]) -> Any:
    """The value, if it is one of the choices.

    Args:
        name: of the option, for the message.
        value: what was given.
        choices: what there is.

    Raises:
        InputError: it is none of them.
    """
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{name}={value!r} is unknown; choose one of {', '.join(choices)}")
    return value
