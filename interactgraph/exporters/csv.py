"""CSV tables of nodes and edges (RFC 4180), with the column names that Gephi knows."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..files import replacing
from .markup import constant, fragments, opened
from .table import Table

__all__ = ["write_csv"]


def write_csv(table: Table, path: Path) -> list[Path]:
    """See `interactgraph.exporters.export`."""
    packed = path.suffix.lower() == ".gz"
    stem, ending = (path.with_suffix(""), ".csv.gz") if packed else (path, ".csv")
    paths = [stem.with_suffix(f".{kind}{ending}") for kind in ("nodes", "edges")]
    # Both are moved into place only when both are complete.
    with replacing(paths[0]) as first, replacing(paths[1]) as second:
        for place, lines in ((first, _nodes(table)), (second, _edges(table))):
            with opened(place, packed) as file:
                csv.writer(file).writerows(lines)
    return paths


def _nodes(table: Table) -> Iterator[tuple[str, ...]]:
    numbers, texts = table.node_numbers, table.node_texts
    texts = {"Id": table.ids, "Label": texts.pop("label"), **texts}
    yield (*texts, *numbers)
    for part in table.node_parts():
        columns = [fragments("", values[part], "") for values in numbers.values()]
        yield from zip(*(column[part] for column in texts.values()), *columns, strict=True)


def _edges(table: Table) -> Iterator[tuple[str, ...]]:
    yield ("Source", "Target", "Type", "Weight", *table.more)
    ids = np.array(table.ids, dtype=object)
    for part in table.edge_parts():
        yield from zip(
            ids[table.source[part]].tolist(),
            ids[table.target[part]].tolist(),
            constant("Directed", part.stop - part.start),
            fragments("", table.weights[part], ""),
            *(fragments("", values[part], "") for values in table.more.values()),
            strict=True,
        )
