"""`interactgraph report`: a graph file -> a page to look at."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .options import add_group_flag, read_graph

if TYPE_CHECKING:
    from ..communities import Partition, ResolutionProfile
    from ..graph import InteractionGraph
    from ..report import Curve
    from ..validation import ModuleEffect

__all__ = ["add", "execute"]


def add(commands: Any) -> argparse.ArgumentParser:
    """Adds the command's parser."""
    command: argparse.ArgumentParser = commands.add_parser(
        "report",
        help="write a page to look at a graph",
        description="Writes one HTML file that shows a graph and its modules in any browser, "
        "without a network: layers, features, strongest edges, modules, figures of the run.",
        epilog="examples:\n"
        "  interactgraph report graph.safetensors -m modules.json -o report.html\n"
        "  interactgraph report graph.safetensors -m modules.json --profile "
        "--ablation ablation/edge_ablation.json",
    )
    command.add_argument("graph", metavar="GRAPH", help="a graph file")
    command.add_argument(
        "-m", "--modules", metavar="FILE",
        help="modules that `modules` wrote; default: they are found now",
    )  # fmt: skip
    command.add_argument("-o", "--output", default="report.html", metavar="FILE")
    add_group_flag(command)
    command.add_argument(
        "--ablation", nargs="+", default=[], metavar="FILE",
        help="what `ablate -o` wrote, of edges, of modules or both",
    )  # fmt: skip
    command.add_argument(
        "--profile", action="store_true", help="also modules at other resolutions (takes a while)"
    )
    command.add_argument(
        "--n-edges", type=int, metavar="N",
        help="edges of each strength in the page at most (default: 50000)",
    )  # fmt: skip
    return command


def execute(options: argparse.Namespace) -> None:
    """Runs the command."""
    from ..communities import find_modules, load_partition
    from ..report import MOST_EDGES, read_ablation, write_report
    from .output import check_writable

    check_writable(options.output)
    graph = read_graph(options.graph, options.group)
    curves: dict[tuple[str, str], Curve] = {}
    effects: list[ModuleEffect] = []
    for file in options.ablation:
        more_curves, more_effects = read_ablation(file)
        curves |= more_curves
        effects += more_effects
    partition = find_modules(graph) if options.modules is None else load_partition(options.modules)
    profile = _profile(graph, partition) if options.profile else None
    path = write_report(
        graph, options.output, partition=partition, profile=profile, curves=curves,
        effects=effects, n_edges=MOST_EDGES if options.n_edges is None else options.n_edges,
    )  # fmt: skip
    print(f"wrote {path}; open it in a browser")


def _profile(graph: InteractionGraph, partition: Partition) -> ResolutionProfile:
    """Modules at other resolutions, found as those of the page were."""
    from ..communities import resolution_profile
    from ..communities.self_edges import self_edges_of

    found_with = {
        name: value
        for name in ("null", "weighting", "seed")
        if (value := getattr(partition, name)) not in (None, "")
    }
    found_with |= {
        name: partition.details[name]
        for name in ("block_weight", "algorithm")
        if name in partition.details
    }
    return resolution_profile(
        graph, partition.strength or None, self_edges=self_edges_of(partition), **found_with
    )
