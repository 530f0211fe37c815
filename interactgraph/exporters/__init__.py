"""Files for other tools: graphs for viewers, tables, matrices."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from ..errors import FileError
from .arrays import write_npz, write_parquet
from .csv import write_csv
from .cytoscape import write_cytoscape
from .dot import write_dot
from .gexf import write_gexf
from .graphml import write_graphml
from .json import write_json
from .palette import ISOLATED, module_colour
from .table import Table, tabulate
from .text import csv_text, json_text, xml_text

if TYPE_CHECKING:
    from ..communities import Partition
    from ..graph import InteractionGraph

__all__ = ["ISOLATED", "SUFFIXES", "export", "module_colour"]

# Suffix -> what writes the file, and what replaces the characters that it cannot hold.
_WRITERS: dict[str, tuple[Callable[[Table, Path], list[Path]], Callable[[str], str]]] = {
    ".gexf": (write_gexf, xml_text),
    ".graphml": (write_graphml, xml_text),
    ".csv": (write_csv, csv_text),
    ".json": (write_json, json_text),
    ".cyjs": (write_cytoscape, json_text),
    ".parquet": (write_parquet, json_text),
    ".npz": (write_npz, csv_text),
    ".dot": (write_dot, csv_text),
}
_PACKED = (".gexf", ".graphml", ".csv", ".json", ".cyjs")  # may be followed by .gz
_PATIENCE = 1.0  # seconds until progress is shown

SUFFIXES = (*_WRITERS, *(f"{suffix}.gz" for suffix in _PACKED))


def export(
    graph: InteractionGraph,
    path: str | os.PathLike[str],
    *,
    partition: Partition | None = None,
    strength: str | None = None,
    progress: bool = True,
) -> list[Path]:
    """Writes a graph in the format that the suffix names; files appear whole or not at all.

    `.gexf` for Gephi, Gephi Lite and sigma.js, `.graphml` for igraph, Cytoscape, yEd and others,
    `.csv` for tables (`NAME.nodes.csv` and `NAME.edges.csv`, with Gephi's column names), `.json`
    for node-link JSON (`networkx.node_link_graph(..., edges="edges")`, d3), `.cyjs` for Cytoscape
    and cytoscape.js, `.parquet` for tables that pandas, polars and DuckDB read
    (`NAME.nodes.parquet`, `NAME.edges.parquet`), `.npz` for the adjacency matrix
    (`scipy.sparse.load_npz`), `.dot` for Graphviz. `.gz` may follow `.gexf`, `.graphml`, `.csv`,
    `.json` and `.cyjs`. Text is written piece by piece, so that memory holds the graph and its
    edge list once, however long the file is.

    In every format an edge has its absolute `weight`, `signed` where the strength has a sign, the
    other strengths and the standard error; a node has its label, layer, number, strength and
    module, and where the partition has affinities its `affinity` to that module, `second_module`
    and `second_affinity`, and its `role` ("mixture", "hub" or nothing). In `.npz` edges have their
    weight alone, with its sign, and in `.parquet` they name nodes by their row. Characters that a
    format cannot hold are replaced by visible ones.

    Args:
        graph: the graph.
        path: the file; its folder is made if it does not exist.
        partition: modules of the graph's features, for colours and the `module` attribute.
        strength: which strength is the weight; None: the graph's first.
        progress: show a bar where writing takes longer than a second.

    Returns:
        The files that were written.

    Raises:
        FileError: an unknown suffix, or a path that cannot be written.
        InteractGraphError: an unknown strength, a partition of another graph, a weight that is not
            finite, too many edges for the format, or a package that is missing.

    Example:
        >>> import interactgraph as itg
        >>> net = itg.zoo.planted_modules(widths=(8, 12, 8), n_modules=2, n_samples=128)
        >>> graph = itg.interaction_graph(net.model, net.data, net.layers, progress=False)
        >>> import tempfile, pathlib
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> [path.name for path in itg.export(graph.prune(top_k=20), folder / "graph.gexf")]
        ['graph.gexf']
    """
    path = Path(path)
    suffix = "".join(path.suffixes[-2:] if path.suffix.lower() == ".gz" else path.suffixes[-1:])
    if suffix.lower() not in SUFFIXES:
        found = f"has the suffix {suffix!r}" if suffix else "has no suffix"
        raise FileError(
            f"cannot export to {path}: it {found}; give a file name that ends in one of "
            + ", ".join(SUFFIXES)
        )
    write, clean = _WRITERS[suffix.lower().removesuffix(".gz")]
    table = tabulate(graph, partition, strength, clean)
    with tqdm(
        total=table.n_rows, desc=path.name, unit=" rows", unit_scale=True, delay=_PATIENCE,
        disable=not progress, leave=False,
    ) as bar:  # fmt: skip
        return write(replace(table, advance=bar.update), path)
