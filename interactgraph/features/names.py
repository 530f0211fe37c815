"""Feature maps by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from ..errors import InputError
from .feature_map import FeatureMap
from .heads import Heads
from .local_interaction_basis import LocalInteractionBasis
from .neurons import Neurons
from .pca import PCA
from .random_rotation import RandomRotation
from .sparse_autoencoder import SparseAutoencoder
from .sparse_rotation import SparseRotation

__all__ = ["NAMES", "named_map"]

NAMES: dict[str, Callable[[], FeatureMap]] = {
    "neurons": Neurons,
    "pca": PCA,
    "local_interaction_basis": LocalInteractionBasis,
    "lib": LocalInteractionBasis,
    "random_rotation": RandomRotation,
    "sparse_rotation": SparseRotation,
    "sparse_autoencoder": SparseAutoencoder,
    "heads": Heads,
}


def named_map(entry: Any, layer: str) -> FeatureMap:
    """The feature map of that name with its default options, or the map itself.

    Raises:
        InputError: it is neither.
    """
    if isinstance(entry, FeatureMap):
        return entry
    if isinstance(entry, str) and entry in NAMES:
        return NAMES[entry]()
    close = difflib.get_close_matches(entry, NAMES, n=1) if isinstance(entry, str) else []
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise InputError(
        f"features of layer {layer!r} are {entry!r}{hint}; give a FeatureMap of "
        f"interactgraph.features, or one of {', '.join(NAMES)}"
    )
