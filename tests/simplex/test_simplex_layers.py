"""Modules on the simplex: formulas, start, what stays on the simplex, gradients, errors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from interactgraph import InteractGraphError
from interactgraph.simplex import (
    LogAdditionResidual,
    Power,
    ProductResidual,
    SimplexAttention,
    SimplexBias,
    StochasticLinear,
)

TEMPERATURES = [1e-3, 1.0, 1e3]


def deep(width, temperature, n_sinkhorn=0):
    """Every module, twice, with all temperatures alike."""
    t = {"temperature": temperature, "learn_temperature": True}
    modules = []
    for _ in range(2):
        modules += [
            StochasticLinear(width, width, noise=1.0, **t),
            SimplexBias(width, **t),
            Power(temperature, learn_temperature=True),
            ProductResidual(SimplexAttention(width, 2, n_sinkhorn=n_sinkhorn, **t), **t),
            ProductResidual(StochasticLinear(width, width, identity=0, noise=1.0, **t), **t),
            LogAdditionResidual(nn.Linear(width, width), **t),
        ]
    return nn.Sequential(*modules)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 1000), st.integers(1, 4), st.sampled_from(TEMPERATURES),
    st.sampled_from([0, 3]), st.booleans(),
)  # fmt: skip
def test_activations_stay_on_the_simplex_and_gradients_finite(seed, half, t, n_sinkhorn, corners):
    torch.manual_seed(seed)
    model = deep(2 * half, t, n_sinkhorn)
    x = torch.rand(3, 4, 2 * half) + 1e-3
    x = x / x.sum(-1, keepdim=True)
    if corners:
        x = nn.functional.one_hot(x.argmax(-1), 2 * half).float()
    x.requires_grad_()
    y = x
    for module in model:
        y = module(y)
        assert bool((y >= 0).all())
        assert float((y.detach().sum(-1) - 1).abs().max()) < 1e-6
    (y[..., 0] + 1e-6).log().sum().backward()
    for value in (x, *model.parameters()):
        assert value.grad is not None
        assert bool(value.grad.isfinite().all())


def test_formulas():
    torch.manual_seed(0)
    x = torch.rand(5, 6).double().softmax(-1)
    layer = StochasticLinear(6, 4, noise=1.0, temperature=0.5).double()
    weight = (layer.logits / layer.temperature).exp()
    weight = weight / weight.sum(0)
    torch.testing.assert_close(layer.weight, weight)
    torch.testing.assert_close(layer(x), x @ weight.T)
    bias = SimplexBias(6).double()
    torch.testing.assert_close(bias(x), x)  # uniform at the start
    bias.logits.data.normal_()
    plain = x * bias.logits.exp()
    torch.testing.assert_close(bias(x), plain / plain.sum(-1, keepdim=True))
    branch = StochasticLinear(6, 6, noise=1.0).double()
    plain = x * branch(x) ** (1 / 0.3)
    torch.testing.assert_close(
        ProductResidual(branch, temperature=0.3).double()(x), plain / plain.sum(-1, keepdim=True)
    )
    branch = nn.Linear(6, 6).double()
    plain = x * (branch(x) / 0.3).exp()
    torch.testing.assert_close(
        LogAdditionResidual(branch, temperature=0.3).double()(x),
        plain / plain.sum(-1, keepdim=True),
    )
    plain = x ** (1 / 0.2)
    torch.testing.assert_close(Power(0.2).double()(x), plain / plain.sum(-1, keepdim=True))


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_its_formula(causal):
    torch.manual_seed(0)
    layer = SimplexAttention(6, 2, causal=causal, temperature=0.4).double()
    for parameter in layer.parameters():
        parameter.data.normal_()
    x = torch.rand(3, 5, 6).double().softmax(-1)
    mixed = []
    for query, key, value in zip(layer.query, layer.key, layer.value, strict=True):
        pattern = torch.einsum("bti,bsi->bts", query(x), key(x)) ** (1 / 0.4)
        pattern = pattern.tril() if causal else pattern
        pattern = pattern / pattern.sum(-1, keepdim=True)
        mixed.append(pattern @ value(x) / 2)
    torch.testing.assert_close(layer(x), layer.out(torch.cat(mixed, -1)))
    assert layer.patterns(x).shape == (3, 2, 5, 5)


def test_sinkhorn_attention_gives_as_much_as_it_receives():
    torch.manual_seed(0)
    layer = SimplexAttention(6, 2, n_sinkhorn=50).double()
    for parameter in layer.parameters():
        parameter.data.normal_()
    x = torch.rand(3, 5, 6).double().softmax(-1)
    assert bool(((layer.patterns(x).sum(-2) - 1).abs() < 1e-6).all())
    plain = SimplexAttention(6, 2).double()
    plain.load_state_dict(layer.state_dict())
    assert bool(((plain.patterns(x).sum(-2) - 1).abs() > 1e-3).any())


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_start_is_near_the_identity(temperature):
    torch.manual_seed(0)
    t = {"temperature": temperature}
    x = torch.rand(4, 5, 8).softmax(-1)
    layer = StochasticLinear(8, 8, identity=0.99, **t)
    torch.testing.assert_close(layer(x), x, atol=0.01, rtol=0)
    torch.testing.assert_close(
        StochasticLinear(8, 4, identity=0.75, noise=0, **t).weight[:, :2],
        torch.tensor([[0.8125, 0.8125], *[[0.0625] * 2] * 3]),
    )
    for branch in (StochasticLinear(8, 8, identity=0, **t), SimplexAttention(8, 2, **t)):
        torch.testing.assert_close(ProductResidual(branch)(x), x, atol=0.01, rtol=0)


def test_learned_temperature_is_a_parameter_and_stays_positive():
    layer = Power(0.5, learn_temperature=True)
    assert [name for name, _ in layer.named_parameters()] == ["log_temperature"]
    assert not list(Power(0.5).parameters())
    assert "log_temperature" in Power(0.5).state_dict()
    assert layer.temperature.item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: StochasticLinear(0, 3), "n_in=0"),
        (lambda: StochasticLinear(3, 3, identity=1.0), "identity=1.0 must be at least 0 and below"),
        (lambda: StochasticLinear(3, 3, noise=-1), "noise=-1 must not be negative"),
        (lambda: Power(0), "temperature=0 must be a number above 0"),
        (lambda: SimplexAttention(5, 2), "width=5 must be a multiple of n_heads=2"),
        (lambda: SimplexAttention(4, causal=True, n_sinkhorn=2), "choose one of both"),
        (lambda: StochasticLinear(3, 2)(torch.ones(2, 4)), r"got \(2, 4\)"),
        (lambda: SimplexBias(3)(torch.ones(2, 4)), "must hold 3 features"),
        (lambda: SimplexAttention(4)(torch.ones(4)), "needs positions"),
    ],
)
def test_bad_input(make, match):
    with pytest.raises(InteractGraphError, match=match):
        make()
