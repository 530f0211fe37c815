"""The arena's networks: a set to choose on, and one to report on.

Every family has a list of recipes for each of the two sets; no network is in both. Rotations are
the same ones for both sets, and programs are paired, so that one can be in two networks. What is
made of a recipe is kept in the cache: the graph as the library saves it, and its truth beside it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import interactgraph as itg
from interactgraph.features import PCA, FeatureMap, LocalInteractionBasis, Neurons
from interactgraph.features.random_rotation import random_orthogonal
from interactgraph.zoo.compiled import CompiledProgram
from interactgraph.zoo.modular_addition import (
    ModularAddition,
    frequency_shares,
    train_modular_addition,
)

from . import multi_task
from .graphs import KnownGraph
from .modular_addition import REFERENCE, reference
from .planted import LEVELS, planted

FOLDS = 8
PUBLISHED = 113  # the modulus of the published model
SCORED = 1e-3  # of a block's energy: weaker features of modular addition are not scored
LEARNED = 0.999  # of the pairs that a network never saw, answered right
HIDDEN = ((64, 48), (96, 64))  # widths, in turn
SEQUENCES = 16  # of each of two programs
OWN = 0.8  # of a direction's energy in the axes of one program, for a feature to be of it

SETS = ("choosing", "reporting")
ADDITION = {
    "choosing": ((73, 1), (83, 3), (43, 4), (59, 0), (67, 2)),
    "reporting": ((37, 101), (47, 102), (53, 103), (61, 100), (71, 104)),
}  # modulus, seed; the published model is to choose on, too
TASKS = {"choosing": range(12), "reporting": range(100, 112)}
DIGITS = {"choosing": (0, 1, 2, 3), "reporting": (100, 101, 102, 103)}
PROGRAMS = {
    "choosing": (
        ("hist", "shift_two"),
        ("count_less_freq", "pair_balance"),
        ("copies_previous", "length"),
        ("first_or_last", "reverse"),
        ("hist", "length"),
        ("copies_previous", "shift_two"),
    ),
    "reporting": (
        ("count_token", "larger_before"),
        ("detect_pattern", "sort_unique"),
        ("sum_modulo", "larger_before"),
        ("frac_prevs", "detect_pattern"),
        ("frac_prevs", "sort_unique"),
        ("count_token", "sum_modulo"),
    ),
}
CROSS_TALK = (0.2, 0.4, 0.5)
PLANTED = {"choosing": (0, 1), "reporting": (100, 101)}
SUPERPOSITION = {"choosing": (0, 1, 2, 3), "reporting": (100, 101, 102, 103)}
GRAPHS = {"choosing": (0, 1), "reporting": (100, 101)}


def families(folder: Path, which: str, only: str = "") -> dict[str, list[KnownGraph]]:
    """Family -> the graphs of one of the two sets, trained where they are not in the cache.

    Args:
        folder: the cache.
        which: "choosing" or "reporting".
        only: what the names of the families have in common.
    """
    folder = folder / "networks"
    makers: dict[str, list[tuple[str, Callable[[], KnownGraph]]]] = {}
    published = [(PUBLISHED, 0)] if which == "choosing" and REFERENCE.exists() else []
    for basis in ("LIB", "PCA", "neurons"):
        for modulus, seed in (*ADDITION[which], *(published if basis != "neurons" else ())):
            makers.setdefault(f"addition, {basis}", []).append(
                (f"addition-{modulus}-{seed}-{basis}",
                 lambda p=modulus, s=seed, b=basis: addition(folder, p, s, b))
            )  # fmt: skip
    makers["tasks"] = [(f"tasks-{s}", lambda s=s: tasks(s)) for s in TASKS[which]]
    makers["two digits"] = [
        (f"digits-{s}", lambda s=s: two_digits(s, HIDDEN[s % 2])) for s in DIGITS[which]
    ]
    for rotation in (False, True):
        makers["programs, rotated" if rotation else "programs"] = [
            (f"programs-{a}-{b}-{rotation}", lambda a=a, b=b, r=rotation: programs(a, b, r))
            for a, b in PROGRAMS[which]
        ]
    makers["planted networks"] = [
        (f"planted-{s}-{c}", lambda s=s, c=c: planted_network(s, c))
        for s in PLANTED[which] for c in CROSS_TALK
    ]  # fmt: skip
    makers["planted graphs"] = [
        (f"graph-{f}-{levels[1]}-{s}", lambda f=f, r=levels[1], s=s: planted(f, r, s))
        for f, levels in LEVELS.items() for s in GRAPHS[which]
    ]  # fmt: skip
    makers["superposition"] = [
        (f"superposition-{s}-{d}", lambda s=s, d=d: superposition(s, d))
        for s in SUPERPOSITION[which] for d in ("independent", "correlated")
    ]  # fmt: skip
    return {
        family: [cached(folder, name, make) for name, make in several]
        for family, several in makers.items()
        if only in family
    }


def cached(folder: Path, name: str, make: Callable[[], KnownGraph]) -> KnownGraph:
    """Makes a graph once."""
    graph, truth = folder / f"{name}.safetensors", folder / f"{name}.npz"
    if not truth.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            known = make()
        known.graph.save(graph)
        composition = np.zeros(0) if known.composition is None else known.composition
        np.savez_compressed(truth, truth=known.truth, composition=composition)
    with np.load(truth) as stored:
        composition = stored["composition"]
        return KnownGraph(
            name, itg.load(graph), stored["truth"], composition if composition.size else None
        )


def trained_addition(folder: Path, modulus: int, seed: int) -> tuple[ModularAddition, Tensor]:
    """A model and the pairs it was trained on, from the cache where it is there."""
    path = folder / f"addition-{modulus}-{seed}.pt"
    if not path.exists():
        right: list[float] = []
        model, seen, _ = train_modular_addition(
            modulus, seed=seed, share=0.6, width=64, hidden=128,
            progress=lambda step, accuracy: right.append(accuracy),
        )  # fmt: skip
        if right[-1] < LEARNED:
            raise RuntimeError(
                f"modular addition, p = {modulus}, seed {seed}: {right[-1]:.3f} of the pairs that "
                "were not trained on are right; what it has not learned has no known modules"
            )
        torch.save({"model": model.state_dict(), "seen": seen}, path)
    stored = torch.load(path, weights_only=True)
    model = ModularAddition(modulus, width=64, hidden=128)
    model.load_state_dict(stored["model"])
    return model.double(), stored["seen"]


def addition(folder: Path, modulus: int, seed: int, basis: str) -> KnownGraph:
    """Modules are frequencies: each feature's is the one that explains most of its variance.

    Local interaction bases and principal components of embed -> mid -> final, with the published
    edges' gradients; for neurons mid -> final.up -> final, the hidden layer as it is and the stream
    in principal components, as its own axes mean nothing.
    """
    if modulus == PUBLISHED:
        model, tokens, _ = reference()
        model = model.double()
    else:
        model, tokens = trained_addition(folder, modulus, seed)
    layers = ("mid", "final.up", "final") if basis == "neurons" else ("embed", "mid", "final")
    maps: dict[str, FeatureMap] = dict.fromkeys(
        layers, LocalInteractionBasis() if basis == "LIB" else PCA()
    )
    if basis == "neurons":
        maps["final.up"] = Neurons()
    fitted = itg.fit_features(model, tokens, {**maps, "logits": Neurons()}, progress=False)
    graph = itg.interaction_graph(
        model, tokens, layers, features={layer: fitted[layer] for layer in layers},
        method="gradient", baseline="mean", folds=FOLDS, progress=False,
    )  # fmt: skip
    shares = [_shares(model, tokens, layer, fitted[layer]) for layer in layers]
    composition = np.concatenate(shares)
    truth = np.where(matters(graph), composition.argmax(1), -1)
    return KnownGraph(f"addition {modulus}, seed {seed}, {basis}", graph, truth, composition)


@torch.no_grad()
def _shares(model: ModularAddition, tokens: Tensor, layer: str, basis: FeatureMap) -> np.ndarray:
    """Share of each frequency in the variance of each feature, `[features, frequencies]`."""
    activation: Tensor = tokens
    for name in ("embed", "mid", "final"):
        if layer == "final.up" and name == "final":
            activation = model.final.up(activation)
        else:
            activation = model.get_submodule(name)(activation)
        if name == layer or (layer == "final.up" and name == "final"):
            break
    return frequency_shares(basis.encode(activation), tokens, model.modulus).numpy()


def matters(graph: itg.InteractionGraph) -> np.ndarray:
    """Which features hold more than a thousandth of some block's energy, bool `[nodes]`."""
    largest = np.zeros(graph.n_nodes)
    starts = graph.offsets
    for source, target in graph.pairs:
        energy = graph.weights(source, target).double().square()
        energy = energy / energy.sum()
        for layer, sums in ((source, energy.sum(0)), (target, energy.sum(1))):
            part = slice(starts[layer], starts[layer] + len(sums))
            largest[part] = np.maximum(largest[part], sums.numpy())
    return largest > SCORED


