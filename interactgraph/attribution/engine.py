"""One layer pair over all batches: plan once, then add batch after batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import InteractGraphError
from ..model import Cut
from ..model.structure import NoClosedForm
from ..model.tape import tensors_of
from .closed_form import straighten
from .completeness import Completeness
from .control_variate import step_sizes
from .forward import along_path, column_blocks, is_close
from .grouped import GroupedSums, Key
from .memory import Footprint, footprint
from .packing import (
    Packing,
    keeps_positions_apart,
    pack,
    packed_columns,
    positions_are_independent,
    sums_of_pairs,
)
from .perturbation import ablation_blocks, captum_rows, shapley_columns
from .planner import Plan, Way, choose
from .problem import Entry, FeatureFunction, PairProblem
from .quadrature import PathRule, at_sample, gauss_legendre
from .records import FAILURES, Records, first_line
from .reverse import row_blocks
from .sampling import SourceSampler
from .signs import signed_columns, signed_rows
from .strengths import merge_positions, sum_positions

__all__ = ["MAX_STEPS", "PairEngine"]

_COMPLETENESS_EVERY = 4  # batches, where source features are drawn
MAX_STEPS = 512  # where doubling the path nodes gives up
_SEEDS = 100_003  # between the seeds of two batches
_DRAWN = 256  # samples that are drawn from at a time
_CACHE = 1 << 21  # bytes
_GRADIENTS = 1 << 24  # bytes of intermediate gradients at a time, on a CPU
_ROWS = 8  # VJPs at a time that share a forward pass, at least
_BLOCK = 1 << 23  # bytes of A that are reduced together, where nothing speaks for more


def _two_derivatives(problem: PairProblem, way: Literal["columns", "rows"]) -> Tensor:
    """The first columns or rows of A on a batch, at the samples."""
    if way == "columns":
        return next(column_blocks(problem, at_sample(), 2, 2))[-1]
    return next(row_blocks(problem, at_sample(), 2))[-1]


@dataclass(eq=False)
class PairEngine:
    """Accumulates the strengths of one layer pair.

    Attributes:
        pair: (source, target) names.
        make_function: batch -> segment in feature coordinates on that batch.
        make_entry: batch -> the segment entered at the source activation, where that is narrower.
        strengths: names of the strengths.
        engine: `auto`, `closed_form`, `forward` or `reverse`.
        method: `integrated_gradients`, `gradient`, `ablation`, `shapley` or a captum class.
        n_steps: path nodes of the quadrature.
        memory_budget: bytes of working memory.
        sources: source features drawn for each sample; None: all of them.
        sampling: how they are drawn.
        tolerance: path nodes are doubled until the residual of a batch is below it.
        seed: of the draws.
        cut: how batches can be cut.
        notes: what the user should know; filled as it happens.
    """

    pair: tuple[str, str]
    make_function: Callable[[Any], FeatureFunction]
    make_entry: Callable[[Any], Entry | None]
    strengths: tuple[str, ...]
    engine: str
    method: str | type
    n_steps: int
    memory_budget: int
    sources: int | None = None
    sampling: str = "importance"
    tolerance: float | None = None
    seed: int = 0
    cut: Cut = field(default_factory=Cut)
    notes: list[str] = field(default_factory=list)
    plan: Plan | None = None
    records: Records = field(init=False)
    entered: Records = field(init=False)
    sums: GroupedSums = field(init=False)
    completeness: Completeness = field(default_factory=Completeness)
    n_steps_used: int = 0
    n_passes_packed: int = 0
    _apart: bool = False
    _vmapped: bool = True
    _n_added: int = 0
    _sampler: SourceSampler | None = None
    _footprint: Footprint = field(default=Footprint(0, 0))
    _sample_bytes: int = 1

    def __post_init__(self) -> None:
        self.records = Records(self.make_function)
        self.entered = Records(self._entry_function)

    def _entry_function(self, batch: Any) -> FeatureFunction:
        entry = self.make_entry(batch)
        assert entry is not None
        return entry.function

    def _enter(self, problem: PairProblem, batch: Any) -> PairProblem:
        """The problem with tangents where they are smallest."""
        entry = self.make_entry(batch)
        return problem if entry is None else problem.enter(entry)

    def _taped(self, problem: PairProblem, batch: Any, *, at_end: bool = False) -> PairProblem:
        records = self.records if problem.entry is None else self.entered
        return records.taped(problem, batch, at_end=at_end)

    # --- planning --------------------------------------------------------------------------------

    def prepare(self, problem: PairProblem, batch: Any) -> Plan:
        """Decides how to compute the pair from its first batch.

        Args:
            problem: the pair on the first batch.
            batch: the first batch.

        Raises:
            InteractGraphError: the engine asked for cannot do it, or the memory does not suffice.
        """
        shape = (problem.y.shape[2], problem.z.shape[2])
        entered = problem
        if self.method in ("integrated_gradients", "gradient"):
            self.plan = self._choose(problem, batch)
            if self.plan.way in ("columns", "drawn columns", "signed columns"):
                if self.plan.engine != "closed_form":
                    entered = self._enter(problem, batch)
                self._taped(entered, batch)  # looked at on few samples
            if self.plan.way not in ("one map", "two maps"):
                self._settle(entered)
            if self.plan.way not in ("rows", "signed rows"):
                problem = entered
        else:
            self.plan = self._perturbation_plan(problem)
        self._footprint = footprint(problem.function, problem.z)
        drawn = self.plan.way == "drawn columns"
        self.sums = GroupedSums(
            self.strengths, shape, problem.z.device, self.memory_budget, drawn=drawn
        )
        needed = self.sums.n_bytes
        if needed > self.memory_budget:
            raise InteractGraphError(
                f"the sums of {' -> '.join(self.pair)} ({shape[0]} x {shape[1]} features, "
                f"{', '.join(self.strengths)}) take {needed / 2**30:.2f} GiB, more than the memory "
                f"budget of {self.memory_budget / 2**30:.2f} GiB; raise memory_budget or ask for "
                "fewer strengths"
            )
        if drawn:
            self._sampler = SourceSampler(
                shape[1],
                self.sampling,
                2 if self.strengths[0] == "rms" else 1,
                torch.Generator().manual_seed(self.seed),
            )
        self._orders = torch.Generator().manual_seed(self.seed)
        by_rows = self.plan.way in ("rows", "signed rows")
        pass_bytes = self._pass_bytes(problem, by_rows=by_rows)
        if self.method == "shapley":
            pass_bytes *= shape[1]  # all columns grow side by side
        self._sample_bytes = max(1, pass_bytes // problem.n_samples)
        return self.plan

    def _perturbation_plan(self, problem: PairProblem) -> Plan:
        """Perturbation has one way for each method."""
        n_sources = problem.z.shape[2]
        n_rows = problem.y.shape[1] * problem.y.shape[2]
        reason = "what the method needs"
        if self.method == "ablation":
            return Plan("perturbation", "columns", 0, float(n_sources), {}, reason)
        if self.method == "shapley":
            passes = float(n_sources * self.n_steps)
            return Plan("perturbation", "columns", self.n_steps, passes, {}, reason)
        return Plan("perturbation", "rows", 0, float(n_rows), {}, f"{reason}; calls of captum")

    def _choose(self, problem: PairProblem, batch: Any) -> Plan:
        """The cheapest way to differentiate."""
        closed: Literal["one map", "two maps", "passes"] | None = None
        obstacle = ""
        if self.engine in ("auto", "closed_form"):
            try:
                shape = self.records.closed(problem, batch, check=True)
                closed = "passes"
                if shape.maps is not None:
                    closed = "one map" if shape.maps.one_map is not None else "two maps"
            except NoClosedForm as error:
                obstacle = str(error)
        return choose(
            engine=self.engine,
            n_sources=self._n_columns(problem),
            n_targets=problem.y.shape[2],
            n_target_positions=problem.y.shape[1],
            n_sums=sum(1 if name == "max" else 2 for name in self.strengths),
            n_steps=len(self.rule.nodes),
            sources=self.sources,
            drawn=self._drawn_way,
            closed=closed,
            obstacle=obstacle or "not looked for",
            pair=" -> ".join(self.pair),
        )

    def _n_columns(self, problem: PairProblem) -> int:
        """Passes by source features: fewer than features where few of them move at a time."""
        n_features = problem.z.shape[2]
        sparse = pack(problem.dz, by_position=True)
        if sparse is None:
            return n_features
        self._apart = positions_are_independent(problem)
        packing = sparse if self._apart else pack(problem.dz, by_position=False)
        return n_features if packing is None else len(packing.features)

    @property
    def is_drawn(self) -> bool:
        """Whether the strengths are estimates from drawn features or signs."""
        return self.plan is not None and self.plan.way == self._drawn_way

    @property
    def _drawn_way(self) -> Way:
        if self.sampling != "signs":
            return "drawn columns"
        return "signed columns" if self.strengths == ("mean",) else "signed rows"

    @property
    def rule(self) -> PathRule:
        """Path nodes of the quadrature."""
        return at_sample() if self.method == "gradient" else gauss_legendre(self.n_steps)

    def _settle(self, problem: PairProblem) -> None:
        """Tries the way that was planned on two derivatives; takes another where it fails.

        Torch does not differentiate every operation forwards, nor backwards, nor many at a time;
        and where many at a time give other numbers than one by one, the latter are right.

        Raises:
            InteractGraphError: no way works that the user allows.
        """
        assert self.plan is not None
        by_rows = self.plan.way in ("rows", "signed rows")
        planned: Literal["columns", "rows"] = "rows" if by_rows else "columns"
        other: Literal["columns", "rows"] = "columns" if by_rows else "rows"
        free = self.engine in ("auto", "closed_form") and self.plan.way in ("columns", "rows")
        reasons = []
        for vmapped in (True, False):
            for way in (planned, other) if free else (planned,):
                mode = "reverse" if way == "rows" else "forward"
                try:
                    found = _two_derivatives(replace(problem, vmapped=vmapped), way)
                except FAILURES as error:
                    if isinstance(error, InteractGraphError):
                        raise
                    reasons.append(
                        f"{mode} mode cannot differentiate the segment ({first_line(error)})"
                    )
                    continue
                alone = None
                with contextlib.suppress(*FAILURES):
                    alone = _two_derivatives(replace(problem, vmapped=False), way)
                if vmapped and alone is not None and not is_close(found, alone):
                    reasons.append(f"{mode} mode many at a time differs from one at a time")
                    continue
                self._vmapped = vmapped
                if way != planned:
                    self.plan = self._other_plan(problem, way, reasons[0])
                elif not vmapped:
                    self.plan = replace(self.plan, reason=f"one at a time: {reasons[0]}")
                return
        hint = "method='ablation' needs no derivatives"
        if self.engine in ("forward", "reverse"):
            other_mode = "reverse" if self.engine == "forward" else "forward"
            hint = f"use engine={other_mode!r} or 'auto'; {hint}"
        why = "; ".join(dict.fromkeys(reasons))
        raise InteractGraphError(f"{' -> '.join(self.pair)}: {why}; {hint}")

    def _other_plan(self, problem: PairProblem, way: Way, reason: str) -> Plan:
        """A plan by quadrature where the one that was chosen cannot be."""
        assert self.plan is not None
        n_steps = len(self.rule.nodes)
        if way == "rows":
            passes = 2.0 * problem.y.shape[1] * problem.y.shape[2] * n_steps
            return Plan("reverse", "rows", n_steps, passes, self.plan.costs, reason)
        passes = (problem.steps.shape[2] + 1.0) * n_steps
        return Plan("forward", "columns", n_steps, passes, self.plan.costs, reason)

    def max_samples(self) -> int:
        """Samples at a time that the memory budget allows."""
        assert self.plan is not None
        if self.plan.way in ("one map", "two maps"):
            return 1 << 62
        most = max(1, self._free() // self._sample_bytes)
        # Draws learn from earlier ones.
        return min(most, _DRAWN) if self.plan.way == "drawn columns" else most

    def _free(self) -> int:
        """Working memory beside the sums."""
        return max(self.memory_budget - self.sums.n_bytes, self.memory_budget // 8)

    def _pass_bytes(self, problem: PairProblem, *, by_rows: bool) -> int:
        """Working memory of one JVP or VJP with the sums of its block."""
        size = problem.z.element_size()
        ends = problem.z if by_rows else problem.y
        entries, across = ends.numel(), ends.shape[2]
        reduced = problem.n_samples * across * (8 + 8 + 2 * size) * len(self.strengths)
        both = problem.y.numel() + problem.z.numel()
        largest = int(self._footprint.largest * problem.n_samples)
        return 3 * largest + size * (both + 3 * entries) + reduced

    # --- accumulating ----------------------------------------------------------------------------

    def add(
        self,
        problem: PairProblem,
        batch: Any,
        tick: Callable[[float], None] = lambda n: None,
        keys: Sequence[Key] | None = None,
    ) -> None:
        """Adds a batch.

        Args:
            problem: the pair on the batch.
            batch: the batch.
            keys: group and fold of each sample; None: there are none.
            tick: told the number of passes done.
        """
        assert self.plan is not None
        problem = replace(problem, vmapped=self._vmapped)
        if self.plan.engine == "perturbation":
            self._begin(problem, keys)
            total = self._add_perturbed(problem, tick)
            self.completeness.add(total, problem)
            return
        if self.plan.engine == "closed_form":
            try:
                self._add_closed_form(problem, batch, tick, keys)
                return
            except NoClosedForm as error:
                if self.engine == "closed_form":
                    raise InteractGraphError(
                        f"the closed form of {' -> '.join(self.pair)} does not hold on every "
                        f"batch: {error}. Use engine='auto' or 'forward'"
                    ) from error
                self._note(f"quadrature where the closed form fails, at first with a {error}")
        size = max(1, self._free() // self._sample_bytes)
        for start in range(0, problem.n_samples, size):
            here = slice(start, start + size)
            if problem.n_samples <= size or self.cut.n_samples(batch) is None:
                self._add_by_quadrature(problem, batch, tick, keys)
                return
            piece = self.cut.take(batch, start, start + size)
            part = problem.part(here, self.make_function(piece))
            self._add_by_quadrature(part, piece, tick, keys and keys[here])

    def _note(self, text: str) -> None:
        """Notes something about the pair once, whatever the figures in it."""
        start = f"{' -> '.join(self.pair)}: {text}"
        if not any(note.startswith(start.split(", at first")[0]) for note in self.notes):
            self.notes.append(start)

    def _add_by_quadrature(
        self,
        problem: PairProblem,
        batch: Any,
        tick: Callable[[float], None],
        keys: Sequence[Key] | None,
    ) -> None:
        """Adds a batch, or a part of one, by passes along the path."""
        assert self.plan is not None
        self._begin(problem, keys)
        n_columns, n_rows = problem.z.shape[2], problem.y.shape[1] * problem.y.shape[2]
        by_columns = self.plan.way in ("columns", "drawn columns", "signed columns") or (
            self.plan.way not in ("rows", "signed rows") and n_columns <= 2 * n_rows
        )
        if by_columns:
            problem = self._enter(problem, batch)
            problem = self._taped(problem, batch, at_end=self.rule == at_sample())
        rule = self._rule_for(problem)
        if self.is_drawn:
            # Only some columns are computed; what all of them add up to is sampled as well.
            due = self._n_added % _COMPLETENESS_EVERY == 0
            self._n_added += 1
            if self.plan.way == "drawn columns":
                total = torch.zeros_like(problem.y) if due else None
                self._add_drawn(problem, rule, tick, total)
            else:
                total = along_path(problem, rule) if due else None
                by_signs = self._add_signed_columns if by_columns else self._add_signed_rows
                by_signs(problem, rule, tick)
            if total is not None:
                self.completeness.add(total, problem)
        else:
            add = self._add_columns if by_columns else self._add_rows
            self.completeness.add(add(problem, rule, tick), problem)

    def as_metadata(self) -> dict[str, Any]:
        """JSON values for the recipe: the plan, and what came of it."""
        assert self.plan is not None
        found = self.plan.as_metadata()
        if self.n_steps_used:
            found["n_steps_used"] = self.n_steps_used
        if self.n_passes_packed:
            found["passes_packed"] = self.n_passes_packed
            found["positions_packed"] = self._apart
        return found

    def state(self) -> dict[str, Any]:
        """Everything that was added, for a checkpoint."""
        return {
            "sums": self.sums.state(),
            "completeness": [self.completeness.residual, self.completeness.change],
            "sampler": None if self._sampler is None else self._sampler.state(),
            "n_steps_used": self.n_steps_used,
            "n_passes_packed": self.n_passes_packed,
            "n_added": self._n_added,
            "orders": self._orders.get_state(),
            "notes": self.notes,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to what `state` gave; to be called after `prepare`."""

        def matrix() -> Tensor:
            return self.records.one_map

        self.sums.restore(state["sums"], matrix)
        self.completeness = Completeness(*state["completeness"])
        if self._sampler is not None:
            self._sampler.restore(state["sampler"])
        self.n_steps_used, self._n_added = state["n_steps_used"], state["n_added"]
        self.n_passes_packed = state["n_passes_packed"]
        self._orders.set_state(state["orders"])
        self.notes = list(state["notes"])

    def finish(self) -> None:
        """Brings everything into `sums`; more batches may follow."""
        self.sums.flush()

    def _begin(self, problem: PairProblem, keys: Sequence[Key] | None) -> None:
        if problem.mask is None:
            positions = torch.full((problem.n_samples,), problem.y.shape[1], dtype=torch.int64)
        else:
            positions = problem.mask.sum(1).cpu()
        self.sums.begin(keys, positions)

    def _add_closed_form(
        self,
        problem: PairProblem,
        batch: Any,
        tick: Callable[[float], None],
        keys: Sequence[Key] | None,
    ) -> None:
        """Adds a batch in closed form, after the completeness of the batch has confirmed it."""
        assert self.plan is not None
        gradient = self.method == "gradient"
        by_matrices = self.plan.way in ("one map", "two maps")
        shape = self.records.closed(problem, batch, by_matrices=by_matrices)
        if self.plan.way in ("columns", "rows"):
            inputs, _ = tensors_of(batch)
            straight = straighten(shape.structure, inputs, problem)
            self._confirm(straight(problem.z) - straight(problem.z - problem.dz), problem)
            self._begin(problem, keys)
            if gradient:
                straight = straighten(shape.structure, inputs, problem, gradient=True)
            # Affine, so that any one node of the path is exact.
            add = self._add_columns if self.plan.way == "columns" else self._add_rows
            total = add(straight.problem(problem), at_sample(), tick)
            if gradient:
                self.completeness.add(total, problem)
            return
        maps = shape.maps
        if maps is None:
            raise NoClosedForm("its maps are not the same on a batch of another shape")
        if shape.y0 is not None:
            problem = problem.with_y0(shape.y0)
        if self.plan.way == "one map":
            factors = maps.factors(problem, gradient=False)
            self._confirm(factors.total, problem)
            self._begin(problem, keys)
            if gradient:
                factors = maps.factors(problem, gradient=True)
                self.completeness.add(factors.total, problem)
            mask = problem.mask
            right = factors.right if mask is None else factors.right * mask[..., None]
            assert maps.one_map is not None
            self.sums.add_outer(factors.left, right, maps.one_map)
        else:
            slopes, steps = maps.slopes(problem, gradient=False)
            self._confirm(maps.total(problem, slopes, steps), problem)
            self._begin(problem, keys)
            if gradient:
                slopes, steps = maps.slopes(problem, gradient=True)
                self.completeness.add(maps.total(problem, slopes, steps), problem)
            per_sample = maps.block_bytes(problem) + self._reduced_bytes(problem)
            samples = max(1, self._free() // per_sample)
            for here, a in maps.blocks(problem, slopes, samples):
                mask = None if problem.mask is None else problem.mask[here]
                self.sums.add(sum_positions(a, mask, self.strengths), samples=here)
        tick(self.plan.passes)

    def _confirm(self, total: Tensor, problem: PairProblem) -> None:
        """A closed form is exact: a residual that is no rounding error means it does not hold.

        For integrated gradients this is the completeness of the batch, which is added.

        Args:
            total: sum_j A of integrated gradients, whatever the method.
            problem: the pair on the batch.

        Raises:
            NoClosedForm: it does not; nothing of the batch has been added.
        """
        completeness = Completeness() if self.method == "gradient" else self.completeness
        completeness.add(total, problem, exact=True)

    def _reduced_bytes(self, problem: PairProblem) -> int:
        entries = problem.y.shape[2] * problem.z.shape[2]
        return entries * len(self.strengths) * (16 + 2 * problem.z.element_size())

    def _rule_for(self, problem: PairProblem) -> PathRule:
        """Path nodes for a batch: doubled until its residual is below the tolerance.

        sum_j A needs one JVP for each node, whatever the number of features, so that the residual
        is known before the expensive part.
        """
        if self.tolerance is None or self.method == "gradient":
            return self.rule
        n_steps = max(self.n_steps, self.n_steps_used // 2)
        while True:
            rule = gauss_legendre(n_steps)
            completeness = Completeness()
            completeness.add(along_path(problem, rule), problem)
            if completeness.relative <= self.tolerance or 2 * n_steps > MAX_STEPS:
                break
            n_steps *= 2
        self.n_steps_used = max(n_steps, self.n_steps_used)
        if completeness.relative > self.tolerance:
            note = (
                f"{' -> '.join(self.pair)}: the residual stays above tolerance={self.tolerance:g} "
                f"with {n_steps} path nodes on some batches"
            )
            if note not in self.notes:
                self.notes.append(note)
        return rule

    def _add_perturbed(self, problem: PairProblem, tick: Callable[[float], None]) -> Tensor:
        """Adds a batch by perturbation and gives sum_j A, `[b, t, i]`."""
        total = torch.zeros_like(problem.y)
        if self.method == "ablation":
            chunk = self._chunk(problem, problem.z.shape[2], by_rows=False)
            for columns, a in ablation_blocks(problem, chunk, tick):
                total += a.sum(-1)
                sums = sum_positions(a, problem.mask, self.strengths)
                self.sums.add(sums, columns=columns)
        elif self.method == "shapley":
            a = shapley_columns(problem, self.n_steps, self._orders, tick)
            total += a.sum(-1)
            self.sums.add(sum_positions(a, problem.mask, self.strengths))
        else:
            seed = self.seed + _SEEDS * self._n_added
            self._n_added += 1
            for i, row in captum_rows(problem, self.method, seed, tick):
                total[..., i] = row.sum(-1)
                sums = sum_positions(row[:, :, None], problem.mask, self.strengths)
                self.sums.add(sums, rows=slice(i, i + 1))
        return total

    def _add_drawn(
        self,
        problem: PairProblem,
        rule: PathRule,
        tick: Callable[[float], None],
        total: Tensor | None,
    ) -> None:
        """Adds a few drawn source features of each sample, and sum_j A to `total`."""
        assert self._sampler is not None
        assert self.sources is not None
        packing, weights = self._sampler.draw(problem, self.sources)
        self.sums.expect(step_sizes(problem, self.strengths))
        chunk = self._chunk(problem, self.sources, by_rows=False)
        everyone = torch.arange(problem.n_samples, device=problem.z.device)
        for start in range(0, self.sources, chunk):
            some = packing.passes(start, start + chunk)
            at_once = self._at_once(problem)
            a = packed_columns(problem, rule, some, at_once, tick, total=total)
            total = None
            for j, weight, column in zip(some.features[..., 0], weights[start:], a, strict=False):
                sums = sum_positions(column[..., None], problem.mask, self.strengths)
                flat = {name: x[..., 0] for name, x in sums.items()}
                self.sums.add_drawn(flat, weight, j, everyone)
                self._sampler.learn(problem, j, flat[self.strengths[0]].abs().sum(1), weight)

    def _add_signed_columns(
        self,
        problem: PairProblem,
        rule: PathRule,
        tick: Callable[[float], None],
    ) -> None:
        """Adds all source features at once, with random signs."""
        assert self.sources is not None
        at_once = self._at_once(problem)
        found, signs = signed_columns(problem, rule, self.sources, at_once, self._orders, tick)
        per_column = problem.n_samples * problem.y.shape[2] * 24
        chunk = max(1, self._free() // per_column)
        n_sources = problem.steps.shape[2]
        for start in range(0, n_sources, chunk):
            columns = slice(start, min(start + chunk, n_sources))
            mean = torch.einsum("kbi,kbj->bij", found, signs[..., columns]) / self.sources
            self.sums.add({"mean": mean}, columns=columns)

    def _add_signed_rows(
        self,
        problem: PairProblem,
        rule: PathRule,
        tick: Callable[[float], None],
    ) -> None:
        """Adds all target positions at once, with random signs."""
        assert self.sources is not None
        n_targets = problem.y.shape[2]
        chunk = max(1, self._chunk(problem, n_targets * self.sources, by_rows=True) // self.sources)
        for rows, squares in signed_rows(problem, rule, self.sources, chunk, self._orders, tick):
            self.sums.add({"rms": squares}, rows=rows)

    def _add_columns(
        self,
        problem: PairProblem,
        rule: PathRule,
        tick: Callable[[float], None],
    ) -> Tensor:
        """Adds a batch by source features and gives sum_j A, `[b, t, i]`."""
        packing = self._packing(problem, rule)
        if packing is not None:
            return self._add_packed(problem, rule, packing, tick)
        chunk = self._chunk(problem, problem.steps.shape[2], by_rows=False)
        at_once = self._at_once(problem)
        if len(rule.nodes) == 1 and problem.z.device.type == "cpu":
            # With several nodes, every block linearises all of them again.
            block = _BLOCK // (problem.y.numel() * problem.y.element_size())
            chunk = min(chunk, max(1, block // at_once) * at_once)
        total = torch.zeros_like(problem.y)
        for columns, a in column_blocks(problem, rule, chunk, at_once, tick):
            total += a.sum(-1)
            sums = sum_positions(a, problem.mask, self.strengths)
            self.sums.add(sums, columns=columns)
        return total

    def _packing(self, problem: PairProblem, rule: PathRule) -> Packing | None:
        """How the features that move on this batch go into few passes; None: they do not."""
        if self._apart:
            packing = pack(problem.steps, by_position=True)
            fits = packing is not None and self._packed_bytes(problem, packing) <= self._free()
            if fits and all(keeps_positions_apart(problem, u, self._orders) for u in rule.nodes):
                return packing
        return pack(problem.steps, by_position=False)

    def _packed_bytes(self, problem: PairProblem, packing: Packing) -> int:
        """Working memory of all passes together, with the sums of their pairs."""
        entries = len(packing.features) * problem.y.numel()
        return entries * problem.y.element_size() * (4 + len(self.strengths))

    def _add_packed(
        self,
        problem: PairProblem,
        rule: PathRule,
        packing: Packing,
        tick: Callable[[float], None],
    ) -> Tensor:
        """Adds a batch by passes that carry several features, and gives sum_j A, `[b, t, i]`."""
        n_passes = len(packing.features)
        self.n_passes_packed = max(n_passes, self.n_passes_packed)
        chunk = n_passes
        if not packing.by_position:
            chunk = self._chunk(problem, n_passes, by_rows=False)
        total = torch.zeros_like(problem.y)
        for start in range(0, n_passes, chunk):
            some = packing.passes(start, start + chunk)
            a = packed_columns(problem, rule, some, self._at_once(problem), tick)
            total += a.sum(0)
            sums, samples, features = sums_of_pairs(a, some, problem.mask, self.strengths)
            self.sums.add_drawn(sums, torch.ones_like(features), features, samples)
        return total

    def _add_rows(
        self,
        problem: PairProblem,
        rule: PathRule,
        tick: Callable[[float], None],
    ) -> Tensor:
        """Adds a batch by target features and positions and gives sum_j A, `[b, t, i]`."""
        n_positions, n_targets = problem.y.shape[1:]
        chunk = self._chunk(problem, n_targets * n_positions, by_rows=True)
        total = torch.zeros_like(problem.y)
        sums: dict[str, Tensor] = {}
        for rows, where, a in row_blocks(problem, rule, chunk, tick):
            total[:, where, rows] = a.sum(-1)
            mask = None if problem.mask is None else problem.mask[:, where]
            part = sum_positions(a, mask, self.strengths)
            sums = part if where.start == 0 else merge_positions(sums, part)
            if where.stop == n_positions:
                self.sums.add(sums, rows=rows)
        return total

    def _chunk(self, problem: PairProblem, n_passes: int, *, by_rows: bool) -> int:
        held = int(self._footprint.total * problem.n_samples)
        free = self._free() - held
        most = free // self._pass_bytes(problem, by_rows=by_rows)
        if by_rows and problem.z.device.type == "cpu":
            largest = max(1.0, self._footprint.largest * problem.n_samples)
            most = min(most, max(_ROWS, int(_GRADIENTS / largest)))
        return int(max(1, min(n_passes, most)))

    def _at_once(self, problem: PairProblem) -> int:
        """Tangents at a time: on a CPU so many that intermediate results stay in the cache."""
        if problem.z.device.type != "cpu":
            return problem.steps.shape[2]
        return int(max(1, _CACHE // max(1, self._footprint.largest * problem.n_samples)))
