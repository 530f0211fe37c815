"""Which samples use an edge, against all of A."""

import networks
import pytest
import reference
import torch
from torch import nn

import interactgraph as itg
from interactgraph import InteractGraphError


@pytest.mark.parametrize("method", ["integrated_gradients", "gradient"])
@pytest.mark.parametrize("name", ["mlp", "transformer", "two_inputs"])
def test_against_all_of_a(name, method):
    case = networks.make(name)
    layers = [case.source, case.target]
    options = {
        "n_steps": 3,
        "tolerance": None,
        "method": method,
        "strengths": ("max", "rms"),
        "progress": False,
    }
    graph = itg.interaction_graph(case.model, case.batches, layers, **options).prune(top_k=7)
    found = itg.top_samples(graph, case.model, case.batches, k=3, threshold=0.05, progress=False)[
        tuple(layers)
    ]
    parts = []
    for batch in case.batches:
        activation, function = case.by_hand(batch)
        z = activation.detach().reshape(len(activation), -1, activation.shape[-1])

        def flat(z, shape=activation.shape, function=function):
            y = function(z.reshape(z.shape[0], *shape[1:]))
            return y.reshape(y.shape[0], -1, y.shape[-1])

        nodes = None if method == "gradient" else 3
        a = torch.as_tensor(reference.attributions(flat, z, torch.zeros_like(z), nodes))
        parts.append(a.abs().amax(1))
    size = torch.cat(parts)  # [b, i, j]
    assert len(found.source) == 7
    for e in range(7):
        values = size[:, found.target[e], found.source[e]]
        top = values.topk(3)
        torch.testing.assert_close(found.values[e], top.values, rtol=1e-9, atol=1e-13)
        assert found.samples[e].tolist() == top.indices.tolist()
        assert float(found.share[e]) == pytest.approx(float((values >= 0.05).double().mean()))
        if graph.metadata["plans"][0]["engine"] == "forward":
            strongest = graph.weights(*layers, "max")[found.target[e], found.source[e]]
            assert float(found.values[e, 0]) == pytest.approx(float(strongest))


def test_connection_of_a_single_sample_is_named():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU()).double()
    x = torch.rand(300, 5, dtype=torch.float64)
    x[:, 3] = 0
    x[217, 3] = 5
    graph = itg.interaction_graph(
        model, x.split(64), ["input", "0"], strengths=("rms", "max"), progress=False
    )
    by_max = graph.prune(threshold=0.5, strength="max")
    found = itg.top_samples(by_max, model, x.split(64), k=2, threshold=0.5, progress=False)
    rows = found["input", "0"]
    rare = rows.source == 3
    assert rare.any()
    assert (rows.samples[rare, 0] == 217).all()
    assert (rows.share[rare] == 1 / 300).all()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"k": 0}, "k=0"),
        ({"method": "ablation"}, "'ablation'"),
        ({"baseline": torch.ones(6)}, "give baseline="),
    ],
)
def test_bad_input(change, match):
    case = networks.make("mlp")
    k = change.pop("k", 5)
    graph = itg.interaction_graph(
        case.model, case.batches, ["input", "4"], progress=False, **change
    )
    with pytest.raises(InteractGraphError, match=match):
        itg.top_samples(graph, case.model, case.batches, k=k, progress=False)


def test_the_mask_of_the_graph_is_used():
    torch.manual_seed(0)
    model = networks.make("transformer").model
    x = torch.randn(4, 5, 4, dtype=torch.float64)
    keep = torch.arange(5).expand(4, 5) < 1
    options = {"forward": lambda model, batch: model(batch["x"]), "progress": False}
    batch, layers = {"x": x, "keep": keep}, ["0", "1"]
    graph = itg.interaction_graph(model, [batch], layers, position_mask="keep", **options)
    graph = graph.prune(top_k=4)

    def values(graph, **more):
        return itg.top_samples(graph, model, [batch], k=2, **more, **options)["0", "1"].values

    assert torch.equal(values(graph), values(graph, position_mask="keep"))
    everywhere = values(graph, position_mask=lambda batch: torch.ones(4, 5))
    assert not torch.equal(values(graph), everywhere)
    by_function = itg.interaction_graph(
        model, [batch], layers, position_mask=lambda batch: batch["keep"], **options
    )
    with pytest.raises(InteractGraphError, match="function as position_mask"):
        values(by_function.prune(top_k=4))


def test_fewer_samples_than_asked_for():
    case = networks.make("mlp")
    graph = itg.interaction_graph(case.model, case.batches, ["input", "4"], progress=False)
    found = itg.top_samples(graph, case.model, case.batches, k=9, progress=False)
    assert (found["input", "4"].samples[:, 6:] == -1).all()
