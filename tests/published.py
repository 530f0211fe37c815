"""The published modular-addition model, bases and edges, from the folder beside the repository."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from interactgraph import features
from interactgraph.zoo.modular_addition import ModularAddition, addition_pairs, published_model

FOLDER = Path(__file__).parents[2] / "shared" / "reference"
LAYERS = ["embed", "mid", "final", "logits"]
PAIRS = [("embed", "mid"), ("mid", "final"), ("final", "logits")]


def skip_if_absent() -> None:
    if not (FOLDER / "modular_addition_lib.safetensors").exists():
        pytest.skip(f"published bases and edges are not in {FOLDER}")


@cache
def tensors() -> dict[str, Tensor]:
    skip_if_absent()
    return load_file(FOLDER / "modular_addition_lib.safetensors")


@cache
def edges_required() -> dict:
    skip_if_absent()
    return json.loads((FOLDER / "modular_addition_lib.json").read_text())["edge_ablation"]


def model() -> ModularAddition:
    """The checkpoint in float64."""
    return published_model(tensors()).double()


def basis(layer: str) -> features.Linear:
    """The published basis of a layer, without its constant direction.

    [activation, 1] @ C are the features, column 0 reads the constant: its row of the inverse is
    the mean activation.
    """
    c, inverse = (tensors()[f"basis.{layer}.{key}"] for key in ("C", "C_pinv"))
    mean = c[-1, 0] * inverse[0, :-1]
    return features.Linear(c[:-1, 1:].T.contiguous(), inverse[1:, :-1].T.contiguous(), mean)


def edges(source: str, target: str) -> Tensor:
    """The published edges without the constant directions, [targets, sources]."""
    e = tensors()[f"edges.{source}.{target}"]
    return e[:, 1:] if target == "logits" else e[1:, 1:]


def train_data() -> Tensor:
    """Tokens of the samples that the published graph averages over."""
    return addition_pairs(113)[tensors()["train_indices"]]


def test_data() -> Tensor:
    """Tokens of the other pairs."""
    keep = torch.ones(113**2, dtype=torch.bool)
    keep[tensors()["train_indices"]] = False
    return addition_pairs(113)[keep]


test_data.__test__ = False
