"""Flags that several commands share; their names are the parameter names with dashes."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..attribution.options import flags
from ..errors import InteractGraphError

if TYPE_CHECKING:
    from ..communities import Partition
    from ..graph import InteractionGraph

__all__ = [
    "add_build_flags",
    "add_group_flag",
    "add_model_and_data",
    "add_module_flags",
    "add_pruning_flags",
    "build_graph",
    "find",
    "group_names",
    "pruned",
    "read_graph",
    "split_pair",
]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def n_bytes(text: str) -> int:
    """A number of bytes such as 2GiB, 500MB or 1e9."""
    match = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)\s*([kmg]i?)?b?", text.strip().lower())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of memory such as 2GiB")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def seconds(text: str) -> float:
    """A time such as 90, 45s, 10min or 1.5h."""
    match = re.fullmatch(r"([0-9.]+)\s*(s|min|m|h)?", text.strip().lower())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 90s, 10min or 2h")
    return float(match[1]) * {"h": 3600, "m": 60, "min": 60}.get(match[2] or "s", 1)


def add_build_flags(command: argparse.ArgumentParser) -> None:
    """MODEL, DATA and a flag for every option of `interaction_graph`."""
    add_model_and_data(command)
    for name, (flag, default) in flags().items():
        dashed = name.replace("_", "-")
        if flag.kind == "switch":
            command.add_argument(f"--no-{dashed}", action="store_true", help=flag.help)
            continue
        told = "" if default in (None, ()) else f" (default: {_shown(default)})"
        command.add_argument(
            f"--{dashed}", nargs="+" if flag.several else None, required=name == "layers",
            default=None if flag.several else default,
            metavar=None if flag.choices and not flag.several else flag.metavar,
            choices=flag.choices, type=_TYPES.get(flag.kind, str), help=flag.help + told,
        )  # fmt: skip


def add_model_and_data(command: argparse.ArgumentParser) -> None:
    """MODEL, and DATA or a text file for a transformer."""
    command.add_argument(
        "model", metavar="MODEL",
        help="file.py:name, package.module:name, .pt2, or hf:NAME_OR_FOLDER for a transformer",
    )  # fmt: skip
    command.add_argument(
        "data", metavar="DATA", nargs="?", help="file.py:name or package.module:name"
    )
    text = command.add_argument_group("texts, for a transformer")
    text.add_argument(
        "--text", metavar="FILE", help="instead of DATA: every line that holds some is a sample"
    )
    text.add_argument("--batch-size", type=int, default=8, help="lines in a batch (default: 8)")
    text.add_argument("--max-length", type=int, metavar="N", help="tokens of a line that are read")


def _shown(default: Any) -> str:
    return " ".join(default) if isinstance(default, tuple) else f"{default}"


def add_seed_flag(command: argparse.ArgumentParser) -> None:
    """The one number that decides everything random, unless it is there already."""
    if not any(action.dest == "seed" for action in command._actions):
        command.add_argument(
            "--seed", type=int, default=0, help="decides everything random (default: 0)"
        )


def build_graph(options: argparse.Namespace) -> InteractionGraph:
    """Loads MODEL and DATA and computes the graph."""
    from ..run import interaction_graph
    from .specs import load_model_and_data

    given: dict[str, Any] = {}
    for name, (flag, _) in flags().items():
        if flag.kind == "switch":
            given[name] = not getattr(options, f"no_{name}")
            continue
        value = getattr(options, name, None)
        if value is not None:
            given[name] = _READERS.get(flag.kind, _as_it_is)(value, f"--{name.replace('_', '-')}")
    layers = given.pop("layers")
    model, data = load_model_and_data(options)
    return interaction_graph(model, data, layers, **given)


def _as_it_is(value: Any, flag: str) -> Any:
    return value


def _object(text: str, flag: str) -> Any:
    from .specs import load_object

    return load_object(text, flag)


def _made(text: str, flag: str) -> Any:
    """The object itself, or what a function without arguments returns."""
    made = _object(text, flag)
    return made() if callable(made) else made


def _dtype(text: str, flag: str) -> Any:
    import torch

    return getattr(torch, text)


def _float_or_none(text: str | float, flag: str) -> float | None:
    try:
        return None if text == "none" else float(text)
    except ValueError:
        raise InteractGraphError(f"{flag} {text!r} is no number and not none") from None


def _pairs(texts: list[str], flag: str) -> list[tuple[str, str]]:
    return [split_pair(text) for text in texts]


def _features(texts: list[str], flag: str) -> Any:
    from ..features import NAMES

    return _by_layer(texts, flag, tuple(NAMES))


def _baseline(texts: list[str], flag: str) -> Any:
    return _by_layer(texts, flag, ("zero", "mean"))


def _method(name: str, flag: str) -> Any:
    """A method's name, or the captum class of `captum.CLASS`."""
    if not name.startswith("captum."):
        return name
    import captum.attr

    method = getattr(captum.attr, name.removeprefix("captum."), None)
    if method is None:
        raise InteractGraphError(f"{flag} {name}: captum.attr has no such class")
    return method


