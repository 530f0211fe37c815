"""Networks that learn tasks which have nothing in common, inputs and outputs shuffled together.

A hidden unit's true module is the task that suffers most when the unit is fixed at its mean; it has
none where no task takes 60 % of the damage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from ..checks import number, whole
from ..errors import InteractGraphError

__all__ = ["IndependentTasks", "damaged_task", "independent_tasks", "task_data", "train_tasks"]

N_IN, N_OUT = 4, 2  # inputs and outputs of one task
_BATCH = 256
_TRAINED = 4096  # inputs of the training
_HARM = 1e-4  # least damage that makes a unit a task's
_SHARE = 0.6  # least share of all damage


@dataclass(frozen=True, eq=False)
class IndependentTasks:
    """A trained network and what is known about it.

    Attributes:
        model: `Sequential` of linear layers and ReLUs.
        layers: input, hidden layers (after the ReLU) and output, by name.
        data: inputs that were not trained on, `[samples, features]`, standard normal.
        targets: what the tasks ask for, `[samples, outputs]`.
        unexplained: share of the targets' variance that the network misses.
        truth: layer -> task of each feature, -1 where a hidden unit has none.
    """

    model: nn.Sequential
    layers: list[str]
    data: Tensor
    targets: Tensor
    unexplained: float
    truth: dict[str, np.ndarray]


def independent_tasks(
    seed: int = 0,
    *,
    n_tasks: int = 2,
    widths: Sequence[int] = (48, 48),
    weight_decay: float = 0.03,
    l1: float = 1e-4,
    steps: int = 2000,
    n_samples: int = 1024,
) -> IndependentTasks:
    """Trains the network (seconds on a CPU) and measures what is known.

    Every task is a random network of its own, from 4 inputs to 2 outputs.

    Args:
        seed: decides everything.
        n_tasks: number of tasks.
        widths: of the hidden layers.
        weight_decay: of AdamW.
        l1: penalty on absolute weights; without one, units that serve one task fall into several
            modules that have little to do with each other.
        steps: of training.
        n_samples: inputs that come back.

    Raises:
        InteractGraphError: no task, no hidden layer or no sample.
    """
    for name, value in (("n_tasks", n_tasks), ("steps", steps), ("n_samples", n_samples)):
        whole(f"independent_tasks: {name}", value, 1)
    if isinstance(widths, int) or not widths:
        raise InteractGraphError(f"widths={widths!r}; give the sizes of one hidden layer or more")
    for width in widths:
        whole("independent_tasks: a width", width, 1)
    for name, penalty in (("weight_decay", weight_decay), ("l1", l1)):
        if number(f"independent_tasks: {name}", penalty) < 0:
            raise InteractGraphError(f"independent_tasks: {name}={penalty} must be zero or above")
    model = train_tasks(seed, n_tasks, widths, weight_decay, l1, steps)
    x, y, task_of_output = task_data(seed, n_tasks, n_samples, part=2)
    into = np.empty(x.shape[1], np.int64)
    order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(seed))
    into[order.numpy()] = np.arange(x.shape[1]) // N_IN
    names = ["input", *(str(2 * k + 1) for k in range(len(widths))), str(2 * len(widths))]
    hidden = damaged_task(model, seed, n_tasks)
    with torch.no_grad():
        missed = (model(x) - y).square().mean() / (y - y.mean(0)).square().mean()
    truth = dict(zip(names, [into, *hidden, task_of_output], strict=True))
    return IndependentTasks(model, names, x, y, float(missed), truth)


def task_data(seed: int, n_tasks: int, n: int, part: int) -> tuple[Tensor, Tensor, np.ndarray]:
    """Inputs `[n, 4 tasks]`, targets `[n, 2 tasks]` and the task of each output.

    Args:
        seed: of the tasks.
        n_tasks: how many there are.
        n: samples.
        part: which samples: others for every number.
    """
    fixed = torch.Generator().manual_seed(seed)
    d = n_tasks * N_IN
    into = torch.randperm(d, generator=fixed)
    out = torch.randperm(n_tasks * N_OUT, generator=fixed)
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(1000 * seed + part))
    # Targets are scaled by what they are on the same inputs for every part.
    usual = torch.randn(_TRAINED, d, generator=torch.Generator().manual_seed(1000 * seed))
    targets = []
    for task in range(n_tasks):
        own = into[task * N_IN : (task + 1) * N_IN]
        first = torch.randn(N_IN, 8, generator=fixed)
        second = torch.randn(8, N_OUT, generator=fixed)
        y, scale = ((some[:, own] @ first / 1.5).tanh() @ second for some in (x, usual))
        targets.append(y / (scale.std(0) + 1e-6))
    task_of_output = np.empty(len(out), np.int64)
    y = torch.empty(n, len(out))
    for k, values in enumerate(torch.cat(targets, 1).T):
        y[:, out[k]] = values
        task_of_output[out[k]] = k // N_OUT
    return x, y, task_of_output


def train_tasks(
    seed: int,
    n_tasks: int,
    widths: Sequence[int],
    weight_decay: float,
    l1: float,
    steps: int,
    n_samples: int = _TRAINED,
) -> nn.Sequential:
    """Trains one network with AdamW on batches of a fixed training set."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        x, y, _ = task_data(seed, n_tasks, n_samples, 0)
        layers: list[nn.Module] = []
        for a, b in pairwise((x.shape[1], *widths, y.shape[1])):
            layers += [nn.Linear(a, b), nn.ReLU()]
        model = nn.Sequential(*layers[:-1])
        optimiser = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, 1e-4)
        for _ in range(steps):
            rows = torch.randint(len(x), (_BATCH,))
            loss = (model(x[rows]) - y[rows]).square().mean()
            if l1:
                loss = loss + l1 * sum(p.abs().sum() for p in model.parameters())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model


@torch.no_grad()
def damaged_task(model: nn.Sequential, seed: int, n_tasks: int) -> list[np.ndarray]:
    """Task of each hidden unit, -1 where none takes 60 % of the damage or there is none."""
    x, y, task_of_output = task_data(seed, n_tasks, 1024, 1)
    tasks = torch.as_tensor(task_of_output)

    def losses(output: Tensor) -> Tensor:
        per_output = (output - y).square().mean(0)
        return torch.stack([per_output[tasks == t].mean() for t in range(n_tasks)])

    base = losses(model(x))
    result, f = [], x
    for k in range(0, len(model) - 1, 2):
        f = model[k + 1](model[k](f))
        rest = model[k + 2 :]
        labels = np.full(f.shape[1], -1)
        for unit in range(f.shape[1]):
            fixed = f.clone()
            fixed[:, unit] = f[:, unit].mean()
            damage = (losses(rest(fixed)) - base).clamp_min(0)
            if damage.max() > _HARM and damage.max() >= _SHARE * damage.sum():
                labels[unit] = int(damage.argmax())
        result.append(labels)
    return result
