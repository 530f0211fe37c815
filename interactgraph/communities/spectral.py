"""Spectral starts: where modules are faint and features many, random starts get lost.

The leading eigenvectors of weight minus null, over all blocks at once, collect what thousands of
weak edges say together (Newman, Phys. Rev. E 74, 036104, 2006). Features are grouped by the
direction of their entries; sweeps and merges do the rest.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..sparse import is_sparse, sums
from . import constants
from .objective import Objective

__all__ = ["Spectrum"]


class Spectrum:
    """Leading eigenvectors of a layered objective, computed once for many starts."""

    def __init__(self, objective: Objective, seed: int = 0) -> None:
        self._objective = objective
        offsets = objective.network.offsets
        self._parts = [slice(a, b) for a, b in pairwise(offsets)]
        strength = objective.terms[0].into.new_zeros(offsets[-1])
        for term in objective.terms:
            into, out = sums(term.weight)
            strength[self._parts[term.source]] += out
            strength[self._parts[term.target]] += into
        self._transposed = [
            term.weight.T.coalesce() if is_sparse(term.weight) else term.weight.T
            for term in objective.terms
        ]
        # The mean is added so that the weakest features do not take whole vectors for themselves.
        self._scale = (strength + strength.mean()).rsqrt()
        self.rows = self._leading(np.random.default_rng(seed))

    def _apply(self, vectors: Tensor) -> Tensor:
        """The symmetric operator, normalised by strengths, on `[nodes, vectors]`."""
        vectors = vectors * self._scale[:, None]
        result = torch.zeros_like(vectors)
        gamma = self._objective.resolution
        for term, transposed in zip(self._objective.terms, self._transposed, strict=True):
            sources, targets = self._parts[term.source], self._parts[term.target]
            x, y = vectors[sources], vectors[targets]
            result[targets] += term.weight @ x - gamma * torch.outer(term.into, term.out @ x)
            result[sources] += transposed @ y - gamma * torch.outer(term.out, term.into @ y)
        return result * self._scale[:, None]

    def _leading(self, draw: np.random.Generator) -> Tensor:
        """Entries of the eigenvectors of the largest eigenvalues, times their roots.

        Chains of layers have eigenvalues in pairs of both signs, so twice as many are iterated.
        """
        nodes = len(self._scale)
        n = min(2 * constants.SPECTRAL_VECTORS + 8, nodes)
        vectors = torch.as_tensor(draw.normal(size=(nodes, n))).to(self._scale)
        for _ in range(constants.SPECTRAL_ROUNDS):
            vectors, _ = torch.linalg.qr(self._apply(vectors))
        values, mixing = torch.linalg.eigh(vectors.T @ self._apply(vectors))
        kept = values.argsort(descending=True)[: constants.SPECTRAL_VECTORS]
        return (vectors @ mixing[:, kept]) * values[kept].clamp_min(0).sqrt()

    def start(self, seed: int, n_groups: int = 2 * constants.SPECTRAL_VECTORS) -> np.ndarray:
        """Labels by spherical k-means from random features, `[nodes]`."""
        draw = np.random.default_rng(seed)
        rows = torch.nn.functional.normalize(self.rows, dim=1)
        n_groups = min(n_groups, len(rows))
        first = draw.choice(len(rows), n_groups, replace=False)
        centres = rows[torch.as_tensor(first, device=rows.device)]
        labels = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        for _ in range(constants.KMEANS_ROUNDS):
            labels = (rows @ centres.T).argmax(1)
            sums = torch.zeros_like(centres).index_add_(0, labels, rows)
            centres = torch.nn.functional.normalize(sums, dim=1)
        return labels.cpu().numpy()
