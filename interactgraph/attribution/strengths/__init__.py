"""Strengths: what becomes of A over samples and target positions. One file for each.

This package imports no torch, so that the command line can name the strengths at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...errors import InputError
from .exceedance import Exceedance
from .maximum import Maximum
from .mean import Mean
from .mean_abs import MeanAbs
from .rms import RMS
from .strength import Strength

__all__ = ["STRENGTHS", "Strength", "check_strengths"]

STRENGTHS: dict[str, Strength] = {
    strength.name: strength for strength in (RMS(), MeanAbs(), Mean(), Maximum(), Exceedance())
}


def check_strengths(names: Sequence[str] | str) -> tuple[Strength, ...]:
    """The strengths of these names.

    Raises:
        InputError: an unknown or repeated name, or none.
    """
    if names is not None and not isinstance(names, (str, Iterable)):
        raise InputError(f"strengths={names!r}; give names of {', '.join(STRENGTHS)}")
    names = (names,) if isinstance(names, str) else tuple(names or ())
    unknown = [name for name in names if name not in STRENGTHS]
    if unknown or not names or len(set(names)) < len(names):
        raise InputError(
            f"strengths={list(names)}; choose one or more, each once, of {', '.join(STRENGTHS)}"
        )
    return tuple(STRENGTHS[name] for name in names)
