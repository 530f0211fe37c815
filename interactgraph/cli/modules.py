"""`interactgraph modules`: a graph file -> its modules."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import (
    add_group_flag,
    add_module_flags,
    add_pruning_flags,
    describe,
    find,
    pruned,
    read_graph,
)

if TYPE_CHECKING:
    from ..communities import ModuleFlow

__all__ = ["add", "execute"]


def add(commands: Any) -> argparse.ArgumentParser:
    """Adds the command's parser."""
    command: argparse.ArgumentParser = commands.add_parser(
        "modules",
        help="find the modules of a graph",
        description="Finds the modules of a graph, prints them and saves them as JSON.",
        epilog="examples:\n  interactgraph modules graph.safetensors -o modules.json\n"
        "  interactgraph modules graph.safetensors --n-modules 4 --tree\n"
        "  interactgraph modules graph.safetensors --resolution 0.7 --profile\n"
        "  interactgraph modules graph.safetensors -o modules.json --flow",
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
    command.add_argument(
        "--flow", action="store_true",
        help="also what goes from module to module: a table and an alluvial picture beside FILE",
    )  # fmt: skip
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
            self_edges=options.self_edges, weighting=partition.weighting,
            algorithm=options.algorithm,
        )  # fmt: skip
        print(f"\n{profile.summary()}")
    if options.tree:
        print(f"\n{module_tree(graph, partition).summary()}")
    print(f"wrote {options.output}")
    if options.flow:
        _flow(partition.flow(graph), Path(options.output))


def _flow(flow: ModuleFlow, output: Path) -> None:
    """Prints what goes from module to module, and writes its table and its picture."""
    from ..errors import InteractGraphError

    table, picture = (output.with_name(f"{output.stem}_flow.{suffix}") for suffix in ("csv", "svg"))
    flow.save(table)
    print(f"\n{flow.summary()}\nwrote {table}")
    try:
        flow.plot(picture)
        print(f"wrote {picture}")
    except InteractGraphError as error:
        print(f"no picture: {error}")