def tasks(seed: int) -> KnownGraph:
    """A network of independent tasks; numbers of the reporting set are a hundred larger."""
    recipe = multi_task.recipes(12)[seed % 100]._replace(seed=seed)
    return multi_task.known_graph(recipe)


def two_digits(seed: int, hidden: tuple[int, ...]) -> KnownGraph:
    """Two digits side by side: left and right."""
    net = itg.zoo.two_digits(seed, hidden=hidden)
    graph = itg.interaction_graph(net.model, [net.images], net.layers, folds=FOLDS, progress=False)
    truth = np.concatenate([net.truth[layer] for layer in net.layers])
    return KnownGraph(f"two digits, seed {seed}", graph, np.where(_joined(graph), truth, -1))


def planted_network(seed: int, cross_talk: float) -> KnownGraph:
    """Random weights with planted modules."""
    net = itg.zoo.planted_modules(seed, cross_talk=cross_talk)
    graph = itg.interaction_graph(net.model, [net.data], net.layers, folds=FOLDS, progress=False)
    truth = np.concatenate([net.truth[layer] for layer in net.layers])
    return KnownGraph(f"planted, cross-talk {cross_talk}, seed {seed}", graph, truth)


def superposition(seed: int, dependence: str) -> KnownGraph:
    """True dictionaries of two toy models of superposition, joined within four modules."""
    net = itg.zoo.superposition(seed, dependence=dependence, fan_in=4, n_modules=4)
    graph = itg.interaction_graph(
        net.model, [net.data], net.layers, features=net.dictionaries, folds=FOLDS, progress=False
    )
    own = np.arange(len(net.edges)) % 4
    truth = np.concatenate([own, [-1], own, [-1]])  # -1: what the dictionaries leave out
    return KnownGraph(f"superposition, {dependence}, seed {seed}", graph, truth)


