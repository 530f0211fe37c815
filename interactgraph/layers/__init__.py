"""Model, data and feature maps brought together: segments and problems of pairs of layers."""

from .baseline import Baseline, check_baseline, place
from .layers import EncodedBatch, Layers
from .problem import PairProblem
from .segment import ActivationSegment, FeatureSegment, flatten_positions

__all__ = [
    "ActivationSegment",
    "Baseline",
    "EncodedBatch",
    "FeatureSegment",
    "Layers",
    "PairProblem",
    "check_baseline",
    "flatten_positions",
    "place",
]
