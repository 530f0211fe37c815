"""Files of sparse dictionaries as other packages write them, read without these packages.

A dictionary is one file of weights, whose name tells who wrote it, and a configuration beside it.
What the packages compute in more steps is folded into the tensors of a `Dictionary`, so that codes
and reconstruction stay what they are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checks import whole
from ..errors import FileError, MissingFileError
from .stored import StoredConfig, StoredTensors

__all__ = ["StoredDictionary", "read_dictionary"]

_LISTED = 20  # dictionaries of a folder that a message names
_LAYER = re.compile(r"layer_\d+\.safetensors")
_CROSS_LAYER = re.compile(r"W_enc_\d+\.safetensors")
_READABLE = (
    "sae_lens (cfg.json, sae_weights.safetensors), dictionary_learning (config.json, ae.pt), "
    "sparsify (cfg.json, sae.safetensors), Gemma Scope (params.npz, params.safetensors) and "
    "circuit-tracer (layer_0.safetensors, ...)"
)
_CODES = {"standard": "relu", "jumprelu": "jumprelu", "topk": "topk", "abstopk": "abstopk"}


@dataclass(frozen=True, eq=False)
class StoredDictionary:
    """A dictionary as its file has it.

    Attributes:
        path: of the weights.
        arguments: of `Dictionary` or `Transcoder`.
        is_transcoder: whether its output is another activation than its input; None: the file does
            not tell.
    """

    path: Path
    arguments: dict[str, Any]
    is_transcoder: bool | None


def read_dictionary(
    path: str | os.PathLike[str], name: str | None, *, allow_pickle: bool
) -> StoredDictionary:
    """Reads a dictionary.

    Args:
        path: the file of weights, or a folder with one somewhere below.
        name: which one, where there are several; their names are those of the folders, or of the
            files, in which they are.
        allow_pickle: whether a pickle may be read.

    Raises:
        FileError: nothing can be read there.
    """
    found = _located(Path(path), name)
    reader = _reader_of(found)
    assert reader is not None
    return reader(found) if reader is not _dictionary_learning else reader(found, allow_pickle)


# --- where the weights are -----------------------------------------------------------------------


def _located(path: Path, name: str | None) -> Path:
    try:
        if path.is_file():
            if name is not None:
                raise FileError(f"{path} is one file, and name={name!r} chooses in a folder")
            if _reader_of(path) is None:
                raise FileError(f"{path} is no file of a dictionary; readable are {_READABLE}")
            return path
        if not path.is_dir():
            raise MissingFileError(f"there is no file or folder {str(path)!r}")
        here = [each for each in path.iterdir() if each.is_file() and each.name in _READERS]
        here += [each for each in path.iterdir() if _LAYER.fullmatch(each.name)]
        if not here and any(_CROSS_LAYER.fullmatch(each.name) for each in path.iterdir()):
            raise FileError(
                f"{path} holds a cross-layer transcoder, whose features write to many layers; "
                "those of one layer can be read (per-layer transcoders)"
            )
        if not here:
            here = [
                each
                for each in path.rglob("*")
                if (each.name in _READERS or _LAYER.fullmatch(each.name)) and each.is_file()
            ]
    except (OSError, ValueError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"cannot read {str(path)!r}: {error}") from error
    names = {_name(each, path): each for each in here}
    if not names:
        raise FileError(f"{path} holds no dictionary; readable are {_READABLE}")
    if name is None and len(names) == 1:
        return here[0]
    if name not in names:
        ordered = sorted(names, key=_natural)
        shown = ", ".join(ordered[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
        asked = "choose one with name=..." if name is None else f"none is called {name!r}"
        raise FileError(f"{path} holds {len(names)} dictionaries, {asked}: {shown}")
    return names[name]


def _name(file: Path, folder: Path) -> str:
    inner = file.relative_to(folder)
    return (inner.with_suffix("") if _LAYER.fullmatch(file.name) else inner.parent).as_posix()


def _natural(name: str) -> list[tuple[int, str]]:
    """Numbers in a name by size."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _reader_of(file: Path) -> Callable[..., StoredDictionary] | None:
    if _LAYER.fullmatch(file.name):
        return _circuit_tracer
    if file.name in _READERS:
        return _READERS[file.name]
    return _gemma_scope if file.suffix in (".npz", ".safetensors") else None


