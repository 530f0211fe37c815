"""`interactgraph demo`: trains a small network on real data and runs everything."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import describe

if TYPE_CHECKING:
    from torch import Tensor

    from ..communities import Partition
    from ..graph import InteractionGraph
    from ..validation import ModuleEffect
    from ..zoo.two_digits import TwoDigits

__all__ = ["add", "execute"]

_SHOWN = 8  # edges into each feature in graph.gexf and the tables
_BATCH = 256
_TOLERANCE = 0.005  # accuracy that may be lost with fewer edges


def add(commands: Any) -> argparse.ArgumentParser:
    """Adds the command's parser."""
    command: argparse.ArgumentParser = commands.add_parser(
        "demo",
        help="train a small network on real data and find its modules",
        description="Trains a network that reads two handwritten digits side by side and gives two "
        "answers, so that nothing has to cross between the halves; builds the graph from pixels to "
        "classes, finds its modules and says how they compare with what is known.",
        epilog="example:\n  interactgraph demo -o interactgraph-demo",
    )
    command.add_argument("-o", "--output", default="interactgraph-demo", metavar="DIR")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--no-progress", action="store_true", help="no progress bar")
    return command


def execute(options: argparse.Namespace) -> None:
    """Runs the command."""
    from .. import find_modules, interaction_graph
    from ..zoo.two_digits import two_digits
    from .info import describe_graph
    from .output import check_writable
    from .run import write_folder

    folder = Path(options.output)
    check_writable(folder / "graph.safetensors")
    started = time.perf_counter()
    print("training a network on pairs of handwritten digits ...", flush=True)
    task = two_digits(options.seed)
    left, right = task.accuracy
    print(f"held-out accuracy: {left:.1%} left, {right:.1%} right\n")

    graph = interaction_graph(
        task.model, task.images, task.layers, strengths=("rms", "mean"), labels=task.labels,
        progress=not options.no_progress,
    )  # fmt: skip
    print(describe_graph(graph))
    print("\nmodules:")
    partition = find_modules(graph, seed=options.seed)
    print(describe(partition, graph))
    print(compare(partition, task))

    print("\nwhat the network can no longer do without a module, and with fewer edges:")
    results = validate(graph, partition, task)
    for effect in results["effects"]:
        print(f"module {effect.module}: " + "; ".join(_drops(effect)))
    for pair, curve in results["curves"].items():
        print(f"{' -> '.join(pair)}: needs {curve.n_edges} of {curve.kept.numel()} edges")

    print()
    shown = graph.prune(top_k_per_target=_SHOWN)
    written = write_folder(
        folder, graph, shown, partition, progress=not options.no_progress, **results
    )
    for path in written:
        print(f"wrote {path}")
    print(f"\ndone in {time.perf_counter() - started:.1f} s; open {folder / 'report.html'} in a")
    print(f"browser, or {folder / 'graph.gexf'} in Gephi (it shows the {_SHOWN} strongest edges")
    print("into each feature; positions, colours and sizes are set, the partition is the attribute")
    print("'module')")


def validate(graph: InteractionGraph, partition: Partition, task: TwoDigits) -> dict[str, Any]:
    """Profile, curves and effects for the report, on the held-out images."""
    from .. import ablate_modules, edges_required, resolution_profile

    data = list(zip(task.images.split(_BATCH), task.answers.split(_BATCH), strict=True))
    sides = ("left", "right")

    def answers(side: int) -> Any:
        return lambda output, batch, intact: _right(output, batch[1], side)

    def both(output: Tensor, batch: Any, intact: Tensor) -> Tensor:
        return (_right(output, batch[1], 0) + _right(output, batch[1], 1)) / 2

    return {
        "profile": resolution_profile(graph),
        "effects": ablate_modules(
            graph, partition, task.model, data, progress=False,
            measures={f"{name} answer": answers(side) for side, name in enumerate(sides)},
        ),
        "curves": {
            (source, target): edges_required(
                graph, task.model, data, source, target, measure=both, tolerance=_TOLERANCE,
                progress=False,
            )
            for source, target in graph.pairs
        },
    }  # fmt: skip


def _right(output: Tensor, classes: Tensor, side: int) -> Tensor:
    """Whether the answer for one half is right, 0 or 1 for each sample."""
    logits = output.unflatten(1, (2, -1))[:, side]
    return (logits.argmax(1) == classes[:, side]).double()


def _drops(effect: ModuleEffect) -> list[str]:
    """In words, how much each answer loses without a module."""
    return [
        f"{name} {effect.intact[name]:.1%} -> {effect.intact[name] - drop:.1%} "
        f"(random sets: {effect.intact[name] - sum(controls) / len(controls):.1%})"
        for name, drop in effect.effect["features"].items()
        if (controls := effect.control["features"][name])
    ]


def compare(partition: Partition, task: TwoDigits) -> str:
    """How modules compare with the halves that features are known to serve."""
    import numpy as np

    from ..communities import adjusted_rand_index

    modules = np.concatenate([partition.membership[layer] for layer in task.layers])
    known = np.concatenate([task.truth[layer] for layer in task.layers])
    both = (modules >= 0) & (known >= 0)
    counts = [
        np.bincount(known[both & (modules == m)], minlength=2) for m in np.unique(modules[both])
    ]
    same = sum(int(count.max()) for count in counts)
    score = adjusted_rand_index(known[both], modules[both])
    hidden = sum(int((task.truth[layer] < 0).sum()) for layer in task.layers)
    return (
        f"of {int(both.sum())} features known to serve one half, {same} are in a module of that "
        f"half (adjusted Rand index with the two halves {score:.2f}); {hidden} hidden units serve "
        "both or none"
    )
