"""Regenerates the engine part of benchmarks/README.md: ratios measured side by side in one run.

    python benchmarks/engines.py            # some minutes on two cores
    python benchmarks/engines.py --quick    # small sizes, prints only

Every figure is a ratio of times taken in turn in the same process; a peer that would take hours is
run on a subset and extrapolated, and the table says so.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from captum.attr import NeuronIntegratedGradients
from page import write
from torch import nn
from torch.nn import functional as F

import interactgraph as itg


def timed(function: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def in_turn(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, taken in turn, after one warm-up of each."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 1):
        for name, function in functions.items():
            seconds = timed(function)
            if number:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def graph(model: nn.Module, data: list, layers: list[str], **options: object):
    return itg.interaction_graph(model, data, layers, progress=False, **options)


def mlp_table(quick: bool) -> list[str]:
    """784-512-512-10 GELU: strengths in forward passes, and the peers."""
    torch.manual_seed(0)
    n = 512 if quick else 4096
    model = nn.Sequential(
        nn.Linear(784, 512), nn.GELU(), nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 10)
    )
    x = torch.rand(n, 784)
    layers = ["input", "1", "3", "4"]

    def forward() -> None:
        with torch.no_grad():
            model(x)

    runs: dict[str, Callable[[], object]] = {"forward pass": forward}
    for name in ("rms", "mean_abs", "mean", "max"):
        strengths = ("rms",) if name == "rms" else ("rms", name)
        runs[name] = lambda s=strengths: graph(model, [x], layers, strengths=s)
    runs["rms twice the data"] = lambda: graph(model, [x, x], layers)
    seconds = in_turn(runs, 3 if quick else 9)
    unit = seconds["forward pass"]
    ours = seconds["rms"]
    rows = [
        f"### 784-512-512-10 GELU, {n} samples, all three layer pairs",
        "",
        "| what | forward passes of the network |",
        "| --- | --- |",
        f"| rms with standard error, everything included | {ours / unit:.1f} |",
        f"| rms with standard error, each further {n} samples | "
        f"{(seconds['rms twice the data'] - ours) / unit:.1f} |",
    ]
    for name in ("mean_abs", "mean", "max"):
        rows.append(f"| {name} in addition | {max(seconds[name] - ours, 0) / unit:.1f} |")

    # Peers on few samples and few targets, extrapolated linearly in both.
    few = x[: 16 if quick else 64]
    reverse = timed(
        lambda: graph(model, [few], layers, engine="reverse", n_steps=8, tolerance=None)
    )
    reverse *= n / len(few)
    captum = 0.0
    modules = {"1": model[1], "3": model[3], "4": model[4]}
    inputs = {"1": few[:16], "3": model[:2](few[:16]).detach(), "4": model[:4](few[:16]).detach()}
    tails = {"1": model, "3": nn.Sequential(*model[2:]), "4": nn.Sequential(*model[4:])}
    for target, module in modules.items():
        peer = NeuronIntegratedGradients(tails[target], module)
        targets = 3
        width = inputs[target].shape[0] and (10 if target == "4" else 512)

        def attribute(peer=peer, target=target, targets=targets) -> None:
            for i in range(targets):
                peer.attribute(inputs[target], i, n_steps=8)

        attribute()
        captum += timed(attribute) * width / targets * n / len(inputs[target])
    rows += [
        "",
        "| peer | times slower than rms by this library |",
        "| --- | --- |",
        f"| own reverse mode, 8 nodes ({len(few)} samples, extrapolated) | {reverse / ours:,.0f} |",
        "| captum NeuronIntegratedGradients, 8 steps (16 samples, 3 targets per layer, "
        f"extrapolated) | {captum / ours:,.0f} |",
        "",
    ]
    return rows


class Block(nn.Module):
    """A GPT-2 block."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.up, self.down = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, d = x.shape
        q, k, v = (
            y.view(b, t, self.heads, -1).transpose(1, 2)
            for y in self.qkv(self.ln_1(x)).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(b, t, d))
        return x + self.down(F.gelu(self.up(self.ln_2(x)), approximate="tanh"))


def transformer_table(quick: bool) -> list[str]:
    """A GPT-2-like model: forward mode against exact reverse mode."""
    torch.manual_seed(0)
    size, positions, n, few = (32, 16, 2, 1) if quick else (128, 64, 32, 4)
    model = nn.Sequential(*[Block(size, 4) for _ in range(3)]).requires_grad_(False)
    x = torch.randn(n, positions, size)

    def run(engine: str, samples: torch.Tensor) -> float:
        data = samples.split(16)
        return timed(
            lambda: graph(model, data, ["0", "1"], engine=engine, n_steps=1, tolerance=None)
        )

    ours = min(run("forward", x) for _ in range(5))
    # Exact reverse mode, one VJP for each target feature and position: some of them, extrapolated.
    start = model[0](x[:16]).detach()
    some = 64

    def reverse() -> None:
        z = start.clone().requires_grad_(True)
        y = model[1](z)
        for number in range(some):
            t, i = divmod(number * 7919 % (positions * size), size)
            torch.autograd.grad(y[:, t, i].sum(), z, retain_graph=True)

    reverse()
    seconds = min(timed(reverse) for _ in range(3)) * positions * size / some * n / len(start)
    own = min(run("reverse", x[:few]) for _ in range(2)) * n / few
    rows = [
        f"### 3-block GPT-2-like model, width {size}, {positions} positions, {n} samples, one "
        "pair, one path node",
        "",
        "| exact reverse mode | times slower than forward mode |",
        "| --- | --- |",
        f"| one autograd call per target feature and position ({some} of {positions * size}, "
        f"extrapolated, the forward pass shared) | {seconds / ours:,.0f} |",
        f"| reverse mode of this library ({few} samples, extrapolated) | {own / ours:,.0f} |",
        "",
    ]
    return rows


def main() -> None:
    """Measures and writes."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true")
    quick = arguments.parse_args().quick
    lines = [
        f"Measured with {torch.get_num_threads()} threads on {platform.machine()}, "
        f"torch {torch.__version__}, by `python benchmarks/engines.py`.",
        "",
        *mlp_table(quick),
        *transformer_table(quick),
    ]
    if quick:
        print("\n".join(lines))
    else:
        write("engines", lines)


if __name__ == "__main__":
    main()
