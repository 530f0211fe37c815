"""Spline codes: on which affine piece of a network each sample is, and clusters of such codes."""

from .clusters import ALGORITHMS, purity
from .codes import Codes
from .codes_file import load_groups, save_groups
from .directions import CodeDirections
from .gates import GATES
from .reading import spline_codes

__all__ = [
    "ALGORITHMS",
    "GATES",
    "CodeDirections",
    "Codes",
    "load_groups",
    "purity",
    "save_groups",
    "spline_codes",
]
