"""How strongly a source feature drives a target feature."""

from .engine import PairEngine
from .planner import ENGINES, Plan
from .problem import Entry, PairProblem, feature_entry, feature_segment, flatten_positions
from .sampling import SAMPLINGS
from .strengths import STRENGTHS, StrengthSums, check_strengths

__all__ = [
    "ENGINES",
    "SAMPLINGS",
    "STRENGTHS",
    "Entry",
    "PairEngine",
    "PairProblem",
    "Plan",
    "StrengthSums",
    "check_strengths",
    "feature_entry",
    "feature_segment",
    "flatten_positions",
]
