"""Random graphs for the exporters, and what a file made of one has to hold."""

from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from interactgraph.features import Drivers, Examples
from interactgraph.graph import InteractionGraph

# Markup, quotes, separators, line ends, controls, lone surrogates, non-characters, astral text.
AWKWARD = "<>&\"',;]| \t\n\r\x00\x01\x0b\x1f\x7f\x85\u2028\ud800\udfff\ufeff\ufffe\uffff\U0001f9e0"
HOSTILE = (
    "",
    "\n",
    " ",
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "]]></data><!-- & &amp; &#0; &lt; -->",
    "\"'`,;\t|=1+1",
    '=HYPERLINK("http://example.org")',
    "\x00\x1b[31m\x07\r\n\x0b\x7f\x85\x9f",
    "\u202eright to left\u200f\u2066\u0627\u0644\u0639",
    "\ud800 alone \udfff\ufffe\uffff\ufeff",
    "NaN",
    "null",
    "007",
    "-1e5",
    "\\n\\N{x}\\",
    "{}[]()/*//--",
    'long <&"> \U0001f9e0' * 600,  # more than 10 kB
)
TEXT = st.one_of(
    st.text(st.one_of(st.sampled_from(AWKWARD), st.characters()), max_size=6),
    st.sampled_from(HOSTILE),
)
SMALLEST = float(np.finfo(np.float64).smallest_normal)
TINIEST = float(np.finfo(np.float32).smallest_subnormal)
LARGEST = float(np.finfo(np.float32).max)


@st.composite
def _drivers(draw, n, n_others):
    """What drives the strongest edge of each of n features, to one of some others."""
    none = st.just(-1)
    numbers = st.integers(0, 3) if n_others else none
    partners = st.integers(0, n_others - 1) if n_others else none
    shares = st.one_of(st.floats(0, 1, width=32), st.just(np.nan))
    of_all = (draw(st.lists(each, min_size=n, max_size=n)) for each in (partners, numbers, shares))
    partners, samples, shares = (torch.tensor(each) for each in of_all)
    samples = samples.where(partners >= 0, -1) if n else samples
    texts = draw(st.dictionaries(st.integers(0, 3), TEXT))
    return Drivers(partners.long(), samples.long()[None], shares.float()[None], texts)


@st.composite
def _graphs(draw):
    """(graph, partition or None, strength or None)."""
    layers = draw(st.lists(TEXT, min_size=1, max_size=3, unique=True))
    sizes = {layer: draw(st.integers(0, 4)) for layer in layers}
    pairs = draw(st.lists(st.sampled_from([(a, b) for a in layers for b in layers]), unique=True))
    strengths = draw(
        st.sampled_from([("rms",), ("rms", "mean"), ("mean", "max"), ("a\x00<\ud800",)])
    )
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    limit = LARGEST if dtype is torch.float32 else 1.7e308
    values = st.one_of(
        st.just(0.0),
        st.floats(-limit, limit, width=32 if dtype is torch.float32 else 64),
        st.sampled_from([1.0, -0.1, TINIEST, 5e-324]),
    )

    def matrix(pair, elements):
        rows, columns = sizes[pair[1]], sizes[pair[0]]
        flat = draw(st.lists(elements, min_size=rows * columns, max_size=rows * columns))
        return torch.tensor(flat, dtype=torch.float64).to(dtype).reshape(rows, columns)

    errors = {}
    for pair in pairs:
        if draw(st.booleans()):
            elements = st.one_of(values, st.sampled_from([np.nan, np.inf]))
            errors[pair] = {strengths[0]: matrix(pair, elements)}
    examples = {}
    if draw(st.booleans()):
        for layer, n in sizes.items():
            texts = draw(st.lists(TEXT, min_size=n, max_size=n))
            numbers = torch.arange(n)
            examples[layer] = Examples(
                torch.ones(1, n), numbers[None], torch.zeros(1, n).long(),
                {(j, 0): text for j, text in enumerate(texts)},
            )  # fmt: skip
    drivers = {}
    if draw(st.booleans()):
        drivers = {
            (a, b): (draw(_drivers(sizes[b], sizes[a])), draw(_drivers(sizes[a], sizes[b])))
            for a, b in pairs
        }
    graph = InteractionGraph(
        layers=layers,
        pairs=pairs,
        examples=examples,
        drivers=drivers,
        labels={a: draw(st.lists(TEXT, min_size=n, max_size=n)) for a, n in sizes.items()},
        blocks={pair: {s: matrix(pair, values) for s in strengths} for pair in pairs},
        standard_errors=errors,
    )
    partition = None
    if draw(st.booleans()):
        modules = st.integers(-1, 40)
        partition = SimpleNamespace(
            membership={
                layer: np.array(draw(st.lists(modules, min_size=n, max_size=n)), dtype=np.int64)
                for layer, n in sizes.items()
            },
            module_p_values=draw(st.sampled_from([np.zeros(0), P_VALUES])),
            affinity={},
        )
        if draw(st.booleans()):
            random = np.random.default_rng(draw(st.integers(0, 99)))
            partition.affinity = {
                layer: random.dirichlet(np.full(N_MODULES, 0.1), n) for layer, n in sizes.items()
            }
            mixed = [
                SimpleNamespace(
                    layer=layer, feature=j, kind=draw(st.sampled_from(["mixture", "hub"]))
                )
                for layer, n in sizes.items()
                for j in range(n)
                if draw(st.booleans())
            ]
            partition.mixtures = lambda: mixed
    strength = draw(st.sampled_from([None, *strengths])) if pairs else None
    return graph, partition, strength


