"""Principal components of the centred activations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from ..checks import number, whole_or_none
from ..errors import InteractGraphError
from .linear import LinearMap
from .moments import eigenvectors, moments_of

if TYPE_CHECKING:
    from .feature_map import FittingData

__all__ = ["PCA"]


@dataclass(frozen=True, eq=False)
class PCA(LinearMap):
    """z = U' (f - m): U are eigenvectors of the covariance of f, largest eigenvalue first.

    What the truncation leaves out is replaced by its mean when features are decoded. Several rules
    may be given; a component must pass all of them.

    Attributes:
        rank: keep this many components.
        explained_variance: keep the fewest components that hold this share of the variance.
        threshold: keep eigenvalues above this share of the largest one.
        eigenvalues: of the covariance, of the components kept; set by fitting.
        full_rank: how many eigenvalues pass `threshold` alone; set by fitting.
    """

    kind: ClassVar[str] = "pca"
    rank: int | None = None
    explained_variance: float | None = None
    threshold: float = 1e-12
    eigenvalues: Tensor | None = None
    full_rank: int | None = None

    def __post_init__(self) -> None:
        self._check_options(rank=self.rank, explained_variance=self.explained_variance)
        whole_or_none("PCA: rank", self.rank)
        variance = self.explained_variance
        if variance is not None and not 0 < number("PCA: explained_variance", variance) <= 1:
            raise InteractGraphError(
                f"PCA: explained_variance={self.explained_variance} must be above 0 and at most 1"
            )
        if not 0 <= number("PCA: threshold", self.threshold) < 1:
            raise InteractGraphError(
                f"PCA: threshold={self.threshold} must be at least 0 and below 1; it is a share of "
                "the largest eigenvalue"
            )

    def fit(self, layer: str, data: FittingData) -> PCA:
        """See `FeatureMap.fit`."""
        mean, covariance, _ = moments_of(data.rows(layer, f"PCA of {layer}"))
        values, vectors = eigenvectors(covariance)
        full = max(1, int((values > self.threshold * values[0]).sum()))
        kept = full if self.rank is None else min(full, self.rank)
        if self.explained_variance is not None:
            # Rounding must not ask for one component more than there are.
            share = values.cumsum(0) / values.sum() + 1e-12
            kept = min(kept, int((share < self.explained_variance).sum()) + 1)
        u = vectors[:, :kept].contiguous()
        fitted = replace(
            self, encoder=u.mT.contiguous(), decoder=u, offset=mean, eigenvalues=values[:kept],
            full_rank=full,
        )  # fmt: skip
        return fitted.to(dtype=data.dtype)
