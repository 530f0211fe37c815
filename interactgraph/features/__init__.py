"""Feature maps: activation <-> feature coordinates."""

from .counterparts import Counterparts, counterparts, mean_max_cosine
from .dictionary import Dictionary
from .drivers import Driver, Drivers
from .examples import Example, Examples
from .feature_map import FeatureMap, FittingData, from_state
from .heads import Heads
from .linear import Linear
from .local_interaction_basis import LocalInteractionBasis
from .names import NAMES, named_map
from .neurons import Neurons
from .pca import PCA
from .random_rotation import RandomRotation
from .sparse_autoencoder import SparseAutoencoder
from .sparse_rotation import SparseRotation
from .top_features import TopFeatures
from .transcoder import Transcoder

__all__ = [
    "NAMES",
    "PCA",
    "Counterparts",
    "Dictionary",
    "Driver",
    "Drivers",
    "Example",
    "Examples",
    "FeatureMap",
    "FittingData",
    "Heads",
    "Linear",
    "LocalInteractionBasis",
    "Neurons",
    "RandomRotation",
    "SparseAutoencoder",
    "SparseRotation",
    "TopFeatures",
    "Transcoder",
    "counterparts",
    "from_state",
    "mean_max_cosine",
    "named_map",
]
