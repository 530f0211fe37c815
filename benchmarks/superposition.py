"""Networks with four times as many features as neurons: which graph has their true edges?

    python benchmarks/superposition.py [--seeds 5]

Average precision of all possible edges between true features. The graph between dictionary
features gives them directly; the one between neurons as its best of two ways of reading it in
feature directions, with absolute values of the strengths or with their signs.
"""

import argparse
import warnings

import numpy as np
import torch
from page import write
from sklearn.metrics import average_precision_score

import interactgraph as itg


def precisions(seed: int, dependence: str) -> tuple[float, float, float, float]:
    """Of dictionary features, of neurons, by chance; and the error of the network."""
    net = itg.zoo.superposition(seed, dependence=dependence)
    truth, n = (net.edges != 0).flatten(), len(net.edges)

    def graph(**options):
        return itg.interaction_graph(
            net.model, net.data, net.layers, strengths=("rms", "mean"), progress=False, **options
        )

    found = graph(features=net.dictionaries).weights(*net.layers)[:n, :n].flatten()
    neurons = graph()
    read, written = (net.dictionaries[layer].decoder for layer in net.layers)
    ways = (
        written.abs().mT @ neurons.weights(*net.layers) @ read.abs(),
        (written.mT @ neurons.weights(*net.layers, "mean") @ read).abs(),
    )
    best = max(average_precision_score(truth, way.flatten()) for way in ways)
    return average_precision_score(truth, found), best, float(truth.float().mean()), net.error


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seeds", type=int, default=5)
    options = arguments.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lines = [
        "## Superposition", "",
        f"64 features in 16 neurons, each active with probability 0.05; average precision on the "
        f"true edges, mean ± spread over {options.seeds} seeds (`superposition.py`). The "
        "dictionaries are the true ones, that the network itself decodes with; learned ones are "
        "another question.",
        "", "| features | dictionary | neurons | chance | variance that the network misses |",
        "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for dependence in ("independent", "correlated", "anticorrelated"):
        found = np.array([precisions(seed, dependence) for seed in range(options.seeds)])
        mean, spread = found.mean(0), found.std(0, ddof=1)
        cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(mean, spread, strict=True)]
        lines.append(f"| {dependence} | {' | '.join(cells)} |")
    write("superposition", lines)


if __name__ == "__main__":
    main()
