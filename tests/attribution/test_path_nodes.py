"""Default settings on blocks with normalisations: the integral that they claim to be."""

import networks
import pytest
import torch
from torch import nn

import interactgraph as itg


class RootMeanSquare(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(1 + 0.1 * torch.randn(size))

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weight


class Sandwich(nn.Module):
    """A block as in Gemma 2: normalised before and after attention and MLP."""

    def __init__(self, size):
        super().__init__()
        self.norms = nn.ModuleList([RootMeanSquare(size) for _ in range(4)])
        self.attention = networks.TinyAttention(size)
        self.up, self.down = nn.Linear(size, 2 * size), nn.Linear(2 * size, size)

    def forward(self, x):
        x = x + self.norms[1](self.attention(self.norms[0](x)))
        return x + self.norms[3](self.down(nn.functional.gelu(self.up(self.norms[2](x)))))


class AfterNorm(nn.Module):
    """A block as in BERT: normalised after every residual sum."""

    def __init__(self, size):
        super().__init__()
        self.block = networks.Block(size)

    def forward(self, x):
        b = self.block
        x = b.ln1(x + b.attention(x))
        return b.ln2(x + b.down(b.act(b.up(x))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("baseline", ["zero", "mean"])
@pytest.mark.parametrize("block", [networks.Block, Sandwich, AfterNorm])
def test_defaults_are_below_the_tolerance(block, baseline, dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 12), block(12), block(12)).to(dtype)
    x = torch.randn(6, 7, 4, dtype=dtype)
    layers = ["0", "1", "2"]
    graph = itg.interaction_graph(model, [x], layers, baseline=baseline, progress=False)
    fine = itg.interaction_graph(
        model.double(), [x.double()], layers, baseline=baseline, tolerance=1e-6, n_steps=400,
        progress=False,
    )  # fmt: skip
    for pair, plan in zip(graph.pairs, graph.metadata["plans"], strict=True):
        assert graph.completeness[pair] <= 0.02
        assert fine.completeness[pair] <= 1e-5
        exact = fine.weights(*pair)
        assert float((graph.weights(*pair) - exact).norm() / exact.norm()) <= 0.02
        assert plan["n_steps_used"] <= 48
    assert not [note for note in graph.notes if "skip connection" not in note]


def test_eight_even_nodes_were_not_enough():
    """What the tolerance is for: the same block, the rule of before."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 12), Sandwich(12)).double()
    x = torch.randn(6, 7, 4, dtype=torch.float64)
    coarse = itg.interaction_graph(
        model, [x], ["0", "1"], n_steps=8, tolerance=None, progress=False
    )
    assert coarse.completeness["0", "1"] > 0.3
    assert "completeness residual is" in coarse.metadata["notes"][0]


def test_nodes_of_drawn_features_and_of_dictionaries():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), Sandwich(6)).double()
    batches = list(torch.randn(40, 5, 4, dtype=torch.float64).split(5))
    wide = itg.features.Linear(torch.randn(14, 6, dtype=torch.float64))
    for options in ({"sources": 3}, {"features": {"0": wide}}):
        graph = itg.interaction_graph(
            model, batches, ["0", "1"], engine="forward", progress=False, **options
        )
        assert graph.completeness["0", "1"] <= 0.03
        assert graph.metadata["plans"][0]["n_steps_used"] > 8
