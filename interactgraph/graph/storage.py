"""One safetensors file holds a graph with its full recipe; nothing in it is executed on loading."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import FileError, InteractGraphError, MissingFileError
from ..features import Drivers, Examples, from_state
from ..files import replacing
from ..sparse import is_sparse, nonzero, sparse_matrix
from .interaction_graph import InteractionGraph, Pair

__all__ = ["load", "save"]

_FORMAT = 1
_SIDES = ("targets", "sources")
_Blocks = dict[Pair, dict[str, Tensor]]
_SPARSE_BELOW = 0.25  # share of non-zero entries under which indices and values are smaller


def save(graph: InteractionGraph, path: str | os.PathLike[str]) -> None:
    """See `InteractionGraph.save`."""
    tensors: dict[str, Tensor] = {}
    _put_blocks(tensors, graph, "")
    groups = {}
    for index, (name, group) in enumerate(graph.groups.items()):
        _put_blocks(tensors, group, f"groups/{index}/")
        groups[name] = _difference(group, graph)
    for index, fold in enumerate(graph.folds):
        _put_blocks(tensors, fold, f"folds/{index}/")
    features = {}
    for index, (layer, feature_map) in enumerate(graph.features.items()):
        config, parts = feature_map.state()
        features[layer] = config
        # Keyed by number, because a layer's name may hold slashes or what UTF-8 cannot.
        for name, tensor in parts.items():
            tensors[f"features/{index}/{name}"] = tensor.detach().cpu()
    texts = {}
    for index, (layer, examples) in enumerate(graph.examples.items()):
        texts[layer], parts = examples.state()
        tensors.update({f"examples/{index}/{name}": part for name, part in parts.items()})
    driven = []
    for index, sides in enumerate(graph.drivers.get(pair) for pair in graph.pairs):
        driven.append([] if sides is None else [drivers.state()[0] for drivers in sides])
        for side, drivers in zip(_SIDES, sides or (), strict=False):
            parts = drivers.state()[1]
            tensors.update({f"drivers/{index}/{side}/{name}": x for name, x in parts.items()})
    header = {
        "format": _FORMAT,
        "layers": graph.layers,
        "pairs": graph.pairs,
        "labels": dict(graph.labels),
        "strengths": graph.strengths,
        "error_strengths": [list(graph.standard_errors.get(pair, {})) for pair in graph.pairs],
        "completeness": [graph.completeness.get(pair) for pair in graph.pairs],
        "features": features,
        "metadata": dict(graph.metadata),
        "groups": groups,
        "folds": [_difference(fold, graph) for fold in graph.folds],
        "examples": texts,
        "drivers": driven,
        "sparse": _sparse_keys(graph),
    }
    try:
        text = json.dumps(header)
    except (TypeError, ValueError) as error:
        raise FileError(
            f"the graph cannot be saved: its metadata must be plain JSON values ({error})"
        ) from error
    with replacing(path) as temporary:
        save_file(_packed(tensors), temporary, metadata={"interactgraph": text})


def _difference(part: InteractionGraph, whole: InteractionGraph) -> dict[str, Any]:
    """What the metadata of a group or fold has that the whole graph has not."""
    return {
        key: value
        for key, value in part.metadata.items()
        if key not in whole.metadata or whole.metadata[key] != value
    }


def _matrices(graph: InteractionGraph, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The key and matrix of every strength and standard error of one graph."""
    for index, pair in enumerate(graph.pairs):
        for table, blocks in (("weights", graph.blocks), ("errors", graph.standard_errors)):
            for strength, matrix in blocks.get(pair, {}).items():
                yield f"{prefix}{table}/{index}/{strength}", matrix


def _sparse_keys(graph: InteractionGraph) -> list[str]:
    """Keys of the matrices that are sparse in memory; small files hold dense ones like these."""
    parts = [("", graph)]
    parts += [(f"groups/{index}/", part) for index, part in enumerate(graph.groups.values())]
    parts += [(f"folds/{index}/", part) for index, part in enumerate(graph.folds)]
    return [key for prefix, part in parts for key, m in _matrices(part, prefix) if is_sparse(m)]


def _put_blocks(tensors: dict[str, Tensor], graph: InteractionGraph, prefix: str) -> None:
    for key, matrix in _matrices(graph, prefix):
        _put(tensors, key, matrix.detach().cpu())


