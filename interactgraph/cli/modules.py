"""`interactgraph modules`: a graph file -> its modules."""

from __future__ import annotations

import argparse
from typing import Any

from .options import (
    add_group_flag,
    add_module_flags,
    add_pruning_flags,
    describe,
    find,
    pruned,
    read_graph,
)

__all__ = ["add", "execute"]


def add(commands: Any) -> argparse.ArgumentParser:
    """Adds the command's parser."""
    command: argparse.ArgumentParser = commands.add_parser(
        "modules",
        help="find the modules of a graph",
        description="Finds the modules of a graph, prints them and saves them as JSON.",
        epilog="examples:\n  interactgraph modules graph.safetensors -o modules.json\n"
        "  interactgraph modules graph.safetensors --n-modules 4 --tree\n"
        "  interactgraph modules graph.safetensors --resolution 0.7 --profile",
    )
    command.add_argument("graph", metavar="GRAPH", help="a graph file")
    command.add_argument("-o", "--output", default="modules.json", metavar="FILE")
    add_group_flag(command)
    add_module_flags(command)
    command.add_argument(
        "--profile", action="store_true",
        help="also a table of resolutions: modules, quality, agreement of runs, plateaus",
    )  # fmt: skip
    command.add_argument("--tree", action="store_true", help="also the modules inside modules")
    add_pruning_flags(command)
    return command


def execute(options: argparse.Namespace) -> None:
    """Runs the command."""
    from ..communities import module_tree, resolution_profile
    from .output import check_writable

    check_writable(options.output)
    graph = pruned(read_graph(options.graph, options.group), options)
    partition = find(graph, options)
    partition.save(options.output)
    print(describe(partition, graph))
    if options.profile:
        profile = resolution_profile(
            graph, options.strength, null=options.null, n_runs=options.n_runs, seed=options.seed,
            weighting=partition.weighting, algorithm=options.algorithm,
        )  # fmt: skip
        print(f"\n{profile.summary()}")
    if options.tree:
        print(f"\n{module_tree(graph, partition).summary()}")
    print(f"wrote {options.output}")
