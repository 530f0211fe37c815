"""Fitting feature maps on their own, outside of a run."""

from .fit_features import fit_features
from .rotation_fit import RotationFit, fit_sparse_rotations

__all__ = ["RotationFit", "fit_features", "fit_sparse_rotations"]
