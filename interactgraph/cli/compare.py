"""`interactgraph compare`: two graph files side by side."""

from __future__ import annotations

import argparse
from typing import Any

__all__ = ["add", "execute"]


def add(commands: Any) -> argparse.ArgumentParser:
    """Adds the command's parser."""
    command: argparse.ArgumentParser = commands.add_parser(
        "compare",
        help="put two graphs or two sets of modules side by side",
        description="Compares two graphs of the same layers, pair by pair (rank correlation, "
        "overlap of the strongest edges, relative difference; features of different bases are "
        "matched by their directions), two groups of samples of one graph, "
        "or two partitions that `interactgraph modules` wrote (.json): matched modules, agreement, "
        "what moved.",
        epilog="example: do gradients along the whole path differ from those at the end point?\n"
        "  interactgraph build model.py:net data.py:loader --layers input 1 -o path.safetensors\n"
        "  interactgraph build model.py:net data.py:loader --layers input 1 --method gradient \\\n"
        "      -o point.safetensors\n"
        "  interactgraph compare path.safetensors point.safetensors\n"
        "which connections differ between two classes?\n"
        "  interactgraph build model.py:net data.py:loader --layers input 1 --groups 1 -o g\n"
        "  interactgraph compare g --groups 3 5",
    )
    command.add_argument("graph", metavar="GRAPH", help="a graph file, or modules.json")
    command.add_argument("other", metavar="OTHER", nargs="?", help="another one")
    command.add_argument(
        "--groups", nargs=2, metavar=("ONE", "OTHER"), help="two groups of samples of GRAPH"
    )
    command.add_argument(
        "--graphs", nargs=2, metavar=("ONE", "OTHER"),
        help="the graph files of two modules.json, where their features differ: features are then "
        "matched by their directions",
    )  # fmt: skip
    command.add_argument("--strength", help="which strength; default: the first")
    command.add_argument("--top-k", type=int, default=100, help="strongest edges (default: 100)")
    return command


def execute(options: argparse.Namespace) -> None:
    """Runs the command."""
    from ..errors import InteractGraphError
    from ..graph import compare, differences
    from .options import read_graph

    if (options.other is None) == (options.groups is None):
        raise InteractGraphError("give a second graph file, or --groups with two groups of GRAPH")
    if options.other is not None and options.graph.endswith(".json"):
        from ..communities import Partition
        from ..communities import compare as compare_partitions

        one_partition, other_partition = map(Partition.load, (options.graph, options.other))
        graphs = None
        if options.graphs is not None:
            graphs = (read_graph(options.graphs[0]), read_graph(options.graphs[1]))
        print(compare_partitions(one_partition, other_partition, graphs).summary())
        return
    if options.graphs is not None:
        raise InteractGraphError("--graphs belongs to two modules.json; give those as GRAPH, OTHER")
    if options.groups:
        one, other = (read_graph(options.graph, name) for name in options.groups)
    else:
        one, other = read_graph(options.graph), read_graph(options.other)
    comparison = compare(one, other, strength=options.strength, top_k=options.top_k)
    print("pair                      rank correlation  strongest in common  relative difference")
    for row in comparison:
        print(
            f"{' -> '.join(row.pair):<25} {row.rank_correlation:>16.4f}  "
            f"{row.overlap:>13.1%} of {row.k:<3}  {row.difference:>18.2%}"
        )
        if min(row.cosines) < 1 - 1e-6:
            print(
                f"  features matched by direction, mean |cosine| {row.cosines[0]:.2f} (sources) "
                f"and {row.cosines[1]:.2f} (targets)"
            )
    if options.groups:
        print("edges that differ most, in standard errors")
        for edge in differences(one, other, strength=options.strength):
            print(
                f"{edge.source} -> {edge.target}: {edge.one:.4g} and {edge.other:.4g}, "
                f"z = {edge.z:+.1f}"
            )