# --- the formats ---------------------------------------------------------------------------------


def _sae_lens(file: Path) -> StoredDictionary:
    """Of sae_lens: its `SAE.save_model`, versions before 6 too."""
    config, tensors = StoredConfig.beside(file, "cfg.json"), StoredTensors.of(file)
    old = config.text("activation_fn", config.text("activation_fn_str", "relu"))
    architecture = config.text("architecture", "standard")
    k = config.values.get("k")
    if old == "topk" and architecture == "standard":
        architecture, k = "topk", config.section("activation_fn_kwargs").values.get("k")
    elif old not in ("relu", "topk"):
        raise FileError(f"{config.path}: activation_fn={old!r} is unknown; relu and topk are read")
    kind = architecture.removesuffix("transcoder").rstrip("_")
    transcoder = architecture.endswith("transcoder")
    skips = transcoder and kind.endswith("skip")
    if transcoder:
        kind = kind.removesuffix("skip").rstrip("_") or "standard"
    if kind not in (*_CODES, "gated"):
        raise FileError(
            f"{config.path}: architecture {architecture!r} is unknown; standard, jumprelu, topk, "
            "abstopk, gated and the transcoders of these are read (of a training checkpoint, what "
            "save_inference_model writes)"
        )
    encoder = tensors.matrix("W_enc").mT
    features, size = encoder.shape
    decoder = tensors.matrix("W_dec", features).mT
    found: dict[str, Any] = {
        "encoder": encoder,
        "decoder": decoder,
        "decoder_bias": tensors.vector("b_dec", len(decoder)),
        "normalization": _normalization(config),
        "hook": config.hook(),
    }
    if kind == "gated":
        gate, magnitude, log_ratio = (
            tensors.vector(name, features) for name in ("b_gate", "b_mag", "r_mag")
        )
        found |= _gated(encoder, gate, magnitude, log_ratio)
    else:
        found |= {"activation": _CODES[kind], "encoder_bias": tensors.vector("b_enc", features)}
    if kind == "jumprelu":
        found["threshold"] = _threshold(tensors.vector("threshold", features))
    if kind.endswith("topk"):
        found["k"] = whole(f"{config.path}: k", k)
        if config.flag("rescale_acts_by_decoder_norm", False):
            found |= _unit_directions(found)
    if "scaling_factor" in tensors.values:  # of codes, before version 6
        factor = tensors.vector("scaling_factor", features)
        if config.flag("finetuning_scaling_factor", False):
            found["decoder"] = decoder * factor
        elif not torch.allclose(factor, torch.ones_like(factor)):
            raise FileError(
                f"{file}: scaling_factor is not one, and {config.path} has no "
                "finetuning_scaling_factor; one of the two belongs to another dictionary"
            )
    if transcoder:
        found["skip"] = tensors.matrix("W_skip", len(decoder), size) if skips else None
    elif config.flag("apply_b_dec_to_input", True):
        found["offset"] = tensors.vector("b_dec", size)
    return StoredDictionary(file, found, transcoder)


def _normalization(config: StoredConfig) -> str:
    """`normalize_activations`; those that scale all activations alike are folded in on saving."""
    given = config.values.get("normalize_activations")
    if given in ("layer_norm", "constant_norm_rescale"):
        return str(given)
    if isinstance(given, bool) or given in (
        None, "none", "expected_average_only_in", "covariance_whitening",
    ):  # fmt: skip
        return "none"
    raise FileError(
        f"{config.path}: normalize_activations={given!r} is unknown; none, layer_norm, "
        "constant_norm_rescale, expected_average_only_in and covariance_whitening are read"
    )


