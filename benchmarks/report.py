"""Size and speed of the report in headless Chromium on software rendering.

Needs playwright and a Chromium (`CHROMIUM=...` names one that is not on the path).
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from page import write
from playwright.sync_api import Browser, Page, sync_playwright

import interactgraph as itg

NAMES = ("chromium-headless-shell", "chromium", "google-chrome")
DRAWING = Path(__file__).parent / "drawing"


def dense(n_layers: int, width: int, n_modules: int) -> tuple:
    """As of an encoder: every edge there, weights log-normal, larger inside modules."""
    g = torch.Generator().manual_seed(0)
    layers = [f"encoder.layer.{k}" for k in range(n_layers)]
    blocks = {}
    module = np.arange(width) * n_modules // width
    same = torch.from_numpy(module[:, None] == module[None]).float()
    for pair in pairwise(layers):
        blocks[pair] = {"rms": torch.exp(torch.randn(width, width, generator=g)) * (0.3 + same)}
    return graph_of(layers, blocks, module)


def sparse(n_layers: int, width: int, n_modules: int, n_edges: int) -> tuple:
    """So many edges in all."""
    g = torch.Generator().manual_seed(0)
    layers = [f"layer.{k}" for k in range(n_layers)]
    each = n_edges // (n_layers - 1)
    module = np.arange(width) * n_modules // width
    blocks = {}
    for pair in pairwise(layers):
        weight = torch.zeros(width * width)
        places = torch.randperm(width * width, generator=g)[:each]
        weight[places] = torch.exp(torch.randn(each, generator=g))
        blocks[pair] = {"rms": weight.view(width, width)}
    return graph_of(layers, blocks, module)


def graph_of(layers: list[str], blocks: dict, module: np.ndarray) -> tuple:
    labels = {layer: [f"{layer}:{j}" for j in range(len(module))] for layer in layers}
    errors = {pair: {"rms": block["rms"] / 10} for pair, block in blocks.items()}
    graph = itg.InteractionGraph(layers, list(blocks), labels, blocks, errors)
    return graph, itg.Partition(dict.fromkeys(layers, module), 0.3, 0.9, 1e-9, 5.0)


def demo() -> tuple:
    from interactgraph.zoo.two_digits import two_digits

    task = two_digits(0)
    graph = itg.interaction_graph(
        task.model, task.images, task.layers, strengths=("rms", "mean"), labels=task.labels,
        progress=False,
    )  # fmt: skip
    return graph, itg.find_modules(graph)


def open_page(browser: Browser, path: Path) -> tuple[Page, float]:
    """The page, and seconds until it is complete (the graph comes before that)."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    began = time.perf_counter()
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]")
    return page, time.perf_counter() - began


MOVE = """async () => {
  const view = interactgraph.view, times = [];
  let last = performance.now();
  for (let i = 0; i < 40; i++) {
    if (i % 2) view.zoomBy(i < 20 ? 1.12 : 1 / 1.12, 500, 300); else view.panBy(6, i < 20 ? 9 : -9);
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    const now = performance.now();
    times.push(now - last);
    last = now;
  }
  return times;
}"""

SLIDE = """async () => {
  const most = interactgraph.views[0]().orders.pair.length, times = [];
  let last = performance.now();
  for (let i = 0; i < 20; i++) {
    interactgraph.setCount(Math.round(most * (0.3 + 0.035 * i)));
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    const now = performance.now();
    times.push(now - last);
    last = now;
  }
  return times;
}"""


def measure(browser: Browser, name: str, made: tuple, folder: Path) -> str:
    graph, partition = made
    began = time.perf_counter()
    path = itg.write_report(graph, folder / "report.html", partition=partition)
    wrote = time.perf_counter() - began
    page, first = open_page(browser, path)
    page.evaluate("interactgraph.setCount(50000)")
    page.wait_for_timeout(500)
    whole = page.evaluate("interactgraph.view.lastDrawn")
    cells = [
        name, f"{graph.n_nodes:,}", f"{whole['edges']:,}", f"{path.stat().st_size / 1e6:.1f} MB",
        f"{wrote:.1f} s", f"{first:.1f} s", f"{whole['milliseconds']:.0f} ms",
        *(f"{1000 / np.percentile(page.evaluate(script), 90):.0f}" for script in (MOVE, SLIDE)),
    ]  # fmt: skip
    page.close()
    return "| " + " | ".join(cells) + " |"


def compare(browser: Browser, folder: Path) -> list[str]:
    """Ways to draw the same edges, those that are built."""
    found: dict[str, float] = {}
    for name in ("canvas", "sigma"):
        script = DRAWING / "built" / f"{name}.js"
        if not script.exists():
            continue
        path = folder / f"{name}.html"
        path.write_text(f"<!doctype html><body><script>{script.read_text()}</script>")
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(path.as_uri(), wait_until="commit")
        page.wait_for_function("window.result", timeout=300_000)
        found |= page.evaluate("window.result")
        page.close()
    ways = dict.fromkeys(key.partition("|")[0] for key in found)
    return [f"| {way} | {found[f'{way}|3000']:.0f} | {found[f'{way}|50000']:.0f} |" for way in ways]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    executable = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as name:
        browser = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-gpu"]
        )
        folder = Path(name)
        rows = [
            measure(browser, "demo", demo(), folder),
            measure(browser, "like MiniLM, 6 x 384", dense(6, 384, 12), folder),
            measure(browser, "synthetic", sparse(5, 1000, 12, 50_000), folder),
        ]
        ways = compare(browser, folder)
        browser.close()
    lines = [
        "## The report",
        "",
        "Headless Chromium without a graphics card, 2 cores shared with others. Open: from disk to "
        "a complete page. All edges: one drawing of every edge in the page. Frames a second, the "
        "slowest tenth: moving and zooming with all edges chosen, and sliding from a third to all "
        "of them (while something moves, as many of the strongest are drawn as fit into a frame, "
        "the others when it rests).",
        "",
        "| graph | nodes | edges in it | file | written in | open | all edges | moving | sliding |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *rows,
    ]
    if ways:
        lines += [
            "",
            "Why it is a 2D canvas: milliseconds for a frame of 5,000 nodes' edges at 1000 x 800, "
            "software rendering, each frame read back. (sigma.js 4.0.4, tried once, did not finish "
            "50,000 edges within a minute.)",
            "",
            "| drawn by | 3,000 edges | 50,000 edges |",
            "| --- | --- | --- |",
            *ways,
        ]
    write("report", lines)


if __name__ == "__main__":
    main()
