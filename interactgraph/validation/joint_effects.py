"""How well modules predict what taking features away together does: one number for a partition.

If modules do not need each other, the change d(S) of the output when a set S of features is taken
away is the sum of the changes when its parts in each module are: what features do jointly, beyond
the sum of what they do alone, happens inside modules. What the sum misses,

    E = sum over S and samples of |d(S) - sum_m d(S and m)|^2,

is small for any coarse partition and for features that do nothing, so it is held against that of
random modules with the same numbers of features in every layer and about the same strengths:

    score = 1 - E / (mean E of random modules):   1: it misses nothing, 0: no better than random.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..checks import whole
from ..communities import Partition
from ..errors import InteractGraphError
from ..graph import InteractionGraph
from ..model import Forward, PositionMask, Runner, check_data, load_model, prepared, read_mask
from .controls import Masks, matched_partition, set_size
from .module_ablation import ModuleAblation
from .modules import check, hidden_layers, look

__all__ = ["JointEffects", "joint_effects"]

_NOTHING = 1e-9  # share of the effects that is rounding

Membership = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class JointEffects:
    """What the sum over modules misses of joint effects.

    Attributes:
        own: E of the partition for each set, over the sum of |d(S)|^2 of all sets, `[sets]`.
        other: the same of random modules, `[controls, sets]`.
    """

    own: np.ndarray
    other: np.ndarray

    @property
    def error(self) -> float:
        """Share of the joint effects that the sum over the partition's modules misses."""
        return float(self.own.sum())

    @property
    def control_errors(self) -> np.ndarray:
        """The same of every random partition, `[controls]`."""
        return self.other.sum(1)

    @property
    def score(self) -> float:
        """1 - error / mean error of random modules; NaN where effects add up anyway."""
        of_random = float(self.control_errors.mean())
        return 1 - self.error / of_random if of_random > _NOTHING else float("nan")

    @property
    def spread(self) -> float:
        """Standard deviation of the score of random modules, held against each other."""
        errors = self.control_errors
        if len(errors) < 2 or not errors.mean() > _NOTHING:
            return float("nan")
        return float(errors.std(ddof=1) / errors.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of the score over the sets, by the jackknife; NaN for a single one."""
        n = len(self.own)
        if n < 2 or not self.control_errors.mean() > _NOTHING:
            return float("nan")
        mean_other = self.other.mean(0)
        left = 1 - (self.own.sum() - self.own) / (mean_other.sum() - mean_other)
        return float(np.sqrt((n - 1) / n * ((left - left.mean()) ** 2).sum()))

    def __str__(self) -> str:
        if np.isnan(self.score):
            return (
                "joint effects: what features do together is the sum of what they do alone, for "
                "any modules; nothing to predict"
            )
        return (
            f"joint effects: modules predict {self.score:.0%} of what random sets as large and "
            f"strong miss (+- {self.standard_error:.1%} over {len(self.own)} sets; random modules "
            f"0 +- {self.spread:.1%}); their sum misses {self.error:.2%} of the effects, that of "
            f"random ones {self.control_errors.mean():.2%}"
        )


def joint_effects(
    graph: InteractionGraph,
    partition: Partition,
    model: nn.Module,
    data: Iterable[Any],
    *,
    layers: Sequence[str] | None = None,
    baseline: str | Tensor | Mapping[str, str | Tensor] = "mean",
    share: float = 0.5,
    n_sets: int = 8,
    n_controls: int = 5,
    position_mask: PositionMask | None = None,
    forward: Forward | None = None,
    seed: int = 0,
    progress: bool = True,
) -> JointEffects:
    """Takes random sets of features away, whole and module by module, and compares the outputs.

    Two partitions of a graph can be compared by the `score`, whatever their numbers of modules: the
    same seed takes the same sets away.

    Args:
        graph: the graph; its feature maps are used.
        partition: its modules; features in none count as one more.
        model: the network; what changes is its first output tensor.
        data: batches.
        layers: where features are taken away; None: layers that are source and target of pairs.
        baseline: as for `ablate_modules`.
        share: of the features, that a random set has.
        n_sets: random sets.
        n_controls: random partitions.
        position_mask: which positions count, as for `interaction_graph`.
        forward: `forward(model, batch)` calls the model on a batch.
        seed: of sets and random partitions.
        progress: show a progress bar.

    Returns:
        What the partition and the random ones miss. About n_sets * n_modules * (1 + n_controls)
        runs over the data.

    Raises:
        InteractGraphError: bad input; the message says what was found and how to mend it.

    Example:
        >>> import interactgraph as itg
        >>> net = itg.zoo.planted_modules(
        ...     widths=(8, 12, 12, 8), n_modules=2, n_samples=64, cross_talk=0
        ... )
        >>> graph = itg.interaction_graph(net.model, net.data, net.layers, progress=False)
        >>> true = itg.Partition(net.truth, quality=0.0)
        >>> round(itg.joint_effects(graph, true, net.model, net.data, progress=False).score, 6)
        1.0
    """
    n_sets, n_controls = whole("n_sets", n_sets, 1), whole("n_controls", n_controls, 1)
    seed = whole("seed", seed, 0)
    if not 0 < share < 1:
        raise InteractGraphError(f"share={share!r} must be between 0 and 1")
    layers = hidden_layers(graph) if layers is None else list(dict.fromkeys(layers))
    check(graph, partition, ("features",), layers, baseline)
    own = {layer: partition.membership[layer] for layer in layers}
    # Sets come from a generator of their own: other partitions of a graph get the same ones.
    draw, random = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    sets = [
        {layer: draw.random(len(modules)) < share for layer, modules in own.items()}
        for _ in range(n_sets)
    ]
    partitions = [own, *(matched_partition(graph, own, random) for _ in range(n_controls))]
    runner = Runner.on(load_model(model), forward, None, None)
    with prepared(model), torch.no_grad():
        batches = check_data(data)
        batches.keep_order("joint effects, which go over the data many times, need")
        looked = look(graph, runner, batches, layers, baseline, position_mask)
        ablation = ModuleAblation(looked, {})
        parts = [[_parts(each, taken) for taken in sets] for each in partitions]
        with tqdm(desc="joint effects", disable=not progress, leave=False) as bar:
            missed, effect = _missed(ablation, sets, parts, bar)
    scale = effect.sum() or 1.0
    return JointEffects(missed[0] / scale, missed[1:] / scale)


def _parts(membership: Membership, taken: Masks) -> list[Masks]:
    """The part of a set in every module, those that are not empty."""
    modules = np.unique(np.concatenate(list(membership.values())))
    parts = [
        {layer: mask & (membership[layer] == module) for layer, mask in taken.items()}
        for module in modules
    ]
    return [part for part in parts if set_size(part)]


def _missed(
    ablation: ModuleAblation,
    sets: Sequence[Masks],
    parts: Sequence[Sequence[Sequence[Masks]]],
    bar: tqdm[Any],
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of squares over samples: what sums miss `[partitions, sets]`, and effects `[sets]`."""
    missed, effect = np.zeros((len(parts), len(sets))), np.zeros(len(sets))
    for batch in ablation.layers.data:
        batch = ablation.layers.runner.convert(batch)
        intact = ablation.output(batch, None, "features").double()
        counts = read_mask(ablation.layers.position_mask, batch)

        for n, taken in enumerate(sets):
            whole_set = _change(ablation, batch, taken, intact, counts)
            effect[n] += float(whole_set.square().sum())
            for k, several in enumerate(parts):
                rest = whole_set.clone()
                for part in several[n]:
                    rest -= _change(ablation, batch, part, intact, counts)
                    bar.update()
                missed[k, n] += float(rest.square().sum())
    return missed, effect


def _change(
    ablation: ModuleAblation, batch: Any, masks: Masks, intact: Tensor, counts: Tensor | None
) -> Tensor:
    """Of the output, with features taken away; zero at positions that do not count."""
    change = ablation.output(batch, masks, "features").double() - intact
    if counts is not None and change.ndim > 2 and change.shape[:2] == counts.shape:
        mask = counts.to(change)
        change *= mask.reshape(*mask.shape, *[1] * (change.ndim - 2))
    return change
