"""`interactgraph run`: from a trained network to a folder with everything."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import (
    add_build_flags,
    add_module_flags,
    add_pruning_flags,
    build_graph,
    check_module_flags,
    describe,
    find,
    pruned,
)

if TYPE_CHECKING:
    from ..communities import Partition
    from ..graph import InteractionGraph

__all__ = ["add", "execute", "write_folder"]

_MOST_EDGES = 200_000  # that are written without being asked for
_SHOWN = 10  # edges into each feature, where there are more


def add(commands: Any) -> argparse.ArgumentParser:
    """Adds the command's parser."""
    command: argparse.ArgumentParser = commands.add_parser(
        "run",
        help="graph, modules, files and a report in one go",
        description="Computes the graph, finds its modules and writes everything to a folder: "
        "graph.safetensors, modules.json, graph.gexf, node and edge tables, "
        "report.html, a picture.",
        epilog="example:\n  interactgraph run model.py:net data.py:loader --layers input 0 2 4 "
        "--top-k-per-target 20 -o results\n\nModules are found on the whole graph; pruning applies "
        f"to graph.gexf and the tables (unasked, of more than {_MOST_EDGES} edges the {_SHOWN} "
        "strongest into each feature).",
    )
    add_build_flags(command)
    add_module_flags(command)
    add_pruning_flags(command)
    command.add_argument("-o", "--output", default="interactgraph-run", metavar="DIR")
    return command


def execute(options: argparse.Namespace) -> None:
    """Runs the command."""
    from ..distributed import leave_world
    from ..sparse import n_nonzero
    from .info import describe_graph
    from .output import check_writable

    folder = Path(options.output)
    check_writable(folder / "graph.safetensors")
    check_module_flags(options)
    graph = build_graph(options)
    if not leave_world():
        return
    graph.save(folder / "graph.safetensors")  # before anything else can fail
    print(describe_graph(graph))
    partition = find(graph, options)
    print(describe(partition, graph))
    shown = pruned(graph, options)
    n_edges = sum(n_nonzero(shown.weights(*pair)) for pair in shown.pairs)
    if shown is graph and n_edges > _MOST_EDGES:
        shown = graph.prune(top_k_per_target=_SHOWN, strength=options.strength)
        print(
            f"the graph has {n_edges} edges; graph.gexf and the tables show the {_SHOWN} strongest "
            "into each feature (--top-k-per-target, --top-k or --threshold choose others)"
        )
    paths = write_folder(
        folder, graph, shown, partition, options.strength, progress=not options.no_progress
    )
    for path in paths:
        print(f"wrote {path}")


def write_folder(
    folder: Path,
    graph: InteractionGraph,
    shown: InteractionGraph,
    partition: Partition,
    strength: str | None = None,
    progress: bool = True,
    **results: Any,
) -> list[Path]:
    """Writes graph, modules, exports, the report and, where matplotlib is there, the picture.

    Args:
        folder: where to.
        graph: the whole graph.
        shown: the graph to export, pruned or not.
        partition: its modules.
        strength: which strength is the weight.
        progress: show a bar where an export takes long.
        **results: what else the report shows, as `write_report` takes it.

    Returns:
        The files.
    """
    from ..errors import InteractGraphError
    from ..exporters import export
    from ..report import draw, write_report

    graph.save(folder / "graph.safetensors")
    partition.save(folder / "modules.json")
    paths = [folder / "graph.safetensors", folder / "modules.json"]
    for name in ("graph.gexf", "graph.csv"):
        paths += export(
            shown, folder / name, partition=partition, strength=strength, progress=progress
        )
    paths.append(write_report(graph, folder / "report.html", partition=partition, **results))
    try:
        paths.append(draw(graph, folder / "graph.png", partition=partition, strength=strength))
    except InteractGraphError as error:
        print(f"no picture: {error}")
    return paths
