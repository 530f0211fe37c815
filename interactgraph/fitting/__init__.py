"""Fitting feature maps on their own, outside of a run."""

from .autoencoder_fit import AutoencoderFit, fit_sparse_autoencoders
from .fit_features import fit_features
from .rotation_fit import RotationFit, fit_sparse_rotations
from .stream_rotation import StreamRotation, fit_stream_rotation

__all__ = [
    "AutoencoderFit",
    "RotationFit",
    "StreamRotation",
    "fit_features",
    "fit_sparse_autoencoders",
    "fit_sparse_rotations",
    "fit_stream_rotation",
]
