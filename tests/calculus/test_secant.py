"""Mean slopes of pointwise functions, to rounding, whatever the step."""

import pytest
import torch
from torch.nn import functional as F

from interactgraph.calculus.path import gauss_legendre
from interactgraph.calculus.secant import derivative, secant_slope

SMOOTH = {"gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", list(SMOOTH))
def test_smooth_functions_for_steps_of_any_size(name, dtype):
    torch.manual_seed(0)
    p0 = torch.randn(2000, dtype=dtype) * 3
    dp = torch.randn(2000, dtype=dtype) * 10.0 ** torch.randint(-14, 1, (2000,))
    dp[::50] = 0
    found = secant_slope(SMOOTH[name], p0, dp)
    u, w = (torch.tensor(part, dtype=torch.float64) for part in gauss_legendre(40))
    points = p0.double()[:, None] + u * dp.double()[:, None]
    expected = (derivative(SMOOTH[name], points) * w).sum(1)
    tolerance = 3e-6 if dtype == torch.float32 else 1e-8
    assert found.dtype == dtype
    assert float((found - expected).abs().max()) < tolerance


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e-12])
def test_kink_crossed_by_a_step_of_any_size(scale):
    p0 = torch.tensor([-1.0, -1.0, 1.0, 0.0, 0.0, -3.0]) * scale
    dp = torch.tensor([2.0, 4.0, -4.0, 1.0, 0.0, 1.0]) * scale
    expected = torch.tensor([0.5, 0.75, 0.25, 1.0, 0.0, 0.0])
    torch.testing.assert_close(secant_slope(torch.relu, p0, dp), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("base", [0.0, 10.0, 20.0, -15.0])
@pytest.mark.parametrize("size", [2.0, 1e-4, 1e-8, 1e-13])
def test_large_and_small_functions(base, size, dtype):
    torch.manual_seed(0)
    p0 = torch.full((1, 400), base, dtype=torch.float64)
    dp = (torch.randn(5, 400, dtype=torch.float64) * size).to(dtype)
    dp[0, 0] = 0
    step = dp.double()
    tolerance = 2e-7 if dtype == torch.float32 else 2e-9

    def over_step(difference):
        return torch.where(step == 0, torch.ones_like(step), difference / step)

    exact = over_step(torch.expm1(step)) * p0.exp()
    found = secant_slope(torch.exp, p0, dp).double()
    torch.testing.assert_close(found, exact, rtol=tolerance, atol=0)
    # tanh a - tanh b = sinh(a - b) / (cosh a cosh b)
    exact = over_step(torch.sinh(step)) / (torch.cosh(p0) * torch.cosh(p0 + step))
    for factor in (1e6, 1.0, 1e-6):
        found = secant_slope(lambda p, c=factor: c * torch.tanh(p), p0, dp).double() / factor
        torch.testing.assert_close(found, exact, rtol=0, atol=tolerance)


def test_gauss_legendre_weights_sum_to_one_and_integrate_polynomials():
    for n in (1, 2, 5, 8):
        nodes, weights = gauss_legendre(n)
        assert sum(weights) == pytest.approx(1, abs=1e-14)
        power = 2 * n - 1
        assert sum(w * u**power for u, w in zip(nodes, weights, strict=True)) == pytest.approx(
            1 / (power + 1), rel=1e-12
        )
