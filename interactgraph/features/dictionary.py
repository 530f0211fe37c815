"""Sparse dictionaries: the codes of an autoencoder, and what it leaves out as one more feature."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ..checks import whole_or_none
from ..errors import InteractGraphError
from ..model import first_tensor
from .feature_map import Directions, FeatureMap

if TYPE_CHECKING:
    from .feature_map import FittingData

__all__ = ["Dictionary"]

_DECIDING = {"encoder", "encoder_bias", "offset", "activation", "threshold", "k"}  # codes
ACTIVATIONS = ("relu", "jumprelu", "topk", "none")


@dataclass(frozen=True, eq=False)
class Dictionary(FeatureMap):
    """z = act(E (f - m) + c), f = D z + b + error.

    The error of a sample at a position is one more feature, the last one: its coordinate along
    the error's own direction e / |e|, which stays fixed when features are moved. So it is |e| at
    the sample, decoding is exact there, and completeness holds. That direction belongs to the
    sample: `at(activation)` gives the map that knows it. Without it, `decode` leaves the error out.

    Attributes:
        encoder: E, `[features, activation size]`.
        decoder: D, `[activation size, features]`.
        encoder_bias: c, `[features]`; None: zero.
        decoder_bias: b, `[activation size]`; None: zero.
        offset: m, what is taken off before encoding, `[activation size]`; None: zero.
        activation: "relu", "jumprelu" (the pre-activation where it is above the threshold, else
            zero; Rajamanoharan et al., arXiv 2407.14435), "topk" (the k largest, after a ReLU; Gao
            et al., arXiv 2406.04093) or "none".
        threshold: of "jumprelu", `[features]` or one number.
        k: of "topk".
        error: whether the error is a feature.
        drop_dead: leave out features that never fire on the data; they are found in one pass.
        feature_dim: the axis of the activation that is mapped; None: as for `Neurons`.
        alive: numbers of the features that fire, in the dictionary as given; set by fitting.
        n_given: features of the dictionary as given; set by fitting.
        direction: direction of the error, `[b, *positions, size]`; set by `at`.
        rate: share of samples and positions at which each feature fires; set by fitting.
    """

    kind: ClassVar[str] = "dictionary"
    encoder: Tensor
    decoder: Tensor
    encoder_bias: Tensor | None = None
    decoder_bias: Tensor | None = None
    offset: Tensor | None = None
    activation: Literal["relu", "jumprelu", "topk", "none"] = "relu"
    threshold: Tensor | float | None = None
    k: int | None = None
    error: bool = True
    drop_dead: bool = False
    feature_dim: int | None = None
    alive: Tensor | None = None
    n_given: int | None = None
    direction: Tensor | None = None
    rate: Tensor | None = None

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
            # Once, and not for the direction of every batch.
            if self.direction is None and not bool(value.isfinite().all()):
                raise InteractGraphError(f"dictionary: {name} holds NaN or infinite values")
        if self.encoder.ndim != 2 or self.decoder.shape != self.encoder.shape[::-1]:
            raise InteractGraphError(
                f"dictionary: encoder {tuple(self.encoder.shape)} and decoder "
                f"{tuple(self.decoder.shape)} do not fit; they must be [features, size] and "
                "[size, features]. Transpose what is stored the other way round"
            )
        features, size = self.encoder.shape
        for name, length in (("encoder_bias", features), ("decoder_bias", size), ("offset", size)):
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
        if self.activation == "topk" and not (self.k and 1 <= self.k <= features):
            raise InteractGraphError(
                f"dictionary: activation='topk' needs k between 1 and {features}, got k={self.k}"
            )

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
        parameters, used = _parameters(module)
        if not {"encoder", "decoder"} <= set({**parameters, **options}):
            raise InteractGraphError(
                f"{type(module).__name__} holds neither W_enc and W_dec nor linear layers encoder "
                "and decoder; give the tensors: Dictionary(encoder=..., decoder=...)"
            )
        asked = not _DECIDING.isdisjoint(options)
        counts = (getattr(module, name, None) for name in ("k", "topk", "top_k"))
        k = next((value for value in counts if isinstance(value, int)), None)
        if "activation" not in options and "threshold" in parameters:
            options["activation"] = "jumprelu"
        elif "activation" not in options and k is not None:
            options = {"k": k, **options, "activation": "topk"}
        plain = cls(**{**parameters, **options})
        if asked:
            return plain
        given = _codes_of(module, plain)
        if given is None:
            if unknown := [name for name, _ in module.named_parameters() if name not in used]:
                raise InteractGraphError(
                    f"{type(module).__name__} has parameters {unknown}, and no method encode that "
                    "shows what they do; give the tensors: Dictionary(encoder=..., ...)"
                )
            return plain
        x, codes = given[1], given[0].to(given[1])
        kinds = [plain]
        if plain.activation == "jumprelu" and k is not None:  # a threshold may be there for later
            kinds.append(cls(**{**parameters, **options, "activation": "topk", "k": k}))
        shifted = [replace(kind, offset=kind.decoder_bias) for kind in kinds]
        # Of those that agree the nearest: in half precision a small shift is hard to see.
        apart = {
            float((candidate._codes(x) - codes).abs().double().mean()): candidate
            for candidate in (*kinds, *shifted)
            if _same_codes(candidate._codes(x), codes)
        }
        if apart:
            return apart[min(apart)]
        raise InteractGraphError(
            f"{type(module).__name__}.encode gives other codes than encoder, biases and activation "
            f"{plain.activation!r} do; something else happens in it, such as a scaling of its "
            "input. Give the tensors that amount to it: Dictionary(encoder=..., ...)"
        )

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
        """The direction of the error does."""
        return self.error

    @property
    def n_features(self) -> int:
        """Features of the dictionary, and the error."""
        return self.encoder.shape[0] + int(self.error)

    @property
    def directions(self) -> Directions | None:
        """See `FeatureMap.directions`."""
        wide = self.encoder.shape[0] > self.encoder.shape[1]
        if not wide or self.feature_dim is None or (self.error and self.direction is None):
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
        count = 0
        for rows in data.rows(layer, f"dictionary of {layer}: features that fire"):
            fired += (self._codes(rows) != 0).sum(0)
            count += len(rows)
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
            rate=(fired[alive] / max(count, 1)).to(self.encoder),
        )

    @property
    def remark(self) -> str:
        """How many features fire, where that was asked."""
        if self.alive is None:
            return ""
        return f"{len(self.alive)} of the dictionary's {self.n_given} fire on the data"

    def at(self, activation: Tensor) -> Self:
        """The map that knows the direction of the error of these samples."""
        if not self.error:
            return self
        last = self._last(activation)
        error = last - self._reconstruct(self._codes(last))
        norm = error.norm(dim=-1, keepdim=True)
        tiny = torch.finfo(error.dtype).tiny
        return replace(self, direction=error / norm.clamp_min(tiny))

    def encode(self, activation: Tensor) -> Tensor:
        """See `FeatureMap.encode`. The error is measured along its direction, see `at`."""
        last = self._last(activation)
        codes = self._codes(last)
        if not self.error:
            return codes
        error = last - self._reconstruct(codes)
        if self.direction is None:
            along = error.norm(dim=-1, keepdim=True)
        else:
            along = (error * self.direction).sum(-1, keepdim=True)
            codes = codes.expand(*along.shape[:-1], -1)
        return torch.cat([codes, along], -1)

    def decode(self, features: Tensor) -> Tensor:
        """See `FeatureMap.decode`."""
        if not self.error:
            last = self._reconstruct(features)
        else:
            last = self._reconstruct(features[..., :-1])
            if self.direction is not None:
                last = last + features[..., -1:] * self.direction
        return last.movedim(-1, -1 if self.feature_dim is None else self.feature_dim)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See `FeatureMap.state`; the directions of a batch are no part of the map."""
        return FeatureMap.state(replace(self, direction=None))

    def _last(self, activation: Tensor) -> Tensor:
        return activation.movedim(-1 if self.feature_dim is None else self.feature_dim, -1)

    def _codes(self, last: Tensor) -> Tensor:
        assert self.offset is not None
        assert self.encoder_bias is not None
        p = (last - self.offset) @ self.encoder.mT + self.encoder_bias
        if self.activation == "none":
            return p
        if self.activation == "jumprelu":
            assert isinstance(self.threshold, Tensor)
            return torch.where(p > self.threshold, p, torch.zeros_like(p))
        if self.activation == "topk":
            assert self.k is not None
            values, places = p.topk(self.k, dim=-1)
            return torch.zeros_like(p).scatter(-1, places, values.relu())
        return p.relu()

    def _reconstruct(self, codes: Tensor) -> Tensor:
        assert self.decoder_bias is not None
        return codes @ self.decoder.mT + self.decoder_bias


