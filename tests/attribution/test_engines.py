"""Every way to compute A against the slow reference, in float64."""

import networks
import numpy as np
import pytest
import reference
import torch
from torch import nn

import interactgraph as itg
from interactgraph import InteractGraphError

ALL = ("rms", "mean_abs", "mean", "max")


def expected(case, nodes, baseline=None):
    """Strengths by the reference, through the function written by hand."""
    a = []
    for batch in case.batches:
        activation, function = case.by_hand(batch)
        last = activation.movedim(case.feature_dim, -1)
        positions = last.shape[1:-1]

        def flat(z, positions=positions, function=function):
            full = z.reshape(z.shape[0], *positions, z.shape[-1]).movedim(-1, case.feature_dim)
            y = function(full)
            return y.reshape(y.shape[0], -1, y.shape[-1])

        z = last.reshape(len(last), -1, last.shape[-1]).detach()
        z0 = torch.zeros_like(z) if baseline is None else baseline.expand_as(z)
        a.append(reference.attributions(flat, z, z0, nodes))
    return reference.strengths(a)


def assert_agrees(graph, case, values, tolerance=1e-10):
    for name in ALL:
        found = graph.weights(case.source, case.target, name).numpy()
        np.testing.assert_allclose(
            found, values[name], rtol=0, atol=tolerance * np.abs(values[name]).max()
        )
        if name != "max":
            found = graph.standard_error(case.source, case.target, name).numpy()
            error = values[name + "_error"]
            np.testing.assert_allclose(found, error, rtol=0, atol=1e-8 * np.abs(error).max())


@pytest.mark.parametrize("engine", ["forward", "reverse", "auto"])
@pytest.mark.parametrize("name", list(networks.CASES))
def test_agrees_with_reference(name, engine):
    case = networks.make(name)
    graph = itg.interaction_graph(
        case.model, case.batches, [case.source, case.target],
        strengths=ALL, engine=engine, n_steps=3, tolerance=None, progress=False,
    )  # fmt: skip
    plan = graph.metadata["plans"][0]
    assert engine in ("auto", plan["engine"])
    nodes = 60 if plan["engine"] == "closed_form" else 3
    assert_agrees(graph, case, expected(case, nodes))


@pytest.mark.parametrize("engine", ["forward", "reverse", "auto"])
@pytest.mark.parametrize("name", list(networks.CASES))
def test_gradient_method(name, engine):
    case = networks.make(name)
    graph = itg.interaction_graph(
        case.model, case.batches, [case.source, case.target],
        strengths=ALL, engine=engine, method="gradient", progress=False,
    )  # fmt: skip
    assert_agrees(graph, case, expected(case, None))


@pytest.mark.parametrize("name", list(networks.CASES))
def test_small_memory_budget_changes_nothing(name, monkeypatch):
    case = networks.make(name)
    values = expected(case, 3)
    for engine in ("forward", "reverse"):
        graph = itg.interaction_graph(
            case.model, case.batches, [case.source, case.target], strengths=ALL,
            engine=engine, n_steps=3, tolerance=None, memory_budget=6000, progress=False,
        )  # fmt: skip
        assert_agrees(graph, case, values)


def test_completeness_is_the_error_of_the_quadrature():
    case = networks.make("transformer")
    residuals = []
    baseline = torch.linspace(-1, 1, 6, dtype=torch.float64)
    for n_steps in (1, 3, 20):
        graph = itg.interaction_graph(
            case.model, case.batches, [case.source, case.target], n_steps=n_steps, tolerance=None,
            baseline=baseline, progress=False,
        )  # fmt: skip
        residuals.append(graph.completeness[case.source, case.target])
    assert residuals[0] > residuals[1] > residuals[2]
    assert residuals[2] < 1e-4

    # By hand: sum_j A - (y(z) - y(z0)), root mean square relative to the change.
    numerator = denominator = 0.0
    for batch in case.batches:
        z, function = case.by_hand(batch)
        a = reference.attributions(function, z.detach(), baseline.expand_as(z), 3)
        change = (function(z) - function(baseline.expand_as(z))).detach()
        numerator += float(((a.sum(-1) - change) ** 2).sum())
        denominator += float((change**2).sum())
    assert residuals[1] == pytest.approx((numerator / denominator) ** 0.5, rel=1e-9)


