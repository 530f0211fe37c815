"""Which method computes a pair: the one of lowest predicted cost that can serve.

Costs are counted in forward passes of the segment on a batch. A JVP costs about one pass (the
primal is shared by all of them), a VJP about two; the closed form takes one pass for each column
or row instead of one for each column or row and path node, and with explicit matrices none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..checks import choice
from ..errors import InputError
from ..layers import PairProblem
from .methods import METHODS, DoesNotApply, Method, PairContext
from .options import Options

__all__ = ["Plan", "check_method", "choose"]


def check_method(options: Options) -> None:
    """Checks that the option `method` names something, and goes with the others.

    Raises:
        InputError: it does not.
    """
    definitions = dict.fromkeys(name for method in METHODS for name in method.definitions)
    if options.definition != "captum" or isinstance(options.method, str):
        choice("method", options.method, [name for name in definitions if name != "captum"])
    asked = getattr(options.method, "__name__", options.method)
    candidates = [method for method in METHODS if options.definition in method.definitions]
    engines = list(dict.fromkeys(method.engine for method in candidates))
    for_derivatives = (
        options.engine != "auto"
        or options.sources
        or options.time_budget
        or options.tolerance not in (None, Options.tolerance)
    )
    if engines == ["perturbation"] and for_derivatives:
        raise InputError(
            f"method={asked!r} differentiates nothing, so engine, sources, time_budget and "
            "tolerance do not apply; leave them out"
        )
    if options.sources is not None and not any(method.is_drawn for method in candidates):
        raise InputError(
            f"method={asked!r} computes all source features, so sources={options.sources} does not "
            "apply; leave it out"
        )
    if options.time_budget and not any(method.is_drawn for method in candidates):
        raise InputError(
            f"method={asked!r} computes all source features, so time_budget does not apply; leave "
            "it out"
        )
    if options.positions is not None and not any(method.draws_positions for method in candidates):
        raise InputError(
            f"method={asked!r} computes all target positions, so positions={options.positions} "
            "does not apply; leave it out"
        )
    if options.engine not in ("auto", *engines):
        raise InputError(
            f"method={asked!r} has no engine={options.engine!r}; it has {', '.join(engines)}"
        )


@dataclass(frozen=True, eq=False)
class Plan:
    """How one layer pair is computed.

    Attributes:
        methods: the one that was chosen, then those that follow where it does not hold on a batch,
            in the order of their costs; only the first one has been tried.
        cost: predicted, of the first one, in forward passes of the segment per batch.
        costs: the same for every method that was open, by "engine (method)".
        reason: why the first one, in words.
    """

    methods: tuple[Method, ...]
    cost: float
    costs: dict[str, float]
    reason: str

    def as_metadata(self) -> dict[str, Any]:
        """JSON values for the recipe: the plan, and what came of it."""
        method = self.methods[0]
        metadata: dict[str, Any] = {
            "engine": method.engine,
            "method": method.name,
            "n_steps": method.n_steps,
            "predicted_passes_per_batch": round(self.cost, 3),
            "costs": {name: round(cost, 3) for name, cost in self.costs.items()},
            "reason": self.reason,
        }
        for method in reversed(self.methods):
            metadata.update(method.record())
        return metadata


def choose(context: PairContext, problem: PairProblem) -> Plan:
    """The cheapest method that can serve a pair.

    Args:
        context: of the pair.
        problem: the pair on its first samples.

    Raises:
        InputError: none can that the user allows.
    """
    engine = context.options.engine
    by_cost: list[tuple[float, Method]] = []
    obstacles: dict[str, str] = {}
    why_all_positions: str | None = None
    for method in (method_class(context) for method_class in METHODS):
        if context.options.definition not in method.definitions:
            continue
        if engine not in ("auto", method.engine):
            continue
        obstacle = method.why_not(problem)
        if method.draws_positions:
            why_all_positions = obstacle
        if obstacle is None:
            by_cost.append((method.cost(problem), method))
        else:
            obstacles.setdefault(method.engine, obstacle)
    by_cost.sort(key=lambda entry: entry[0])
    costs = {f"{method.engine} ({method.name})": cost for cost, method in by_cost}
    failures: list[str] = []
    for rank, (cost, method) in enumerate(by_cost):
        if context.options.positions is not None and not method.draws_positions:
            continue
        try:
            method.confirm(problem)
        except DoesNotApply as error:
            failures.append(str(error))
            continue
        words = list(_why_chosen(context, cost, failures, obstacles, method))
        # A batch that fails to be computed exactly is no reason to estimate it, and estimates are
        # completed by what is known of the samples that were drawn from.
        # Those from drawn positions are sums over a sample like any others.
        drawn = method.is_drawn and not method.draws_positions
        fallbacks = [
            other
            for place, (_, other) in enumerate(by_cost)
            if (place > rank or method.draws_positions)
            and (other.is_drawn and not other.draws_positions) == drawn
            and other is not method
            and (method.draws_positions or not other.draws_positions)
        ]
        # Other ways to draw positions come first: they keep to a time budget.
        fallbacks.sort(key=lambda other: not other.draws_positions)
        methods = (method, *fallbacks)
        return Plan(methods, cost, costs, "; ".join(words))
    if context.options.positions is not None:
        why = "; ".join(dict.fromkeys(failures)) or why_all_positions
        raise InputError(
            f"positions={context.options.positions}: the target positions of {context.name} cannot "
            f"be drawn: {why}. Leave positions out; sources or time_budget draw source features"
        )
    raise InputError(_no_method(context, failures, obstacles))


def _why_chosen(
    context: PairContext,
    cost: float,
    failures: list[str],
    obstacles: dict[str, str],
    method: Method,
) -> Iterator[str]:
    """Why a method was chosen."""
    if method.engine == "perturbation":
        yield "what the method needs"
        return
    asked = "asked for" if context.options.engine != "auto" else "the lowest predicted cost"
    yield f"{cost:.4g} passes per batch, {asked}"
    yield from dict.fromkeys(failures)
    if method.engine != "closed_form" and "closed_form" in obstacles:
        yield obstacles["closed_form"]


def _no_method(context: PairContext, failures: list[str], obstacles: dict[str, str]) -> str:
    """What to say where no method can serve."""
    engine = context.options.engine
    if engine == "closed_form":
        why = obstacles.get(engine, "; ".join(failures)).removeprefix("no closed form: ")
        return (
            f"engine='closed_form' is not possible for {context.name}: {why}. "
            "Use engine='auto', 'forward' or 'reverse'"
        )
    if not failures:
        return f"{context.name}: {'; '.join(dict.fromkeys(obstacles.values()))}"
    why = "; ".join(dict.fromkeys(failures))
    hint = "method='ablation' needs no derivatives"
    if engine in ("forward", "reverse"):
        other = "reverse" if engine == "forward" else "forward"
        hint = f"use engine={other!r} or 'auto'; {hint}"
    return f"{context.name}: {why}; {hint}"
