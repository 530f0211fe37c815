"""What is measured of a model's output, sample by sample; more is better."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InteractGraphError

__all__ = ["MEASURES", "Measure", "check_measure", "take"]

# (output, batch, output of the intact model) -> one number for each sample
Measure = Callable[[Tensor, Any, Tensor], Tensor]


def accuracy(output: Tensor, batch: Any, intact: Tensor, mask: Tensor | None = None) -> Tensor:
    """1 where the largest logit is the label, the second element of the batch."""
    return _right(output, _labels(batch, output, mask), mask)


def agreement(output: Tensor, batch: Any, intact: Tensor, mask: Tensor | None = None) -> Tensor:
    """1 where the largest logit is the intact model's; needs no labels."""
    return _right(output, _logits(intact).argmax(-1), mask)


def log_likelihood(
    output: Tensor, batch: Any, intact: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Log-probability of the label, minus the cross-entropy loss."""
    return _log_probability(output, _labels(batch, output, mask), mask)


def log_agreement(output: Tensor, batch: Any, intact: Tensor, mask: Tensor | None = None) -> Tensor:
    """Log-probability of the intact model's answer: smooth, where `accuracy` is not."""
    return _log_probability(output, _logits(intact).argmax(-1), mask)


def similarity(output: Tensor, batch: Any, intact: Tensor, mask: Tensor | None = None) -> Tensor:
    """Minus the squared distance from the intact model's output, for any kind of output."""
    distance = (output - intact).double().square()
    if (counts := _counts(mask, output)) is not None:
        distance = distance * counts.reshape(*counts.shape, *[1] * (output.ndim - 2))
    return -distance.reshape(len(output), -1).sum(1)


# Means are over positions that count, where the output has positions and a mask is given.
MEASURES: dict[str, Measure] = {
    "accuracy": accuracy,
    "agreement": agreement,
    "log_likelihood": log_likelihood,
    "log_agreement": log_agreement,
    "similarity": similarity,
}


def check_measure(measure: str | Measure) -> Measure:
    """The measure of that name, or the function itself.

    Raises:
        InteractGraphError: there is none.
    """
    if isinstance(measure, str) and measure in MEASURES:
        return MEASURES[measure]
    if isinstance(measure, str) or not callable(measure):
        raise InteractGraphError(
            f"measure={measure!r} is unknown; choose one of {', '.join(MEASURES)}, or give a "
            "function (output, batch, output of the intact model) -> one number for each sample"
        )
    return measure


def take(
    measure: Measure,
    output: Tensor,
    batch: Any,
    intact: Tensor,
    mask: Tensor | None = None,
    name: str = "",
) -> Tensor:
    """The measure's values, one for each sample, float64.

    Args:
        measure: one of `MEASURES`, or the user's.
        output: of the model.
        batch: the batch.
        intact: the intact model's output.
        mask: positions that count, bool `[b, p]`, for those of `MEASURES`; None: all.
        name: of the measure, for the message.

    Raises:
        InteractGraphError: it gives something else.
    """
    if measure in MEASURES.values():
        values = measure(output, batch, intact, mask)  # type: ignore[call-arg]
    else:
        values = measure(output, batch, intact)
    if not isinstance(values, Tensor) or values.shape != output.shape[:1]:
        found = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else repr(values)[:60]
        raise InteractGraphError(
            f"the measure{name and ' ' + repr(name)} gives {found} for {len(output)} samples; it "
            "must give one number for each"
        )
    return values.double()


def _right(output: Tensor, answer: Tensor, mask: Tensor | None) -> Tensor:
    """Share of the positions where the largest logit is the answer, `[b]`."""
    return _mean((_logits(output).argmax(-1) == answer).double(), output, mask)


def _log_probability(output: Tensor, answer: Tensor, mask: Tensor | None) -> Tensor:
    """Log-probability of the answer, mean over positions, `[b]`."""
    log_probability = F.log_softmax(_logits(output).double(), -1).gather(-1, answer[..., None])
    return _mean(log_probability[..., 0], output, mask)


def _mean(values: Tensor, output: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of values `[b, ...]` over the positions that count, `[b]`."""
    counts = _counts(mask, output)
    if counts is None or values.ndim != 2:
        return values.reshape(len(values), -1).mean(1)
    return (values * counts).sum(1) / counts.sum(1).clamp_min(1)


def _counts(mask: Tensor | None, output: Tensor) -> Tensor | None:
    """The mask where the output has the positions it is about, float64 `[b, p]`."""
    if mask is None or output.ndim < 3 or output.shape[:2] != mask.shape:
        return None
    return mask.to(output.device, torch.float64)


def _logits(output: Tensor) -> Tensor:
    if output.ndim < 2 or output.shape[-1] < 2:
        raise InteractGraphError(
            f"the output has shape {tuple(output.shape)}; this measure reads it as [samples, ..., "
            "classes] with at least two classes. Use 'similarity', or give a measure function"
        )
    return output


def _labels(batch: Any, output: Tensor, mask: Tensor | None) -> Tensor:
    """Labels `[b]`, or `[b, positions]` where the output has positions."""
    if not (isinstance(batch, (tuple, list)) and len(batch) > 1 and isinstance(batch[1], Tensor)):
        raise InteractGraphError(
            "this measure needs batches (input, labels); use 'agreement' or 'similarity', which "
            "compare with the intact model, or give a measure function"
        )
    labels = batch[1].to(output.device)
    if labels.shape != _logits(output).shape[:-1] or labels.dtype.is_floating_point:
        raise InteractGraphError(
            f"labels of shape {tuple(labels.shape)} and dtype {labels.dtype} do not fit an output "
            f"of shape {tuple(output.shape)}; give a measure function instead"
        )
    if (counts := _counts(mask, output)) is not None:
        labels = torch.where(counts > 0, labels, 0)  # padding holds any number
    if labels.numel() and (labels.min() < 0 or labels.max() >= output.shape[-1]):
        raise InteractGraphError(
            f"labels go from {int(labels.min())} to {int(labels.max())} and the output has "
            f"{output.shape[-1]} classes; give labels of 0 and up, or a measure function"
        )
    return labels.long()
