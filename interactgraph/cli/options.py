"""Flags that several commands share; their names are the parameter names with dashes."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

from ..errors import InteractGraphError

if TYPE_CHECKING:
    from ..communities import Partition
    from ..graph import InteractionGraph

__all__ = [
    "add_build_flags",
    "add_group_flag",
    "add_module_flags",
    "add_pruning_flags",
    "build_graph",
    "find",
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


def add_build_flags(command: argparse.ArgumentParser) -> None:
    """MODEL, DATA and everything about how the graph is computed."""
    command.add_argument("model", metavar="MODEL", help="file.py:name, package.module:name or .pt2")
    command.add_argument("data", metavar="DATA", help="file.py:name or package.module:name")
    command.add_argument(
        "--layers", nargs="+", required=True, metavar="NAME",
        help="module names (their output), NAME.input, input, output; in order",
    )  # fmt: skip
    command.add_argument(
        "--pairs", nargs="+", metavar="SOURCE:TARGET", help="default: consecutive layers"
    )
    command.add_argument(
        "--method", default="integrated_gradients", metavar="NAME",
        help="integrated_gradients, gradient, ablation, shapley or captum.CLASS",
    )  # fmt: skip
    command.add_argument(
        "--baseline", nargs="+", default=["zero"], metavar="[LAYER=]zero|mean|FILE.py:NAME",
        help="zero, mean or a tensor, for all source layers or for one",
    )  # fmt: skip
    command.add_argument(
        "--features", nargs="+", default=["neurons"], metavar="[LAYER=]NAME|FILE.py:NAME",
        help="neurons, pca, lib, random_rotation, sparse_rotation or a feature map of your own, "
        "for all layers or for one",
    )  # fmt: skip
    command.add_argument(
        "--strengths", nargs="+", default=["rms"], choices=["rms", "mean_abs", "mean", "max"],
        help="the first one is the default weight",
    )  # fmt: skip
    command.add_argument("--n-steps", type=int, default=8, help="path nodes (default: 8)")
    command.add_argument(
        "--engine", default="auto", choices=["auto", "closed_form", "forward", "reverse"]
    )
    command.add_argument("--tolerance", type=float, help="largest completeness residual")
    command.add_argument("--sources", type=int, help="source features drawn for each sample")
    command.add_argument(
        "--sampling", default="importance", choices=["importance", "uniform", "signs"]
    )
    command.add_argument(
        "--target-error", type=float, metavar="SHARE",
        help="end when the error of the strongest edges is below this share of their strength",
    )  # fmt: skip
    command.add_argument(
        "--groups", metavar="KEY|PLACE|FILE.py:NAME",
        help="a graph for each group of samples, too: 1 for the labels of (x, y) batches",
    )  # fmt: skip
    command.add_argument("--folds", type=int, metavar="N", help="graphs of N parts of the data")
    command.add_argument("--position-mask", metavar="KEY", help="key of dict batches")
    command.add_argument("--forward", metavar="FILE.py:NAME", help="forward(model, batch)")
    command.add_argument("--labels", metavar="FILE.py:NAME", help="{layer: labels}")
    command.add_argument("--device", help="cpu, cuda, cuda:1, ...")
    command.add_argument("--dtype", choices=["float32", "float64", "bfloat16", "float16"])
    command.add_argument("--memory-budget", type=n_bytes, metavar="SIZE", help="such as 2GiB")
    command.add_argument("--checkpoint", metavar="DIR", help="save there how far it is; resume")
    command.add_argument("--checkpoint-seconds", type=float, default=60, metavar="N")
    command.add_argument("--no-progress", action="store_true", help="no progress bar")
    add_seed_flag(command)


def add_seed_flag(command: argparse.ArgumentParser) -> None:
    """The one number that decides everything random, unless it is there already."""
    if not any(action.dest == "seed" for action in command._actions):
        command.add_argument(
            "--seed", type=int, default=0, help="decides everything random (default: 0)"
        )


def build_graph(options: argparse.Namespace) -> InteractionGraph:
    """Loads MODEL and DATA and computes the graph."""
    import torch

    from ..features import NAMES
    from ..run import interaction_graph
    from .specs import load_data, load_model, load_object

    def one(spec: str | None, what: str) -> Any:
        return None if spec is None else load_object(spec, what)

    pairs = None
    if options.pairs:
        pairs = [split_pair(text) for text in options.pairs]
    labels = one(options.labels, "--labels")
    return interaction_graph(
        load_model(options.model),
        load_data(options.data),
        options.layers,
        pairs=pairs,
        features=_by_layer(options.features, "--features", tuple(NAMES)),
        method=_method(options.method),
        baseline=_by_layer(options.baseline, "--baseline", ("zero", "mean")),
        strengths=options.strengths,
        n_steps=options.n_steps,
        engine=options.engine,
        tolerance=options.tolerance,
        sources=options.sources,
        sampling=options.sampling,
        target_error=options.target_error,
        seed=options.seed,
        groups=_groups(options.groups),
        folds=options.folds,
        position_mask=options.position_mask,
        labels=labels() if callable(labels) else labels,
        forward=one(options.forward, "--forward"),
        device=options.device,
        dtype=getattr(torch, options.dtype) if options.dtype else None,
        memory_budget=options.memory_budget,
        checkpoint=options.checkpoint,
        checkpoint_seconds=options.checkpoint_seconds,
        progress=not options.no_progress,
    )


def _method(name: str) -> Any:
    """A method's name, or the captum class of `captum.CLASS`."""
    if not name.startswith("captum."):
        return name
    import captum.attr

    found = getattr(captum.attr, name.removeprefix("captum."), None)
    if found is None:
        raise InteractGraphError(f"--method {name}: captum.attr has no such class")
    return found


