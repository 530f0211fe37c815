"""Any attribution class of captum that takes a forward function, on the segment as that."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import InteractGraphError
from ...layers import PairProblem
from ..completeness import residual_of
from ..contributions import Contribution
from .method import PairContext, Tick, no_tick
from .pass_method import PassMethod

__all__ = ["Captum"]

_SEEDS = 100_003  # between the seeds of two batches


class Captum(PassMethod):
    """Target feature by target feature."""

    name = "captum"
    engine = "perturbation"
    definitions = ("captum",)

    def __init__(self, context: PairContext) -> None:
        super().__init__(context)
        self.n_batches = 0

    def cost(self, problem: PairProblem) -> float:
        """Calls of captum, which cost what they cost."""
        return float(problem.n_rows)

    def contributions(self, problem: PairProblem, tick: Tick = no_tick) -> Iterator[Contribution]:
        seed = self.context.seed + _SEEDS * self.n_batches
        self.n_batches += 1
        total = torch.zeros_like(problem.y)
        for i, row in _rows(problem, self.context.options.method, seed, tick):
            total[..., i] = row.sum(-1)
            yield self.context.block(row[:, :, None], problem, rows=slice(i, i + 1))
        yield residual_of(total, problem)

    def state(self) -> dict[str, Any]:
        return {"n_batches": self.n_batches}

    def restore(self, state: dict[str, Any]) -> None:
        self.n_batches = state["n_batches"]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Torch's and numpy's global generators, which captum draws from; the old state comes back."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _rows(problem: PairProblem, method: Any, seed: int, tick: Tick) -> Iterator[tuple[int, Tensor]]:
    """A target feature after the other, and its `[b, t, j]`.

    Args:
        problem: the pair on a batch.
        method: a class of `captum.attr` that takes a forward function.
        seed: of what the class draws.
        tick: told the number of passes done.

    Raises:
        InteractGraphError: captum cannot do it.
    """
    _, n_positions, n_targets = problem.y.shape
    try:
        explainer = method(lambda z: problem.segment(z).flatten(1))
        options: dict[str, Any] = {}
        if "baselines" in inspect.signature(explainer.attribute).parameters:
            options["baselines"] = problem.path.start
        for i in range(n_targets):
            rows = []
            for t in range(n_positions):
                target = t * n_targets + i
                with torch.enable_grad(), _seeded(seed + target):
                    attributions = explainer.attribute(problem.z.clone(), target=target, **options)
                rows.append(attributions.detach().sum(1))
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
