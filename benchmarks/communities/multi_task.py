"""Networks of `interactgraph.zoo.independent_tasks` in many sizes, with edges in closed form."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from interactgraph.zoo.independent_tasks import damaged_task, task_data, train_tasks

from .graphs import KnownGraph, chain

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
    """Inputs, targets, and the task of each output."""
    return task_data(recipe.seed, recipe.n_tasks, n, part)


def train(recipe: Recipe) -> nn.Sequential:
    """Trains one network."""
    r = recipe
    return train_tasks(r.seed, r.n_tasks, r.widths, r.weight_decay, r.l1, r.steps, SAMPLES)


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


def known_graph(recipe: Recipe) -> KnownGraph:
    """The trained network's graph and the true modules of its hidden units."""
    model = train(recipe)
    x, _, _ = make_data(recipe, SAMPLES, 2)
    rms, errors, means = edges_of(model, x)
    nothing = [np.full(x.shape[1], -1), np.full(rms[-1].shape[0], -1)]
    hidden = damaged_task(model, recipe.seed, recipe.n_tasks)
    truth = np.concatenate([nothing[0], *hidden, nothing[1]])
    graph = chain({"rms": rms, "mean": means}, {"rms": errors})
    return KnownGraph(f"tasks {recipe.n_tasks}, seed {recipe.seed}", graph, truth)
