"""Operations that are recorded as others: the same numbers, in kinds that the engines know."""

import pytest
import torch

from interactgraph.calculus.tape import record

X = torch.randn(3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
OTHER = torch.randn(3, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
NUMBERS = {"stack", "mv", "baddbmm", "index"}


def rotated(x):
    return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)


WRITTEN_OUT = {
    "stack": rotated,
    "stack in front": lambda x: torch.stack([x, 2 * x]),
    "stack in between": lambda x: torch.stack([x, x.sin()], dim=-2),
    "mv": lambda x: x[0] @ OTHER[0, :, 0],
    "baddbmm": lambda x: torch.baddbmm(x[..., :5], x, OTHER),
    "baddbmm, scaled": lambda x: torch.baddbmm(x[..., :1], x, OTHER, beta=0.5, alpha=2.0),
    "baddbmm, nothing added": lambda x: torch.baddbmm(x[..., :1] / 0, x, OTHER, beta=0),
    "one number": lambda x: x[:, :, [-2]],
    "numbers": lambda x: x[:, [2, 0, -1]],
}


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_written_out(name):
    function = WRITTEN_OUT[name]
    tape = record(function, [X])
    assert NUMBERS.isdisjoint(node.name for node in tape.nodes)
    for x in (X, X.cos()):
        found = tape.value(tape.output, {tape.arguments[0]: x})
        torch.testing.assert_close(found, function(x), rtol=1e-13, atol=1e-13)


def test_lists_that_an_argument_decides_are_not_written_out():
    """They are other ones in the next batch."""
    order = torch.tensor([2, 0, 1])
    tape = record(lambda x, order: x[:, order], [X, order])
    assert "index" in {node.name for node in tape.nodes}
    known = dict(zip(tape.arguments, (X, order.flip(0)), strict=True))
    assert torch.equal(tape.value(tape.output, known), X[:, order.flip(0)])
    derived = record(lambda x, order: x[:, order + 1], [X, order])
    assert "index" in {node.name for node in derived.nodes}


def test_long_lists_stay_one_operation():
    numbers = torch.arange(6).repeat(3)
    assert "index" in {node.name for node in record(lambda x: x[..., numbers], [X]).nodes}
