"""Perturbation methods against loops by hand, and against what is known of them."""

import networks
import numpy as np
import pytest
import reference
import torch
from captum.attr import FeatureAblation, IntegratedGradients, Saliency

import interactgraph as itg
from interactgraph import InteractGraphError

ALL = ("rms", "mean_abs", "mean", "max")


def run(case, **options):
    return itg.interaction_graph(
        case.model, case.batches, [case.source, case.target], strengths=ALL, progress=False,
        **options,
    )  # fmt: skip


def by_hand(case):
    """A of ablation: one feature at a time at zero, at all positions."""
    a = []
    for batch in case.batches:
        z, function = case.by_hand(batch)
        y = function(z)
        columns = []
        for j in range(z.shape[case.feature_dim]):
            without = z.clone()
            without.select(case.feature_dim, j).zero_()
            effect = (y - function(without)).detach()
            columns.append(effect.reshape(len(y), -1, y.shape[-1]))
        a.append(torch.stack(columns, -1))
    return reference.strengths(a)


@pytest.mark.parametrize("method", ["ablation", FeatureAblation])
@pytest.mark.parametrize("name", list(networks.CASES))
def test_ablation(name, method):
    case = networks.make(name)
    if method is FeatureAblation and name in ("convolutional", "transformer"):
        pytest.skip("captum ablates every position of a feature on its own")
    graph = run(case, method=method)
    values = by_hand(case)
    for strength in ALL:
        found = graph.weights(case.source, case.target, strength).numpy()
        np.testing.assert_allclose(found, values[strength], atol=1e-12)
    assert graph.metadata["plans"][0]["engine"] == "perturbation"


@pytest.mark.parametrize("name", ["mlp", "transformer", "two_inputs"])
def test_shapley_is_complete_and_converges(name):
    case = networks.make(name)
    few, many = (run(case, method="shapley", n_steps=n, tolerance=None) for n in (1, 40))
    pair = (case.source, case.target)
    for graph in (few, many):
        assert graph.completeness[pair] < 1e-12
    again = run(case, method="shapley", n_steps=1, tolerance=None)
    assert torch.equal(few.weights(*pair), again.weights(*pair))


def test_shapley_of_two_features_by_hand():
    class Product(torch.nn.Module):
        def forward(self, x):
            return (x[:, :1] * x[:, 1:]) + 2 * x[:, :1]

    x = torch.tensor([[3.0, 5.0]], dtype=torch.float64)
    graph = itg.interaction_graph(
        Product(), [x], ["input", "output"], method="shapley", n_steps=4000, strengths=("mean",),
        progress=False,
    )  # fmt: skip
    # The product is shared equally, the rest belongs to the first feature.
    expected = torch.tensor([[7.5 + 6, 7.5]], dtype=torch.float64)
    torch.testing.assert_close(graph.weights("input", "output"), expected, rtol=0.05, atol=0)


def test_all_methods_agree_on_a_linear_network():
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 3).double()
    x = torch.randn(8, 5, dtype=torch.float64)
    weights = [
        itg.interaction_graph(
            model, [x], ["input", "output"], method=method, n_steps=2, progress=False
        ).weights("input", "output")
        for method in ("integrated_gradients", "gradient", "ablation", "shapley",
                       FeatureAblation, IntegratedGradients)
    ]  # fmt: skip
    for other in weights[1:]:
        torch.testing.assert_close(other, weights[0])


def test_captum_class_that_cannot_work_here():
    case = networks.make("two_inputs")
    with pytest.raises(InteractGraphError, match=r"captum's IntegratedGradients cannot work"):
        run(case, method=IntegratedGradients)


@pytest.mark.parametrize("options", [{"engine": "forward"}, {"sources": 2}, {"tolerance": 0.1}])
def test_options_that_do_not_apply(options):
    case = networks.make("mlp")
    with pytest.raises(InteractGraphError, match="do not apply"):
        run(case, method=Saliency, **options)
