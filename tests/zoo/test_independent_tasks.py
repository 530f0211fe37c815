"""Tasks that have nothing in common: data, training, what is known of hidden units."""

import numpy as np
import pytest
import torch

import interactgraph as itg
from interactgraph.zoo.independent_tasks import task_data


def test_what_comes_back():
    net = itg.zoo.independent_tasks(3, n_tasks=3, widths=(24, 20), steps=400, n_samples=200)
    assert net.layers == ["input", "1", "3", "4"]
    assert net.data.shape == (200, 12)
    assert net.targets.shape == (200, 6)
    assert [len(net.truth[layer]) for layer in net.layers] == [12, 24, 20, 6]
    assert np.bincount(net.truth["input"]).tolist() == [4, 4, 4]
    assert np.bincount(net.truth["4"]).tolist() == [2, 2, 2]
    with torch.no_grad():
        missed = (net.model(net.data) - net.targets).square().mean()
    spread = (net.targets - net.targets.mean(0)).square().mean()
    assert float(missed / spread) == pytest.approx(net.unexplained, rel=1e-5)
    assert net.unexplained < 0.7
    again = itg.zoo.independent_tasks(3, n_tasks=3, widths=(24, 20), steps=400, n_samples=200)
    assert torch.equal(net.model[0].weight, again.model[0].weight)
    other = itg.zoo.independent_tasks(4, n_tasks=3, widths=(24, 20), steps=400, n_samples=200)
    assert not torch.equal(net.model[0].weight, other.model[0].weight)


def test_outputs_depend_on_the_inputs_of_their_own_task():
    net = itg.zoo.independent_tasks(1, n_tasks=2, widths=(8,), steps=1, n_samples=64)
    x, y, task_of_output = task_data(1, 2, 64, part=2)
    assert torch.equal(x, net.data)
    for task in (0, 1):
        own = torch.from_numpy(net.truth["input"] == task)
        # Least squares on powers of the inputs of a task explains its own outputs, and no others.
        of = x[:, own]
        terms = torch.cat([of, of**2, of**3, torch.ones(len(x), 1)], 1)
        fitted = terms @ torch.linalg.lstsq(terms, y).solution
        left = (y - fitted).square().mean(0) / y.var(0)
        for output, module in enumerate(task_of_output):
            assert (float(left[output]) < 0.45) == (module == task), (left, task_of_output)


def test_a_hidden_unit_is_of_the_task_that_needs_it():
    net = itg.zoo.independent_tasks(0, steps=800)
    hidden = torch.relu(net.model[0](net.data)).detach()
    task_of_output = torch.from_numpy(net.truth["4"])
    for unit in (net.truth["1"] == 0).nonzero()[0][:3]:
        fixed = hidden.clone()
        fixed[:, unit] = fixed[:, unit].mean()
        with torch.no_grad():
            moved = (net.model[2:](fixed) - net.model(net.data)).square().mean(0)
        assert moved[task_of_output == 0].mean() > moved[task_of_output == 1].mean()


def test_its_graph_has_its_tasks():
    net = itg.zoo.independent_tasks(0)
    graph = itg.interaction_graph(net.model, net.data[:256], net.layers, progress=False)
    found = itg.find_modules(graph, significance=False)
    truth = np.concatenate([net.truth[layer] for layer in net.layers])
    known = truth >= 0
    assert itg.communities.adjusted_rand_index(truth[known], found.labels[known]) > 0.7


def test_targets_do_not_depend_on_how_many_there_are():
    x, few, _ = task_data(0, 2, 400, 2)
    other, many, _ = task_data(0, 2, 500, 2)
    assert torch.equal(x[:390], other[:390])  # the same inputs, but for how blocks end
    torch.testing.assert_close(few[:390], many[:390])


@pytest.mark.parametrize(
    "options",
    [
        {"n_tasks": 0}, {"widths": ()}, {"widths": 5}, {"widths": (0,)}, {"n_samples": 0},
        {"l1": -1}, {"l1": float("nan")}, {"weight_decay": -1.0},
    ],
)  # fmt: skip
def test_bad_options(options):
    with pytest.raises(itg.InteractGraphError):
        itg.zoo.independent_tasks(**options)
