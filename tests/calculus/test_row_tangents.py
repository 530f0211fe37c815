"""Tangents at some target positions, against derivatives of the whole segment."""

import pytest
import torch
from frozen_blocks import BLOCKS, HEADS, WIDTH, Block, Gated, samples
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from interactgraph.calculus.linearization import RecordedFunction
from interactgraph.calculus.row_layouts import FREE, POSITION, SAMPLE, regrouped
from interactgraph.calculus.row_tangents import NotRowwise, RowTangents
from interactgraph.calculus.tape import record


class Rotary(Gated):
    """Keys and queries turned by the position, a gated perceptron, and a scale of each sample."""

    def __init__(self, share=1.0, **options):
        super().__init__(norm="rms", heads="shared", **options)
        self.turned = int(WIDTH // HEADS * share) // 2 * 2

    def turn(self, x):
        angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * torch.tensor([0.3, 0.3]).to(x)
        angle = angle[:, : self.turned]
        some, rest = x[..., : self.turned], x[..., self.turned :]
        a, b = some.chunk(2, -1)
        turned = some * angle.cos() + torch.cat([-b, a], -1) * angle.sin()
        return torch.cat([turned, rest], -1)

    def attention(self, x):
        size = WIDTH // HEADS
        q, k, v = (y.unflatten(-1, (-1, size)).transpose(1, 2) for y in self.split(x))
        q, k = self.turn(q), self.turn(k)
        k, v = (y.expand(-1, HEADS, -1, -1) for y in (k, v))
        scores = (q @ k.mT / size**0.5).softmax(-1)
        return self.out((scores @ v).transpose(1, 2).flatten(2))


class Chosen(nn.Module):
    """What it does is written in a way of its own."""

    def __init__(self, way):
        super().__init__()
        self.way, self.mix = way, nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        if self.way == "mean":
            return self.mix((x**2).mean(-1, keepdim=True) * x)
        if self.way == "two sides":
            return torch.cat([self.mix(x), torch.sin(x)], -1)[..., 2:9] / (
                1 + x.pow(2).sum(-1, True)
            )
        if self.way == "first":
            return torch.tanh(self.mix(x[:, :1]))
        if self.way == "half":
            half = x[..., ::2]
            return self.mix(torch.cat([half, half], -1)).relu() - x[..., 0][..., None]
        if self.way == "graph attention":
            a, b = (x @ self.mix.weight[:2].mT).unbind(-1)
            scores = F.leaky_relu(a[:, :, None] + b[:, None])
            return scores.softmax(-1) @ self.mix(x)
        if self.way == "distances":
            q, k = self.mix(x), x[..., :1] * self.mix.weight[:, 0]
            scores = -((q[:, :, None] - k[:, None]) ** 2).sum(-1)
            return scores.softmax(-1) @ x
        if self.way == "divided":
            return (x + torch.tanh(self.mix(x))) / 2**0.5 / (1 + self.mix.weight[0].abs())
        if self.way == "unbound":
            a, b = torch.tanh(self.mix(x)).unflatten(-1, (2, 3)).unbind(-2)
            return torch.cat([a * b, b.sum(-1, True) - a], -1)
        if self.way == "detached":
            return torch.tanh(self.mix(x)) * x.detach() + self.mix(torch.tanh(x).detach() * x)
        if self.way == "none":
            return torch.tanh(self.mix(x))
        if self.way == "samples":
            return x - torch.tanh(self.mix(x.mean(0, keepdim=True)))
        if self.way == "sorted":
            return x.sort(-1).values
        return torch.tanh(torch.tanh(x).mT @ self.mix.weight[:4, :4]).mT  # positions are mixed


@pytest.fixture(autouse=True)
def as_a_run_does():
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        yield


def taken_apart(function, z):
    tape = record(function, [z])
    return RowTangents(tape, function(z).shape), RecordedFunction.on(tape, [])


def check(function, z, together=1):
    """All rows, summed over three points of a path, against the whole Jacobian."""
    apart, recorded = taken_apart(function, z)
    y = function(z)
    b, t = (x.flatten() for x in torch.meshgrid(*map(torch.arange, y.shape[:2]), indexing="ij"))
    displacement = torch.randn_like(z)
    points = [(0.2, z), (0.5, z - 0.3 * displacement), (-1.1, z - displacement)]
    found = apart.at(b, t, points, displacement, recorded, together)
    expected = 0
    for weight, point in points:
        slopes = torch.autograd.functional.jacobian(function, point)
        expected = expected + weight * torch.einsum("btiasj,asj->btij", slopes, displacement)
    torch.testing.assert_close(found, expected.flatten(0, 1), rtol=1e-9, atol=1e-10)
    return apart


@pytest.mark.parametrize("shape", [(3, 4), (1, 4), (3, 1), (1, 1)])
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks(name, shape):
    torch.manual_seed(0)
    check(Block(**BLOCKS[name]).double(), samples(*shape))


@pytest.mark.parametrize("together", [1, 2, 5, 99])
def test_rows_together(together):
    torch.manual_seed(0)
    check(Block(causal=True).double(), samples(), together)


@pytest.mark.parametrize("share", [1.0, 0.7])
@pytest.mark.parametrize("post", [False, True])
def test_turned_keys(share, post):
    torch.manual_seed(0)
    check(Rotary(share, post=post).double(), samples())


def test_a_mask_of_the_batch():
    """What differs from batch to batch reaches the scores."""
    torch.manual_seed(0)
    block, z = Block().double(), samples(2, 5)
    mask = torch.ones(2, 1, 1, 5, dtype=torch.bool)
    mask[1, ..., 3:] = False

    def masked(x):
        size = WIDTH // HEADS
        q, k, v = (y.unflatten(-1, (-1, size)).transpose(1, 2) for y in block.split(x))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return x + block.out(y.transpose(1, 2).flatten(2))

    check(masked, z)


@pytest.mark.parametrize(
    "way",
    [
        "mean", "two sides", "half", "unbound", "detached", "none", "divided", "graph attention",
        "distances",
    ],
)  # fmt: skip
def test_other_operations(way):
    torch.manual_seed(0)
    check(Chosen(way).double(), samples())


@pytest.mark.parametrize("shape", [(3, 4), (3, 1)])
def test_the_first_position_alone(shape):
    torch.manual_seed(0)
    check(Chosen("first").double(), samples(*shape))


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("samples", "all positions are read at once"),
        ("sorted", "sort is not taken apart"),
        ("mixed", "all positions are read at once|positions are mixed"),
    ],
)
def test_where_positions_do_not_come_apart(way, message):
    with pytest.raises(NotRowwise, match=message):
        taken_apart(Chosen(way).double(), samples())


