"""One rotation for all states of a residual stream, in which everything about it is sparse.

A residual stream is one space: what a block adds is read by the blocks after it in the same
coordinates. So one orthogonal R is learned for all states x_0, x_1, ... together, which makes

    mean |R x| / |x|  +  mean |R (x_l+1 - x_l)| / |x_l+1 - x_l|  +  mean |R F R'| / |F|

small (|.| of entries above, Euclidean norms below): a state has few features, a block writes few of
them, and one feature of what it writes reads few of what it finds, F = d(x_l+1 - x_l) / dx_l.
Derivatives are taken beside the samples, with as much noise as there is signal: at the samples
themselves, attention that is sure and steps that have been taken have none. Of states and updates,
each direction counts once however frequent it is. None of the three parts suffices: states alone
are even sparser in other bases wherever some of their features always go together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..calculus.derivatives import jvps
from ..checks import positive, whole
from ..errors import InputError
from ..features import Linear, Neurons
from ..features.random_rotation import random_orthogonal
from ..features.rotation_search import Rotation
from ..layers import Layers, PairProblem
from ..model import Forward, PositionMask, Runner, load_model, prepared, resolve_sites

__all__ = ["StreamRotation", "fit_stream_rotation"]

_ROWS = 2048  # directions of states, and as many of updates
_BLOCKS = 150  # derivatives of a pair
_BATCH = 100  # derivatives of a gradient step
_TANGENTS = 32  # at a time
_ROUNDED = 3  # decimals of unit vectors that count as the same
_FLAT = 1e-3  # relative to the mean square: |x| is rounded off below its root
_FLAT_DERIVATIVES = 0.02


@dataclass(frozen=True, eq=False)
class StreamRotation:
    """What `fit_stream_rotation` found.

    Attributes:
        maps: layer -> feature map, the same for all.
        rotation: R, `[d, d]`; its rows are the directions of the features.
        losses: of every start, the best first.
    """

    maps: dict[str, Linear]
    rotation: Tensor = field(repr=False)
    losses: list[float]


def fit_stream_rotation(
    model: nn.Module,
    data: Iterable[Any],
    layers: Sequence[str],
    *,
    n_samples: int = 64,
    noise: float = 1.0,
    starts: int = 4,
    steps: int = 600,
    lr: float = 0.05,
    seed: int = 0,
    position_mask: PositionMask | None = None,
    forward: Forward | None = None,
    progress: bool = True,
) -> StreamRotation:
    """Learns one rotation for all states of a residual stream.

    Args:
        model: the network.
        data: batches, as for `interaction_graph`.
        layers: states of the stream, in order of execution: all of one size and position by
            position, such as those of the preset "residual".
        n_samples: samples beside which derivatives are taken, at one source position of each.
        noise: standard deviation of what is added there, relative to the root mean square of the
            state.
        starts: random rotations that the search starts from.
        steps: gradient steps (Adam, cosine schedule) of each.
        lr: largest step size.
        seed: of everything random.
        position_mask: as for `interaction_graph`.
        forward: `forward(model, batch)` calls the model on a batch.
        progress: show progress bars.

    Raises:
        InputError: states of different sizes or positions, or numbers that make no sense.

    Example:
        >>> import interactgraph as itg
        >>> net = itg.zoo.compiled("frac_prevs")
        >>> fit = itg.fit_stream_rotation(
        ...     net.model, net.data, net.layers, n_samples=8, starts=1, steps=5, progress=False
        ... )
        >>> fit.rotation.shape
        torch.Size([14, 14])
    """
    for name, value in (("n_samples", n_samples), ("starts", starts), ("steps", steps)):
        whole(name, value)
    whole("seed", seed, 0)
    positive("noise", noise)
    positive("lr", lr)
    if len(layers) < 2:
        raise InputError(f"layers={list(layers)}; give two states of the stream or more")
    model, names = load_model(model), list(layers)
    runner = Runner.on(model, forward, None, None)
    generator = torch.Generator().manual_seed(seed)
    with prepared(runner.model):
        look = Layers.look(
            runner, data, resolve_sites(model, names), list(pairwise(names)),
            dict.fromkeys(names, Neurons()), baselines=dict.fromkeys(names[:-1], "zero"),
            position_mask=position_mask, progress=progress,
        )  # fmt: skip
        states, updates, derivatives = _collected(look, n_samples, noise, generator)
    results = []
    for start in range(starts):
        first = random_orthogonal(states.shape[1], seed + start).to(states)
        results.append(_searched(states, updates, derivatives, first, steps, lr, generator))
    results.sort(key=lambda result: result[1])
    rotation = results[0][0]
    shown = rotation.to(look.dtype)
    maps = {name: Linear(shown, shown.mT.contiguous()) for name in look.activations}
    return StreamRotation(maps, rotation, [loss for _, loss in results])


# --- what is to be sparse ------------------------------------------------------------------------


def _collected(
    look: Layers, n_samples: int, noise: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Directions of states and of updates `[n, d]`, and derivatives `[n, d, d]`, of norm one."""
    total = look.count(look.pairs[0][0], 1 << 40)
    states = updates = torch.empty(0)
    blocks: dict[Any, list[Tensor]] = {pair: [] for pair in look.pairs}
    for number, batch in enumerate(look.batches("states of the stream")):
        problems = look.problems(look.encode(batch, number))
        for pair, problem in problems.items():
            if problem.z.shape != problem.y.shape:
                raise InputError(
                    f"{pair[0]} has features {tuple(problem.z.shape[1:])} and {pair[1]} "
                    f"{tuple(problem.y.shape[1:])} (positions, size); the states of a residual "
                    "stream have the same"
                )
            counts = torch.ones(problem.z.shape[:2], dtype=torch.bool, device=problem.z.device)
            counts = counts if problem.mask is None else problem.mask
            z, y = problem.z[counts].double(), problem.y[counts].double()
            states = _distinct(states, torch.cat([z, y]))
            updates = _distinct(updates, y - z)
            wanted = max(1, round(n_samples * len(problem.z) / total))
            blocks[pair].append(_beside(problem, counts, wanted, noise, generator))
    derivatives = []
    for found in blocks.values():
        each = torch.cat(found)
        derivatives.append(each[torch.randperm(len(each), generator=generator)[:_BLOCKS]])
    if not any(len(each) for each in derivatives):
        raise InputError(
            "no state depends on the one before it but by the residual connection; give states "
            "with something in between"
        )
    return states, updates, torch.cat(derivatives)