def test_linear_network_has_edges_of_weight_times_mean_activation():
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    x = torch.randn(50, 4, dtype=torch.float64)
    graph = itg.interaction_graph(
        model, [x], ["input", "output"], strengths=("mean",), progress=False
    )
    torch.testing.assert_close(
        graph.weights("input", "output"), model.weight.detach() * x.mean(0), rtol=1e-12, atol=1e-14
    )


def test_position_mask_leaves_padding_out():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), networks.Block(6)).double()
    x = torch.randn(4, 5, 4, dtype=torch.float64)
    keep = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]).bool()
    data = [(x[:2], keep[:2]), (x[2:], keep[2:])]
    values = {}
    for engine in ("forward", "reverse"):
        graph = itg.interaction_graph(
            model, data, ["0", "1"], strengths=ALL, engine=engine, n_steps=3, tolerance=None,
            position_mask=lambda batch: batch[1], progress=False,
        )  # fmt: skip
        a, masks = [], []
        for part, mask in data:
            z = model[0](part).detach()
            z0 = torch.where(mask[..., None], torch.zeros_like(z), z)
            a.append(reference.attributions(model[1], z, z0, 3))
            masks.append(mask)
        values = reference.strengths(a, masks)
        for name in ALL:
            found = graph.weights("0", "1", name).numpy()
            np.testing.assert_allclose(found, values[name], atol=1e-12)
            if name != "max":
                error = graph.standard_error("0", "1", name).numpy()
                np.testing.assert_allclose(error, values[name + "_error"], atol=1e-12)


def test_position_mask_in_closed_form():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 3)).double()
    x = torch.randn(5, 4, 4, dtype=torch.float64)
    keep = torch.rand(5, 4) > 0.4
    keep[:, 0] = True
    data = [(x[:2], keep[:2]), (x[2:], keep[2:])]
    for layers in (["0", "3"], ["0", "2"], ["0", "1"]):
        tail = model[1 : int(layers[1]) + 1]
        graph = itg.interaction_graph(
            model, data, layers, strengths=ALL, engine="closed_form",
            position_mask=lambda batch: batch[1], progress=False,
        )  # fmt: skip
        a, masks = [], []
        for part, mask in data:
            z = model[0](part).detach()
            z0 = torch.where(mask[..., None], torch.zeros_like(z), z)
            a.append(reference.attributions(tail, z, z0, 40))
            masks.append(mask)
        values = reference.strengths(a, masks)
        for name in ALL:
            found = graph.weights(*layers, name).numpy()
            np.testing.assert_allclose(found, values[name], rtol=1e-9, atol=1e-12)
            if name != "max":
                error = graph.standard_error(*layers, name).numpy()
                np.testing.assert_allclose(error, values[name + "_error"], rtol=1e-8, atol=1e-11)


def test_sequences_of_different_length_count_position_by_position():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3)).double()
    data = [torch.randn(3, length, 4, dtype=torch.float64) for length in (5, 2, 4)]
    for layers in (["0", "1"], ["0", "2"], ["1", "2"], ["input", "output"]):
        for engine in ("auto", "forward", "reverse"):
            graph = itg.interaction_graph(
                model,
                data,
                layers,
                strengths=ALL,
                engine=engine,
                n_steps=30,
                tolerance=None,
                progress=False,
            )
            start = 0 if layers[0] == "input" else int(layers[0]) + 1
            stop = 3 if layers[1] == "output" else int(layers[1]) + 1
            a = []
            for x in data:
                z = model[:start](x).detach()
                function = model[start:stop]
                a.append(reference.attributions(function, z, torch.zeros_like(z), 30))
            values = reference.strengths(a)
            for name in ALL:
                found = graph.weights(*layers, name).numpy()
                np.testing.assert_allclose(found, values[name], rtol=1e-8, atol=1e-11)
                if name != "max":
                    error = graph.standard_error(*layers, name).numpy()
                    np.testing.assert_allclose(
                        error, values[name + "_error"], rtol=1e-7, atol=1e-10
                    )


def test_closed_form_asked_for_where_there_is_none():
    case = networks.make("transformer")
    with pytest.raises(InteractGraphError, match=r"closed_form.*native_layer_norm"):
        itg.interaction_graph(
            case.model, case.batches, [case.source, case.target], engine="closed_form",
            progress=False,
        )  # fmt: skip
