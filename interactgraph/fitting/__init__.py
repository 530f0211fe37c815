"""Fitting feature maps on their own, outside of a run."""

from .fit_features import fit_features
from .rotation_fit import RotationFit, fit_sparse_rotations
from .stream_rotation import StreamRotation, fit_stream_rotation

__all__ = [
    "RotationFit",
    "StreamRotation",
    "fit_features",
    "fit_sparse_rotations",
    "fit_stream_rotation",
]
