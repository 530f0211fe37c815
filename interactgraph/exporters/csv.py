"""CSV tables of nodes and edges (RFC 4180), with the column names that Gephi knows."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..files import replacing
from .markup import constant, fragments
from .table import Table, chunks, tabulate
from .text import csv_text

if TYPE_CHECKING:
    from ..communities import Partition
    from ..graph import InteractionGraph

__all__ = ["write_csv"]


def write_csv(
    graph: InteractionGraph, path: Path, partition: Partition | None, strength: str | None
) -> list[Path]:
    """See `interactgraph.exporters.export`."""
    table = tabulate(graph, partition, strength, csv_text)
    paths = [path.with_suffix(f".{kind}.csv") for kind in ("nodes", "edges")]
    # Both are moved into place only when both are complete.
    with replacing(paths[0]) as nodes, replacing(paths[1]) as edges:
        _write(nodes, _nodes(table))
        _write(edges, _edges(table))
    return paths


def _write(path: Path, lines: Iterator[tuple[str, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(lines)


def _nodes(table: Table) -> Iterator[tuple[str, ...]]:
    numbers, texts = table.node_numbers, table.node_texts
    texts = {"Id": table.ids, "Label": texts.pop("label"), **texts}
    yield (*texts, *numbers)
    for part in chunks(len(table.ids)):
        columns = [fragments("", values[part], "") for values in numbers.values()]
        yield from zip(*(column[part] for column in texts.values()), *columns, strict=True)


def _edges(table: Table) -> Iterator[tuple[str, ...]]:
    yield ("Source", "Target", "Type", "Weight", *table.more)
    ids = np.array(table.ids, dtype=object)
    for part in chunks(len(table.weights)):
        yield from zip(
            ids[table.source[part]].tolist(),
            ids[table.target[part]].tolist(),
            constant("Directed", part.stop - part.start),
            fragments("", table.weights[part], ""),
            *(fragments("", values[part], "") for values in table.more.values()),
            strict=True,
        )
