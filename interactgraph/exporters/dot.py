"""DOT, the language of Graphviz (https://graphviz.org/doc/info/lang.html), for small graphs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError
from .markup import text_file
from .table import Table

__all__ = ["write_dot"]

_MOST = 20_000  # edges; Graphviz places thousands at most
_WIDEST = 5.0  # points


def write_dot(table: Table, path: Path) -> list[Path]:
    """See `interactgraph.exporters.export`."""
    if len(table.weights) > _MOST:
        raise InputError(
            f"the graph has {len(table.weights)} edges, and Graphviz draws {_MOST} at most; prune "
            "it first, such as graph.prune(top_k=2000), or export it to .gexf"
        )
    with text_file(path) as file:
        file.writelines(_lines(table))
    return [path]


def _lines(table: Table) -> Iterator[str]:
    yield f"digraph {quoted(table.description)} {{\nrankdir=LR;\nnode [style=filled];\n"
    names = [quoted(name) for name in table.ids]
    for number, name in enumerate(names):
        attributes = {key: quoted(texts[number]) for key, texts in table.node_texts.items()}
        for key, values in table.node_numbers.items():
            value = values[number]
            if values.dtype.kind == "i":
                attributes[key] = repr(int(value))
            elif value == value:
                attributes[key] = numeral(value)
        colour = "#{:02x}{:02x}{:02x}".format(*table.colour[number].tolist())
        attributes["fillcolor"] = quoted(colour)
        yield f"{name} [{_list(attributes)}];\n"
    table.advance(len(names))
    for layer in dict.fromkeys(table.layers):
        members = (name for name, of in zip(names, table.layers, strict=True) if of == layer)
        yield f"{{rank=same; {'; '.join(members)}}}\n"
    largest = float(table.weights.max()) if len(table.weights) else 1.0
    for number, weight in enumerate(table.weights.tolist()):
        # `weight` is a whole number in Graphviz, and says how straight the edge should be.
        width = round(_WIDEST * weight / largest, 4)
        attributes = {"strength": numeral(weight), "penwidth": numeral(width)}
        for key, values in table.more.items():
            if (value := float(values[number])) == value:
                attributes[quoted(key)] = numeral(value)
        source, target = names[table.source[number]], names[table.target[number]]
        yield f"{source} -> {target} [{_list(attributes)}];\n"
    table.advance(len(table.weights))
    yield "}\n"


def _list(attributes: dict[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in attributes.items())


def numeral(value: float) -> str:
    """A number in quotes: without them, DOT knows no exponents."""
    return f'"{float(value)!r}"'


def quoted(text: str) -> str:
    r"""A string of DOT: in it \ begins an escape, and nothing else but " has a meaning."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
