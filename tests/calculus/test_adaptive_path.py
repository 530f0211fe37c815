"""Nodes where functions bend, found without being told where."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interactgraph.calculus.adaptive_path import adaptive_rule

# derivative along the path -> its integral
FUNCTIONS = {
    "constant": (lambda u: 2.0, 2.0),
    "polynomial": (lambda u: 8 * u**7, 1.0),
    "normalised from zero": (lambda u: 1e-10 / (u**2 + 1e-10) ** 1.5, 1 / (1 + 1e-10) ** 0.5),
    "bend near the end": (
        lambda u: 50 / math.cosh(50 * (u - 0.9)) ** 2, math.tanh(5) + math.tanh(45)
    ),
    "bends at both ends": (
        lambda u: 1e-6 / (u**2 + 1e-6) ** 1.5 + 30 / math.cosh(30 * (u - 0.95)) ** 2,
        1 / (1 + 1e-6) ** 0.5 + math.tanh(1.5) + math.tanh(28.5),
    ),
    "oscillating": (lambda u: math.cos(40 * u) + 1, 1 + math.sin(40) / 40),
}  # fmt: skip


def found(function, change, tolerance, most=64):
    return adaptive_rule(
        lambda u: torch.tensor([[function(u)]]), torch.tensor([change]), tolerance, most
    )


@pytest.mark.parametrize("tolerance", [0.02, 1e-4])
@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_below_the_tolerance_with_few_nodes(name, tolerance):
    function, change = FUNCTIONS[name]
    rule, error, _ = found(function, change, tolerance)
    integral = sum(weight * function(u) for u, weight in zip(*rule, strict=True))
    assert abs(integral - change) <= tolerance * change
    assert error <= tolerance
    assert len(rule.nodes) <= (28 if tolerance == 0.02 else 64)
    assert sum(rule.weights) == pytest.approx(1.0)
    assert all(0 < u < 1 for u in rule.nodes)


def test_what_cannot_be_reached_is_told():
    rule, error, _ = found(lambda u: float(u > 0.3), 0.7, 1e-9)
    assert len(rule.nodes) == 64
    assert error > 1e-9


def test_a_direction_of_its_own_is_seen():
    """The sum is a constant, its parts bend: nodes are placed for the parts."""

    def parts(u):
        bend = 1e-8 / (u**2 + 1e-8) ** 1.5
        return torch.tensor([[1.0], [bend]])

    rule, error, _ = adaptive_rule(parts, torch.tensor([1.0]), 0.02, 64)
    assert len(rule.nodes) > 8
    integral = sum(float(parts(u)[1]) * w for u, w in zip(*rule, strict=True))
    assert error <= 0.02
    assert abs(integral - 1.0) <= 0.02


@settings(max_examples=30, deadline=None)
@given(st.floats(-8, -1), st.floats(0.5, 3))
def test_normalisations_of_any_scale(exponent, power):
    """d/du of (u^2 / (u^2 + eps^2))^(power / 2), which rises from 0 to 1 at u = eps."""
    eps = 10.0**exponent

    def function(u):
        ratio = u**2 / (u**2 + eps**2)
        return power * ratio ** (power / 2) * eps**2 / (u * (u**2 + eps**2)) if u else 0.0

    change = (1 / (1 + eps**2)) ** (power / 2)
    rule, *_ = found(function, change, 0.02)
    integral = sum(weight * function(u) for u, weight in zip(*rule, strict=True))
    assert abs(integral - change) <= 0.021 * change


def test_the_rules_on_the_way():
    function, change = FUNCTIONS["bends at both ends"]
    rule, error, steps = found(function, change, 1e-4)
    assert steps[-1] == (rule, error)
    assert [len(each.nodes) for each, _ in steps] == list(range(4, len(rule.nodes) + 4, 4))
    for each, told in steps:
        integral = sum(weight * function(u) for u, weight in zip(*each, strict=True))
        assert abs(integral - change) <= max(told, 1e-12) * change * (1 + 1e-6)
