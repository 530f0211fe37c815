"""The closed form: recognised in users' own modules, equal to captum, exact for any baseline."""

import networks
import pytest
import reference
import torch
from captum.attr import NeuronIntegratedGradients
from torch import nn
from torch.nn import functional as F

import interactgraph as itg
from interactgraph.calculus.structure import NoClosedForm, read_structure
from interactgraph.calculus.tape import NoTape, record

ACTIVATIONS = {
    "relu": nn.ReLU(),
    "gelu": nn.GELU(),
    "silu": nn.SiLU(),
    "tanh": nn.Tanh(),
    "sigmoid": nn.Sigmoid(),
}


def closed(model, x, layers, **options):
    graph = itg.interaction_graph(
        model, [x], layers, engine="closed_form", progress=False, **options
    )
    assert graph.metadata["plans"][0]["engine"] == "closed_form"
    return graph


@pytest.mark.parametrize("baseline", ["zero", "shifted", "touching"])
@pytest.mark.parametrize(
    "activation",
    [
        # Where the path crosses a kink captum needs many steps.
        pytest.param(name, marks=pytest.mark.slow) if name == "relu" else name
        for name in ACTIVATIONS
    ],
)
@pytest.mark.parametrize("depth", ["pointwise", "between"])
def test_equals_captum(activation, baseline, depth):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), ACTIVATIONS[activation], nn.Linear(16, 4))
    x = torch.randn(15, 8)
    z0 = torch.zeros(8) if baseline == "zero" else torch.randn(8)
    if baseline == "touching":
        # Samples that share the baseline's value nearly everywhere: pre-activations that do not
        # move at all, or very little, along the path.
        x[:5] = z0
        x[5:10] = z0 + 1e-6 * torch.randn(5, 8)
        model[0].weight.data[:4] = 0
    target = "1" if depth == "pointwise" else "2"
    graph = closed(model, x, ["input", target], strengths=("mean", "rms"), baseline=z0)
    assert graph.completeness["input", target] < 1e-5

    module = model[int(target)]
    peer = NeuronIntegratedGradients(model.double(), module)
    # Where the path crosses a kink captum's error falls like 1 / n_steps only.
    rule, targets = {"n_steps": 512}, 4
    if activation == "relu":
        rule, targets = {"n_steps": 20_000, "method": "riemann_middle"}, 2  # seconds for each
    for i in range(targets):
        a = peer.attribute(x.double(), i, baselines=z0.double()[None], **rule)
        scale = graph.weights("input", target, "rms").max()
        for name, value in (("mean", a.mean(0)), ("rms", a.square().mean(0).sqrt())):
            found = graph.weights("input", target, name)[i]
            assert float((found - value).abs().max()) <= 1e-4 * float(scale)


class OwnGelu(nn.Module):
    def forward(self, x):
        return 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * x**3)))


class OwnSwish(nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(1.7))

    def forward(self, x):
        return x * torch.sigmoid(self.slope * x)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 9), nn.Linear(9, 6)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


OWN = {
    "own gelu": lambda: nn.Sequential(nn.Linear(6, 5), OwnGelu(), nn.Linear(5, 3)),
    "own swish": lambda: nn.Sequential(nn.Linear(6, 5), OwnSwish()),
    "residual": Residual,
    "prelu": lambda: nn.Sequential(nn.Linear(6, 5), nn.PReLU(5), nn.Linear(5, 3)),
    "in place": lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 3)),
    "batch norm": lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.SiLU()),
    "pointwise": lambda: nn.Sequential(nn.Softplus(), nn.Linear(6, 3)),
    "affine": lambda: nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)),
    "clamped": lambda: nn.Sequential(nn.Linear(6, 5), nn.Hardtanh(), nn.Linear(5, 4)),
}


@pytest.mark.parametrize("method", ["integrated_gradients", "gradient"])
@pytest.mark.parametrize("name", list(OWN))
def test_serves_own_modules(name, method):
    torch.manual_seed(0)
    model = OWN[name]().double().eval()
    x = torch.randn(9, 6, dtype=torch.float64)
    z0 = torch.randn(6, dtype=torch.float64)
    graph = closed(
        model, x, ["input", "output"], strengths=("rms", "mean_abs", "mean", "max"),
        baseline=z0, method=method,
    )  # fmt: skip
    nodes = 400 if method == "integrated_gradients" else None
    a = reference.attributions(
        lambda z: model(z[:, 0].clone())[:, None], x[:, None], z0.expand(9, 1, 6), nodes
    )
    values = reference.strengths([a])
    # Where the path crosses a kink the quadrature of the reference is only good to 1 / nodes.
    kinked = name in ("residual", "prelu", "in place", "clamped")
    tolerance = 1 / nodes if nodes and kinked else 1e-10
    for strength in graph.strengths:
        found = graph.weights("input", "output", strength).numpy()
        assert abs(found - values[strength]).max() <= tolerance * abs(values[strength]).max()


