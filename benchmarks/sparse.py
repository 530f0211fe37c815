"""Sparse features: packing of passes, and graphs whose matrices would not fit.

    python benchmarks/sparse.py [packing] [wide]

"packing" trains the two-digits network of the demo on real images and a sparse autoencoder on its
first hidden layer, 16 times overcomplete, then computes the same graph with and without packing, in
turn in one process. "wide" takes a dictionary of 24,576 features on both sides of a small network
from the run to the file, its modules and its tables.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from page import write
from torch import Tensor, nn
from torch.nn import functional as F

import interactgraph as itg
from interactgraph.attribution import packing
from interactgraph.zoo import two_digits

OVERCOMPLETE = 16
ACTIVE = 24  # features at a time
SAMPLES, BATCH = 1024, 256
WIDE, WIDTH, KEPT = 24_576, 64, 600_000
WIDE_SAMPLES, WIDE_BATCH, WIDE_ACTIVE, WIDE_NODES = 384, 64, 32, 2

_T = TypeVar("_T")


def trained_dictionary(activations: Tensor, steps: int = 1500) -> itg.features.Dictionary:
    """A TopK sparse autoencoder (Gao et al., arXiv 2406.04093), trained by Adam."""
    torch.manual_seed(0)
    size = activations.shape[1]
    n = OVERCOMPLETE * size
    decoder = F.normalize(torch.randn(size, n), dim=0).requires_grad_(True)
    encoder = decoder.detach().T.clone().requires_grad_(True)
    bias = torch.zeros(n, requires_grad=True)
    offset = activations.mean(0).requires_grad_(True)
    scale = float(activations.var(0).sum())
    optimizer = torch.optim.Adam([decoder, encoder, bias, offset], lr=2e-3)

    def encode(f: Tensor) -> Tensor:
        p = torch.relu((f - offset) @ encoder.T + bias)
        top = p.topk(ACTIVE, dim=1)
        return torch.zeros_like(p).scatter(1, top.indices, top.values)

    for _ in range(steps):
        f = activations[torch.randint(len(activations), (512,))]
        z = encode(f)
        missed = (z @ decoder.T + offset - f).square().sum(1).mean() / scale
        optimizer.zero_grad()
        missed.backward()
        optimizer.step()
        with torch.no_grad():
            decoder /= decoder.norm(dim=0)
    with torch.no_grad():
        z = encode(activations)
        missed = (z @ decoder.T + offset - activations).square().sum(1).mean() / scale
    print(f"variance left {float(missed):.3f}, active {float((z > 0).sum(1).float().mean()):.1f}")
    return itg.features.Dictionary(
        encoder.detach(), decoder.detach(), encoder_bias=bias.detach(),
        decoder_bias=offset.detach(), offset=offset.detach(), activation="topk", k=ACTIVE,
    )  # fmt: skip


def packed_passes() -> None:
    """Measures packing and writes."""
    torch.set_num_threads(1)
    digits = two_digits(0)
    with torch.no_grad():
        activations = digits.model[:2](digits.images)
    dictionary = trained_dictionary(activations)
    data = digits.images[:SAMPLES].split(BATCH)
    pack = packing.pack

    def run(packed: bool) -> tuple[float, itg.InteractionGraph]:
        packing.pack = pack if packed else lambda dz, by_position: None
        try:
            start = time.process_time()
            graph = itg.interaction_graph(
                digits.model, data, ["1", "4"], features={"1": dictionary}, engine="forward",
                progress=False,
            )  # fmt: skip
            return time.process_time() - start, graph
        finally:
            packing.pack = pack

    run(True)
    times: dict[bool, list[float]] = {True: [], False: []}
    graphs = {}
    for _ in range(3):
        for packed in times:
            seconds, graphs[packed] = run(packed)
            times[packed].append(seconds)
    ratio = statistics.median(times[False]) / statistics.median(times[True])
    a, b = (graphs[packed].weights("1", "4") for packed in (True, False))
    difference = float((a - b).norm() / b.norm())
    passes = graphs[True].metadata["plans"][0]["passes_packed"]
    lines = [
        f"### TopK autoencoder (k = {ACTIVE}), {a.shape[1]} features on 64 units of the "
        f"two-digits network, {SAMPLES} samples, forward mode, 8 nodes",
        "",
        "| what | figure |",
        "| --- | --- |",
        f"| passes per node and batch, unpacked | {a.shape[1]} |",
        f"| passes per node and batch, packed | {passes} |",
        f"| times faster | {ratio:.1f} |",
        f"| relative difference of the graphs | {difference:.1e} |",
        "",
    ]
    write("sparse", lines)


class Laps:
    """CPU seconds and peak memory of one step after the other."""

    def __init__(self) -> None:
        self.rows: list[str] = []

    def __call__(self, name: str, step: Callable[[], _T]) -> _T:
        """Runs a step and notes what it took."""
        start = time.process_time()
        result = step()
        seconds = time.process_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        self.rows.append(f"| {name} | {seconds:.1f} | {peak:.2f} |")
        print(self.rows[-1], flush=True)
        return result


def halves(seed: int) -> tuple[itg.features.Dictionary, np.ndarray]:
    """A random TopK dictionary whose features read and write one half of the coordinates each."""
    generator = torch.Generator().manual_seed(seed)
    half = torch.randint(0, 2, (WIDE,), generator=generator)
    decoder = torch.randn(WIDTH, WIDE, generator=generator)
    decoder[: WIDTH // 2] *= half == 0
    decoder[WIDTH // 2 :] *= half == 1
    decoder = F.normalize(decoder, dim=0)
    # The error of a dictionary is a feature of both halves.
    found = itg.features.Dictionary(
        decoder.mT.contiguous(), decoder, activation="topk", k=WIDE_ACTIVE
    )
    return found, half.numpy()


def wide_graph() -> None:
    """Measures a graph between wide dictionaries and writes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh())
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight *= 3
            layer.weight[: WIDTH // 2, WIDTH // 2 :] = 0
            layer.weight[WIDTH // 2 :, : WIDTH // 2] = 0
    maps = [halves(seed) for seed in (1, 2)]
    data = torch.randn(WIDE_SAMPLES, WIDTH).split(WIDE_BATCH)
    laps = Laps()
    laps("model, dictionaries and data", lambda: None)
    graph = laps(
        f"run (`max_edges={KEPT}`)",
        lambda: itg.interaction_graph(
            model, data, ["1", "3"], features={"1": maps[0][0], "3": maps[1][0]}, max_edges=KEPT,
            n_steps=WIDE_NODES, tolerance=None, engine="forward", progress=False,
        ),
    )  # fmt: skip
    n_edges = len(graph.edges().weight)
    (kept,) = graph.metadata["kept_edges"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.safetensors"
        laps("save", lambda: graph.save(path))
        on_disk = os.path.getsize(path)
        edges = len(graph.edges().weight) * 2 * (8 + 4)  # places and values, of two matrices
        graph = laps("load", lambda: itg.load(path))
        pruned = laps("prune to half", lambda: graph.prune(top_k=n_edges // 2))
        laps("export CSV", lambda: itg.export(pruned, Path(folder) / "graph.csv"))
    partition = laps(
        "find_modules (2 runs at resolution 1, and significance)",
        lambda: itg.find_modules(pruned, n_runs=2, resolution=1.0, weighting="root_normalised"),
    )
    truth = np.concatenate([maps[0][1], [-1], maps[1][1], [-1]])  # the errors are of neither
    placed = (partition.labels >= 0) & (truth >= 0)
    score = itg.communities.adjusted_mutual_information(partition.labels[placed], truth[placed])
    lines = [
        f"### TopK dictionaries of {WIDE:,} features on both sides of {WIDTH} units, two halves "
        f"that do not meet, {WIDE_SAMPLES} samples, {WIDE_ACTIVE} features active, "
        f"{WIDE_NODES} nodes",
        "",
        "| step | CPU seconds | peak memory so far, GiB |",
        "| --- | --- | --- |",
        *laps.rows,
        "",
        "| what | figure |",
        "| --- | --- |",
        f"| one matrix of all edges in float64, GiB | {(WIDE + 1) ** 2 * 8 / 2**30:.2f} |",
        f"| edges in the graph | {n_edges:,} |",
        f"| dropped on the way | {kept['dropped']:,} |",
        f"| rms above which no edge is missing, share of the largest | "
        f"{kept['absent']['rms'] / float(graph.weights('1', '3').values().max()):.2g} |",
        f"| file, MB (edges of it) | {on_disk / 1e6:.1f} ({edges / 1e6:.1f}) |",
        f"| modules found, p-value | {partition.n_modules}, {partition.p_value:.1g} |",
        f"| adjusted mutual information with the halves | {score:.2f} |",
    ]
    write("sparse_wide", lines)


def main() -> None:
    """Measures what is asked for, everything by default."""
    parts = {"packing": packed_passes, "wide": wide_graph}
    for name in sys.argv[1:] or parts:
        parts[name]()


if __name__ == "__main__":
    main()
