"""Features that serve several modules, or all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from ..checks import number
from ..errors import InteractGraphError

if TYPE_CHECKING:
    from .partition import Partition

__all__ = ["HUB", "Mixture", "mixtures"]

HUB = 0.5  # sum of affinities below which more is spread over all modules than is not


class Mixture(NamedTuple):
    """A feature that is not of one module alone.

    Attributes:
        layer: its layer.
        feature: its number there.
        kind: "mixture": two or more modules hold a good share of its strength each; "hub": more
            than half of its strength is spread over all modules as their strengths have it.
        modules: those of largest affinity first; of a hub the largest one only.
        shares: its affinities to these.
    """

    layer: str
    feature: int
    kind: Literal["mixture", "hub"]
    modules: tuple[int, ...]
    shares: tuple[float, ...]


def mixtures(partition: Partition, least: float = 0.25) -> list[Mixture]:
    """See `Partition.mixtures`."""
    if not 0 < number("least", least) <= 1:
        raise InteractGraphError(f"least={least!r} must be a share above 0 and at most 1")
    found = []
    for layer, affinity in partition.affinity.items():
        interval = partition.affinity_interval.get(layer)
        for feature, row in enumerate(affinity):
            if partition.membership[layer][feature] < 0:
                continue
            order = np.argsort(-row, kind="stable")
            sure = row >= least
            if interval is not None:
                sure &= interval[feature, :, 0] > 0
            modules = [m for m in order.tolist() if sure[m]]
            if row.sum() < HUB:
                kind: Literal["mixture", "hub"] = "hub"
                modules = order[:1].tolist()
            elif len(modules) > 1:
                kind = "mixture"
            else:
                continue
            shares = tuple(float(row[m]) for m in modules)
            found.append(Mixture(layer, feature, kind, tuple(modules), shares))
    return found
