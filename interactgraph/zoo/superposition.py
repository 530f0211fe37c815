"""Networks that store more features than they have neurons, and whose true edges are known.

Two toy models of superposition (Elhage et al. 2022, arXiv 2209.10652), x' = ReLU(W^T W x + b)
trained on sparse features x, with a sparse map between the features of the one and of the other:

    h = W_1 x,    f = ReLU(W_1^T h + b_1),    h' = W_2 M f,    y' = ReLU(W_2^T h' + b_2)

Neurons are the coordinates of h and h'; what is computed goes from feature to feature, along M.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..checks import choice, positive, whole
from ..errors import InputError
from ..features import Dictionary

__all__ = ["Superposition", "sparse_features", "superposition"]

Dependence = Literal["independent", "correlated", "anticorrelated"]

_GROUP = 4  # features that depend on each other
_BATCH = 1024  # samples of a training step
_RATE = 3e-3  # of learning, at the start
_SMALLEST = 0.5  # size of an active feature, of at most 1


@dataclass(frozen=True, eq=False)
class Superposition:
    """A network with features in superposition.

    Attributes:
        model: `Sequential`; its layers "0" and "4" hold h and h'.
        layers: these two.
        data: the features x, `[samples, features]`; they are the input.
        edges: M, `[target features, source features]`, not negative; what is not zero is an edge.
        dictionaries: layer -> the true features: directions W, codes ReLU(W^T h + b).
        error: share of the variance of the outputs y' that differs from M x.
    """

    model: nn.Sequential
    layers: tuple[str, str]
    data: Tensor
    edges: Tensor
    dictionaries: dict[str, Dictionary]
    error: float


def superposition(
    seed: int = 0,
    *,
    n_features: int = 64,
    n_neurons: int = 16,
    probability: float = 0.05,
    dependence: Dependence = "independent",
    fan_in: int = 2,
    n_modules: int = 1,
    n_samples: int = 2048,
    steps: int = 2000,
) -> Superposition:
    """Trains two toy models and joins them by a random sparse map.

    Args:
        seed: decides everything.
        n_features: features x, and features y.
        n_neurons: neurons of each of the two layers.
        probability: of a feature to be active.
        dependence: of features, see `sparse_features`.
        fan_in: a target feature reads 1 to so many source features.
        n_modules: feature i is in module i mod `n_modules`, and reads features of its own only.
        n_samples: inputs.
        steps: of training, for each of the toy models.

    Raises:
        InputError: numbers that make no sense.

    Example:
        >>> import interactgraph as itg
        >>> net = itg.zoo.superposition(n_features=12, n_neurons=6, n_samples=64, steps=50)
        >>> graph = itg.interaction_graph(
        ...     net.model, net.data, net.layers, features=net.dictionaries, progress=False
        ... )
        >>> graph.weights("0", "4").shape  # features, and what the dictionaries leave out
        torch.Size([13, 13])
    """
    numbers = {"n_features": n_features, "n_neurons": n_neurons, "fan_in": fan_in,
               "n_modules": n_modules, "n_samples": n_samples, "steps": steps}  # fmt: skip
    for name, value in numbers.items():
        whole(name, value, 1)
    if fan_in > n_features // n_modules:
        raise InputError(
            f"fan_in={fan_in}, more than n_features={n_features}"
            + (f" over n_modules={n_modules}" if n_modules > 1 else "")
        )
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int) -> Tensor:
        return sparse_features(
            n, n_features, generator=generator, probability=probability, dependence=dependence
        )

    edges = torch.zeros(n_features, n_features)
    for number, row in enumerate(edges):
        n_read = int(torch.randint(1, fan_in + 1, (), generator=generator))
        own = torch.arange(number % n_modules, n_features, n_modules)
        read = own[torch.randperm(len(own), generator=generator)[:n_read]]
        row[read] = 0.5 + torch.rand(n_read, generator=generator)
    first = _toy_model(n_neurons, lambda: draw(_BATCH), steps, generator)
    second = _toy_model(n_neurons, lambda: draw(_BATCH) @ edges.mT, steps, generator)
    model = nn.Sequential(
        _linear(first[0]), _linear(first[0].mT, first[1]), nn.ReLU(), _linear(edges),
        _linear(second[0]), _linear(second[0].mT, second[1]), nn.ReLU(),
    )  # fmt: skip
    data = draw(n_samples)
    with torch.no_grad():
        wanted = data @ edges.mT
        missed = model(data) - wanted
        error = float(missed.square().mean() / wanted.var(0, correction=0).mean())
    dictionaries = {
        layer: Dictionary(encoder=weight.mT.contiguous(), decoder=weight, encoder_bias=bias)
        for layer, (weight, bias) in (("0", first), ("4", second))
    }
    return Superposition(model, ("0", "4"), data, edges, dictionaries, error)


def sparse_features(
    n_samples: int,
    n_features: int,
    *,
    generator: torch.Generator,
    probability: float = 0.05,
    dependence: Dependence = "independent",
) -> Tensor:
    """Features that are rarely active, with a size from 0.5 to 1 where they are, `[n, features]`.

    Args:
        n_samples: how many.
        n_features: of each.
        generator: decides everything.
        probability: of a feature to be active, below 1.
        dependence: "independent"; "correlated": features come in groups of four that are on or off
            together, and a feature of a group that is on is active with probability 1/2;
            "anticorrelated": of each group of four at most one is active.

    Raises:
        InputError: an unknown dependence, or a probability that it cannot have.
    """
    positive("probability", probability)
    choice("dependence", dependence, ("independent", "correlated", "anticorrelated"))
    most = {"independent": 1.0, "correlated": 0.5, "anticorrelated": 1 / _GROUP}[dependence]
    if probability > most:
        raise InputError(f"probability={probability}; {dependence} features have {most} at most")
    shape = (n_samples, n_features)
    n_groups = -(-n_features // _GROUP)
    group = torch.arange(n_features) // _GROUP

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    if dependence == "independent":
        active = uniform(*shape) < probability
    elif dependence == "correlated":
        on = uniform(n_samples, n_groups) < 2 * probability
        active = on[:, group] & (uniform(*shape) < 0.5)
    else:
        on = uniform(n_samples, n_groups) < _GROUP * probability
        chosen = torch.randint(0, _GROUP, (n_samples, n_groups), generator=generator)
        active = on[:, group] & (chosen[:, group] == torch.arange(n_features) % _GROUP)
    return active * (_SMALLEST + (1 - _SMALLEST) * uniform(*shape))


def _toy_model(
    n_neurons: int, draw: Callable[[], Tensor], steps: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """W `[neurons, features]` and b of x' = ReLU(W^T W x + b), trained to repeat x."""
    n_features = draw().shape[1]
    weight = torch.randn(n_neurons, n_features, generator=generator) / n_neurons**0.5
    weight.requires_grad_(True)
    bias = torch.zeros(n_features, requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with torch.enable_grad():
        for _ in range(steps):
            x = draw()
            loss = ((x @ weight.mT @ weight + bias).relu() - x).square().sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return weight.detach(), bias.detach()


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    linear = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        linear.weight.copy_(weight)
        if bias is not None:
            linear.bias.copy_(bias)
    return linear
