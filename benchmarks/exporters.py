"""Time and memory of every export of a graph with a million edges, next to networkx's writer.

    python benchmarks/exporters.py

Each file is written in a process of its own, by one thread; its processor time counts, so that
other work on the machine does not. Peak resident memory, with Python, torch and the graph itself
in it, is read from the operating system.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from page import write

MIB = 2**20
WIDTH, DEPTH = 500, 5  # four pairs of 250,000 edges
FORMATS = (
    ".gexf", ".graphml", ".json", ".cyjs", ".csv", ".parquet", ".npz",
    ".gexf.gz", ".csv.gz",
)  # fmt: skip
ASKED = {".gexf": "60 s, 1 GiB", ".csv": "20 s", ".parquet": "5 s"}
PEER = "networkx"


def graph_and_modules() -> tuple:
    """Every edge there, as a run leaves it: rms, mean and the standard error of rms."""
    import numpy as np
    import torch

    import interactgraph as itg

    generator = torch.Generator().manual_seed(0)
    layers = [f"layers.{k}" for k in range(DEPTH)]
    blocks, errors = {}, {}
    for pair in pairwise(layers):
        mean = torch.randn(WIDTH, WIDTH, generator=generator)
        blocks[pair] = {"rms": 1.3 * mean.abs() + 0.01, "mean": mean}
        errors[pair] = {"rms": mean.abs() / 7 + 0.001}
    labels = {layer: [f"{layer}:{j}" for j in range(WIDTH)] for layer in layers}
    graph = itg.InteractionGraph(layers, list(blocks), labels, blocks, errors)
    return graph, itg.Partition(dict.fromkeys(layers, np.arange(WIDTH) % 8), 0.3)


def as_networkx() -> object:
    """The same nodes and edges with the same attributes as in the GEXF of this library."""
    import networkx

    from interactgraph.exporters.table import tabulate
    from interactgraph.exporters.text import xml_text

    table = tabulate(*graph_and_modules(), None, xml_text)
    view = networkx.DiGraph()
    for k, name in enumerate(table.ids):
        red, green, blue = table.colour[k].tolist()
        viz = {
            "size": float(table.size[k]),
            "position": {"x": float(table.x[k]), "y": float(table.y[k]), "z": 0.0},
            "color": {"r": red, "g": green, "b": blue, "a": 1.0},
        }
        values = {key: texts[k] for key, texts in table.node_texts.items()}
        values |= {key: numbers[k].item() for key, numbers in table.node_numbers.items()}
        view.add_node(name, **values, viz=viz)
    keys = ("weight", *table.more)
    columns = [x.tolist() for x in (table.source, table.target, table.weights)]
    columns += [values.tolist() for values in table.more.values()]
    for source, target, *values in zip(*columns, strict=True):
        view.add_edge(table.ids[source], table.ids[target], **dict(zip(keys, values, strict=True)))
    return view


def one(what: str, folder: Path) -> None:
    """Writes one file; prints seconds, peak memory and the size of what was written."""
    if what == PEER:
        import networkx

        view, place = as_networkx(), folder / "networkx.gexf"
        start = time.process_time()
        networkx.write_gexf(view, place)
        paths = [place]
    else:
        import interactgraph as itg

        graph, partition = graph_and_modules()
        start = time.process_time()
        paths = itg.export(graph, folder / f"g{what}", partition=partition, progress=False)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(seconds, peak, sum(path.stat().st_size for path in paths))


def measured(what: str) -> tuple[float, float, float]:
    """Seconds, peak memory and size, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, str(Path(__file__)), what, folder],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    seconds, peak, size = map(float, done.stdout.split())
    return seconds, peak, size


def main() -> None:
    """Measures all formats."""
    if len(sys.argv) == 3:
        one(sys.argv[1], Path(sys.argv[2]))
        return
    found = {what: measured(what) for what in FORMATS}
    # Before and after the peer, so that a machine that changes its pace shows.
    peer = measured(PEER)
    slower = [peer[0] / found[".gexf"][0], peer[0] / measured(".gexf")[0]]
    lines = [
        "## Exports",
        "",
        f"One graph: {DEPTH} layers of {WIDTH} features, {(DEPTH - 1) * WIDTH**2:,} edges with "
        "rms, mean and standard error, and modules. Seconds are processor time of the one thread "
        "that writes (on an idle machine those of the clock). Peak memory is that of the whole "
        "process; Python, torch and the graph take about 350 MiB of it.",
        "",
        "| file | seconds | peak memory | size | asked |",
        "| --- | --- | --- | --- | --- |",
    ]
    for what, (seconds, peak, size) in found.items():
        lines.append(
            f"| `{what}` | {seconds:.1f} | {peak / MIB:.0f} MiB | {size / 1e6:.0f} MB "
            f"| {ASKED.get(what, '')} |"
        )
    lines += [
        f"| networkx's `write_gexf` | {peer[0]:.1f} | {peer[1] / MIB:.0f} MiB "
        f"| {peer[2] / 1e6:.0f} MB | |",
        "",
        f"networkx's writer of the same nodes, edges and attributes takes {min(slower):.1f} to "
        f"{max(slower):.1f} times as long as this library's (asked: at least 5), side by side.",
    ]
    write("exporters", lines)


if __name__ == "__main__":
    main()
