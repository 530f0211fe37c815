"""Graphs for the report."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from interactgraph.communities import Partition
from interactgraph.features import Examples
from interactgraph.graph import InteractionGraph

HOSTILE = [
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "<!-- <script>",
    "\"quotes\" 'and' `ticks` & &amp; \\u003c ${window.hacked = 1}",
    "tab\tline\nnull\x00escape\x1b[31m",
    "\u202ertl override \u05e9\u05dc\u05d5\u05dd",
    "lone \ud800 surrogate \udfff",
    "line \u2028 and paragraph \u2029 separators",
    "long " + "x" * 10_000,
    "{{data}} {{script}} {{policy}}",
    "",
]


def make_graph(sizes=(11, 8, 6), labels=None, seed=0, density=0.6):
    """Three layers, two strengths, standard errors, examples, a feature without edges."""
    g = torch.Generator().manual_seed(seed)
    layers = [f"block.layer.{n}" for n in range(len(sizes))]
    pairs = list(pairwise(layers))
    blocks, errors = {}, {}
    for (a, b), n, m in zip(pairs, sizes, sizes[1:], strict=False):
        mean = torch.randn(m, n, generator=g) * (torch.rand(m, n, generator=g) < density)
        mean[:, 0] = 0
        blocks[a, b] = {"rms": mean.abs() * 1.3, "mean": mean}
        errors[a, b] = {"rms": mean.abs() * 0.1}
    names = {
        a: [f"{a}:{j}" if labels is None else labels[j % len(labels)] for j in range(n)]
        for a, n in zip(layers, sizes, strict=True)
    }
    examples = {
        a: Examples(
            torch.ones(1, n), torch.arange(n)[None], torch.zeros(1, n).long(),
            {} if labels is None else {(j, 0): labels[j % len(labels)] for j in range(n)},
        )
        for a, n in zip(layers, sizes, strict=True)
    }  # fmt: skip
    return InteractionGraph(
        layers=layers, pairs=pairs, labels=names, blocks=blocks, standard_errors=errors,
        examples=examples, completeness=dict.fromkeys(pairs, 1e-3),
        metadata={"model": "a.Net", "n_samples": 7, "seconds": 1.5, "method": "gradient",
                  "notes": ["a note"], "plans": [{"engine": "forward", "method": "columns"}] * 2},
    )  # fmt: skip


def make_partition(graph, n_modules=2):
    """Every n-th feature together; the first of each layer in no module."""
    membership = {}
    for layer, n in graph.n_features.items():
        membership[layer] = np.arange(n) % n_modules
        membership[layer][0] = -1
    confidence = {layer: np.full(n, 0.75) for layer, n in graph.n_features.items()}
    n_modules = max(int(numbers.max()) for numbers in membership.values()) + 1
    affinity = {layer: np.full((n, n_modules), 0.3) for layer, n in graph.n_features.items()}
    interval = {layer: np.stack([a - 0.1, a + 0.1], 2) for layer, a in affinity.items()}
    return Partition(membership, 0.4, 0.9, 0.01, 2.3, confidence=confidence, strength="rms",
                     affinity=affinity, affinity_interval=interval,
                     details={"resolutions": {"0.5": 5.0, "1.0": 6.0},
                              "resolution_excess": {"0.5": 1.0, "1.0": 2.0}})  # fmt: skip


@pytest.fixture
def graph():
    return make_graph()


@pytest.fixture
def partition(graph):
    return make_partition(graph)


@pytest.fixture
def hostile_graph():
    """Labels, samples, layer names and notes that try to break out of the page."""
    graph = make_graph(labels=HOSTILE)
    return graph.replace(
        metadata={**graph.metadata, "notes": list(HOSTILE), "model": HOSTILE[0], "x": HOSTILE[1]}
    )


@pytest.fixture
def hostile():
    return HOSTILE


@pytest.fixture(params=["no edges", "no pairs", "no features", "itself", "one node"])
def graph_at_the_edge(request, graph):
    """A graph of which next to nothing is there."""
    if request.param == "no edges":
        return graph.prune(threshold=1e9)
    if request.param == "no pairs":
        return InteractionGraph(["a"], [], {"a": ["x", "y"]}, {})
    if request.param == "no features":
        return InteractionGraph(
            ["a", "b"], [("a", "b")], {"a": [], "b": ["x"]},
            {("a", "b"): {"rms": torch.zeros(1, 0)}},
        )  # fmt: skip
    if request.param == "itself":
        return InteractionGraph(
            ["a"], [("a", "a")], {"a": ["x", "y"]}, {("a", "a"): {"rms": torch.ones(2, 2)}}
        )
    return InteractionGraph(["a"], [], {"a": ["x"]}, {})
