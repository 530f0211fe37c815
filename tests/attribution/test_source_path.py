"""Features that are more than the activation has: tangents along their directions."""

import networks
import pytest
import torch
from torch import nn

import interactgraph as itg
from interactgraph.attribution.source_path import SourcePath
from interactgraph.features import Dictionary, Linear

STRENGTHS = ("rms", "mean_abs", "mean", "max")


def dictionary(size, n, **options):
    made = Dictionary.random(size, n, k=5, seed=1)
    generator = torch.Generator().manual_seed(2)
    bias = torch.randn(size, generator=generator, dtype=torch.float64)
    return Dictionary(
        made.encoder, made.decoder, decoder_bias=bias, activation="topk", k=5, **options
    )


def sequences():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), networks.Block(6)).double()
    x = torch.randn(9, 5, 4, dtype=torch.float64)
    keep = torch.arange(5) < torch.randint(1, 6, (9, 1))
    return model, [(x, keep)], ["0", "1"], {"position_mask": lambda batch: batch[1]}


def channels():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Conv2d(4, 3, 2), nn.GELU(), nn.Conv2d(3, 2, 1)
    ).double()
    return model, [torch.randn(4, 2, 5, 5, dtype=torch.float64)], ["1", "4"], {}


MAPS = {
    "dictionary": lambda size: dictionary(size, 3 * size),
    "without error": lambda size: dictionary(size, 3 * size, error=False),
    "codes that are dense": lambda size: Dictionary(
        dictionary(size, 3 * size).encoder, dictionary(size, 3 * size).decoder, activation="none"
    ),
    "linear": lambda size: Linear(dictionary(size, 2 * size).encoder),
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "gradient"},
        {"sources": 2},
        {"memory_budget": 1 << 17},
    ],
)
@pytest.mark.parametrize("features", list(MAPS))
@pytest.mark.parametrize("case", [sequences, channels])
def test_the_same_as_through_the_decoder(case, features, options, monkeypatch):
    model, data, layers, more = case()
    options = {
        "strengths": STRENGTHS,
        "engine": "forward",
        "n_steps": 2,
        "tolerance": None,
        **more,
        **options,
    }
    source = MAPS[features](6 if case is sequences else 4)

    def run():
        return itg.interaction_graph(
            model, data, layers, features={layers[0]: source}, progress=False, **options
        )

    entered = []
    of = SourcePath.of

    def watched(problem, **more):
        path = of(problem, **more)
        entered.append(path.entry is not None)
        return path

    monkeypatch.setattr(SourcePath, "of", watched)
    narrow = run()
    assert any(entered)
    monkeypatch.setattr(SourcePath, "of", SourcePath.in_features)
    through = run()
    assert narrow.completeness[tuple(layers)] == pytest.approx(
        through.completeness[tuple(layers)], rel=1e-6, abs=1e-12
    )
    for name in narrow.strengths:
        a, b = (graph.weights(*layers, name) for graph in (narrow, through))
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_neurons_and_small_bases_are_not_entered():
    model, data, layers, more = sequences()
    for features in ("neurons", Linear(torch.eye(6, dtype=torch.float64)[:4])):
        graph = itg.interaction_graph(
            model, data, layers, features={layers[0]: features}, engine="forward", progress=False,
            **more,
        )  # fmt: skip
        assert graph.features[layers[0]].directions is None
