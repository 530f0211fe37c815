"""Sparse rotation: orthogonal maps that make the Jacobians between adjacent layers sparse."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from ..checks import positive, whole, whole_or_none
from ..errors import InteractGraphError
from .jacobians import dense_jacobians
from .linear import Linear, LinearMap
from .local_interaction_basis import LocalInteractionBasis
from .moments import eigenvectors, moments_of
from .pca import PCA
from .random_rotation import random_orthogonal
from .rotation_search import PairJacobians, search
from .sparsity import check_sparsity

if TYPE_CHECKING:
    from .feature_map import FittingData

__all__ = [
    "SparseRotation",
    "learn",
    "pair_jacobians",
    "rotated_part",
    "run_search",
    "singular_vectors",
]

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
        for name in ("n_samples", "batch_size", "steps", "rank", "n_rows"):
            whole_or_none(f"SparseRotation: {name}", getattr(self, name))
        whole("SparseRotation: restarts", self.restarts, 0)
        whole("SparseRotation: seed", self.seed, 0)
        positive("SparseRotation: eps", self.eps)
        positive("SparseRotation: lr", self.lr)

    def fit(self, layer: str, data: FittingData) -> SparseRotation:
        """Fits this layer alone, against the features its targets have. See `FeatureMap.fit`."""
        based = self.based(layer, data)
        if not data.targets(layer):
            return based.to(dtype=data.dtype)
        of_layer = [pair for pair in data.pairs if pair[0] == layer]
        data = data.changed(maps={layer: based}, pairs=of_layer)
        turned, _ = learn(data, {layer: based}, self)
        return turned[layer]

    def based(self, layer: str, data: FittingData) -> SparseRotation:
        """The map with R = 1."""
        linear: LinearMap
        if self.base == "neurons":
            mean = moments_of(data.rows(layer, f"mean of {layer}")).mean
            eye = torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
            linear = Linear(eye, eye, mean)
        else:
            linear = (PCA() if self.base == "pca" else LocalInteractionBasis()).fit(layer, data)
        assert linear.encoder is not None
        assert linear.decoder is not None
        n = len(linear.encoder)
        rotated = replace(
            self, encoder=linear.encoder, decoder=linear.decoder, offset=linear.offset,
            rotation=torch.eye(n, dtype=torch.float64, device=linear.encoder.device),
        )  # fmt: skip
        return rotated.to(dtype=data.dtype)

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


def learn(
    data: FittingData,
    based: Mapping[str, SparseRotation],
    options: SparseRotation,
    n_samples: int | None = None,
) -> tuple[dict[str, SparseRotation], list[list[float]]]:
    """Learns the rotations of some layers, the maps of all others held.

    Args:
        data: what is fitted; the pairs that count.
        based: layer -> map with R = 1, of the layers that are rotated.
        options: of the search.
        n_samples: the first ones, that are learned from; None: as many as the options say.

    Returns:
        Layer -> map with the best R, and the loss after every step of each start, the best first.

    Raises:
        InteractGraphError: options that do not go together.
    """
    if options.n_rows is not None and len(based) > 1:
        raise InteractGraphError(
            "n_rows draws rows of the Jacobian, which a joint search also rotates; use "
            "order='from_output', or n_rows=None"
        )
    pairs = pair_jacobians(data, options, n_samples or options.n_samples)
    sizes: dict[str, int] = {}
    for pair in pairs:
        sizes[pair.source], sizes[pair.target] = pair.jacobian.shape[-1], pair.jacobian.shape[-2]
    free = {
        layer: min(sizes[layer], options.rank or sizes[layer]) for layer in based if layer in sizes
    }
    pairs = [rotated_part(pair, free) for pair in pairs]
    starts = _starts(data, pairs, {**sizes, **free}, list(free), options)
    results = []
    total = options.steps * len(starts)
    with tqdm(total=total, desc="sparse rotation", disable=not data.progress, leave=False) as bar:
        for number, start in enumerate(starts):
            matrices, curve = run_search(pairs, start, list(free), options, number, bar.update)
            results.append((sum(curve[-10:]) / len(curve[-10:]), matrices, curve))
    results.sort(key=lambda result: result[0])
    loss, matrices, _ = results[0]
    maps = {layer: based[layer].turned(matrices[layer], loss) for layer in free}
    return maps, [curve for _, _, curve in results]


def run_search(
    pairs: Sequence[PairJacobians],
    start: Mapping[str, Tensor],
    free: Sequence[str],
    options: SparseRotation,
    number: int = 0,
    tick: Callable[[], object] = lambda: None,
) -> tuple[dict[str, Tensor], list[float]]:
    """One search with the options of a map; `number` makes its minibatches its own."""
    return search(
        pairs, start, free, check_sparsity(options.sparsity), eps=options.eps,
        steps=options.steps, lr=options.lr, batch_size=options.batch_size,
        seed=options.seed + number, parametrisation=options.parametrisation, tick=tick,
    )  # fmt: skip


def pair_jacobians(
    data: FittingData, options: SparseRotation, n_samples: int, skip: int = 0
) -> list[PairJacobians]:
    """Jacobians between the features that the maps have now, at some samples."""
    found = []
    for source, target in data.pairs:
        jacobian, z, mask = dense_jacobians(
            data, source, target, n_samples, skip, options.n_rows, options.seed,
            same_rows=options.of == "strength",
        )  # fmt: skip
        feature_map = data.maps[source]
        decoder = getattr(feature_map, "decoder", None)
        offset = getattr(feature_map, "offset", None)
        encoder = getattr(feature_map, "encoder", None)
        if isinstance(decoder, Tensor) and isinstance(encoder, Tensor):
            jacobian = jacobian @ decoder.to(jacobian)
            z = (z - offset.to(z)) @ encoder.to(z).mT if isinstance(offset, Tensor) else z
        if options.of == "strength":
            # Attributions are summed over source positions; one that does not count adds nothing.
            if mask is not None:
                z, jacobian = z * mask[..., None], jacobian * mask[..., None, None]
            found.append(PairJacobians(source, target, jacobian, z))
        else:
            jacobian = jacobian if mask is None else jacobian[mask][:, None]
            found.append(PairJacobians(source, target, jacobian))
        if not len(jacobian):
            raise InteractGraphError(
                f"position_mask leaves no position of {source} -> {target} in the samples that "
                "rotations are learned from or measured on; give other or more samples"
            )
    return found


def rotated_part(pair: PairJacobians, ranks: Mapping[str, int | None]) -> PairJacobians:
    """The pair with the features that are rotated only."""
    j, i = ranks.get(pair.source), ranks.get(pair.target)
    step = None if pair.step is None else pair.step[..., :j].contiguous()
    return replace(pair, jacobian=pair.jacobian[..., :i, :j].contiguous(), step=step)


def _starts(
    data: FittingData, pairs: Sequence[PairJacobians], sizes: Mapping[str, int],
    free: Sequence[str], options: SparseRotation,
) -> list[dict[str, Tensor]]:  # fmt: skip
    """Matrices to start from: the one asked for, then random ones."""
    first = {layer: torch.eye(size, dtype=torch.float64) for layer, size in sizes.items()}
    for layer in free:
        if options.init == "random":
            first[layer] = random_orthogonal(sizes[layer], options.seed, layer)
        elif options.init == "svd":
            first[layer] = singular_vectors(layer, pairs)
        elif options.init == "pca":
            first[layer] = _principal(layer, data, sizes[layer])
    result = [first]
    for restart in range(1, options.restarts + 1):
        again = {
            layer: random_orthogonal(sizes[layer], options.seed + 1000 * restart, layer)
            for layer in free
        }
        result.append({**first, **again})
    return [{layer: matrix.to(pairs[0].jacobian) for layer, matrix in s.items()} for s in result]


def singular_vectors(layer: str, pairs: Sequence[PairJacobians]) -> Tensor:
    """Of the mean Jacobian that starts at the layer, else of the one that ends there."""
    for pair in pairs:
        if pair.source == layer:
            mean = pair.jacobian.mean((0, 1)).to(torch.float64)
            return torch.linalg.svd(mean, full_matrices=True)[2]
    mean = next(pair for pair in pairs if pair.target == layer).jacobian.mean((0, 1))
    return torch.linalg.svd(mean.to(torch.float64), full_matrices=True)[0].mT.contiguous()


def _principal(layer: str, data: FittingData, size: int) -> Tensor:
    """Principal components of the first features of a layer's base."""
    encoder = data.maps[layer].encoder  # type: ignore[attr-defined]
    covariance = moments_of(data.rows(layer, f"covariance of {layer}")).covariance
    to_features = encoder[:size].to(covariance)
    return eigenvectors(to_features @ covariance @ to_features.mT)[1].mT.contiguous().cpu()
