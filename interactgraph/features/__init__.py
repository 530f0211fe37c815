"""Feature maps: activation <-> feature coordinates."""

from .feature_map import FeatureMap, from_state, guess_feature_dim
from .linear import Linear
from .neurons import Neurons

__all__ = ["FeatureMap", "Linear", "Neurons", "from_state", "guess_feature_dim"]
