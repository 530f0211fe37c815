"""A graph of 24,576 x 24,576 features, from a file to modules, without a dense matrix."""

import subprocess
import sys

import pytest

CODE = """
import resource, sys
from pathlib import Path
import numpy as np
import torch
import interactgraph as itg

folder, n, n_edges, n_modules = Path(sys.argv[1]), 24_576, 600_000, 12
draw = np.random.default_rng(0)
modules = [draw.integers(0, n_modules, n) for _ in range(2)]
source = draw.integers(0, n, n_edges)
target = draw.integers(0, n, n_edges)
own = draw.random(n_edges) < 0.7
for module in range(n_modules):
    chosen = own & (modules[0][source] == module)
    target[chosen] = draw.choice(np.flatnonzero(modules[1] == module), chosen.sum())
weight = np.exp(draw.normal(size=n_edges)).astype(np.float32)
ends = torch.from_numpy(np.stack([target, source]))
rms = torch.sparse_coo_tensor(ends, torch.from_numpy(weight), (n, n)).coalesce()
pair = ("a", "b")
graph = itg.InteractionGraph(
    pair, [pair], {name: [f"{name}{j}" for j in range(n)] for name in pair},
    {pair: {"rms": rms}}, {pair: {"rms": rms / 10}},
)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
graph.save(folder / "graph.safetensors")
graph = itg.load(folder / "graph.safetensors").prune(top_k=500_000)
itg.export(graph, folder / "graph.csv")
partition = itg.find_modules(
    graph, n_runs=1, resolution=1.0, weighting="root_normalised", significance=LIGHT
)
found = itg.communities.adjusted_mutual_information(partition.labels, np.concatenate(modules))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((folder / "graph.safetensors").stat().st_size, (peak - before) << 10, found)
"""


@pytest.mark.slow
def test_from_a_file_to_modules(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE.replace("LIGHT", "True"), tmp_path],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    size, memory, found = map(float, done.stdout.split())
    assert size < 100e6
    assert memory < 1.2e9  # a dense matrix takes 4.8e9 in float64
    assert found > 0.9
    rows = sum(1 for _ in (tmp_path / "graph.edges.csv").open())
    assert rows == 500_001