def test_own_module_by_passes_where_positions_mix():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 2), nn.SiLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 3)
    )
    model = model.double()
    x = torch.randn(4, 2, 5, 5, dtype=torch.float64)
    graph = closed(model, x, ["input", "output"], strengths=("mean",))
    assert graph.metadata["plans"][0]["method"] in ("closed_columns", "closed_rows")
    z = x.movedim(1, -1).flatten(1, 2)
    a = reference.attributions(
        lambda z: model(z.unflatten(1, (5, 5)).movedim(-1, 1))[:, None], z, torch.zeros_like(z), 40
    )
    torch.testing.assert_close(graph.weights("input", "output"), a.mean((0, 1)), rtol=1e-9, atol=0)


OBSTACLES = {
    "native_layer_norm": lambda x: F.layer_norm(x, (6,)),
    "_softmax": lambda x: x.softmax(-1),
    "several pointwise": lambda x: torch.relu(x @ torch.ones(6, 6)) + torch.tanh(x),
    "mul": lambda x: torch.relu(x) * x.mean(-1, keepdim=True),
    "does not depend": lambda x: torch.ones(2, 1, 3),
    "cannot be recorded": lambda x: x[99],
}


@pytest.mark.parametrize("reason", list(OBSTACLES))
def test_says_what_is_in_the_way(reason):
    with pytest.raises((NoClosedForm, NoTape), match=reason):
        read_structure(record(OBSTACLES[reason], [torch.ones(2, 1, 6)]))


@pytest.mark.parametrize("sources", [None, 2])
def test_wrong_structure_is_caught_and_replaced(sources):
    """A branch that Python takes on later batches makes the recorded structure wrong there.

    What was to be exact stays so, also where source features might have been drawn.
    """

    class Moody(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x, kind):
            y = self.linear(x)
            return torch.tanh(y) if kind.tolist()[0] else torch.sin(y)  # read unseen

    torch.manual_seed(0)
    model = Moody().double()
    x = torch.rand(6, 4, dtype=torch.float64)
    data = [{"x": x, "kind": torch.ones(6)}, {"x": -x, "kind": torch.zeros(6)}]
    graph = itg.interaction_graph(
        model,
        data,
        ["input", "output"],
        strengths=("mean",),
        n_steps=30,
        tolerance=None,
        sources=sources,
        progress=False,
    )
    assert graph.metadata["plans"][0]["engine"] == "closed_form"
    assert any("closed form fails" in note for note in graph.metadata["notes"])
    w, b = model.linear.weight.detach(), model.linear.bias.detach()
    total = 0
    for batch, phi in ((x, torch.tanh), (-x, torch.sin)):
        a = reference.attributions(
            lambda z, phi=phi: phi(z @ w.T + b), batch[:, None], torch.zeros(6, 1, 4).double(), 30
        )
        total = total + a.mean((0, 1)) / 2
    torch.testing.assert_close(graph.weights("input", "output"), total, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["integrated_gradients", "gradient"])
def test_wrong_structure_is_an_error_where_the_closed_form_was_asked_for(method):
    class Scaled(nn.Module):
        def forward(self, x, gate):
            return x * gate.max().tolist()  # read unseen

    x = torch.rand(6, 4, dtype=torch.float64)
    data = [{"x": x, "gate": x}, {"x": x, "gate": 3 * x}]
    with pytest.raises(itg.InteractGraphError, match="does not hold on every batch: residual"):
        itg.interaction_graph(
            Scaled(), data, ["input", "output"], engine="closed_form", method=method,
            progress=False,
        )  # fmt: skip


def test_two_maps_on_a_transformers_feed_forward_part():
    case = networks.make("transformer")
    model = case.model
    graph = itg.interaction_graph(
        model, case.batches, ["1.ln2", "1.down"], strengths=("rms", "max"), progress=False
    )
    assert graph.metadata["plans"][0]["method"] == "two_maps"
    a = []
    for batch in case.batches:
        h = model[0](batch)
        block = model[1]
        h = block.ln2(h + block.attention(block.ln1(h))).detach()
        a.append(
            reference.attributions(
                lambda z, b=block: b.down(b.act(b.up(z))), h, torch.zeros_like(h), 40
            )
        )
    values = reference.strengths(a)
    for name in ("rms", "max"):
        found = graph.weights("1.ln2", "1.down", name).numpy()
        assert abs(found - values[name]).max() <= 1e-10 * values[name].max()
