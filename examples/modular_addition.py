"""Which waves does a network add numbers with? Graphs in several bases, modules, edges required.

    python examples/modular_addition.py [--modulus 31] [--seed 0] [--quick]

Trains a one-layer transformer on (x + y) mod p (one to three minutes), builds its interaction graph
in four bases, labels every feature by the Fourier frequency that explains it best, compares modules
with frequencies, and counts the edges that the network needs.
"""

from __future__ import annotations

import argparse
from itertools import pairwise

import numpy as np
import torch

import interactgraph as itg
from interactgraph.communities import adjusted_mutual_information
from interactgraph.features import (
    PCA,
    FeatureMap,
    LocalInteractionBasis,
    Neurons,
    RandomRotation,
    SparseRotation,
)
from interactgraph.validation import edges_required
from interactgraph.zoo.modular_addition import (
    ModularAddition,
    frequency_shares,
    train_modular_addition,
)

LAYERS = ["embed", "mid", "final", "logits"]
HIDDEN = LAYERS[:3]
SHARE = 1e-3  # of a pair's strength: weaker features are not compared with frequencies


def bases(
    model: ModularAddition, tokens: torch.Tensor, quick: bool
) -> dict[str, dict[str, FeatureMap]]:
    """Basis name -> layer -> feature map; the logits stay as they are."""
    found: dict[str, dict[str, FeatureMap]] = {}
    for name, unfitted in (
        ("random rotation", RandomRotation()),
        ("PCA", PCA()),
        ("local interaction basis", LocalInteractionBasis()),
    ):
        maps: dict[str, FeatureMap] = dict.fromkeys(HIDDEN, unfitted)
        found[name] = itg.fit_features(model, tokens, {**maps, "logits": Neurons()}, progress=False)
    if quick:
        return {"PCA": found["PCA"]}
    # Where a unit step matters equally in every direction, turn until few edges are left; what the
    # logits read is settled, so `final` stays.
    lib = found["local interaction basis"]
    turned = itg.fit_sparse_rotations(
        model, tokens, LAYERS, keep={"final": lib["final"], "logits": lib["logits"]},
        rotation=SparseRotation(
            base="lib", of="strength", init="identity", rank=24, n_samples=384, batch_size=192,
            steps=200,
        ),
    )  # fmt: skip
    found["sparse rotation of it"] = {**lib, **turned.maps}
    return found


def graph_in(
    model: ModularAddition, tokens: torch.Tensor, maps: dict[str, FeatureMap]
) -> tuple[itg.InteractionGraph, dict[str, np.ndarray]]:
    """The graph, and the frequency of each feature (0: none of weight)."""
    frequencies, labels = {}, {}
    activation = tokens
    with torch.no_grad():
        for layer in HIDDEN:
            activation = model.get_submodule(layer)(activation)
            shares = frequency_shares(maps[layer].encode(activation), tokens, model.modulus)
            best = shares.max(1)
            frequencies[layer] = best.indices.numpy() + 1
            labels[layer] = [
                f"{layer} {j}: {share:.0%} frequency {k + 1}"
                for j, (share, k) in enumerate(zip(*best, strict=True))
            ]
    graph = itg.interaction_graph(
        model, tokens, LAYERS, features=maps, method="gradient", baseline="mean", labels=labels,
    )  # fmt: skip
    return graph, frequencies


def agreement(graph: itg.InteractionGraph, frequencies: dict[str, np.ndarray]) -> tuple[int, float]:
    """Number of modules of embed -> mid -> final and their agreement with the frequencies."""
    pairs = list(pairwise(HIDDEN))
    inner = itg.InteractionGraph(
        layers=tuple(HIDDEN),
        pairs=tuple(pairs),
        labels={layer: graph.labels[layer] for layer in HIDDEN},
        blocks={pair: graph.blocks[pair] for pair in pairs},
    )
    partition = itg.find_modules(inner)
    found, known = [], []
    for layer in HIDDEN:
        strength = torch.zeros(graph.n_features[layer])
        for source, target in pairs:
            squares = graph.weights(source, target).float().square()
            squares = squares / squares.sum()
            if layer in (source, target):
                strength = torch.maximum(strength, squares.sum(0 if layer == source else 1))
        matters = (strength > SHARE).numpy()
        found.append(partition.membership[layer][matters])
        known.append(frequencies[layer][matters])
    modules, truth = np.concatenate(found), np.concatenate(known)
    return len(set(modules.tolist())), adjusted_mutual_information(modules, truth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--modulus", type=int, default=31)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="modulus 17 and PCA only")
    arguments = parser.parse_args()

    p = 17 if arguments.quick else arguments.modulus
    model, seen, unseen = train_modular_addition(
        p, seed=arguments.seed, share=0.7, width=64, hidden=128,
        max_steps=4_000 if arguments.quick else 12_000,
        progress=lambda step, right: print(f"\rstep {step}: {right:.1%} of unseen pairs", end=""),
    )  # fmt: skip
    print()
    model.double()

    def right(output: torch.Tensor, batch: torch.Tensor, intact: torch.Tensor) -> torch.Tensor:
        return (output[:, :p].argmax(-1) == (batch[:, 0] + batch[:, 1]) % p).double()

    rows = []
    for name, maps in bases(model, seen, arguments.quick).items():
        graph, frequencies = graph_in(model, seen, maps)
        n_modules, match = agreement(graph, frequencies)
        for ranking in (None, "greedy") if name.startswith("sparse") else (None,):
            greedy = {
                "ranking": ranking, "ranking_data": seen, "ranking_measure": "log_agreement"
            }  # fmt: skip
            counts = [
                edges_required(
                    graph, model, unseen, source, target, measure=right, tolerance=5e-3,
                    **(greedy if ranking and target != "logits" else {}),
                ).n_edges
                for source, target in pairwise(LAYERS)
            ]  # fmt: skip
            rows.append((name + (", greedy" if ranking else ""), counts, n_modules, match))

    print(f"\n{'':32}edges required of {' / '.join(LAYERS[:3])}   modules   match with frequencies")
    for name, counts, n_modules, match in rows:
        shown = " / ".join(str(count) for count in counts)
        print(f"{name:32}{shown:>33}   {n_modules:7}   {match:.2f}")
    print("\nmatch: adjusted mutual information, 1 is perfect and 0 what chance gives")


if __name__ == "__main__":
    main()
