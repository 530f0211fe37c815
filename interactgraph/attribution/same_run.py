"""What a resumed run compares with the one that was interrupted: data, model, what was fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..calculus.derivatives import jvps
from ..calculus.rounding import is_close, tolerance
from ..checkpoint import fingerprint
from ..errors import InteractGraphError
from ..layers import Layers, PairProblem
from .groups import SampleKeys
from .options import Options, Pair

__all__ = ["SameRun", "check_means", "first_derivatives"]

_COMPARED = 16  # samples whose activations are compared


@dataclass(eq=False)
class SameRun:
    """Fingerprints of what a run was made of, to be saved with its checkpoint.

    Attributes:
        options: of the run.
        layers: of the model.
        derivatives: pair -> one derivative on the first samples, see `first_derivatives`.
        added: fingerprint of every batch of a pass that was added.
        last: number of the last batch that was added.
        last_activations: of its first samples.
    """

    options: Options
    layers: Layers
    derivatives: Mapping[str, Tensor | None] = field(default_factory=dict)
    added: list[str] = field(default_factory=list)
    last: int = -1
    last_activations: Mapping[str, Tensor] = field(default_factory=dict)

    def begins(self, batch: Any, number: int) -> None:
        """Takes in a batch before it is added; in a later pass it must be the same one.

        Raises:
            InteractGraphError: it is not.
        """
        if number < len(self.added):
            self._check_batch(batch, number)
        else:
            self.added.append(self._fingerprint(batch))

    def reads(self, number: int, activations: Mapping[str, Tensor]) -> None:
        """Takes in the activations of a batch, of its first samples."""
        if number != self.last:
            self.last, self.last_activations = number, _first_samples(activations)

    def check(self, batch: Any, number: int, max_samples: int) -> None:
        """Compares a batch that was added before the run was resumed.

        Args:
            batch: as the data give it.
            number: of the batch.
            max_samples: at a time.

        Raises:
            InteractGraphError: it is another one, or the model makes something else of it.
        """
        self._check_batch(batch, number)
        if number == self.last:
            converted = self.layers.runner.convert(batch)
            piece = next(iter(self.layers.cut.pieces(converted, max_samples)))
            activations = self.layers.encode(piece, number).activations
            _check_activations(self.last_activations, activations, f"for batch {number}")

    def check_end(self, n_batches: int, n_added: int) -> None:
        """Stops where the data end before what was added.

        Args:
            n_batches: of the data.
            n_added: batches of the pass at hand.

        Raises:
            InteractGraphError: they do.
        """
        if n_batches < n_added:
            raise InteractGraphError(
                f"the checkpoint belongs to another run: it has added {n_added} batches, and "
                f"the data has {n_batches} now; use another folder"
            )

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "maps": {layer: list(each.state()) for layer, each in self.layers.maps.items()},
            "derivatives": self.derivatives,
            "activations": _first_samples(self.layers.activations),
            "last": [self.last, self.last_activations],
            "added": self.added,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from what `state` gave.

        Raises:
            InteractGraphError: model or data are others now.
        """
        _check_activations(state["activations"], self.layers.activations, "for the first samples")
        for layer, (_, tensors) in state["maps"].items():
            found = self.layers.maps[layer].state()[1]
            if not all(_is_same(found[name], tensor, "maps") for name, tensor in tensors.items()):
                raise InteractGraphError(
                    f"the checkpoint belongs to another run: the features of layer {layer!r} are "
                    "others now, so the data that they are fitted to, or the model, have changed; "
                    "use another folder"
                )
        for pair, saved in state["derivatives"].items():
            if saved is not None and not _is_same(self.derivatives.get(pair), saved, "segment"):
                raise InteractGraphError(
                    f"the checkpoint belongs to another run: derivatives of {pair} are others now "
                    "although the activations are the same (detach, a custom operation), so the "
                    "model has changed; use another folder"
                )
        self.last, self.last_activations = state["last"]
        self.added = list(state["added"])

    def _check_batch(self, batch: Any, number: int) -> None:
        if self._fingerprint(batch) != self.added[number]:
            raise InteractGraphError(
                f"the checkpoint belongs to another run: batch {number}, which it has added, is "
                "another one now (its samples, their order or number, groups or position_mask); "
                "use another folder, or give the data that it was begun with"
            )

    def _fingerprint(self, batch: Any) -> str:
        """A string that changes when the batch does, or what groups and masks make of it."""
        parts, keys = {"batch": batch}, SampleKeys(self.options)
        if keys.any or self.layers.position_mask is not None:
            converted = self.layers.runner.convert(batch)
            n_samples = self.layers.cut.n_samples(batch)
            if n_samples is not None:
                parts["keys"] = repr(keys.of(converted, n_samples, 0))
            parts["mask"] = self.layers.given_mask(converted)
        return fingerprint(parts)


def first_derivatives(problems: Mapping[Pair, PairProblem]) -> dict[str, Tensor | None]:
    """One derivative of every pair on its first samples; None where torch has none."""
    found: dict[str, Tensor | None] = {}
    for pair, problem in problems.items():
        name = " -> ".join(pair)
        try:
            found[name] = jvps(problem.segment, problem.z, problem.z[None], vmapped=False)[0]
        except Exception:  # such as a layer without forward mode, or a method that needs none
            found[name] = None
    return found


def check_means(found: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Stops where baselines are others than those that a checkpoint has.

    Raises:
        InteractGraphError: they are.
    """
    for layer, baseline in saved.items():
        if isinstance(baseline, Tensor) and not _is_same(found[layer], baseline, "maps"):
            raise InteractGraphError(
                f"the checkpoint belongs to another run: the mean activation of layer {layer!r} is "
                "another one now, so data or model have changed; use another folder"
            )


def _check_activations(
    saved: Mapping[str, Tensor], found: Mapping[str, Tensor], where: str
) -> None:
    """Stops where the model gives other activations than before.

    Raises:
        InteractGraphError: it does.
    """
    for layer, expected in saved.items():
        now = found[layer][:_COMPARED].cpu()
        share = max(tolerance("products", now.dtype), 4 * torch.finfo(now.dtype).eps)
        if now.shape != expected.shape or not is_close(now, expected.cpu(), share):
            raise InteractGraphError(
                f"the checkpoint belongs to another run: layer {layer!r} has other activations "
                f"{where}, so the model, forward= or the batch has changed; use another folder"
            )


def _is_same(found: Tensor | None, saved: Tensor, level: str) -> bool:
    """Whether two computations of the same numbers agree."""
    if found is None or found.shape != saved.shape:
        return False
    found, saved = found.cpu(), saved.cpu()
    if not saved.is_floating_point():
        return torch.equal(found, saved)
    return not saved.numel() or is_close(found, saved, tolerance(level, saved.dtype))


def _first_samples(activations: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {layer: activation[:_COMPARED].clone() for layer, activation in activations.items()}
