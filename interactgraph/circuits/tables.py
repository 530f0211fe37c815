"""An attribution graph for viewers: a table of its nodes, or an interaction graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..communities import Partition
from ..graph import InteractionGraph
from .attribution_graph import AttributionGraph
from .suggest import Supernode

__all__ = ["as_interaction_graph", "node_table"]


def _group_of(graph: AttributionGraph, groups: Sequence[Supernode]) -> tuple[list[str], np.ndarray]:
    """Labels of the file's groups and of these, and the group of each node, -1 for none."""
    names: list[str] = []
    group = np.full(len(graph.ids), -1, np.int64)
    for entry in graph.supernodes:
        group[graph.numbers(entry[1:])] = len(names)
        names.append(entry[0])
    for one in groups:
        group[list(one.members)] = len(names)
        names.append(one.label)
    return names, group


def node_table(
    graph: AttributionGraph, groups: Sequence[Supernode] = ()
) -> dict[str, list[dict[str, Any]]]:
    """Nodes and edges of a graph as plain values.

    Args:
        graph: the graph.
        groups: suggestions; the groups of the file come first.

    Returns:
        "nodes": one entry each, with id, label, layer, depth, position, token, kind and group (a
        label, or None); "edges": source and target (places in "nodes") and weight.
    """
    names, group = _group_of(graph, groups)
    tokens = graph.metadata.get("prompt_tokens")
    tokens = tokens if isinstance(tokens, list) else []
    nodes = [
        {
            "id": graph.ids[k], "label": graph.labels[k], "layer": graph.layers[k],
            "depth": int(graph.depth[k]), "position": int(graph.positions[k]),
            "token": tokens[p] if (p := int(graph.positions[k])) < len(tokens) else None,
            "kind": graph.kinds[k], "group": names[group[k]] if group[k] >= 0 else None,
        }
        for k in range(len(graph.ids))
    ]  # fmt: skip
    edges = [
        {"source": a, "target": b, "weight": w}
        for a, b, w in zip(
            graph.source.tolist(), graph.target.tolist(), graph.weight.tolist(), strict=True
        )
    ]
    return {"nodes": nodes, "edges": edges}


def as_interaction_graph(
    graph: AttributionGraph, groups: Sequence[Supernode] = ()
) -> tuple[InteractionGraph, Partition]:
    """The graph as the exporters and viewers of this library take it.

    Nodes of one depth are the features of a layer, "embeddings", "0", "1", ..., "logits"; the
    strength is "mean", which has a sign: the attribution. Links within a depth are left out.

    Args:
        graph: the graph.
        groups: suggestions; groups of the file count, too.

    Returns:
        The graph, and its supernodes as modules.

    Example:
        >>> import interactgraph as itg
        >>> content = itg.zoo.planted_attribution_graph(1).content
        >>> attribution = itg.circuits.AttributionGraph.from_content(content)
        >>> graph, partition = itg.circuits.as_interaction_graph(attribution)
        >>> graph.layers[0], graph.layers[-1], graph.strengths
        ('embeddings', 'logits', ('mean',))
    """
    order = np.argsort(graph.depth, kind="stable")
    depths = np.unique(graph.depth).tolist()
    top = max((d for d, kind in zip(graph.depth.tolist(), graph.kinds, strict=True)
               if kind == "logit"), default=None)  # fmt: skip
    name = {d: "embeddings" if d < 0 else "logits" if d == top else str(d) for d in depths}
    nodes = {d: order[graph.depth[order] == d] for d in depths}
    labels = {name[d]: [graph.labels[k] or graph.ids[k] for k in nodes[d].tolist()] for d in depths}
    matrix = graph.matrix
    blocks = {}
    for target in depths:
        rows = matrix[nodes[target]]
        for source in depths:
            block = rows[:, nodes[source]]
            if source != target and block.nnz:
                dense = torch.from_numpy(np.asarray(block.toarray()))
                blocks[name[source], name[target]] = {"mean": dense}
    result = InteractionGraph(
        layers=tuple(name[d] for d in depths), pairs=tuple(blocks), labels=labels, blocks=blocks,
        metadata={"attribution_graph": dict(graph.metadata)},
    )  # fmt: skip
    _, group = _group_of(graph, groups)
    return result, Partition.from_labels(
        group[order], result.n_features, quality=float("nan"), strength="mean"
    )