def _packed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, contiguous and none in the memory of another, as the format wants them."""
    packed, seen = {}, set()
    for key, tensor in tensors.items():
        tensor = tensor.contiguous()
        memory = tensor.untyped_storage().data_ptr()
        packed[key] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return packed


def _put(tensors: dict[str, Tensor], key: str, matrix: Tensor) -> None:
    if is_sparse(matrix):
        rows, columns, values = nonzero(matrix)
        tensors[f"{key}/indices"] = torch.stack([rows, columns], 1).to(torch.int32)
        tensors[f"{key}/values"] = values
        return
    occupied = matrix != 0
    if occupied.count_nonzero() < _SPARSE_BELOW * matrix.numel():
        tensors[f"{key}/indices"] = occupied.nonzero().to(torch.int32)
        tensors[f"{key}/values"] = matrix[occupied]
    else:
        tensors[key] = matrix


def load(path: str | os.PathLike[str]) -> InteractionGraph:
    """Reads a graph that `InteractionGraph.save` wrote.

    Raises:
        FileError: the file is missing, truncated, or not an interaction graph.

    Example:
        >>> import interactgraph as itg
        >>> net = itg.zoo.planted_modules(widths=(8, 12, 8), n_modules=2, n_samples=128)
        >>> graph = itg.interaction_graph(net.model, net.data, net.layers, progress=False)
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "graph.safetensors"
        >>> graph.save(path)
        >>> itg.load(path)
        InteractionGraph(input (8) -> 1 (12) -> 2 (8); 2 pairs, rms)
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("interactgraph")
            if header is None:
                raise FileError(
                    f"{os.fspath(path)} is a safetensors file but not an interaction graph; "
                    "give a file that graph.save or `interactgraph build` wrote"
                )
            return _read(json.loads(header), {key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    except FileNotFoundError:
        raise MissingFileError(f"there is no graph file {os.fspath(path)}") from None
    except InteractGraphError:
        raise
    except (
        SafetensorError,
        OSError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
        RuntimeError,
    ) as error:
        raise FileError(
            f"{os.fspath(path)} is not a complete interaction graph ({error}); it may be truncated "
            "or written by another program"
        ) from error


def _read(header: dict[str, Any], tensors: dict[str, Tensor]) -> InteractionGraph:
    if header["format"] > _FORMAT:
        raise FileError(
            f"the graph file has format {header['format']}, this version reads up to {_FORMAT}; "
            "install a newer interactgraph"
        )
    pairs = [(a, b) for a, b in header["pairs"]]
    sparse = frozenset(header.get("sparse", ()))
    labels = header["labels"]
    features = {}
    for index, (layer, config) in enumerate(header["features"].items()):
        features[layer] = from_state(config, _below(tensors, f"features/{index}/"))

    def blocks(prefix: str) -> tuple[_Blocks, _Blocks]:
        blocks: _Blocks = {}
        errors: _Blocks = {}
        for index, pair in enumerate(pairs):
            shape = (len(labels[pair[1]]), len(labels[pair[0]]))
            blocks[pair] = {
                name: _get(tensors, f"{prefix}weights/{index}/{name}", shape, sparse)
                for name in header["strengths"]
            }
            errors[pair] = {
                name: _get(tensors, f"{prefix}errors/{index}/{name}", shape, sparse)
                for name in header["error_strengths"][index]
            }
        return blocks, errors

    strengths, errors = blocks("")
    graph = InteractionGraph(
        layers=header["layers"],
        pairs=tuple(pairs),
        labels=labels,
        blocks=strengths,
        standard_errors=errors,
        completeness={
            pair: value
            for pair, value in zip(pairs, header["completeness"], strict=True)
            if value is not None
        },
        features=features,
        metadata=header["metadata"],
        examples={
            layer: Examples.from_state(texts, _below(tensors, f"examples/{index}/"))
            for index, (layer, texts) in enumerate(header.get("examples", {}).items())
        },
        drivers={
            pairs[index]: (
                Drivers.from_state(of_targets, _below(tensors, f"drivers/{index}/targets/")),
                Drivers.from_state(of_sources, _below(tensors, f"drivers/{index}/sources/")),
            )
            for index, (of_targets, of_sources) in (
                (index, sides) for index, sides in enumerate(header.get("drivers", ())) if sides
            )
        },
    )

    def part(prefix: str, metadata: dict[str, Any]) -> InteractionGraph:
        strengths, errors = blocks(prefix)
        return graph.replace(
            blocks=strengths,
            standard_errors=errors,
            completeness={},
            metadata={**graph.metadata, **metadata},
            examples={},
            drivers={},
        )

    groups = header.get("groups", {})
    return graph.replace(
        groups={
            name: part(f"groups/{index}/", metadata)
            for index, (name, metadata) in enumerate(groups.items())
        },
        folds=tuple(
            part(f"folds/{index}/", metadata)
            for index, metadata in enumerate(header.get("folds", []))
        ),
    )


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def _get(
    tensors: dict[str, Tensor], key: str, shape: tuple[int, int], sparse: Collection[str]
) -> Tensor:
    if key in tensors:
        return tensors[key]
    indices, values = tensors[f"{key}/indices"].long(), tensors[f"{key}/values"]
    if key in sparse:
        rows, columns = indices.T
        return _checked(rows, columns, values, shape)
    matrix = torch.zeros(shape, dtype=values.dtype)
    matrix[indices[:, 0], indices[:, 1]] = values
    return matrix


def _checked(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """A sparse matrix of what a file holds.

    Raises:
        ValueError: places outside of it, twice, or not row by row.
    """
    keys = rows * shape[1] + columns
    inside = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
    if len(values) != len(keys) or not bool(inside.all()) or bool((keys.diff() <= 0).any()):
        raise ValueError("edges that are not those of its layers")
    return sparse_matrix(rows, columns, values, shape)
