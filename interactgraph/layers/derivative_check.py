"""Which modules of a segment have other derivatives than torch takes."""

from __future__ import annotations

import contextlib
from typing import Any

from torch import Tensor, nn

from ..calculus.derivatives import FAILURES
from ..calculus.differences import wrong_derivative
from ..calculus.jumps import HELD_FIXED, jumping_operations
from .segment import FeatureSegment

__all__ = ["wrong_modules"]


def wrong_modules(segment: FeatureSegment, z: Tensor) -> list[str]:
    """Modules whose derivative contradicts their values, as 'name (Class)', inner ones first.

    Args:
        segment: that runs them.
        z: source features, `[b, s, j]`.
    """
    calls: dict[str, tuple[nn.Module, Tensor]] = {}
    names = {module: name for name, module in segment.runner.model.named_modules()}

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        if len(args) == 1 and isinstance(args[0], Tensor) and args[0].is_floating_point():
            calls.setdefault(names[module], (module, args[0].detach().clone()))

    with contextlib.ExitStack() as stack:
        for module in names:
            stack.callback(module.register_forward_pre_hook(note).remove)
        segment(z)
    wrong = []
    for name, (module, given) in sorted(calls.items(), key=lambda call: -call[0].count(".")):
        with contextlib.suppress(*FAILURES, AttributeError):
            on_purpose = HELD_FIXED in jumping_operations(module, given)
            if not on_purpose and wrong_derivative(module, given):
                wrong.append(f"{name!r} ({type(module).__name__})")
    return wrong