def test_keys_of_a_second_block_are_no_sum_of_few_products():
    torch.manual_seed(0)
    both = nn.Sequential(Block(), Block()).double()
    with pytest.raises(NotRowwise, match="what all positions hold is not a sum of few products"):
        taken_apart(both, samples())


def test_products_are_counted():
    """A perceptron takes its first matrix at every point, and its second one once."""
    into, out = nn.Linear(WIDTH, 7).double(), nn.Linear(7, 5).double()
    apart = check(lambda x: out(torch.tanh(into(x))), samples())
    assert apart.products_at_end == WIDTH * 7 * 5
    assert apart.n_sums == 7
    gelu = check(lambda x: torch.tanh(out(torch.tanh(into(x)))), samples())
    assert (gelu.products, gelu.products_at_end, gelu.n_sums) == (WIDTH * 7 * 5, 0, 5)


def test_entries_in_another_shape():
    layout = ((3, SAMPLE), (4, POSITION)), ((6, FREE),)
    assert regrouped(layout, (3, 4, 2, 3)) == (
        ((3, SAMPLE),), ((4, POSITION),), ((2, FREE),), ((3, FREE),)
    )  # fmt: skip
    for shape in ((12,), (3, 4, 7), (3, 4, 4), (6, 2, 6)):
        with pytest.raises(NotRowwise):
            regrouped(layout, shape)
