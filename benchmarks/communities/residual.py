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
        f"stream that stay within {GROUPS} groups but for cross-talk of 0.4. Self edges \"auto\": "
        "they are unknown to the test, which is held against networks of the same spectrum; "
        "without them: against none; \"keep\": self edges counted like others. Networks that none "
        "of this was chosen on.\n",
        "| networks | auto: p <= 0.05 | smallest p | z | without them: p <= 0.05 | z | "
        "keep: p <= 0.05 | z |",
        "| --- |" + " --- |" * 7,
    ]  # fmt: skip
    for make in (transformer, resnet):
        auto, keep = zip(*(tested(make, seed) for seed in SEEDS), strict=True)
        p = np.array([each.p_value for each in auto])
        z = np.array([each.z_score for each in auto])
        raw = np.array([each.details["spectral_null"]["z_score"] for each in auto])
        kept = np.array([each.z_score for each in keep])
        cells = [f"{(p <= 0.05).sum()} of {len(p)}", f"{p.min():.1g}", _spread(z)]
        for other in (raw, kept):
            cells += [f"{(other > 1.645).sum()} of {len(p)}", _spread(other)]
        lines.append(f"| {make.__name__} | " + " | ".join(cells) + " |")
    truth = np.tile(np.arange(48) % GROUPS, 4)
    several = [found(planted, seed) for seed in SEEDS[:10]]
    agreement = np.array(
        [
            [itg.communities.adjusted_mutual_information(each.labels, truth) for each in pair]
            for pair in several
        ]
    )
    cells = [f"{agreement[:, k].mean():.2f}, worst {agreement[:, k].min():.2f}" for k in range(2)]
    p = np.array([pair[0].p_value for pair in several])
    real = [len(pair[0].significant_modules) / pair[0].n_modules for pair in several]
    lines.append(
        "\nAgreement (AMI) with the planted groups, 10 networks: "
        + "; ".join(f"{way} {cell}" for way, cell in zip(WAYS, cells, strict=True))
        + f"; auto: p <= 0.05 in {(p <= 0.05).sum()} of {len(p)}, largest p {p.max():.1g}, "
        f"{np.mean(real):.0%} of the modules found are significant."
    )
    return "\n".join(lines)


def _spread(z: np.ndarray) -> str:
    return f"{z.mean():.2f} +- {z.std():.2f}"


def graph_of(make: Callable[[], tuple[nn.Module, Tensor]], seed: int) -> itg.InteractionGraph:
    torch.manual_seed(seed)
    model, data = make()
    layers = [str(number) for number in range(len(model))]
    return itg.interaction_graph(model, [data], layers, progress=False)


def tested(make: Callable[[], tuple[nn.Module, Tensor]], seed: int) -> list[itg.Partition]:
    """For the p-values only, which depend neither on the weighting nor on the runs."""
    graph = graph_of(make, seed)
    fast = {"weighting": "root_normalised", "resolution": 1.0, "n_runs": 1}
    return [itg.find_modules(graph, self_edges=way, **fast) for way in WAYS]


def found(make: Callable[[], tuple[nn.Module, Tensor]], seed: int) -> list[itg.Partition]:
    graph = graph_of(make, seed)
    return [itg.find_modules(graph, self_edges=way) for way in WAYS]
