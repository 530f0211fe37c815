"""The local interaction basis: whitened, then aligned with what the next layer reads.

Bushnaq et al., The Local Interaction Basis, arXiv 2405.10928, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from ..calculus.path import PathRule, at_sample, gauss_legendre
from ..checks import number, whole_or_none
from ..errors import InteractGraphError
from .jacobians import MeanSquareJacobian
from .linear import LinearMap
from .moments import eigenvectors, moments_of

if TYPE_CHECKING:
    from .feature_map import FittingData

__all__ = ["LocalInteractionBasis", "interaction_basis"]


@dataclass(frozen=True, eq=False)
class LocalInteractionBasis(LinearMap):
    """Directions of a layer that vary in the data and matter to the next layer, most first.

    Layers are fitted from the last one backwards, each against the features of its targets. A
    layer without a target gets its principal components: the same formulas with J = 1.

    Attributes:
        rank: keep this many features at most.
        threshold: keep features with an eigenvalue above this share of the largest.
        whitening_threshold: leave out directions whose variance is below this share of the
            largest before whitening. Below about 1e-15 they are rounding error, and still move the
            basis of the layer before, because whitening divides by their variance.
        jacobians: "sample": derivatives at the samples; "path": averaged along the straight path
            from the mean activation to the sample, as integrated gradients are.
        n_steps: nodes of the path.
        n_probes: random probes per batch instead of one pass for each target feature and
            position; None: exact.
        seed: of the probes.
        eigenvalues: L, of the features kept; set by fitting.
        full_rank: how many directions passed `whitening_threshold`; set by fitting.
        way: how the Jacobians were computed; set by fitting.
    """

    kind: ClassVar[str] = "local_interaction_basis"
    rank: int | None = None
    threshold: float = 1e-12
    whitening_threshold: float = 1e-12
    jacobians: Literal["sample", "path"] = "sample"
    n_steps: int = 8
    n_probes: int | None = None
    seed: int = 0
    eigenvalues: Tensor | None = None
    full_rank: int | None = None
    way: str = ""

    def __post_init__(self) -> None:
        self._check_options(rank=self.rank, threshold=self.threshold)
        name = type(self).__name__
        for option in ("rank", "n_probes", "n_steps"):
            whole_or_none(f"{name}: {option}", getattr(self, option))
        for option in ("threshold", "whitening_threshold"):
            if not 0 <= number(f"{name}: {option}", getattr(self, option)) < 1:
                raise InteractGraphError(
                    f"{name}: {option}={getattr(self, option)} must be at least 0 and below 1; it "
                    "is a share of the largest eigenvalue"
                )
        if self.jacobians not in ("sample", "path"):
            raise InteractGraphError(
                f"{name}: jacobians={self.jacobians!r} is unknown; choose 'sample' or 'path'"
            )

    def fit(self, layer: str, data: FittingData) -> LocalInteractionBasis:
        """See `FeatureMap.fit`."""
        name = f"local interaction basis of {layer}"
        mean, covariance, _ = moments_of(data.rows(layer, f"{name}: covariance"))
        targets = data.targets(layer)
        sums: list[MeanSquareJacobian] = []
        if targets:
            sums = [
                MeanSquareJacobian(len(mean), self.n_probes, self._rule, mean, self.seed)
                for _ in targets
            ]
            for segments in data.segments(layer, f"{name}: Jacobians"):
                for each, segment in zip(sums, segments, strict=True):
                    each.add(segment)
            squared = torch.stack([each.mean for each in sums]).sum(0)
        else:
            squared = torch.eye(len(mean), dtype=torch.float64, device=mean.device)
        encoder, decoder, values, full = interaction_basis(
            covariance, squared, self.threshold, self.whitening_threshold, self.rank
        )
        fitted = replace(
            self, encoder=encoder, decoder=decoder, offset=mean, eigenvalues=values,
            full_rank=full, way=", ".join(each.way for each in sums),
        )  # fmt: skip
        return fitted.to(dtype=data.dtype)

    @property
    def _rule(self) -> PathRule:
        return at_sample() if self.jacobians == "sample" else gauss_legendre(self.n_steps)


def interaction_basis(
    covariance: Tensor,
    squared: Tensor,
    threshold: float = 1e-12,
    whitening_threshold: float = 1e-12,
    rank: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, int]:
    """The basis of a covariance G and a mean squared Jacobian M, both `[d, d]`.

    With G = U D U': M' = D^(1/2) U' M U D^(1/2) = V L V', E = L^(1/2) V' D^(-1/2) U' and
    decoder U D^(1/2) V L^(-1/2).

    Returns:
        Encoder `[j, d]`, decoder `[d, j]`, eigenvalues L `[j]`, and how many directions were
        whitened.
    """
    variances, u = eigenvectors(covariance)
    full = max(1, int((variances > whitening_threshold * variances[0]).sum()))
    u, scale = u[:, :full], variances[:full].clamp_min(torch.finfo(variances.dtype).tiny).sqrt()
    inner = scale[:, None] * (u.mT @ squared @ u) * scale
    values, v = eigenvectors(inner)
    kept = int((values > threshold * values[0]).sum())
    kept = max(1, kept if rank is None else min(kept, rank))
    values, v = values[:kept], v[:, :kept]
    # A layer that the target ignores has L = 0: its features stay whitened instead of vanishing.
    root = torch.where(values > 0, values, torch.ones_like(values)).sqrt()
    encoder = root[:, None] * (v.mT / scale) @ u.mT
    decoder = (u * scale) @ v / root
    return encoder, decoder, values, full
