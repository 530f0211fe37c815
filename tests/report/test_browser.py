"""The page in a browser, from disk: runs where playwright and a Chromium are installed.

The Chromium is the one named by the environment variable CHROMIUM, one on the path (Debian's
packages chromium and chromium-headless-shell), or playwright's own.
"""

import os
import shutil
from itertools import pairwise

import pytest
import torch

import interactgraph as itg
from interactgraph.communities import Partition

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def find_chromium():
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        path = find_chromium()
        if path is None and not os.path.exists(playwright.chromium.executable_path):
            pytest.skip("no Chromium is installed: apt-get install chromium-headless-shell")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """Opens a report from disk; fails on a console error or a request at the end."""
    wrong, contexts = [], []

    def opened(graph, scheme="light", **options):
        path = itg.write_report(graph, tmp_path / "report.html", **options)
        size = {"width": 1366, "height": 768}
        context = browser.new_context(viewport=size, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text))
        page.on("request", lambda request: wrong.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")
        assert wrong.pop(0) == path.as_uri()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not [text for text in wrong if not text.startswith("data:")]


def tints(page):
    """How many pixels of the graph's canvas have the colour of a module, and how many any."""
    return page.evaluate(
        """() => {
          const view = interactgraph.view, {width, height} = view.base;
          view.drawEdges(Infinity);
          const pixels = view.paint.getImageData(0, 0, width, height).data;
          const colours = (interactgraph.data.partition || {modules: []}).modules.map((module) =>
            [1, 3, 5].map((k) => parseInt(module.colour.slice(k, k + 2), 16)));
          const found = colours.map(() => 0);
          let any = 0;
          for (let i = 0; i < pixels.length; i += 4) {
            if (!pixels[i + 3]) continue;
            any++;
            colours.forEach((colour, m) => {
              const near = colour.every((c, k) => Math.abs(c - pixels[i + k]) < 12);
                if (near && pixels[i + 3] > 200) found[m]++;
            });
          }
          return {found, any};
        }"""
    )


def settled(page):
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 30)))")


def shown(page):
    return page.evaluate("interactgraph.view.chosen.length")


def test_nodes_and_edges_are_drawn_and_follow_the_controls(open_page, graph, partition):
    page = open_page(graph, partition=partition)
    all_edges, whole = shown(page), tints(page)
    assert all_edges == len(graph.edges("rms").weight)
    assert min(whole["found"]) > 50
    # Without edges only the nodes are left.
    nodes = page.evaluate("(interactgraph.view.chosen = [], 0)") or tints(page)["any"]
    assert 300 < nodes < whole["any"] / 2

    page.evaluate("interactgraph.setCount(20)")
    assert shown(page) == 20
    assert nodes < tints(page)["any"] < whole["any"]
    assert page.inner_text("#readout").startswith("20 of")
    page.locator("#count").focus()
    page.keyboard.press("End")
    assert shown(page) == all_edges

    page.click("[data-module='1']")
    settled(page)
    isolated = tints(page)
    assert 0 < shown(page) < all_edges
    assert isolated["found"][0] == 0
    assert isolated["found"][1] > 50
    assert page.get_attribute("[data-module='1']", "aria-pressed") == "true"
    page.click("[data-module='1']")
    assert shown(page) == all_edges

    page.select_option("#strength", "1")
    assert page.evaluate("interactgraph.state.strength") == 1
    assert "|mean|" in page.inner_text("#charts")
    page.select_option("#colour", "sign")
    settled(page)
    assert tints(page)["any"] != whole["any"]


def test_a_feature_by_click_search_and_keys(open_page, graph, partition):
    page = open_page(graph, partition=partition)
    node = graph.offsets[graph.layers[1]] + 3
    x, y = page.evaluate(
        "(node) => { const view = interactgraph.view, box = view.box.getBoundingClientRect();"
        " return [box.left + view.screenX(1), box.top + view.screenY(node)] }",
        page.evaluate(f"interactgraph.nodeY[{node}]"),
    )
    page.mouse.click(x, y)
    assert page.evaluate("interactgraph.state.node") == node
    detail = page.inner_text("#detail")
    assert graph.labels[graph.layers[1]][3] in detail
    source = graph.weights(*graph.pairs[0])[3].abs().argmax()
    strongest = page.inner_text(".rows button")
    assert f"layer.0:{int(source)}" in strongest
    assert "sample 3, position 0" in detail

    page.keyboard.press("ArrowLeft")
    assert page.evaluate("interactgraph.state.node") == int(source)
    page.keyboard.press("Escape")
    assert page.evaluate("interactgraph.state.node") == -1

    page.keyboard.press("/")
    page.keyboard.type("layer.2:4")
    assert page.locator("#found li").count() == 1
    page.keyboard.press("Enter")
    assert page.inner_text("#feature-name") == "block.layer.2:4"
    page.keyboard.press("]")
    page.keyboard.press("m")
    page.keyboard.press("?")
    assert page.evaluate("document.querySelector('#help').open")