def _dictionary_learning(file: Path, allow_pickle: bool) -> StoredDictionary:
    """Of dictionary_learning: `ae.pt` and the trainer's configuration."""
    tensors = StoredTensors.of_pickle(file, allow_pickle)
    trainer = StoredConfig.beside(file, "config.json").section("trainer")
    kind = trainer.text("dict_class", "")
    matrices = kind in ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE")
    encoder = tensors.matrix("W_enc").mT if matrices else tensors.matrix("encoder.weight")
    features, size = encoder.shape
    decoder = (
        tensors.matrix("W_dec", features, size).mT
        if matrices
        else tensors.matrix("decoder.weight", size, features)
    )
    found: dict[str, Any] = {"encoder": encoder, "decoder": decoder}
    if kind == "GatedAutoEncoder":
        gate, magnitude, log_ratio = (
            tensors.vector(name, features) for name in ("gate_bias", "mag_bias", "r_mag")
        )
        found |= _gated(encoder, gate, magnitude, log_ratio)
    else:
        name = "b_enc" if matrices else "encoder.bias"
        found["encoder_bias"] = tensors.vector(name, features)
    biases = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias",
              "GatedAutoEncoder": "decoder_bias"}  # fmt: skip
    found["decoder_bias"] = tensors.vector(biases.get(kind, "b_dec"), size)
    if kind not in ("AutoEncoderNew", "JumpReluAutoEncoder"):
        found["offset"] = found["decoder_bias"]
    if kind == "AutoEncoder":
        found |= _unit_directions(found)  # as the package does on loading
    elif kind == "AutoEncoderTopK":
        stored = tensors.values.get("k", trainer.values.get("k"))
        count = int(stored) if isinstance(stored, Tensor) and stored.numel() == 1 else stored
        found |= {"activation": "topk", "k": whole(f"{file}: k", count)}
    elif kind == "JumpReluAutoEncoder":
        found |= {"activation": "jumprelu",
                  "threshold": _threshold(tensors.vector("threshold", features))}  # fmt: skip
    elif kind in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        # The batch decides in training only; afterwards a threshold does.
        found |= {"activation": "jumprelu", "threshold": _threshold(tensors.number("threshold"))}
    elif kind not in ("AutoEncoderNew", "GatedAutoEncoder"):
        raise FileError(
            f"{trainer.path}: dict_class {kind!r} is unknown; AutoEncoder, AutoEncoderNew, "
            "AutoEncoderTopK, BatchTopKSAE, MatryoshkaBatchTopKSAE, GatedAutoEncoder and "
            "JumpReluAutoEncoder are read"
        )
    return StoredDictionary(file, found, False)


def _sparsify(file: Path) -> StoredDictionary:
    """Of sparsify: one hookpoint.

    Versions before its pull request 49 took `b_dec` off the input of transcoders, too, and left
    `transcode` out of the configuration or not; where it is set, nothing is taken off.
    """
    config, tensors = StoredConfig.beside(file, "cfg.json"), StoredTensors.of(file)
    if (kind := config.text("activation", "topk")) != "topk":
        raise FileError(f"{config.path}: activation={kind!r} is unknown; topk is read")
    encoder = tensors.matrix("encoder.weight")
    features, size = encoder.shape
    bias = tensors.vector("b_dec", size)
    transcode = config.flag("transcode", False)
    skips = config.flag("skip_connection", False)
    found = {
        "encoder": encoder,
        "decoder": tensors.matrix("W_dec", features, size).mT,
        "encoder_bias": tensors.vector("encoder.bias", features),
        "decoder_bias": bias,
        "offset": None if transcode else bias,
        "activation": "abstopk" if config.flag("signed", False) else "topk",
        "k": whole(f"{config.path}: k", config.values.get("k")),
        "hook": file.parent.name or None,
    }
    if skips or transcode:
        found["skip"] = tensors.matrix("W_skip", size, size) if skips else None
    return StoredDictionary(file, found, skips or transcode)


