"""Layer names as people write them: globs, presets, and the names that other libraries use."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import nn

from ..errors import ModelError
from .sites import named_modules, plain_model

__all__ = ["PRESETS", "LayerNames", "n_heads"]

# What a preset stands for in every block, in words.
PRESETS = {
    "residual": "the output of every block",
    "attention": "what attention adds to the stream",
    "heads": "what the heads give, the input of the last linear map of attention",
    "mlp": "the hidden neurons of the MLP, the input of its last linear map",
}
_PARALLEL = ("use_parallel_residual", "parallel_attn")  # MLP and attention read the same stream
_NOT_SELF_ATTENTION = ("cross", "encdec", "encoder_attn")
_SECOND_NORM = ("pre_feedforward_layernorm", "ln_2", "post_attention_layernorm", "layernorm_after")
# Normalisations of what attention and MLP give, before it is added to the stream.
_POST_NORMS = {"attention": "post_attention_layernorm", "mlp_out": "post_feedforward_layernorm"}

# Names of a place in block {i}; a place is a key of `_Block.place`.
_OTHER_NAMES = {
    # TransformerLens
    r"blocks\.(\d+)\.hook_resid_pre": "input",
    r"blocks\.(\d+)\.hook_resid_mid": "middle",
    r"blocks\.(\d+)\.hook_resid_post": "residual",
    r"blocks\.(\d+)\.(?:hook_attn_out|attn\.hook_out)": "attention",
    r"blocks\.(\d+)\.attn\.hook_z": "heads",
    r"blocks\.(\d+)\.(?:hook_mlp_out|mlp\.hook_out)": "mlp_out",
    r"blocks\.(\d+)\.mlp\.hook_post": "mlp",
    # nnterp
    r"layers_input\[(\d+)\]": "input",
    r"layers(?:_output)?\[(\d+)\]": "residual",
    r"attentions_output\[(\d+)\]": "attention",
    r"mlps_output\[(\d+)\]": "mlp_out",
}
_EMBEDDINGS = ("hook_embed", "embed_tokens", "token_embeddings")


class LayerNames:
    """The layers that the names of a user stand for.

    A name that is a module's own stays as it is. Others may be

    - a glob: `encoder.layer.*` (one level), `h.*.mlp`, `h.*.mlp.c_proj.input`;
    - a preset of `PRESETS`, `decoder.residual` for the blocks below one module;
    - a name of TransformerLens (`blocks.3.hook_resid_post`) or nnterp (`layers_output[3]`).

    What is none of these is left for `resolve_sites` to complain about.

    Attributes:
        layers: in the order asked for.
    """

    def __init__(self, model: nn.Module, names: str | Iterable[str]) -> None:
        """Finds the layers.

        Raises:
            ModelError: a glob matches nothing, or the model does not have what a name stands for.
        """
        self._modules = {
            name: module
            for name, module in named_modules(plain_model(model)).items()
            if "_orig_mod" not in name.split(".")
        }
        self._found: dict[str, list[str]] = {}
        asked = [names] if isinstance(names, str) else list(names)
        self.layers = [layer for name in asked for layer in self.of(name)]

    def of(self, name: Any) -> list[str]:
        """The layers that a name stands for."""
        if not isinstance(name, str):
            return [name]
        if name not in self._found:
            self._found[name] = _expanded(name, self._modules)
        return self._found[name]

    def pairs(self, pairs: Any) -> Any:
        """Pairs of names as pairs of layers, where each name stands for one."""
        if pairs is None or isinstance(pairs, str) or not isinstance(pairs, Iterable):
            return pairs
        return [
            tuple(self._one(name) for name in pair) if isinstance(pair, (tuple, list)) else pair
            for pair in pairs
        ]

    def keys(self, table: Any) -> Any:
        """What is given by name, by layer; anything but a mapping as it is."""
        if not isinstance(table, Mapping):
            return table
        return {layer: value for name, value in table.items() for layer in self.of(name)}

    @property
    def told(self) -> list[str]:
        """A line for every name that stands for others."""
        return [
            f"{name}: {', '.join(layers)}"
            for name, layers in self._found.items()
            if layers != [name]
        ]

    def _one(self, name: Any) -> Any:
        found = self.of(name)
        if len(found) != 1:
            raise ModelError(f"pairs name {name!r}, which stands for {len(found)} layers; name one")
        return found[0]


def _expanded(name: str, modules: Mapping[str, nn.Module]) -> list[str]:
    stem, _, end = name.rpartition(".")
    if name in modules or (end in ("input", "output") and stem in modules):
        return [name]
    if any(sign in name for sign in "*?"):
        return _matching(name, modules)
    if end in PRESETS:
        blocks = [block for block in _blocks(modules) if not stem or _is_below(block.name, stem)]
        if not blocks:
            where = f" below {stem!r}" if stem else ""
            raise ModelError(
                f"layers={name!r} asks for {PRESETS[end]}, and the model has no list of blocks"
                f"{where}; name its layers or a glob, such as 'stages.*'"
            )
        return [block.place(end, name) for block in blocks]
    for pattern, place in _OTHER_NAMES.items():
        if found := re.fullmatch(pattern, name):
            blocks, number = _blocks(modules), int(found[1])
            lists = {block.name.rpartition(".")[0] for block in blocks}
            if number >= len(blocks) or len(lists) > 1:
                raise ModelError(
                    f"layer {name!r} stands for block {number}, and the model has {len(blocks)} "
                    f"blocks in {len(lists)} lists; name a layer of the model itself"
                )
            return [blocks[number].place(place, name)]
    if name in _EMBEDDINGS:
        found_here = [
            inner for inner, module in modules.items() if isinstance(module, nn.Embedding)
        ]
        return found_here[:1] or [name]
    return [name]


def _is_below(name: str, stem: str) -> bool:
    return name == stem or name.startswith(f"{stem}.")


def _matching(name: str, modules: Mapping[str, nn.Module]) -> list[str]:
    """The layers that a glob matches; `*` stands for one part of a name."""
    end = next((end for end in (".input", ".output") if name.endswith(end)), "")
    parts = name.removesuffix(end).split(".")
    found = [
        inner + end
        for inner in modules
        if len(inner.split(".")) == len(parts) and all(map(fnmatchcase, inner.split("."), parts))
    ]
    if not found:
        known = [inner for inner in modules if inner]
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.3)
        hint = f"; there is {', '.join(close)}" if close else ""
        raise ModelError(f"layers={name!r} matches no module of the model{hint}")
    return found


class _Block(NamedTuple):
    """One of a list of blocks.

    Attributes:
        name: of its module.
        module: the block.
    """

    name: str
    module: nn.Module

    def place(self, place: str, asked: str) -> str:
        """The layer for a preset's name or for "input", "middle" or "mlp_out".

        Raises:
            ModelError: the block has no such thing.
        """
        if place == "residual":
            return self.name
        if place == "input":
            return f"{self.name}.input"
        children = dict(self.module.named_children())
        normed = _POST_NORMS["mlp_out"] in children
        if normed and place in _POST_NORMS:
            name = _POST_NORMS[place]
            inner, what = name if name in children else None, name
        elif place in ("attention", "heads"):
            inner, what = self._last_linear(in_attention=True), "attention with a linear map"
        elif place in ("mlp", "mlp_out"):
            inner, what = self._last_linear(in_attention=False), "MLP that ends in a linear map"
        else:
            what = "normalisation between attention and MLP that reads the stream"
            names = _SECOND_NORM[:1] if normed else _SECOND_NORM
            parallel = any(getattr(self.module, key, False) for key in _PARALLEL)
            inner = next((name for name in names if name in children and not parallel), None)
        if inner is None:
            inside = ", ".join(name for name, _ in self.module.named_children())
            raise ModelError(
                f"layer {asked!r}: block {self.name!r} ({type(self.module).__name__}) has no "
                f"{what}; name a layer of it: {inside}"
            )
        reads = place in ("heads", "mlp", "middle")
        return f"{self.name}.{inner}" + (".input" if reads else "")

    def _last_linear(self, *, in_attention: bool) -> str | None:
        """The last map back to the width of the stream."""
        width = self._width()
        found = None
        for name, module in self.module.named_modules():
            path = name.lower()
            if not name or "base_layer" in name or "mixer" in path:
                continue
            is_attention = "att" in path and not any(part in path for part in _NOT_SELF_ATTENTION)
            if "att" in path and not is_attention:
                continue
            size = _sizes(module)
            if size is not None and is_attention is in_attention and width in (None, size[1]):
                found = name
        return found

    def _width(self) -> int | None:
        """Of the stream: what the outermost normalisation reads; inner ones may be of heads."""
        weights = {
            name: module.weight
            for name, module in self.module.named_modules()
            if isinstance(getattr(module, "weight", None), nn.Parameter)
        }
        norms = [name for name, weight in weights.items() if weight.ndim == 1]
        outermost = min(norms, key=lambda name: name.count("."), default=None)
        return None if outermost is None else len(weights[outermost])


def _sizes(module: nn.Module) -> tuple[int, int] | None:
    """What goes into a linear map and what comes out; None: the module is none."""
    module = getattr(module, "base_layer", module)  # of an adapter
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    weight = getattr(module, "weight", None)
    if type(module).__name__ == "Conv1D" and isinstance(weight, nn.Parameter):  # transformers'
        return weight.shape[0], weight.shape[1]
    return None


def _blocks(modules: Mapping[str, nn.Module]) -> list[_Block]:
    """The blocks of the model: the entries of its outermost lists of alike modules."""
    lists: list[str] = []
    for name, module in modules.items():
        if any(_is_below(name, outer) for outer in lists):
            continue
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and _alike(module):
            lists.append(name)
    return [
        _Block(f"{name}.{inner}" if name else inner, block)
        for name in lists
        for inner, block in modules[name].named_children()
    ]


def _alike(module: nn.Module) -> bool:
    children = list(module.children())
    of_one_kind = len({type(child) for child in children}) == 1
    composed = all(next(child.children(), None) is not None for child in children)
    return bool(children) and composed and of_one_kind


_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")


def n_heads(model: nn.Module, layer: str) -> int | None:
    """How many attention heads a layer's activation holds one after the other, if that is told.

    By the attention module that the layer is in or by the model's configuration.
    """
    name = layer.removesuffix(".input").removesuffix(".output")
    while name:
        module: Any = model.get_submodule(name) if name in dict(model.named_modules()) else None
        if module is not None and (told := _told(module)):
            return told
        name = name.rpartition(".")[0]
    config = getattr(model, "config", None)
    for part in (config, getattr(config, "text_config", None)):
        if part is not None and (told := _told(part)):
            return told
    return None


def _told(holder: Any) -> int | None:
    for key in _HEADS:
        value = getattr(holder, key, None)
        if isinstance(value, int) and value > 0:
            return value
    return None
