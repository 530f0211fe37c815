"""Feature maps: activation <-> feature coordinates.

`fit_features` and `fit_sparse_rotations` are reached from here, too; they live in
`interactgraph.fitting`, because they run models.
"""

from importlib import import_module
from typing import Any

from .counterparts import Counterparts, counterparts
from .dictionary import Dictionary
from .feature_map import FeatureMap, from_state
from .fitting import FittingData
from .linear import Linear
from .local_interaction_basis import LocalInteractionBasis
from .names import NAMES, named_map
from .neurons import Neurons
from .pca import PCA
from .random_rotation import RandomRotation
from .sparse_rotation import SparseRotation

__all__ = [
    "NAMES",
    "PCA",
    "Counterparts",
    "Dictionary",
    "FeatureMap",
    "FittingData",
    "Linear",
    "LocalInteractionBasis",
    "Neurons",
    "RandomRotation",
    "SparseRotation",
    "counterparts",
    "from_state",
    "named_map",
]


def __getattr__(name: str) -> Any:
    if name in ("RotationFit", "fit_features", "fit_sparse_rotations"):
        return getattr(import_module("interactgraph.fitting"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
