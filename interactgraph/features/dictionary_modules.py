"""Sparse autoencoders as modules: their tensors by role, checked by the codes they give."""

from __future__ import annotations

import copy
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import InteractGraphError
from ..model import first_tensor

if TYPE_CHECKING:
    from .dictionary import Dictionary

__all__ = ["dictionary_of"]

# What codes depend on.
_DECIDING = {"encoder", "encoder_bias", "offset", "activation", "threshold", "k", "normalization"}


def dictionary_of(module: nn.Module, made: type[Dictionary], options: dict[str, Any]) -> Dictionary:
    """See `Dictionary.from_module`.

    Args:
        module: the autoencoder.
        made: the class.
        options: further arguments of it.

    Raises:
        InteractGraphError: the module is none that it can be.
    """
    parameters, used = _parameters(module)
    if not {"encoder", "decoder"} <= set({**parameters, **options}):
        raise InteractGraphError(
            f"{type(module).__name__} holds neither W_enc and W_dec nor linear layers encoder "
            "and decoder; give the tensors: Dictionary(encoder=..., decoder=...)"
        )
    if "skip" in parameters and "skip" not in {each.name for each in fields(made)}:
        raise InteractGraphError(
            f"{type(module).__name__} has W_skip, so it is a transcoder: Transcoder.from_module"
        )
    asked = not _DECIDING.isdisjoint(options)
    counts = (getattr(module, name, None) for name in ("k", "topk", "top_k"))
    k = next((value for value in counts if isinstance(value, int)), None)
    if "activation" not in options and "threshold" in parameters:
        options["activation"] = "jumprelu"
    elif "activation" not in options and k is not None:
        options = {"k": k, **options, "activation": "topk"}
    plain = made(**{**parameters, **options})
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
        kinds.append(made(**{**parameters, **options, "activation": "topk", "k": k}))
    same = plain.encoder.shape[1] == len(plain.decoder)  # or there is nothing to take off
    shifted = [replace(kind, offset=kind.decoder_bias) for kind in kinds if same]
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
             "skip": ("W_skip",), "decoder_bias": ("b_dec", "bias", "pre_bias")}  # fmt: skip
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
    x = (torch.randn(64, encoder.shape[1], generator=generator) * scales).to(encoder)
    x = x + bias if len(bias) == encoder.shape[1] else x
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