def _gemma_scope(file: Path) -> StoredDictionary:
    """Of Gemma Scope: the archives of 1, whose names are `W_enc` and `W_dec`, and those of 2."""
    if file.suffix == ".npz":
        read = StoredTensors.of_arrays(file).values
        tensors = StoredTensors(file, {key.lower(): value for key, value in read.items()})
    else:
        tensors = StoredTensors.of(file)
    encoder = tensors.matrix("w_enc").mT
    features, size = encoder.shape
    decoder = tensors.matrix("w_dec", features).mT
    found: dict[str, Any] = {
        "encoder": encoder,
        "decoder": decoder,
        "encoder_bias": tensors.vector("b_enc", features),
        "decoder_bias": tensors.vector("b_dec", len(decoder)),
    }
    if "threshold" in tensors.values:
        found |= {"activation": "jumprelu",
                  "threshold": _threshold(tensors.vector("threshold", features))}  # fmt: skip
    skip = "affine_skip_connection"
    if skip in tensors.values:
        found["skip"] = tensors.matrix(skip, size, len(decoder)).mT
        return StoredDictionary(file, found, True)
    if not (file.parent / "config.json").is_file():
        return StoredDictionary(file, found, None)
    config = StoredConfig.beside(file, "config.json")
    source, target = (config.values.get(f"hf_hook_point_{end}") for end in ("in", "out"))
    found["hook"] = source if isinstance(source, str) else None
    across = None if source is None or target is None else source != target
    return StoredDictionary(file, found, across)


def _circuit_tracer(file: Path) -> StoredDictionary:
    """Of circuit-tracer: the transcoder of one layer."""
    tensors = StoredTensors.of(file)
    encoder = tensors.matrix("W_enc")
    features, size = encoder.shape
    decoder = tensors.matrix("W_dec", features).mT
    found: dict[str, Any] = {
        "encoder": encoder,
        "decoder": decoder,
        "encoder_bias": tensors.vector("b_enc", features),
        "decoder_bias": tensors.vector("b_dec", len(decoder)),
    }
    if "activation_function.threshold" in tensors.values:
        threshold = tensors.vector("activation_function.threshold", features)
        found |= {"activation": "jumprelu", "threshold": threshold}
    if "W_skip" in tensors.values:
        found["skip"] = tensors.matrix("W_skip", len(decoder), size)
    # The configuration says only where transcoders read, in a line of its own.
    line = re.search(
        r"^feature_input_hook: *[\"']?([\w.]+)", _text(file.parent / "config.yaml"), re.M
    )
    if line is not None:
        found["hook"] = f"blocks.{file.stem.removeprefix('layer_')}.{line[1]}"
    return StoredDictionary(file, found, True)


def _text(file: Path) -> str:
    """Of a file that may be there."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


_READERS: dict[str, Callable[..., StoredDictionary]] = {
    "sae_weights.safetensors": _sae_lens,
    "ae.pt": _dictionary_learning,
    "sae.safetensors": _sparsify,
    "params.npz": _gemma_scope,
    "params.safetensors": _gemma_scope,
}


# --- what is folded in ---------------------------------------------------------------------------


def _threshold(threshold: Tensor) -> Tensor:
    """Where a ReLU comes before the comparison, a threshold below zero is zero."""
    return threshold.clamp_min(0)


def _gated(encoder: Tensor, gate: Tensor, magnitude: Tensor, log_ratio: Tensor) -> dict[str, Any]:
    """A gated encoder as a JumpReLU, which it is as gate and magnitude share their weights.

    (Rajamanoharan et al., arXiv 2404.16014.) The gate x + gate > 0 and the magnitude
    relu(r x + magnitude) with r = exp(log_ratio) > 0 are of one product x, so the gate is open
    where r x + magnitude > magnitude - r gate.
    """
    ratio = log_ratio.exp()
    return {
        "encoder": encoder * ratio[:, None],
        "encoder_bias": magnitude,
        "activation": "jumprelu",
        "threshold": _threshold(magnitude - ratio * gate),
    }


def _unit_directions(found: Mapping[str, Any]) -> dict[str, Any]:
    """The same dictionary with directions of length one; codes are longer by what these were."""
    norm = found["decoder"].norm(dim=0)
    norm = torch.where(norm == 0, torch.ones_like(norm), norm)
    return {
        "encoder": found["encoder"] * norm[:, None],
        "encoder_bias": found["encoder_bias"] * norm,
        "decoder": found["decoder"] / norm,
    }
