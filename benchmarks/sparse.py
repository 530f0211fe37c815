"""Packing of sparse features: a dictionary 16 times overcomplete on a real network.

    python benchmarks/sparse.py

Trains the two-digits network of the demo on real images and a sparse autoencoder on its first
hidden layer, then computes the same graph with and without packing, in turn in one process.
"""

from __future__ import annotations

import statistics
import time

import torch
from page import write
from torch import Tensor
from torch.nn import functional as F

import interactgraph as itg
from interactgraph.attribution import packing
from interactgraph.zoo import two_digits

OVERCOMPLETE = 16
ACTIVE = 24  # features at a time
SAMPLES, BATCH = 1024, 256


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


def main() -> None:
    """Measures and writes."""
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


if __name__ == "__main__":
    main()
