"""The sets of graphs that weightings are compared on."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from . import modular_addition as addition
from .arena_networks import ADDITION, trained_addition
from .graphs import KnownGraph
from .multi_task import known_graph, recipes
from .planted import LEVELS, planted

Graphs = dict[str, list[KnownGraph]]


def cached(folder: Path, name: str, make: Callable[[], list[KnownGraph]]) -> list[KnownGraph]:
    """Makes graphs once; the folder is this program's own, so that pickle is safe."""
    path = folder / f"{name}.pickle"
    if not path.exists():
        graphs = make()
        folder.mkdir(parents=True, exist_ok=True)
        plain = [(g.name, dict(g.graph.blocks), dict(g.graph.standard_errors), g.truth)
                 for g in graphs]  # fmt: skip
        plain = [
            (n, {p: dict(b) for p, b in x.items()}, {p: dict(b) for p, b in e.items()}, t)
            for n, x, e, t in plain
        ]
        path.write_bytes(pickle.dumps(plain))
    return [_restore(*item) for item in pickle.loads(path.read_bytes())]


def _restore(name: str, blocks: dict, errors: dict, truth: object) -> KnownGraph:
    from .graphs import chain

    strengths = next(iter(blocks.values()))
    graph = chain(
        {s: [block[s] for block in blocks.values()] for s in strengths},
        {s: [e[s] for e in errors.values()] for s in next(iter(errors.values()), {})},
    )
    return KnownGraph(name, graph, truth)


def planted_graphs(seeds: range = range(5)) -> Graphs:
    """Family -> its graphs."""
    return {f: [planted(f, r, s) for r in levels for s in seeds] for f, levels in LEVELS.items()}


def modular_addition_graphs(folder: Path) -> Graphs:
    """Published model and models trained here, each with both bases and both units of strength."""
    graphs = []
    if addition.REFERENCE.exists():
        graphs += cached(folder, "addition-published", _published)
    for modulus, seed in ADDITION["choosing"][-2:]:
        graphs += cached(
            folder, f"addition-{modulus}-{seed}", partial(_trained, folder, modulus, seed)
        )
    result: Graphs = {}
    for known in graphs:
        origin = "trained" if "seed" in known.name else "published"
        basis = known.name.split()[0]
        result.setdefault(f"{origin} {basis}", []).append(known)
        squared = {pair: block["squared"] for pair, block in known.graph.blocks.items()}
        errors = {pair: known.graph.standard_error(*pair) for pair in squared}
        amplitude = known.graph.replace(
            blocks={pair: {"rms": block.sqrt()} for pair, block in squared.items()},
            standard_errors={
                pair: {"rms": torch.where(block > 0, errors[pair] / (2 * block.sqrt()), 0)}
                for pair, block in squared.items()
            },
        )
        roots = KnownGraph(known.name, amplitude, known.truth)
        result.setdefault(f"{origin} {basis}, roots", []).append(roots)
    return result


def _published() -> list[KnownGraph]:
    model, seen, _ = addition.reference()
    return addition.known_graphs("113", model, seen)


def _trained(folder: Path, modulus: int, seed: int) -> list[KnownGraph]:
    model, seen = trained_addition(folder / "networks", modulus, seed)
    return addition.known_graphs(f"{modulus}, seed {seed}", model, seen)


def multi_task_graphs(folder: Path, n: int = 12) -> Graphs:
    """Networks trained on independent tasks."""
    return {"tasks": cached(folder, f"tasks-{n}", lambda: [known_graph(r) for r in recipes(n)])}
