"""Which method is taken, and who comes next where it does not hold."""

import networks
import torch
from torch import nn

import interactgraph as itg
from interactgraph.attribution.methods import METHODS


def plans(model, data, layers, **options):
    graph = itg.interaction_graph(model, data, layers, progress=False, **options)
    return graph.metadata["plans"][0], graph


def test_every_method_has_a_name_and_serves_something():
    names = [(method.name, method.definitions) for method in METHODS]
    assert len(set(names)) == len(names)
    assert all(definitions for _, definitions in names)


def test_the_cheapest_that_can_serve():
    case = networks.make("transformer")
    plan, _ = plans(case.model, case.batches, [case.source, case.target])
    assert plan["method"] == min(plan["costs"], key=plan["costs"].get).split("(")[1][:-1]
    assert "no closed form: native_layer_norm" in plan["reason"]
    plan, _ = plans(case.model, case.batches, ["1.ln2", "1.down"])
    assert plan["method"] == "two_maps"
    plan, _ = plans(case.model, case.batches, ["1.up", "1.act"])
    assert plan["method"] == "affine"
    few = nn.Sequential(nn.Linear(20, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    plan, _ = plans(few, [torch.randn(9, 20)], ["input", "2"])
    assert plan["method"] == "rows"


def test_one_at_a_time_where_many_differ():
    """A function that works in place on a view gives other numbers under vmap, or none."""

    class Items(nn.Module):
        def forward(self, x):
            return x * float(x.detach().sum() > -1e9) + torch.stack([x[:, 0].sin()] * 3, 1)

    x = torch.randn(5, 3, dtype=torch.float64)
    found, graph = plans(
        Items(), [x], ["input", "output"], strengths=("mean",), n_steps=20, tolerance=None
    )
    expected = torch.eye(3).double() * x.mean(0)
    expected[:, 0] += x[:, 0].sin().mean()
    torch.testing.assert_close(graph.weights("input", "output"), expected)
    assert found["engine"] in ("forward", "reverse")
