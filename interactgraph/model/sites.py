"""Layer names -> sites: where in a model an activation is read and replaced."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import ModelError

__all__ = [
    "RESULT",
    "Site",
    "first_tensor",
    "named_modules",
    "plain_model",
    "resolve_sites",
    "with_first_tensor",
]


@dataclass(frozen=True)
class Site:
    """A place in the model that holds one activation.

    Attributes:
        name: what the user called it.
        module: dotted name of the module, "" for the model itself.
        end: whether the activation is the module's first output tensor or first input tensor;
            "result": the first tensor that the call of the model gives, see `RESULT`.
        reads: another place, executed before, that is read with it: the activation is then both
            side by side along the last axis, the other place first, and what replaces it replaces
            this place alone.
    """

    name: str
    module: str
    end: Literal["input", "output", "result"]
    reads: Site | None = None


# What the call of the model gives: what `forward` returns, where there is one.
RESULT = Site("the result of forward", "", "result")


def resolve_sites(model: nn.Module, names: Iterable[str]) -> list[Site]:
    """The sites of layer names, matched exactly.

    A name is a module's dotted name (its output), `NAME.input` (its first tensor input), `input` or
    `output` (the model's). A module that is itself called so wins; `.input` and `.output` always
    mean the model's.

    Raises:
        ModelError: a name is unknown (near misses are suggested) or repeated.
    """
    model = plain_model(model)
    if isinstance(names, str):
        names = [names]
    modules = named_modules(model)
    own_names = {module: inner for inner, module in model.named_modules()}
    sites: list[Site] = []
    for name in names:
        if not isinstance(name, str):
            raise ModelError(f"layer names are strings, got {name!r}")
        site = _resolve(name, modules)
        site = replace(site, module=own_names[modules[site.module]])
        if any((site.module, site.end) == (s.module, s.end) for s in sites):
            raise ModelError(f"layer {name!r} is named twice in layers={list(names)}")
        sites.append(site)
    return sites


def named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules by name; parts that are compiled have the names of the original, too."""
    modules = dict(model.named_modules())
    for inner in list(modules):
        plain = ".".join(part for part in inner.split(".") if part != "_orig_mod")
        modules.setdefault(plain, modules[inner])
    return modules


def plain_model(model: Any) -> nn.Module:
    """The model itself, of a compiled one the original.

    Raises:
        ModelError: it is none that can be run and hooked.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"the model is a {type(model).__name__}; a torch.nn.Module is needed")
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            "the model is TorchScript, whose layers cannot be read or replaced; give the model it "
            "was made from, or one of torch.export"
        )
    original = getattr(model, "_orig_mod", None)  # of torch.compile
    model = original if isinstance(original, nn.Module) else model
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ModelError(
                f"parameter {name!r} of the model has no shape yet; run the model once first"
            )
        if parameter.is_meta:
            raise ModelError(
                f"parameter {name!r} of the model is on the meta device, which holds no values; "
                "load the weights first (model.to_empty(device=...) and load_state_dict)"
            )
    return model


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
    raise ModelError(
        f"layer {name!r} is not in the model{hint} Layers: input, {shown}, output; "
        "NAME.input is what a module receives"
    )


def first_tensor(value: Any) -> Tensor | None:
    """The first tensor in nested tuples, lists, dicts and dataclasses, None if there is none."""
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, Tensor):
            return leaf
        if is_dataclass(leaf) and not isinstance(leaf, type):
            entries = [getattr(leaf, entry.name) for entry in fields(leaf)]
            if (tensor := first_tensor(entries)) is not None:
                return tensor
    return None


def with_first_tensor(value: Any, tensor: Tensor) -> Any:
    """The same nested value with its first tensor replaced."""
    leaves, spec = pytree.tree_flatten(value)
    index = next(n for n, leaf in enumerate(leaves) if first_tensor([leaf]) is not None)
    leaf = leaves[index]
    if isinstance(leaf, Tensor):
        leaves[index] = tensor
    else:  # a dataclass
        leaves[index] = changed = copy.copy(leaf)
        for entry in fields(leaf):
            if first_tensor([getattr(leaf, entry.name)]) is not None:
                part = with_first_tensor(getattr(leaf, entry.name), tensor)
                object.__setattr__(changed, entry.name, part)
                break
    return pytree.tree_unflatten(leaves, spec)
