"""Drawn source features: estimates by what is known of all samples, and their errors.

What source feature j does to target i on sample b, X[b,i,j], is about proportional to its step on
that sample, x[b,j], which is known for all features without a pass: A^2 to (z - z0)^2, |A| to
|z - z0|, A to z - z0, each summed over positions. So of draws with probabilities pi, instead of
sum X / pi (Horvitz and Thompson), strengths are the *regression estimate*

    sum_b X[b,i,j] = sum over draws of X / pi + beta . (sum_b z[b,j] - sum over draws of z / pi)

(Saerndal, Swensson, Wretman, Model assisted survey sampling, 1992, sections 5.6 and 6.4). For what
cannot be negative, beta is the ratio of sum X / pi and sum z / pi, so that the sum is beta times
the known one; z is x or, where the draws say that this fits better (a bounded segment does not
follow the steps), n_b, the number of positions. For signed means z = (n_b, x), and beta comes from
least squares. One draw of a feature then tells its edges as well as one sample would; without, it
tells little. The bias is of the order of one over the number of draws of the feature, below the
error. Steps that are much longer than the others are cut to a length, so that no sample counts for
all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from scipy.stats import t as student
from torch import Tensor

from ...distributed import World
from ..strengths import Strength
from .blocks import row_slices

__all__ = ["DrawnSums", "known_parts"]

_LONGEST = 4.0  # times the typical step
_PRIOR = 2.0  # degrees of freedom that the typical error of all edges counts for
_TELLING = 8  # draws of a feature that choose between x and n_b for it; fewer go with the others
_ENOUGH = 3  # draws of a feature whose edges tell the typical error


def known_parts(displacement: Tensor, strengths: Sequence[Strength]) -> dict[str, Tensor]:
    """x[b,j] of each strength that is a mean, float64 `[b, j]`.

    Args:
        displacement: z - z0 of the source features, `[b, s, j]`.
        strengths: which.
    """
    dz = displacement.double()
    return {strength.name: strength.known(dz) for strength in strengths if strength.is_mean}


@dataclass(eq=False)
class DrawnSums:
    """What a `StrengthSums` keeps besides where source features are drawn.

    Weights w are 1 / pi of the draws. Vectors are float64 `[j]`, over samples on which a feature
    moves; tables are `[i, j]`.

    Attributes:
        strengths: of the sums.
        shape: (target features, source features).
        device: of the sums.
        counts: vectors by name: "number" of draws; "chance", sum of 1 - pi over them; "lengths",
            how far a feature moves; "samples" and "positions_squared" of samples on which it moves,
            and the same with "drawn_" before them, sum of w over the draws.
        vectors: (strength, name) -> vector: "total_q" and "drawn_q", sum of z_q over all samples
            and of w z_q over the draws; "spread_qr", sum of (1 - pi) w^2 z_q z_r; "square", sum of
            w x^2 / n_b; "roots", sum of the root of |x|, to the power that makes it a length;
            "steps", "costs" and "sure", see `effective`.
        tables: (strength, name) -> table: "squares", sum of (1 - pi) w^2 X^2; "cross_q", sum of
            (1 - pi) w^2 X z_q; "product", sum of w X x / n_b.
        n_samples: samples so far.
    """

    strengths: tuple[Strength, ...]
    shape: tuple[int, int]
    device: torch.device
    counts: dict[str, Tensor] = field(default_factory=dict)
    vectors: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    tables: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    n_samples: int = 0
    _chosen: dict[str, Tensor] = field(default_factory=dict)  # strength -> whether by n_b, `[j]`

    @staticmethod
    def bytes_for(strengths: Sequence[Strength], shape: tuple[int, int]) -> int:
        """Memory that it takes."""
        each = sum(20 if strength.is_signed else 12 for strength in strengths if strength.is_mean)
        return each * shape[0] * shape[1]

    @property
    def any(self) -> bool:
        """Whether source features are drawn at all."""
        return bool(self.vectors)

    # --- adding ----------------------------------------------------------------------------------

    def expect(
        self, steps: Mapping[str, Tensor], lengths: Tensor, chances: Tensor, positions: Tensor
    ) -> dict[str, Tensor]:
        """Takes in the samples of a batch, before anything is drawn from it.

        Args:
            steps: strength -> x, `[b, j]`.
            lengths: how far each feature moves, `[b, j]`.
            chances: pi, the probability that it is drawn, `[b, j]`; zero at most where it does not
                move.
            positions: how many positions of each sample count, int64 `[b]`.

        Returns:
            Strength -> z, `[q, b, j]`, for `add`.
        """
        self.n_samples += len(positions)
        n = positions.double()[:, None]
        moves = (lengths > 0).double()
        _sum(self.counts, "lengths", lengths.sum(0))
        for name, each in (("samples", 1), ("positions_squared", n.square())):
            _sum(self.counts, name, (moves * each).sum(0))
        auxiliaries = {}
        for strength in self._means:
            x, name = steps[strength.name], strength.name
            cost = torch.where(x == 0, 0.0, x.square() / chances)
            _sum(self.vectors, (name, "steps"), x.abs().sum(0))
            _sum(self.vectors, (name, "costs"), cost.sum(0))
            _sum(self.vectors, (name, "sure"), x.square().sum(0))
            # Typical is the squared mean of square roots, which a few far ones hardly change.
            root = x.abs() ** (1 / (2 * strength.degree))
            _sum(self.vectors, (name, "roots"), root.sum(0))
            typical = _ratio(self.vectors[name, "roots"], self.counts["samples"]).square()
            longest = (_LONGEST * typical) ** strength.degree
            z = torch.stack([n * moves, x.clamp(-longest, longest)])
            for q, values in enumerate(z):
                _sum(self.vectors, (name, f"total_{q}"), values.sum(0))
            auxiliaries[name] = z
        return auxiliaries

    def add(
        self,
        sums: Mapping[str, Tensor],
        weights: Tensor,
        features: Tensor,
        positions: Tensor,
        auxiliaries: Mapping[str, Tensor],
        moves: Tensor,
    ) -> None:
        """Adds one source feature for each sample.

        Args:
            sums: strength -> X, `[b, i]`.
            weights: w, `[b]`, above zero.
            features: the source feature of each sample, int64 `[b]`.
            positions: as for `expect`.
            auxiliaries: strength -> its z, `[q, b]`.
            moves: whether it moves, bool `[b]`.
        """
        n, w = positions.double(), weights.double()
        moved = w * moves
        chance = 1 - 1 / w
        for name, value in (
            ("number", moves.double()), ("chance", chance * moves), ("drawn_samples", moved),
            ("drawn_positions_squared", moved * n.square()),
        ):  # fmt: skip
            self._add_to(self.counts, name, features, value)
        is_chance = bool((chance > 0).any())
        self._chosen.clear()
        for strength in self._means:
            name, z = strength.name, auxiliaries[strength.name].double()
            x = sums[name].double()
            for q, value in enumerate(z):
                self._add_to(self.vectors, (name, f"drawn_{q}"), features, w * value)
                for r in range(q + 1):
                    spread = chance * w.square() * value * z[r]
                    self._add_to(self.vectors, (name, f"spread_{q}{r}"), features, spread)
            if strength.is_signed:
                per_position = w * z[1] / n.clamp(min=1)
                self._add_to(self.vectors, (name, "square"), features, per_position * z[1])
                self._add_column(name, "product", features, x, per_position)
            if is_chance:
                self._add_column(name, "squares", features, x.square(), chance * w.square())
                for q, value in enumerate(z):
                    self._add_column(name, f"cross_{q}", features, x, chance * w.square() * value)

    @property
    def _means(self) -> list[Strength]:
        return [strength for strength in self.strengths if strength.is_mean]

    def _add_to(self, vectors: dict[Any, Tensor], key: Any, features: Tensor, x: Tensor) -> None:
        if key not in vectors:
            vectors[key] = torch.zeros(self.shape[1], dtype=torch.float64, device=self.device)
        vectors[key].index_add_(0, features, x.to(vectors[key]))

    def _add_column(
        self, name: str, what: str, features: Tensor, x: Tensor, factor: Tensor
    ) -> None:
        """Adds factor X to a table; sums that others are subtracted from are in float64."""
        if (name, what) not in self.tables:
            dtype = torch.float64 if what == "product" else torch.float32
            self.tables[name, what] = torch.zeros(self.shape, dtype=dtype, device=self.device)
        table = self.tables[name, what]
        table.index_add_(1, features, (x * factor[:, None]).mT.to(table))

    # --- results ---------------------------------------------------------------------------------

    def total(self, strength: Strength, first: Tensor, rows: slice) -> Tensor:
        """The estimate of sum_b X, `[rows, j]`.

        Args:
            strength: of which.
            first: sum of w X over the draws, `[i, j]`.
            rows: target features.
        """
        name = strength.name
        result = first[rows].clone()
        for q, beta in enumerate(self._betas(strength, first, rows)):
            known = self._vector((name, f"total_{q}")) - self._vector((name, f"drawn_{q}"))
            result.addcmul_(beta, known)
        return result

    def variance(self, strength: Strength, first: Tensor, rows: slice) -> Tensor:
        """What the draws add to the variance of `total`, `[rows, j]`: that of the residuals."""
        betas = self._betas(strength, first, rows)
        number = self._count("number").clamp(min=2)
        return self._residual(strength.name, betas, rows) * (number / (number - 1))

    def _betas(self, strength: Strength, first: Tensor, rows: slice) -> list[Tensor]:
        """The factors of z, `[rows, j]` each."""
        if strength.is_signed:
            return self._least_squares(strength.name, first, rows)
        by_number = self._by_number(strength.name, first)
        ratios = self._ratios(strength.name, first, rows)
        return [torch.where(by_number, ratios[0], 0.0), torch.where(by_number, 0.0, ratios[1])]

    def _ratios(self, name: str, first: Tensor, rows: slice) -> list[Tensor]:
        """Sum of w X over sum of w z, `[rows, j]`, for each of both z."""
        return [_ratio(first[rows], self._vector((name, f"drawn_{q}"))) for q in range(2)]

    def _by_number(self, name: str, first: Tensor) -> Tensor:
        """Whether n_b tells more than x, of each source feature, bool `[j]`."""
        if name not in self._chosen:
            left = torch.zeros(2, self.shape[1], dtype=torch.float64, device=self.device)
            for rows in row_slices(self.shape):
                n, x = self._ratios(name, first, rows)
                nothing = torch.zeros_like(n)
                for q, betas in enumerate(([n, nothing], [nothing, x])):
                    left[q] += self._residual(name, betas, rows).sqrt().sum(0)
            enough = self._count("number") >= _TELLING
            together = left.sum(1)
            self._chosen[name] = torch.where(enough, left[0] < left[1], together[0] < together[1])
        return self._chosen[name]

    def _least_squares(self, name: str, first: Tensor, rows: slice) -> list[Tensor]:
        """With weights w / n_b; the slope as if _PRIOR more draws had told of none."""
        plain, drawn = first[rows], self._vector((name, "drawn_0"))
        along, square = self._vector((name, "drawn_1")), self._vector((name, "square"))
        square = square * (1 + _PRIOR / self._count("number").clamp(min=1))
        free = square - _ratio(along.square(), drawn)
        product = self.tables.get((name, "product"))
        products = torch.zeros_like(plain) if product is None else product[rows]
        rest = products - plain * _ratio(along, drawn)
        slope = torch.where(free > 1e-9 * square, rest / free.clamp(min=1e-300), 0.0)
        return [_ratio(plain - slope * along, drawn), slope]

    def _residual(self, name: str, betas: Sequence[Tensor], rows: slice) -> Tensor:
        """Sum of (1 - pi) w^2 (X - beta . z)^2, `[rows, j]`."""
        if (name, "squares") not in self.tables:
            return torch.zeros_like(betas[0])
        result = self.tables[name, "squares"][rows].double()
        for q, beta in enumerate(betas):
            result -= 2 * beta * self.tables[name, f"cross_{q}"][rows]
            for r, other in enumerate(betas[: q + 1]):
                times = 1 if q == r else 2
                result += times * beta * other * self._vector((name, f"spread_{q}{r}"))
        return result.clamp_(min=0)

    def between_samples(
        self, mean: Tensor, second: Tensor, cross: Tensor, n_squared: int, *, per_sample: bool
    ) -> Tensor:
        """The sum of (X_b - mean n_b)^2 over all samples, `[rows, j]`.

        Args:
            mean: of X, `[rows, j]`.
            second: sum of w X^2 over the draws.
            cross: sum of w X n_b.
            n_squared: sum of n_b^2 over all samples.
            per_sample: whether n_b counts as one.
        """
        what = "samples" if per_sample else "positions_squared"
        drawn = self._count(f"drawn_{what}")
        spread = second.addcmul(mean, cross, value=-2).addcmul_(mean.square(), drawn).clamp_(min=0)
        spread *= _ratio(self._count("samples"), self._count("drawn_samples"))
        at_rest = (n_squared - self._count(what)).clamp(min=0)  # samples where it does not move
        number = self._count("number").clamp(min=2)
        few = 1 + self._chance / (number - 1)  # where all are drawn, samples are not few for that
        return (spread * few).addcmul_(mean.square(), at_rest)

    def moderated(self, variance: Tensor, mean: Tensor, typical: float | None) -> Tensor:
        """The variance of the mean, drawn towards the typical one where there are few draws.

        As the moderated variances of Smyth 2004 (Stat. Appl. Genet. Mol. Biol. 3), with the
        relative error of all edges of the pair as prior.

        Args:
            variance: as the draws of the edge tell it, `[rows, j]`.
            mean: `[rows, j]`.
            typical: from `typical`; None: nothing is known.
        """
        number = self._count("number").clamp(min=1)
        prior = _PRIOR * self._chance
        expected = (1.0 if typical is None else typical) * mean.square() / number
        own = (number - 1).clamp(min=0)
        shared = (prior * expected + own * variance) / (prior + own).clamp(min=1e-300)
        return torch.where(self._chance > 0, shared, variance)

    def typical(self, blocks: Iterable[tuple[Tensor, Tensor]]) -> float | None:
        """Squared relative error of one draw, over edges of features that were drawn often enough.

        Args:
            blocks: variance and mean, `[rows, j]` each, of all rows.
        """
        number = self._count("number")
        enough = number >= _ENOUGH
        errors = sizes = 0.0
        for variance, mean in blocks:
            errors += float((variance * number)[:, enough].sqrt().sum())
            sizes += float(mean.abs()[:, enough].sum())
        return (errors / sizes) ** 2 if sizes else None

    @property
    def unknown(self) -> Tensor:
        """Features that move and were never drawn where they do, bool `[j]`."""
        return (self._count("number") == 0) & (self._count("lengths") > 0)

    @property
    def unknown_share(self) -> float:
        """Their share of all steps."""
        lengths = self._count("lengths")
        return float(lengths[self.unknown].sum() / lengths.sum())

    @property
    def _chance(self) -> Tensor:
        """How much of the draws of each feature was left to chance, from 0 to 1, `[j]`."""
        return _ratio(self._count("chance"), self._count("number")).clamp(0, 1)

    def effective(self, name: str) -> Tensor:
        """The number of draws of each feature, if all told a strength the same, `[j]`.

        The squared sum of x over its sampling variance, as Kish's effective sample size.
        """
        steps, costs = self._vector((name, "steps")), self._vector((name, "costs"))
        return (steps.square() / costs).nan_to_num(math.inf)

    def factor(self, name: str) -> Tensor:
        """What the error of a strength is multiplied by, `[j]`, so that twice it covers 95 %.

        Few draws of a feature miss the samples on which it does most, and their spread is too
        small for the same reason. Student's t, relative to a normal distribution. Its degrees of
        freedom are those of a variance from m draws with a kurtosis of 5, m / 2 (2 m over the
        kurtosis less 1); m is the effective number of draws, one more for the typical error. Where
        part of what a feature does is drawn with certainty, so much less.
        """
        degrees = ((self.effective(name) + 1) / 2).clamp(min=1).cpu().numpy()
        factors = torch.from_numpy(student.ppf(0.975, degrees) / student.ppf(0.975, math.inf))
        sure = _ratio(self._vector((name, "sure")), self._vector((name, "costs"))).cpu()
        return 1 + (1 - sure).clamp(0, 1) * (factors - 1)

    def least_of_share(self, name: str) -> Tensor:
        """The least error of a share of samples, `[j]`: no draw out of m was one of them.

        Then it is below 3 / m in 95 % of cases (the rule of three), of those on which the feature
        moves, and as far as draws were left to chance; zero for what never moves.
        """
        least = (1.5 / self.effective(name)).clamp(max=0.5)
        moving = self._count("samples") / max(self.n_samples, 1)  # of all samples
        return torch.where(self._count("lengths") > 0, least * moving * self._chance, 0.0)

    def _count(self, name: str) -> Tensor:
        found = self.counts.get(name)
        zeros = torch.zeros(self.shape[1], dtype=torch.float64, device=self.device)
        return zeros if found is None else found

    def _vector(self, key: tuple[str, str]) -> Tensor:
        found = self.vectors.get(key)
        zeros = torch.zeros(self.shape[1], dtype=torch.float64, device=self.device)
        return zeros if found is None else found

    # --- joining and checkpoints -----------------------------------------------------------------

    @property
    def _parts(self) -> tuple[dict[Any, Tensor], ...]:
        return self.counts, self.vectors, self.tables

    def merge(self, other: DrawnSums) -> None:
        """Adds those over other samples."""
        self._chosen.clear()
        self.n_samples += other.n_samples
        for mine, theirs in zip(self._parts, other._parts, strict=True):
            for key, sums in theirs.items():
                _sum(mine, key, sums)

    def gather(self, world: World) -> None:
        """Adds those of all processes; all of them call it."""
        self._chosen.clear()
        self.n_samples = sum(world.gather(self.n_samples))
        for part in self._parts:
            kinds = {key: (sums.shape, sums.dtype) for key, sums in part.items()}
            for kinds_there in world.gather(kinds):
                kinds.update(kinds_there)
            for key in sorted(kinds):
                shape, dtype = kinds[key]
                if key not in part:
                    part[key] = torch.zeros(shape, dtype=dtype, device=self.device)
                world.add(part[key])

    def state(self) -> list[Any]:
        """For a checkpoint."""
        return [
            self.n_samples,
            *([[key, sums] for key, sums in part.items()] for part in self._parts),
        ]

    def restore(self, state: list[Any]) -> None:
        """Goes back to what `state` gave."""
        self._chosen.clear()
        self.n_samples, *parts = state
        for part, saved in zip(self._parts, parts, strict=True):
            part.clear()
            for key, sums in saved:
                part[key if isinstance(key, str) else tuple(key)] = sums.to(self.device)


def _sum(vectors: dict[Any, Tensor], key: Any, x: Tensor) -> None:
    vectors[key] = vectors[key] + x if key in vectors else x.clone()


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """Quotient a / b, zero where b is."""
    return torch.where(b != 0, a / torch.where(b != 0, b, 1.0), 0.0)
