"""A random rotation of the centred activations: the control of every linear basis."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar
from zlib import crc32

import torch
from torch import Tensor

from ..checks import whole
from .linear import LinearMap
from .moments import moments_of

if TYPE_CHECKING:
    from .feature_map import FittingData

__all__ = ["RandomRotation", "random_orthogonal"]


def random_orthogonal(size: int, seed: int, layer: str = "") -> Tensor:
    """An orthogonal matrix from the Haar measure, float64 `[size, size]`.

    Another one for each layer: layers that hold the same space, as those of a residual stream do,
    would else stay aligned.

    QR of a Gaussian matrix with the signs of R's diagonal moved into Q (Mezzadri, How to generate
    random matrices from the classical compact groups, 2007).
    """
    generator = torch.Generator().manual_seed(seed + (crc32(layer.encode()) << 24))
    q, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return q * r.diagonal().sign()


@dataclass(frozen=True, eq=False)
class RandomRotation(LinearMap):
    """z = Q (f - m) with a random orthogonal Q; m is the mean activation.

    Attributes:
        seed: of Q; every layer has its own Q under one seed.
    """

    kind: ClassVar[str] = "random_rotation"
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_options(seed=self.seed)
        whole("RandomRotation: seed", self.seed, 0)

    def fit(self, layer: str, data: FittingData) -> RandomRotation:
        """See `FeatureMap.fit`."""
        mean = moments_of(data.rows(layer, f"mean of {layer}")).mean
        q = random_orthogonal(len(mean), self.seed, layer).to(mean.device)
        fitted = replace(self, encoder=q, decoder=q.mT.contiguous(), offset=mean)
        return fitted.to(dtype=data.dtype)
