"""GraphML (http://graphml.graphdrawing.org/specification.html).

Written by hand: networkx takes more than ten times as long, igraph keeps 15 digits of a weight and
numbers the nodes, and neither writes a file that can be read when a label holds a control
character.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .. import __version__
from .markup import constant, escaped, fragments, rows, text_file
from .table import Table

__all__ = ["write_graphml"]

_SMALLEST = np.finfo(np.float64).smallest_normal

_HEAD = """\
<?xml version="1.0" encoding="UTF-8"?>
<graphml xmlns="http://graphml.graphdrawing.org/xmlns"
 xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
 xsi:schemaLocation="http://graphml.graphdrawing.org/xmlns
 http://graphml.graphdrawing.org/xmlns/1.0/graphml.xsd">
<desc>{description}; written by interactgraph {version}</desc>
"""


def write_graphml(table: Table, path: Path) -> list[Path]:
    """See `interactgraph.exporters.export`."""
    with text_file(path) as file:
        file.writelines(_lines(table))
    return [path]


def _lines(table: Table) -> Iterator[str]:
    yield _HEAD.format(version=__version__, description=escaped(table.description))
    numbers = _node_numbers(table)
    # Keys are called what they hold: readers know them by that (Gephi takes "d3", as networkx
    # would number the fourth one, for the label of a node).
    nodes = dict.fromkeys(table.node_texts, "string")
    nodes |= {name: "double" if v.dtype.kind == "f" else "int" for name, v in numbers.items()}
    for kind, keys in (("node", nodes), ("edge", dict.fromkeys(["weight", *table.more], "double"))):
        for name, type_ in keys.items():
            name = escaped(name)
            yield f'<key id="{name}" for="{kind}" attr.name="{name}" attr.type="{type_}"/>\n'
    yield '<graph edgedefault="directed">\n'
    for part in table.node_parts():
        yield from _nodes(table, numbers, part)
    ids = np.array([escaped(name) for name in table.ids], dtype=object)
    for part in table.edge_parts():
        yield from _edges(table, part, ids)
    yield "</graph>\n</graphml>\n"


def _node_numbers(table: Table) -> dict[str, np.ndarray]:
    """Numbers of the nodes under the names from which Gephi takes position, size and colour."""
    return {
        **table.node_numbers,
        "x": table.x,
        "y": table.y,
        "size": table.size,
        **dict(zip("rgb", table.colour.T, strict=True)),
    }


def _nodes(table: Table, numbers: dict[str, np.ndarray], part: slice) -> Iterator[str]:
    columns = [
        [f'<node id="{escaped(name)}">' for name in table.ids[part]],
        *(
            [f'<data key="{name}">{escaped(text)}</data>' for text in texts[part]]
            for name, texts in table.node_texts.items()
        ),
        *(_data(name, values[part]) for name, values in numbers.items()),
        constant("</node>\n", part.stop - part.start),
    ]
    return rows(columns)


def _edges(table: Table, part: slice, ids: np.ndarray) -> Iterator[str]:
    columns = [
        constant('<edge source="', part.stop - part.start),
        ids[table.source[part]].tolist(),
        constant('" target="', part.stop - part.start),
        ids[table.target[part]].tolist(),
        fragments('"><data key="weight">', table.weights[part], "</data>"),
        *(_data(escaped(name), _normal(values[part])) for name, values in table.more.items()),
        constant("</edge>\n", part.stop - part.start),
    ]
    return rows(columns)


def _normal(values: np.ndarray) -> np.ndarray:
    """Zero for what is below the normal numbers, at which igraph stops reading."""
    return np.where(np.abs(values) < _SMALLEST, 0.0, values)


def _data(name: str, values: np.ndarray) -> list[str]:
    return fragments(f'<data key="{name}">', values, "</data>")
