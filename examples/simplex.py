"""A network whose activations stay on the probability simplex, next to an ordinary one.

    python examples/simplex.py [--quick] [-o DIR]

Trains both on handwritten digits, with as many parameters and several seeds, compares accuracies,
and compares the graph of the network on the simplex with what its weights say: the edge j -> i of
a stochastic map on a sample x is W_ij x_j.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import interactgraph as itg
from interactgraph.simplex import (
    Power,
    ProductResidual,
    SimplexBias,
    StochasticLinear,
    log_on_simplex,
)

HIDDEN, N_TRAIN, N_CHOOSE = 64, 1100, 247
MAPS = {"input": "0", "4": "5"}  # source and target of the stochastic maps outside of residuals


def on_simplex(pixels: Tensor) -> Tensor:
    """Intensities from 0 to 1 `[b, j]` -> ink and paper of each pixel, `[b, 2 j]`, sum one."""
    return torch.cat([pixels, 1 - pixels], 1) / pixels.shape[1]


def simplex_network() -> nn.Sequential:
    t = {"learn_temperature": True}
    # Inputs are divided among units at random; powers and products make units compete.
    return nn.Sequential(
        StochasticLinear(128, HIDDEN, identity=0, noise=1.0), SimplexBias(HIDDEN), Power(0.1, **t),
        ProductResidual(
            StochasticLinear(HIDDEN, HIDDEN, identity=0, noise=0.1), temperature=0.2, **t
        ),
        SimplexBias(HIDDEN), StochasticLinear(HIDDEN, 10, identity=0, noise=1.0), Power(0.5, **t),
    )  # fmt: skip


def ordinary_network() -> nn.Sequential:
    """With a residual of the same width, and as many parameters to one in a thousand."""
    return nn.Sequential(nn.Linear(128, HIDDEN), nn.ReLU(), Residual(HIDDEN), nn.Linear(HIDDEN, 10))


class Residual(nn.Module):
    """x + relu(W x + b)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(width, width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Activations `[b, j]` -> `[b, j]`."""
        return x + self.branch(x)


def n_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def train(model: nn.Module, x: Tensor, y: Tensor, rate: float, epochs: int) -> None:
    optimizer = torch.optim.Adam(model.parameters())
    steps = epochs * -(-len(x) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(epochs):
        for index in torch.randperm(len(x)).split(64):
            loss = nn.functional.nll_loss(log_probability(model, x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def log_probability(model: nn.Module, x: Tensor) -> Tensor:
    y = model(x)
    return log_on_simplex(y) if isinstance(model[-1], Power) else y.log_softmax(-1)


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((model(x).argmax(1) == y).float().mean())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="smaller, for a first look")
    arguments.add_argument("-o", "--output", help="folder; default: a temporary one")
    options = arguments.parse_args()
    seeds, epochs = (range(2), 10) if options.quick else (range(8), 30)

    pixels, classes = load_digits(return_X_y=True)
    x, y = on_simplex(torch.tensor(pixels / 16).float()), torch.tensor(classes)
    found: dict[str, list[float]] = {}
    for name, network, scale, rates in (
        ("on the simplex", simplex_network, 1.0, (0.03, 0.1)),
        ("ordinary", ordinary_network, 64.0, (0.003, 0.01)),
    ):
        found[name] = []
        for seed in seeds:
            torch.manual_seed(seed)
            seen, chosen, unseen = torch.randperm(len(x)).tensor_split(
                [N_TRAIN, N_TRAIN + N_CHOOSE]
            )
            # Of the rates, the one that is best on samples which are used for nothing else.
            best = -1.0
            for rate in rates:
                model = network()
                train(model, scale * x[seen], y[seen], rate, epochs)
                score = accuracy(model, scale * x[chosen], y[chosen])
                if score > best:
                    best, kept = score, model
            found[name].append(accuracy(kept, scale * x[unseen], y[unseen]))
        values = torch.tensor(found[name])
        print(
            f"{name:15} {n_parameters(model)} parameters, held-out accuracy "
            f"{float(values.mean()):.1%} +- {float(values.std()):.1%} ({len(values)} seeds)"
        )
        if name == "on the simplex":
            model_on_simplex, data = kept, x[unseen]
    one, other = (sum(values) / len(values) for values in found.values())
    print(f"difference of the means: {one - other:+.1%}")

    # Maps that are linear: what the engine measures is what the weights say.
    model = model_on_simplex
    labels = {
        "input": [f"{kind} {k // 8},{k % 8}" for kind in ("ink", "paper") for k in range(64)],
        "5": [f"is {digit}" for digit in range(10)],
    }  # fmt: skip
    layers = ["input", "0", "4", "5"]
    graph = itg.interaction_graph(
        model, data.split(64), layers, labels=labels, progress=False,
        baseline={"input": "zero", "0": "mean", "4": "zero"},
    )  # fmt: skip
    with torch.no_grad():
        for source, target in MAPS.items():
            z = data if source == "input" else model[: int(source) + 1](data)
            edges = model[int(target)].weight * z.square().mean(0).sqrt()
            off = float((graph.weights(source, target) - edges).abs().max())
            print(f"{source} -> {target}: edges differ from W_ij rms x_j by {off:.1e} at most")
    print(f"0 -> 4, bias, power, product and bias: completeness {graph.completeness['0', '4']:.1e}")
    partition = itg.find_modules(graph)
    print(partition.summary())
    folder = Path(options.output or tempfile.mkdtemp())
    graph.save(folder / "simplex.safetensors")
    partition.save(folder / "modules.json")
    print(*itg.export(graph, folder / "simplex.gexf", partition=partition))


if __name__ == "__main__":
    main()
