"""Arrays: adjacency as a sparse matrix of SciPy (`.npz`), node and edge tables as Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InteractGraphError
from ..files import replacing
from .table import Table

__all__ = ["write_npz", "write_parquet"]


def write_npz(table: Table, path: Path) -> list[Path]:
    """See `interactgraph.exporters.export`.

    `scipy.sparse.load_npz` reads the adjacency `[source, target]`, `numpy.load` the node columns
    beside it.
    """
    n = len(table.ids)
    signed = table.more.get("signed", table.weights)
    arrays: dict[str, Any] = {
        **{name: _fixed(texts) for name, texts in table.node_texts.items()},
        **table.node_numbers,
    }
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            format=np.array(b"coo"),  # as scipy.sparse.save_npz writes it
            shape=np.array([n, n]),
            data=signed,
            row=table.source.astype(np.int64),
            col=table.target.astype(np.int64),
            **arrays,
        )
    table.advance(table.n_rows)
    return [path]


def write_parquet(table: Table, path: Path) -> list[Path]:
    """See `interactgraph.exporters.export`."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InteractGraphError(
            "Parquet is written by pyarrow: pip install 'interactgraph[parquet]'"
        ) from error
    edges: dict[str, Any] = {
        "source": table.source, "target": table.target, "weight": table.weights,
    }  # fmt: skip
    edges |= {name: pyarrow.array(x, from_pandas=True) for name, x in table.more.items()}
    nodes: dict[str, Any] = {"id": table.ids, **table.node_texts}
    nodes |= {name: pyarrow.array(x, from_pandas=True) for name, x in table.node_numbers.items()}
    paths = [path.with_suffix(f".{kind}.parquet") for kind in ("nodes", "edges")]
    about = {"description": table.description, "weight": table.weight}
    # Both are moved into place only when both are complete.
    with replacing(paths[0]) as first, replacing(paths[1]) as second:
        for columns, place in ((nodes, first), (edges, second)):
            arrow = pyarrow.table(columns).replace_schema_metadata(about)
            parquet.write_table(arrow, place, compression="zstd")
            table.advance(arrow.num_rows)
    return paths


def _fixed(texts: list[str]) -> np.ndarray:
    """Text as UTF-8 bytes of one length, which NumPy reads without pickle."""
    return np.array([text.encode() for text in texts], dtype=np.bytes_)