def _groups(text: str | None) -> Any:
    """A place in tuples, an object `FILE.py:NAME`, or a key of dict batches."""
    from .specs import load_object

    if text is None:
        return None
    if text.lstrip("-").isdigit():
        return int(text)
    return load_object(text, "--groups") if ":" in text else text


def split_pair(text: str) -> tuple[str, str]:
    """`SOURCE:TARGET` -> both."""
    source, colon, target = text.partition(":")
    if not colon:
        raise InteractGraphError(f"--pairs {text!r} is not of the form SOURCE:TARGET")
    return source, target


def _by_layer(entries: list[str], flag: str, words: tuple[str, ...]) -> Any:
    """`["zero"]` -> "zero"; `["fc1=mean", "fc2=zero"]` -> {"fc1": "mean", "fc2": "zero"}."""
    from .specs import load_object

    def value(text: str) -> Any:
        return text if text in words else load_object(text, flag)

    if len(entries) == 1 and "=" not in entries[0]:
        return value(entries[0])
    table = {}
    for entry in entries:
        layer, equals, text = entry.partition("=")
        if not equals:
            raise InteractGraphError(f"{flag}: several entries must be of the form LAYER=VALUE")
        table[layer] = value(text)
    return table


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


def describe(partition: Partition, graph: InteractionGraph) -> str:
    """A few lines about a partition, honest where there is nothing to find."""
    lines = [partition.summary()]
    sizes = [{layer: len(f) for layer, f in module.items()} for module in partition.modules]
    width = max((len(layer) for layer in graph.layers), default=5)
    if sizes:
        names = "  ".join(f"{layer:>{max(width, 5)}}" for layer in graph.layers)
        lines.append("module  features  " + names)
    for number, size in enumerate(sizes[:30]):
        row = "  ".join(f"{size.get(layer, 0):>{max(width, 5)}}" for layer in graph.layers)
        lines.append(f"{number:>6}  {sum(size.values()):>8}  {row}")
    if len(sizes) > 30:
        lines.append(f"... and {len(sizes) - 30} smaller ones")
    isolated = sum(int((m < 0).sum()) for m in partition.membership.values())
    doubtful = sum(map(len, partition.details.get("uncertain", {}).values()))
    if doubtful:
        lines.append(
            f"features that are with their module in less than half of the samples: {doubtful}"
        )
    if isolated:
        lines.append(f"features without edges, which belong to no module: {isolated}")
    return "\n".join(lines)