@pytest.fixture(scope="session")
def small_graphs():
    """Strategy for (graph, partition or None, strength or None)."""
    return _graphs()


N_MODULES = 41
P_VALUES = np.where(np.arange(N_MODULES) % 5 == 0, np.nan, 10.0 ** -np.arange(N_MODULES))


def _cleaner(forbidden: Callable[[str], bool]) -> Callable[[str], str]:
    def clean(text: str) -> str:
        return "".join(
            (chr(0x2400 + ord(c)) if c < " " else "\ufffd") if forbidden(c) else c for c in text
        )

    return clean


def _in_xml(c: str) -> bool:
    """The production Char of XML 1.0."""
    return c in "\t\n\r" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c >= "\U00010000"


CLEAN = {
    "xml": _cleaner(lambda c: not _in_xml(c)),
    "csv": _cleaner(lambda c: c == "\x00" or "\ud800" <= c <= "\udfff"),
    "json": _cleaner(lambda c: "\ud800" <= c <= "\udfff"),
}
CLEAN["graphml"] = CLEAN["xml"]  # where numbers below the normal ones are zero, too


def _driven(graph, layer, feature):
    """What drives the feature's strongest edges, in words."""
    for (source, target), both in graph.drivers.items():
        ends = ((target, source, "from"), (source, target, "to"))
        for (here, other, way), drivers in zip(ends, both, strict=True):
            if here != layer or int(drivers.samples[0, feature]) < 0:
                continue
            sample, share = int(drivers.samples[0, feature]), float(drivers.shares[0, feature])
            text = drivers.texts.get(sample, "")
            words = f"{text} (sample {sample})" if text else f"sample {sample}"
            if not np.isnan(share):
                words = f"{share:.0%} by {words}"
            label = graph.labels[other][int(drivers.partners[feature])]
            yield f"its edge {way} {label} of {other}: {words}"


def _shares(partition, layer, feature):
    """To which modules a feature belongs how much, as far as it has one."""
    module, shares = partition.membership[layer][feature], partition.affinity[layer][feature]
    kinds = {(each.layer, each.feature): each.kind for each in partition.mixtures()}
    node = {"role": kinds.get((layer, feature), ""), "second_module": -1}
    if module >= 0:
        others = np.delete(shares, module)
        node["affinity"], node["second_affinity"] = shares[module], others.max()
        if others.max() > 0:
            place = int(others.argmax())
            node["second_module"] = place + (place >= module)
    return node


def _expected(graph, partition, strength, kind):
    """Nodes and edges in order, straight from the definition."""
    clean = CLEAN[kind]
    nodes, edges, touching = [], {}, np.zeros(graph.n_nodes)
    offsets = graph.offsets
    for layer in graph.layers:
        for j, label in enumerate(graph.labels[layer]):
            node = {"label": clean(label), "layer": clean(layer), "feature": j}
            if graph.examples:
                text, place = graph.examples[layer].texts[j, 0], f"sample {j}, position 0"
                node["examples"] = clean(f"{text} ({place})" if text else place)
            if graph.drivers:
                node["drivers"] = clean("; ".join(_driven(graph, layer, j)))
            if partition is not None and partition.affinity:
                node |= _shares(partition, layer, j)
            if partition is not None:
                module = node["module"] = int(partition.membership[layer][j])
                if len(partition.module_p_values) and module >= 0:
                    p_value = float(partition.module_p_values[module])
                    if p_value == p_value:
                        node["module_p_value"] = p_value
            nodes.append(node)
    for source, target in graph.pairs:
        block = graph.weights(source, target, strength).double().numpy()
        for i in range(block.shape[0]):
            for j in range(block.shape[1]):
                if block[i, j] == 0:
                    continue
                weight = min(max(abs(float(block[i, j])), TINIEST), LARGEST)
                ends = offsets[source] + j, offsets[target] + i
                edges[ends] = {"weight": weight, "was": float(block[i, j])}
                touching[list(ends)] += weight if ends[0] != ends[1] else 2 * weight
                name = graph.check_strength(strength)
                error = graph.standard_errors.get((source, target), {}).get(name)
                if error is not None and np.isfinite(float(error[i, j])):
                    edges[ends]["standard_error"] = float(error[i, j])
                for other in graph.strengths:
                    if other != name:
                        value = float(graph.weights(source, target, other)[i, j])
                        edges[ends][clean(other)] = value
    for node, total in zip(nodes, touching.tolist(), strict=True):
        node["strength"] = total
    return nodes, edges