def _distinct(known: Tensor, more: Tensor) -> Tensor:
    """Unit vectors, each once; up to so many."""
    if len(known) >= _ROWS:
        return known
    norms = more.norm(dim=1, keepdim=True)
    unit = (more / norms)[norms[:, 0] > 1e-6 * norms.max().clamp_min(1e-30)]
    rounded = unit.cpu().round(decimals=_ROUNDED)
    return torch.cat([known.to(rounded), rounded]).unique(dim=0)[:_ROWS]


def _beside(
    problem: PairProblem, counts: Tensor, wanted: int, noise: float, generator: torch.Generator
) -> Tensor:
    """Derivatives of updates at some samples, at one source position of each, of norm one."""
    chosen = torch.randperm(problem.n_samples, generator=generator)[:wanted]
    _, n_positions, d = problem.z.shape
    size = problem.z[counts].square().mean().sqrt()
    added = torch.randn(wanted, n_positions, d, generator=generator)[: len(chosen)]
    # The segment takes whole batches: what is not chosen stays at the samples.
    point, chosen = problem.z.clone(), chosen.to(problem.z.device)
    point[chosen] += noise * size * added.to(point)
    positions = torch.randint(n_positions, (problem.n_samples,), generator=generator)
    positions = positions.to(point.device)
    rows = torch.arange(problem.n_samples, device=point.device)
    columns = []
    for features in torch.arange(d, device=point.device).split(_TANGENTS):
        tangents = point.new_zeros(len(features), *point.shape)
        tangents[torch.arange(len(features))[:, None], rows, positions, features[:, None]] = 1
        moved = jvps(problem.segment, point, tangents) - tangents  # of the update
        columns.append(moved[:, chosen])
    jacobian = torch.cat(columns).permute(1, 2, 3, 0)  # [b, t, i, j]
    counted = counts[chosen] & counts[chosen, positions[chosen]][:, None]
    found = jacobian[counted].double().cpu()
    norms = found.flatten(1).norm(dim=1)[:, None, None]
    return (found / norms)[norms[:, 0, 0] > 1e-3]


# --- the search ----------------------------------------------------------------------------------


def _searched(
    states: Tensor,
    updates: Tensor,
    derivatives: Tensor,
    start: Tensor,
    steps: int,
    lr: float,
    generator: torch.Generator,
) -> tuple[Tensor, float]:
    """A rotation and its loss, from a start."""
    module = Rotation(start, "matrix_exp")
    optimiser = torch.optim.Adam(module.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, lr * 0.01)
    with torch.enable_grad():
        for _ in range(steps):
            some = torch.randperm(len(derivatives), generator=generator)[:_BATCH]
            optimiser.zero_grad()
            sparsity(module.matrix(), states, updates, derivatives[some]).backward()
            optimiser.step()
            schedule.step()
    with torch.no_grad():
        rotation = module.matrix().detach().clone()
        return rotation, float(sparsity(rotation, states, updates, derivatives))


def sparsity(rotation: Tensor, states: Tensor, updates: Tensor, derivatives: Tensor) -> Tensor:
    """The loss: less is sparser; mean |x| of unit vectors and matrices, relative to a dense one.

    Args:
        rotation: R, `[d, d]`.
        states: unit vectors, `[n, d]`.
        updates: unit vectors, `[n, d]`.
        derivatives: of norm one, `[n, d, d]`.
    """
    d = len(rotation)

    def size(x: Tensor, mean_square: float, flat: float) -> Tensor:
        return (x.square() / mean_square + flat).sqrt().mean()

    vectors = [size(x @ rotation.mT, 1 / d, _FLAT) for x in (states, updates) if len(x)]
    turned = rotation @ derivatives @ rotation.mT
    half = torch.stack(vectors).mean() / 2
    return half + size(turned, 1 / d**2, _FLAT_DERIVATIVES)
