"""Rotations of several layers at once or one after the other, and what they are worth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import InteractGraphError
from ..features import FeatureMap, Neurons, SparseRotation
from ..features.linear import LinearMap
from ..features.matching import Matching, match_rows
from ..features.random_rotation import random_orthogonal
from ..features.rotation_search import rotated_squares
from ..features.sparse_rotation import (
    learn,
    pair_jacobians,
    rotated_part,
    run_search,
    singular_vectors,
)
from ..features.sparsity import relative_size
from ..layers import Layers
from ..model import Forward, PositionMask, Runner, load_model, prepared, resolve_sites

__all__ = ["RotationFit", "fit_sparse_rotations"]


@dataclass(frozen=True, eq=False)
class RotationFit:
    """What `fit_sparse_rotations` found.

    Attributes:
        maps: layer -> feature map.
        curves: loss after every step of each start, the best start first.
        sparsity: pair -> {"before", "after", "random"}: (sum |x|)^2 / (n sum x^2) of the Jacobians
            on held-out samples, 1 for dense and 1/n for a single entry. Empty for a single sample.
        matching: inner layer -> how well output channels, found for the pair before it alone,
            match input channels, found for the pair after it alone.
    """

    maps: dict[str, SparseRotation]
    curves: list[list[float]] = field(repr=False)
    sparsity: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    matching: dict[str, Matching] = field(default_factory=dict)


def fit_sparse_rotations(
    model: nn.Module,
    data: Iterable[Any],
    layers: Sequence[str],
    *,
    rotation: SparseRotation | None = None,
    order: Literal["joint", "from_output", "from_input"] = "joint",
    keep: Mapping[str, FeatureMap] | None = None,
    match: bool = False,
    position_mask: PositionMask | None = None,
    forward: Forward | None = None,
    progress: bool = True,
) -> RotationFit:
    """Learns rotations of several layers so that the Jacobians between neighbours are sparse.

    Args:
        model: the network.
        data: batches; the first samples are trained on (`rotation.n_samples`, at most half), as
            many of the next ones held out.
        layers: layers in order of execution.
        rotation: the options of the search.
        order: "joint": all layers at once; "from_output": the last layer first, every layer
            against the next one's; "from_input": the first layer first.
        keep: bases that some layers keep, for example {"logits": Neurons()}; those that are not
            fitted yet are.
        match: also answer whether the sparse output channels of X -> Y are the sparse input
            channels of Y -> Z; learns every pair on its own, from starts of its own.
        position_mask: as for `interaction_graph`.
        forward: `forward(model, batch)` calls the model on a batch.
        progress: show progress bars.

    Raises:
        InteractGraphError: bad input, or options that do not go together.

    Example:
        >>> import interactgraph as itg
        >>> net = itg.zoo.planted_modules(widths=(8, 12, 8), n_modules=2, n_samples=128)
        >>> options = itg.features.SparseRotation(steps=5, n_samples=32)
        >>> fit = itg.fit_sparse_rotations(
        ...     net.model, net.data, ["input", "1"], rotation=options, progress=False
        ... )
        >>> sorted(fit.sparsity["input", "1"])
        ['after', 'before', 'random']
    """
    if len(layers) < 2 or order not in ("joint", "from_output", "from_input"):
        raise InteractGraphError(
            f"layers={list(layers)}, order={order!r}; give two layers or more and 'joint', "
            "'from_output' or 'from_input'"
        )
    options = rotation or SparseRotation()
    if match and order != "joint":
        raise InteractGraphError(
            f"match=True learns every pair on its own, order={order!r} one layer after the other; "
            "use order='joint'"
        )
    if options.n_rows is not None and order == "from_input":
        raise InteractGraphError(
            "n_rows draws rows of the Jacobian, which order='from_input' rotates; use "
            "order='from_output', or n_rows=None"
        )
    model, names = load_model(model), list(layers)
    sites, pairs = resolve_sites(model, names), list(pairwise(names))
    runner = Runner.on(model, forward, None, None)
    maps: dict[str, FeatureMap] = dict.fromkeys(names, options)
    if unknown := [layer for layer in keep or {} if layer not in names]:
        raise InteractGraphError(f"keep names {unknown}, which are not in layers={names}")
    for layer, kept in (keep or {}).items():
        if not isinstance(kept, FeatureMap):
            raise InteractGraphError(
                f"keep[{layer!r}] is {kept!r}; give a feature map such as Neurons()"
            )
        if layer != names[-1] and not isinstance(kept, (Neurons, LinearMap)):
            raise InteractGraphError(
                f"keep[{layer!r}] is a {type(kept).__name__}; rotations are learned between linear "
                "features: keep Neurons(), a PCA or another linear basis there (the last layer may "
                "have any features)"
            )
    maps.update(keep or {})
    with prepared(runner.model):
        fitting = Layers.look(
            runner, data, sites, pairs, maps, position_mask=position_mask, progress=progress
        )
        free = [layer for layer in names if layer not in (keep or {})]
        for layer in reversed(names):
            asked = fitting.maps[layer]
            if layer in free:
                assert isinstance(asked, SparseRotation)
                asked = asked.based(layer, fitting)
            elif not asked.is_fitted:
                asked = asked.fit(layer, fitting).to(dtype=fitting.dtype)
            fitting = fitting.changed(maps={layer: asked})
        if not free:
            raise InteractGraphError(f"keep holds all of layers={names}; leave one free to rotate")
        total = fitting.count(names[0], 2 * options.n_samples)
        n_samples = max(1, min(options.n_samples, total // 2))
        if order == "joint":
            learned, curves = learn(fitting, _rotations(fitting, free), options, n_samples)
            held = _held_out(fitting, learned, options, n_samples, total)
            matching = _matchings(fitting, free, options, n_samples) if match else {}
            return RotationFit(learned, curves, held, matching)
        sequence = free[::-1] if order == "from_output" else free
        curves = []
        for position, layer in enumerate(sequence):
            # Only the pairs to layers that are settled: this one's other side is still free.
            settled = [name for name in names if name not in sequence[position:]]
            chosen = [
                pair for pair in pairs if layer in pair and (set(pair) - {layer}) <= set(settled)
            ]
            if not chosen and position == 0 and len(sequence) > 1:
                chosen = [pair for pair in pairs if layer in pair]
            turned, new_curves = learn(
                fitting.changed(pairs=chosen), _rotations(fitting, [layer]), options, n_samples
            )
            fitting = fitting.changed(maps=turned)
            curves += new_curves
        learned = _rotations(fitting, free)
        return RotationFit(learned, curves, _held_out(fitting, learned, options, n_samples, total))


def _rotations(data: Layers, layers: Iterable[str]) -> dict[str, SparseRotation]:
    rotations = {}
    for layer in layers:
        feature_map = data.maps[layer]
        assert isinstance(feature_map, SparseRotation)
        rotations[layer] = feature_map
    return rotations


def _held_out(
    data: Layers, maps: Mapping[str, SparseRotation], options: SparseRotation,
    n_samples: int, total: int,
) -> dict[tuple[str, str], dict[str, float]]:  # fmt: skip
    """Sparsity before, after and under random rotations, on samples that were not trained on."""
    if total <= n_samples:
        return {}
    fair = replace(options, of="jacobian", n_rows=None)
    now = data.changed(maps=maps)
    held = pair_jacobians(now, fair, n_samples, skip=n_samples)
    result = {}
    for pair in held:
        n_j, n_i = pair.jacobian.shape[-1], pair.jacobian.shape[-2]
        eye_j, eye_i = (torch.eye(n).to(pair.jacobian) for n in (n_j, n_i))

        def undo(layer: str, eye: Tensor) -> Tensor:
            r = maps[layer].rotation if layer in maps else None
            return eye if r is None else r.to(eye).mT

        def control(layer: str, eye: Tensor) -> Tensor:
            if layer not in maps:
                return eye
            n, turned = min(len(eye), options.rank or len(eye)), eye.clone()
            turned[:n, :n] = random_orthogonal(n, 7, layer).to(eye)
            return turned

        s, t = pair.source, pair.target
        result[s, t] = {
            "before": relative_size(rotated_squares(pair, undo(s, eye_j), undo(t, eye_i))),
            "after": relative_size(pair.jacobian.square()),
            "random": relative_size(rotated_squares(pair, control(s, eye_j), control(t, eye_i))),
        }
    return result


def _matchings(
    data: Layers, free: Sequence[str], options: SparseRotation, n_samples: int
) -> dict[str, Matching]:
    """Output channels of X -> Y against input channels of Y -> Z, each pair learned on its own.

    Both searches start from what only their own pair says, or at random: from one start they would
    agree before they have learned anything.
    """
    matchings: dict[str, dict[str, Tensor]] = {}
    for number, whole in enumerate(pair_jacobians(data, options, n_samples)):
        pair = rotated_part(whole, dict.fromkeys(free, options.rank))
        ends = {pair.source: pair.jacobian.shape[-1], pair.target: pair.jacobian.shape[-2]}
        start = {}
        for layer, size in ends.items():
            if layer not in free:
                start[layer] = torch.eye(size, dtype=torch.float64)
            elif options.init == "svd":
                start[layer] = singular_vectors(layer, [pair])
            else:
                start[layer] = random_orthogonal(size, options.seed + 100 + number, layer)
            start[layer] = start[layer].to(pair.jacobian)
        learned = [layer for layer in ends if layer in free]
        matrices = run_search([pair], start, learned, options)[0] if learned else start
        matchings.setdefault(pair.target, {})["output"] = matrices[pair.target]
        matchings.setdefault(pair.source, {})["input"] = matrices[pair.source]
    return {
        layer: match_rows(both["output"], both["input"], seed=options.seed)
        for layer, both in matchings.items()
        if len(both) == 2 and layer in free
    }
