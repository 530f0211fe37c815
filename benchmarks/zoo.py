"""Every feature system and every method over the networks whose modules or edges are known.

    python benchmarks/zoo.py [--seeds 2] [--only NETWORK]

Two figures of every graph, where the network tells them, and the seconds that it takes:

- *modules*: adjusted mutual information of `find_modules` with the true modules. A feature's module
  is the one that holds most of its direction (of modular addition: the frequency that explains most
  of its variance). Features without an edge, and those mostly of no module, are not scored.
- *edges*: average precision on the true edges. The strength between two true features is that
  between the features of the system whose directions are most like theirs, times both squared
  cosines; for the true features themselves this changes nothing. Edges from an axis of a residual
  stream to itself are left out. Of planted modules and of simplex networks the true edges are those
  inside modules, though weak ones cross.

The fitted bases see the data that the graph is measured on.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from page import write
from sklearn.metrics import average_precision_score
from torch import Tensor, nn
from torch.nn.functional import normalize

import interactgraph as itg
from interactgraph.communities import adjusted_mutual_information
from interactgraph.features import (
    PCA,
    Dictionary,
    FeatureMap,
    LocalInteractionBasis,
    Neurons,
    RandomRotation,
    SparseAutoencoder,
    SparseRotation,
)

TRUE = "true features"
METHODS: dict[str, dict] = {  # name -> further options
    "integrated_gradients": {},
    "gradient": {},
    "ablation": {},
    "shapley": {"n_steps": 16},  # orders
    "expected_shapley": {},
}
SYSTEMS: dict[str, Callable[[int], FeatureMap]] = {
    "neurons": lambda d: Neurons(),
    "random rotation": lambda d: RandomRotation(),
    "PCA": lambda d: PCA(),
    "local interaction basis": lambda d: LocalInteractionBasis(),
    "sparse rotation": lambda d: SparseRotation(base="pca", n_samples=128, batch_size=32),
    "sparse autoencoder": lambda d: SparseAutoencoder(
        n_dictionary=4 * d, k=max(2, d // 8), n_rows=200_000, batch_size=256
    ),
}
JOINED = 1e-6  # of a block's largest strength: an edge


@dataclass(frozen=True, eq=False)
class Known:
    """A network and what is known about it.

    Attributes:
        model: the network.
        data: inputs, batch by batch.
        layers: analysed layers.
        pairs: (source, target) layers.
        modules: layer -> module of each true feature, -1: none; None: not known.
        edges: pair -> true edges between true features, bool; None: not known.
        dictionaries: layer -> the true features, where these are not the neurons.
        own: feature maps -> layer -> module of each feature, where directions do not tell.
    """

    model: nn.Module
    data: list[Tensor]
    layers: list[str]
    pairs: list[tuple[str, str]]
    modules: dict[str, np.ndarray] | None = None
    edges: dict[tuple[str, str], Tensor] | None = None
    dictionaries: dict[str, Dictionary] = field(default_factory=dict)
    own: Callable[[dict[str, FeatureMap]], dict[str, np.ndarray]] | None = None


def _chain(layers: list[str]) -> list[tuple[str, str]]:
    return list(pairwise(layers))


def planted(seed: int) -> Known:
    net = itg.zoo.planted_modules(seed, widths=(16, 24, 24, 16), n_samples=256)
    pairs = _chain(net.layers)
    edges = {
        (s, t): torch.from_numpy(net.truth[t][:, None] == net.truth[s][None]) for s, t in pairs
    }
    return Known(net.model, [net.data], net.layers, pairs, net.truth, edges)


def two_digits(seed: int) -> Known:
    net = itg.zoo.two_digits(seed)
    layers = net.layers[1:]
    return Known(net.model, [net.images[:256]], layers, _chain(layers), net.truth)


def two_tasks(seed: int) -> Known:
    net = itg.zoo.independent_tasks(seed)
    return Known(net.model, [net.data[:256]], net.layers, _chain(net.layers), net.truth)


def modular_addition(seed: int) -> Known:
    net = itg.zoo.modular_addition(seed)

    def own(maps: dict[str, FeatureMap]) -> dict[str, np.ndarray]:
        return {name: x.argmax(1).numpy() for name, x in net.frequencies(maps).items()}

    return Known(net.model, [net.data], net.layers, _chain(net.layers), own=own)


def superposition(seed: int) -> Known:
    net = itg.zoo.superposition(
        seed, n_features=32, n_neurons=12, fan_in=3, n_modules=4, n_samples=4096
    )
    pair = (net.layers[0], net.layers[1])
    own = dict.fromkeys(net.layers, np.arange(len(net.edges)) % 4)
    return Known(
        net.model, [net.data], net.layers, [pair], own, {pair: net.edges != 0}, net.dictionaries
    )


def simplex(seed: int) -> Known:
    net = itg.zoo.simplex_modules(seed)
    edges = {
        (s, t): torch.from_numpy(net.truth[t][:, None] == net.truth[s][None])
        for s, t in _chain(net.layers)
    }
    return Known(net.model, [net.data[:256]], net.layers, list(edges), net.truth, edges)


def compiled(name: str) -> Known:
    net = itg.zoo.compiled(name)
    data = [batch for batch in net.data if batch.shape[1] == 5][:1]
    return Known(net.model.double(), data, net.layers, list(net.written()), edges=net.written())


NETWORKS: dict[str, Callable[[int], Known]] = {
    "planted": planted,
    "two digits": two_digits,
    "two tasks": two_tasks,
    "modular addition": modular_addition,
    "superposition": superposition,
    "simplex": simplex,
    "compiled: hist": lambda seed: compiled("hist"),
    "compiled: sort_unique": lambda seed: compiled("sort_unique"),
}
FIXED = ("compiled: hist", "compiled: sort_unique")  # no seed changes them


def scores(known: Known, system: str, method: str) -> tuple[float, float, float]:
    """Agreement of modules, average precision of edges (NaN: not known), seconds."""
    widths = widths_of(known)
    start = time.perf_counter()
    maps: dict[str, FeatureMap] = {
        layer: known.dictionaries[layer] if system == TRUE else SYSTEMS[system](d)
        for layer, d in widths.items()
    }
    fitted = itg.fit_features(known.model, known.data, maps, pairs=known.pairs, progress=False)
    graph = itg.interaction_graph(
        known.model, known.data, known.layers, pairs=known.pairs, features=fitted, method=method,
        progress=False, **METHODS[method],
    )  # fmt: skip
    took = time.perf_counter() - start
    decoders = {layer: directions(fitted[layer], d) for layer, d in widths.items()}
    modules = precision = float("nan")
    if known.modules is not None or known.own is not None:
        modules = agreement(known, system, fitted, graph, decoders)
    if known.edges is not None:
        precision = average_precision(known, system, graph, decoders)
    return modules, precision, took


def widths_of(known: Known) -> dict[str, int]:
    """Layer -> size of its activation."""
    neurons = itg.fit_features(
        known.model, known.data, dict.fromkeys(known.layers, Neurons()), pairs=known.pairs,
        progress=False,
    )  # fmt: skip
    return {layer: neurons[layer].n_features for layer in known.layers}


def directions(feature_map: FeatureMap, d: int) -> Tensor:
    """What features write, `[d, features]`, without the errors of dictionaries."""
    if isinstance(feature_map, Neurons):
        return torch.eye(d, dtype=torch.float64)
    return feature_map.decoder.double()


def agreement(known: Known, system: str, fitted, graph, decoders) -> float:
    """Of the modules that are found with the true ones."""
    found, strongest = itg.find_modules(graph, significance=False), _strongest(graph)
    truth = known.own(fitted) if known.own else {
        layer: _modules(known, layer, system, decoders[layer]) for layer in known.layers
    }  # fmt: skip
    own, other = [], []
    for layer in known.layers:
        n = decoders[layer].shape[1]  # without the errors of dictionaries
        truth[layer] = truth[layer][:n]
        some = (truth[layer] >= 0) & (strongest[layer][:n] > JOINED)
        own.append(truth[layer][some])
        other.append(found.membership[layer][:n][some])
    own, other = np.concatenate(own), np.concatenate(other)
    return adjusted_mutual_information(own, other) if len(np.unique(own)) > 1 else float("nan")


def _modules(known: Known, layer: str, system: str, decoder: Tensor) -> np.ndarray:
    """The true module of each feature of a layer: the one that holds most of its direction."""
    own = known.modules[layer]
    if system == TRUE or (system == "neurons" and not known.dictionaries):
        return own
    if known.dictionaries:
        true = normalize(known.dictionaries[layer].decoder.double(), dim=0)
        share = (normalize(decoder, dim=0).mT @ true).square()
    else:
        share = decoder.mT.square()
    names = np.unique(own)  # -1, which is no module, included
    of = [share[:, torch.from_numpy(own == module)].sum(1) for module in names]
    return names[torch.stack(of, 1).argmax(1).numpy()]


def _matched(known: Known, layer: str, decoders: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """For every true feature the one of the system that is most like it, and their |cosine|."""
    decoder = normalize(decoders[layer], dim=0)
    true = known.dictionaries.get(layer)
    if true is not None:
        decoder = normalize(true.decoder.double(), dim=0).mT @ decoder
    near, which = decoder.abs().max(1)
    return which, near


def average_precision(known: Known, system: str, graph, decoders) -> float:
    """Of the true edges."""
    truth, strength = [], []
    for (source, target), edges in known.edges.items():
        weights = graph.weights(source, target).double()
        if system != TRUE:
            (j, near_j), (i, near_i) = (
                _matched(known, layer, decoders) for layer in (source, target)
            )
            weights = weights[i][:, j] * near_i.square()[:, None] * near_j.square()
        weights = weights[: len(edges), : edges.shape[1]]  # without errors
        stream = not known.dictionaries and known.modules is None
        counted = ~torch.eye(len(edges), dtype=torch.bool) if stream else torch.ones_like(edges)
        truth.append(edges[counted])
        strength.append(weights[counted])
    return float(average_precision_score(torch.cat(truth), torch.cat(strength)))


def _strongest(graph: itg.InteractionGraph) -> dict[str, np.ndarray]:
    """Layer -> each feature's strongest edge, as a share of the strongest of the block."""
    found = {layer: np.zeros(len(graph.labels[layer])) for layer in graph.layers}
    for source, target in graph.pairs:
        weights = graph.weights(source, target).double()
        weights = weights / weights.max().clamp_min(1e-300)
        for layer, edges in ((source, weights.amax(0)), (target, weights.amax(1))):
            found[layer] = np.maximum(found[layer], edges.numpy())
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seeds", type=int, default=2)
    arguments.add_argument(
        "--only", choices=list(NETWORKS), help="one of the networks; nothing is written"
    )
    options = arguments.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lines = [
        "## The zoo", "",
        f"Every feature system and every method on the networks whose modules or edges are known "
        f"(`zoo.py`, which says how both are scored): agreement of modules (adjusted mutual "
        f"information) / average precision of edges / seconds, mean of {options.seeds} "
        f"{'seed' if options.seeds == 1 else 'seeds'}, one thread; Shapley values of 16 "
        "orders. The true features of superposition are 32 in 12 neurons; of all other networks "
        "they are the neurons, and of modular addition no axis of the stream means anything.", "",
        f"| network | features | {' | '.join(METHODS)} |".replace("_", " "),
        f"| --- | --- |{' --- |' * len(METHODS)}",
    ]  # fmt: skip
    for name, make in NETWORKS.items():
        if options.only and options.only != name:
            continue
        several = [make(seed) for seed in range(1 if name in FIXED else options.seeds)]
        systems = [*([TRUE] if several[0].dictionaries else []), *SYSTEMS]
        for system in systems:
            cells = []
            for method in METHODS:
                found = np.array([scores(known, system, method) for known in several])
                parts = ["–" if np.isnan(x) else f"{x:.2f}" for x in found[:, :2].mean(0)]
                cells.append(f"{' / '.join(parts)} / {found[:, 2].mean():.1f}")
            lines.append(f"| {name} | {system} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    if not options.only:
        write("zoo", lines)


if __name__ == "__main__":
    main()
