"""Spline codes: on which piece of a network's layers every sample is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import choice
from ..errors import InputError
from .clusters import clusters_of
from .directions import CodeDirections, directions_of

__all__ = ["Codes"]

_NOWHERE = "none"  # group of samples without a position that counts


@dataclass(frozen=True, eq=False)
class Codes:
    """The gates of some layers on observations: samples, or some positions of each sample.

    The codes of several layers side by side are the path that an activation takes through them.

    Attributes:
        gates: layer -> name of its gate, in the order asked for.
        sizes: layer -> number of gates.
        packed: layer with hard gates -> bits, eight to a byte, uint8 `[n, ceil(gates / 8)]`.
        probabilities: layer with smooth gates -> probabilities, `[n, gates]`.
        sample: number of the sample of each observation, int64 `[n]`.
        position: its position in the activations, int64 `[n]`.
        n_samples: number of samples.
        activations: layer -> its plain values, `[n, gates]`, where they were asked for.
        labels: one name for each sample, where they were asked for.
    """

    gates: Mapping[str, str]
    sizes: Mapping[str, int]
    packed: Mapping[str, np.ndarray]
    probabilities: Mapping[str, Tensor]
    sample: Tensor
    position: Tensor
    n_samples: int
    activations: Mapping[str, Tensor] = field(default_factory=dict)
    labels: Sequence[str] | None = None

    @property
    def layers(self) -> list[str]:
        """Names of the layers."""
        return list(self.gates)

    def __len__(self) -> int:
        """Number of observations."""
        return len(self.sample)

    def matrix(self, layers: str | Sequence[str] | None = None, of: str = "codes") -> Tensor:
        """Codes of layers side by side, `[n, gates of all of them]`.

        Args:
            layers: which; None: all.
            of: "codes", 0/1 or probabilities; "activations", the control.

        Raises:
            InputError: a layer is not there, or activations were not kept.
        """
        names = self._chosen(layers)
        if choice("of", of, ("codes", "activations")) == "activations":
            if not self.activations:
                raise InputError(
                    "activations were not kept; give spline_codes keep_activations=True"
                )
            return torch.cat([self.activations[layer] for layer in names], 1)
        return torch.cat([self._values(layer) for layer in names], 1)

    def regions(self, layers: str | Sequence[str] | None = None) -> np.ndarray:
        """The region of each observation: equal numbers where all bits are equal.

        Smooth gates count as open above 1/2.

        Args:
            layers: whose bits; None: all.

        Returns:
            Numbers from 0 without gaps, int64 `[n]`; the largest one plus one is how many linear
            regions the observations are in.
        """
        bits = [self._bits(layer) for layer in self._chosen(layers)]
        _, numbers = np.unique(np.concatenate(bits, 1), axis=0, return_inverse=True)
        return numbers.reshape(-1).astype(np.int64)

    def clusters(
        self,
        n_clusters: int | None = 8,
        *,
        algorithm: str = "kmeans",
        of: str = "codes",
        layers: str | Sequence[str] | None = None,
        min_cluster_size: int | None = None,
        seed: int = 0,
    ) -> np.ndarray:
        """Clusters of observations by code (scikit-learn).

        Args:
            n_clusters: how many; HDBSCAN finds the number itself.
            algorithm: "kmeans", "agglomerative" (Ward) or "hdbscan". The squared distance of hard
                codes is the number of gates in which they differ.
            of: "codes", or "activations" as a control.
            layers: which; None: all.
            min_cluster_size: of HDBSCAN; None: 5.
            seed: of k-means, the best of ten starts.

        Returns:
            Number of the cluster of each observation, int64 `[n]`; -1 where HDBSCAN sees noise.

        Raises:
            InteractGraphError: an option makes no sense, or scikit-learn is not installed.
        """
        return clusters_of(
            self.matrix(layers, of).numpy(), n_clusters, algorithm, min_cluster_size, seed
        )

    def groups(self, clusters: Any) -> list[str]:
        """One name for each sample, for `groups=` of `interaction_graph`.

        Args:
            clusters: one number for each observation, `[n]`; of a sample with several, the most
                frequent one is taken, and the smaller one of two.

        Returns:
            Names, `[samples]`; "none" where no position of a sample counts.

        Raises:
            InputError: there is not one for each observation.
        """
        clusters = np.asarray(clusters)
        if clusters.shape != (len(self),):
            raise InputError(
                f"clusters have shape {clusters.shape}; one for each of {len(self)} observations "
                "is needed"
            )
        counts: list[Counter] = [Counter() for _ in range(self.n_samples)]
        for sample, cluster in zip(self.sample.tolist(), clusters.tolist(), strict=True):
            counts[sample][cluster] += 1
        return [
            str(min(count, key=lambda name: (-count[name], name))) if count else _NOWHERE
            for count in counts
        ]

    def directions(
        self,
        n_directions: int,
        *,
        algorithm: str = "nmf",
        layers: str | Sequence[str] | None = None,
        seed: int = 0,
    ) -> CodeDirections:
        """Directions in the code space of several layers: features that cross them.

        Args:
            n_directions: how many.
            algorithm: "nmf" (non-negative parts that add up) or "pca" (of centred codes).
            layers: which; None: all.
            seed: of the algorithm.

        Raises:
            InteractGraphError: an option makes no sense, or scikit-learn is not installed.
        """
        names = self._chosen(layers)
        sizes = {layer: self.sizes[layer] for layer in names}
        return directions_of(self.matrix(names), sizes, n_directions, algorithm, seed)

    def _chosen(self, layers: str | Sequence[str] | None) -> list[str]:
        names = [layers] if isinstance(layers, str) else list(layers or self.gates)
        for layer in names:
            if layer not in self.gates:
                raise InputError(f"there are no codes of layer {layer!r}; layers: {self.layers}")
        return names

    def _values(self, layer: str) -> Tensor:
        if layer in self.probabilities:
            return self.probabilities[layer]
        bits = np.unpackbits(self.packed[layer], axis=1, count=self.sizes[layer])
        return torch.from_numpy(bits).float()

    def _bits(self, layer: str) -> np.ndarray:
        if layer in self.packed:
            return self.packed[layer]
        return np.packbits(self.probabilities[layer].numpy() > 0.5, axis=1)
