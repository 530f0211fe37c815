"""Layer names -> sites: where in a model an activation is read and replaced."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import InteractGraphError

__all__ = ["RESULT", "Site", "first_tensor", "resolve_sites", "with_first_tensor"]


@dataclass(frozen=True)
class Site:
    """A place in the model that holds one activation.

    Attributes:
        name: what the user called it.
        module: dotted name of the module, "" for the model itself.
        end: whether the activation is the module's first output tensor or first input tensor;
            "result": the first tensor that the call of the model gives, see `RESULT`.
    """

    name: str
    module: str
    end: Literal["input", "output", "result"]


# What the call of the model gives: what `forward` returns, where there is one.
RESULT = Site("the result of forward", "", "result")


def resolve_sites(model: nn.Module, names: Iterable[str]) -> list[Site]:
    """The sites of layer names, matched exactly.

    A name is a module's dotted name (its output), `NAME.input` (its first tensor input), `input` or
    `output` (the model's). A module that is itself called so wins; `.input` and `.output` always
    mean the model's.

    Raises:
        InteractGraphError: a name is unknown (near misses are suggested) or repeated.
    """
    if not isinstance(model, nn.Module):
        raise InteractGraphError(
            f"the model is a {type(model).__name__}; a torch.nn.Module is needed"
        )
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise InteractGraphError(
                f"parameter {name!r} of the model has no shape yet; run the model once first"
            )
    if isinstance(names, str):
        raise InteractGraphError(f"layers must be a list of names, got the string {names!r}")
    modules = dict(model.named_modules())
    sites: list[Site] = []
    for name in names:
        if not isinstance(name, str):
            raise InteractGraphError(f"layer names are strings, got {name!r}")
        site = _resolve(name, modules)
        if any((site.module, site.end) == (s.module, s.end) for s in sites):
            raise InteractGraphError(f"layer {name!r} is named twice in layers={list(names)}")
        sites.append(site)
    return sites


def _resolve(name: str, modules: dict[str, nn.Module]) -> Site:
    if name and name in modules:
        return Site(name, name, "output")
    module, _, end = name.rpartition(".")
    if module in modules:
        if end == "input":
            return Site(name, module, "input")
        if end == "output":
            return Site(name, module, "output")
    known = [known for known in modules if known]
    close = difflib.get_close_matches(name, [*known, "input", "output"], n=3, cutoff=0.5)
    shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
    hint = f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else "."
    raise InteractGraphError(
        f"layer {name!r} is not in the model{hint} Layers: input, {shown}, output; "
        "NAME.input is what a module receives"
    )


def first_tensor(value: Any) -> Tensor | None:
    """The first tensor in nested tuples, lists and dicts, None if there is none."""
    return next((leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)), None)


def with_first_tensor(value: Any, tensor: Tensor) -> Any:
    """The same nested value with its first tensor replaced."""
    leaves, spec = pytree.tree_flatten(value)
    index = next(n for n, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
    leaves[index] = tensor
    return pytree.tree_unflatten(leaves, spec)
