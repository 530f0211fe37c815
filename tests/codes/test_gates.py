"""Gates: their formulas, and how they are found."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import interactgraph as itg
from interactgraph import InteractGraphError
from interactgraph.codes import GATES


def network(function, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 9), function, nn.Linear(9, 7), nn.Linear(7, 2))


X = torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
PLAIN = {
    "relu": lambda u: (u > 0).float(),
    "leaky_relu": lambda u: (u > 0).float(),
    "gelu": lambda u: 0.5 * (1 + torch.erf(u / 2**0.5)),
    "gelu_tanh": lambda u: F.gelu(u, approximate="tanh") / u,
    "silu": lambda u: 1 / (1 + (-u).exp()),
    "sigmoid": lambda u: 1 / (1 + (-u).exp()),
    "softplus": lambda u: 1 / (1 + (-u).exp()),
}
MODULES = {
    "relu": nn.ReLU(inplace=True),
    "leaky_relu": nn.PReLU(),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU(approximate="tanh"),
    "silu": nn.SiLU(),
    "sigmoid": nn.Sigmoid(),
    "softplus": nn.Softplus(),
}


@pytest.mark.parametrize("layer", ["1", "0"])
@pytest.mark.parametrize("gate", list(GATES))
def test_codes_of_every_function(gate, layer):
    """Of the function's layer, and of the one before it."""
    model = network(MODULES[gate])
    codes = itg.spline_codes(model, X.split(15), layer, progress=False)
    with torch.no_grad():
        expected = PLAIN[gate](model[0](X))
    assert codes.gates == {layer: gate}
    assert (layer in codes.packed) is GATES[gate].hard
    torch.testing.assert_close(codes.matrix(), expected, atol=1e-5, rtol=0)
    assert getattr(MODULES["relu"], "inplace", None) is True  # as it was


class Functional(nn.Module):
    """No module of its own for either function; the second layer is a gated one."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.gate, self.c = (nn.Linear(5, 5) for _ in range(4))

    def forward(self, x):
        x = self.b(F.relu(self.a(x)))
        return self.c(F.silu(self.gate(x)) * x)


def test_functions_without_a_module():
    model = Functional()
    with torch.no_grad():
        u = model.a(X)
    for layer in ("a", "b.input"):
        codes = itg.spline_codes(model, X, layer, progress=False)
        assert codes.gates == {layer: "relu"}
        assert torch.equal(codes.matrix(), (u > 0).float())
    # What the function gives is multiplied before any module sees it: the gate has to be told.
    with pytest.raises(InteractGraphError, match=r"gates=\{'gate': 'relu'\}"):
        itg.spline_codes(model, X, "gate", progress=False)
    codes = itg.spline_codes(model, X, ["a", "gate"], gates={"gate": "silu"}, progress=False)
    with torch.no_grad():
        expected = model.gate(model.b(u.relu())).sigmoid()
    torch.testing.assert_close(codes.matrix("gate"), expected)
    assert list(codes.gates.items()) == [("a", "relu"), ("gate", "silu")]


@pytest.mark.parametrize(
    ("model", "layers", "gates", "match"),
    [
        (network(nn.Tanh()), "1", None, "layer '1' holds neither what an activation function"),
        (network(nn.ReLU()), "input", None, "layer 'input' holds neither"),
        (network(nn.ReLU()), ["0", "1"], None, "'0' and '1' have the same gates"),
        (network(nn.ReLU()), "0", {"0": "tanh"}, "choose one of relu, leaky_relu"),
        (network(nn.ReLU()), "0", {"2": "relu"}, "none of layers="),
        (network(nn.ReLU()), "7", None, "is not in the model"),
        (network(nn.ReLU()), [], None, "layers is empty"),
    ],
)
def test_bad_input(model, layers, gates, match):
    with pytest.raises(InteractGraphError, match=match):
        itg.spline_codes(model, X, layers, gates=gates, progress=False)