def group_names(text: str, flag: str) -> Any:
    """A place in tuples, an object `FILE.py:NAME`, a file of groups, or a key of dict batches."""
    if text.endswith(".json"):
        from ..codes import load_groups

        return load_groups(text)
    if text.lstrip("-").isdigit():
        return int(text)
    return _object(text, flag) if ":" in text else text


def split_pair(text: str) -> tuple[str, str]:
    """`SOURCE:TARGET` -> both."""
    source, colon, target = text.partition(":")
    if not colon:
        raise InteractGraphError(f"--pairs {text!r} is not of the form SOURCE:TARGET")
    return source, target


def _by_layer(entries: list[str], flag: str, words: tuple[str, ...]) -> Any:
    """`["zero"]` -> "zero"; `["fc1=mean", "fc2=zero"]` -> {"fc1": "mean", "fc2": "zero"}."""

    def value(text: str) -> Any:
        # A word that is none of them is told from those that there are by the option's own check.
        return text if text in words or ":" not in text else _object(text, flag)

    if len(entries) == 1 and "=" not in entries[0]:
        return value(entries[0])
    table = {}
    for entry in entries:
        layer, equals, text = entry.partition("=")
        if not equals:
            raise InteractGraphError(f"{flag}: several entries must be of the form LAYER=VALUE")
        table[layer] = value(text)
    return table


# How the text of a flag of some kind becomes a value, when it is parsed and when the run begins.
_TYPES: dict[str, Any] = {"int": int, "float": float, "bytes": n_bytes, "seconds": seconds}
_READERS: dict[str, Callable[[Any, str], Any]] = {
    "float_or_none": _float_or_none,
    "pair": _pairs,
    "features": _features,
    "baseline": _baseline,
    "method": _method,
    "groups": group_names,
    "object": _object,
    "made": _made,
    "dtype": _dtype,
}


def add_group_flag(command: argparse.ArgumentParser) -> None:
    """Which group of samples."""
    command.add_argument("--group", metavar="NAME", help="the graph of this group of samples")


def read_graph(path: str, group: str | None = None) -> InteractionGraph:
    """The graph in a file, or that of a group of samples in it."""
    from ..graph import load

    graph = load(path)
    if group is None:
        return graph
    if group not in graph.groups:
        known = ", ".join(graph.groups) or "none; build it with --groups"
        raise InteractGraphError(f"{path} has no group {group!r}; its groups: {known}")
    return graph.groups[group]


def add_pruning_flags(command: argparse.ArgumentParser) -> None:
    """Which edges are kept."""
    group = command.add_argument_group("pruning", "an edge must pass every rule that is given")
    group.add_argument("--threshold", type=float, help="keep weights of at least this")
    group.add_argument("--relative", type=float, help="at least this share of the pair's largest")
    group.add_argument("--top-k", type=int, help="this many edges of each pair")
    group.add_argument("--top-k-per-target", type=int, help="this many edges into each feature")


def pruned(graph: InteractionGraph, options: argparse.Namespace) -> InteractionGraph:
    """The graph as the pruning flags want it."""
    rules = {
        name: getattr(options, name)
        for name in ("threshold", "relative", "top_k", "top_k_per_target")
        if getattr(options, name) is not None
    }
    return graph.prune(**rules, strength=options.strength) if rules else graph


def add_module_flags(command: argparse.ArgumentParser) -> None:
    """How modules are found."""
    command.add_argument("--strength", help="which strength is the weight; default: the first")
    command.add_argument("--null", default="layered", help="null model (default: layered)")
    command.add_argument(
        "--self-edges", default="auto", choices=["auto", "keep"],
        help="auto: what a skip connection passes through is no structure",
    )  # fmt: skip
    command.add_argument("--weighting", help="how strengths become weights")
    command.add_argument(
        "--resolution", type=resolution, default="auto",
        help="larger: more modules (default: auto, what hidden edges speak for)",
    )  # fmt: skip
    command.add_argument("--n-modules", type=int, help="ask for this many modules")
    command.add_argument(
        "--algorithm", default="auto",
        choices=["auto", "sweeps", "leiden", "leiden+sweeps", "networkit"],
    )  # fmt: skip
    command.add_argument("--n-runs", type=int, default=10, help="runs; the best is kept")
    add_seed_flag(command)
    command.add_argument(
        "--bootstrap", type=int, metavar="N",
        help="how sure each feature is: N graphs resampled from --folds of the data",
    )  # fmt: skip
    command.add_argument("--no-significance", action="store_true", help="skip the p-value")


