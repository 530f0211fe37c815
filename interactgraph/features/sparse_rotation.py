"""Sparse rotation: orthogonal maps that make the Jacobians between adjacent layers sparse."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import InteractGraphError
from ..model import Forward, Runner, check_data, prepared, resolve_sites
from .feature_map import FeatureMap
from .fitting import FittingData, fitting_data
from .jacobians import dense_jacobians
from .linear import Linear, LinearMap
from .local_interaction_basis import LocalInteractionBasis
from .matching import Matching, match_rows
from .moments import moments_of
from .options import check_whole
from .pca import PCA
from .random_rotation import random_orthogonal
from .rotation_search import PairJacobians, rotated_squares, search
from .sparsity import check_sparsity, relative_size

__all__ = ["RotationFit", "SparseRotation", "fit_sparse_rotations"]

INITS = ("identity", "pca", "svd", "random")
BASES = ("neurons", "pca", "lib")
PARAMETRISATIONS = ("matrix_exp", "cayley", "householder")


@dataclass(frozen=True, eq=False)
class SparseRotation(LinearMap):
    """z = R B (f - m): an orthogonal R on a base B that makes connections sparse.

    Attributes:
        base: what is rotated: "neurons" (B = 1), "pca", or "lib" (features of the local
            interaction basis, in which a unit step matters equally in every direction).
        init: R to start from: "identity", "pca" (principal components of the base's features),
            "svd" (singular vectors of the mean Jacobian), or "random".
        sparsity: "l1", "log", "lhalf" or "kurtosis", see `interactgraph.features.sparsity`.
        of: make sparse the "jacobian" of each sample, or the "strength" of each edge (rms of
            gradient x activation).
        eps: below this share of the mean square, an entry counts as zero.
        rank: rotate only the first features of the base, the others stay; None: all.
        n_samples: samples whose Jacobians are held.
        n_rows: random rows of each Jacobian (target features and positions); None: all.
        batch_size: samples of one gradient step.
        steps: gradient steps.
        lr: largest step size.
        restarts: further starts, from random rotations; the lowest loss is kept.
        parametrisation: torch's orthogonal parametrisation.
        seed: of everything random.
        loss: of the result; set by fitting.
        rotation: R; set by fitting.
    """

    kind: ClassVar[str] = "sparse_rotation"
    base: Literal["neurons", "pca", "lib"] = "neurons"
    init: Literal["identity", "pca", "svd", "random"] = "svd"
    sparsity: str = "l1"
    of: Literal["jacobian", "strength"] = "jacobian"
    eps: float = 1e-3
    rank: int | None = None
    n_samples: int = 256
    n_rows: int | None = None
    batch_size: int = 64
    steps: int = 400
    lr: float = 0.03
    restarts: int = 0
    parametrisation: Literal["matrix_exp", "cayley", "householder"] = "matrix_exp"
    seed: int = 0
    loss: float | None = None
    rotation: Tensor | None = None

    def __post_init__(self) -> None:
        self._check_options(base=self.base, init=self.init)
        check_sparsity(self.sparsity)
        for name, choices in (
            ("base", BASES), ("init", INITS), ("of", ("jacobian", "strength")),
            ("parametrisation", PARAMETRISATIONS),
        ):  # fmt: skip
            if getattr(self, name) not in choices:
                raise InteractGraphError(
                    f"SparseRotation: {name}={getattr(self, name)!r} is unknown; choose one of "
                    + ", ".join(choices)
                )
        numbers = ("n_samples", "batch_size", "steps", "rank", "n_rows", "restarts")
        check_whole("SparseRotation", **{name: getattr(self, name) for name in numbers})
        if self.eps <= 0 or self.lr <= 0:
            raise InteractGraphError(
                f"SparseRotation: eps={self.eps} and lr={self.lr} must be above 0"
            )

    def fit(self, layer: str, data: FittingData) -> SparseRotation:
        """Fits this layer alone, against the features its targets have. See `FeatureMap.fit`."""
        based = self._based(layer, data)
        if not data.targets(layer):
            return data.cast(based)
        own = [pair for pair in data.pairs if pair[0] == layer]
        data = replace(data, maps={**data.maps, layer: based}, pairs=own)
        return _learn(data, {layer: based}, {layer: self}).maps[layer]

    def _based(self, layer: str, data: FittingData) -> SparseRotation:
        """The map with R = 1."""
        found: LinearMap
        if self.base == "neurons":
            mean = moments_of(data.rows(layer, f"mean of {layer}")).mean
            eye = torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
            found = Linear(eye, eye, mean)
        else:
            found = (PCA() if self.base == "pca" else LocalInteractionBasis()).fit(layer, data)
        assert found.encoder is not None
        assert found.decoder is not None
        n = len(found.encoder)
        rotated = replace(
            self, encoder=found.encoder, decoder=found.decoder, offset=found.offset,
            rotation=torch.eye(n, dtype=torch.float64, device=found.encoder.device),
        )  # fmt: skip
        return data.cast(rotated)

    def turned(self, rotation: Tensor, loss: float) -> SparseRotation:
        """The map with another R `[k, k]` on the first k features."""
        assert self.encoder is not None
        assert self.decoder is not None
        full = torch.eye(len(self.encoder), dtype=torch.float64)
        full[: len(rotation), : len(rotation)] = rotation
        r = full.to(self.encoder)
        return replace(
            self, encoder=r @ self.encoder, decoder=self.decoder @ r.mT, rotation=r, loss=loss
        )


@dataclass(frozen=True, eq=False)
class RotationFit:
    """What `fit_sparse_rotations` found.

    Attributes:
        maps: layer -> feature map.
        curves: loss after every step of each start, the best start first.
        sparsity: pair -> {"before", "after", "random"}: (sum |x|)^2 / (n sum x^2) of the Jacobians
            on held-out samples, 1 for dense and 1/n for a single entry.
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
    forward: Forward | None = None,
    progress: bool = True,
) -> RotationFit:
    """Learns rotations of several layers so that the Jacobians between neighbours are sparse.

    Args:
        model: the network.
        data: batches; the first samples are trained on, the next ones held out.
        layers: layers in order of execution.
        rotation: the options of the search.
        order: "joint": all layers at once; "from_output": the last layer first, every layer
            against the next one's; "from_input": the first layer first.
        keep: bases that some layers keep, for example {"logits": Neurons()}; those that are not
            fitted yet are.
        match: also answer whether the sparse output channels of X -> Y are the sparse input
            channels of Y -> Z; learns every pair on its own.
        forward: `forward(model, batch)` calls the model on a batch.
        progress: show progress bars.

    Raises:
        InteractGraphError: bad input, or options that do not go together.
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
    names = list(layers)
    sites = {site.name: site for site in resolve_sites(model, names)}
    pairs = list(pairwise(names))
    runner = Runner.on(model, forward, None, None)
    maps: dict[str, FeatureMap] = dict.fromkeys(names, options)
    if unknown := [layer for layer in keep or {} if layer not in names]:
        raise InteractGraphError(f"keep names {unknown}, which are not in layers={names}")
    maps.update(keep or {})
    with prepared(runner.model):
        fitting = fitting_data(runner, check_data(data), sites, pairs, maps, progress=progress)
        for layer in reversed(names):
            asked = fitting.maps[layer]
            if isinstance(asked, SparseRotation):
                fitting.maps[layer] = asked._based(layer, fitting)
            elif not asked.is_fitted:
                fitting.maps[layer] = asked.fit(layer, fitting)
        free = [layer for layer in names if isinstance(fitting.maps[layer], SparseRotation)]
        if not free:
            raise InteractGraphError(f"keep holds all of layers={names}; leave one free to rotate")
        given = dict.fromkeys(free, options)
        if order == "joint":
            return _learn(fitting, _rotations(fitting, free), given, match=match)
        sequence = free[::-1] if order == "from_output" else free
        curves: list[list[float]] = []
        for position, layer in enumerate(sequence):
            # Only the pairs to layers that are settled: this one's other side is still free.
            settled = [name for name in names if name not in sequence[position:]]
            chosen = [
                pair for pair in pairs if layer in pair and (set(pair) - {layer}) <= set(settled)
            ]
            if not chosen and position == 0 and len(sequence) > 1:
                chosen = [pair for pair in pairs if layer in pair]
            fit = _learn(
                replace(fitting, pairs=chosen), _rotations(fitting, [layer]), {layer: options}
            )
            fitting.maps[layer] = fit.maps[layer]
            curves += fit.curves
        learned = _rotations(fitting, free)
        return RotationFit(learned, curves, _held_out(fitting, learned), {})


def _rotations(data: FittingData, layers: Iterable[str]) -> dict[str, SparseRotation]:
    found = {}
    for layer in layers:
        feature_map = data.maps[layer]
        assert isinstance(feature_map, SparseRotation)
        found[layer] = feature_map
    return found


def _pair_jacobians(
    data: FittingData, options: SparseRotation, n_samples: int, skip: int = 0
) -> list[PairJacobians]:
    """Jacobians between the features that the maps have now, at some samples."""
    found = []
    for source, target in data.pairs:
        jacobian, z = dense_jacobians(data, source, target, n_samples, skip, options.n_rows,
                                      options.seed)  # fmt: skip
        feature_map = data.maps[source]
        decoder = getattr(feature_map, "decoder", None)
        offset = getattr(feature_map, "offset", None)
        encoder = getattr(feature_map, "encoder", None)
        if isinstance(decoder, Tensor) and isinstance(encoder, Tensor):
            jacobian = jacobian @ decoder.to(jacobian)
            z = (z - offset.to(z)) @ encoder.to(z).mT if isinstance(offset, Tensor) else z
        step = z if options.of == "strength" else None
        found.append(PairJacobians(source, target, jacobian, step))
    return found


def _learn(
    data: FittingData,
    based: Mapping[str, SparseRotation],
    options: Mapping[str, SparseRotation],
    *,
    match: bool = False,
) -> RotationFit:
    """Learns the rotations of some layers, the maps of all others held."""
    one = next(iter(options.values()))
    if one.n_rows is not None and len(based) > 1:
        raise InteractGraphError(
            "n_rows draws rows of the Jacobian, which a joint search also rotates; use "
            "order='from_output', or n_rows=None"
        )
    pairs = _pair_jacobians(data, one, one.n_samples)
    sizes: dict[str, int] = {}
    for pair in pairs:
        sizes[pair.source], sizes[pair.target] = pair.jacobian.shape[-1], pair.jacobian.shape[-2]
    free = {layer: min(sizes[layer], one.rank or sizes[layer]) for layer in based if layer in sizes}
    cut = [_cut(pair, free) for pair in pairs]
    starts = _starts(cut, {**sizes, **free}, list(free), one)
    measure = check_sparsity(one.sparsity)
    results = []
    total = one.steps * len(starts)
    with tqdm(total=total, desc="sparse rotation", disable=not data.progress, leave=False) as bar:
        for number, start in enumerate(starts):
            matrices, curve = search(
                cut, start, list(free), measure, eps=one.eps, steps=one.steps, lr=one.lr,
                batch_size=one.batch_size, seed=one.seed + number,
                parametrisation=one.parametrisation, tick=bar.update,
            )  # fmt: skip
            results.append((sum(curve[-10:]) / len(curve[-10:]), matrices, curve))
    results.sort(key=lambda result: result[0])
    loss, matrices, _ = results[0]
    maps = {layer: based[layer].turned(matrices[layer], loss) for layer in free}
    held = _held_out(data, maps)
    matching = _matchings(cut, starts[0], one) if match else {}
    return RotationFit(maps, [curve for _, _, curve in results], held, matching)


def _cut(pair: PairJacobians, ranks: Mapping[str, int]) -> PairJacobians:
    """The pair with the features that are rotated only."""
    j, i = ranks.get(pair.source), ranks.get(pair.target)
    step = None if pair.step is None else pair.step[..., :j].contiguous()
    return replace(pair, jacobian=pair.jacobian[..., :i, :j].contiguous(), step=step)


def _starts(
    pairs: Sequence[PairJacobians], sizes: Mapping[str, int], free: Sequence[str],
    options: SparseRotation,
) -> list[dict[str, Tensor]]:  # fmt: skip
    """Matrices to start from: the one asked for, then random ones."""
    first = {layer: torch.eye(size, dtype=torch.float64) for layer, size in sizes.items()}
    for layer in free:
        if options.init == "random":
            first[layer] = random_orthogonal(sizes[layer], options.seed)
        elif options.init == "svd":
            first[layer] = _singular_vectors(layer, pairs)
        elif options.init == "pca":
            first[layer] = _principal(layer, pairs, sizes[layer])
    result = [first]
    for restart in range(options.restarts):
        again = dict(first)
        for number, layer in enumerate(free):
            seed = options.seed + 1000 * (restart + 1) + number
            again[layer] = random_orthogonal(sizes[layer], seed)
        result.append(again)
    return [{layer: matrix.to(pairs[0].jacobian) for layer, matrix in s.items()} for s in result]


def _singular_vectors(layer: str, pairs: Sequence[PairJacobians]) -> Tensor:
    """Of the mean Jacobian that starts at the layer, else of the one that ends there."""
    for pair in pairs:
        if pair.source == layer:
            mean = pair.jacobian.mean((0, 1)).to(torch.float64)
            return torch.linalg.svd(mean, full_matrices=True)[2]
    mean = next(pair for pair in pairs if pair.target == layer).jacobian.mean((0, 1))
    return torch.linalg.svd(mean.to(torch.float64), full_matrices=True)[0].mT.contiguous()


def _principal(layer: str, pairs: Sequence[PairJacobians], size: int) -> Tensor:
    for pair in pairs:
        if pair.source == layer and pair.step is not None:
            z = pair.step.flatten(0, -2).to(torch.float64)
            return torch.linalg.eigh(z.mT @ z)[1].flip(1).mT.contiguous()
    return torch.eye(size, dtype=torch.float64)


def _held_out(
    data: FittingData, maps: Mapping[str, SparseRotation]
) -> dict[tuple[str, str], dict[str, float]]:
    """Sparsity before, after and under random rotations, on samples that were not trained on."""
    one = next(iter(maps.values()))
    fair = replace(one, of="jacobian", n_rows=None)
    now = replace(data, maps={**data.maps, **maps})
    held = _pair_jacobians(now, fair, one.n_samples, skip=one.n_samples)
    result = {}
    for pair in held:
        n_j, n_i = pair.jacobian.shape[-1], pair.jacobian.shape[-2]
        eye_j, eye_i = (torch.eye(n).to(pair.jacobian) for n in (n_j, n_i))

        def undo(layer: str, eye: Tensor) -> Tensor:
            r = maps[layer].rotation if layer in maps else None
            return eye if r is None else r.to(eye).mT

        def control(layer: str, eye: Tensor) -> Tensor:
            return random_orthogonal(len(eye), 7).to(eye) if layer in maps else eye

        s, t = pair.source, pair.target
        result[s, t] = {
            "before": relative_size(rotated_squares(pair, undo(s, eye_j), undo(t, eye_i))),
            "after": relative_size(pair.jacobian.square()),
            "random": relative_size(rotated_squares(pair, control(s, eye_j), control(t, eye_i))),
        }
    return result


def _matchings(
    pairs: Sequence[PairJacobians], start: Mapping[str, Tensor], one: SparseRotation
) -> dict[str, Matching]:
    """Output channels of X -> Y against input channels of Y -> Z, each pair learned on its own."""
    found: dict[str, dict[str, Tensor]] = {}
    for pair in pairs:
        ends = [pair.source, pair.target]
        matrices, _ = search(
            [pair], {layer: start[layer] for layer in ends}, ends, check_sparsity(one.sparsity),
            eps=one.eps, steps=one.steps, lr=one.lr, batch_size=one.batch_size, seed=one.seed,
            parametrisation=one.parametrisation,
        )  # fmt: skip
        found.setdefault(pair.target, {})["output"] = matrices[pair.target]
        found.setdefault(pair.source, {})["input"] = matrices[pair.source]
    return {
        layer: match_rows(both["output"], both["input"], seed=one.seed)
        for layer, both in found.items()
        if len(both) == 2
    }
