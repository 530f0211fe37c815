"""Sparse rotation: orthogonal maps that make the Jacobians between adjacent layers sparse."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from ..checks import positive, whole, whole_or_none
from ..errors import InteractGraphError
from .linear import Linear, LinearMap
from .local_interaction_basis import LocalInteractionBasis
from .moments import moments_of
from .pca import PCA
from .rotation_learning import learn
from .sparsity import check_sparsity

if TYPE_CHECKING:
    from .fitting import FittingData

__all__ = ["SparseRotation"]

INITS = ("identity", "pca", "svd", "random")
BASES = ("neurons", "pca", "lib")
PARAMETRISATIONS = ("matrix_exp", "cayley", "householder")


@dataclass(frozen=True, eq=False)
class SparseRotation(LinearMap):
    """z = R B (f - m): an orthogonal R on a base B that makes connections sparse.

    Attributes:
        base: what is rotated: "neurons" (B = 1), "pca", or "lib" (features of the local
            interaction basis, in which a unit step matters equally in every direction).
        init: R to start from: "identity", "pca" (principal components of the base's features),
            "svd" (singular vectors of the mean Jacobian), or "random".
        sparsity: "l1", "log", "lhalf" or "kurtosis", see `interactgraph.features.sparsity`.
        of: make sparse the "jacobian" of each sample, or the "strength" of each edge (rms of
            gradient x activation).
        eps: below this share of the mean square, an entry counts as zero.
        rank: rotate only the first features of the base, the others stay; None: all.
        n_samples: samples whose Jacobians are held.
        n_rows: random rows of each Jacobian (target features and positions); None: all.
        batch_size: samples of one gradient step.
        steps: gradient steps.
        lr: largest step size.
        restarts: further starts, from random rotations; the lowest loss is kept.
        parametrisation: torch's orthogonal parametrisation.
        seed: of everything random.
        loss: of the result; set by fitting.
        rotation: R; set by fitting.
    """

    kind: ClassVar[str] = "sparse_rotation"
    base: Literal["neurons", "pca", "lib"] = "neurons"
    init: Literal["identity", "pca", "svd", "random"] = "svd"
    sparsity: str = "l1"
    of: Literal["jacobian", "strength"] = "jacobian"
    eps: float = 1e-3
    rank: int | None = None
    n_samples: int = 256
    n_rows: int | None = None
    batch_size: int = 64
    steps: int = 400
    lr: float = 0.03
    restarts: int = 0
    parametrisation: Literal["matrix_exp", "cayley", "householder"] = "matrix_exp"
    seed: int = 0
    loss: float | None = None
    rotation: Tensor | None = None

    def __post_init__(self) -> None:
        self._check_options(base=self.base, init=self.init)
        check_sparsity(self.sparsity)
        for name, choices in (
            ("base", BASES), ("init", INITS), ("of", ("jacobian", "strength")),
            ("parametrisation", PARAMETRISATIONS),
        ):  # fmt: skip
            if getattr(self, name) not in choices:
                raise InteractGraphError(
                    f"SparseRotation: {name}={getattr(self, name)!r} is unknown; choose one of "
                    + ", ".join(choices)
                )
        for name in ("n_samples", "batch_size", "steps", "rank", "n_rows"):
            whole_or_none(f"SparseRotation: {name}", getattr(self, name))
        whole("SparseRotation: restarts", self.restarts, 0)
        whole("SparseRotation: seed", self.seed, 0)
        positive("SparseRotation: eps", self.eps)
        positive("SparseRotation: lr", self.lr)

    def fit(self, layer: str, data: FittingData) -> SparseRotation:
        """Fits this layer alone, against the features its targets have. See `FeatureMap.fit`."""
        based = self.based(layer, data)
        if not data.targets(layer):
            return data.cast(based)
        own = [pair for pair in data.pairs if pair[0] == layer]
        data = replace(data, maps={**data.maps, layer: based}, pairs=own)
        turned, _ = learn(data, {layer: based}, self)
        return turned[layer]

    def based(self, layer: str, data: FittingData) -> SparseRotation:
        """The map with R = 1."""
        found: LinearMap
        if self.base == "neurons":
            mean = moments_of(data.rows(layer, f"mean of {layer}")).mean
            eye = torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
            found = Linear(eye, eye, mean)
        else:
            found = (PCA() if self.base == "pca" else LocalInteractionBasis()).fit(layer, data)
        assert found.encoder is not None
        assert found.decoder is not None
        n = len(found.encoder)
        rotated = replace(
            self, encoder=found.encoder, decoder=found.decoder, offset=found.offset,
            rotation=torch.eye(n, dtype=torch.float64, device=found.encoder.device),
        )  # fmt: skip
        return data.cast(rotated)

    def turned(self, rotation: Tensor, loss: float) -> SparseRotation:
        """The map with another R `[k, k]` on the first k features."""
        assert self.encoder is not None
        assert self.decoder is not None
        full = torch.eye(len(self.encoder), dtype=torch.float64)
        full[: len(rotation), : len(rotation)] = rotation
        r = full.to(self.encoder)
        return replace(
            self, encoder=r @ self.encoder, decoder=self.decoder @ r.mT, rotation=r, loss=loss
        )