def test_moving_zooming_and_theme(open_page, graph, partition):
    page = open_page(graph, "dark", partition=partition)
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.click("#theme")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    box = page.locator("#canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, -600)
    settled(page)
    zoomed = page.evaluate("({...interactgraph.view.camera})")
    assert zoomed["zoom"] > 1.5
    page.mouse.down()
    page.mouse.move(box["x"] + 20, box["y"] + 60, steps=4)
    page.mouse.up()
    moved = page.evaluate("({...interactgraph.view.camera})")
    assert moved["y"] > zoomed["y"]
    page.click("#zoom-fit")
    assert page.evaluate("interactgraph.view.camera.zoom") == 1


def test_hostile_text_is_shown_and_never_run(open_page, hostile_graph, hostile):
    partition = itg.find_modules(hostile_graph, n_runs=2, significance=False)
    page = open_page(hostile_graph, partition=partition)
    first = hostile_graph.offsets[hostile_graph.layers[1]]
    for number, label in enumerate(hostile[:8]):
        page.evaluate(f"interactgraph.on.pick({number})")
        name = page.evaluate("document.querySelector('#feature-name').textContent")
        if label.isprintable():
            assert name == label
        page.evaluate(f"interactgraph.on.pick({first + number})")
    page.fill("#search", "<img")
    assert "<img src=x" in page.inner_text("#found")
    page.click("#notes summary")
    assert hostile[0] in page.inner_text("#notes")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2
    # A long label does not make the page wider than the screen.
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_graphs_at_the_edge(open_page, graph_at_the_edge):
    graph = graph_at_the_edge
    page = open_page(graph)
    page.evaluate("interactgraph.on.pick(0)")
    page.click("#theme")
    settled(page)
    first = next(label for labels in graph.labels.values() for label in labels)
    assert page.inner_text("#feature-name") == first
    assert page.evaluate("interactgraph.data.labels.length") == graph.n_nodes


def test_the_strongest_of_the_whole_graph_are_complete(open_page, graph):
    """Where a pair's weak edges are left out, the ranking over all pairs ends in time."""
    a, _ = graph.pairs
    blocks = {**graph.blocks, a: {k: 100 * v for k, v in graph.blocks[a].items()}}
    graph = graph.replace(blocks=blocks)
    page = open_page(graph, n_edges=20)
    page.select_option("#ranking", "all")
    page.evaluate("interactgraph.setCount(1e9)")
    weights = page.evaluate(
        "interactgraph.view.chosen.map((e) => interactgraph.views[0]().size[e])"
    )
    everything = graph.edges("rms").weight.copy()
    everything.sort()
    assert weights == pytest.approx(everything[::-1][: len(weights)].tolist(), rel=1e-6)
    assert 0 < len(weights) < 20


@pytest.mark.slow
def test_many_nodes_and_edges(open_page):
    """5,000 nodes and 50,000 edges are all drawn."""
    g = torch.Generator().manual_seed(0)
    layers = [f"layer.{n}" for n in range(5)]
    blocks = {}
    for pair in pairwise(layers):
        weight = torch.zeros(10**6)
        places = torch.randperm(10**6, generator=g)[:12_500]
        weight[places] = torch.rand(12_500, generator=g) + 0.01
        blocks[pair] = {"rms": weight.view(1000, 1000)}
    labels = {layer: [f"{layer}:{j}" for j in range(1000)] for layer in layers}
    graph = itg.InteractionGraph(layers, list(blocks), labels, blocks)
    membership = {layer: torch.arange(1000).numpy() % 9 for layer in layers}
    page = open_page(graph, partition=Partition(membership, 0.1))
    assert shown(page) == 3000
    page.evaluate("interactgraph.setCount(50000)")
    for _ in range(100):  # all are drawn when nothing has moved for a while
        page.wait_for_timeout(100)
        if page.evaluate("interactgraph.view.lastDrawn.edges") == 50_000:
            break
    else:
        pytest.fail("not all edges were drawn within 10 s")
    assert min(tints(page)["found"]) > 100