class Union(nn.Module):
    """Two compiled programs side by side in one residual stream, each with tokens of its own.

    Token numbers `[b, 2, t]`; modules "0", "1", ... return the stream `[b, t, d]`, in the basis of
    the orthogonal matrix Q `[d, d]`.
    """

    def __init__(self, programs: tuple[CompiledProgram, CompiledProgram], q: Tensor) -> None:
        super().__init__()
        for number, name in enumerate(programs[0].layers):
            halves = [program.model.get_submodule(name) for program in programs]
            self.add_module(str(number), _Half(*halves, q))

    def forward(self, tokens: Tensor) -> Tensor:
        """See the class."""
        state = tokens
        for half in self.children():
            state = half(state)
        return state


class _Half(nn.Module):
    def __init__(self, first: nn.Module, second: nn.Module, q: Tensor) -> None:
        super().__init__()
        self.both = nn.ModuleList([first, second])
        self.q = q

    def forward(self, state: Tensor) -> Tensor:
        if not state.is_floating_point():
            parts = [half(state[:, k]) for k, half in enumerate(self.both)]
        else:
            widths = [half.width for half in self.both]
            parts = [
                half(part)
                for half, part in zip(self.both, (state @ self.q).split(widths, -1), strict=True)
            ]
        return torch.cat(parts, -1) @ self.q.mT


def programs(first: str, second: str, rotated: bool) -> KnownGraph:
    """Two programs in one transformer; modules are the programs.

    Every sequence of the one meets every sequence of the other, so that what the one holds is not
    related to what the other holds, which no rotation could tell apart.
    Axes as they are, or after a rotation of the stream, features by a local interaction basis then:
    a feature is of a program where that one holds 80 % of its direction. Features without an edge
    but to themselves are not scored.
    """
    both = itg.zoo.compiled(first), itg.zoo.compiled(second)
    draw = np.random.default_rng(len(first) + 100 * len(second))
    tokens = []
    for program in both:
        sequences = next(batch for batch in program.data if batch.shape[1] == 5)
        tokens.append(sequences[draw.permutation(len(sequences))[:SEQUENCES]])
    widths = [len(program.labels[program.layers[0]]) for program in both]
    for program, width in zip(both, widths, strict=True):
        for half in program.model.children():
            half.width = width
    d = sum(widths)
    q = random_orthogonal(d, 0) if rotated else torch.eye(d, dtype=torch.float64)
    model = Union(both, q).double()
    rows, columns = (torch.arange(len(some)) for some in tokens)
    pairs = torch.cartesian_prod(rows, columns)
    data = torch.stack([some[pairs[:, k]] for k, some in enumerate(tokens)], 1)
    layers = [str(number) for number in range(len(both[0].layers))]
    fitted = None
    if rotated:
        maps = {**dict.fromkeys(layers[:-1], LocalInteractionBasis()), layers[-1]: PCA()}
        fitted = itg.fit_features(model, [data], maps, progress=False)
    graph = itg.interaction_graph(
        model, [data], layers, features=fitted or "neurons", folds=FOLDS, progress=False
    )
    truth = []
    for layer in layers:
        directions = torch.eye(d, dtype=torch.float64)
        if fitted is not None:
            directions = fitted[layer].decoder.mT @ q
        share = directions[:, : widths[0]].square().sum(1) / directions.square().sum(1)
        of = torch.where(share >= OWN, 0, torch.where(share <= 1 - OWN, 1, -1))
        truth.append(of.numpy())
    known = np.where(_joined(graph, own=False), np.concatenate(truth), -1)
    return KnownGraph(f"{first} and {second}{', rotated' if rotated else ''}", graph, known)


def _joined(graph: itg.InteractionGraph, own: bool = True) -> np.ndarray:
    """Which features have an edge, bool `[nodes]`; without `own`, one to another number."""
    result = np.zeros(graph.n_nodes, bool)
    for source, target in graph.pairs:
        weight = graph.weights(source, target).abs()
        there = weight > 1e-6 * weight.max()
        if not own and there.shape[0] == there.shape[1]:
            there.fill_diagonal_(False)
        for layer, some in ((source, there.any(0)), (target, there.any(1))):
            start = graph.offsets[layer]
            result[start : start + len(some)] |= some.numpy()
    return result
