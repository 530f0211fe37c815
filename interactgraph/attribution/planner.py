"""Which way to compute A: the one with the lowest predicted cost.

Costs are counted in forward passes of the segment on a batch. A JVP costs about one pass (the
primal is shared by all of them), a VJP about two; the closed form takes one pass for each column
or row instead of one for each column or row and path node. With explicit matrices it takes no
passes: one map costs one product of the size of the layer for every sum that is kept, two maps
cost d_tgt d_hid d_src operations for each sample where a pass costs (d_src + d_tgt) d_hid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..errors import InteractGraphError

__all__ = ["ENGINES", "Plan", "Way", "choose"]

ENGINES = ("auto", "closed_form", "forward", "reverse")
Way = Literal[
    "one map", "two maps", "columns", "rows", "drawn columns", "signed columns", "signed rows"
]

_VJP = 2.0  # forward passes that a VJP costs


@dataclass(frozen=True)
class Plan:
    """How one layer pair is computed.

    Attributes:
        engine: `closed_form`, `forward` or `reverse`.
        way: explicit matrices (`one map`, `two maps`), or passes by `columns` or `rows`.
        n_steps: path nodes.
        passes: predicted cost in forward passes of the segment per batch.
        costs: the same for every way that was open, by "engine (way)".
        reason: why, in words.
    """

    engine: str
    way: Way
    n_steps: int
    passes: float
    costs: dict[str, float]
    reason: str

    def as_metadata(self) -> dict[str, Any]:
        """JSON values for the recipe."""
        return {
            "engine": self.engine,
            "way": self.way,
            "n_steps": self.n_steps,
            "predicted_passes_per_batch": round(self.passes, 3),
            "costs": {name: round(cost, 3) for name, cost in self.costs.items()},
            "reason": self.reason,
        }


def choose(
    *,
    engine: str,
    n_sources: int,
    n_targets: int,
    n_target_positions: int,
    n_sums: int,
    n_steps: int,
    sources: int | None,
    drawn: Way,
    closed: Literal["one map", "two maps", "passes"] | None,
    obstacle: str,
    pair: str,
) -> Plan:
    """The cheapest open way.

    Args:
        engine: `auto`, or the one the user asks for.
        n_sources: source features.
        n_targets: target features.
        n_target_positions: target positions.
        n_sums: sums that are kept, standard errors included.
        n_steps: path nodes of the quadrature.
        sources: source features (or sets of signs) drawn for each sample; None: exact.
        drawn: the way that does it.
        closed: what the closed form can use; None: there is no closed form.
        obstacle: why there is none.
        pair: name of the pair, for messages.

    Raises:
        InteractGraphError: the closed form is asked for and there is none.
    """
    n_rows = n_targets * n_target_positions
    ways: dict[tuple[str, Way], float] = {
        ("forward", "columns"): n_steps * (n_sources + 1.0),
        ("reverse", "rows"): n_steps * (n_rows * _VJP + 1.0),
    }
    if sources is not None:
        # Asked for, so an exact way has to be cheaper to be taken instead.
        name = "reverse" if drawn == "signed rows" else "forward"
        passes = n_targets * _VJP * sources if drawn == "signed rows" else float(sources)
        ways[name, drawn] = n_steps * (passes + 1.0)
        if engine == name:
            del ways[name, "rows" if name == "reverse" else "columns"]
    if closed is not None:
        ways["closed_form", "columns"] = n_sources + 2.0
        ways["closed_form", "rows"] = n_rows * _VJP + 2.0
    if closed == "one map":
        ways["closed_form", "one map"] = 1.0 + n_sums
    if closed == "two maps":
        ways["closed_form", "two maps"] = 1.0 + n_sources * n_targets / (n_sources + n_targets)
    if engine == "closed_form" and closed is None:
        raise InteractGraphError(
            f"engine='closed_form' is not possible for {pair}: {obstacle}. "
            "Use engine='auto', 'forward' or 'reverse'"
        )
    costs = {f"{name} ({way})": cost for (name, way), cost in ways.items()}
    open_ways = {key: cost for key, cost in ways.items() if engine in ("auto", key[0])}
    (name, way), passes = min(open_ways.items(), key=lambda item: item[1])
    reason = f"{passes:.4g} passes per batch, "
    reason += "asked for" if engine != "auto" else "the lowest predicted cost"
    if closed is None:
        reason += f"; no closed form: {obstacle}"
    return Plan(name, way, 1 if name == "closed_form" else n_steps, passes, costs, reason)
