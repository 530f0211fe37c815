"""What is measured of a model's output, sample by sample; more is better."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from ..errors import InteractGraphError

__all__ = ["MEASURES", "Measure", "check_measure"]

# (output, batch, output of the intact model) -> one number for each sample
Measure = Callable[[Tensor, Any, Tensor], Tensor]


def accuracy(output: Tensor, batch: Any, intact: Tensor) -> Tensor:
    """1 where the largest logit is the label, the second element of the batch."""
    return (output.argmax(-1) == _labels(batch, output)).to(output.dtype)


def agreement(output: Tensor, batch: Any, intact: Tensor) -> Tensor:
    """1 where the largest logit is the intact model's; needs no labels."""
    return (output.argmax(-1) == intact.argmax(-1)).to(output.dtype)


def log_likelihood(output: Tensor, batch: Any, intact: Tensor) -> Tensor:
    """Log-probability of the label, minus the cross-entropy loss."""
    return -F.cross_entropy(output, _labels(batch, output), reduction="none")


def log_agreement(output: Tensor, batch: Any, intact: Tensor) -> Tensor:
    """Log-probability of the intact model's answer: smooth, where `accuracy` is not."""
    return -F.cross_entropy(output, intact.argmax(-1), reduction="none")


def similarity(output: Tensor, batch: Any, intact: Tensor) -> Tensor:
    """Minus the squared distance from the intact model's output, for any kind of output."""
    return -(output - intact).flatten(1).square().sum(1)


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


def _labels(batch: Any, output: Tensor) -> Tensor:
    if isinstance(batch, (tuple, list)) and len(batch) > 1 and isinstance(batch[1], Tensor):
        labels = batch[1].to(output.device)
        if (
            output.ndim == 2
            and labels.shape == output.shape[:1]
            and not labels.dtype.is_floating_point
        ):
            return labels
        raise InteractGraphError(
            f"labels of shape {tuple(labels.shape)} and dtype {labels.dtype} do not fit an output "
            f"of shape {tuple(output.shape)}; give a measure function instead"
        )
    raise InteractGraphError(
        "this measure needs batches (input, labels); use 'agreement' or 'similarity', which "
        "compare with the intact model, or give a measure function"
    )
