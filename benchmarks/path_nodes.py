"""Default settings on real models: completeness, path nodes, edges against a fine reference.

Writes its section of benchmarks/README.md: `python benchmarks/path_nodes.py [NAME ...]`; with
names, the other rows stay as they are.
"""

from __future__ import annotations

import sys
import warnings

import page
import torch
from real_models import CASES, make

import interactgraph as itg

MOST = {"Mixtral": 64, "residual network, trained": 256}  # nodes of a reference with kinks or jumps
ROW = "| {} | {} | {} | {} | {:.3f} | {} |"


def measure(name: str, baseline: str) -> str:
    """A row of the table."""
    case = make(name)
    options = {"baseline": baseline, "progress": False}
    graph = itg.interaction_graph(case.model, case.data, case.layers, **options)
    fine = itg.interaction_graph(
        case.model, case.data, case.layers, **options, tolerance=1e-4,
        n_steps=MOST.get(name, 512), dtype=torch.float64,
    )  # fmt: skip
    off = []
    for pair in graph.pairs:
        exact = fine.weights(*pair)
        off.append(float((graph.weights(*pair) - exact).norm() / exact.norm()))
    nodes = [plan.get("n_steps_used", 0) for plan in graph.metadata["plans"]]
    unsure = max(fine.completeness.values())
    edges = f"{max(off):.2%}" + (f" (reference {unsure:.1e})" if unsure > 1e-3 else "")
    residual = max(graph.completeness.values())
    row = ROW.format(name, len(graph.pairs), baseline, max(nodes), residual, edges)
    print(row, flush=True)
    return row


def main(names: list[str]) -> None:
    """Measures the models of these names, all where there are none, and keeps the other rows."""
    warnings.simplefilter("ignore")
    rows = {row.split("|")[1].strip() + row.split("|")[3]: row for row in page.rows("path nodes")}
    for name in names or CASES:
        for baseline in ("zero", "mean"):
            rows[f"{name} {baseline} "] = measure(name, baseline)
    order = [f"{name} {baseline} " for name in CASES for baseline in ("zero", "mean")]
    page.write("path nodes", [
        "## Default settings on real models",
        "",
        f"torch {torch.__version__}, by `python benchmarks/path_nodes.py`: neighbouring layers, no "
        "option given but the baseline; the largest figure of all pairs. Edges are compared in "
        "float64 with a reference of up to 512 nodes (256 for the residual network) at a tolerance "
        "of 1e-4. Models are small and random unless they say trained. Mixtral chooses experts, "
        "which jumps: no derivative sees that, and the graph says so.",
        "",
        "| model | pairs | baseline | nodes | completeness residual | edges off by |",
        "| --- | --- | --- | --- | --- | --- |",
        *(rows[key] for key in order if key in rows),
    ])  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
