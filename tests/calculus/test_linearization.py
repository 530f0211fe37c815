"""Recorded segments at a point: the same derivatives as torch's own forward mode."""

import networks
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import interactgraph as itg
from interactgraph.calculus.derivatives import jvps
from interactgraph.calculus.linearization import RecordedFunction
from interactgraph.calculus.tape import NoTape, form_of, record

W = torch.linspace(-1, 1, 36, dtype=torch.float64).view(6, 6)
C = torch.linspace(-1, 1, 12, dtype=torch.float64).view(2, 1, 6)

FUNCTIONS = {
    "linear": lambda x: F.linear(x, W, W[0]),
    "other shapes": lambda x: (x.reshape(2, 6, 1) * W[0]).permute(0, 2, 1).mean(1, keepdim=True),
    "gelu": lambda x: F.gelu(x, approximate="tanh") * 2 + F.silu(x),
    "same twice": lambda x: x * x + (x - x * 0.5) + x.pow(3),
    "product": lambda x: torch.sin(x) * torch.exp(x @ W),
    "quotient": lambda x: x / (1 + x.square()) + C / (2 + x.square()) + x / C,
    "bilinear": lambda x: (x.mT @ torch.tanh(x)).flatten(1)[:, None, :6],
    "differences": lambda x: torch.sub(C, x, alpha=3) + torch.sub(x, C) - x.sub(x.sin(), alpha=2),
    "broadcast": lambda x: x + x.mean(-1, keepdim=True) - x.sum(1, keepdim=True).max() * 1.0,
    "layer norm": lambda x: F.layer_norm(x, (6,), W[0], W[1]) + F.layer_norm(x, (1, 6)),
    "rms norm": lambda x: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-3) * W[2],
    "softmax": lambda x: x.softmax(-1) + x.log_softmax(1),
    "concatenation": lambda x: torch.cat([x, C, x.sin()], -1)[..., 3:15],
    "stack": lambda x: torch.stack([x, x.cos()], 1).flatten(1, 2),
    "split": lambda x: x.split([2, 4], -1)[1] * x.unbind(-1)[0][..., None],
    "where": lambda x: torch.where(x > 0, x, 0.1 * x) + x.masked_fill(C > 0, 3.0) + F.relu(x),
    "maximum": lambda x: torch.maximum(x, C) + x.amax(-1, keepdim=True) + x.sort(-1).values,
    "chosen": lambda x: x.gather(-1, x.argmax(-1, keepdim=True)).expand(-1, -1, 6) * x,
    "padded": lambda x: F.pad(x, (1, 1), value=2.0)[..., :6].roll(1, -1).flip(-1).cumsum(-1),
    "convolution": lambda x: F.conv1d(x, W[:3, None, :3], W[0, :3], padding=1).mT[:, :, :3],
    "pooled": lambda x: F.max_pool1d(x, 2) + F.avg_pool1d(x, 2),
    "attention": lambda x: F.scaled_dot_product_attention(x, x @ W, x.sin()),
    "in place": lambda x: (x * 2).add_(C).mul_(x).relu_(),
    "selected by number": lambda x: x[torch.tensor([1, 0])] * x[..., [0, 0, 1, 2, 3, 4]],
}


@pytest.fixture(autouse=True)
def math_attention():
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        yield


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_agrees_with_torch(name):
    torch.manual_seed(0)
    function = FUNCTIONS[name]
    point, other = torch.randn(2, 2, 1, 6, dtype=torch.float64)
    tangents = torch.randn(3, 2, 1, 6, dtype=torch.float64)
    segment = RecordedFunction.on(record(function, [other]), [])
    value, linear = segment.value_and_derivative(point)
    torch.testing.assert_close(value, function(point), rtol=1e-13, atol=1e-13)
    expected = jvps(function, point, tangents)
    torch.testing.assert_close(linear(tangents), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(linear(tangents[:1]), expected[:1], rtol=1e-12, atol=1e-12)


def test_values_of_the_batch_are_arguments():
    def function(z, x, mask):
        return (z * x.exp()).masked_fill(mask[:, None, None], 0.0) + x.sum()

    torch.manual_seed(0)
    first = [torch.randn(2, 1, 6), torch.randn(2, 1, 6), torch.tensor([True, False])]
    second = [torch.randn(2, 1, 6), torch.randn(2, 1, 6), torch.tensor([False, True])]
    segment = RecordedFunction.on(record(function, first), second[1:])
    value, linear = segment.value_and_derivative(second[0])
    torch.testing.assert_close(value, function(*second))
    torch.testing.assert_close(linear(first[0][None])[0], function(first[0], *second[1:])
                               - second[1].sum())  # fmt: skip


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * 2 if x.sum() > 0 else x,
        lambda x: x * float(x.mean()),
        lambda x: x[x[:, 0, 0].nonzero()[:, 0]],
    ],
)
def test_what_values_decide_is_not_taken_from_a_record(function):
    assert not RecordedFunction.serves(record(function, [torch.ones(2, 1, 3)]))


def test_objects_in_the_batch_may_hide_values():
    assert form_of({"x": torch.ones(2), "n": 3}) != form_of({"x": torch.ones(2), "n": 4})
    with pytest.raises(NoTape, match="Hidden"):
        form_of([torch.ones(2), type("Hidden", (), {})()])


class Branching(nn.Module):
    """Takes another branch where the sum of its input is negative."""

    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        h = self.enter(x)
        return self.leave(torch.tanh(h) if x.sum() > 0 else torch.sin(3 * h).exp())


def test_branches_are_followed_batch_by_batch():
    torch.manual_seed(0)
    model = Branching().double()
    x = torch.randn(6, 4, dtype=torch.float64)
    batches = [x.abs(), -x.abs()]
    found = itg.interaction_graph(
        model, batches, ["input", "output"], engine="forward", strengths=("mean",), progress=False
    )
    each = [
        itg.interaction_graph(
            model, [b], ["input", "output"], engine="reverse", strengths=("mean",), progress=False
        ).weights("input", "output")
        for b in batches
    ]
    torch.testing.assert_close(found.weights("input", "output"), sum(each) / 2)


@pytest.mark.parametrize("name", list(networks.CASES))
def test_record_is_used_for_networks(name, monkeypatch):
    """Not a silent fallback: torch's forward mode is called by the check alone."""
    calls = []
    original = torch.func.jvp
    monkeypatch.setattr(
        torch.func, "jvp", lambda f, p, t, **k: calls.append(len(p)) or original(f, p, t, **k)
    )
    case = networks.make(name)
    used = []
    linearize = RecordedFunction.linearize
    monkeypatch.setattr(
        RecordedFunction, "linearize", lambda self, z: used.append(1) or linearize(self, z)
    )
    itg.interaction_graph(
        case.model, case.batches, [case.source, case.target], engine="forward", progress=False
    )
    assert len(used) > len(case.batches)
