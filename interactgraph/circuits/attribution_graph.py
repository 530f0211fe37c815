"""One prompt's attribution graph: features, tokens, errors and logits, and signed links."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite
from typing import Any, Literal, NamedTuple, TypeGuard

import numpy as np
from scipy import sparse

from ..errors import FileError

__all__ = ["AttributionGraph", "Builder", "Edit", "Kind"]

Kind = Literal["feature", "embedding", "error", "logit"]
_DEEPEST = 100_000


class Edit(NamedTuple):
    """Where new supernodes go into the text of a file.

    Attributes:
        start: first character that is replaced.
        end: the one after the last.
        before: what is written before the entries.
        after: what is written after them.
        size: of the file in bytes, when it was read.
        changed: when it was last changed, in nanoseconds.
    """

    start: int
    end: int
    before: str
    after: str
    size: int = -1
    changed: int = -1


@dataclass(frozen=True, eq=False, repr=False)
class AttributionGraph:
    """Nodes in the order of the file, and links from source to target.

    Attributes:
        ids: `node_id` of each node.
        js_ids: `jsNodeId` of each node; several nodes may share one.
        kinds: what each node is.
        layers: layer of each node, as the file names it.
        depth: the same as a number, int64 `[nodes]`: -1 for embeddings, one more than every other
            node's for logits.
        positions: token of each node, int64 `[nodes]`.
        labels: `clerp` of each node, "" where there is none.
        source: node numbers, int64 `[links]`.
        target: node numbers, int64 `[links]`.
        weight: signed, float64 `[links]`.
        metadata: of the file.
        q_params: of the file: pins, supernodes and what the viewer was last asked for.
        path: the file, or None.
        edit: where supernodes go into its text, or None.
    """

    ids: tuple[str, ...]
    js_ids: tuple[str, ...]
    kinds: tuple[Kind, ...]
    layers: tuple[str, ...]
    depth: np.ndarray
    positions: np.ndarray
    labels: tuple[str, ...]
    source: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    metadata: Mapping[str, Any] = field(default_factory=dict)
    q_params: Mapping[str, Any] = field(default_factory=dict)
    path: str | os.PathLike[str] | None = None
    edit: Edit | None = None

    @classmethod
    def from_content(cls, content: Any) -> AttributionGraph:
        """From a parsed file.

        Args:
            content: what `json.load` returns of it.

        Raises:
            FileError: it is no attribution graph.
        """
        builder = Builder("the content")
        if not isinstance(content, Mapping):
            raise builder.wrong(f"it is a {type(content).__name__}, not an object")
        for key, value in content.items():
            if key in ("nodes", "links"):
                if not isinstance(value, Sequence) or isinstance(value, str):
                    raise builder.wrong(f"{key!r} is no list")
                builder.add_all(key, value)
            else:
                builder.set(key, value)
        return builder.graph()

    def __repr__(self) -> str:
        return (
            f"AttributionGraph({self.metadata.get('slug', '')!r}: {len(self.ids)} nodes, "
            f"{len(self.features)} of them features, {len(self.source)} links, "
            f"{len(self.supernodes)} supernodes)"
        )

    @cached_property
    def features(self) -> np.ndarray:
        """Numbers of the nodes that are features, int64 `[features]`."""
        return np.flatnonzero(np.array(self.kinds, dtype=object) == "feature")

    @cached_property
    def matrix(self) -> sparse.csr_array:
        """Weights, float64 `[i, j]`: rows are targets, columns are sources; self-links left out."""
        n = len(self.ids)
        keep = self.source != self.target
        ends = (self.target[keep], self.source[keep])
        return sparse.csr_array((self.weight[keep], ends), shape=(n, n))

    @cached_property
    def shares(self) -> sparse.csr_array:
        """`matrix` with every row divided by the sum of its absolute values."""
        total = np.asarray(abs(self.matrix).sum(1)).ravel()
        scale = np.divide(1.0, total, out=np.zeros_like(total), where=total > 0)
        return sparse.csr_array(sparse.diags_array(scale) @ self.matrix)

    @property
    def supernodes(self) -> list[list[str]]:
        """The groups of the file, `[label, id, ...]`."""
        return [list(entry) for entry in self.q_params.get("supernodes") or []]

    @property
    def pinned(self) -> np.ndarray:
        """Numbers of the nodes that are pinned, sorted."""
        return np.unique(self.numbers(self.q_params.get("pinnedIds") or []))

    @cached_property
    def _by_id(self) -> dict[str, list[int]]:
        """Either kind of id -> nodes; of equal node_ids the feature, see `Builder`."""
        table: dict[str, list[int]] = {}
        for k, name in enumerate(self.js_ids):
            if name:
                table.setdefault(name, []).append(k)
        own: dict[str, list[int]] = {}
        for k, name in enumerate(self.ids):
            if name not in own or self.kinds[own[name][0]] == "error":
                own[name] = [k]
        return {**table, **own}

    def numbers(self, names: Iterable[str]) -> np.ndarray:
        """Numbers of the nodes that ids of either kind name; ids of no node are passed over.

        Args:
            names: node_ids, or jsNodeIds, which may stand for a feature at several positions.
        """
        found = [k for name in names for k in self._by_id.get(name, ())]
        return np.array(found, dtype=np.int64)

    def names(self, numbers: Iterable[int]) -> tuple[str, ...]:
        """An id for each node, of the kind that the file's own pins and supernodes use."""
        own = set(self.ids)
        used = [*(self.q_params.get("pinnedIds") or [])]
        used += [name for entry in self.supernodes for name in entry[1:]]
        known = [name for name in used if name in self._by_id]
        by_js = 2 * sum(name not in own for name in known) > len(known)
        result = []
        for k in numbers:
            unique = self._by_id.get(self.js_ids[k]) == [k]
            result.append(self.js_ids[k] if by_js and unique else self.ids[k])
        return tuple(result)


