"""Networks with planted modules: block-diagonal weights, with as much cross-talk as asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InteractGraphError

__all__ = ["PlantedModules", "planted_modules", "random_members"]


@dataclass(frozen=True, eq=False)
class PlantedModules:
    """A network whose modules are known by construction.

    Attributes:
        model: `Sequential` of linear layers and GELUs.
        layers: input, hidden layers (after the GELU) and output, by name.
        data: inputs, `[samples, features]`, standard normal.
        truth: layer -> planted module of each feature, in random order.
    """

    model: nn.Sequential
    layers: list[str]
    data: Tensor
    truth: dict[str, np.ndarray]


def planted_modules(
    seed: int = 0,
    *,
    n_modules: int = 4,
    widths: Sequence[int] = (32, 48, 48, 24),
    cross_talk: float = 0.1,
    n_samples: int = 1024,
) -> PlantedModules:
    """Random weights that are large inside modules and small between them.

    Args:
        seed: decides everything.
        n_modules: number of modules, in every layer.
        widths: features of each layer, input first.
        cross_talk: standard deviation of a weight between modules, relative to one inside; 0: the
            modules are separate networks, 1: there are none.
        n_samples: number of inputs.

    Raises:
        InteractGraphError: fewer features than modules in a layer, or negative cross-talk.
    """
    if cross_talk < 0:
        raise InteractGraphError(f"cross_talk={cross_talk}; it must not be negative")
    generator = torch.Generator().manual_seed(seed)
    members = random_members(widths, n_modules, generator)
    modules: list[nn.Module] = []
    for (n_in, before), (n_out, after) in zip(
        zip(widths, members, strict=True), zip(widths[1:], members[1:], strict=True), strict=False
    ):
        linear = nn.Linear(n_in, n_out)
        same = after[:, None] == before[None, :]
        scale = torch.where(same, 1.0, cross_talk) / (n_in / n_modules) ** 0.5
        with torch.no_grad():
            linear.weight.copy_(torch.randn(n_out, n_in, generator=generator) * scale)
            linear.bias.copy_(0.1 * torch.randn(n_out, generator=generator))
        modules += [linear, nn.GELU()]
    names = ["input", *(str(2 * k + 1) for k in range(len(widths) - 2)), str(2 * len(widths) - 4)]
    return PlantedModules(
        model=nn.Sequential(*modules[:-1]),
        layers=names,
        data=torch.randn(n_samples, widths[0], generator=generator),
        truth={name: member.numpy() for name, member in zip(names, members, strict=True)},
    )


def random_members(
    widths: Sequence[int], n_modules: int, generator: torch.Generator
) -> list[Tensor]:
    """The module of each feature of each layer: all about as large, in random order.

    Args:
        widths: features of each layer.
        n_modules: number of modules, in every layer.
        generator: of the order.

    Raises:
        InteractGraphError: fewer features than modules in a layer, or a single layer.
    """
    if n_modules < 1 or len(widths) < 2 or min(widths) < n_modules:
        raise InteractGraphError(
            f"widths={list(widths)} with n_modules={n_modules}; two or more layers are needed, "
            "each with at least one feature for every module"
        )
    return [
        (torch.arange(width) % n_modules)[torch.randperm(width, generator=generator)]
        for width in widths
    ]
