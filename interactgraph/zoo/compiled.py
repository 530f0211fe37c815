"""RASP programs as transformers whose residual axes carry names and whose edges are known.

tracr (Lindner et al. 2023, arXiv 2301.05062) compiles programs into weights. What it compiled is
kept in small files, which need torch and numpy alone; `compiled_program` makes such a file's
content of any program that tracr has compiled.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import FileError, InputError, MissingFileError
from ..features.random_rotation import random_orthogonal
from ..files import replacing
from .compiled_edges import true_edges
from .compiled_model import CompiledTransformer

__all__ = ["COMPILED", "CompiledProgram", "compiled", "compiled_program"]

_FOLDER = Path(__file__).parent / "programs"
_FORMAT = 1

COMPILED = tuple(sorted(path.stem for path in _FOLDER.glob("*.npz")))
"""Names of the programs that come with the library."""


@dataclass(frozen=True, eq=False)
class CompiledProgram:
    """A compiled program and what is known about it.

    Attributes:
        model: the transformer; token numbers `[b, t]` -> outputs `[b, t, outputs]`.
        layers: the residual states, by name: "embedding", "attention_0", "mlp_0", ...
        data: inputs, token numbers `[b, t]`, one batch for each length; every sequence begins with
            the compiler's mark.
        labels: layer -> the names of the residual axes, the same for all.
        edges: (source, target) of consecutive states -> true edges, bool `[target axis, source
            axis]`; see `compiled_edges`. What the residual connection carries is on the diagonal.
        outputs: what tracr's own model gives for `data`, `[b, t, outputs]`, to five decimals.
        tokens: what every token number stands for.
        values: what every output stands for; None: the output is a number.
    """

    model: CompiledTransformer
    layers: list[str]
    data: list[Tensor]
    labels: dict[str, list[str]]
    edges: dict[tuple[str, str], Tensor]
    outputs: list[Tensor] = field(repr=False)
    tokens: list[Any]
    values: list[Any] | None

    def written(self) -> dict[tuple[str, str], Tensor]:
        """The true edges without those from an axis to itself, of pairs that have such edges."""
        apart = {
            pair: edges & ~torch.eye(len(edges), dtype=torch.bool)
            for pair, edges in self.edges.items()
        }
        return {pair: edges for pair, edges in apart.items() if edges.any()}

    @torch.no_grad()
    def answers(self, tokens: Tensor) -> list[list[Any]]:
        """What the program answers, position by position; at the compiler's mark that is undefined.

        Args:
            tokens: token numbers `[b, t]`.
        """
        outputs = self.model(tokens)
        if self.values is None:
            return outputs[..., 0].tolist()
        return [[self.values[number] for number in row] for row in outputs.argmax(-1).tolist()]

    def rotated(self, seed: int = 0) -> tuple[CompiledTransformer, Tensor]:
        """The same network with its axes hidden: x' = Q x for every residual state x.

        Args:
            seed: of Q.

        Returns:
            The network, and Q `[d, d]`, whose column a is the direction of axis a.
        """
        q = random_orthogonal(len(self.labels[self.layers[0]]), seed)
        weights = {}
        for name, tensor in self.model.state_dict().items():
            part = name.replace("weights.", "")
            writes = part.startswith("embedding") or part.endswith((".linear", ".second"))
            exact = tensor.double()
            weights[part] = (exact @ q.mT if writes else q @ exact).to(tensor)
        return CompiledTransformer(weights, self.model.n_heads, self.model.causal), q

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a file that `compiled` reads, `.npz`.

        Raises:
            FileError: it cannot be written.
        """
        model = self.model
        about = {
            "format": _FORMAT,
            "n_heads": model.n_heads,
            "causal": model.causal,
            "axes": self.labels[self.layers[0]],
            "tokens": self.tokens,
            "values": self.values,
        }
        arrays: dict[str, Any] = {"about": np.array(json.dumps(about))}
        for name, tensor in model.state_dict().items():
            arrays[f"weight.{name.replace('weights.', '')}"] = tensor.numpy()
        for number, (tokens, outputs) in enumerate(zip(self.data, self.outputs, strict=True)):
            arrays[f"data.{number}"] = tokens.numpy().astype(np.int16)
            arrays[f"outputs.{number}"] = outputs.numpy()
        for (_, target), edges in self.edges.items():
            arrays[f"edges.{target}"] = edges.numpy()
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)


def compiled(program: str | os.PathLike[str] = "hist") -> CompiledProgram:
    """A compiled program by its name, or from a file that `CompiledProgram.save` has written.

    Args:
        program: one of `COMPILED`, or the path of an `.npz` file.

    Raises:
        MissingFileError: neither a known name nor a file.
        FileError: the file holds something else.

    Example:
        >>> net = compiled("hist")
        >>> net.answers(torch.tensor([[net.tokens.index(t) for t in ["compiler_bos", *"abca"]]]))
        [[0, 2, 1, 1, 2]]
    """
    path = _FOLDER / f"{program}.npz" if program in COMPILED else Path(program)
    if not path.is_file():
        raise MissingFileError(
            f"{str(program)!r} is neither a file nor one of the programs {', '.join(COMPILED)}"
        )
    try:
        with np.load(path) as stored:  # no pickle is read
            return _from_arrays({name: stored[name] for name in stored.files})
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OSError,
        EOFError,
        zipfile.BadZipFile,
    ) as error:
        raise FileError(
            f"{path} does not hold a compiled program ({error}); make one by compiled_program(...)"
            ".save(path)"
        ) from error


