"""The samples that drive every feature's strongest edge: against A of plain autograd."""

from functools import cache

import networks
import pytest
import torch
from reference import attributions
from torch import nn

import interactgraph as itg
from interactgraph.attribution import strongest_edges
from interactgraph.attribution.strengths import STRENGTHS

MLP = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 4))
SEQUENCES = nn.Sequential(nn.Linear(4, 6), networks.Block(6))
X = {
    "rms": lambda a: a.square().sum(1),
    "mean_abs": lambda a: a.abs().sum(1),
    "max": lambda a: a.abs().amax(1),
}


class Texts(list):
    def label(self, sample, position=None):
        return f"<{sample}>" if position is None else f"<{sample}|{position}>"


@cache
def case(name):
    torch.manual_seed(0)
    if name == "mlp":
        model, x, layers = MLP, torch.randn(40, 5), ["input", "2"]
    else:
        model, x, layers = SEQUENCES, torch.randn(12, 3, 4), ["0", "1"]
    model = model.double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = x.double()
    z = x[:, None] if name == "mlp" else model[0](x).detach()
    function = model if name == "mlp" else model[1]
    a = attributions(function, z, torch.zeros_like(z), 64)
    return model, x, layers, a


def expected(x, strength="rms"):
    """Partners, samples and shares of the targets; x is X[b, i, j]."""
    partners = (x.amax(0) if strength == "max" else x.sum(0)).argmax(1)
    own = x[:, torch.arange(x.shape[1]), partners]
    top = own.topk(3, dim=0)
    return partners, top.indices, top.values / own.sum(0)


def compare(drivers, found, *, shares=True):
    partners, samples, share = found
    torch.testing.assert_close(drivers.partners, partners)
    torch.testing.assert_close(drivers.samples, samples)
    if shares:
        torch.testing.assert_close(drivers.shares.double(), share, rtol=2e-3, atol=1e-6)
    else:
        assert drivers.shares.isnan().all()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mlp", {"engine": "closed_form"}),
        ("mlp", {"engine": "forward"}),
        ("mlp", {"engine": "reverse"}),
        ("mlp", {"engine": "closed_form", "groups": [0, 1] * 20}),
        ("sequences", {"engine": "forward"}),
        ("sequences", {"engine": "reverse"}),
    ],
)
@pytest.mark.parametrize("strength", ["rms", "mean_abs", "max"])
def test_they_are_those_of_plain_autograd(name, options, strength):
    model, x, layers, a = case(name)
    graph = itg.interaction_graph(
        model, x, layers, strengths=[strength], tolerance=1e-6, progress=False, **options
    )
    contributions = X[strength](a)
    into, out = graph.drivers[tuple(layers)]
    compare(into, expected(contributions, strength), shares=strength != "max")
    compare(out, expected(contributions.mT, strength), shares=strength != "max")


def test_in_several_batches_samples_are_those_since_the_edge_was_the_strongest():
    model, x, layers, a = case("sequences")
    graph = itg.interaction_graph(
        model, list(x.split(4)), layers, engine="forward", tolerance=1e-6, progress=False
    )
    of_targets = X["rms"](a)
    for drivers, of_side in zip(
        graph.drivers[tuple(layers)], (of_targets, of_targets.mT), strict=True
    ):
        totals = of_side.sum(0)
        assert torch.equal(drivers.partners, totals.argmax(1))
        for feature, partner in enumerate(drivers.partners.tolist()):
            own = of_side[:, feature, partner]
            best = of_side.cumsum(0)[3::4, feature].argmax(1) == partner  # after every batch
            since = 4 * max((n + 1 for n, same in enumerate(best.tolist()) if not same), default=0)
            found = drivers.of(feature)
            assert [each.sample for each in found] == (
                own[since:].topk(min(3, 12 - since)).indices + since
            ).tolist()
            for each in found:
                assert each.share == pytest.approx(float(own[each.sample] / own.sum()), rel=2e-3)


def test_one_matrix_is_never_multiplied_out(monkeypatch):
    monkeypatch.setattr(strongest_edges, "_ENTRIES", 64)  # several pieces
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU()).double(), torch.randn(50, 6).double()
    graph = itg.interaction_graph(model, x, ["input", "1"], progress=False)
    assert graph.metadata["plans"][0]["method"] == "affine"
    # On the path from zero the mean slope of a ReLU is its secant.
    weight, start = model[0].weight.detach(), model[0].bias.detach().expand(50, 8)
    end = x @ weight.mT + start
    slope = (end.relu() - start.relu()) / (end - start)
    a = slope[:, None, :, None] * weight * x[:, None, None]
    into, out = graph.drivers["input", "1"]
    compare(into, expected(X["rms"](a)))
    compare(out, expected(X["rms"](a).mT))


