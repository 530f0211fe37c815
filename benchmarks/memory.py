"""Peak memory of large layers within a budget, above the model and the graph itself.

    python benchmarks/memory.py

Each case runs in a process of its own; resident memory is read from the operating system.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

from page import write

GIB = 2**30
CASES = {
    # name: width, samples, engine, budget in GiB
    "4096 x 4096 GELU, closed form": (4096, 256, "auto", 2.0),
    "4096 x 4096 GELU, forward mode": (4096, 4, "forward", 2.0),
    "8192 x 8192 GELU, closed form": (8192, 256, "auto", 3.0),
}


def one(width: int, samples: int, engine: str, budget: float) -> None:
    """Runs a case and prints seconds and bytes."""
    import torch
    from torch import nn

    import interactgraph as itg

    model = nn.Sequential(nn.Linear(width, width), nn.GELU())
    data = torch.rand(samples, width).split(64)
    # Libraries and threads that a first run brings along are no part of it.
    small = nn.Sequential(nn.Linear(8, 8), nn.GELU())
    itg.interaction_graph(small, [torch.rand(4, 8)], ["input", "1"], engine=engine, progress=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    start = time.perf_counter()
    graph = itg.interaction_graph(
        model, data, ["input", "1"], engine=engine, n_steps=1, tolerance=None,
        memory_budget=int(budget * GIB), progress=False,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    tensors = [
        *graph.blocks["input", "1"].values(), *graph.standard_errors["input", "1"].values()
    ]  # fmt: skip
    held = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    print(f"{seconds} {after - before - held} {held} {graph.metadata['plans'][0]['method']}")


def main() -> None:
    """Measures all cases."""
    if len(sys.argv) == 5:
        width, samples, engine, budget = sys.argv[1:]
        one(int(width), int(samples), engine, float(budget))
        return
    lines = [
        "### Peak resident memory above the model and the graph itself",
        "",
        "| case | method | samples | budget | peak above model and graph | graph | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, case in CASES.items():
        done = subprocess.run(
            [sys.executable, str(Path(__file__)), *map(str, case)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        seconds, peak, held, method = done.stdout.split(maxsplit=3)
        lines.append(
            f"| {name} | {method.strip()} | {case[1]} | {case[3]:g} GiB "
            f"| {float(peak) / GIB:.2f} GiB | {float(held) / GIB:.2f} GiB | {float(seconds):.1f} |"
        )
    write("memory", lines)


if __name__ == "__main__":
    main()