@pytest.fixture(scope="session")
def check():
    """Compares what was read back with the graph.

    `nodes` are dictionaries in file order with `id`; `edges` maps pairs of ids to dictionaries.
    Attributes that only serve drawing have been removed by the caller.
    """

    def compare(graph, partition, strength, kind, nodes, edges):
        wanted_nodes, wanted_edges = _expected(graph, partition, strength, kind)
        ids = [node["id"] for node in nodes]
        assert len(set(ids)) == len(ids) == graph.n_nodes
        number = {name: k for k, name in enumerate(ids)}
        cleaned = [CLEAN[kind](layer) for layer in graph.layers]
        for node, wanted in zip(nodes, wanted_nodes, strict=True):
            # What a reader has for a number that the file leaves out.
            found = {
                key: value
                for key, value in node.items()
                if key != "id" and value is not None and value == value
            }
            assert found.pop("strength") == pytest.approx(wanted.pop("strength"), rel=1e-12)
            layer = found.pop("layer")
            assert node["id"] == f"{layer}/{wanted['feature']}"
            # Two layers whose names differ only in what is replaced still get two names.
            wanted_layer = wanted.pop("layer")
            if cleaned.count(wanted_layer) == 1 and not any(c.endswith("_") for c in cleaned):
                assert layer == wanted_layer
            assert found == wanted
        found_edges = {(number[a], number[b]): dict(data) for (a, b), data in edges.items()}
        assert found_edges.keys() == wanted_edges.keys()
        signed = graph.pairs and (
            graph.check_strength(strength) == "mean"
            or any(wanted["was"] < 0 for wanted in wanted_edges.values())
        )
        for ends, wanted in wanted_edges.items():
            was = wanted.pop("was")
            if signed:
                wanted["signed"] = was
            if kind == "graphml":
                wanted |= {k: v if abs(v) >= SMALLEST else 0.0 for k, v in wanted.items()}
            assert found_edges[ends] == wanted

    return compare


@pytest.fixture
def hostile():
    """(graph, partition): every hostile text as a label, twice, and some as names of layers."""
    names = ("</script><b>\"'&", "\x00\ud800\u202e", "a\nb\t,;")
    labels = dict.fromkeys(names[:2], HOSTILE) | {names[2]: ["same", "same"]}
    generator = torch.Generator().manual_seed(1)
    blocks = {
        (source, target): {
            "rms": torch.rand(len(labels[target]), len(labels[source]), generator=generator) + 0.1
        }
        for source, target in pairwise(names)
    }
    graph = InteractionGraph(names, list(blocks), labels, blocks)
    modules = {name: np.arange(len(texts)) % 3 - 1 for name, texts in labels.items()}
    return graph, SimpleNamespace(membership=modules, module_p_values=np.zeros(0), affinity={})


@pytest.fixture
def graph():
    """Three layers, two strengths, an isolated feature, a weight of each sign."""
    generator = torch.Generator().manual_seed(0)
    layers, sizes = ("input", "0", "2"), {"input": 4, "0": 3, "2": 2}
    pairs = (("input", "0"), ("0", "2"))
    blocks = {}
    for source, target in pairs:
        mean = torch.randn(sizes[target], sizes[source], generator=generator)
        mean[:, 1] = 0
        blocks[source, target] = {"rms": mean.abs() * 1.5, "mean": mean}
    return InteractionGraph(
        layers=layers,
        pairs=pairs,
        labels={layer: [f"{layer}.{j}" for j in range(n)] for layer, n in sizes.items()},
        blocks=blocks,
        standard_errors={pair: {"rms": block["rms"] / 7} for pair, block in blocks.items()},
    )


@pytest.fixture
def partition():
    """Modules for `graph`."""
    return SimpleNamespace(
        membership={
            "input": np.array([0, -1, 1, 1]),
            "0": np.array([1, 0, 0]),
            "2": np.array([0, 1]),
        },
        module_p_values=np.zeros(0),
        affinity={},
    )
