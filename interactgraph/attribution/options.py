"""The options of a run: checked once, then frozen.

Every option is one field here, with its check, what the recipe and a checkpoint keep of it, and its
flag on the command line; `interaction_graph` has the same parameters. Torch is imported where
values are looked at, so that the command line can list the flags at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checks import choice, number, positive, whole, whole_or_none
from ..errors import InputError
from .strengths import STRENGTHS, Strength, check_strengths

if TYPE_CHECKING:
    import os

    import torch
    from torch import Tensor

    from ..features import FeatureMap
    from ..model import Forward, PositionMask

__all__ = ["ENGINES", "SAMPLINGS", "Flag", "Options", "flags"]

ENGINES = ("auto", "closed_form", "forward", "reverse")
SAMPLINGS = ("importance", "uniform", "signs")
FROZEN = ("attention", "layernorm")  # see interactgraph.model.frozen

Pair = tuple[str, str]
Features = "str | FeatureMap | Mapping[str, str | FeatureMap]"
Groups = "str | int | Sequence[Any] | Tensor | Callable[[Any], Any]"


@dataclass(frozen=True)
class Flag:
    """An option on the command line.

    Attributes:
        help: what it does.
        kind: how its text is read, see `interactgraph.cli.options`.
        metavar: what its value is called.
        several: whether it takes one value or more.
        choices: the values there are.
    """

    help: str
    kind: str = "text"
    metavar: str | None = None
    several: bool = False
    choices: tuple[str, ...] | None = None


def _as_it_is(value: Any) -> Any:
    return value


def _plain(value: Any) -> Any:
    from .description import description

    return description(value)


def option(
    default: Any = None,
    *,
    check: Callable[[str, Any], Any] | None = None,
    recipe: Callable[[Any], Any] | None = _as_it_is,
    identity: Callable[[Any], Any] | None = None,
    flag: Flag | None = None,
) -> Any:
    """A field of `Options`.

    Args:
        default: its value where none is given.
        check: (name, value) -> the value as it is used; raises for what makes no sense.
        recipe: what the graph's metadata keep of it; None: nothing.
        identity: what a checkpoint compares besides the recipe; None: nothing.
        flag: on the command line.
    """
    return field(
        default=default,
        metadata={"check": check, "recipe": recipe, "identity": identity, "flag": flag},
    )


# --- checks of single options --------------------------------------------------------------------


def _at_least(least: int) -> Callable[[str, Any], int]:
    return lambda name, value: whole(name, value, least)


def _none_or_at_least(least: int) -> Callable[[str, Any], int | None]:
    return lambda name, value: whole_or_none(name, value, least)


def _one_of(*choices: str) -> Callable[[str, Any], Any]:
    return lambda name, value: choice(name, value, choices)


def _whether(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{name}={value!r}; it must be True or False")
    return value


def _positive_or_none(name: str, value: Any) -> float | None:
    return None if value is None else positive(name, value)


def _share_or_none(name: str, value: Any) -> float | None:
    if value is not None and positive(name, value) >= 1:
        raise InputError(f"{name}={value!r}; it must be between 0 and 1")
    return value


def _not_negative(name: str, value: Any) -> float:
    if number(name, value) < 0:
        raise InputError(f"{name}={value!r}; it must not be negative")
    return float(value)


def _top_features(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {layer: whole(f"{name}[{layer!r}]", n) for layer, n in value.items()}
    return whole_or_none(name, value)


def _plain_mapping(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _labels(name: str, value: Any) -> Any:
    fits = isinstance(value, Mapping) and all(
        isinstance(names, Sequence) and not isinstance(names, str) for names in value.values()
    )
    if value is not None and not fits:
        raise InputError("labels must give a list of names for each layer that it has")
    return value


def _folder(name: str, value: Any) -> Any:
    if value is not None and not isinstance(value, (str, PathLike)):
        raise InputError(f"{name}={value!r}; it must be the path of a folder")
    return value


def _mask(name: str, value: Any) -> Any:
    if not (value is None or isinstance(value, str) or callable(value)):
        raise InputError(
            f"{name}={value!r}; it must be a key of dict batches or a function of the batch"
        )
    return value


def _function(name: str, value: Any) -> Any:
    if value is not None and not callable(value):
        raise InputError(f"{name}={value!r}; it must be a function of model and batch")
    return value


def _groups(name: str, value: Any) -> Any:
    listed = hasattr(value, "__len__") and hasattr(value, "__getitem__")
    if not (value is None or callable(value) or isinstance(value, int) or listed):
        raise InputError(
            f"{name}={value!r}; it must be a key of dict batches, a place in tuples, a function of "
            "the batch, or one name or number for each sample"
        )
    return value


def _strengths(name: str, value: Any) -> tuple[str, ...]:
    return tuple(strength.name for strength in check_strengths(value))


def _frozen(name: str, value: Any) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, Iterable) or not all(each in FROZEN for each in names):
        raise InputError(f"{name}={value!r}; it must hold names of {', '.join(FROZEN)}")
    return tuple(each for each in FROZEN if each in names)


def _name_of_method(value: Any) -> str:
    return value if isinstance(value, str) else f"captum.{getattr(value, '__name__', value)}"


def _named(value: Any) -> Any:
    """Baselines by name, tensors as what they are."""
    if isinstance(value, Mapping):
        return {layer: _named(entry) for layer, entry in value.items()}
    return value if isinstance(value, str) else "tensor"


def _key_or_function(value: Any) -> Any:
    return value if isinstance(value, str) or value is None else {"function": _plain(value)}


_BY_LAYER = "for all layers or for one"


@dataclass(frozen=True, eq=False)
class Options:
    """What `interaction_graph` is asked for; its parameters explain each.

    Raises:
        InputError: an option, or a combination of options, that makes no sense.
    """

    layers: Sequence[str] = option(
        (), recipe=list,
        flag=Flag("module names (their output), NAME.input, input, output, in order; globs; or "
                  "residual, attention, heads, mlp: that of every block",
                  metavar="NAME", several=True),
    )  # fmt: skip
    pairs: Sequence[Pair] | None = option(
        recipe=lambda pairs: [list(pair) for pair in pairs],
        flag=Flag("default: consecutive layers", "pair", "SOURCE:TARGET", several=True),
    )
    features: Any = option(
        "neurons", recipe=None,
        flag=Flag("neurons, pca, lib, random_rotation, sparse_rotation or a feature map of your "
                  f"own, {_BY_LAYER}", "features", "[LAYER=]NAME|FILE.py:NAME", several=True),
    )  # fmt: skip
    top_features: int | Mapping[str, int] | None = option(
        check=_top_features, recipe=_plain_mapping,
        flag=Flag("keep so many features of each layer, the strongest ones, and all others as one",
                  "int", "N"),
    )  # fmt: skip
    method: Any = option(
        "integrated_gradients", recipe=_name_of_method,
        flag=Flag("what A is: integrated_gradients, gradient, ablation, ... or captum.CLASS",
                  "method", "NAME"),
    )  # fmt: skip
    baseline: Any = option(
        "zero", recipe=None,
        flag=Flag(f"zero, mean or a tensor, {_BY_LAYER}", "baseline",
                  "[LAYER=]zero|mean|FILE.py:NAME", several=True),
    )  # fmt: skip
    strengths: Sequence[str] = option(
        ("rms",), check=_strengths, recipe=list,
        flag=Flag(f"of {', '.join(STRENGTHS)}; the first one is the default weight",
                  metavar="NAME", several=True, choices=tuple(STRENGTHS)),
    )  # fmt: skip
    freeze: Sequence[str] = option(
        (), check=_frozen, recipe=list,
        flag=Flag("held fixed at the values of each sample: attention patterns, scales of "
                  "normalisations", metavar="NAME", several=True, choices=FROZEN),
    )  # fmt: skip
    skip: str = option(
        "keep", check=_one_of("keep", "remove"),
        flag=Flag("remove: targets are what is added to the source (residual streams)",
                  choices=("keep", "remove")),
    )  # fmt: skip
    n_steps: int = option(64, check=_at_least(1), flag=Flag("most path nodes", "int", "N"))
    tolerance: float | None = option(
        0.02, check=_positive_or_none,
        flag=Flag("largest error of the path integral; none: exactly n-steps nodes",
                  "float_or_none", "X"),
    )  # fmt: skip
    engine: str = option(
        "auto", check=_one_of(*ENGINES),
        flag=Flag("the way to differentiate; auto: the cheapest", choices=ENGINES),
    )  # fmt: skip
    sources: int | None = option(
        check=_none_or_at_least(1), flag=Flag("source features drawn for each sample", "int", "N")
    )
    sampling: str = option(
        "importance", check=_one_of(*SAMPLINGS), flag=Flag("how they are drawn", choices=SAMPLINGS)
    )
    positions: int | None = option(
        check=_none_or_at_least(1),
        flag=Flag("target positions drawn for each sample, all edges of each", "int", "N"),
    )
    max_edges: int | None = option(
        check=_none_or_at_least(1),
        flag=Flag("keep so many edges of each pair, the strongest, and sums of few others: for "
                  "layers whose matrix of all edges is too large", "int", "N"),
    )  # fmt: skip
    target_error: float | None = option(
        check=_share_or_none,
        flag=Flag("end when the error of the strongest edges is below this share of their strength",
                  "float", "SHARE"),
    )  # fmt: skip
    time_budget: float | None = option(
        check=_positive_or_none,
        flag=Flag("what the run may take, such as 90s, 10min or 2h: samples and sources are drawn "
                  "so that the error is smallest", "seconds", "TIME"),
    )  # fmt: skip
    seed: int = option(0, check=_at_least(0), flag=Flag("decides everything random", "int", "N"))
    groups: Any = option(
        check=_groups, recipe=_plain,
        flag=Flag("a graph for each group of samples, too: 1 for the labels of (x, y) batches",
                  "groups", "KEY|PLACE|FILE.py:NAME|codes.json"),
    )  # fmt: skip
    folds: int | None = option(
        check=_none_or_at_least(2), flag=Flag("graphs of N parts of the data", "int", "N")
    )
    position_mask: PositionMask | None = option(
        check=_mask, recipe=_key_or_function, flag=Flag("key of dict batches", metavar="KEY")
    )
    skip_positions: int = option(
        0, check=_at_least(0),
        flag=Flag("positions left out at the start of each sample", "int", "N"),
    )  # fmt: skip
    examples: bool = option(
        True, check=_whether, flag=Flag("no samples that tell what features mean", "switch")
    )
    labels: Mapping[str, Sequence[str]] | None = option(
        check=_labels, recipe=None, flag=Flag("{layer: labels}", "made", "FILE.py:NAME")
    )
    forward: Forward | None = option(
        check=_function, recipe=_plain, flag=Flag("forward(model, batch)", "object", "FILE.py:NAME")
    )
    device: torch.device | str | None = option(
        recipe=None, flag=Flag("cpu, cuda, cuda:1, ...", metavar="NAME")
    )
    dtype: torch.dtype | None = option(
        recipe=None, identity=_plain,
        flag=Flag("what to compute in", "dtype",
                  choices=("float32", "float64", "bfloat16", "float16")),
    )  # fmt: skip
    memory_budget: int | None = option(
        check=_none_or_at_least(1), recipe=None, identity=_as_it_is,
        flag=Flag("working memory, such as 2GiB", "bytes", "SIZE"),
    )  # fmt: skip
    checkpoint: str | os.PathLike[str] | None = option(
        check=_folder, recipe=None, flag=Flag("save there how far it is; resume", metavar="DIR")
    )
    checkpoint_seconds: float = option(
        60.0, check=_not_negative, recipe=None,
        flag=Flag("time between two saves", "float", "N"),
    )  # fmt: skip
    progress: bool = option(True, recipe=None, flag=Flag("no progress bar", "switch"))

    def __post_init__(self) -> None:
        for each in fields(self):
            check = each.metadata["check"]
            if check is not None:
                object.__setattr__(self, each.name, check(each.name, getattr(self, each.name)))
        object.__setattr__(self, "pairs", _check_pairs(list(self.layers), self.pairs))
        self._check_draws()
        if self.target_error is not None and not self.strength_objects[0].is_mean:
            raise InputError(
                f"target_error needs a strength with an error first, not {self.strengths[0]!r}"
            )

    # --- several options together ----------------------------------------------------------------

    def _check_positions(self) -> None:
        if self.positions is None:
            return
        names = ", ".join(s.name for s in self.strength_objects if not s.adds_positions)
        if names:
            raise InputError(
                f"positions={self.positions} draws some of the target positions of a sample, which "
                f"do not tell the largest one: {names} need all of them; leave positions out"
            )
        if self.sources is not None or self.time_budget is not None:
            raise InputError(
                f"positions={self.positions} draws target positions, and sources or time_budget "
                "say what else is drawn; leave one of the two out"
            )
        if self.engine == "reverse":
            raise InputError(
                f"positions={self.positions} draws target positions in the closed form or forward "
                "mode, which engine='reverse' is not; use engine='auto'"
            )

    def _check_draws(self) -> None:
        self._check_positions()
        if self.max_edges is not None and (self.sources is not None or self.time_budget):
            raise InputError(
                f"max_edges={self.max_edges} adds up the edges of all features that move, and "
                "sources or time_budget draw some of these; leave one of the two out"
            )
        if self.time_budget is not None:
            self._check_time()
        if self.sources is None:
            if self.sampling == "signs":
                raise InputError("sampling='signs' needs a number of probes: sources=8")
            return
        if self.sampling != "signs":
            if self.engine == "reverse":
                raise InputError(
                    f"sources={self.sources} draws source features, which engine='reverse' "
                    "does not; use engine='forward', 'closed_form' or 'auto'"
                )
            return
        if self.strengths != ("rms",) or self.engine not in ("auto", "reverse"):
            raise InputError(
                f"sampling='signs' with engine={self.engine!r} and "
                f"strengths={list(self.strengths)}; random signs over target positions estimate "
                "strengths=('rms',) in reverse mode, and nothing else"
            )

    def _check_time(self) -> None:
        if self.sources is not None:
            raise InputError(
                f"time_budget={self.time_budget:g} chooses how many sources are drawn, so "
                f"sources={self.sources} does not go with it; leave one of the two out"
            )
        if self.target_error is not None:
            raise InputError(
                f"time_budget={self.time_budget:g} and target_error={self.target_error:g} both say "
                "when a run ends; leave one of the two out"
            )
        if self.engine == "reverse" or self.sampling == "signs":
            raise InputError(
                f"time_budget={self.time_budget:g} draws source features, which "
                f"engine={self.engine!r} with sampling={self.sampling!r} does not"
            )
        if not self.strength_objects[0].is_mean:
            raise InputError(
                f"time_budget needs a strength with an error first, not {self.strengths[0]!r}"
            )

    # --- what follows ----------------------------------------------------------------------------

    @property
    def draws_sources(self) -> bool:
        """Whether source features may be drawn."""
        drawn = self.sources is not None and self.sampling != "signs"
        return drawn or self.time_budget is not None

    @property
    def definition(self) -> str:
        """What A is: the name of the method, "captum" for a class of captum."""
        if isinstance(self.method, type) and hasattr(self.method, "attribute"):
            return "captum"
        return self.method if isinstance(self.method, str) else repr(self.method)

    @property
    def strength_objects(self) -> tuple[Strength, ...]:
        """The strengths, not bound to a pair yet."""
        return check_strengths(self.strengths)

    @property
    def pair_list(self) -> list[Pair]:
        """The (source, target) layers, in order."""
        return list(self.pairs or ())

    @property
    def source_layers(self) -> list[str]:
        """Layers that are a source, in order."""
        return list(dict.fromkeys(source for source, _ in self.pair_list))

    def feature_maps(self) -> dict[str, FeatureMap]:
        """Layer -> feature map, as asked for.

        Raises:
            InputError: an unknown name or layer.
        """
        from ..features import TopFeatures, named_map

        maps = self._of_layers("features", self.features, "neurons")
        most = self._of_layers("top_features", self.top_features, None)
        named = {layer: named_map(each, layer) for layer, each in maps.items()}
        return {
            layer: each if most[layer] is None else TopFeatures(each, most[layer])
            for layer, each in named.items()
        }

    def _of_layers(self, name: str, value: Any, default: Any) -> dict[str, Any]:
        """Layer -> what an option says of it, which is one value for all or a mapping."""
        layers = list(self.layers)
        if not isinstance(value, Mapping):
            return dict.fromkeys(layers, value)
        unknown = [layer for layer in value if layer not in layers]
        if unknown:
            raise InputError(f"{name} name {unknown}, which are not in layers={layers}")
        return {layer: value.get(layer, default) for layer in layers}

    def baselines(self) -> dict[str, str | Tensor]:
        """Source layer -> "zero", "mean" or a tensor.

        Raises:
            InputError: something else, or a layer that is no source.
        """
        from ..layers import check_baseline

        return check_baseline(self.baseline, self.source_layers)

    @property
    def groups_in_order(self) -> bool:
        """Whether groups are given one for each sample, in the order of the data."""
        from torch import Tensor

        return isinstance(self.groups, (Tensor, Sequence)) and not isinstance(self.groups, str)

    @property
    def checkpoint_folder(self) -> Path | None:
        """Where the run is saved."""
        return None if self.checkpoint is None else Path(self.checkpoint)

    def recipe(self) -> dict[str, Any]:
        """JSON values that say how the graph was computed."""
        recipe = {
            each.name: each.metadata["recipe"](getattr(self, each.name))
            for each in fields(self)
            if each.metadata["recipe"] is not None
        }
        recipe["features"] = {layer: each.kind for layer, each in self.feature_maps().items()}
        recipe["baseline"] = _named(self.baselines())
        return recipe

    def identity(self) -> dict[str, Any]:
        """JSON values that a checkpoint compares besides the recipe."""
        identity = {
            each.name: each.metadata["identity"](getattr(self, each.name))
            for each in fields(self)
            if each.metadata["identity"] is not None
        }
        # However they were spelt.
        identity["features"] = _plain(self.feature_maps())
        identity["baseline"] = _plain(self.baselines())
        return identity


def flags() -> dict[str, tuple[Flag, Any]]:
    """Option -> its flag and its default, in order."""
    return {
        each.name: (each.metadata["flag"], each.default)
        for each in fields(Options)
        if each.metadata["flag"] is not None
    }


def _check_pairs(layers: list[str], pairs: Sequence[Pair] | None) -> list[Pair]:
    if pairs is None:
        if len(layers) < 2:
            raise InputError(f"layers={layers}: at least two are needed, source and target")
        return list(pairwise(layers))
    if isinstance(pairs, str) or not isinstance(pairs, Iterable):
        raise InputError(f"pairs={pairs!r}; it must be a list of (source, target) names")
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise InputError(f"pairs must be (source, target) names, got {pair!r}")
    chosen = [(str(source), str(target)) for source, target in pairs]
    for source, target in chosen:
        for layer in (source, target):
            if layer not in layers:
                raise InputError(f"pairs name {layer!r}, which is not in layers={layers}")
        if source == target:
            raise InputError(f"pair {source!r} -> {target!r}: source and target must differ")
    if not chosen or len(set(chosen)) < len(chosen):
        raise InputError("pairs must name at least one pair, each once")
    return chosen
