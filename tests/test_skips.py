"""skip="remove": what the layers between source and target add to it, against plain autograd."""

import pytest
import reference
import torch
from torch import nn

import interactgraph as itg
from interactgraph import InputError
from interactgraph.features import PCA, Dictionary

SIZE, POSITIONS = 5, 3


class Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(SIZE), nn.Sequential(
            nn.Linear(SIZE, 8), nn.GELU(), nn.Linear(8, SIZE)
        )  # fmt: skip

    def added(self, x):
        mixed = torch.softmax(x @ x.mT, -1) @ x / 3
        return mixed + self.mlp(self.norm(x))

    def forward(self, x):
        return x + self.added(x)


def case():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, SIZE), Block(), Block()).double()
    return model, torch.randn(6, POSITIONS, 4, dtype=torch.float64).split(4)


def run(model, data, layers, **options):
    options = {"strengths": ("rms", "mean"), "tolerance": None, "n_steps": 6} | options
    return itg.interaction_graph(model, data, layers, progress=False, **options)


@pytest.mark.parametrize("engine", ["auto", "forward", "reverse"])
def test_graph_is_that_of_what_is_added(engine):
    model, data = case()
    graph = run(model, data, ["0", "1", "2"], skip="remove", engine=engine)
    for layer in (0, 1):
        parts = []
        for batch in data:
            z = model[: layer + 1](batch).detach()
            function = model[layer + 1].added
            parts.append(reference.attributions(function, z, torch.zeros_like(z), 6))
        expected = reference.strengths(parts)
        for name in ("rms", "mean"):
            found = graph.weights(str(layer), str(layer + 1), name)
            assert torch.allclose(found, torch.tensor(expected[name]), atol=1e-12)
    assert graph.metadata["skip"] == "remove"


def test_mean_is_that_of_the_whole_without_the_identity():
    model, data = case()
    graphs = [run(model, data, ["0", "1"], features=PCA(), skip=s) for s in ("keep", "remove")]
    whole, added = (graph.weights("0", "1", "mean") for graph in graphs)
    source, target = (graphs[0].features[layer] for layer in ("0", "1"))
    passed = target.encoder @ source.decoder
    z = torch.cat([source.encode(model[:1](batch)) for batch in data]).flatten(0, 1)
    assert torch.allclose(whole - added, passed * z.mean(0), atol=1e-10)


def test_defaults_complete_and_closed_forms_hold():
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(SIZE, 8), nn.ReLU(), nn.Linear(8, SIZE))
    model = nn.Sequential(nn.Linear(4, SIZE), Residual(mlp)).double()
    data = torch.randn(32, 4, dtype=torch.float64).split(16)
    graph = itg.interaction_graph(model, data, ["0", "1"], skip="remove", progress=False)
    assert graph.metadata["plans"][0]["engine"] == "closed_form"
    assert graph.completeness["0", "1"] < 1e-10
    direct = itg.interaction_graph(
        nn.Sequential(model[0], mlp).double(), data, ["0", "1"], progress=False
    )
    assert torch.allclose(graph.weights("0", "1"), direct.weights("0", "1"))


def test_needs_one_shape_and_linear_targets():
    model, data = case()
    with pytest.raises(InputError, match=r"skip='remove' takes .* shapes \(4, 3, 4\) and"):
        run(model, data, ["input", "1"], skip="remove")
    with pytest.raises(InputError, match="no linear function of the activation"):
        run(model, data, ["0", "1"], skip="remove", features={"1": Dictionary.random(SIZE, 9)})
    run(model, data, ["0", "1"], skip="remove", features={"0": Dictionary.random(SIZE, 9)})
    with pytest.raises(InputError, match="skip"):
        run(model, data, ["0", "1"], skip="no")
