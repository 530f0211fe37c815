"""Small attribution graphs for the tests."""

import copy
import random
from pathlib import Path

PUBLISHED = (
    Path(__file__).parents[3] / "shared" / "reference" / "attribution_graph_opposite_of_small.json"
)


def node(layer, feature, position, kind="cross layer transcoder", clerp="", **more):
    return {
        "node_id": f"{layer}_{feature}_{position}", "feature": feature, "layer": str(layer),
        "ctx_idx": position, "feature_type": kind, "jsNodeId": f"{layer}_{feature}-0",
        "clerp": clerp, **more,
    }  # fmt: skip


def content():
    """Two groups of two features at the last of two tokens, one logit each, and an error."""
    nodes = [
        node("E", 5, 0, "embedding"),
        node("E", 6, 1, "embedding"),
        node(1, 10, 1, clerp="say big"),
        node(1, 11, 1, clerp="big"),
        node(1, 20, 1),
        node(1, 21, 1),
        node(0, 9, 1, "mlp reconstruction error"),
        node(3, 1, 1, "logit", clerp='Output "big" (p=0.5)'),
        node(3, 2, 1, "logit", clerp='Output "red" (p=0.2)'),
    ]
    links = [
        ("E_5_0", "1_10_1", 2.0), ("E_5_0", "1_11_1", 1.5), ("E_6_1", "1_20_1", 2.0),
        ("E_6_1", "1_21_1", -1.0), ("0_9_1", "1_10_1", 0.1), ("1_10_1", "3_1_1", 1.0),
        ("1_11_1", "3_1_1", 2.0), ("1_20_1", "3_2_1", 1.0), ("1_21_1", "3_2_1", 2.0),
    ]  # fmt: skip
    return {
        "metadata": {"slug": "s", "scan": "m", "prompt_tokens": ["a", "b"], "prompt": "a b"},
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both"},
        "nodes": nodes,
        "links": [{"source": a, "target": b, "weight": w} for a, b, w in links],
        "unknown": {"kept": [1, 2.50, "é\u2028"]},
    }


def places(value, path=()):
    """Paths to everything in a JSON value."""
    yield path
    children = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        children = enumerate(value)
    for key, child in children:
        yield from places(child, (*path, key))


def mutated(value, seed):
    """One to three places replaced, removed or doubled."""
    rng = random.Random(seed)
    value = copy.deepcopy(value)
    junk = [None, True, -1, 0, 2.5, 10**400, 1e308, "", "x", "1_10_1", [], {}, [[]], [1], {"a": 1}]
    for _ in range(rng.randint(1, 3)):
        path = rng.choice([p for p in places(value) if p] or [()])
        if not path:
            return rng.choice(junk)
        parent = value
        for key in path[:-1]:
            parent = parent[key]
        way = rng.randrange(3)
        if way == 0:
            parent[path[-1]] = copy.deepcopy(rng.choice(junk))  # never inside itself
        elif way == 1:
            del parent[path[-1]]
        elif isinstance(parent, list):
            parent.insert(path[-1], copy.deepcopy(parent[path[-1]]))
    return value
