"""Time and memory on large graphs, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import resource, sys, time
import numpy as np, torch
torch.set_num_threads(1)
from benchmarks.communities.graphs import chain
from interactgraph import find_modules
from interactgraph.communities import adjusted_rand_index
from interactgraph.communities.network import Network
from interactgraph.communities.objective import make_objective
from interactgraph.communities.runs import sweep_runs
from interactgraph.communities.weighting import root_normalised
width, task = int(sys.argv[1]), sys.argv[2]
draw = np.random.default_rng(0)
modules = [draw.permutation(np.arange(width) % 20) for _ in range(5)]
blocks = []
for a, b in zip(modules[:-1], modules[1:]):
    w = np.exp(draw.standard_normal((width, width), dtype=np.float32))
    w *= np.exp(draw.normal(size=width)).astype(np.float32)
    blocks.append(torch.as_tensor(w * np.where(b[:, None] == a, 2, 1).astype(np.float32)))
graph = chain({"rms": blocks})
truth = np.concatenate(modules)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start, cpu = time.perf_counter(), time.process_time()
if task == "starts":
    objective = make_objective(Network.from_graph(graph).map(root_normalised), "layered", 1.0)
    start, cpu = time.perf_counter(), time.process_time()
    labels = max(sweep_runs(objective, range(10)), key=objective.quality)
else:
    labels = find_modules(graph, **eval(task)).labels
took, cpu = time.perf_counter() - start, time.process_time() - cpu
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(f"{4 * width**2 / 1e6:.1f} million | {took:.1f} s | {cpu:.1f} s | {peak:.2f} GiB | "
      f"{adjusted_rand_index(labels, truth):.2f}")
"""


def size(cache: Path) -> str:
    rows = []
    for name, width, task in (
        ("10 starts of sweeps", 1582, "starts"),
        ("find_modules, default", 1582, "{}"),
        ("find_modules, no significance", 1582, "{'significance': False}"),
        ("leiden, one run", 700, "{'algorithm': 'leiden', 'n_runs': 1, 'significance': False, "
                                 "'weighting': 'root_normalised'}"),
    ):  # fmt: skip
        done = subprocess.run([sys.executable, "-c", SCRIPT, str(width), task],
                              capture_output=True, text=True, check=True)  # fmt: skip
        rows.append(f"| {name} | {done.stdout.strip()} |")
    return "\n".join(
        ["## Size\n",
            "Four dense blocks, 20 planted modules; peak memory of the whole process. On a busy "
            "machine the processor time is what counts.\n",
         "| what | edges | time | processor time | memory | ARI |",
         "| --- | --- | --- | --- | --- | --- |", *rows]
    )  # fmt: skip
