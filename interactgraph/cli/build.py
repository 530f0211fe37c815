"""`interactgraph build`: a trained network and data -> a graph file."""

from __future__ import annotations

import argparse
from typing import Any

from .options import add_build_flags, build_graph

__all__ = ["add", "execute"]


def add(commands: Any) -> argparse.ArgumentParser:
    """Adds the command's parser."""
    command: argparse.ArgumentParser = commands.add_parser(
        "build",
        help="compute interaction strengths and save the graph",
        description="Computes interaction strengths between layers and saves the graph.",
        epilog="example:\n  interactgraph build model.py:net data.py:loader "
        "--layers input 0 2 4 --strengths rms mean -o graph.safetensors\n"
        "several processes, each with a part of the batches:\n"
        "  torchrun --nproc-per-node 2 -m interactgraph build model.py:net data.py:loader "
        "--layers input 0 2 4",
    )
    add_build_flags(command)
    command.add_argument("-o", "--output", default="graph.safetensors", metavar="FILE")
    return command


def execute(options: argparse.Namespace) -> None:
    """Runs the command."""
    from ..distributed import leave_world
    from .info import describe_graph
    from .output import check_writable

    check_writable(options.output)
    graph = build_graph(options)
    if not leave_world():
        return
    graph.save(options.output)
    print(describe_graph(graph))
    print(f"wrote {options.output}")
