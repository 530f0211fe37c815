"""Does a run know what it will take? A ResNet-18, and what the bar says on the way.

    python benchmarks/time_left.py [--images 16] [--size 64]

Half of a ResNet-18 with random weights, channel by channel, all features on all images: the time
that is foretold at the start, and what the bar says is left when a quarter, a half and three
quarters of the time have gone, beside what was left. Needs `pip install 'interactgraph[hf]'`.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import time
from contextlib import redirect_stderr

import page
import torch

import interactgraph as itg
from interactgraph.attribution.progress import Progress

TOLD = re.compile(r"take about ([\d.]+) min")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--images", type=int, default=16)
    arguments.add_argument("--size", type=int, default=64)
    options = arguments.parse_args()
    from transformers import ResNetConfig, ResNetModel

    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic"
    )
    model = ResNetModel(config)
    images = torch.randn(options.images, 3, options.size, options.size)
    with torch.no_grad():
        for batch in images.split(8):  # running means of the normalisations
            model.train()(batch)
    model.eval()
    layers = [f"encoder.stages.{stage}.layers.{block}" for stage in (0, 1) for block in (0, 1)]
    batches = list(images.split(max(1, options.images // 4)))
    said: list[tuple[float, float]] = []  # seconds gone, seconds left by the bar
    show = Progress._show

    def shown(self: Progress) -> None:
        show(self)
        counted = time.monotonic() - self._started
        if self.share:
            said.append((time.monotonic() - began, counted / self.share - counted))

    Progress._show = shown  # type: ignore[method-assign]
    told = io.StringIO()
    began = time.monotonic()
    with redirect_stderr(_Both(told, sys.stderr)):
        graph = itg.interaction_graph(model, batches, layers)
    took = time.monotonic() - began
    found = TOLD.search(told.getvalue())
    rows = []
    for part in (0.1, 0.25, 0.5, 0.75, 0.9):
        at, left = next(each for each in said if each[0] >= part * took)
        rows.append(f"| {at:.0f} s | {left:.0f} s | {took - at:.0f} s |")
    page.write("time left", [
        "## The time left",
        "",
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, by `python "
        f"benchmarks/time_left.py`: half of a ResNet-18 with random weights, {options.images} "
        f"images of {options.size} x {options.size}, {len(graph.pairs)} pairs, all features on all "
        f"images. It took {took:.0f} s; foretold at the start: "
        + (f"{found[1]} min." if found else "nothing, as for all below a minute."),
        "",
        "| gone | left, as the bar says | left |",
        "| --- | --- | --- |",
        *rows,
    ])  # fmt: skip


class _Both(io.TextIOBase):
    """Writes to several streams."""

    def __init__(self, *streams: io.TextIOBase) -> None:
        self._streams = streams

    def write(self, text: str) -> int:
        for stream in self._streams:
            stream.write(text)
        return len(text)


if __name__ == "__main__":
    main()
