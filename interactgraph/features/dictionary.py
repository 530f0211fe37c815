"""Sparse dictionaries: the codes of an autoencoder, and what it leaves out as one more feature."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ..checks import choice, whole_or_none
from ..errors import FileError, InputError, InteractGraphError, InteractGraphWarning
from ..notes import wrong_hook
from .dictionary_files import read_dictionary
from .dictionary_modules import dictionary_of
from .feature_map import Directions, FeatureMap
from .reconstruction import Reconstruction

if TYPE_CHECKING:
    from .feature_map import FittingData

__all__ = ["Dictionary"]

ACTIVATIONS = ("relu", "jumprelu", "topk", "abstopk", "none")
NORMALIZATIONS = ("none", "layer_norm", "constant_norm_rescale")
_EPSILON = {"layer_norm": 1e-5, "constant_norm_rescale": 0.0}  # added to the scale by sae_lens
_ROWS = 1024  # measured at a time
_UNEXPLAINED = 0.9  # share of the variance above which a note is due


@dataclass(frozen=True, eq=False)
class Dictionary(FeatureMap):
    """z = act(E (f - m) + c), f = D z + b + error.

    The error of a sample at a position is one more feature, the last one: its coordinate along
    the error's own direction e / |e|, which stays fixed when features are moved. So it is |e| at
    the sample, decoding is exact there, and completeness holds. That direction belongs to the
    sample: `at(activation)` gives the map that knows it. Without it, `decode` leaves the error out.

    With a normalisation, codes are those of each normalised activation, and D z + b is scaled back
    by what it was divided by: z = act(E ((f - mean) / s - m) + c), f = s (D z + b) + mean + error.
    Mean and scale belong to the sample as the direction of the error does, and stay fixed with it.

    Attributes:
        encoder: E, `[features, activation size]`.
        decoder: D, `[activation size, features]`.
        encoder_bias: c, `[features]`; None: zero.
        decoder_bias: b, `[activation size]`; None: zero.
        offset: m, what is taken off before encoding, `[activation size]`; None: zero.
        activation: "relu", "jumprelu" (the pre-activation where it is above the threshold, else
            zero; Rajamanoharan et al., arXiv 2407.14435), "topk" (the k largest, after a ReLU; Gao
            et al., arXiv 2406.04093), "abstopk" (the k of largest absolute value, with their signs;
            arXiv 2510.00404) or "none".
        threshold: of "jumprelu", `[features]` or one number.
        k: of "topk" and "abstopk".
        error: whether the error is a feature.
        drop_dead: leave out features that never fire on the data; they are found in one pass.
        feature_dim: the axis of the activation that is mapped; None: as for `Neurons`.
        alive: numbers of the features that fire, in the dictionary as given; set by fitting.
        n_given: features of the dictionary as given; set by fitting.
        direction: direction of the error, `[b, *positions, size]`; set by `at`.
        rate: share of samples and positions at which each feature fires; set by fitting.
        normalization: of each activation before encoding, in the words of sae_lens: "none",
            "layer_norm" (its mean taken off, divided by its standard deviation) or
            "constant_norm_rescale" (scaled to length sqrt(size)).
        center: what the normalisation takes off, `[b, *positions, 1]`; set by `at`.
        scale: what it divides by, `[b, *positions, 1]`; set by `at`.
        hook: where the dictionary was trained, as its file says.
        unexplained: share of the variance of activations that the codes leave unexplained; set by
            `measured`.
        active: mean number of active features; set by `measured`.
        learning_curve: rows seen, share of the variance unexplained, active features and share of
            dead features, `[points, 4]`; set by `SparseAutoencoder`.
    """

    kind: ClassVar[str] = "dictionary"
    encoder: Tensor
    decoder: Tensor
    encoder_bias: Tensor | None = None
    decoder_bias: Tensor | None = None
    offset: Tensor | None = None
    activation: Literal["relu", "jumprelu", "topk", "abstopk", "none"] = "relu"
    threshold: Tensor | float | None = None
    k: int | None = None
    error: bool = True
    drop_dead: bool = False
    feature_dim: int | None = None
    alive: Tensor | None = None
    n_given: int | None = None
    direction: Tensor | None = None
    rate: Tensor | None = None
    normalization: Literal["none", "layer_norm", "constant_norm_rescale"] = "none"
    center: Tensor | None = None
    scale: Tensor | None = None
    hook: str | None = None
    unexplained: float | None = None
    active: float | None = None
    learning_curve: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("encoder", "decoder", "encoder_bias", "decoder_bias", "offset"):
            value = getattr(self, name)
            if value is None and name not in ("encoder", "decoder"):
                continue
            if not isinstance(value, Tensor) or not value.is_floating_point():
                found = value.dtype if isinstance(value, Tensor) else type(value).__name__
                raise InteractGraphError(
                    f"dictionary: {name} is a {found}; it must be a torch.Tensor of floating-point "
                    "numbers"
                )
            # Once, and not for what belongs to the samples of every batch.
            if not self._knows_samples and not bool(value.isfinite().all()):
                raise InteractGraphError(f"dictionary: {name} holds NaN or infinite values")
        self._check_sizes()
        features, size = self.encoder.shape
        lengths = {"encoder_bias": features, "decoder_bias": len(self.decoder), "offset": size}
        for name, length in lengths.items():
            value = getattr(self, name)
            if value is None:
                object.__setattr__(self, name, self.encoder.new_zeros(length))
            elif value.shape != (length,):
                raise InteractGraphError(
                    f"dictionary: {name} has shape {tuple(value.shape)}; it must be {(length,)}"
                )
        if self.activation not in ACTIVATIONS:
            raise InteractGraphError(
                f"dictionary: activation={self.activation!r} is unknown; choose one of "
                + ", ".join(ACTIVATIONS)
            )
        if self.activation == "jumprelu":
            if self.threshold is None:
                raise InteractGraphError("dictionary: activation='jumprelu' needs threshold=...")
            given = torch.as_tensor(self.threshold).to(self.encoder)
            if given.shape not in ((), (features,)):
                raise InteractGraphError(
                    f"dictionary: threshold has shape {tuple(given.shape)}; it must be one number "
                    f"or {(features,)}"
                )
            object.__setattr__(self, "threshold", given.expand(features).contiguous())
        whole_or_none("dictionary: k", self.k)
        if self.activation.endswith("topk") and not (self.k and 1 <= self.k <= features):
            raise InteractGraphError(
                f"dictionary: activation={self.activation!r} needs k between 1 and {features}, got "
                f"k={self.k}"
            )
        choice("dictionary: normalization", self.normalization, NORMALIZATIONS)
        if self.normalization == "layer_norm" and size < 2:
            raise InteractGraphError(
                "dictionary: normalization='layer_norm' of one coordinate leaves nothing of it"
            )

    def _check_sizes(self) -> None:
        if self.encoder.ndim != 2 or self.decoder.shape != self.encoder.shape[::-1]:
            raise InteractGraphError(
                f"dictionary: encoder {tuple(self.encoder.shape)} and decoder "
                f"{tuple(self.decoder.shape)} do not fit; they must be [features, size] and "
                "[size, features]. Transpose what is stored the other way round"
            )

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        data: Tensor | tuple[Tensor, Tensor] | None = None,
        allow_pickle: bool = False,
        **options: Any,
    ) -> Dictionary:
        """The dictionary of a file or folder, as other packages write them; none is needed.

        Those of sae_lens (standard, JumpReLU, TopK, gated, transcoders; versions before 6, too),
        dictionary_learning, sparsify, Gemma Scope (`params.npz`, `params.safetensors`) and
        circuit-tracer (one layer). Half precision is read as single precision. A run measures
        whether the dictionary fits its layer, and so does `data`.

        Args:
            path: the file of weights, or a folder that holds it.
            name: which one, in a folder with several: the folder inside, such as a hookpoint, or
                `layer_3`.
            data: activations `[..., size]` that the dictionary is measured on, see `measured`; of a
                transcoder (inputs, outputs).
            allow_pickle: read pickles (`ae.pt`); without their code where that suffices.
            options: further arguments of `Dictionary`, which win.

        Returns:
            The dictionary; of a transcoder a `Transcoder`.

        Raises:
            FileError: there is none, or it is not one that can be read.

        Example:
            >>> import tempfile
            >>> import torch
            >>> from safetensors.torch import save_file
            >>> weights = {"w_enc": torch.eye(3), "w_dec": torch.eye(3),
            ...            "b_enc": -torch.ones(3), "b_dec": torch.zeros(3)}
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     save_file(weights, f"{folder}/params.safetensors")
            ...     dictionary = Dictionary.load(folder, error=False)
            >>> dictionary.encode(torch.tensor([0.5, 1.5, 3.0]))
            tensor([0.0000, 0.5000, 2.0000])
        """
        from .transcoder import Transcoder

        stored = read_dictionary(path, name, allow_pickle=allow_pickle)
        across = issubclass(cls, Transcoder) if (told := stored.is_transcoder) is None else told
        if issubclass(cls, Transcoder) and not across:
            raise FileError(f"{stored.path} holds no transcoder; read it by Dictionary.load")
        made = Transcoder if across else cls
        try:
            found = made(**{**stored.arguments, **options})
        except InteractGraphError as error:
            raise FileError(f"{stored.path}: {error}") from error
        if any(each.dtype == torch.float64 for each in found.state()[1].values()):
            found = found.to(dtype=torch.float64)
        if data is None:
            return found
        measured = found.measured(found.rows_of(data))
        for note in measured.doubts(str(stored.path)):
            warnings.warn(note, InteractGraphWarning, stacklevel=2)
        return measured

    @classmethod
    def from_module(cls, module: nn.Module, **options: Any) -> Dictionary:
        """The dictionary that a module holds as parameters.

        Names as in most sparse-autoencoder code: `W_enc [size, features]` and
        `W_dec [features, size]`, or linear layers `encoder` and `decoder`; biases `b_enc` or
        `latent_bias`, and `b_dec`, `bias` or `pre_bias`, or those of the layers. A tensor
        `threshold` makes it a JumpReLU, a whole number `k`, `topk` or `top_k` a TopK dictionary.
        Where the module has a method `encode`, its codes tell whether the decoder's bias is taken
        off before encoding, and they are compared with the dictionary's.

        Args:
            module: the autoencoder.
            options: further arguments of `Dictionary`, which win; with one that decides about the
                codes nothing is compared.

        Raises:
            InteractGraphError: there are no such parameters, others remain that nothing says the
                meaning of, or the module's codes are different.
        """
        return dictionary_of(module, cls, options)

    @classmethod
    def random(cls, size: int, n_features: int, *, k: int = 8, seed: int = 0) -> Dictionary:
        """The control: random unit directions, the k best matching ones active.

        Args:
            size: activation size.
            n_features: features.
            k: active features.
            seed: of the directions.
        """
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(n_features, size, generator=generator, dtype=torch.float64)
        rows = rows / rows.norm(dim=1, keepdim=True)
        # The k codes of nearly orthogonal directions are about the coordinates along them.
        return cls(rows, rows.mT.contiguous(), activation="topk", k=min(k, n_features))

    # --- the map ---------------------------------------------------------------------------------

    @property
    def is_fitted(self) -> bool:
        """Whether dead features have been looked for, where that is asked."""
        return not self.drop_dead or self.alive is not None

    @property
    def depends_on_sample(self) -> bool:
        """The direction of the error does, and the scale of a normalisation."""
        return self.error or self.normalization != "none"

    @property
    def n_features(self) -> int:
        """Features of the dictionary, and the error."""
        return self.encoder.shape[0] + int(self.error)

    def names(self, layer: str) -> Sequence[str]:
        """Numbers in the dictionary as given, and the error."""
        numbers = range(len(self.encoder)) if self.alive is None else self.alive.tolist()
        return [f"{layer}:{j}" for j in numbers] + [f"{layer}:error"] * self.error

    @property
    def directions(self) -> Directions | None:
        """See `FeatureMap.directions`."""
        wide = self.encoder.shape[0] > self.encoder.shape[1]
        if not wide or self.feature_dim is None or (self.error and self.direction is None):
            return None
        if self.normalization != "none":  # directions are longer on one sample than on another
            return None
        return Directions(self.decoder.mT, self.direction, self.feature_dim)

    def bind(self, layer: str, shape: torch.Size, feature_dim: int) -> Dictionary:
        """See `FeatureMap.bind`."""
        asked = feature_dim if self.feature_dim is None else self.feature_dim
        dim = asked + len(shape) if asked < 0 else asked
        size = self.encoder.shape[1]
        if not 1 <= dim < len(shape) or shape[dim] != size:
            raise InteractGraphError(
                f"the dictionary of layer {layer!r} reads {size} coordinates on axis {dim}, but "
                f"activations there have shape {tuple(shape)}; give the dictionary of this layer, "
                "or set feature_dim"
            )
        return replace(self, feature_dim=dim)

    def fit(self, layer: str, data: FittingData) -> Dictionary:
        """Finds which features fire and drops the others. See `FeatureMap.fit`."""
        fired = torch.zeros(len(self.encoder), dtype=torch.int64, device=self.encoder.device)
        seen = Reconstruction()
        for rows in data.rows(layer, f"dictionary of {layer}: features that fire"):
            codes = self._add(rows, seen)
            fired += (codes != 0).sum(0)
        alive = fired.nonzero().flatten()
        if not len(alive):
            raise InteractGraphError(
                f"no feature of the dictionary of layer {layer!r} fires on the data; it belongs to "
                "another layer, or its input must be scaled as in its training"
            )
        assert self.encoder_bias is not None
        return replace(
            self,
            encoder=self.encoder[alive],
            decoder=self.decoder[:, alive].contiguous(),
            encoder_bias=self.encoder_bias[alive],
            threshold=self.threshold[alive] if isinstance(self.threshold, Tensor) else None,
            k=None if self.k is None else min(self.k, len(alive)),
            alive=alive,
            n_given=len(self.encoder),
            rate=(fired[alive] / max(seen.count, 1)).to(self.encoder),
            unexplained=seen.unexplained,
            active=seen.active,
        )

    def look(self, layer: str, data: FittingData) -> Self:
        """See `FeatureMap.look`."""
        return self.measured(data.first_rows(layer))

    def measured(self, rows: Tensor) -> Self:
        """The dictionary with `unexplained` and `active` of some activations.

        Args:
            rows: activations, `[n, size]`; of a transcoder inputs and outputs side by side.
        """
        seen = Reconstruction()
        for part in rows.to(self.encoder).split(_ROWS):
            self._add(part, seen)
        return replace(self, unexplained=seen.unexplained, active=seen.active)

    def doubts(self, layer: str) -> list[str]:
        """See `FeatureMap.doubts`: the codes tell next to nothing of the activation."""
        if self.unexplained is None or self.active is None or self.unexplained <= _UNEXPLAINED:
            return []
        size = (self.active, len(self.encoder))
        return [wrong_hook(layer, self.unexplained, *size, self.hook)]

    @property
    def remark(self) -> str:
        """How many features fire, where that was asked, and how well they do."""
        remarks = []
        if self.alive is not None:
            remarks.append(f"{len(self.alive)} of the dictionary's {self.n_given} fire on the data")
        if self.unexplained is not None:
            remarks.append(
                f"{self.unexplained:.3g} of the variance unexplained, {self.active:.3g} features "
                "active on average"
            )
        return "; ".join(remarks)

    def at(self, activation: Tensor) -> Self:
        """The map that knows the direction of the error of these samples, and their scale."""
        if not self.depends_on_sample:
            return self
        read, own = self._parts(self._last(activation))
        here = self._without_samples()._around(read)
        if not self.error:
            return here
        error = own - here._output(here._codes(read), read)
        norm = error.norm(dim=-1, keepdim=True)
        tiny = torch.finfo(error.dtype).tiny
        return replace(here, direction=error / norm.clamp_min(tiny))

    def encode(self, activation: Tensor) -> Tensor:
        """See `FeatureMap.encode`. The error is measured along its direction, see `at`."""
        read, own = self._parts(self._last(activation))
        here = self._around(read)
        codes = here._codes(read)
        if not self.error:
            return codes
        error = own - here._output(codes, read)
        if self.direction is None:
            along = error.norm(dim=-1, keepdim=True)
        else:
            along = (error * self.direction).sum(-1, keepdim=True)
            codes = codes.expand(*along.shape[:-1], -1)
        return torch.cat([codes, along], -1)

    def decode(self, features: Tensor) -> Tensor:
        """See `FeatureMap.decode`.

        Raises:
            InteractGraphError: the map normalises each activation and knows no samples.
        """
        own = self._decoded(features, None)
        return own.movedim(-1, -1 if self.feature_dim is None else self.feature_dim)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See `FeatureMap.state`; what belongs to the samples of a batch is no part of the map."""
        return FeatureMap.state(self._without_samples())

    def rows_of(self, data: Any) -> Tensor:
        """Activations given by hand as rows `[n, size]`.

        Raises:
            InputError: they are none of this dictionary.
        """
        size = self.encoder.shape[1]
        if not isinstance(data, Tensor) or not data.is_floating_point() or not data.ndim:
            raise InputError(f"data is a {type(data).__name__}; give activations [..., {size}]")
        if data.shape[-1] != size or not data.numel():
            raise InputError(
                f"data has shape {tuple(data.shape)}; it must be activations [..., {size}] of the "
                "layer of the dictionary"
            )
        return data.reshape(-1, size)

    def _last(self, activation: Tensor) -> Tensor:
        return activation.movedim(-1 if self.feature_dim is None else self.feature_dim, -1)

    def _parts(self, last: Tensor) -> tuple[Tensor, Tensor]:
        """What codes are computed from, and what they reconstruct."""
        return last, last

    @property
    def _knows_samples(self) -> bool:
        return self.direction is not None or self.scale is not None

    def _without_samples(self) -> Self:
        known = self._knows_samples
        return replace(self, direction=None, center=None, scale=None) if known else self

    def _around(self, read: Tensor) -> Self:
        """The map with the mean and scale of these activations, unless it has those of samples."""
        if self.normalization == "none" or self.scale is not None:
            return self
        center = torch.zeros_like(read[..., :1])
        if self.normalization == "layer_norm":
            center, scale = read.mean(-1, keepdim=True), read.std(-1, keepdim=True)
        else:
            scale = read.norm(dim=-1, keepdim=True) / read.shape[-1] ** 0.5
        tiny = torch.finfo(read.dtype).tiny
        return replace(self, center=center, scale=scale.clamp_min(tiny))

    def _codes(self, read: Tensor) -> Tensor:
        """Codes of the map around samples, or of one that needs none."""
        assert self.offset is not None
        assert self.encoder_bias is not None
        if self.normalization != "none":
            assert self.center is not None
            assert self.scale is not None
            read = (read - self.center) / (self.scale + _EPSILON[self.normalization])
        p = (read - self.offset) @ self.encoder.mT + self.encoder_bias
        if self.activation == "none":
            return p
        if self.activation == "jumprelu":
            assert isinstance(self.threshold, Tensor)
            return torch.where(p > self.threshold, p, torch.zeros_like(p))
        if self.activation.endswith("topk"):
            assert self.k is not None
            if self.activation == "topk":
                values, places = p.topk(self.k, dim=-1)
                values = values.relu()
            else:
                places = p.abs().topk(self.k, dim=-1).indices
                values = p.gather(-1, places)
            return torch.zeros_like(p).scatter(-1, places, values)
        return p.relu()

    def _output(self, codes: Tensor, read: Tensor | None) -> Tensor:
        """What the codes say, without the error; a transcoder may add something of what it read."""
        assert self.decoder_bias is not None
        own = codes @ self.decoder.mT + self.decoder_bias
        if self.normalization == "none":
            return own
        if self.center is None or self.scale is None:
            raise InteractGraphError(
                "this dictionary normalises each activation, and features do not tell by what; "
                "decode around samples: dictionary.at(activation).decode(features)"
            )
        return own * self.scale + self.center

    def _decoded(self, features: Tensor, read: Tensor | None) -> Tensor:
        """The part of the activation that is reconstructed, with the error where it is known."""
        if not self.error:
            return self._output(features, read)
        own = self._output(features[..., :-1], read)
        return own if self.direction is None else own + features[..., -1:] * self.direction

    def _add(self, rows: Tensor, seen: Reconstruction) -> Tensor:
        """Codes of rows `[n, size]`, counted with what they reconstruct."""
        read, own = self._parts(rows)
        here = self._around(read)
        codes = here._codes(read)
        seen.add(own, own - here._output(codes, read), codes)
        return codes
