"""`interactgraph export`: a graph file -> a file for another tool."""

from __future__ import annotations

import argparse
from typing import Any

from .options import add_group_flag, add_pruning_flags, pruned, read_graph

__all__ = ["add", "execute"]


def add(commands: Any) -> argparse.ArgumentParser:
    """Adds the command's parser."""
    command: argparse.ArgumentParser = commands.add_parser(
        "export",
        help="write a graph for other tools",
        description="Writes a graph for other tools; the suffix of OUTPUT names the format: "
        ".gexf (Gephi), .graphml, .csv and .parquet (node and edge tables), .json (node-link), "
        ".cyjs (Cytoscape), .npz (matrix), .dot (Graphviz); all text but .dot may end in .gz.",
        epilog="example:\n  interactgraph export graph.safetensors graph.gexf "
        "--modules modules.json --top-k-per-target 10",
    )
    command.add_argument("graph", metavar="GRAPH", help="a graph file")
    command.add_argument("output_file", metavar="OUTPUT", help="the file to write")
    command.add_argument("--modules", metavar="FILE", help="modules that `modules` wrote")
    command.add_argument("--strength", help="which strength is the weight; default: the first")
    add_group_flag(command)
    add_pruning_flags(command)
    command.add_argument("--no-progress", action="store_true", help="no progress bar")
    return command


def execute(options: argparse.Namespace) -> None:
    """Runs the command."""
    from ..communities import load_partition
    from ..exporters import export

    graph = pruned(read_graph(options.graph, options.group), options)
    partition = None if options.modules is None else load_partition(options.modules)
    paths = export(
        graph, options.output_file, partition=partition, strength=options.strength,
        progress=not options.no_progress,
    )  # fmt: skip
    for path in paths:
        print(f"wrote {path}")
