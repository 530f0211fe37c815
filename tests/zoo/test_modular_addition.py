"""Modular addition: shapes, training, labels by frequency."""

import math
import sys

import pytest
import torch

from interactgraph import InteractGraphError, fit_features
from interactgraph.features import PCA
from interactgraph.zoo.modular_addition import (
    ModularAddition,
    addition_pairs,
    frequency_shares,
    modular_addition,
    train_modular_addition,
)


def test_layers():
    model = ModularAddition(7, width=8, n_heads=2, hidden=16)
    tokens = addition_pairs(7)
    assert tokens[10].tolist() == [1, 3, 7]
    assert model.embed(tokens).shape == (49, 3, 8)
    assert model.mid(model.embed(tokens)).shape == (49, 8)
    assert model(tokens).shape == (49, 8)
    with pytest.raises(InteractGraphError, match="multiple of the number of heads"):
        ModularAddition(7, width=9, n_heads=2)


def test_attention_is_that_of_torch():
    """The last position's row of multi-head attention with the same matrices."""
    torch.manual_seed(0)
    model = ModularAddition(5, width=8, n_heads=2, hidden=4).double()
    layer = model.mid
    with torch.no_grad():
        for bias in (layer.query_bias, layer.key_bias, layer.value_bias, layer.out_bias):
            bias.normal_()
    other = torch.nn.MultiheadAttention(8, 2, batch_first=True).double()

    def joined(matrix):
        return matrix.permute(0, 2, 1).reshape(8, 8)

    with torch.no_grad():
        other.in_proj_weight.copy_(
            torch.cat([joined(m) for m in (layer.query, layer.key, layer.value)])
        )
        other.in_proj_bias.copy_(
            torch.cat([b.flatten() for b in (layer.query_bias, layer.key_bias, layer.value_bias)])
        )
        other.out_proj.weight.copy_(layer.out.reshape(8, 8).T)
        other.out_proj.bias.copy_(layer.out_bias)
        x = torch.randn(3, 3, 8).double()
        expected = x[:, -1] + other(x, x, x)[0][:, -1]
        torch.testing.assert_close(layer(x), expected)


def test_training_is_reproducible_and_leaves_the_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    runs = [train_modular_addition(5, seed=1, max_steps=3, width=8, hidden=8) for _ in range(2)]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(runs[0][1], runs[1][1])
    assert len(runs[0][1]) == 7
    assert len(runs[0][1]) + len(runs[0][2]) == 25
    for one, two in zip(runs[0][0].parameters(), runs[1][0].parameters(), strict=True):
        assert torch.equal(one, two)


def test_frequency_shares():
    p = 11
    tokens = addition_pairs(p)
    x, y = tokens[:, 0] * 2 * math.pi / p, tokens[:, 1] * 2 * math.pi / p
    waves = torch.stack(
        [(3 * x).cos() + (3 * y).cos(), (2 * (x + y)).sin(), (x.cos() + 2 * (4 * x).cos())], 1
    ).double()
    shares = frequency_shares(waves + 7, tokens, p)
    assert shares.shape == (3, 5)
    torch.testing.assert_close(
        shares, torch.tensor([[0, 0, 1, 0, 0], [0, 1, 0, 0, 0], [0.2, 0, 0, 0.8, 0]]).double(),
        atol=1e-6, rtol=0,
    )  # fmt: skip
    embedded = torch.stack([(3 * x).cos(), (3 * y).sin(), 0 * x], 1).double()[..., None]
    assert frequency_shares(embedded, tokens, p)[0, 2] == pytest.approx(1, abs=1e-6)


def test_a_trained_network_and_its_frequencies(monkeypatch):
    monkeypatch.setattr(
        sys.modules["interactgraph.zoo.modular_addition"],  # the name is a function's, too
        "train_modular_addition",
        lambda modulus, **options: train_modular_addition(
            modulus, **{**options, "max_steps": 20, "width": 8, "hidden": 16}
        ),
    )
    net = modular_addition(1, modulus=7)
    assert len(net.data) + len(net.others) == 49
    assert 0 <= net.accuracy <= 1
    maps = fit_features(net.model, net.data, {"mid": PCA(), "final": PCA()}, progress=False)
    found = net.frequencies(maps)
    assert list(found) == ["mid", "final"]
    mid = net.model.mid(net.model.embed(net.data))
    wanted = frequency_shares(maps["mid"].encode(mid), net.data, 7)
    torch.testing.assert_close(found["mid"], wanted)
    assert found["final"].shape == (8, 3)
