"""Sparse features: few passes, the same numbers."""

import networks
import numpy as np
import pytest
import reference
import torch
from torch import nn

import interactgraph as itg
from interactgraph.attribution import packing as packing_module
from interactgraph.attribution.packing import pack

ALL = ("rms", "mean_abs", "mean", "max")


class PerToken(nn.Module):
    """A wide sparse layer of a transformer block's MLP; positions do not meet after it."""

    def __init__(self):
        super().__init__()
        self.up, self.act, self.down = nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 5)
        self.norm = nn.LayerNorm(5)

    def forward(self, x):
        return self.norm(self.down(self.act(self.up(x) - 1.0)))


class Mixed(PerToken):
    """The same, and positions meet: every one sees the ones before it."""

    def forward(self, x):
        return torch.tanh(super().forward(x).cumsum(1))


@pytest.fixture(params=[PerToken, Mixed])
def model(request):
    torch.manual_seed(0)
    return request.param().double()


def run(model, batches, **options):
    return itg.interaction_graph(
        model, batches, ["act", "output"], strengths=ALL, engine="forward", n_steps=3,
        tolerance=None, progress=False, **options,
    )  # fmt: skip


def check(one, other, rtol=1e-9):
    for name in ALL:
        a, b = one.weights("act", "output", name), other.weights("act", "output", name)
        torch.testing.assert_close(a, b, rtol=rtol, atol=1e-14)
        if name != "max":
            a, b = (g.standard_error("act", "output", name) for g in (one, other))
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-9)
    assert one.completeness == pytest.approx(other.completeness, rel=1e-6)


@pytest.mark.parametrize("options", [{}, {"groups": [0, 1, 1, 0, 1, 0]}, {"method": "gradient"}])
def test_packed_is_unpacked(model, options, monkeypatch):
    batches = torch.randn(6, 7, 4, dtype=torch.float64).split(4)
    packed = run(model, batches, **options)
    plan = packed.metadata["plans"][0]
    assert plan["positions_packed"] == (type(model) is PerToken)
    assert 0 < plan["passes_packed"] <= 12
    assert plan["predicted_passes_per_batch"] < 3 * 24
    monkeypatch.setattr(packing_module, "pack", lambda dz, by_position: None)
    whole = run(model, batches, **options)
    assert "passes_packed" not in whole.metadata["plans"][0]
    check(packed, whole)
    for name, group in packed.groups.items():
        check(group, whole.groups[name])


def test_packed_is_the_reference(model):
    x = torch.randn(4, 5, 4, dtype=torch.float64)
    z = model.act(model.up(x) - 1.0).detach()

    def function(z):
        y = model.norm(model.down(z))
        return torch.tanh(y.cumsum(1)) if isinstance(model, Mixed) else y

    values = reference.strengths([reference.attributions(function, z, torch.zeros_like(z), 3)])
    found = run(model, [x])
    for name in ALL:
        np.testing.assert_allclose(
            found.weights("act", "output", name).numpy(), values[name], rtol=1e-9, atol=1e-13
        )


def test_padding_is_left_out(model, monkeypatch):
    x = torch.randn(4, 6, 4, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]]).bool()
    mask = torch.cat([mask, mask[:1]])
    packed = run(model, [x], position_mask=lambda batch: mask)
    monkeypatch.setattr(packing_module, "pack", lambda dz, by_position: None)
    check(packed, run(model, [x], position_mask=lambda batch: mask))


def test_positions_that_meet_on_later_batches_are_noticed():
    """Only long sequences are mixed here, and the first batch is short."""

    class Sometimes(PerToken):
        def forward(self, x):
            y = super().forward(x)
            return y + y.roll(1, 1) if x.shape[1] > 3 else y

    torch.manual_seed(0)
    model = Sometimes().double()
    batches = [torch.randn(3, n, 4, dtype=torch.float64) for n in (3, 6)]
    found = run(model, batches)
    one, two = (run(model, [batch]) for batch in batches)
    total = sum(
        3 * batch.shape[1] * graph.weights("act", "output", "rms").square()
        for batch, graph in zip(batches, (one, two), strict=True)
    )
    torch.testing.assert_close(found.weights("act", "output", "rms"), (total / 27).sqrt())


def test_packing_places_every_feature_once():
    torch.manual_seed(0)
    dz = torch.randn(3, 4, 40) * (torch.rand(3, 4, 40) < 0.1)
    packing = pack(dz, by_position=True)
    seen = torch.zeros_like(dz)
    for p, b, s in packing.used.nonzero().tolist():
        seen[b, s, packing.features[p, b, s]] += 1
    assert torch.equal(seen, (dz != 0).float())
    assert len(packing.features) == int((dz != 0).sum(-1).max())
    assert pack(torch.ones(2, 3, 10), by_position=True) is None


def test_dense_networks_are_not_packed():
    case = networks.make("transformer")
    graph = itg.interaction_graph(
        case.model, case.batches, [case.source, case.target], engine="forward", progress=False
    )
    assert "passes_packed" not in graph.metadata["plans"][0]