def check_module_flags(options: argparse.Namespace) -> None:
    """Checks what finding modules will ask for, before a graph is computed for it.

    Raises:
        InteractGraphError: a flag makes no sense, or not without another one.
    """
    from ..checks import choice
    from ..communities.auto_weighting import WEIGHTINGS
    from ..communities.objective import NULLS

    if options.bootstrap is not None and options.folds is None:
        raise InteractGraphError(
            f"--bootstrap {options.bootstrap} resamples parts of the data; give their number, too: "
            "--folds 20"
        )
    choice("--null", options.null, NULLS)
    if options.weighting is not None:
        choice("--weighting", options.weighting, WEIGHTINGS)
    if options.strength is not None:
        choice("--strength", options.strength, options.strengths or ("rms",))


def resolution(text: str) -> float | str:
    """A resolution on the command line."""
    return text if text == "auto" else float(text)


def find(graph: InteractionGraph, options: argparse.Namespace) -> Partition:
    """Finds modules as the flags want it."""
    from ..communities import bootstrap, find_modules

    given = {
        "null": options.null,
        "resolution": options.resolution,
        "n_modules": options.n_modules,
        "self_edges": options.self_edges,
        "algorithm": options.algorithm,
        "n_runs": options.n_runs,
        "seed": options.seed,
        "significance": not options.no_significance,
    }
    if options.weighting is not None:
        given["weighting"] = options.weighting
    if options.bootstrap is None:
        return find_modules(graph, options.strength, **given)
    return bootstrap(graph, options.strength, n_samples=options.bootstrap, **given)


_NAMED = 8  # mixtures and hubs that are named


def _mixed(partition: Partition, graph: InteractionGraph) -> list[str]:
    """Mixtures and hubs, the strongest by name."""
    found = partition.mixtures()
    if not found:
        return []
    strength = graph.node_strength(partition.strength or None)
    found.sort(key=lambda m: -strength[graph.offsets[m.layer] + m.feature])
    n_hubs = sum(mixture.kind == "hub" for mixture in found)
    lines = [
        f"features of more than one module: {len(found) - n_hubs} mixtures, {n_hubs} hubs"
        + (f"; the {_NAMED} strongest:" if len(found) > _NAMED else ":")
    ]
    for mixture in found[:_NAMED]:
        modules = zip(mixture.modules, mixture.shares, strict=True)
        shares = ", ".join(f"module {module} {share:.0%}" for module, share in modules)
        label = graph.labels[mixture.layer][mixture.feature]
        lines.append(f"  {mixture.kind} {mixture.layer}/{mixture.feature} ({label}): {shares}")
    return lines


def _evidence(partition: Partition, number: int) -> str:
    """The last columns of a module's row: its z, and its p for all modules together."""
    z, p = partition.module_z_scores[number], partition.module_p_values[number]
    return f"  {'untested':>16}" if math.isnan(p) else f"  {z:>6.1f}  {p:>8.2g}"


def describe(partition: Partition, graph: InteractionGraph) -> str:
    """A few lines about a partition, honest where there is nothing to find."""
    lines = [partition.summary()]
    sizes = [{layer: len(f) for layer, f in module.items()} for module in partition.modules]
    width = max((len(layer) for layer in graph.layers), default=5)
    tested = len(partition.module_p_values) > 0
    if sizes:
        names = "  ".join(f"{layer:>{max(width, 5)}}" for layer in graph.layers)
        evidence = f"  {'z':>6}  {'p':>8}" if tested else ""
        lines.append("module  features  " + names + evidence)
    for number, size in enumerate(sizes[:30]):
        row = "  ".join(f"{size.get(layer, 0):>{max(width, 5)}}" for layer in graph.layers)
        evidence = _evidence(partition, number) if tested else ""
        lines.append(f"{number:>6}  {sum(size.values()):>8}  {row}{evidence}")
    if len(sizes) > 30:
        lines.append(f"... and {len(sizes) - 30} smaller ones")
    isolated = sum(int((m < 0).sum()) for m in partition.membership.values())
    doubtful = sum(map(len, partition.details.get("uncertain", {}).values()))
    if doubtful:
        lines.append(
            f"features that are with their module in less than half of the samples: {doubtful}"
        )
    lines += _mixed(partition, graph)
    lines += [f"note: {note}" for note in partition.notes]
    if isolated:
        lines.append(f"features without edges, which belong to no module: {isolated}")
    return "\n".join(lines)
