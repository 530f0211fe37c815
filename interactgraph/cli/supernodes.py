"""`interactgraph supernodes`: groups of the features of an attribution graph."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import InteractGraphError
from .options import add_seed_flag

__all__ = ["add", "execute"]


def add(commands: Any) -> argparse.ArgumentParser:
    """Adds the command's parser."""
    command: argparse.ArgumentParser = commands.add_parser(
        "supernodes",
        help="group the features of an attribution graph",
        description="Groups features of an attribution graph (JSON of circuit-tracer or "
        "Neuronpedia) that read from and write to the same places, and adds the groups to "
        "qParams.supernodes in a copy of the file; nothing else is changed.",
        epilog="example:\n  interactgraph supernodes graph.json -o grouped.json --page groups.html",
    )
    command.add_argument("graph", metavar="IN.json", help="an attribution graph; .json or .json.gz")
    command.add_argument("-o", "--output", default="supernodes.json", metavar="FILE")
    command.add_argument(
        "--among", default="auto", choices=["auto", "all", "pinned"],
        help="which features are grouped (default: the pinned ones, all where none are)",
    )  # fmt: skip
    command.add_argument(
        "--min-confidence", type=float, default=0.0, metavar="SHARE",
        help="leave out groups below (default: 0)",
    )  # fmt: skip
    command.add_argument(
        "--n-runs", type=int, default=4, help="runs; the best is kept (default: 4)"
    )
    command.add_argument(
        "--page", metavar="FILE.html", help="also write a page that shows the graph and its groups"
    )
    add_seed_flag(command)
    return command


def execute(options: argparse.Namespace) -> None:
    """Runs the command."""
    from ..circuits import (
        as_interaction_graph,
        load_attribution_graph,
        save_supernodes,
        supernodes,
    )
    from ..report import write_report
    from .output import check_writable

    check_writable(options.output)
    if options.page is not None:
        if Path(options.page).resolve() == Path(options.output).resolve():
            raise InteractGraphError(f"--output and --page are both {options.page}; give two files")
        check_writable(options.page)
    graph = load_attribution_graph(options.graph)
    groups = supernodes(
        graph, among=options.among, min_confidence=options.min_confidence, n_runs=options.n_runs,
        seed=options.seed,
    )  # fmt: skip
    save_supernodes(graph, groups, options.output)
    print(
        f"{len(graph.ids)} nodes, {len(graph.features)} of them features, "
        f"{len(graph.source)} links, {len(graph.supernodes)} groups in the file"
    )
    if groups:
        print("confidence  features  label")
    for group in groups:
        print(f"{group.confidence:>10.2f}  {len(group.ids):>8}  {group.label}")
    pinned = set(graph.pinned.tolist())
    loose = sum(k not in pinned for group in groups for k in group.members)
    if loose:
        print(f"{loose} members are not pinned; Neuronpedia draws pinned ones only")
    print(f"{len(groups)} groups suggested; wrote {options.output}")
    if options.page is not None:
        shown, partition = as_interaction_graph(graph, groups)
        write_report(shown, options.page, partition=partition)
        print(f"wrote {options.page}; open it in a browser")
