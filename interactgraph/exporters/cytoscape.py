"""Cytoscape's JSON (`.cyjs`), which Cytoscape and cytoscape.js read.

https://js.cytoscape.org/#notation/elements-json
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .. import __version__
from .json import as_json, separated
from .markup import constant, fragments, rows, text_file
from .table import Table

__all__ = ["write_cytoscape"]


def write_cytoscape(table: Table, path: Path) -> list[Path]:
    """See `interactgraph.exporters.export`."""
    with text_file(path) as file:
        file.writelines(_pieces(table))
    return [path]


def _pieces(table: Table) -> Iterator[str]:
    about = {"name": table.description, "shared_name": table.description, "weight": table.weight}
    yield (
        f'{{"format_version":"1.0","generated_by":{as_json(f"interactgraph {__version__}")},'
        f'"target_cytoscapejs_version":"~3","data":{as_json(about)},"directed":true,\n'
        '"elements":{"nodes":[\n'
    )
    yield from separated(row for part in table.node_parts() for row in _nodes(table, part))
    yield '\n],\n"edges":[\n'
    ids = np.array([as_json(name) for name in table.ids], dtype=object)
    yield from separated(row for part in table.edge_parts() for row in _edges(table, part, ids))
    yield "\n]}}\n"


def _nodes(table: Table, part: slice) -> Iterator[str]:
    columns = [
        [f'{{"data":{{"id":{as_json(name)}' for name in table.ids[part]],
        *(
            [f',"{"name" if key == "label" else key}":{as_json(text)}' for text in texts[part]]
            for key, texts in table.node_texts.items()
        ),
        *(fragments(f',"{key}":', values[part], "") for key, values in table.node_numbers.items()),
        fragments(',"size":', table.size[part], ""),
        [f',"color":"#{r:02x}{g:02x}{b:02x}"' for r, g, b in table.colour[part].tolist()],
        fragments('},"position":{"x":', table.x[part], ""),
        fragments(',"y":', -table.y[part], "}}"),  # downwards, as on a screen
    ]
    return rows(columns)


def _edges(table: Table, part: slice, ids: np.ndarray) -> Iterator[str]:
    columns = [
        [f'{{"data":{{"id":"e{number}","source":' for number in range(part.start, part.stop)],
        ids[table.source[part]].tolist(),
        constant(',"target":', part.stop - part.start),
        ids[table.target[part]].tolist(),
        fragments(',"weight":', table.weights[part], ""),
        *(fragments(f",{as_json(key)}:", values[part], "") for key, values in table.more.items()),
        constant("}}", part.stop - part.start),
    ]
    return rows(columns)
