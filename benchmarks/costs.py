"""What a graph costs: against width, depth, positions and samples, and for models to come.

    python benchmarks/costs.py            # some minutes, one thread

Times forward mode on transformer blocks, fits an exponent to each size and compares it with the one
that counting multiplications predicts; from the measured arithmetic rate follow the costs of models
that do not fit here. Error against cost of the sampling schemes is measured on a block.
"""

from __future__ import annotations

import math
import time

import torch
from engines import Block
from page import write
from torch import nn

import interactgraph as itg

BASE = {"width": 64, "positions": 32, "samples": 4, "depth": 1}
SWEEPS = {
    "width": (32, 64, 128, 256),
    "positions": (16, 32, 64, 128),
    "samples": (2, 4, 8, 16),
    "depth": (1, 2, 4),
}


def multiplications(width: int, positions: int, samples: int, depth: int) -> float:
    """Of one forward pass through blocks: four projections, two halves of the MLP, attention."""
    per_token = 12 * width**2 + 2 * positions * width
    return float(depth * samples * positions * per_token)


def seconds(width: int, positions: int, samples: int, depth: int, **options: object) -> float:
    """Of the graph of one pair, exact, one path node, processor time."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Identity(), *[Block(width, 4) for _ in range(depth)])
    x = torch.randn(samples, positions, width)
    layers = ["0", str(depth)]

    def run(data: list) -> float:
        start = time.process_time()
        itg.interaction_graph(
            model,
            data,
            layers,
            engine="forward",
            n_steps=1,
            tolerance=None,
            progress=False,
            **options,
        )
        return time.process_time() - start

    run([x])
    # A second batch, so that planning is left out.
    return max(min(run([x, x]) for _ in range(3)) - min(run([x]) for _ in range(3)), 1e-6)


def scaling() -> tuple[list[str], float]:
    """The table of exponents, and multiplications per second of the largest run."""
    rows = [
        "### Forward mode on transformer blocks: seconds against size",
        "",
        "| size | values | fitted exponent | predicted exponent |",
        "| --- | --- | --- | --- |",
    ]
    rate = 0.0
    for name, values in SWEEPS.items():
        times, counts = [], []
        for value in values:
            sizes = {**BASE, name: value}
            times.append(seconds(**sizes))
            counts.append(sizes["width"] * multiplications(**sizes))
            rate = max(rate, counts[-1] / times[-1])
        logs = torch.tensor([[math.log(v), 1.0] for v in values])
        fits = [
            float(torch.linalg.lstsq(logs, torch.tensor(column).log()[:, None]).solution[0])
            for column in (times, counts)
        ]
        text = ", ".join(map(str, values))
        rows.append(f"| {name} | {text} | {fits[0]:.2f} | {fits[1]:.2f} |")
    return [*rows, ""], rate


def predictions(rate: float) -> list[str]:
    """Costs of larger models, from counts and the measured rate."""
    cases = {
        # name: width, blocks, positions, samples, columns a sample, nodes
        "GPT-2 small, exact": (768, 12, 128, 1000, 768, 8),
        "GPT-2 small, 4 drawn sources": (768, 12, 128, 1000, 4, 8),
        "7B (width 4096, 32 blocks), exact, 100 samples": (4096, 32, 128, 100, 4096, 8),
        "7B, 4 drawn sources, 1000 samples": (4096, 32, 128, 1000, 4, 8),
    }
    gpu = 2e14
    rows = [
        "### What larger models would cost (computed, not measured)",
        "",
        f"Assumed: {rate / 1e9:.0f} thousand million multiplications a second on one thread of the "
        "machine of this page (the best rate of the runs above); an accelerator at "
        f"{gpu:.0e} a second; 128 positions; 8 path nodes; one multiplication count of a forward "
        "pass for each column, node and sample, plus one for the point itself.",
        "",
        "| model | multiplications | one thread here | accelerator |",
        "| --- | --- | --- | --- |",
    ]
    for name, (width, blocks, positions, samples, columns, nodes) in cases.items():
        count = (columns + 1) * nodes * multiplications(width, positions, samples, blocks)
        rows.append(f"| {name} | {count:.1e} | {span(count / rate)} | {span(count / gpu)} |")
    features, active, width, positions, samples = 2**24, 100, 4096, 128, 100
    encode = samples * positions * width * features
    segment = (active + 1) * 8 * multiplications(width, positions, samples, 1)
    rows += [
        f"| dictionary of 16M features on one pair of a 7B, {active} active, packed, {samples} "
        f"samples: segment | {segment:.1e} | {span(segment / rate)} | {span(segment / gpu)} |",
        f"| the same: the codes of the samples, once | "
        f"{encode:.1e} | {span(encode / rate)} | {span(encode / gpu)} |",
        "",
        "The sums of a pair take 16 bytes for each edge: 16M x 16M features do not fit anywhere; "
        "a dictionary of that size needs its features drawn or cut to those that fire.",
        "",
    ]
    return rows


def span(value: float) -> str:
    """Seconds for people."""
    for size, name in ((86400 * 365, "years"), (86400, "days"), (3600, "hours"), (60, "minutes")):
        if value >= 2 * size:
            return f"{value / size:,.0f} {name}"
    return f"{value:.2g} s"


def sampling() -> list[str]:
    """Error of the drawn strengths against their cost."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Identity(), Block(64, 4))
    data = (torch.randn(256, 16, 64) * torch.logspace(0, -2, 64)).split(64)

    def run(**options: object) -> tuple[float, torch.Tensor]:
        start = time.process_time()
        graph = itg.interaction_graph(
            model,
            data,
            ["0", "1"],
            n_steps=1,
            tolerance=None,
            progress=False,
            **{"engine": "forward", **options},
        )
        return time.process_time() - start, graph.weights("0", "1").double()

    rows = [
        "### Error against cost of drawn sources: a block, 64 unequal features, 256 samples",
        "",
        "| sampling | strength | sources | relative error | share of the exact cost |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, strength, engine in (
        ("importance", "rms", "forward"),
        ("uniform", "rms", "forward"),
        ("signs", "rms", "reverse"),
    ):
        run(strengths=(strength,), engine=engine)
        exact_seconds, exact = run(strengths=(strength,), engine=engine)
        for k in (1, 4, 16):
            options = {"sources": k, "sampling": name, "strengths": (strength,), "engine": engine}
            found = [run(**options, seed=seed) for seed in range(3)]
            error = sum(float((w - exact).norm() / exact.norm()) for _, w in found) / 3
            cost = min(t for t, _ in found) / exact_seconds
            rows.append(f"| {name} | {strength} | {k} | {error:.1%} | {cost:.1%} |")
    return [*rows, ""]


def main() -> None:
    """Measures and writes."""
    torch.set_num_threads(1)
    rows, rate = scaling()
    write("costs", [*rows, *sampling(), *predictions(rate)])


if __name__ == "__main__":
    main()
