"""The mean squared Jacobian M of a segment, exactly or from random probes.

M[j, j'] = mean over samples and source positions of sum_{t,i} J[t,i,s,j] J[t,i,s,j'], with
J = dy[b,t,i] / df[b,s,j] (arXiv 2405.10928, section 3.2). Five ways, cheapest first:

- *affine*: J is the same for every sample. One random combination c'J of its rows tells, because
  two matrices that agree on a random vector are equal with probability one; J is computed once.
- *closed form*: where the segment is affine-pointwise-affine, the slopes of the pointwise function
  are all that differs between samples; their second moments give M
  (`interactgraph.calculus.second_moments`).
- *probes*: c'J with random signs c has E[(c'J)'(c'J)] = sum_{t,i} J'J: unbiased, a few passes.
- *rows*: one VJP for each target feature and position.
- *columns*: one JVP for each source neuron and position, where that is fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ..calculus.derivatives import jvps, pull_back
from ..calculus.path import PathRule, StraightPath, at_sample
from ..calculus.rounding import tolerance
from ..calculus.second_moments import AffineNonlinearAffine, SlopeMoments
from ..errors import InteractGraphError
from .feature_map import FittingData
from .local_segment import LocalSegment

__all__ = ["MeanSquareJacobian", "dense_jacobians"]

_JVP = 2.0  # VJPs that a JVP costs, measured on a CPU
_ELEMENTS = 1 << 15  # elements of a block of rows: near the cache
_ELEMENTS_GPU = 1 << 21
_ENTRIES = 1 << 25  # of the matrices of a closed form, and of the second moments of its slopes
_MATRICES = 8  # batches whose passes a closed form's matrices may cost


@dataclass(eq=False)
class MeanSquareJacobian:
    """Running M of one segment over batches, float64.

    Attributes:
        size: source neurons d.
        n_probes: random probes per batch; None: exact.
        rule: nodes of the path that J is averaged over; `at_sample()`: the sample itself.
        origin: where the path starts, `[d]`.
        seed: of the probes.
        way: what was used, for reports.
    """

    size: int
    n_probes: int | None = None
    rule: PathRule = at_sample()  # noqa: RUF009 (frozen)
    origin: Tensor | None = None
    seed: int = 0
    way: Literal["affine", "closed form", "probes", "rows", "columns", ""] = ""
    total: Tensor = field(init=False)
    count: int = 0
    _constant: tuple[Tensor, Tensor, Tensor] | None = None
    _maybe_affine: bool = True
    _moments: SlopeMoments | None = None
    _maybe_closed: bool = True

    def __post_init__(self) -> None:
        self.total = torch.zeros(self.size, self.size, dtype=torch.float64)
        self._generator = torch.Generator().manual_seed(self.seed)

    @property
    def mean(self) -> Tensor:
        """M so far, `[d, d]`."""
        total = self.total if self._moments is None else self.total + self._moments.total
        return total / max(self.count, 1)

    def add(self, segment: LocalSegment) -> None:
        """Adds a batch."""
        b, s, _ = segment.point.shape
        self.total = self.total.to(segment.point.device)
        self.count += b * s if segment.source_mask is None else int(segment.source_mask.sum())
        if self._add_affine(segment) or self._add_closed_form(segment):
            return
        n_rows = segment.n_targets * segment.n_positions
        if self.n_probes is not None and self.n_probes < n_rows:
            self.way = "probes"
            signs = torch.randint(
                2, (self.n_probes, b, segment.n_positions, segment.n_targets),
                generator=self._generator,
            ).to(segment.point) * 2 - 1  # fmt: skip
            gradients = self._averaged_rows(segment, _masked(signs, segment.target_mask))
            self._add_rows(gradients, segment, 1 / self.n_probes)
        elif n_rows <= _JVP * self.size * s:
            self.way = "rows"
            for gradients in self._all_rows(segment, n_rows):
                self._add_rows(gradients, segment, 1.0)
        else:
            self.way = "columns"
            for columns in self._columns(segment):
                flat = columns.to(torch.float64).flatten(1)
                self.total += flat @ flat.mT

    def _averaged_rows(self, segment: LocalSegment, cotangents: Tensor) -> Tensor:
        """Products c'J averaged over the path, `[c, b, s, d]`."""
        return self.rule.integral(lambda u: _pull_back(segment, u, self.origin)(cotangents))

    def _all_rows(self, segment: LocalSegment, n_rows: int) -> Iterator[Tensor]:
        """All rows of J, averaged over the path, some at a time: `[c, b, s, d]`."""
        b, n_targets = len(segment.point), segment.n_targets
        # With one node, the forward pass is shared by all rows.
        single = self.rule.nodes[0] if len(self.rule.nodes) == 1 else None
        alone = None if single is None else _pull_back(segment, single, self.origin)
        most = _ELEMENTS if segment.point.device.type == "cpu" else _ELEMENTS_GPU
        per_block = max(1, most // segment.point.numel())
        for start in range(0, n_rows, per_block):
            chosen = torch.arange(start, min(start + per_block, n_rows))
            cotangents = segment.point.new_zeros(len(chosen), 1, n_rows)
            cotangents[torch.arange(len(chosen)), 0, chosen] = 1
            shaped = cotangents.unflatten(-1, (segment.n_positions, n_targets))
            shaped = _masked(shaped.expand(-1, b, -1, -1), segment.target_mask)
            yield alone(shaped) if alone else self._averaged_rows(segment, shaped)

    def _add_rows(self, gradients: Tensor, segment: LocalSegment, weight: float) -> None:
        """Adds sum g g' of gradients `[c, b, s, d]`."""
        flat = _masked(gradients, segment.source_mask).to(torch.float64).flatten(0, -2)
        self.total += weight * (flat.mT @ flat)

    def _columns(self, segment: LocalSegment) -> Iterator[Tensor]:
        """The columns of J of one source position after the other, `[d, b, t, i]`."""
        b, s, d = segment.point.shape
        eye = torch.eye(d, dtype=segment.point.dtype, device=segment.point.device)
        for position in range(s):
            tangents = segment.point.new_zeros(d, b, s, d)
            tangents[:, :, position] = eye[:, None]
            moved = _masked(tangents, segment.source_mask)
            columns = self._averaged_columns(segment, moved)
            yield _masked(columns, segment.target_mask)

    def _averaged_columns(self, segment: LocalSegment, tangents: Tensor) -> Tensor:
        """Products J t averaged over the path, `[c, b, t, i]`."""
        return self.rule.integral(
            lambda u: jvps(segment.function, _at(segment, u, self.origin), tangents)
        )

    def _add_affine(self, segment: LocalSegment) -> bool:
        """Adds the batch if J is the same for all samples of all batches so far."""
        if not self._maybe_affine:
            return False
        if segment.source_mask is not None or segment.target_mask is not None:
            self._maybe_affine = False
            return False
        shape = (segment.n_positions, segment.n_targets)
        known = self._constant
        if known is None:
            probe = torch.randn(shape, generator=self._generator).to(segment.point)
        elif known[0].shape == shape and known[1].shape == segment.point.shape[1:]:
            probe = known[0]
        else:
            self._maybe_affine = False
            return False
        # At one sample of the batch, at a shifted point, and at all the others.
        point = torch.cat([segment.point, segment.point.flip(0) * -0.7 + 0.1], 0)
        gradients = self._probe_twice(segment, probe, point)
        expected = gradients[0] if known is None else known[1]
        share = tolerance("maps", gradients.dtype)
        # For every source neuron: the steepest must not hide the others.
        apart = (gradients - expected).abs().amax((0, 1))
        if bool((apart > share * expected.abs().amax(0)).any()):
            self._maybe_affine = False
            return False
        if known is None:
            flat = self._packed_rows(segment).to(torch.float64).flatten(0, -2)
            known = self._constant = (probe, expected, flat.mT @ flat)
        self.way = "affine"
        self.total += known[2] * len(segment.point)
        return True

    def _add_closed_form(self, segment: LocalSegment) -> bool:
        """Adds the batch if J is B diag(slopes) A + C, with the matrices of all batches so far."""
        if not self._maybe_closed:
            return False
        self._maybe_closed = self._has_closed_form(segment)
        return self._maybe_closed

    def _has_closed_form(self, segment: LocalSegment) -> bool:
        if segment.source_mask is not None or segment.target_mask is not None:
            return False
        if torch.finfo(segment.point.dtype).eps > 1e-6:
            return False  # in half precision nothing could be confirmed
        n_rows = segment.n_positions * segment.n_targets
        closed = AffineNonlinearAffine.read(segment.function, segment.point, n_rows)
        if closed is None:
            return False
        _, s, d = segment.point.shape
        width = closed.n_hidden * len(closed.structure.nonlinearities)
        passes = n_rows if self.n_probes is None else min(n_rows, self.n_probes)
        entries = width * s * d + n_rows * (width + s * d)
        if max(width**2, entries) > _ENTRIES or width**2 > 2 * passes * s * d**2:
            return False
        # The matrices take a pass for every sample's worth of rows, as often as not for one batch.
        if closed.n_hidden + n_rows > _MATRICES * passes * len(segment.point):
            return False
        known = self._moments or SlopeMoments((s, d), *closed.matrices())
        if known.shape != (s, d) or known.after.shape != (n_rows, width):
            return False
        # A random c for every sample: c'J of the segment itself tells whether this is its J.
        slopes_at_point = closed.slopes(segment.point)
        shape = (len(segment.point), n_rows)
        cotangents = torch.randn(shape, generator=self._generator).to(segment.point)
        shaped = cotangents.unflatten(1, (segment.n_positions, segment.n_targets))
        expected = _pull_back(segment)(shaped[None])[0].double()
        found, scale = known.pulled_back(cotangents.double(), slopes_at_point)
        # For every sample and neuron, as far as rounding can tell: none may hide another.
        share = tolerance("maps", segment.point.dtype)
        if not bool(((found - expected).abs() <= share * scale).all()):
            return False
        slopes = self.rule.integral(
            lambda u: slopes_at_point if u == 1.0 else closed.slopes(_at(segment, u, self.origin))
        )
        self._moments, self.way = known, "closed form"
        known.add(slopes)
        return True

    def _probe_twice(self, segment: LocalSegment, probe: Tensor, point: Tensor) -> Tensor:
        half = len(segment.point)
        cotangents = probe.expand(1, half, *probe.shape)
        parts = [
            _pull_back_at(segment.function, part)(cotangents)[0]
            for part in (point[:half], point[half:])
        ]
        return torch.cat(parts)

    def _packed_rows(self, segment: LocalSegment) -> Tensor:
        """All rows of a Jacobian that is the same for all samples, `[rows, s, d]`.

        Every sample of the batch carries another row, so that few passes do.
        """
        b, n_rows = len(segment.point), segment.n_positions * segment.n_targets
        rows = []
        for start in range(0, n_rows, b):
            n_block = min(b, n_rows - start)
            cotangents = segment.point.new_zeros(b, n_rows)
            cotangents[torch.arange(n_block), start + torch.arange(n_block)] = 1
            shaped = cotangents.unflatten(-1, (segment.n_positions, segment.n_targets))
            rows.append(_pull_back(segment)(shaped[None])[0, :n_block])
        return torch.cat(rows)


def _at(segment: LocalSegment, u: float, origin: Tensor | None) -> Tensor:
    """The point u of the path from an origin to the sample."""
    if origin is None:
        return segment.point
    return StraightPath(segment.point, segment.point - origin.to(segment.point)).at(u)


def _pull_back(
    segment: LocalSegment, u: float = 1.0, origin: Tensor | None = None
) -> Callable[[Tensor], Tensor]:
    """The map c -> c'J of a segment at a point of the path."""
    return _pull_back_at(segment.function, _at(segment, u, origin))


def _pull_back_at(
    function: Callable[[Tensor], Tensor], point: Tensor
) -> Callable[[Tensor], Tensor]:
    return pull_back(function, point, vmapped=point.device.type != "cpu")


def _masked(values: Tensor, mask: Tensor | None) -> Tensor:
    """Values `[c, b, p, ...]` with positions that do not count set to zero."""
    return values if mask is None else values * mask[..., None]


def dense_jacobians(
    data: FittingData,
    source: str,
    target: str,
    n_samples: int,
    skip: int = 0,
    n_rows: int | None = None,
    seed: int = 0,
    same_rows: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Jacobians from neurons of a layer to features of the next one, kept in memory.

    Args:
        data: what is fitted.
        source: source layer.
        target: target layer.
        n_samples: samples (all if there are fewer).
        skip: samples to leave out first.
        n_rows: random target features of each target position instead of all.
        seed: of these.
        same_rows: draw them once, not for every batch.

    Returns:
        The Jacobians `[b, s, i, d]`, target positions that count joined with the samples, the
        activations `[b, s, d]`, and which source positions count, bool `[b, s]` or None for all.

    Raises:
        InteractGraphError: no sample is left.
    """
    generator = torch.Generator().manual_seed(seed)
    blocks, points, masks, count, seen = [], [], [], 0, 0
    chosen: Tensor | None = None
    index = data.targets(source).index(target)
    for segments in data.segments(source, f"Jacobians {source} -> {target}"):
        segment = segments[index]
        span = slice(max(0, skip - seen), max(0, skip - seen) + n_samples - count)
        seen += len(segment.point)
        if span.start >= len(segment.point):
            continue
        products = _pull_back(segment)
        if chosen is None or not same_rows:
            chosen = torch.arange(segment.n_targets)
            if n_rows is not None and n_rows < segment.n_targets:
                chosen = torch.randperm(segment.n_targets, generator=generator)[:n_rows]
        for position in range(segment.n_positions):
            rows = []
            for i in chosen.tolist():
                shape = (1, len(segment.point), segment.n_positions, segment.n_targets)
                cotangent = segment.point.new_zeros(shape)
                cotangent[:, :, position, i] = 1
                rows.append(products(cotangent)[0][span])
            every = segment.point.new_ones(segment.point.shape[:2], dtype=torch.bool)
            source_mask = every if segment.source_mask is None else segment.source_mask
            target_mask = segment.target_mask
            counts = every[:, 0] if target_mask is None else target_mask[:, position]
            blocks.append(torch.stack(rows, 2)[counts[span]])
            points.append(segment.point[span][counts[span]])
            masks.append(source_mask[span][counts[span]])
        count += len(segment.point[span])
        if count >= n_samples:
            break
    if not blocks:
        raise InteractGraphError(
            f"the data has {seen} samples, and Jacobians {source} -> {target} are asked for after "
            f"{skip}"
        )
    # Batches of shorter sequences are filled up with positions that do not count.
    most = max(point.shape[1] for point in points)
    jacobians, z, mask = (
        torch.cat([_lengthened(part, most) for part in parts]) for parts in (blocks, points, masks)
    )
    wide = torch.promote_types(jacobians.dtype, torch.float32)
    return jacobians.to(wide), z.to(wide), None if bool(mask.all()) else mask


def _lengthened(values: Tensor, n_positions: int) -> Tensor:
    """Values `[b, s, ...]` with zeros up to n positions."""
    missing = n_positions - values.shape[1]
    if not missing:
        return values
    return torch.cat([values, values.new_zeros(len(values), missing, *values.shape[2:])], 1)
