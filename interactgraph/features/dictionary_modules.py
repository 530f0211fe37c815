"""Sparse autoencoders as modules: their tensors by role, and whether codes are the same."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..model import first_tensor

if TYPE_CHECKING:
    from .dictionary import Dictionary

__all__ = ["codes_of", "parameters_of", "same_codes"]


def parameters_of(module: nn.Module) -> tuple[dict[str, Tensor], set[str]]:
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


def codes_of(module: nn.Module, dictionary: Dictionary) -> tuple[Tensor, Tensor] | None:
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


def same_codes(found: Tensor, codes: Tensor) -> bool:
    """Whether all but a few codes that are not zero agree, as far as the dtype can tell.

    Rounding may decide whether a code that is near its threshold fires.
    """
    close = max(1e-3, 8 * torch.finfo(codes.dtype).eps) * codes.abs().amax(1, keepdim=True)
    fires = (found != 0) | (codes != 0)
    apart = ((found - codes).abs() > close) & fires
    return int(apart.sum()) <= 0.02 * int(fires.sum())