@pytest.mark.parametrize("options", [{"sources": 3, "seed": 1}, {"features": "codes"}])
def test_what_is_drawn_or_packed_tells_what_it_saw(options):
    model, x, layers, _ = case("mlp")
    if "features" in options:
        torch.manual_seed(2)
        encoder = torch.randn(40, 5).double()
        dictionary = itg.features.Dictionary(
            encoder, torch.randn(5, 40).double(), activation="topk", k=3
        )
        options = {"features": {"input": dictionary}, "tolerance": 1e-6}
    graph = itg.interaction_graph(
        model, [x[:20], x[20:]], layers, engine="forward", progress=False, **options
    )
    full = itg.interaction_graph(
        model, x, layers, engine="forward", progress=False,
        **{k: v for k, v in options.items() if k not in ("sources", "seed")},
    )  # fmt: skip
    total = full.weights(*layers).square() * len(x)
    for side in (0, 1):
        drivers, reference = graph.drivers[tuple(layers)][side], full.drivers[tuple(layers)][side]
        sums = total if side == 0 else total.mT
        for feature in range(len(drivers.partners)):
            known = {each.sample: each.share for each in reference.of(feature)}
            if drivers.partners[feature] != reference.partners[feature]:
                continue
            whole = sums[feature, drivers.partners[feature]]
            drawn = graph.weights(*layers).square() * len(x)
            drawn = (drawn if side == 0 else drawn.mT)[feature, drivers.partners[feature]]
            for driver in drivers.of(feature):
                if driver.sample in known:
                    amount = driver.share * drawn
                    assert float(amount / whole) == pytest.approx(known[driver.sample], rel=0.01)


def test_words_files_and_switch(tmp_path):
    model, x, layers, _ = case("sequences")
    data = Texts([x[:8], x[8:]])
    graph = itg.interaction_graph(model, data, layers, progress=False)
    into, _ = graph.drivers[tuple(layers)]
    ((words, drivers),) = graph.driven("1", 2)
    assert words == f"its edge from {graph.labels['0'][int(into.partners[2])]} of 0"
    assert all(each.text == f"<{each.sample}>" for each in drivers)
    assert drivers[0].share >= drivers[-1].share > 0
    assert str(drivers[0]) in graph.describe("1", 2)
    graph.save(tmp_path / "g.safetensors")
    loaded = itg.load(tmp_path / "g.safetensors")
    assert loaded.describe("1", 2) == graph.describe("1", 2)
    assert loaded.driven("0", 1) == graph.driven("0", 1)
    itg.export(loaded, tmp_path / "g.gexf")
    assert f"&lt;{drivers[0].sample}&gt;" in (tmp_path / "g.gexf").read_text()
    without = itg.interaction_graph(model, data, layers, examples=False, progress=False)
    assert not without.drivers
    assert not without.examples
    assert torch.equal(without.weights(*layers), graph.weights(*layers))
    with pytest.raises(itg.InteractGraphError, match="examples='no'"):
        itg.interaction_graph(model, data, layers, examples="no", progress=False)


def test_several_processes_find_the_same():
    class World:
        size = 2

        def __init__(self, parts):
            self.parts = parts

        def gather(self, _):
            return self.parts

    torch.manual_seed(0)
    x = torch.rand(30, 4, 6).double()
    x[:, range(4), [5, 0, 3, 3]] += 5  # strongest in every process
    x[1::2, 0, 1] += 7  # and one in the second process only, which is not the strongest in all
    parts = []
    every = slice(None)
    for numbers in (torch.arange(0, 30, 2), torch.arange(1, 30, 2)):
        found = strongest_edges.StrongestEdges(STRENGTHS["rms"], (4, 6), torch.device("cpu"))
        found.add(x[numbers], x[numbers].sum(0), every, every, numbers)
        parts.append(found.state())
    whole = strongest_edges.StrongestEdges(STRENGTHS["rms"], (4, 6), torch.device("cpu"))
    whole.add(x, x.sum(0), every, every, torch.arange(30))
    found.gather(World(parts), x.sum(0))
    for mine, reference in zip(
        found.result(x.sum(0), None), whole.result(x.sum(0), None), strict=True
    ):
        strong = [5, 0] if len(mine.partners) == 6 else [1, 2, 3]
        torch.testing.assert_close(mine.partners[strong], reference.partners[strong])
        torch.testing.assert_close(mine.samples[:, strong], reference.samples[:, strong])
        torch.testing.assert_close(mine.shares[:, strong], reference.shares[:, strong])
    # The second process took another edge of target 0 for the strongest: it knows no samples of it.
    into, _ = found.result(x.sum(0), None)
    assert into.partners[0] == 5
    assert into.samples[:, 0].tolist() == (2 * x[::2, 0, 5].topk(3).indices).tolist()
