"""`fit_features`: bases that are fitted on some data and used on other data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from ..features import FeatureMap
from ..layers import Layers
from ..model import (
    Forward,
    PositionMask,
    Runner,
    check_data,
    load_model,
    prepared,
    resolve_sites,
)

__all__ = ["fit_features"]


def fit_features(
    model: nn.Module,
    data: Iterable[Any],
    maps: Mapping[str, FeatureMap],
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    position_mask: PositionMask | None = None,
    forward: Forward | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: bool = True,
) -> dict[str, FeatureMap]:
    """Fits feature maps on their own, to be given to `interaction_graph` with other data.

    Args:
        model: the network.
        data: as for `interaction_graph`.
        maps: layer -> feature map, in order of execution, the layers that are only read as targets
            of a local interaction basis included.
        pairs: (source, target) layers; default: consecutive layers.
        position_mask: as for `interaction_graph`.
        forward: `forward(model, batch)` calls the model on a batch.
        device: where to compute.
        dtype: what to compute in.
        progress: show progress bars.

    Returns:
        Layer -> fitted feature map.

    Raises:
        InteractGraphError: a map does not fit its layer, or the data cannot be used.

    Example:
        >>> import interactgraph as itg
        >>> net = itg.zoo.planted_modules(widths=(8, 12, 8), n_modules=2, n_samples=128)
        >>> maps = {layer: itg.features.PCA() for layer in net.layers}
        >>> fitted = itg.fit_features(net.model, net.data, maps, progress=False)
        >>> fitted["1"].encode(net.model[:2](net.data)).shape
        torch.Size([128, 12])
    """
    names = list(maps)
    chosen = list(pairwise(names)) if pairs is None else list(pairs)
    runner = Runner.on(load_model(model), forward, device, dtype)
    with prepared(runner.model):
        layers = Layers.look(
            runner, check_data(data), resolve_sites(runner.model, names), chosen, maps,
            position_mask=position_mask, progress=progress,
        )  # fmt: skip
        fitted = layers.fitted().maps
    return {layer: fitted[layer] for layer in names}
