"""A look at the first batch: what is executed, in which order, shapes, what can be relied on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import InteractGraphError, ModelError
from .axes import FeatureAxis, ModuleCall, feature_axes, watched_modules
from .runner import Runner
from .sites import Site, first_tensor

__all__ = ["Probe", "check_finite", "check_rows", "check_segment", "probe"]


class Probe(NamedTuple):
    """What a whole run of the model on the first batch tells.

    Attributes:
        runner: told which activations the model changes in place.
        activations: layer -> activation, in order of execution.
        axes: layer -> the axis of its features.
        time_first: name of a module that takes axis 0 of what looks like the layers' activations
            for time; None: there is none.
    """

    runner: Runner
    activations: dict[str, Tensor]
    axes: dict[str, FeatureAxis]
    time_first: str | None = None


def probe(
    runner: Runner,
    batch: Any,
    sites: Sequence[Site],
    pairs: Sequence[tuple[str, str]],
    batch_number: int = 0,
) -> Probe:
    """Runs the whole model once and checks everything that can be checked before the long run.

    Args:
        runner: the model.
        batch: the first batch, converted.
        sites: all layers of the analysis.
        pairs: (source, target) names.
        batch_number: of the batch, for messages.

    Raises:
        ModelError: layers not executed, executed twice, in the wrong order, not floating,
            not finite; model and data of different dtype or on different devices.
    """
    try:
        with watched_modules(runner.model) as calls:
            activations = runner.activations(batch, sites, whole=True, number=batch_number)
    except InteractGraphError as error:
        if error.__cause__ is not None:
            _check_conversion(runner, batch, error)
        raise
    axes = feature_axes(calls, activations)
    order = list(activations)
    for source, target in pairs:
        if order.index(source) >= order.index(target):
            raise ModelError(
                f"layer {source!r} runs after {target!r}, so it cannot be its source; "
                f"the model runs the layers in the order {order}"
            )
    sources = {source for source, _ in pairs}
    for name, value in activations.items():
        if not value.is_floating_point():
            role = "a source" if name in sources else "a target"
            raise ModelError(
                f"layer {name!r} holds {value.dtype} values, which cannot be {role}: interaction "
                "strengths need real numbers. For token numbers use the embedding's output instead"
            )
    # Where the model works in place, a captured tensor changes afterwards: keep copies there.
    clean = dataclasses.replace(runner, cloned=frozenset(activations)).activations(
        batch, sites, whole=True
    )
    if any(value.is_inference() for value in activations.values()):
        raise ModelError(
            "the model runs under torch.inference_mode(), in which nothing can be followed or "
            "differentiated; leave it out of forward= (gradients are switched off where they are "
            "not needed)"
        )
    cloned = {name for name, v in activations.items() if v._version or not _same(v, clean[name])}
    check_finite(clean, batch_number)
    late = _time_first(runner.model, calls, clean)
    return Probe(dataclasses.replace(runner, cloned=frozenset(cloned)), clean, axes, late)


def _time_first(
    model: nn.Module, calls: Sequence[ModuleCall], activations: dict[str, Tensor]
) -> str | None:
    shapes = {value.shape[:2] for value in activations.values() if value.ndim == 3}
    for call in calls:
        given = call.given[0] if call.given else None
        late = getattr(call.module, "batch_first", None) is False
        if late and given is not None and given.ndim == 3 and given.shape[:2] in shapes:
            return next(name for name, module in model.named_modules() if module is call.module)
    return None


def check_rows(activations: dict[str, Tensor], pairs: Sequence[tuple[str, str]]) -> None:
    """Checks that the first axis of sources and targets can be the samples.

    Raises:
        ModelError: they have none, or not as many.
    """
    for pair in pairs:
        for layer in pair:
            if not activations[layer].ndim:
                raise ModelError(
                    f"layer {layer!r} holds a single number, not one for each sample; the first "
                    "axis of activations must be the samples of the batch"
                )
            if 0 in activations[layer].shape[1:]:
                raise ModelError(
                    f"layer {layer!r} has no features: its activations have shape "
                    f"{tuple(activations[layer].shape)}; leave it out"
                )
        source, target = (len(activations[layer]) for layer in pair)
        if source != target:
            raise ModelError(
                f"layer {pair[0]!r} has {source} rows on its first axis and {pair[1]!r} has "
                f"{target}; the first axis must be the samples of the batch in both (if the "
                "batches are single samples, give one tensor of them, or a DataLoader)"
            )


def check_finite(activations: dict[str, Tensor], batch_number: int) -> None:
    """Stops at the first activation that is not finite.

    Raises:
        ModelError: says which layer, which batch, which samples.
    """
    for name, value in activations.items():
        # The sum is finite unless an entry is not (or it overflows): one cheap pass over the data.
        if not torch.isfinite(value.sum()) and not (finite := torch.isfinite(value)).all():
            rows = (~finite).flatten(1).any(1).nonzero().flatten()[:5].tolist()
            raise ModelError(
                f"layer {name!r} holds values that are not finite in batch {batch_number} "
                f"(samples {rows}); mend the model or leave those samples out"
            )


def check_segment(
    runner: Runner, batch: Any, source: Site, target: Site, activations: dict[str, Tensor]
) -> None:
    """Checks that the segment repeats the forward pass and treats samples independently.

    Args:
        runner: the model.
        batch: the first batch, converted.
        source: the source site.
        target: the target site.
        activations: of that batch.

    Raises:
        ModelError: it does not.
    """
    z, y = activations[source.name], activations[target.name]
    segment = runner.segment(batch, source, target)
    again = segment(z)
    if not _close(again, y):
        raise ModelError(
            f"the model does not repeat itself between {source.name!r} and {target.name!r}: the "
            "same batch gives other activations the second time. Switch off what is random in its "
            "forward (dropout by F.dropout without training=self.training, sampling, noise)"
        )
    if z.shape[0] > 1:
        # Other samples' values, a little changed so that equal samples count, in half of the rows.
        generator = torch.Generator().manual_seed(0)
        factors = 1 + 0.1 * torch.rand(z.shape, generator=generator).to(z)
        half = torch.arange(len(z), device=z.device) < len(z) // 2
        for moved in (half, ~half):
            changed = z.clone()
            changed[moved] = (z.roll(1, 0) * factors)[moved]
            if _close(segment(changed)[~moved], y[~moved]):
                continue
            raise ModelError(
                f"samples of a batch influence each other between {source.name!r} and "
                f"{target.name!r}; the first axis of activations must be the batch "
                "(batch_first=True), and normalisation over the batch must be in eval mode. Where "
                "a scale is taken over the batch (dynamic quantisation), give batches of one sample"
            )


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))


def _close(a: Tensor, b: Tensor) -> bool:
    tolerance = 1e-3 if a.dtype != torch.float64 else 1e-7
    return (
        a.shape == b.shape
        and bool(torch.isfinite(a).all())
        and bool((a - b).abs().max() <= tolerance * (b.abs().max() + 1e-30))
    )


def _check_conversion(runner: Runner, batch: Any, error: Exception) -> None:
    """Says plainly what torch would say obscurely: model and batch do not fit together."""
    parameter = next((p for p in runner.model.parameters() if p.is_floating_point()), None)
    tensor = first_tensor(batch)
    if parameter is None or tensor is None:
        return
    if tensor.device != parameter.device:
        raise ModelError(
            f"the model is on {parameter.device} and the data on {tensor.device}; "
            f"give device={str(parameter.device)!r} (both are brought there) or move one of them"
        )
    about_types = any(
        word in str(error.__cause__) for word in ("dtype", "scalar type", "same type")
    )
    if tensor.dtype != parameter.dtype and about_types:
        name = str(parameter.dtype).removeprefix("torch.")
        raise ModelError(
            f"the model computes in {parameter.dtype} and the data is {tensor.dtype}; "
            f"give dtype=torch.{name} (both are converted) or convert one of them"
            if tensor.is_floating_point()
            else f"the model computes in {parameter.dtype} and the data holds {tensor.dtype}; "
            f"if its first layer wants real numbers, give data.to(torch.{name})"
        )
