"""Edges that a network needs: bases and rankings on models of modular addition.

    python benchmarks/edges.py

Fewest edges of each layer pair, by bisection, that keep the accuracy on unseen pairs within 0.001
(Bushnaq et al., arXiv 2405.10928, section 5.2). The published model, where its folder lies beside
the repository, and models trained in the same way (25 minutes each, kept in build/communities).
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from communities import modular_addition as addition
from page import write

import interactgraph as itg
from interactgraph import fit_features, fit_sparse_rotations
from interactgraph.features import PCA, FeatureMap, LocalInteractionBasis, Neurons, SparseRotation
from interactgraph.validation import edges_required
from interactgraph.zoo.modular_addition import ModularAddition

CACHE = Path(__file__).parents[1] / "build" / "communities"
TRAINED = (1, 2)  # seeds of models with p = 113
LAYERS = ["embed", "mid", "final", "logits"]
PAIRS = list(pairwise(LAYERS))
# Chosen on models with p = 59; `final`, which the logits read linearly, keeps its basis.
ROTATION = SparseRotation(
    base="lib", of="strength", init="identity", rank=24, n_samples=384, batch_size=192, steps=200
)


def right(output: torch.Tensor, batch: torch.Tensor, intact: torch.Tensor) -> torch.Tensor:
    """1 where the largest of the first p logits is the answer."""
    p = output.shape[1] - 1
    return (output[:, :p].argmax(-1) == (batch[:, 0] + batch[:, 1]) % p).double()


def counts(
    model: ModularAddition, seen: torch.Tensor, unseen: torch.Tensor, progress: bool = False
) -> dict[str, list[int]]:
    """Basis and ranking -> edges required of each pair."""
    model = model.double()
    bases: dict[str, dict[str, FeatureMap]] = {}
    # The published PCA keeps every direction.
    for name, basis in (
        ("PCA", PCA(threshold=0.0)),
        ("local interaction basis", LocalInteractionBasis()),
    ):
        maps = {**dict.fromkeys(LAYERS[:3], basis), "logits": Neurons()}
        bases[name] = fit_features(model, seen, maps, progress=progress)
    lib = bases["local interaction basis"]
    turned = fit_sparse_rotations(
        model, seen, LAYERS, keep={"final": lib["final"], "logits": lib["logits"]},
        rotation=ROTATION, progress=progress,
    )  # fmt: skip
    bases["sparse rotation"] = {**lib, **turned.maps}
    found: dict[str, list[int]] = {}
    for name, maps in bases.items():
        graph = itg.interaction_graph(
            model, seen, LAYERS, features=maps, method="gradient", baseline="mean",
            progress=progress,
        )  # fmt: skip
        for ranking in (None, "greedy") if name == "sparse rotation" else (None,):
            greedy = {
                "ranking": ranking, "ranking_data": seen, "ranking_measure": "log_agreement"
            }  # fmt: skip
            found[name if ranking is None else f"{name}, {ranking}"] = [
                edges_required(
                    graph, model, unseen, *pair, measure=right, progress=progress,
                    **(greedy if ranking and pair[1] != "logits" else {}),
                ).n_edges
                for pair in PAIRS
            ]  # fmt: skip
    return found


def main() -> None:
    """Measures and writes."""
    torch.set_num_threads(1)
    models = {}
    if addition.REFERENCE.exists():
        models["published"] = addition.reference()
    for seed in TRAINED:
        models[f"seed {seed}"] = addition.trained(CACHE, seed)
    rows = [
        "### Edges required, (x + y) mod 113: embed -> mid / mid -> final / final -> logits",
        "",
        "| model | basis, ranking | edges | first two, share of the local interaction basis |",
        "| --- | --- | --- | --- |",
    ]
    for name, data in models.items():
        found = counts(*data)
        lib = sum(found["local interaction basis"][:2])
        for basis, edges in found.items():
            shown = " / ".join(map(str, edges))
            rows.append(f"| {name} | {basis} | {shown} | {sum(edges[:2]) / lib:.0%} |")
        print("\n".join(rows[-len(found) :]), flush=True)
    write("edges", rows)


if __name__ == "__main__":
    main()
