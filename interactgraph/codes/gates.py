"""Gates of activation functions: which piece of a spline a pre-activation is on.

A ReLU network is affine on each region of its input space, and the signs of the pre-activations say
on which one a sample is (hard vector quantisation). A smooth gate is the soft counterpart: the
probability of the piece, by which the pre-activation is multiplied, or which is the slope of the
function (Balestriero & Baraniuk, From Hard to Soft, arXiv 1810.09274).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import choice
from ..errors import InputError, ModelError
from ..model import Runner, resolve_sites
from ..model.axes import ModuleCall, watched_modules
from ..model.sites import named_modules

__all__ = ["GATES", "Gate", "GatedLayer", "gated_layers"]

_COMPARED = 10_000  # entries of an activation
_TOLERANCE = 1e-5  # largest difference, relative to one plus the largest value


@dataclass(frozen=True)
class Gate:
    """An activation function y = phi(u) and its gate.

    Attributes:
        function: (u, y) -> phi(u); y tells the slope of a function that has one.
        probability: u -> probability that the gate is open; for a hard gate, 0 or 1.
        hard: whether it is 0 or 1.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    probability: Callable[[Tensor], Tensor]
    hard: bool = False

    def deviation(self, u: Tensor, y: Tensor) -> float:
        """Largest difference of phi(u) and y."""
        return float((self.function(u, y) - y).abs().max())


def _leaky(u: Tensor, y: Tensor) -> Tensor:
    below = u < 0
    slope = (u * y)[below].sum() / u[below].square().sum().clamp_min(torch.finfo(u.dtype).tiny)
    return torch.where(below, slope * u, u)


def _phi_by_tanh(u: Tensor) -> Tensor:
    return 0.5 * (1 + (math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)).tanh())


def _is_positive(u: Tensor) -> Tensor:
    return (u > 0).to(u.dtype)


# Sources: Hendrycks & Gimpel, arXiv 1606.08415, for GELU; 1810.09274, section 3, for the others.
GATES: Mapping[str, Gate] = {
    "relu": Gate(lambda u, _: u.relu(), _is_positive, hard=True),
    "leaky_relu": Gate(_leaky, _is_positive, hard=True),
    "gelu": Gate(lambda u, _: F.gelu(u), torch.special.ndtr),
    "gelu_tanh": Gate(lambda u, _: F.gelu(u, approximate="tanh"), _phi_by_tanh),
    "silu": Gate(lambda u, _: F.silu(u), torch.sigmoid),
    "sigmoid": Gate(lambda u, _: u.sigmoid(), torch.sigmoid),
    "softplus": Gate(lambda u, _: F.softplus(u), torch.sigmoid),
}


@dataclass(frozen=True)
class GatedLayer:
    """A layer and where its gates are read.

    Attributes:
        layer: as the user calls it.
        read: name of the layer that holds the pre-activations; may be the same one.
        gate: name of the gate, a key of `GATES`.
    """

    layer: str
    read: str
    gate: str


def gated_layers(
    runner: Runner, batch: Any, layers: Sequence[str], given: Mapping[str, str]
) -> list[GatedLayer]:
    """Finds pre-activations and gates of layers, by comparing values on a few samples.

    A layer holds an activation function's values, or its pre-activations: it is looked for a tensor
    u that enters or leaves a module with phi(u) equal to the layer's values, and then for one that
    equals phi of them. So it does not matter how the function is called in the model.

    Args:
        runner: the model, prepared.
        batch: a few samples, converted.
        layers: names of layers.
        given: layer -> gate, of layers whose own values are the pre-activations.

    Raises:
        InteractGraphError: a gate is unknown, a layer has none, or two layers have the same ones.
    """
    for layer, gate in given.items():
        choice(f"gates[{layer!r}]", gate, GATES)
        if layer not in layers:
            raise InputError(f"gates name layer {layer!r}, which is none of layers={list(layers)}")
    asked = [layer for layer in layers if layer not in given]
    found = {layer: GatedLayer(layer, layer, gate) for layer, gate in given.items()}
    if asked:
        with _out_of_place(runner.model), watched_modules(runner.model) as calls, torch.no_grad():
            values = runner.activations(batch, resolve_sites(runner.model, asked), whole=True)
        tensors = list(_tensors(runner.model, calls))
        found |= {layer: _gate_of(layer, values[layer], tensors) for layer in asked}
    gated = [found[layer] for layer in layers]
    for n, one in enumerate(gated):
        if twins := [other.layer for other in gated[:n] if other.read == one.read]:
            raise InputError(f"layers {twins[0]!r} and {one.layer!r} have the same gates; give one")
    return gated


def _gate_of(layer: str, value: Tensor, tensors: Sequence[tuple[str, Tensor]]) -> GatedLayer:
    generator = torch.Generator().manual_seed(0)
    entries = torch.randint(max(value.numel(), 1), (_COMPARED,), generator=generator)
    entries = entries.to(value.device)
    same_shape = [
        (name, other.flatten()[entries]) for name, other in tensors if other.shape == value.shape
    ]
    value = value.flatten()[entries]
    for name, other in same_shape:
        if (gate := _match(other, value)) is not None:
            return GatedLayer(layer, name, gate)
    for _, other in same_shape:
        if (gate := _match(value, other)) is not None:
            return GatedLayer(layer, layer, gate)
    raise ModelError(
        f"layer {layer!r} holds neither what an activation function gives nor what one receives, "
        "as far as inputs and outputs of modules tell on the first samples. Name the layer of the "
        f"function itself or, where the values of {layer!r} are pre-activations, its gate: "
        f"gates={{{layer!r}: 'relu'}} (one of {', '.join(GATES)})"
    )


def _match(u: Tensor, y: Tensor) -> str | None:
    if torch.equal(u, y):  # a ReLU that is open everywhere is the identity
        return None
    deviations = {name: gate.deviation(u, y) for name, gate in GATES.items()}
    best = min(deviations, key=lambda name: deviations[name])  # the first one of equals
    return best if deviations[best] <= _TOLERANCE * (1 + float(y.abs().max())) else None


def _tensors(model: nn.Module, calls: Sequence[ModuleCall]) -> Iterator[tuple[str, Tensor]]:
    """What enters and leaves modules that run once, with the name of the layer that it is."""
    names = {module: name for name, module in named_modules(model).items()}
    counts: dict[nn.Module, int] = {}
    for call in calls:
        counts[call.module] = counts.get(call.module, 0) + 1
    for call in calls:
        name = names[call.module]
        if counts[call.module] == 1 and name:
            for layer, values in ((f"{name}.input", call.given), (name, call.result)):
                if values:
                    yield layer, values[0]


@contextlib.contextmanager
def _out_of_place(model: nn.Module) -> Iterator[None]:
    """Modules do not overwrite what they receive, so that it can be compared afterwards."""
    switched = [module for module in model.modules() if getattr(module, "inplace", None) is True]
    try:
        for module in switched:
            module.inplace = False  # type: ignore[assignment]
        yield
    finally:
        for module in switched:
            module.inplace = True  # type: ignore[assignment]
