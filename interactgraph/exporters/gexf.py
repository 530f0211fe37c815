"""GEXF 1.3, the format of Gephi (https://gexf.net/schema.html)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .. import __version__
from .markup import constant, escaped, fragments, rows, text_file
from .table import Table

__all__ = ["write_gexf"]

_HEAD = """\
<?xml version="1.0" encoding="UTF-8"?>
<gexf xmlns="http://gexf.net/1.3" xmlns:viz="http://gexf.net/1.3/viz" version="1.3">
<meta>
<creator>interactgraph {version}</creator>
<description>{description}</description>
</meta>
<graph mode="static" defaultedgetype="directed">
"""


def write_gexf(table: Table, path: Path) -> list[Path]:
    """See `interactgraph.exporters.export`."""
    with text_file(path) as file:
        file.writelines(_lines(table))
    return [path]


def _lines(table: Table) -> Iterator[str]:
    yield _HEAD.format(version=__version__, description=escaped(table.description))
    yield from _declarations(table)
    yield f'<nodes count="{len(table.ids)}">\n'
    for part in table.node_parts():
        yield from _nodes(table, part)
    yield f'</nodes>\n<edges count="{len(table.weights)}">\n'
    ids = np.array([escaped(name) for name in table.ids], dtype=object)
    for part in table.edge_parts():
        yield from _edges(table, part, ids)
    yield "</edges>\n</graph>\n</gexf>\n"


def _declarations(table: Table) -> Iterator[str]:
    # Some readers show the id of an attribute and some the title, so both are its name.
    nodes = dict.fromkeys(_texts(table), "string")
    nodes |= {
        name: "double" if values.dtype.kind == "f" else "integer"
        for name, values in table.node_numbers.items()
    }
    edges = dict.fromkeys(table.more, "double")
    for kind, attributes in (("node", nodes), ("edge", edges)):
        if attributes:
            yield f'<attributes class="{kind}">\n'
            for name, type_ in attributes.items():
                name = escaped(name)
                yield f'<attribute id="{name}" title="{name}" type="{type_}"/>\n'
            yield "</attributes>\n"


def _nodes(table: Table, part: slice) -> Iterator[str]:
    columns = [
        [f'<node id="{escaped(name)}"' for name in table.ids[part]],
        [f' label="{escaped(label)}"><attvalues>' for label in table.labels[part]],
        *(
            [f'<attvalue for="{name}" value="{escaped(text)}"/>' for text in texts[part]]
            for name, texts in _texts(table).items()
        ),
        *(_values(name, values[part]) for name, values in table.node_numbers.items()),
        fragments('</attvalues><viz:size value="', table.size[part], '"/>'),
        fragments('<viz:position x="', table.x[part], '"'),
        fragments(' y="', table.y[part], '" z="0.0"/>'),
        [
            f'<viz:color r="{r}" g="{g}" b="{b}"/></node>\n'
            for r, g, b in table.colour[part].tolist()
        ],
    ]
    return rows(columns)


def _edges(table: Table, part: slice, ids: np.ndarray) -> Iterator[str]:
    columns = [
        [f'<edge id="{number}" source="' for number in range(part.start, part.stop)],
        ids[table.source[part]].tolist(),
        constant('" target="', part.stop - part.start),
        ids[table.target[part]].tolist(),
        fragments('" weight="', table.weights[part], '"><attvalues>' if table.more else '"/>\n'),
        *(_values(escaped(name), values[part]) for name, values in table.more.items()),
    ]
    if table.more:
        columns.append(constant("</attvalues></edge>\n", part.stop - part.start))
    return rows(columns)


def _values(name: str, values: np.ndarray) -> list[str]:
    return fragments(f'<attvalue for="{name}" value="', values, '"/>')


def _texts(table: Table) -> dict[str, list[str]]:
    """Attributes of a node in words; its label is none of them."""
    return {name: texts for name, texts in table.node_texts.items() if name != "label"}
