"""Two digits side by side, two answers: nothing has to cross between the halves.

Real images (scikit-learn's 8 x 8 digits). What is known: the pixels and the classes of each half
belong together. For a hidden unit it is measured: which answer suffers when it is fixed at its
mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InteractGraphError

__all__ = ["TwoDigits", "two_digits"]

N_CLASSES = 10
_SIDE = 8
_BATCH = 256


@dataclass(frozen=True, eq=False)
class TwoDigits:
    """A trained network and what is known about it.

    Attributes:
        model: `Sequential` of linear layers and ReLUs, 128 pixels -> 20 logits.
        layers: input, hidden layers (after the ReLU) and logits, by name.
        images: held-out images, `[samples, 128]`: left image, then right image.
        answers: their classes, `[samples, 2]`.
        accuracy: held-out accuracy of the left and of the right answer.
        labels: layer -> one label for each feature.
        truth: layer -> 0 (left), 1 (right) or -1 (neither or both) for each feature.
    """

    model: nn.Sequential
    layers: list[str]
    images: Tensor
    answers: Tensor
    accuracy: tuple[float, float]
    labels: dict[str, list[str]]
    truth: dict[str, np.ndarray]


def two_digits(
    seed: int = 0,
    *,
    hidden: tuple[int, ...] = (64, 48),
    epochs: int = 30,
    n_pairs: int = 12_000,
    l1: float = 0.3,
) -> TwoDigits:
    """Trains the network (seconds on a CPU) and measures what is known.

    Args:
        seed: decides the split, the pairs and the weights.
        hidden: widths of the hidden layers.
        epochs: passes over the training pairs.
        n_pairs: training pairs.
        l1: penalty on absolute weights, in steps of the learning rate; without one the halves mix
            in every hidden unit.

    Raises:
        InteractGraphError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InteractGraphError(
            "the digits come with scikit-learn, which is not installed; "
            "install it with: pip install 'interactgraph[demo]'"
        ) from error
    pixels, classes = load_digits(return_X_y=True)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(pixels), generator=generator)
    x = torch.tensor(pixels / 16, dtype=torch.float32)[order]
    y = torch.tensor(classes)[order]
    cut = len(x) * 3 // 4

    model = _network((2 * _SIDE * _SIDE, *hidden, 2 * N_CLASSES), generator)
    images, answers = _pairs(x[:cut], y[:cut], n_pairs, generator)
    _train(model, images, answers, epochs, l1, generator)
    images, answers = _pairs(x[cut:], y[cut:], 2_000, generator)

    layers = ["input", *(str(2 * n + 1) for n in range(len(hidden))), str(2 * len(hidden))]
    with torch.no_grad():
        left, right = (_logits(model, images).argmax(-1) == answers).float().mean(0).tolist()
    return TwoDigits(
        model=model,
        layers=layers,
        images=images,
        answers=answers,
        accuracy=(left, right),
        labels=_labels(layers, hidden),
        truth=_truth(model, layers, images, answers),
    )


def _network(sizes: tuple[int, ...], generator: torch.Generator) -> nn.Sequential:
    modules: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        linear = nn.Linear(n_in, n_out)
        nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(linear.bias)
        modules += [linear, nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def _pairs(x: Tensor, y: Tensor, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    index = torch.randint(len(x), (n, 2), generator=generator)
    return x[index].flatten(1), y[index]


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = model(images)
    return logits.unflatten(-1, (2, N_CLASSES))


def _losses(model: nn.Module, images: Tensor, answers: Tensor) -> Tensor:
    """Cross entropy of the left and of the right answer, `[2]`."""
    logits = _logits(model, images)
    return torch.stack([F.cross_entropy(logits[:, side], answers[:, side]) for side in (0, 1)])


def _train(
    model: nn.Sequential,
    images: Tensor,
    answers: Tensor,
    epochs: int,
    l1: float,
    generator: torch.Generator,
) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    steps = epochs * -(-len(images) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=steps)
    weights = [p for p in model.parameters() if p.ndim == 2]
    for _ in range(epochs):
        for index in torch.randperm(len(images), generator=generator).split(_BATCH):
            loss = _losses(model, images[index], answers[index]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            # Soft thresholding, the proximal step of the L1 penalty: unused weights become zero.
            threshold = l1 * float(schedule.get_last_lr()[0])
            with torch.no_grad():
                for weight in weights:
                    weight.copy_(F.softshrink(weight, threshold))
            schedule.step()


def _labels(layers: list[str], hidden: tuple[int, ...]) -> dict[str, list[str]]:
    sides = ("left", "right")
    labels = {
        "input": [f"{s} pixel {r},{c}" for s in sides for r in range(_SIDE) for c in range(_SIDE)],
        layers[-1]: [f"{s} is {digit}" for s in sides for digit in range(N_CLASSES)],
    }
    for number, (layer, width) in enumerate(zip(layers[1:-1], hidden, strict=True), start=1):
        labels[layer] = [f"hidden {number}.{unit}" for unit in range(width)]
    return labels


@torch.no_grad()
def _truth(
    model: nn.Sequential, layers: list[str], images: Tensor, answers: Tensor
) -> dict[str, np.ndarray]:
    """Which half each feature serves; a hidden unit where one answer takes 80 % of the harm."""
    n_pixels = _SIDE * _SIDE
    truth = {
        "input": np.repeat([0, 1], n_pixels),
        layers[-1]: np.repeat([0, 1], N_CLASSES),
    }
    whole = _losses(model, images, answers)
    for layer in layers[1:-1]:
        before, after = model[: int(layer) + 1], model[int(layer) + 1 :]
        activation = before(images)
        sides = np.full(activation.shape[1], -1)
        for unit in range(activation.shape[1]):
            fixed = activation.clone()
            fixed[:, unit] = activation[:, unit].mean()
            harm = (_losses(after, fixed, answers) - whole).clamp(min=0)
            if harm.sum() > 1e-4 and harm.max() >= 0.8 * harm.sum():
                sides[unit] = int(harm.argmax())
        truth[layer] = sides
    return truth
