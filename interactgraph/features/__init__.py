"""Feature maps: activation <-> feature coordinates."""

from .counterparts import Counterparts, counterparts
from .dictionary import Dictionary
from .feature_map import FeatureMap, from_state
from .fitting import fit_feature_maps, fit_features
from .linear import Linear
from .local_interaction_basis import LocalInteractionBasis
from .names import NAMES, named_map
from .neurons import Neurons
from .pca import PCA
from .random_rotation import RandomRotation
from .rotation_fit import RotationFit, fit_sparse_rotations
from .sparse_rotation import SparseRotation

__all__ = [
    "NAMES",
    "PCA",
    "Counterparts",
    "Dictionary",
    "FeatureMap",
    "Linear",
    "LocalInteractionBasis",
    "Neurons",
    "RandomRotation",
    "RotationFit",
    "SparseRotation",
    "counterparts",
    "fit_feature_maps",
    "fit_features",
    "fit_sparse_rotations",
    "from_state",
    "named_map",
]
