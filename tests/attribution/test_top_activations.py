"""The samples on which features are most active: against all activations, saved, described."""

import networks
import pytest
import torch
from torch import nn

import interactgraph as itg
from interactgraph import InteractGraphError


class Labelled(list):
    def label(self, sample, position):
        return f"<{sample}|{position}>"


def sequences():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), networks.Block(6))
    x = torch.randn(20, 5, 4)
    keep = torch.arange(5) < torch.randint(1, 6, (20, 1))
    return model, Labelled([(x[:8], keep[:8]), (x[8:], keep[8:])]), x, keep


def graph_of(model, data, **options):
    return itg.interaction_graph(
        model, data, ["0", "1"], position_mask=lambda batch: batch[1], progress=False, **options
    )


@pytest.mark.parametrize("options", [{}, {"sources": 2, "engine": "forward"}])
def test_they_are_the_largest_of_all(options):
    model, data, x, keep = sequences()
    graph = graph_of(model, data, **options)
    z = model[0](x).detach()
    size = torch.where(keep[..., None], z.abs(), 0).amax(1)  # [b, j]
    for j in range(6):
        found = graph.examples["0"].of(j)
        assert [each.sample for each in found] == size[:, j].topk(5).indices.tolist()
        for each in found:
            assert keep[each.sample, each.position]
            value = float(z[each.sample, each.position, j])
            assert each.value == pytest.approx(value, rel=1e-5)
            assert each.text == f"<{each.sample}|{each.position}>"


def test_saved_and_described(tmp_path):
    model, data, *_ = sequences()
    graph = graph_of(model, data, groups=[0, 1] * 10)
    graph.save(tmp_path / "g.safetensors")
    loaded = itg.load(tmp_path / "g.safetensors")
    for layer in ("0", "1"):
        for j in range(6):
            assert loaded.examples[layer].of(j) == graph.examples[layer].of(j)
    assert not loaded.groups["0"].examples  # those of all samples are not the group's
    text = loaded.describe("0", 3)
    assert text == graph.describe("0", 3)
    best = graph.examples["0"].of(3)[0]
    assert best.text.startswith("<")
    place = f"(sample {best.sample}, position {best.position})"
    assert f"{best.value:.4g} on {best.text} {place}" in text
    strongest = int(graph.weights("0", "1")[:, 3].argmax())
    assert f"to 1:{strongest}: " in text
    assert "from 0:" in loaded.describe("1", 0)
    for layer, feature in (("0", 6), ("0", -1), ("2", 0)):
        with pytest.raises(InteractGraphError, match="has no feature"):
            graph.describe(layer, feature)


def test_features_that_never_move_have_none():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].bias[1] = -100
    graph = itg.interaction_graph(model, torch.randn(3, 3), ["1", "2"], progress=False)
    assert not graph.examples["1"].of(1)
    assert len(graph.examples["2"].of(0)) == 3


def test_where_numbers_are_double_by_default():
    try:
        torch.set_default_dtype(torch.float64)
        model, data, *_ = sequences()
        graph = graph_of(model, data)
    finally:
        torch.set_default_dtype(torch.float32)
    assert graph.examples["1"].values.dtype == torch.float32
