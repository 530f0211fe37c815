"""The graph as igraph and networkx objects, built from arrays."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape

import igraph
import networkx
import numpy as np

from ..sparse import largest, n_nonzero
from .interaction_graph import InteractionGraph

__all__ = ["node_names", "to_html", "to_igraph", "to_networkx"]


def node_names(graph: InteractionGraph) -> list[str]:
    """Unique node names, "layer/number", in node order."""
    return [f"{layer}/{j}" for layer in graph.layers for j in range(graph.n_features[layer])]


def _node_attributes(graph: InteractionGraph) -> dict[str, list]:
    sizes = graph.n_features
    return {
        "label": [label for layer in graph.layers for label in graph.labels[layer]],
        "layer": [layer for layer in graph.layers for _ in range(sizes[layer])],
        "feature": [j for layer in graph.layers for j in range(sizes[layer])],
    }


def to_igraph(graph: InteractionGraph, strength: str | None = None) -> igraph.Graph:
    """See `InteractionGraph.to_igraph`."""
    edges = graph.edges(strength)
    ends = np.column_stack([edges.source, edges.target])
    view = igraph.Graph(n=graph.n_nodes, edges=ends, directed=True)
    view.vs["name"] = node_names(graph)
    for name, values in _node_attributes(graph).items():
        view.vs[name] = values
    view.es["weight"] = np.abs(edges.weight).tolist()
    if (edges.weight < 0).any():
        view.es["signed"] = edges.weight.tolist()
    return view


def to_networkx(graph: InteractionGraph, strength: str | None = None) -> networkx.DiGraph:
    """See `InteractionGraph.to_networkx`."""
    edges = graph.edges(strength)
    names = node_names(graph)
    view = networkx.DiGraph()
    attributes = _node_attributes(graph)
    view.add_nodes_from(
        (name, {"label": label, "layer": layer, "feature": feature})
        for name, label, layer, feature in zip(names, *attributes.values(), strict=True)
    )
    signed = bool((edges.weight < 0).any())
    order = np.lexsort((edges.target, edges.source))
    source, target = edges.source[order], edges.target[order]
    weights = edges.weight[order].tolist()
    with _no_garbage_collection():
        if signed:
            data = [{"weight": abs(w), "signed": w} for w in weights]
        else:
            data = [{"weight": w} for w in weights]
        by_source = np.array(data, dtype=object)
        _fill(view._succ, names, source, target, by_source)
        # The same dictionaries again, seen from the targets: networkx shares them between both.
        order = np.lexsort((source, target))
        _fill(view._pred, names, target[order], source[order], by_source[order])
    return view


def _fill(
    adjacency: dict, names: list[str], rows: np.ndarray, columns: np.ndarray, data: np.ndarray
) -> None:
    """Fills one direction of a networkx adjacency, one bulk update for each node."""
    if not len(rows):
        return
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    ends = np.append(starts[1:], len(rows))
    neighbours = np.array(names, dtype=object)[columns]
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        row = dict(zip(neighbours[start:end], data[start:end], strict=True))
        adjacency[names[rows[start]]].update(row)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Millions of small dictionaries make the collector scan all of them again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def to_html(graph: InteractionGraph) -> str:
    """A table for notebooks: pairs with their error figures, and the notes."""
    rows = []
    for source, target in graph.pairs:
        weight = graph.weights(source, target)
        residual = graph.completeness.get((source, target))
        cells = (
            f"{source} → {target}", f"{graph.n_features[source]} × {graph.n_features[target]}",
            f"{n_nonzero(weight)}", f"{largest(weight):.3g}",
            "" if residual is None else f"{residual:.1e}",
        )  # fmt: skip
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    head = ("pair", "features", "edges", f"largest {graph.strengths[0]}", "residual")
    notes = "".join(f"<li>{escape(note)}</li>" for note in graph.notes)
    return (
        "<table><thead><tr>" + "".join(f"<th>{escape(name)}</th>" for name in head)
        + f"</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        + (f"<ul>{notes}</ul>" if notes else "")
    )  # fmt: skip