def _parameters(module: nn.Module) -> tuple[dict[str, Tensor], set[str]]:
    """Tensors of a module by their role in a dictionary, and the names of its parameters used."""
    parameters: dict[str, Tensor] = {}
    used: set[str] = set()

    def take(role: str, name: str, tensor: Any, *, turned: bool = False) -> None:
        if role not in parameters and isinstance(tensor, Tensor):
            parameters[role] = tensor.detach().mT if turned else tensor.detach()
            used.add(name)

    for role, name in (("encoder", "W_enc"), ("decoder", "W_dec")):
        take(role, name, getattr(module, name, None), turned=True)
    for role in ("encoder", "decoder"):
        layer = getattr(module, role, None)
        if isinstance(layer, nn.Linear):
            take(role, f"{role}.weight", layer.weight)
            take(f"{role}_bias", f"{role}.bias", layer.bias)
    names = {"encoder_bias": ("b_enc", "latent_bias"), "threshold": ("threshold",),
             "decoder_bias": ("b_dec", "bias", "pre_bias")}  # fmt: skip
    for role, several in names.items():
        for name in several:
            take(role, name, getattr(module, name, None))
    return parameters, used


def _codes_of(module: nn.Module, dictionary: Dictionary) -> tuple[Tensor, Tensor] | None:
    """Codes that a module gives for random activations of several sizes, and these.

    None where it gives none: it has no `encode`, that fails, or nothing fires.
    """
    if not callable(getattr(module, "encode", None)):
        return None
    encoder, bias = dictionary.encoder, dictionary.decoder_bias
    assert bias is not None
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([1.0, 10, 100, 1000]).repeat_interleave(16)[:, None]
    x = (torch.randn(64, encoder.shape[1], generator=generator) * scales).to(encoder) + bias
    encode: Any = copy.deepcopy(module).eval().encode
    for given in (x, x[None], x[:, None]):
        try:
            with torch.no_grad():
                codes = first_tensor(encode(given))
        except Exception:  # the module's own code: it may want another number of axes
            continue
        if codes is None or codes.numel() != len(x) * len(encoder):
            continue
        return (codes.reshape(len(x), -1), x) if bool(codes.any()) else None
    return None


def _same_codes(found: Tensor, codes: Tensor) -> bool:
    """Whether all but a few codes that are not zero agree, as far as the dtype can tell.

    Rounding may decide whether a code that is near its threshold fires.
    """
    close = max(1e-3, 8 * torch.finfo(codes.dtype).eps) * codes.abs().amax(1, keepdim=True)
    fires = (found != 0) | (codes != 0)
    apart = ((found - codes).abs() > close) & fires
    return int(apart.sum()) <= 0.02 * int(fires.sum())
