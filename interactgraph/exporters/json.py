"""Node-link JSON, as `networkx.node_link_graph(..., edges="edges")` reads it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from .. import __version__
from .markup import constant, fragments, rows, text_file
from .table import Table

__all__ = ["as_json", "separated", "write_json"]


def write_json(table: Table, path: Path) -> list[Path]:
    """See `interactgraph.exporters.export`."""
    with text_file(path) as file:
        file.writelines(_pieces(table))
    return [path]


def _pieces(table: Table) -> Iterator[str]:
    about = {
        "creator": f"interactgraph {__version__}",
        "description": table.description,
        "weight": table.weight,
    }
    yield f'{{"directed":true,"multigraph":false,"graph":{as_json(about)},\n"nodes":[\n'
    yield from separated(row for part in table.node_parts() for row in _nodes(table, part))
    yield '\n],\n"edges":[\n'
    ids = np.array([as_json(name) for name in table.ids], dtype=object)
    yield from separated(row for part in table.edge_parts() for row in _edges(table, part, ids))
    yield "\n]}\n"


def as_json(value: object) -> str:
    """Text of JSON that keeps every character."""
    return json.dumps(value, ensure_ascii=False)


def separated(lines: Iterable[str]) -> Iterator[str]:
    """Commas between the lines, none after the last."""
    separator = ""
    for line in lines:
        yield separator + line
        separator = ",\n"


def _nodes(table: Table, part: slice) -> Iterator[str]:
    numbers = {**table.node_numbers, "x": table.x, "y": table.y, "size": table.size}
    columns = [
        [f'{{"id":{as_json(name)}' for name in table.ids[part]],
        *(
            [f',"{name}":{as_json(text)}' for text in texts[part]]
            for name, texts in table.node_texts.items()
        ),
        *(fragments(f',"{name}":', values[part], "") for name, values in numbers.items()),
        [f',"color":"#{r:02x}{g:02x}{b:02x}"}}' for r, g, b in table.colour[part].tolist()],
    ]
    return rows(columns)


def _edges(table: Table, part: slice, ids: np.ndarray) -> Iterator[str]:
    columns = [
        constant('{"source":', part.stop - part.start),
        ids[table.source[part]].tolist(),
        constant(',"target":', part.stop - part.start),
        ids[table.target[part]].tolist(),
        fragments(',"weight":', table.weights[part], ""),
        *(fragments(f",{as_json(name)}:", values[part], "") for name, values in table.more.items()),
        constant("}", part.stop - part.start),
    ]
    return rows(columns)
