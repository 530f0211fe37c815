"""Directions in code space: features that cross layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import choice, whole
from ..errors import InputError
from ..features import Linear
from .clusters import scikit_learn

__all__ = ["CodeDirections", "directions_of"]


@dataclass(frozen=True, eq=False)
class CodeDirections:
    """Directions k in the codes of several layers: codes ~ sum_k loading_k direction_k + mean.

    Attributes:
        loadings: of each observation, `[n, k]`.
        rows: layer -> the part of each direction that lies in the layer, `[k, gates]`.
        means: layer -> what is added, `[gates]`; zero for NMF.
        explained: share of the codes' squares (PCA: of their variance) that all of them explain.
    """

    loadings: Tensor
    rows: Mapping[str, Tensor]
    means: Mapping[str, Tensor]
    explained: float

    def feature_maps(self) -> dict[str, Linear]:
        """Layer -> linear map that reads activations along the layer's part of each direction.

        Feature k of every layer belongs to the same direction, so that a graph in these features
        tells how a direction in one layer drives directions in the next. What the directions leave
        out of an activation is no feature; `interaction_graph` says how much that is.
        """
        return {layer: Linear(rows) for layer, rows in self.rows.items()}


def directions_of(
    x: Tensor, sizes: Mapping[str, int], n_directions: int, algorithm: str, seed: int
) -> CodeDirections:
    """Directions of codes, see `Codes.directions`.

    Args:
        x: codes of all layers side by side, `[n, gates]`.
        sizes: layer -> number of gates.
        n_directions: how many.
        algorithm: "nmf" or "pca".
        seed: of the algorithm.

    Raises:
        InteractGraphError: an option makes no sense, or scikit-learn is not installed.
    """
    choice("algorithm", algorithm, ("nmf", "pca"))
    if whole("n_directions", n_directions) > min(x.shape):
        raise InputError(
            f"n_directions={n_directions} is more than {min(x.shape)}, the smaller one of "
            f"{x.shape[0]} observations and {x.shape[1]} gates"
        )
    points, kinds = x.double().numpy(), scikit_learn().decomposition
    if algorithm == "pca":
        model = kinds.PCA(n_directions, svd_solver="full")
    else:
        model = kinds.NMF(n_directions, init="nndsvda", max_iter=500, random_state=seed)
    loadings = torch.from_numpy(model.fit_transform(points)).float()
    rows = torch.from_numpy(model.components_).float()
    mean = x.mean(0) if algorithm == "pca" else torch.zeros(x.shape[1])
    total, left = (x - mean).square().sum(), (x - mean - loadings @ rows).square().sum()
    parts = list(sizes.values())
    return CodeDirections(
        loadings=loadings,
        rows=dict(zip(sizes, rows.split(parts, 1), strict=True)),
        means=dict(zip(sizes, mean.split(parts), strict=True)),
        explained=float(1 - left / total) if total else 1.0,
    )
