"""A convolutional network on handwritten digits: channels as features, any layer, one call.

    python examples/convolutional.py [--quick]

Trains for some seconds, builds the graph between its convolutions, finds modules of channels, asks
how sure the edges are, and writes files for Gephi.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import interactgraph as itg


def train(quick: bool) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    pixels, classes = load_digits(return_X_y=True)
    x = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    y = torch.tensor(classes)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(96, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(3 if quick else 20):
        for index in torch.randperm(1400).split(64):
            loss = nn.functional.cross_entropy(model(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model, x[1400:], y[1400:]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="smaller, for a first look")
    arguments.add_argument("-o", "--output", help="folder; default: a temporary one")
    options = arguments.parse_args()

    model, images, answers = train(options.quick)
    if options.quick:
        images, answers = images[:100], answers[:100]
    with torch.no_grad():
        print(f"accuracy {float((model(images).argmax(1) == answers).float().mean()):.1%}")

    # After the first ReLU, after the second, and the classes. Positions of a channel are summed as
    # sources and averaged as targets; max pooling between the first two is no obstacle.
    graph = itg.interaction_graph(
        model, images.split(64), ["1", "4", "output"], strengths=("rms", "mean", "max"),
        baseline="mean", tolerance=1e-3 if not options.quick else 0.02,
        labels={"output": [f"is {digit}" for digit in range(10)]},
    )  # fmt: skip
    for pair in graph.pairs:
        weight, error = graph.weights(*pair), graph.standard_error(*pair)
        i, j = divmod(int(weight.argmax()), weight.shape[1])
        print(
            f"{pair[0]} -> {pair[1]}: completeness {graph.completeness[pair]:.1e}, strongest edge "
            f"{graph.labels[pair[0]][j]} -> {graph.labels[pair[1]][i]} "
            f"{weight[i, j]:.3f} +- {error[i, j]:.3f}"
        )

    partition = itg.find_modules(graph)
    print(f"{len(partition.modules)} modules, p = {partition.p_value:.2g}")
    folder = Path(options.output or tempfile.mkdtemp())
    print(*itg.export(graph, folder / "digits.gexf", partition=partition))


if __name__ == "__main__":
    main()
