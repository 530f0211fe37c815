"""Small networks of many kinds, each with the function between two layers written by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass
class Case:
    """A network and what the library should find between two of its layers."""

    model: nn.Module
    batches: list[Any]
    source: str
    target: str
    # (batch) -> source activation, and a function of it that gives the target activation
    by_hand: Callable[[Any], tuple[Tensor, Callable[[Tensor], Tensor]]]
    feature_dim: int = -1


class TinyAttention(nn.Module):
    """Causal self-attention with two heads."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(size, 3 * size)
        self.out = nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = (y.view(b, t, 2, d // 2).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(b, t, d))


class Block(nn.Module):
    """A transformer block with residual paths."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.attention = TinyAttention(size)
        self.up, self.down = nn.Linear(size, 2 * size), nn.Linear(2 * size, size)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.ln1(x))
        return x + self.down(self.act(self.up(self.ln2(x))))


class TupleOutput(nn.Module):
    """Returns (features, something else)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.tanh(self.linear(x))
        return y, y.sum(-1)


class UsesTuple(nn.Module):
    """Feeds on both outputs of a module."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = TupleOutput(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, total = self.first(x)
        return torch.sigmoid(self.second(y)) * (1 + total[..., None] ** 2)


class TwoInputs(nn.Module):
    """Depends on a second input that is held fixed."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return self.leave(torch.tanh(self.enter(x)) * gate.exp())


def mlp() -> Case:
    """input -> logits through two hidden layers."""
    model = nn.Sequential(nn.Linear(6, 7), nn.GELU(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))
    x = torch.randn(6, 6)
    return Case(model, list(x.split(4)), "input", "4", lambda batch: (batch, model))


def convolutional() -> Case:
    """Channels of a convolution -> logits."""
    conv, tail = (
        nn.Conv2d(2, 3, 3),
        nn.Sequential(
            nn.SiLU(), nn.Conv2d(3, 4, 2, stride=2), nn.GELU(), nn.Flatten(), nn.Linear(16, 3)
        ),
    )
    model = nn.Sequential(conv, tail)
    x = torch.randn(5, 2, 6, 6)
    return Case(model, list(x.split(3)), "0", "1", lambda b: (conv(b), tail), feature_dim=1)


def transformer() -> Case:
    """Residual stream before a block -> after it."""
    model = nn.Sequential(nn.Linear(4, 6), Block(6))
    x = torch.randn(4, 5, 4)
    return Case(model, list(x.split(3)), "0", "output", lambda b: (model[0](b), model[1]))


def tuple_output() -> Case:
    """First element of a tuple -> output, the second element held fixed."""
    model = UsesTuple()
    x = torch.randn(5, 5)

    def by_hand(batch: Any) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        y, total = model.first(batch[0])
        return y, lambda y: torch.sigmoid(model.second(y)) * (1 + total[..., None] ** 2)

    return Case(model, [(x[:3], "label"), (x[3:], "label")], "first", "output", by_hand)


def two_inputs() -> Case:
    """A user's module with two inputs; the first one is analysed."""
    model = TwoInputs()
    x, gate = torch.randn(5, 4), torch.randn(5, 6)
    batches = [{"x": x[:3], "gate": gate[:3]}, {"x": x[3:], "gate": gate[3:]}]
    return Case(
        model, batches, "input", "output",
        lambda batch: (batch["x"], lambda x: model(x, batch["gate"])),
    )  # fmt: skip


CASES = {
    "mlp": mlp,
    "convolutional": convolutional,
    "transformer": transformer,
    "tuple_output": tuple_output,
    "two_inputs": two_inputs,
}


def make(name: str, dtype: torch.dtype = torch.float64) -> Case:
    """A case, seeded, in the given dtype."""
    torch.manual_seed(0)
    case = CASES[name]()
    case.model.to(dtype)
    case.model.eval()

    def cast(batch: Any) -> Any:
        if isinstance(batch, Tensor):
            return batch.to(dtype)
        if isinstance(batch, dict):
            return {key: value.to(dtype) for key, value in batch.items()}
        return (batch[0].to(dtype), *batch[1:])

    case.batches = [cast(batch) for batch in case.batches]
    return case


class OldStyle(torch.autograd.Function):
    """A sine with a backward pass alone, without setup_context: functorch refuses it."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * x.cos()


class Branches(nn.Module):
    """Two layers of which neither depends on the other."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(4, 6)

    def forward(self, x):
        return self.a(x).sum(1, keepdim=True) + self.b(x)
