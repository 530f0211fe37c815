"""Perturbation instead of derivatives: what the target does when source features are taken away.

- *ablation*: A[b,t,i,j] = y(z) - y(z with feature j at its baseline), d_src forward passes.
- *shapley*: the mean, over random orders of the features, of what feature j adds when it goes from
  its baseline to its value after those before it (Castro et al. 2009, "Polynomial calculation of
  the Shapley value based on sampling"); d_src forward passes for each order. Its sum over j is
  y(z) - y(z0) for every order.
- any captum attribution class, on the segment as its forward function.

A feature is moved at all its positions at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InteractGraphError
from .problem import PairProblem

__all__ = ["ablation_blocks", "captum_rows", "shapley_columns"]

Tick = Callable[[float], None]


def ablation_blocks(
    problem: PairProblem, chunk: int, tick: Tick = lambda passes: None
) -> Iterator[tuple[slice, Tensor]]:
    """The effect of each source feature alone.

    Args:
        problem: the pair on a batch.
        chunk: source features at a time.
        tick: told the number of passes done.

    Yields:
        Source features, and their `[b, t, i, j]`.
    """
    n_sources = problem.z.shape[2]
    for start in range(0, n_sources, chunk):
        stop = min(start + chunk, n_sources)
        without = problem.z - problem.columns(start, stop)
        effect = problem.y - torch.vmap(problem.function)(without)
        tick(stop - start)
        yield slice(start, stop), effect.movedim(0, -1)


def shapley_columns(
    problem: PairProblem, orders: int, generator: torch.Generator, tick: Tick = lambda passes: None
) -> Tensor:
    """Sampled Shapley values.

    Args:
        problem: the pair on a batch.
        orders: random orders of the features.
        generator: decides them.
        tick: told the number of passes done.

    Returns:
        `[b, t, i, j]`.
    """
    n_sources = problem.z.shape[2]
    a = problem.y.new_zeros(*problem.y.shape, n_sources)
    for _ in range(orders):
        z, before = problem.z - problem.dz, problem.y0.expand_as(problem.y)
        for j in torch.randperm(n_sources, generator=generator).tolist():
            z = z.clone()
            z[..., j] = problem.z[..., j]
            after = problem.function(z)
            a[..., j] += (after - before) / orders
            before = after
        tick(n_sources)
    return a


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Torch's and numpy's global generators with a seed; the caller's state comes back."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def captum_rows(
    problem: PairProblem, method: Any, seed: int = 0, tick: Tick = lambda passes: None
) -> Iterator[tuple[int, Tensor]]:
    """A by a captum attribution class, target feature by target feature.

    Args:
        problem: the pair on a batch.
        method: a class of `captum.attr` that takes a forward function.
        seed: of what the class draws.
        tick: told the number of passes done.

    Yields:
        A target feature, and its `[b, t, j]`.

    Raises:
        InteractGraphError: captum cannot do it.
    """
    _, n_positions, n_targets = problem.y.shape
    try:
        explainer = method(lambda z: problem.function(z).flatten(1))
        options: dict[str, Any] = {}
        if "baselines" in inspect.signature(explainer.attribute).parameters:
            options["baselines"] = problem.z - problem.dz
        for i in range(n_targets):
            rows = []
            for t in range(n_positions):
                target = t * n_targets + i
                with torch.enable_grad(), _seeded(seed + target):
                    found = explainer.attribute(problem.z.clone(), target=target, **options)
                rows.append(found.detach().sum(1))
                tick(1)
            yield i, torch.stack(rows, 1)
    except (AssertionError, AttributeError, TypeError, RuntimeError, ValueError) as error:
        if isinstance(error, InteractGraphError):
            raise
        raise InteractGraphError(
            f"captum's {getattr(method, '__name__', method)} cannot work on this segment: {error}. "
            "Classes that enlarge the batch need a segment without other inputs; perturbation "
            "classes such as FeatureAblation always work"
        ) from error
