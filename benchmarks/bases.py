"""Sparse rotations: hidden ones recovered, and what they do to a network trained on real data.

    python benchmarks/bases.py

Sparsity is (sum |J|)^2 / (n sum J^2) of held-out Jacobians: 1 where all entries are equally large,
1 / n where one is all there is.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from page import write
from torch import nn

from interactgraph import fit_sparse_rotations
from interactgraph.features import Neurons, SparseRotation
from interactgraph.features.matching import match_rows
from interactgraph.features.random_rotation import random_orthogonal
from interactgraph.zoo import two_digits


class Hidden(nn.Module):
    """Layers a -> b -> c of 1, 2 and 4 times the size, two inputs to a unit, all rotated."""

    def __init__(self, size: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        sizes = [size, 2 * size, 4 * size]
        self.weights = []
        for n_in, n_out in pairwise(sizes):
            weight = torch.zeros(n_out, n_in, dtype=torch.float64)
            for row in weight:
                row[torch.randperm(n_in)[:2]] = (1 + torch.rand(2).double()) * torch.randn(2).sign()
            self.weights.append(weight)
        self.rotations = [random_orthogonal(n, seed + 10 + k) for k, n in enumerate(sizes)]
        self.a, self.b, self.c = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self.rotations
        x = torch.tanh(self.a(x) @ q[0].T @ self.weights[0].T)
        x = torch.tanh(self.b(x @ q[1]) @ q[1].T @ self.weights[1].T)
        return self.c(x @ q[2])


def recovery() -> list[str]:
    """Mean matched |cosine| with the hidden rotations."""
    rows = [
        "### Rotations hidden in front of sparse weights: mean matched |cosine|, three seeds",
        "",
        "| features of the three layers | recovered, each seed | a random rotation |",
        "| --- | --- | --- |",
    ]
    options = SparseRotation(init="svd", sparsity="l1", eps=1e-4, steps=300, lr=0.1)
    for size in (12, 16, 20):
        means, controls = [], []
        for seed in range(3):
            model = Hidden(size, 100 * seed)
            x = torch.randn(512, size, dtype=torch.float64)
            fit = fit_sparse_rotations(model, x, ["a", "b", "c"], rotation=options, progress=False)
            matches = [
                match_rows(fit.maps[layer].rotation, true)
                for layer, true in zip("abc", model.rotations, strict=True)
            ]
            means.append(np.mean([match.mean for match in matches]))
            controls.append(np.mean([match.control.mean() for match in matches]))
        text = ", ".join(f"{mean:.3f}" for mean in means)
        rows.append(f"| {size}, {2 * size}, {4 * size} | {text} | {np.mean(controls):.2f} |")
    return [*rows, ""]


def digits() -> list[str]:
    """Sparsity before and after on the two-digits network, and whether channels agree."""
    rows = [
        "### Two-digits network: sparsity of held-out Jacobians, rotations of both hidden layers",
        "",
        "| seed | pair | neurons | rotated | random rotation |",
        "| --- | --- | --- | --- | --- |",
    ]
    agreement = [
        "### Two-digits network: do sparse outputs of `1 -> 3` match sparse inputs of `3 -> 4`?",
        "",
        "| seed | mean matched |cosine| | random rotations, largest |",
        "| --- | --- | --- |",
    ]
    options = SparseRotation(init="identity", sparsity="l1", steps=300)
    for seed in range(3):
        task = two_digits(seed)
        data = task.images.split(256)
        keep = {"input": Neurons(), "4": Neurons()}
        fit = fit_sparse_rotations(
            task.model, data, ["input", "1", "3", "4"], rotation=options, keep=keep,
            progress=False,
        )  # fmt: skip
        for pair, share in fit.sparsity.items():
            rows.append(
                f"| {seed} | {' -> '.join(pair)} | {share['before']:.3f} | {share['after']:.3f} | "
                f"{share['random']:.3f} |"
            )
        matched = fit_sparse_rotations(
            task.model, data, ["1", "3", "4"], rotation=options, keep={"4": Neurons()}, match=True,
            progress=False,
        ).matching  # fmt: skip
        for match in matched.values():
            agreement.append(f"| {seed} | {match.mean:.3f} | {match.control.max():.3f} |")
    return [*rows, "", *[row.replace("|cosine|", "cosine") for row in agreement], ""]


def main() -> None:
    """Measures and writes."""
    torch.set_num_threads(2)
    write("bases", [*recovery(), *digits()])


if __name__ == "__main__":
    main()