def _from_arrays(arrays: dict[str, np.ndarray]) -> CompiledProgram:
    about = json.loads(arrays["about"].item())
    if about["format"] != _FORMAT:
        raise ValueError(f"format {about['format']}, this version reads {_FORMAT}")
    groups: dict[str, dict[str, Tensor]] = {}
    for name, array in arrays.items():
        group, _, own = name.partition(".")
        if own:
            groups.setdefault(group, {})[own] = torch.from_numpy(array)
    model = CompiledTransformer(groups["weight"], about["n_heads"], about["causal"])
    numbers = sorted(groups["data"], key=int)
    states = model.residual_states
    sources = dict(zip(states[1:], states, strict=False))
    return CompiledProgram(
        model=model,
        layers=states,
        data=[groups["data"][number].long() for number in numbers],
        labels={state: list(about["axes"]) for state in states},
        edges={(sources[target], target): groups["edges"][target] for target in states[1:]},
        outputs=[groups["outputs"][number] for number in numbers],
        tokens=about["tokens"],
        values=about["values"],
    )


# --- what tracr compiled -------------------------------------------------------------------------


def compiled_program(
    assembled: Any, inputs: Sequence[Sequence[Any]], *, seed: int = 0
) -> CompiledProgram:
    """What `tracr.compiler.compiling.compile_rasp_to_model` returns, in torch and with its edges.

    Needs tracr (`pip install tracr-pypi`), which made it.

    Args:
        assembled: tracr's `AssembledTransformerModel`.
        inputs: sequences of tokens, without the compiler's mark; they decide which axes are used.
        seed: of the search for true edges.

    Raises:
        InputError: a model with normalisation, which tracr does not compile, or bad inputs.

    Example:
        ```
        from tracr.compiler import compiling, lib
        assembled = compiling.compile_rasp_to_model(lib.make_hist(), {"a", "b", "c"}, 5)
        program = itg.zoo.compiled_program(assembled, ["a", "ab", "aab", "abc"])
        program.save("hist.npz")
        ```
    """
    import haiku as hk

    config, encoder = assembled.model_config, assembled.input_encoder
    if config.layer_norm:
        raise InputError("a model with layer normalisation; tracr compiles programs without")
    if not inputs or not all(len(sequence) for sequence in inputs):
        raise InputError("inputs must hold sequences of one token or more")
    mark = [encoder.bos_token] if encoder.bos_token is not None else []
    by_length: dict[int, list[list[int]]] = {}
    for sequence in inputs:
        try:
            numbers = encoder.encode([*mark, *sequence])
        except ValueError as error:
            raise InputError(f"the program cannot read {list(sequence)}: {error}") from error
        by_length.setdefault(len(numbers), []).append(numbers)

    def unembedding(x: Any) -> Any:
        return assembled.get_compiled_model().unembed(x, use_unembed_argmax=False)

    n_axes = len(assembled.residual_labels)
    unembed = hk.transform(unembedding).apply({}, None, np.eye(n_axes, dtype=np.float32))
    weights = {
        "embedding.tokens": assembled.params["token_embed"]["embeddings"],
        "embedding.positions": assembled.params["pos_embed"]["embeddings"],
        "unembedding.matrix": np.asarray(unembed).reshape(n_axes, -1),
    }
    names = {"attn": "attention", "linear_1": "first", "linear_2": "second"}
    for layer in range(config.num_layers):
        for half, parts in (
            ("attn", ("query", "key", "value", "linear")),
            ("mlp", ("linear_1", "linear_2")),
        ):
            for part in parts:
                linear = assembled.params[f"transformer/layer_{layer}/{half}/{part}"]
                if np.any(np.asarray(linear["b"])):
                    raise InputError("a model with biases; tracr compiles programs without")
                name = f"{names.get(half, half)}_{layer}.{names.get(part, part)}"
                weights[name] = linear["w"]
    tensors = {
        name: torch.from_numpy(np.array(array, np.float32)) for name, array in weights.items()
    }
    model = CompiledTransformer(tensors, config.num_heads, config.causal)
    tokens = [numbers for _, numbers in sorted(by_length.items())]
    data = [torch.tensor(numbers) for numbers in tokens]
    own = [assembled.forward(assembled.params, np.array(numbers)) for numbers in tokens]
    outputs = [
        np.round(np.asarray(each.transformer_output.output) @ weights["unembedding.matrix"], 5)
        for each in own
    ]
    decoding = getattr(assembled.output_encoder, "encoding_map", None)
    states = model.residual_states
    return CompiledProgram(
        model=model,
        layers=states,
        data=data,
        labels={state: list(assembled.residual_labels) for state in states},
        edges=true_edges(model, data, seed),
        outputs=[torch.from_numpy(output.astype(np.float32)) for output in outputs],
        tokens=[_plain(value) for value in encoder.encoding_map],
        values=None if decoding is None else [_plain(value) for value in decoding],
    )


def _plain(value: Any) -> Any:
    """A token or value as JSON has it, or in words."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)
