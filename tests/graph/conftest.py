import pytest
import torch

from interactgraph.graph import InteractionGraph


@pytest.fixture
def graph():
    """Three layers, two strengths, both signs, an isolated feature in each of the first two."""
    generator = torch.Generator().manual_seed(1)
    layers, sizes = ("in", "mid", "out"), {"in": 5, "mid": 4, "out": 3}
    pairs = (("in", "mid"), ("mid", "out"))
    blocks, errors = {}, {}
    for source, target in pairs:
        mean = torch.randn(sizes[target], sizes[source], generator=generator)
        mean[:, 2] = 0
        if target == "mid":
            mean[2] = 0
        blocks[source, target] = {"rms": 2 * mean.abs(), "mean": mean}
        errors[source, target] = {"rms": mean.abs() / 9}
    return InteractionGraph(
        layers=layers,
        pairs=pairs,
        labels={layer: [f"{layer} {j}" for j in range(n)] for layer, n in sizes.items()},
        blocks=blocks,
        standard_errors=errors,
        completeness={("in", "mid"): 1e-7},
        metadata={"method": "integrated_gradients", "seed": 3},
    )
