"""Whether the derivatives that torch takes of a pair's segment are those of its values."""

from __future__ import annotations

import contextlib
from typing import Any

from torch import Tensor, nn

from ..calculus.derivatives import FAILURES
from ..calculus.differences import reverse_mode_agrees, wrong_derivative
from ..calculus.operations import operations_of
from ..errors import ModelError
from ..layers import PairProblem
from .methods.method import DoesNotApply

__all__ = ["check_derivatives"]


def check_derivatives(problem: PairProblem, name: str, *, reverse: bool) -> None:
    """Compares one derivative of a segment that runs unusual operations with differences.

    Args:
        problem: the pair on its first samples.
        name: of the pair, for the message.
        reverse: whether derivatives are taken in reverse mode.

    Raises:
        DoesNotApply: forward mode alone is wrong, as of a custom operation that has a rule for
            reverse mode only.
        ModelError: torch takes another derivative than the values have, as of a quantised product,
            which counts as constant.
    """
    segment, z = problem.segment, problem.z
    try:
        wrong = wrong_derivative(segment, z)
    except FAILURES:
        return  # reverse mode only, or a point outside of what the model takes
    with contextlib.suppress(*FAILURES):
        if wrong and reverse_mode_agrees(segment, z):
            if reverse:
                return
            raise DoesNotApply(
                "forward mode takes another derivative than the values have (of a custom "
                "operation, say), and reverse mode the right one"
            )
    modules = _wrong_modules(problem) if wrong else []
    if modules or (wrong and not operations_of(segment, z).holds_fixed):
        of = f", by module {modules[0]}" if modules else ""
        raise ModelError(
            f"the derivatives that torch takes of {name} are not those of its values{of}: what it "
            "computes counts as constant or is approximated (quantisation, a custom kernel). Use "
            "method='ablation', which needs no derivatives, or the model before it was quantised"
        )


def _wrong_modules(problem: PairProblem) -> list[str]:
    """Modules whose derivative contradicts their values, as 'name (Class)', inner ones first."""
    calls: dict[str, tuple[nn.Module, Tensor]] = {}
    names = {module: name for name, module in problem.segment.runner.model.named_modules()}

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        if len(args) == 1 and isinstance(args[0], Tensor) and args[0].is_floating_point():
            calls.setdefault(names[module], (module, args[0].detach().clone()))

    with contextlib.ExitStack() as stack:
        for module in names:
            stack.callback(module.register_forward_pre_hook(note).remove)
        problem.segment(problem.z)
    wrong = []
    inner_first = sorted(calls.items(), key=lambda call: (not call[0], -call[0].count(".")))
    for name, (module, given) in inner_first:
        with contextlib.suppress(*FAILURES, AttributeError):  # such as of a result in parts
            on_purpose = operations_of(module, given).holds_fixed
            if not on_purpose and wrong_derivative(module, given):
                wrong.append(f"{name!r} ({type(module).__name__})")
    return wrong
