"""Operations on the simplex against plain formulas, and what they keep."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interactgraph import InteractGraphError
from interactgraph.simplex import log_addition, power, product, sinkhorn


def points(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64).softmax(-1)


def test_product_and_power_are_the_plain_formulas():
    x, y = points(5, 7), points(5, 7, seed=1)
    for temperature in (0.3, 1.0, 2.5):
        plain = x * y ** (1 / temperature)
        torch.testing.assert_close(product(x, y, temperature), plain / plain.sum(-1, keepdim=True))
        plain = x ** (1 / temperature)
        torch.testing.assert_close(power(x, temperature), plain / plain.sum(-1, keepdim=True))
    scores = torch.linspace(-3, 3, 7, dtype=torch.float64)
    plain = x * (scores / 0.7).exp()
    expected = plain / plain.sum(-1, keepdim=True)
    torch.testing.assert_close(log_addition(x, scores, 0.7), expected)


@pytest.mark.parametrize("temperature", [1e-3, 1.0, 1e3])
def test_uniform_and_constant_change_nothing(temperature):
    for x in (points(5, 7), torch.eye(7).double()):
        uniform = torch.full((7,), 1 / 7, dtype=torch.float64)
        torch.testing.assert_close(product(x, uniform, temperature), x)
        torch.testing.assert_close(log_addition(x, 3 + 0 * x, temperature), x)
    torch.testing.assert_close(product(uniform, x), x)  # and a uniform x leaves y


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=12).filter(lambda x: sum(x) > 1e-6),
    st.integers(0, 11),
    st.sampled_from([1e-3, 0.1, 1.0, 1e3]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_results_are_on_the_simplex_and_gradients_finite(values, corner, temperature, dtype):
    x = torch.tensor(values, dtype=dtype)
    x = (x / x.sum()).requires_grad_()
    y = torch.zeros_like(x)
    y[corner % len(x)] = 1  # may have nothing in common with x
    y.requires_grad_()
    for result in (product(x, y, temperature), log_addition(x, y, temperature),
                   power(x, temperature)):  # fmt: skip
        assert bool((result >= 0).all())
        assert abs(float(result.sum()) - 1) < 1e-6
        for gradient in torch.autograd.grad(result[0], (x, y), allow_unused=True):
            assert gradient is None or bool(gradient.isfinite().all())


def test_sinkhorn():
    scores = 2 * torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(0)).double()
    matrix = scores.exp()
    for _ in range(5):
        matrix = matrix / matrix.sum(-2, keepdim=True)
        matrix = matrix / matrix.sum(-1, keepdim=True)
    torch.testing.assert_close(sinkhorn(scores, 5), matrix)
    many = sinkhorn(scores, 200)
    torch.testing.assert_close(many.sum(-1), torch.ones(3, 6).double())
    torch.testing.assert_close(many.sum(-2), torch.ones(3, 6).double())
    torch.testing.assert_close(sinkhorn(scores, 0), scores.softmax(-1))
    with pytest.raises(InteractGraphError, match="n_steps=-1"):
        sinkhorn(scores, -1)
