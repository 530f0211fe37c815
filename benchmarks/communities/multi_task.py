"""ReLU networks trained on independent tasks whose inputs and outputs are shuffled together.

A hidden unit's true module is the task that suffers most when the unit is fixed at its mean; it has
none where no task takes 60 % of the damage.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .graphs import KnownGraph, chain

N_IN, N_OUT = 4, 2  # inputs and outputs of one task
SAMPLES = 4096


class Recipe(NamedTuple):
    """How one network is trained."""

    n_tasks: int
    widths: tuple[int, ...]
    weight_decay: float
    l1: float
    steps: int
    seed: int


def recipes(n: int = 12) -> list[Recipe]:
    """A spread of sizes, regularisation and stopping times."""
    shapes = [(96, 96, 96), (64, 64, 64, 64), (128, 96, 64, 96), (48, 64, 64, 64, 48)]
    decays = [(0.0, 0.0), (3e-2, 0.0), (0.0, 1e-5)]
    result = []
    for k in range(n):
        weight_decay, l1 = decays[k % 3]
        steps = 4000 if k % 2 else 2000
        shape = shapes[(k // 3) % 4]
        result.append(Recipe(6 if (k // 2) % 2 else 10, shape, weight_decay, l1, steps, k))
    return result


def make_data(recipe: Recipe, n: int, part: int) -> tuple[Tensor, Tensor, np.ndarray]:
    """Inputs, targets, and the task of each output; every task has a random nonlinear teacher."""
    fixed = torch.Generator().manual_seed(recipe.seed)
    d = recipe.n_tasks * N_IN
    into = torch.randperm(d, generator=fixed)
    out = torch.randperm(recipe.n_tasks * N_OUT, generator=fixed)
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(1000 * recipe.seed + part))
    targets = []
    for task in range(recipe.n_tasks):
        own = x[:, into[task * N_IN : (task + 1) * N_IN]]
        hidden = (own @ torch.randn(N_IN, 8, generator=fixed) / 1.5).tanh()
        y = hidden @ torch.randn(8, N_OUT, generator=fixed)
        targets.append(y / (y.std(0) + 1e-6))
    task_of_output = np.empty(len(out), np.int64)
    y = torch.empty(n, len(out))
    for k, values in enumerate(torch.cat(targets, 1).T):
        y[:, out[k]] = values
        task_of_output[out[k]] = k // N_OUT
    return x, y, task_of_output


def train(recipe: Recipe) -> nn.Sequential:
    """Trains one network with Adam on fresh batches of a fixed training set."""
    torch.manual_seed(recipe.seed)
    x, y, _ = make_data(recipe, SAMPLES, 0)
    sizes = (x.shape[1], *recipe.widths, y.shape[1])
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.steps, 1e-4)
    for _ in range(recipe.steps):
        rows = torch.randint(len(x), (256,))
        loss = (model(x[rows]) - y[rows]).square().mean()
        if recipe.l1:
            loss = loss + recipe.l1 * sum(p.abs().sum() for p in model.parameters())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model


@torch.no_grad()
def edges_of(model: nn.Sequential, x: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """rms, its standard error, and mean of the integrated gradients with zero baseline.

    For y = relu(W f + b) the pre-activation moves on a straight line from b to p, so the path
    integral of the slope is the secant g = (relu(p) - relu(b)) / (p - b), and A_ij = g_i W_ij f_j.
    """
    rms, errors, means = [], [], []
    f = x.double()
    linears = [m for m in model if isinstance(m, nn.Linear)]
    for k, linear in enumerate(linears):
        weight, bias = linear.weight.double(), linear.bias.double()
        p = f @ weight.T + bias
        if k < len(linears) - 1:
            moved = p - bias
            secant = (p.relu() - bias.relu()) / moved
            g = torch.where(moved.abs() > 1e-12, secant, (bias > 0).double())
        else:
            g = torch.ones_like(p)
        n = len(f)
        second = weight**2 * (g.square().T @ f.square()) / n
        fourth = weight**4 * (g.pow(4).T @ f.pow(4)) / n
        root = second.sqrt()
        rms.append(root)
        spread = ((fourth - second**2).clamp_min(0) / n).sqrt()
        errors.append(torch.where(root > 0, spread / (2 * root).clamp_min(1e-300), 0))
        means.append(weight * (g.T @ f) / n)
        f = p.relu() if k < len(linears) - 1 else p
    return rms, errors, means


@torch.no_grad()
def truth_of(model: nn.Sequential, recipe: Recipe) -> list[np.ndarray]:
    """Task of each hidden unit, -1 where none takes 60 % of the damage or there is none."""
    x, y, task_of_output = make_data(recipe, 1024, 1)
    tasks = torch.as_tensor(task_of_output)

    def losses(output: Tensor) -> Tensor:
        per_output = (output - y).square().mean(0)
        return torch.stack([per_output[tasks == t].mean() for t in range(recipe.n_tasks)])

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
            if damage.max() > 1e-4 and damage.max() >= 0.6 * damage.sum():
                labels[unit] = int(damage.argmax())
        result.append(labels)
    return result


def known_graph(recipe: Recipe) -> KnownGraph:
    """The trained network's graph and the true modules of its hidden units."""
    model = train(recipe)
    x, _, _ = make_data(recipe, SAMPLES, 2)
    rms, errors, means = edges_of(model, x)
    nothing = [np.full(x.shape[1], -1), np.full(rms[-1].shape[0], -1)]
    hidden = truth_of(model, recipe)
    truth = np.concatenate([nothing[0], *hidden, nothing[1]])
    graph = chain({"rms": rms, "mean": means}, {"rms": errors})
    return KnownGraph(f"tasks {recipe.n_tasks}, seed {recipe.seed}", graph, truth)
