import numpy as np
import pytest
import torch
from communities.planted_graphs import graph_of, planted

from interactgraph.communities.network import Block, Network
from interactgraph.communities.noise_aware import (
    concentrate,
    effective_share,
    named_weighting,
    shrink,
)
from interactgraph.communities.weighting import FORMULAS


def slow(name: str, w: np.ndarray) -> np.ndarray:
    """Each weighting entry by entry, from its formula."""
    result = np.zeros_like(w)
    root = np.sqrt(w)
    powered = w**1.5
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            x, v = w[i, j], root[i, j]
            if x == 0:
                continue
            t, s = w[i].sum(), w[:, j].sum()
            tv, sv = root[i].sum(), root[:, j].sum()
            e = tv * sv / root.sum()
            t_more = powered[i].sum() + 0.3 * powered.sum(1).mean()
            s_more = powered[:, j].sum() + 0.3 * powered.sum(0).mean()
            result[i, j] = {
                "raw": x,
                "square_root": v,
                "logarithmic": max(0, np.log10(x / np.quantile(w[w > 0], 0.5, method="lower"))),
                "strength_normalised": x / np.sqrt(s * t),
                "root_normalised": v / np.sqrt(sv * tv),
                "pmi": max(0, np.log(x * w.sum() / (s * t))),
                "information": max(0, np.log(v / (1.25 * e))) * e**0.35,
                "sharpened": x**1.5 / np.sqrt(s_more * t_more),
            }[name]
    return result


@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name):
    w = np.random.default_rng(0).lognormal(size=(6, 9))
    w[2, 3] = w[:, 5] = 0
    got = FORMULAS[name].block(Block(0, 1, torch.as_tensor(w)))
    np.testing.assert_allclose(got.numpy(), slow(name, w), rtol=1e-12, atol=1e-15)


def test_effective_share():
    assert effective_share(Block(0, 1, torch.ones(4, 6))) == pytest.approx(1)
    one = torch.zeros(5, 10, dtype=torch.float64)
    one[2, 3] = 7.0
    assert effective_share(Block(0, 1, one)) == pytest.approx((1 / 5 + 1 / 10) / 2)


def test_errors_shrink_what_they_explain():
    weight = torch.tensor([[1.0, 0.1, 0.0]], dtype=torch.float64)
    error = torch.tensor([[0.5, 0.2, 0.0]], dtype=torch.float64)
    got = shrink(Block(0, 1, weight, error))
    torch.testing.assert_close(got, torch.tensor([[0.75, 0.0, 0.0]], dtype=torch.float64))
    assert shrink(Block(0, 1, weight)) is weight


def test_amplitudes_and_squares_of_a_concentrated_graph_weigh_alike():
    """Twice the spread on a logarithmic scale, half the exponent."""
    draw = np.random.default_rng(0)
    s, t = (np.exp(3 * draw.normal(size=n)) for n in (100, 80))
    w = torch.as_tensor(np.outer(t, s) * draw.lognormal(size=(80, 100)))
    amplitude, square = (concentrate(Block(0, 1, x / x.max())) for x in (w, w**2))
    correlation = np.corrcoef(amplitude.flatten(), square.flatten())[0, 1]
    assert correlation > 0.8


def test_concentration_is_the_least_that_leaves_few_features():
    draw = np.random.default_rng(0)
    s, t = (np.exp(3.5 * draw.normal(size=n)) for n in (100, 80))
    block = Block(0, 1, torch.as_tensor(np.outer(t, s) / (t.max() * s.max())))
    shares = {a: effective_share(block, a) for a in np.arange(1, 2.01, 0.125)}
    exponent = min(a for a, share in shares.items() if share <= 0.12)
    assert 1 < exponent < 2
    w = block.weight.numpy() ** exponent
    expected = w / np.sqrt(w.sum(1, keepdims=True) * w.sum(0))
    np.testing.assert_allclose(concentrate(block).numpy(), expected, rtol=1e-12)


def test_noise_compresses_and_concentration_sharpens():
    default = named_weighting("noise_aware")
    weighed = default.weigh(Network.from_graph(planted(0, 2.5, (64, 128, 64))[0]))
    noisy, decided = weighed.strengths, weighed.decided
    assert decided["edges"] == "information"
    draw = np.random.default_rng(0)
    few = np.outer(np.exp(4 * draw.normal(size=60)), np.exp(4 * draw.normal(size=50)))
    decided = default.weigh(Network.from_graph(graph_of(few))).decided
    assert decided["edges"] == "concentrated"
    assert noisy.n_edges > 0


def test_edges_within_their_error_do_not_decide():
    graph, _ = planted(0, 4.0)
    blocks = [graph.weights(*pair).numpy() for pair in graph.pairs]
    noise = [np.where(b < np.median(b), 2 * b, 0) for b in blocks]
    cut = [np.where(b < np.median(b), 0, b) for b in blocks]
    noisy = Network.from_graph(graph_of(*blocks, errors=tuple(noise)))
    with_errors, without = (
        named_weighting("noise_aware").weigh(network).strengths
        for network in (noisy, Network.from_graph(graph_of(*cut)))
    )
    for a, b in zip(with_errors.blocks, without.blocks, strict=True):
        torch.testing.assert_close(a.weight, b.weight)


def test_features_without_weight_get_faint_edges():
    network = Network.from_graph(graph_of(np.ones((3, 4))))
    weighted = named_weighting("information").weigh(network).network
    assert weighted.connected.all()
    some = np.random.default_rng(0).lognormal(size=(12, 10))
    some[3] = some.sum(0) / 100  # exactly what strengths explain
    network = Network.from_graph(graph_of(some))
    bare = network.map(FORMULAS["pmi"].block)
    weighted = named_weighting("pmi").weigh(network).network
    assert weighted.connected.all()
    change = weighted.blocks[0].weight - bare.blocks[0].weight
    assert change.sum() < 2e-4 * bare.blocks[0].weight.sum()


def test_errors_that_are_not_known_take_nothing():
    """One sample has no standard error: NaN."""
    graph, _ = planted(0)
    weights = [graph.weights(*pair) for pair in graph.pairs]
    plain = named_weighting("noise_aware").weigh(Network.from_graph(graph))
    unknown = [torch.full_like(weight, torch.nan) for weight in weights]
    partly = [torch.where(torch.arange(w.shape[1]) < 2, torch.nan, 0.0).expand_as(w)
              for w in weights]  # fmt: skip
    for errors in (unknown, partly):
        graph = graph_of(*(weight.numpy() for weight in weights), errors=tuple(errors))
        weighed = named_weighting("noise_aware").weigh(Network.from_graph(graph))
        assert weighed.decided == plain.decided
        for a, b in zip(weighed.network.blocks, plain.network.blocks, strict=True):
            torch.testing.assert_close(a.weight, b.weight)
