"""The feature axis of activations, read off the modules around them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import interactgraph as itg


def axes(model, x, layers):
    graph = itg.interaction_graph(model.eval(), [x], layers, progress=False)
    dims = {layer: feature_map.feature_dim for layer, feature_map in graph.features.items()}
    return dims, [note for note in graph.metadata["notes"] if "was taken for features" in note]


class Swin(nn.Module):
    """Channels last: `[b, h, w, c]`."""

    def __init__(self):
        super().__init__()
        self.up, self.act, self.down = nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        return self.norm(x + self.down(self.act(self.up(x))))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = (
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 3, 1),
        )
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        return F.relu(x + self.b(self.act(self.norm(self.a(x)))))


class Patches(nn.Module):
    """A convolution, then tokens."""

    def __init__(self):
        super().__init__()
        self.patch, self.norm, self.head = nn.Conv2d(3, 6, 2, 2), nn.LayerNorm(6), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.norm(self.patch(x).flatten(2).transpose(1, 2)))


CASES = {
    "channels last": (Swin(), (2, 5, 5, 8), {"input": 3, "up": 3, "act": 3, "down": 3, "norm": 3}),
    "convolutions": (
        Residual(),
        (2, 3, 5, 5),
        {"input": 1, "a": 1, "norm": 1, "act": 1, "b": 1, "output": 1},
    ),
    "one-dimensional": (
        nn.Sequential(nn.Conv1d(12, 8, 3), nn.ReLU(), nn.Dropout(), nn.Conv1d(8, 4, 1), nn.Tanh()),
        (3, 12, 50),
        {"input": 1, "0": 1, "1": 1, "3": 1, "4": 1},
    ),
    "patches": (Patches(), (2, 3, 6, 6), {"input": 1, "patch": 1, "norm": 2, "head": 2}),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CASES))
def test_axes(name):
    model, shape, expected = CASES[name]
    found, notes = axes(model, torch.randn(shape), list(expected))
    assert found == expected
    assert not notes
