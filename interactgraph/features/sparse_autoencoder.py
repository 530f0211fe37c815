"""Sparse autoencoders, trained on the activations of a layer as PCA is fitted to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import quote

import torch
from torch import Tensor
from tqdm import tqdm

from ..checkpoint import Checkpoint, fingerprint
from ..checks import choice, positive, whole, whole_or_none
from ..errors import InteractGraphError
from .autoencoder_training import WIDER, Training, batches
from .dictionary import Dictionary
from .feature_map import FeatureMap

if TYPE_CHECKING:
    from .feature_map import FittingData

__all__ = ["SparseAutoencoder"]

_SAVED = 60.0  # seconds between two saves


@dataclass(frozen=True, eq=False)
class SparseAutoencoder(FeatureMap):
    """Trains a `Dictionary` on the layer: f is about D z + b with few z that are not zero.

    "topk" keeps the k largest codes of every row (Gao et al. 2024, arXiv 2406.04093), "jumprelu"
    as many of all rows of a batch together, so that a row has k on average, and then the
    threshold that this amounts to (BatchTopK: Bussmann et al. 2024, arXiv 2412.06410). Columns of
    D are unit vectors. Features that are no longer active begin anew, in the direction of what the
    others miss of a row, the more it is the likelier (resampling: Bricken et al. 2023, "Towards
    monosemanticity").

    Attributes:
        n_dictionary: features of the dictionary; None: 16 for each coordinate of the activation.
        k: active features of a row.
        activation: "topk" or "jumprelu".
        n_rows: activations that are trained on, those of the data again and again where they are
            fewer. A row is one position of one sample.
        batch_size: rows of a step.
        learning_rate: of Adam, after it has risen and before it falls; None: 0.001, times the root
            of 384 over the size of the activation where that is more.
        seed: of the initial weights and the order of the rows.
        error: whether what the dictionary leaves out is a feature.
        feature_dim: the axis of the activation that is mapped; None: as for `Neurons`.
        size: coordinates of the activation; set by `bind`.
        checkpoint: folder in which the training of each layer is saved every minute and from which
            the same training goes on after it was stopped, to the same result; None: it is not
            saved.
    """

    kind: ClassVar[str] = "sparse_autoencoder"
    n_dictionary: int | None = None
    k: int = 32
    activation: Literal["topk", "jumprelu"] = "topk"
    n_rows: int = 500_000
    batch_size: int = 1024
    learning_rate: float | None = None
    seed: int = 0
    error: bool = True
    feature_dim: int | None = None
    size: int | None = None
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        whole_or_none("SparseAutoencoder: n_dictionary", self.n_dictionary)
        for name, least in (("k", 1), ("n_rows", 1), ("batch_size", 2)):
            whole(f"SparseAutoencoder: {name}", getattr(self, name), least)
        whole("SparseAutoencoder: seed", self.seed, 0)
        if self.learning_rate is not None:
            positive("SparseAutoencoder: learning_rate", self.learning_rate)
        if self.checkpoint is not None and not (
            self.checkpoint and isinstance(self.checkpoint, str)
        ):
            raise InteractGraphError(
                f"SparseAutoencoder: checkpoint={self.checkpoint!r} must be the name of a folder"
            )
        choice("SparseAutoencoder: activation", self.activation, ("topk", "jumprelu"))
        if self.n_dictionary is not None and self.k > self.n_dictionary:
            raise InteractGraphError(
                f"SparseAutoencoder: k={self.k} of n_dictionary={self.n_dictionary} features; give "
                "fewer active ones"
            )

    @property
    def is_fitted(self) -> bool:
        """Never: `fit` gives a `Dictionary`."""
        return False

    @property
    def n_features(self) -> int:
        """Features of the dictionary, and the error."""
        assert self.size is not None
        return (self.n_dictionary or WIDER * self.size) + int(self.error)

    def bind(self, layer: str, shape: torch.Size, feature_dim: int) -> SparseAutoencoder:
        """See `FeatureMap.bind`."""
        asked = feature_dim if self.feature_dim is None else self.feature_dim
        dim = asked + len(shape) if asked < 0 else asked
        if not 1 <= dim < len(shape):
            raise InteractGraphError(
                f"the sparse autoencoder of layer {layer!r} reads axis {dim}, but activations "
                f"there have shape {tuple(shape)}; set feature_dim"
            )
        n = self.n_dictionary or WIDER * shape[dim]
        if self.k > n:
            raise InteractGraphError(
                f"the sparse autoencoder of layer {layer!r} has k={self.k} of {n} features active; "
                "give fewer"
            )
        return replace(self, feature_dim=dim, size=shape[dim])

    def encode(self, activation: Tensor) -> Tensor:
        """Not before it is trained."""
        raise InteractGraphError("a sparse autoencoder has to be trained first: see fit_features")

    def decode(self, features: Tensor) -> Tensor:
        """Not before it is trained."""
        raise InteractGraphError("a sparse autoencoder has to be trained first: see fit_features")

    def fit(self, layer: str, data: FittingData) -> Dictionary:
        """Trains it. See `FeatureMap.fit`; the result is a `Dictionary` with a learning curve."""
        training, saves = self.train(layer, data)
        fitted = training.dictionary().to(training.decoder.device, data.dtype)
        if saves is not None:
            saves.done()
        return fitted.look(layer, data)

    def train(self, layer: str, data: FittingData) -> tuple[Training, Checkpoint | None]:
        """The training at its end, and where it was saved.

        Raises:
            InteractGraphError: there is no activation, or all are the same.
        """
        # One for the order of the rows and one for directions: each goes on alone.
        order, directions = (torch.Generator().manual_seed(self.seed + i) for i in (0, 1 << 31))

        def rows() -> Iterator[Tensor]:
            for part in data.rows(layer, f"activations of {layer}"):
                yield part.float()

        stream = batches(rows, self.batch_size, order)
        first = next(stream, None)
        if first is None:
            raise InteractGraphError(
                f"there is no activation of layer {layer!r} to train a sparse autoencoder on; "
                "check the data and position_mask"
            )
        if not bool((first != first[:1]).any()):
            raise InteractGraphError(
                f"activations of layer {layer!r} do not vary, as far as the first {len(first)} "
                "tell; there is nothing to train a sparse autoencoder on"
            )
        with torch.enable_grad():
            training = Training(self, first, directions)
            saves = self.saves(f"autoencoder-{layer}", first, {"layer": layer})
            done = self._resumed(training, saves)
            batch = first
            for _ in range(done):  # the same rows in the same order
                batch = next(stream)
            with tqdm(
                total=self.n_rows, initial=training.n_rows, desc=f"sparse autoencoder of {layer}",
                unit="row", disable=not data.progress, leave=False,
            ) as bar:  # fmt: skip
                while training.n_rows < self.n_rows:
                    training.step(batch)
                    done += 1
                    bar.update(len(batch))
                    bar.set_postfix_str(f"unexplained {training.unexplained:.3f}", refresh=False)
                    if saves is not None and saves.due:
                        saves.save({"steps": done, **training.state()})
                    batch = next(stream)
        return training, saves

    def saves(self, name: str, first: Tensor, recipe: Mapping[str, Any]) -> Checkpoint | None:
        """Where a training is saved; None: nowhere.

        Args:
            name: of the training.
            first: the first rows, which tell it from one on other data.
            recipe: what else tells it from others.
        """
        if self.checkpoint is None:
            return None
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        own.pop("checkpoint")
        told = {**own, **recipe, "first rows": fingerprint(first)}
        return Checkpoint(Path(self.checkpoint) / quote(name, safe=""), told, _SAVED)

    def _resumed(self, training: Training, saves: Checkpoint | None) -> int:
        """Steps that were made before the training was stopped."""
        state = None if saves is None else saves.load()
        if state is None:
            return 0
        training.restore(state)
        return int(state["steps"])
