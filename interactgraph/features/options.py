"""Checks of the options of feature maps."""

from __future__ import annotations

import numbers

from ..errors import InteractGraphError

__all__ = ["check_whole"]

_LEAST = {"restarts": 0}


def check_whole(who: str, **values: int | None) -> None:
    """Numbers that must be whole and at least 1 (restarts: 0); None is let through.

    Raises:
        InteractGraphError: one is not.
    """
    for name, value in values.items():
        least = _LEAST.get(name, 1)
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if value is not None and (not whole or value < least):
            raise InteractGraphError(
                f"{who}: {name}={value!r} must be a whole number of at least {least}"
            )
