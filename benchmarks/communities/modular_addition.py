"""Modular addition: graphs whose modules are the Fourier frequencies that the network uses.

One-layer transformers on (x + y) mod p, with feature maps and edges as published for the Local
Interaction Basis (arXiv 2405.10928), computed by this library.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import interactgraph as itg
from interactgraph import fit_features
from interactgraph.features import PCA, FeatureMap, LocalInteractionBasis, Neurons
from interactgraph.zoo.modular_addition import (
    ModularAddition,
    addition_pairs,
    frequency_shares,
    published_model,
    train_modular_addition,
)

from .graphs import KnownGraph, chain

REFERENCE = Path(__file__).parents[3] / "shared/reference/modular_addition_lib.safetensors"
LAYERS = ("embed", "mid", "final")
BASES: dict[str, FeatureMap] = {"LIB": LocalInteractionBasis(), "PCA": PCA()}
SHARE = 1e-3  # of a block's strength: features below it are not scored


def reference() -> tuple[ModularAddition, Tensor, Tensor]:
    """The published model, the pairs it was trained on and the others."""
    data = load_file(REFERENCE)
    pairs, seen = addition_pairs(113), data["train_indices"]
    rest = torch.ones(len(pairs), dtype=torch.bool)
    rest[seen] = False
    return published_model(data), pairs[seen], pairs[rest]


def trained(folder: Path, seed: int) -> tuple[ModularAddition, Tensor, Tensor]:
    """The same of a model trained in the same way, kept in the folder: 25 minutes on one core."""
    path = folder / f"addition-113-{seed}.safetensors"
    if not path.exists():
        model, seen, unseen = train_modular_addition(113, seed=seed)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({**model.state_dict(), "seen": seen, "unseen": unseen}, path)
    tensors = load_file(path)
    seen, unseen = tensors.pop("seen"), tensors.pop("unseen")
    model = ModularAddition()
    model.load_state_dict(tensors)
    return model, seen, unseen


def known_graphs(name: str, model: ModularAddition, tokens: Tensor) -> list[KnownGraph]:
    """In every basis, edges embed -> mid -> final and the frequency of each feature that matters.

    The published strength is the mean square of gradient x activation: the square of `rms`.
    """
    model = model.double()
    found = []
    for kind, basis in BASES.items():
        maps = fit_features(
            model, tokens, {**dict.fromkeys(LAYERS, basis), "logits": Neurons()}, progress=False
        )
        graph = itg.interaction_graph(
            model, tokens, LAYERS, features={layer: maps[layer] for layer in LAYERS},
            method="gradient", baseline="mean", progress=False,
        )  # fmt: skip
        amplitudes = [graph.weights(*pair) for pair in graph.pairs]
        errors = [graph.standard_error(*pair) for pair in graph.pairs]
        squares = [a.square() for a in amplitudes]
        squared_errors = [2 * a * e for a, e in zip(amplitudes, errors, strict=True)]
        truth = _frequencies(model, tokens, maps)
        for k, layer in enumerate(LAYERS):
            shares = [squares[b].sum(1 - side) / squares[b].sum()
                      for b, side in ((k - 1, 0), (k, 1)) if 0 <= b < len(squares)]  # fmt: skip
            truth[layer][torch.stack(shares).amax(0).numpy() <= SHARE] = -1
        known = np.concatenate(list(truth.values()))
        published = chain({"squared": squares}, {"squared": squared_errors})
        found.append(KnownGraph(f"{kind} {name}", published, known))
    return found


@torch.no_grad()
def _frequencies(
    model: ModularAddition, tokens: Tensor, maps: dict[str, FeatureMap]
) -> dict[str, np.ndarray]:
    """Layer -> the frequency that explains most of each feature's variance."""
    result, activation = {}, tokens
    for layer in LAYERS:
        activation = model.get_submodule(layer)(activation)
        shares = frequency_shares(maps[layer].encode(activation), tokens, model.modulus)
        result[layer] = shares.argmax(1).numpy() + 1
    return result
