"""Runs whose numbers are kept: every engine, method, sampling, group, fold, mask and basis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import networks
import torch
from captum.attr import FeatureAblation
from torch import Tensor, nn

import interactgraph as itg
from interactgraph.features import (
    PCA,
    Dictionary,
    Linear,
    LocalInteractionBasis,
    Neurons,
    SparseRotation,
)

ALL = ("rms", "mean_abs", "mean", "max")


def _graph(case: networks.Case, **options: Any) -> itg.InteractionGraph:
    options = {"strengths": ALL, "n_steps": 3, "tolerance": None, "progress": False, **options}
    batches = options.pop("batches", case.batches)
    layers = options.pop("layers", [case.source, case.target])
    return itg.interaction_graph(case.model, batches, layers, **options)


def _engines() -> dict[str, Callable[[], itg.InteractionGraph]]:
    found = {}
    for name in networks.CASES:
        for engine in ("auto", "forward", "reverse"):
            for method in ("integrated_gradients", "gradient"):
                found[f"{name}, {engine}, {method}"] = lambda n=name, e=engine, m=method: _graph(
                    networks.make(n), engine=e, method=m
                )
        for method in ("ablation", "shapley"):
            found[f"{name}, {method}"] = lambda n=name, m=method: _graph(networks.make(n), method=m)
    found["mlp, captum"] = lambda: _graph(networks.make("mlp"), method=FeatureAblation)
    for layers in (["input", "0"], ["input", "1"], ["1", "3"], ["1", "4"], ["input", "1", "3"]):
        found[f"mlp, closed form, {layers}"] = lambda lay=layers: _graph(
            networks.make("mlp"), layers=lay, engine="closed_form"
        )
    return found


def _sampled() -> dict[str, Callable[[], itg.InteractionGraph]]:
    found = {}
    for name in ("mlp", "transformer"):
        for sampling in ("importance", "uniform"):
            found[f"{name}, {sampling}"] = lambda n=name, s=sampling: _graph(
                networks.make(n), engine="forward", sources=2, sampling=s, seed=3
            )
        found[f"{name}, signs"] = lambda n=name: _graph(
            networks.make(n), engine="reverse", sources=2, sampling="signs", strengths=("rms",)
        )
    case = networks.make("transformer")
    x = torch.randn(60, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    found["several batches"] = lambda: _graph(
        case, batches=x.split(8), engine="forward", sources=1, method="gradient"
    )
    found["several passes"] = lambda: _graph(
        case, batches=x.split(16), engine="forward", sources=1, method="gradient",
        target_error=0.25,
    )  # fmt: skip
    found["sampled groups"] = lambda: _graph(
        case, batches=x.split(16), engine="forward", sources=2, groups=[n % 3 for n in range(60)],
        folds=2,
    )  # fmt: skip
    return found


def _data() -> dict[str, Callable[[], itg.InteractionGraph]]:
    """Groups, folds, masks, lengths, baselines, memory."""
    found: dict[str, Callable[[], itg.InteractionGraph]] = {}
    mlp, transformer = networks.make("mlp"), networks.make("transformer")
    x = torch.cat(mlp.batches)
    labels = [0, 1, 1, 0, 2, 1]
    for engine in ("auto", "forward", "reverse"):
        found[f"groups and folds, {engine}"] = lambda e=engine: _graph(
            mlp, batches=x.split(4), engine=e, groups=labels, folds=2, layers=["input", "1", "4"]
        )
    sequences = torch.randn(
        7, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    keep = torch.arange(5) < torch.tensor([5, 3, 1, 4, 5, 2, 3])[:, None]
    masked = [(sequences[:4], keep[:4]), (sequences[4:], keep[4:])]
    for engine in ("forward", "reverse"):
        found[f"mask, {engine}"] = lambda e=engine: _graph(
            transformer, batches=masked, engine=e, position_mask=lambda batch: batch[1],
            baseline="mean",
        )  # fmt: skip
    feed_forward = ["1.ln2", "1.down"]
    found["mask, two maps"] = lambda: _graph(
        transformer, batches=masked, layers=feed_forward, position_mask=lambda batch: batch[1],
        groups=[0, 1, 1, 0, 1, 0, 0],
    )  # fmt: skip
    lengths = [sequences[:3], sequences[3:5, :2], sequences[5:, :4]]
    for layers in (["0", "1"], feed_forward, ["1.ln2", "1.act"], ["1.up", "1.act"]):
        found[f"lengths, {layers}"] = lambda lay=layers: _graph(
            transformer, batches=lengths, layers=lay
        )
    for engine in ("auto", "forward", "reverse"):
        found[f"memory, {engine}"] = lambda e=engine: _graph(
            networks.make("convolutional"), engine=e, memory_budget=9000
        )
    found["tensor baseline"] = lambda: _graph(
        mlp, baseline={"input": torch.linspace(-1, 1, 6)}, layers=["input", "1", "3"]
    )
    found["pairs"] = lambda: _graph(
        mlp, layers=["input", "1", "3", "4"], pairs=[("input", "3"), ("1", "4")], baseline="mean"
    )
    return found


def _dictionary(size: int, n: int, **options: Any) -> Dictionary:
    made = Dictionary.random(size, n, k=5, seed=1)
    bias = torch.randn(size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return Dictionary(
        made.encoder, made.decoder, decoder_bias=bias, activation="topk", k=5, **options
    )


_NOTHING = torch.zeros(())  # the zero activation, which of a centred basis is not "zero"


def _features() -> dict[str, Callable[[], itg.InteractionGraph]]:
    """Bases, dictionaries, packing."""
    found: dict[str, Callable[[], itg.InteractionGraph]] = {}
    transformer = networks.make("transformer")
    x = torch.randn(9, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    for options in ({}, {"error": False}):
        found[f"dictionary, {options}"] = lambda o=options: _graph(
            transformer, batches=x.split(4), layers=["0", "1"], engine="forward",
            features={"0": _dictionary(6, 18, **o)}, baseline=_NOTHING,
        )  # fmt: skip
    found["dictionary, both sides, reverse"] = lambda: _graph(
        transformer, batches=x.split(4), layers=["0", "1"], engine="reverse",
        features=_dictionary(6, 18), baseline=_NOTHING,
    )  # fmt: skip
    found["dictionary, drawn"] = lambda: _graph(
        transformer, batches=x.split(4), layers=["0", "1"], engine="forward", sources=2,
        features={"0": _dictionary(6, 18)}, baseline=_NOTHING,
    )  # fmt: skip
    matrix = torch.randn(12, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    found["overcomplete"] = lambda: _graph(
        transformer, batches=x.split(4), layers=["0", "1"], engine="forward",
        features={"0": Linear(matrix)},
    )  # fmt: skip

    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.up, self.act, self.down = nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 5)
            self.norm = nn.LayerNorm(5)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.down(self.act(self.up(x) - 1.0)))

    found["packed"] = lambda: itg.interaction_graph(
        Sparse().double(), x.split(5), ["act", "output"], strengths=ALL, engine="forward",
        n_steps=3, tolerance=None, progress=False,
    )  # fmt: skip
    mlp = networks.make("mlp")
    many = torch.randn(40, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    for name, basis in {
        "pca": PCA(rank=4),
        "lib": LocalInteractionBasis(),
        "lib, path": LocalInteractionBasis(jacobians="path", n_steps=3),
        "rotation": SparseRotation(init="identity", steps=15, n_samples=20),
    }.items():
        found[name] = lambda b=basis: _graph(
            mlp,
            batches=many.split(16),
            layers=["input", "1", "3"],
            features=b,
            baseline=_NOTHING,
        )
    for probes in (None, 2):
        found[f"lib of a transformer, {probes}"] = lambda p=probes: _graph(
            transformer, batches=x.split(4), layers=["0", "1"],
            features={"0": LocalInteractionBasis(n_probes=p), "1": PCA()}, baseline=_NOTHING,
        )  # fmt: skip
    found["every element"] = lambda: _graph(
        networks.make("convolutional"), features={"0": Neurons(feature_dim="all")}
    )
    return found


CASES = {**_engines(), **_sampled(), **_data(), **_features()}


def numbers(graph: itg.InteractionGraph) -> dict[str, Tensor]:
    """Everything that is compared: strengths, errors, completeness, of groups and folds too."""
    found: dict[str, Tensor] = {}
    parts = {"": graph} | {f"group {name} ": part for name, part in graph.groups.items()}
    parts |= {f"fold {number} ": part for number, part in enumerate(graph.folds)}
    for prefix, part in parts.items():
        for source, target in part.pairs:
            for strength in part.strengths:
                where = f"{prefix}{source}>{target} {strength}"
                found[where] = part.weights(source, target, strength)
                if strength != "max":
                    found[f"{where} error"] = part.standard_error(source, target, strength)
    for (source, target), residual in graph.completeness.items():
        found[f"{source}>{target} completeness"] = torch.tensor(residual, dtype=torch.float64)
    return found
