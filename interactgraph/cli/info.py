"""`interactgraph info`: what a graph file holds."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..graph import InteractionGraph

__all__ = ["add", "describe_graph", "execute"]


def add(commands: Any) -> argparse.ArgumentParser:
    """Adds the command's parser."""
    command: argparse.ArgumentParser = commands.add_parser(
        "info",
        help="show what a graph file holds",
        description="Shows what a graph file holds: layers, strengths, errors, the recipe.",
        epilog="example:\n  interactgraph info graph.safetensors --json | jq .plans",
    )
    command.add_argument("graph", metavar="GRAPH", help="a graph file")
    command.add_argument("--json", action="store_true", help="the full recipe as JSON")
    return command


def execute(options: argparse.Namespace) -> None:
    """Runs the command."""
    from ..graph import load

    graph = load(options.graph)
    print(json.dumps(dict(graph.metadata), indent=2) if options.json else describe_graph(graph))


def describe_graph(graph: InteractionGraph) -> str:
    """A few lines: layers, pairs with their error figures, what to know about the run."""
    recipe = graph.metadata
    lines = []
    for layer, n in graph.n_features.items():
        remark = graph.features[layer].remark if layer in graph.features else ""
        lines.append(f"{layer}: {n} features" + (f" ({remark})" if remark else ""))
    if "n_samples" in recipe:
        lines.append(
            f"{recipe['method']} of {recipe['model']} over {recipe['n_samples']} samples, "
            f"strengths {', '.join(graph.strengths)}, {recipe['seconds']} s"
        )
    plans = recipe.get("plans", [])
    for number, (source, target) in enumerate(graph.pairs):
        text = f"{source} -> {target}:"
        if number < len(plans):
            text += f" {plans[number]['engine']} ({plans[number]['method']})"
            if "sources_per_sample" in plans[number]:
                drawn, n = plans[number]["sources_per_sample"], graph.n_features[source]
                text += f", {drawn:g} of {n} source features a sample"
            if "positions_per_sample" in plans[number]:
                text += f", {plans[number]['positions_per_sample']:g} target positions a sample"
        if (source, target) in graph.completeness:
            text += f", completeness residual {graph.completeness[source, target]:.1e}"
        lines.append(text + f", {typical_error(graph, source, target)}")
    if graph.groups:
        sizes = [f"{n} ({g.metadata.get('n_samples')} samples)" for n, g in graph.groups.items()]
        lines.append(f"groups: {', '.join(sizes)}")
    if graph.folds:
        lines.append(f"{len(graph.folds)} folds")
    lines += [f"note: {note}" for note in graph.notes]
    return "\n".join(lines)


def typical_error(graph: InteractionGraph, source: str, target: str) -> str:
    """The error of strong edges in words."""
    from ..report import strong_edge_error
    from ..sparse import n_nonzero

    if not n_nonzero(graph.weights(source, target)):
        return "no edges"
    error = strong_edge_error(graph, source, target)
    return "no standard error" if error is None else f"standard error of strong edges {error:.1%}"
