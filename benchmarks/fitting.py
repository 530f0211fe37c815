"""What a local interaction basis costs to fit, against one backward pass per target feature.

    python benchmarks/fitting.py

The loop that it is compared with is bare autograd: one forward pass per batch, shared by one
`torch.autograd.grad` per target feature and position, whose squares are added up. It uses the
target features that the fit found (truncated ones are left out), needs no covariances and no
second look at the data, and is timed on some of its calls. Ours is the whole fit of all layers.
"""

from __future__ import annotations

import time
from itertools import pairwise

import torch
from communities import modular_addition as addition
from page import write
from torch import nn

from interactgraph import fit_features
from interactgraph.features import (
    PCA,
    FeatureMap,
    LocalInteractionBasis,
    Neurons,
)
from interactgraph.model import Runner, resolve_sites

CALLS = 60


def loop(model: nn.Module, data: list[torch.Tensor], maps: dict[str, FeatureMap]) -> float:
    """Seconds of the bare loop over all pairs of layers and all data."""
    runner = Runner.on(model, None, None, None)
    sites = {site.name: site for site in resolve_sites(model, list(maps))}
    total = 0.0
    for source, target in pairwise(maps):
        found = runner.activations(data[0], list(sites.values()))
        segment = runner.segment(data[0], sites[source], sites[target])
        leaf = found[source].detach().clone().requires_grad_(True)
        squared = torch.zeros(leaf.shape[-1], leaf.shape[-1], dtype=torch.float64)
        start = time.perf_counter()
        with torch.enable_grad():
            y = maps[target].encode(segment(leaf)).flatten(1)
        forward = time.perf_counter() - start
        start = time.perf_counter()
        for call in range(CALLS):
            (g,) = torch.autograd.grad(y[:, call * 7 % y.shape[1]].sum(), leaf, retain_graph=True)
            g = g.reshape(-1, leaf.shape[-1]).double()
            squared += g.T @ g
        each = (time.perf_counter() - start) / CALLS
        total += (forward + each * y.shape[1]) * len(data)
    return total


def row(name: str, model: nn.Module, data: list[torch.Tensor], maps: dict[str, FeatureMap]) -> str:
    """Both, side by side, the faster of three runs each."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    ours, theirs, fitted = [], [], {}
    for _ in range(3):
        start = time.perf_counter()
        fitted = fit_features(model, data, maps, progress=False)
        ours.append(time.perf_counter() - start)
        theirs.append(loop(model, data, fitted))
    ways = ", ".join(getattr(m, "way", "") or "none" for m in fitted.values())
    slow, fast = min(theirs), min(ours)
    return f"| {name} | {slow:.2f} s | {fast:.2f} s | {slow / fast:.1f} | {ways} |"


def main() -> None:
    """Measures and writes."""
    torch.set_num_threads(1)
    rows = [
        "### Fitting local interaction bases, float64, one thread",
        "",
        "| model | one backward pass per target feature and position | the whole fit | ratio | "
        "how, layer by layer |",
        "| --- | --- | --- | --- | --- |",
    ]
    lib = LocalInteractionBasis()
    if addition.REFERENCE.exists():
        model, seen, _ = addition.reference()
        layers = {**dict.fromkeys(addition.LAYERS, lib), "logits": PCA()}
        probing = LocalInteractionBasis(n_probes=16)
        data = list(seen.split(512))
        model = model.double()
        rows.append(row("published modular addition, exact", model, data, layers))
        rows.append(
            row("the same, 16 probes where it is not affine or a closed form", model, data,
                {**layers, "embed": probing})
        )  # fmt: skip
    for width in (128, 512):
        torch.manual_seed(0)
        sizes = [nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU()]
        model = nn.Sequential(*sizes, nn.Linear(width, 10)).double()
        data = list(torch.randn(2048, width, dtype=torch.float64).split(512))
        maps = {"input": lib, "1": lib, "3": lib, "4": Neurons()}
        rows.append(row(f"GELU perceptron, {width} wide, exact", model, data, maps))
    write("fitting", rows)


if __name__ == "__main__":
    main()
