"""Residual networks: what passes through is no structure, and what is planted is found."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import interactgraph as itg

SEEDS = range(10, 30)  # how self edges are treated was chosen on 0 to 9
WAYS = ("auto", "keep")
GROUPS = 4


class Block(nn.Module):
    """Attention and a perceptron, each after a normalisation and beside the stream."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[0](x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norms[1](x))


class Convolutions(nn.Module):
    """The block of a ResNet: ReLU after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.added = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.added(x)).relu()


class Planted(nn.Module):
    """A perceptron beside the stream that stays within groups of features, but for cross-talk."""

    def __init__(self, width: int, cross_talk: float) -> None:
        super().__init__()
        same = (torch.arange(4 * width)[:, None] - torch.arange(width)) % GROUPS == 0
        scale = torch.where(same, 1.0, cross_talk)
        self.into = nn.Parameter(torch.randn(4 * width, width) * scale * (GROUPS / width) ** 0.5)
        self.out = nn.Parameter(torch.randn(width, 4 * width) * scale.T * (1 / width) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.5 * nn.functional.gelu(x @ self.into.T) @ self.out.T


def transformer() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Linear(48, 48), *(Block(48) for _ in range(4))), torch.randn(16, 8, 48)


def resnet() -> tuple[nn.Module, Tensor]:
    model = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), *(Convolutions(32) for _ in range(4)))
    model(torch.randn(64, 3, 8, 8))  # running means of the normalisations
    return model.eval(), torch.randn(16, 3, 8, 8)


def planted() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Identity(), *(Planted(48, 0.4) for _ in range(3))), torch.randn(128, 48)


def residual(cache: Path) -> str:
    warnings.simplefilter("ignore")
    lines = [
        "## Residual networks\n",
        f"{len(SEEDS)} networks of each kind as they are initialised, and perceptrons beside a "
        f"stream that stay within {GROUPS} groups but for cross-talk of 0.4. Self edges as the "
        "null model expects them (`self_edges=\"auto\"`), or counted like others (\"keep\"); "
        "networks that this was not chosen on.\n",
        "| networks | " + " | ".join(f"{way}: p <= 0.05 | smallest p" for way in WAYS) + " |",
        "| --- |" + " --- | --- |" * len(WAYS),
    ]  # fmt: skip
    for make in (transformer, resnet):
        p = np.array([[each.p_value for each in found(make, seed)] for seed in SEEDS])
        cells = [f"{(p[:, k] <= 0.05).sum()} of {len(p)} | {p[:, k].min():.1g}" for k in range(2)]
        lines.append(f"| {make.__name__} | " + " | ".join(cells) + " |")
    truth = np.tile(np.arange(48) % GROUPS, 4)
    agreement = np.array(
        [
            [itg.communities.adjusted_mutual_information(each.labels, truth) for each in pair]
            for pair in (found(planted, seed) for seed in SEEDS)
        ]
    )
    cells = [f"{agreement[:, k].mean():.2f}, worst {agreement[:, k].min():.2f}" for k in range(2)]
    lines.append(
        "\nAgreement (AMI) with the planted groups: "
        + "; ".join(f"{way} {cell}" for way, cell in zip(WAYS, cells, strict=True))
        + "."
    )
    return "\n".join(lines)


def found(make: Callable[[], tuple[nn.Module, Tensor]], seed: int) -> list[itg.Partition]:
    torch.manual_seed(seed)
    model, data = make()
    layers = [str(number) for number in range(len(model))]
    graph = itg.interaction_graph(model, [data], layers, progress=False)
    return [itg.find_modules(graph, self_edges=way) for way in WAYS]