class Builder:
    """Checks nodes and links one by one, as they are read.

    circuit-tracer names the error of layer l at position p `0_l_p`, which is also the name of
    feature l of layer 0 at that position. Of two nodes with one name the feature has the links.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.ids: list[str] = []
        self.js_ids: list[str] = []
        self.kinds: list[Kind] = []
        self.layers: list[str] = []
        self.depth: list[int] = []
        self.positions: list[int] = []
        self.labels: list[str] = []
        self.names: dict[str, int] = {}  # of link ends, in the order in which they are met
        self.source, self.target, self.weight = array("q"), array("q"), array("d")
        self.parts: dict[str, Any] = {}

    def wrong(self, what: str) -> FileError:
        """The error that says what is wrong."""
        return FileError(
            f"{self.where} is no attribution graph of circuit-tracer or Neuronpedia: {what}"
        )

    def set(self, key: str, value: Any) -> None:
        """Takes a part that is neither nodes nor links."""
        if key in ("metadata", "qParams") and not isinstance(value, Mapping):
            raise self.wrong(f"{key!r} is a {type(value).__name__}, not an object")
        if key in self.parts:
            raise self.wrong(f"it has {key!r} twice")
        self.parts[key] = value

    def add_all(self, key: str, items: Iterable[Any]) -> None:
        """Takes all nodes, or all links."""
        self.set(key, None)
        add = self._add_node if key == "nodes" else self._add_link
        for item in items:
            add(item)

    def _add_node(self, node: Any) -> None:
        number = len(self.ids)
        if not isinstance(node, Mapping):
            raise self.wrong(f"node {number} is a {type(node).__name__}, not an object")
        name = node.get("node_id")
        if not isinstance(name, str) or not name:
            raise self.wrong(f"node {number} has the node_id {_shown(name)}; it must be a text")
        about = f"node {_shown(name)} has the "
        kind = _kind(node.get("feature_type"))
        if kind is None:
            raise self.wrong(
                f"{about}feature_type {_shown(node.get('feature_type'))}; it must be a text"
            )
        position = node.get("ctx_idx")
        if not _is_whole(position) or not 0 <= position < 2**31:
            raise self.wrong(f"{about}ctx_idx {_shown(position)}; it must be a number of a token")
        layer: Any = node.get("layer")
        if not isinstance(layer, str) and not _is_whole(layer):
            raise self.wrong(f"{about}layer {_shown(layer)}; it must be a text or a whole number")
        depth = -1
        if kind in ("feature", "error"):
            try:
                depth = int(layer)
            except ValueError:
                depth = _DEEPEST
            if not 0 <= depth < _DEEPEST:
                raise self.wrong(f"{about}layer {_shown(layer)}; a {kind}'s must be a number")
        for key in ("jsNodeId", "clerp"):
            if not isinstance(node.get(key) or "", str):
                raise self.wrong(f"{about}{key} {_shown(node[key])}; it must be a text")
        self.ids.append(name)
        self.js_ids.append(node.get("jsNodeId") or "")
        self.kinds.append(kind)
        self.layers.append(str(layer))
        self.depth.append(depth)
        self.positions.append(position)
        self.labels.append(node.get("clerp") or "")

    def _add_link(self, link: Any) -> None:
        if not isinstance(link, Mapping):
            raise self.wrong(f"link {len(self.source)} is a {type(link).__name__}, not an object")
        source, target, weight = link.get("source"), link.get("target"), link.get("weight")
        if not isinstance(source, str) or not isinstance(target, str):
            raise self.wrong(
                f"link {len(self.source)} goes from {_shown(source)} to {_shown(target)}; both "
                "must be node_ids"
            )
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not _finite(weight):
            raise self.wrong(
                f"the link {_shown(source)} -> {_shown(target)} has the weight {_shown(weight)}; "
                "it must be a finite number"
            )
        names = self.names
        self.source.append(names.setdefault(source, len(names)))
        self.target.append(names.setdefault(target, len(names)))
        self.weight.append(weight)

    def graph(
        self, path: str | os.PathLike[str] | None = None, edit: Edit | None = None
    ) -> AttributionGraph:
        """The graph, when everything has been read."""
        missing = [k for k in ("metadata", "qParams", "nodes", "links") if k not in self.parts]
        if missing:
            raise self.wrong(f"it has no {', '.join(map(repr, missing))}")
        self._check_groups()
        number: dict[str, int] = {}
        for k, name in enumerate(self.ids):
            if name not in number:
                number[name] = k
                continue
            kinds = {self.kinds[k], self.kinds[number[name]]}
            if "error" not in kinds or len(kinds) == 1:
                raise self.wrong(f"two nodes have the node_id {_shown(name)}")
            if self.kinds[k] != "error":
                number[name] = k
        unknown = [name for name in self.names if name not in number]
        if unknown:
            raise self.wrong(
                f"links name {len(unknown)} nodes that it does not have, such as "
                f"{_shown(unknown[0])}"
            )
        lookup = np.array([number[name] for name in self.names], dtype=np.int64)
        depth = np.array(self.depth, dtype=np.int64)
        is_logit = np.array([kind == "logit" for kind in self.kinds], dtype=bool)
        depth[is_logit] = depth[~is_logit].max(initial=-1) + 1
        return AttributionGraph(
            ids=tuple(self.ids), js_ids=tuple(self.js_ids), kinds=tuple(self.kinds),
            layers=tuple(self.layers), depth=depth,
            positions=np.array(self.positions, dtype=np.int64), labels=tuple(self.labels),
            source=lookup[np.array(self.source, dtype=np.int64)],
            target=lookup[np.array(self.target, dtype=np.int64)],
            weight=np.array(self.weight, dtype=np.float64), metadata=self.parts["metadata"],
            q_params=self.parts["qParams"], path=path, edit=edit,
        )  # fmt: skip

    def _check_groups(self) -> None:
        settings = self.parts["qParams"]
        pins = settings.get("pinnedIds")
        if not _is_texts(pins if pins is not None else []):
            raise self.wrong("'pinnedIds' of its 'qParams' is no list of texts")
        groups = settings.get("supernodes")
        if groups is None:
            return
        if not isinstance(groups, list):
            raise self.wrong("'supernodes' of its 'qParams' is no list")
        for entry in groups:
            if not _is_texts(entry) or not entry:
                raise self.wrong(
                    f"'supernodes' of its 'qParams' has the entry {_shown(entry)}; it must be "
                    "[label, id, ...]"
                )


def _kind(name: Any) -> Kind | None:
    if not isinstance(name, str):
        return None
    name = name.lower()
    if "error" in name:
        return "error"
    if "embedding" in name:
        return "embedding"
    return "logit" if "logit" in name else "feature"


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _finite(value: float) -> bool:
    try:
        return isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _shown(value: Any) -> str:
    text = (
        repr(value)
        if isinstance(value, (str, int, float, bool, type(None)))
        else "of type " + (type(value).__name__)
    )
    return text if len(text) <= 60 else f"{text[:60]}..."
