"""The picture."""

from itertools import pairwise

import pytest
import torch

import interactgraph as itg
from interactgraph.graph import InteractionGraph
from interactgraph.report import draw

pytest.importorskip("matplotlib")


def graph(sizes=(5, 4, 3)):
    torch.manual_seed(0)
    layers = [f"layer {n}" for n in range(len(sizes))]
    pairs = tuple(pairwise(layers))
    return InteractionGraph(
        layers=tuple(layers),
        pairs=pairs,
        labels={name: [str(j) for j in range(n)] for name, n in zip(layers, sizes, strict=True)},
        blocks={p: {"mean": torch.randn(sizes[n + 1], sizes[n])} for n, p in enumerate(pairs)},
    )


@pytest.mark.parametrize(
    ("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")]
)
def test_formats(tmp_path, suffix, start):
    g = graph()
    partition = itg.find_modules(g, significance=False)
    path = draw(g, tmp_path / f"picture{suffix}", partition=partition, n_edges=5)
    assert path.read_bytes().startswith(start)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_graph_without_edges(tmp_path):
    g = graph().prune(threshold=1e9)
    assert draw(g, tmp_path / "empty.png").stat().st_size > 0


def test_other_suffix(tmp_path):
    with pytest.raises(itg.InteractGraphError, match="suffix must be one of"):
        draw(graph(), tmp_path / "picture.bmp")
