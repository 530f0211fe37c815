"""Every strength by every engine and sampling scheme, against the slow reference."""

import networks
import numpy as np
import pytest
import reference
import torch

import interactgraph as itg

CASES = ("mlp", "transformer", "two_inputs")
STRENGTHS = ("rms", "mean_abs", "mean", "max")
EXACT = ("forward", "reverse", "auto")
DRAWN = [
    # sampling, engine, strengths it estimates
    ("importance", "forward", STRENGTHS),
    ("uniform", "forward", STRENGTHS),
    ("signs", "reverse", ("rms",)),
]
SEEDS = 60


def slow(case, nodes=2):
    a = []
    for batch in case.batches:
        activation, function = case.by_hand(batch)
        z = activation.detach().reshape(len(activation), -1, activation.shape[-1])

        def flat(z, shape=activation.shape, function=function):
            y = function(z.reshape(z.shape[0], *shape[1:]))
            return y.reshape(y.shape[0], -1, y.shape[-1])

        a.append(reference.attributions(flat, z, torch.zeros_like(z), nodes))
    return reference.strengths(a)


def run(case, **options):
    layers = [case.source, case.target]
    graph = itg.interaction_graph(
        case.model, case.batches, layers, n_steps=2, tolerance=None, progress=False, **options
    )
    return graph, layers


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("engine", EXACT)
@pytest.mark.parametrize("name", CASES)
def test_exact(name, engine, strength):
    case = networks.make(name)
    graph, layers = run(case, engine=engine, strengths=(strength,))
    closed = graph.metadata["plans"][0]["engine"] == "closed_form"
    values = slow(case, 60 if closed else 2)
    scale = np.abs(values[strength]).max()
    found = graph.weights(*layers).numpy()
    np.testing.assert_allclose(found, values[strength], rtol=0, atol=1e-10 * scale)


@pytest.mark.parametrize(("sampling", "engine", "strengths"), DRAWN)
@pytest.mark.parametrize("name", CASES)
def test_drawn(name, sampling, engine, strengths):
    """The mean over seeds is the reference's, within the spread over seeds; `max` is below it.

    Means by drawn features are completed by a ratio, whose bias is below the spread of one run.
    """
    case = networks.make(name)
    graphs = [
        run(case, engine=engine, strengths=strengths, sampling=sampling, sources=2, seed=seed)
        for seed in range(1000, 1000 + SEEDS)
    ]
    for graph, _ in graphs:
        assert graph.metadata["plans"][0]["method"] in ("sampled_columns", "rademacher_rows")
    for strength in strengths:
        exact = torch.from_numpy(slow(case)[strength])
        draws = torch.stack([graph.weights(*layers, strength) for graph, layers in graphs])
        assert_near(draws, exact, strength, sampling)


def assert_near(draws, exact, strength, sampling):
    """That runs `[seeds, i, j]` scatter around the exact strengths, or stay below a maximum."""
    if strength == "max":
        assert bool((draws <= exact * (1 + 1e-12)).all())
        assert float((draws.amax(0) / exact.clamp(min=1e-12))[exact > 1e-9].mean()) > 0.9
        return
    if strength == "rms":  # the mean of the squares is unbiased, its root is not
        draws, exact = draws.square(), exact.square()
    if sampling != "signs":
        off = (draws.mean(0) - exact).abs() / (draws.std(0) + 1e-9 * exact.abs().max())
        assert float(off.mean()) < 0.5
        return
    off = (draws.mean(0) - exact).abs() / (draws.std(0) / SEEDS**0.5 + 1e-9 * exact.abs().max())
    assert float(off.mean()) < 1.5
    assert float(off.max()) < 6
