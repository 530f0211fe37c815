"""Chains of stochastic maps with planted modules: their graph is known in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InteractGraphError
from ..simplex import StochasticLinear
from .planted import random_members

__all__ = ["SimplexModules", "simplex_modules"]


@dataclass(frozen=True, eq=False)
class SimplexModules:
    """A network on the simplex whose modules and edges are known.

    Attributes:
        model: `Sequential` of `StochasticLinear`.
        layers: input and every map, by name.
        data: inputs, points of the simplex, `[samples, features]`.
        truth: layer -> planted module of each feature, in random order.
    """

    model: nn.Sequential
    layers: list[str]
    data: Tensor
    truth: dict[str, np.ndarray]

    @torch.no_grad()
    def edges(self, strength: str = "rms") -> dict[tuple[str, str], Tensor]:
        """The graph: (source, target) -> strengths of A[b, i, j] = W_ij x_bj, `[i, j]`.

        Args:
            strength: "rms", W_ij sqrt(mean_b x_bj^2), or "mean", W_ij mean_b x_bj.

        Raises:
            InteractGraphError: another strength.
        """
        if strength not in ("rms", "mean"):
            raise InteractGraphError(f"strength={strength!r}; choose one of rms, mean")
        edges, x = {}, self.data
        for pair, layer in zip(pairwise(self.layers), self.model, strict=True):
            assert isinstance(layer, StochasticLinear)
            size = x.mean(0) if strength == "mean" else x.square().mean(0).sqrt()
            edges[pair] = layer.weight * size
            x = layer(x)
        return edges


def simplex_modules(
    seed: int = 0,
    *,
    n_modules: int = 4,
    widths: Sequence[int] = (32, 48, 48, 24),
    cross_talk: float = 0.1,
    n_samples: int = 1024,
) -> SimplexModules:
    """Random maps that keep most of the probability inside modules.

    Args:
        seed: decides everything.
        n_modules: number of modules, in every layer.
        widths: features of each layer, input first.
        cross_talk: weight between modules, relative to one inside, from 0 to 1; 1: there are no
            modules.
        n_samples: number of inputs, uniform on the simplex.

    Raises:
        InteractGraphError: fewer features than modules in a layer, or cross-talk outside 0 to 1.

    Example:
        >>> net = simplex_modules(widths=(8, 12, 8), n_modules=2)
        >>> net.edges()["input", "0"].shape  # [target features, source features]
        torch.Size([12, 8])
    """
    if not 0 <= cross_talk <= 1:
        raise InteractGraphError(f"cross_talk={cross_talk}; it must be from 0 to 1")
    generator = torch.Generator().manual_seed(seed)
    members = random_members(widths, n_modules, generator)
    maps: list[nn.Module] = []
    for before, after in pairwise(members):
        with torch.random.fork_rng(devices=[]):
            layer = StochasticLinear(len(before), len(after))
        weight = -torch.rand(len(after), len(before), generator=generator).clamp_min(1e-6).log()
        weight *= torch.where(after[:, None] == before[None, :], 1.0, cross_talk)
        with torch.no_grad():  # log 0 would be a logit of minus infinity
            layer.logits.copy_((weight / weight.sum(0)).clamp_min(1e-12).log())
        maps.append(layer)
    exponential = -torch.rand(n_samples, widths[0], generator=generator).clamp_min(1e-12).log()
    names = ["input", *(str(k) for k in range(len(maps)))]
    return SimplexModules(
        model=nn.Sequential(*maps),
        layers=names,
        data=exponential / exponential.sum(1, keepdim=True),
        truth={name: member.numpy() for name, member in zip(names, members, strict=True)},
    )
