"""Attribution graphs of a language model's prompt whose supernodes are known.

A circuit of units is drawn first: a unit is a group of features or a single one; it has a position
and a depth, reads a few earlier units, tokens, or both, and late ones at the last position write to
logits. Every feature of a unit takes part in the links of its unit, each with noise of its own and
some of them missing; what a feature reads besides (cross-talk), from features, tokens and
reconstruction errors, belongs to it alone. The graph is then pruned, as published ones are.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..checks import number, whole
from ..errors import InputError

__all__ = ["PlantedAttributionGraph", "planted_attribution_graph"]

# fmt: off
_WORDS = (
    "animal", "capital", "city", "colour", "currency", "digit", "food", "question",
    "language", "large", "leader", "length", "month", "music", "name", "negation",
    "opposite", "past", "person", "place", "plural", "quote", "river", "rhyme",
    "small", "state", "sum", "time", "verb", "weekday", "weather", "year",
)
# fmt: on
_KINDS = ("{}", "say {}", "{} (multilingual)", "words for {}", "{} in lists", "after {}")


@dataclass(frozen=True, eq=False)
class PlantedAttributionGraph:
    """An attribution graph and the groups that its features were drawn from.

    Attributes:
        content: the graph as the JSON of circuit-tracer and Neuronpedia.
        truth: node_id -> number of its supernode, for features that are in one with others.
    """

    content: dict[str, Any]
    truth: dict[str, int]


@dataclass
class _Unit:
    """Features that do the same thing; `sources` and `logits` hold a signed strength for each."""

    position: int
    depth: int
    members: list[int]
    group: int | None
    sources: dict[int, float] = field(default_factory=dict)
    tokens: dict[int, float] = field(default_factory=dict)
    logits: dict[int, float] = field(default_factory=dict)
    within: float = 0.0


def planted_attribution_graph(
    seed: int = 0,
    *,
    n_tokens: int | None = None,
    n_layers: int | None = None,
    n_groups: int | None = None,
    n_singles: int | None = None,
    cross_talk: float | None = None,
    alike: float | None = None,
    links_per_feature: int | None = None,
) -> PlantedAttributionGraph:
    """Draws an attribution graph; what is not given is drawn, too, from a wide range.

    Args:
        seed: decides everything.
        n_tokens: tokens of the prompt; 6 to 16.
        n_layers: layers of the model; 8 to 32.
        n_groups: supernodes of 2 to 8 features; 5 to 16.
        n_singles: features that are in none; 0.5 to 3 for each one that is.
        cross_talk: share of what a feature reads that belongs to it alone, from 0 to below 1;
            0.2 to 0.95.
        alike: probability of a unit to share most of what it reads and writes with an earlier one,
            from 0 to 1; 0 to 0.6.
        links_per_feature: of cross-talk; 5 to 60.

    Raises:
        InputError: numbers that make no sense.

    Example:
        >>> planted = planted_attribution_graph(0)
        >>> sorted(planted.content)
        ['links', 'metadata', 'nodes', 'qParams']
    """
    return _Drawing(
        np.random.default_rng(seed), n_tokens, n_layers, n_groups, n_singles, cross_talk, alike,
        links_per_feature,
    ).graph()  # fmt: skip


class _Drawing:
    """The steps of drawing one graph."""

    def __init__(
        self,
        rng: np.random.Generator,
        n_tokens: int | None,
        n_layers: int | None,
        n_groups: int | None,
        n_singles: int | None,
        cross_talk: float | None,
        alike: float | None,
        links_per_feature: int | None,
    ) -> None:
        def drawn(name: str, value: int | None, low: int, high: int, least: int) -> int:
            chosen = int(rng.integers(low, high + 1))
            return chosen if value is None else whole(name, value, least)

        def share(name: str, value: float | None, low: float, high: float, most: float) -> float:
            chosen = float(rng.uniform(low, high))
            if value is None:
                return chosen
            if not 0 <= number(name, value) <= most:
                raise InputError(f"{name}={value!r} must be from 0 to {most}")
            return float(value)

        self.rng = rng
        self.n_tokens = drawn("n_tokens", n_tokens, 6, 16, 2)
        self.n_layers = drawn("n_layers", n_layers, 8, 32, 2)
        self.n_groups = drawn("n_groups", n_groups, 5, 16, 1)
        self.n_singles = n_singles if n_singles is None else whole("n_singles", n_singles, 0)
        self.singles_per_member = float(rng.uniform(0.5, 3))
        self.cross_talk = share("cross_talk", cross_talk, 0.2, 0.95, 0.99)
        self.alike = share("alike", alike, 0, 0.6, 1)
        self.n_cross = drawn("links_per_feature", links_per_feature, 5, 60, 1)
        # How tidy this graph's circuit is.
        self.present = float(rng.uniform(0.5, 0.95))  # of a unit's links, in each feature
        self.noise = float(rng.uniform(0.3, 0.9))  # of their logarithms
        self.negative = float(rng.uniform(0.05, 0.3))
        self.last = float(rng.uniform(0.2, 0.6))  # of units, at the last position
        self.spread = float(rng.uniform(0.5, 3))  # of a group over layers
        self.kept = float(rng.uniform(0.95, 0.995))  # of what a node reads, by pruning
        self.n_logits = int(rng.integers(1, 11))
        self.hubs = float(rng.uniform(0.3, 2.5))  # how unequal the sources of cross-talk are
        self.alone = float(rng.uniform(0.2, 1))  # how much cross-talk differs between features
        self.layer: list[int] = []
        self.position: list[int] = []

    def graph(self) -> PlantedAttributionGraph:
        """All steps."""
        units = self._units()
        for number_, unit in enumerate(units):
            self._connect(units, number_, unit)
        return self._content(units, *self._links(units))

    # --- the circuit -----------------------------------------------------------------------------

    def _units(self) -> list[_Unit]:
        rng = self.rng
        sizes = [
            2 + int(rng.binomial(6, rng.choice([0.1, 0.3, 0.5]))) for _ in range(self.n_groups)
        ]
        n_singles = self.n_singles
        if n_singles is None:
            n_singles = int(self.singles_per_member * sum(sizes))
        groups: list[int | None] = [*range(self.n_groups), *([None] * n_singles)]
        units = []
        for group, size in zip(groups, [*sizes, *([1] * n_singles)], strict=True):
            at_end = rng.random() < self.last
            position = self.n_tokens - 1 if at_end else int(rng.integers(1, self.n_tokens))
            # Early positions hold little but what their tokens are.
            depth = int(rng.integers(0, self.n_layers) * (1.0 if at_end else rng.random()))
            width = rng.exponential(self.spread)
            two = size > 2 and position > 1 and rng.random() < 0.1
            members = []
            for _ in range(size):
                layer = round(depth + rng.uniform(-width, width))
                members.append(len(self.layer))
                self.layer.append(min(max(layer, 0), self.n_layers - 1))
                self.position.append(position - int(two and rng.random() < 0.5))
            unit = _Unit(position, depth, members, group)
            unit.within = float(rng.choice([0.0, rng.uniform(0.1, 1.5)]))
            units.append(unit)
        # Sources before their targets.
        return sorted(units, key=lambda unit: unit.depth)

    def _strength(self) -> float:
        sign = -1 if self.rng.random() < self.negative else 1
        return float(sign * self.rng.lognormal(0, 0.5))

    def _connect(self, units: list[_Unit], number_: int, unit: _Unit) -> None:
        rng = self.rng
        earlier = [
            k for k in range(number_)
            if units[k].depth < unit.depth and units[k].position <= unit.position
        ]  # fmt: skip
        model = self._model(units, earlier, number_, unit)
        if model is not None:
            for k, strength in model.sources.items():
                if units[k].depth < unit.depth and rng.random() < 0.7:
                    unit.sources[k] = strength * float(rng.lognormal(0, 0.3))
            if rng.random() < 0.7:
                unit.tokens = dict(model.tokens)
            if rng.random() < 0.7:
                unit.logits = dict(model.logits)
        if earlier and not unit.sources:
            # Its own position first; units that are much read are read more (rich get richer).
            weight = np.array([4.0 if units[k].position == unit.position else 1.0 for k in earlier])
            weight *= np.array([len(units[k].members) + 1.0 for k in earlier])
            n = min(len(earlier), int(rng.integers(1, 5)))
            for k in rng.choice(earlier, n, replace=False, p=weight / weight.sum()):
                unit.sources[int(k)] = self._strength()
        if not unit.tokens and (not unit.sources or rng.random() < 0.5):
            near = rng.random() < 0.7
            token = unit.position if near else int(rng.integers(0, unit.position + 1))
            unit.tokens[token] = self._strength()
        late = unit.depth > 0.5 * self.n_layers and unit.position == self.n_tokens - 1
        if late and not unit.logits and rng.random() < 0.8:
            n = int(rng.integers(1, self.n_logits + 1))
            for k in rng.choice(self.n_logits, n, replace=False):
                unit.logits[int(k)] = self._strength()

    def _model(
        self, units: list[_Unit], earlier: list[int], number_: int, unit: _Unit
    ) -> _Unit | None:
        """A unit at the same position and about as deep, to be like; later units read both."""
        near = [
            k for k in range(number_)
            if units[k].position == unit.position and abs(units[k].depth - unit.depth) <= 6
        ]  # fmt: skip
        if not near or self.rng.random() >= self.alike:
            return None
        return units[int(self.rng.choice(near))]

    # --- its links -------------------------------------------------------------------------------

    def _links(self, units: list[_Unit]) -> tuple[Any, ...]:
        """Source, target and weight of every link that is left by pruning; nodes of all kinds.

        Nodes: features, then tokens, logits, and errors `[layer, token]`.
        """
        rng, n = self.rng, len(self.layer)
        layer = np.array(self.layer)
        position = np.array(self.position)
        token, logit = n, n + self.n_tokens
        error = logit + self.n_logits
        out_size = rng.lognormal(0, 0.5, n)
        # What everything reads besides: a few nodes hold most of it where hubs are unequal.
        kinds = [n, self.n_tokens, self.n_logits, self.n_layers * self.n_tokens]
        hub_size = rng.lognormal(0, self.hubs, sum(kinds)) * np.repeat([1.0, 2.0, 0.0, 1.0], kinds)
        links: dict[tuple[int, int], float] = {}

        def add(source: int, target: int, strength: float) -> None:
            if rng.random() < self.present:
                weight = strength * float(rng.lognormal(0, self.noise))
                links[source, target] = links.get((source, target), 0.0) + weight

        for unit in units:
            for target in unit.members:
                for k, strength in unit.sources.items():
                    # A unit counts as a whole: its features share its strength.
                    part = strength / len(units[k].members) ** 0.5
                    for source in units[k].members:
                        if layer[source] < layer[target] and position[source] <= position[target]:
                            add(source, target, part * out_size[source])
                for k, strength in unit.tokens.items():
                    add(token + min(k, int(position[target])), target, strength)
                for source in unit.members:
                    if layer[source] < layer[target] and position[source] <= position[target]:
                        add(source, target, unit.within * out_size[source])
                if position[target] == self.n_tokens - 1:
                    for k, strength in unit.logits.items():
                        add(target, logit + k, strength * out_size[target])
        ends = np.array(list(links), np.int64).reshape(-1, 2)
        weights = np.array(list(links.values()))
        more = [self._cross_talk(target, layer, position, hub_size, ends, weights, token, error)
                for target in range(n)]  # fmt: skip
        more += [self._cross_talk_of_logit(k, layer, position, hub_size, ends, weights, logit)
                 for k in range(self.n_logits)]  # fmt: skip
        sources = np.concatenate([ends[:, 0], *(part[0] for part in more)])
        targets = np.concatenate([ends[:, 1], *(np.full(len(p[0]), p[2]) for p in more)])
        weights = np.concatenate([weights, *(part[1] for part in more)])
        in_size = rng.lognormal(0, 1, error)
        n_nodes = error + self.n_layers * self.n_tokens
        return n_nodes, *self._pruned(sources, targets, weights * in_size[targets], n_nodes)

    def _cross_talk(
        self, target: int, layer: Any, position: Any, hub_size: Any, ends: Any, weights: Any,
        token: int, error: int,
    ) -> tuple[np.ndarray, np.ndarray, int]:  # fmt: skip
        """What one feature reads besides: sources, weights, and itself."""
        rng = self.rng
        before = np.flatnonzero((layer < layer[target]) & (position <= position[target]))
        tokens = np.arange(position[target] + 1)
        errors = (np.arange(layer[target])[:, None] * self.n_tokens + tokens).ravel()
        errors = errors[rng.random(len(errors)) < 0.3]
        candidates = np.concatenate([before, token + tokens, error + errors])
        near = np.concatenate([
            position[before] == position[target], tokens == position[target],
            errors % self.n_tokens == position[target],
        ])  # fmt: skip
        return *self._random(candidates, near, hub_size[candidates], target, ends, weights), target

    def _cross_talk_of_logit(
        self, k: int, layer: Any, position: Any, hub_size: Any, ends: Any, weights: Any, logit: int
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """What one logit reads besides."""
        at_end = np.flatnonzero(position == self.n_tokens - 1)
        near = layer[at_end] > 0.5 * self.n_layers
        found = self._random(at_end, near, hub_size[at_end], logit + k, ends, weights)
        return *found, logit + k

    def _random(
        self, candidates: Any, near: Any, size: Any, target: int, ends: Any, weights: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        rng = self.rng
        own = np.abs(weights[ends[:, 1] == target]).sum()
        if self.cross_talk == 0 and own > 0:
            return np.zeros(0, np.int64), np.zeros(0)
        p = size * np.where(near, 4.0, 1.0)
        n = min(len(candidates), 1 + int(rng.poisson(self.n_cross)))
        chosen = rng.choice(len(candidates), n, replace=False, p=p / p.sum())
        weight = size[chosen] * rng.lognormal(0, self.alone, n)
        weight *= np.where(rng.random(n) < self.negative, -1, 1)
        total = own * self.cross_talk / (1 - self.cross_talk) if own > 0 else 1.0
        return candidates[chosen], weight * total / np.abs(weight).sum()

    def _pruned(
        self, source: Any, target: Any, weight: Any, n_nodes: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The strongest links of each target that hold `kept` of what it reads; no pair twice."""
        pair, index = np.unique(source * n_nodes + target, return_inverse=True)
        total = np.bincount(index, weight)
        source, target = np.divmod(pair, n_nodes)
        order = np.lexsort((-np.abs(total), target))
        source, target, total = source[order], target[order], total[order]
        size = np.abs(total)
        start = np.searchsorted(target, target)
        running = np.cumsum(size)
        before = running - size - (running - size)[start]
        reads = np.bincount(target, size, n_nodes)[target]
        keep = before < self.kept * reads
        return source[keep], target[keep], total[keep]

    # --- its file --------------------------------------------------------------------------------

    def _content(
        self, units: list[_Unit], n_nodes: int, source: Any, target: Any, weight: Any
    ) -> PlantedAttributionGraph:
        rng, n = self.rng, len(self.layer)
        used = np.zeros(n_nodes, bool)
        used[source] = used[target] = True
        nodes, ids = [], [""] * n_nodes
        label, group = self._labels(units)
        features = rng.permutation(100_000)[:n] if n <= 100_000 else np.arange(n)
        for k in np.flatnonzero(used).tolist():
            if k < n:
                node = _node(str(self.layer[k]), int(features[k]), self.position[k],
                             "cross layer transcoder", label[k])  # fmt: skip
            elif k < n + self.n_tokens:
                p = k - n
                node = _node("E", 1000 + p, p, "embedding", f'Emb: " {_token(p)}"')
            elif k < n + self.n_tokens + self.n_logits:
                word = _WORDS[(k - n - self.n_tokens) % len(_WORDS)]
                node = _node(str(self.n_layers), k, self.n_tokens - 1, "logit",
                             f'Output " {word}" (p=0.05)')  # fmt: skip
            else:
                layer, p = divmod(k - n - self.n_tokens - self.n_logits, self.n_tokens)
                node = _node(str(layer), 200_000, p, "mlp reconstruction error", "")
            ids[k] = node["node_id"]
            nodes.append(node)
        links = [
            {"source": ids[a], "target": ids[b], "weight": w}
            for a, b, w in zip(source.tolist(), target.tolist(), weight.tolist(), strict=True)
        ]
        tokens = [_token(p) for p in range(self.n_tokens)]
        content = {
            "metadata": {"slug": "planted", "scan": "planted", "prompt_tokens": tokens,
                         "prompt": " ".join(tokens)},
            "qParams": {"linkType": "both", "pinnedIds": [], "clickedId": "", "supernodes": [],
                        "sg_pos": ""},
            "nodes": nodes,
            "links": links,
        }  # fmt: skip
        left = {ids[k]: g for k, g in group.items() if used[k]}
        sizes = Counter(left.values())
        return PlantedAttributionGraph(content, {k: g for k, g in left.items() if sizes[g] > 1})

    def _labels(self, units: list[_Unit]) -> tuple[list[str], dict[int, int]]:
        """Label of each feature, and the group of those that have one."""
        rng = self.rng
        label, group = [""] * len(self.layer), {}
        for unit in units:
            word = str(rng.choice(_WORDS))
            for k in unit.members:
                if unit.group is not None:
                    group[k] = unit.group
                if rng.random() < 0.5:
                    other = rng.random() < 0.1
                    label[k] = rng.choice(_KINDS).format(rng.choice(_WORDS) if other else word)
        return label, group


def _token(position: int) -> str:
    return f"{_WORDS[position % len(_WORDS)]}{position}"


def _node(layer: str, feature: int, position: int, kind: str, clerp: str) -> dict[str, Any]:
    return {
        "node_id": f"{layer}_{feature}_{position}", "feature": feature, "layer": layer,
        "ctx_idx": position, "feature_type": kind, "jsNodeId": f"{layer}_{feature}-{position}",
        "clerp": clerp,
    }  # fmt: skip
