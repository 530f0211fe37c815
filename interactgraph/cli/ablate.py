"""`interactgraph ablate`: does the graph matter to the model?"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InteractGraphError
from .options import add_model_and_data, read_graph

if TYPE_CHECKING:
    from ..graph import InteractionGraph
    from ..validation import EdgesRequired

__all__ = ["add", "execute"]

_MEASURES = ["accuracy", "log_likelihood", "agreement", "log_agreement", "similarity"]
_EDGES, _MODULES = "edge_ablation.json", "module_ablation.json"  # in one folder, if one likes
_OF_EDGES = ("pairs", "ranking", "tolerance")
_OF_MODULES = ("ways", "layers", "n_controls", "seed", "n_sets")


def add(commands: Any) -> argparse.ArgumentParser:
    """Adds the command's parser."""
    command: argparse.ArgumentParser = commands.add_parser(
        "ablate",
        help="take edges or modules away and measure the model",
        description="Finds the fewest edges of each layer pair that keep the model's accuracy, or "
        "(--modules) what the model can no longer do without each module.",
        epilog="examples:\n"
        "  interactgraph ablate graph.safetensors model.py:net data.py:loader -o ablation\n"
        "  interactgraph ablate graph.safetensors model.py:net data.py:loader "
        "--modules modules.json\n"
        "DATA yields batches (input, labels); for others take --measure agreement, which compares\n"
        "with the intact model and needs no labels.",
    )
    command.add_argument("graph", metavar="GRAPH", help="a graph file")
    add_model_and_data(command)
    command.add_argument("--measure", default="accuracy", choices=_MEASURES)
    command.add_argument("--baseline", default="mean", choices=["mean", "zero"])
    command.add_argument("--position-mask", metavar="KEY", help="key of dict batches")
    command.add_argument("--forward", metavar="FILE.py:NAME", help="forward(model, batch)")
    command.add_argument("-o", "--output", metavar="DIR", help="write tables and a picture there")
    command.add_argument("--no-progress", action="store_true", help="no progress bar")
    edges = command.add_argument_group("edges")
    edges.add_argument("--pairs", nargs="+", metavar="SOURCE:TARGET", help="default: all")
    edges.add_argument("--ranking", help="a strength of the graph (default: its first), or greedy")
    edges.add_argument("--tolerance", type=float, help="how much may be lost (default: 0.001)")
    modules = command.add_argument_group("modules")
    modules.add_argument("--modules", metavar="FILE", help="what `interactgraph modules` wrote")
    modules.add_argument("--ways", nargs="+", choices=["features", "edges", "others"],
                         help="take away its features (default), its internal edges, or all "
                         "others' features")  # fmt: skip
    modules.add_argument("--layers", nargs="+", metavar="NAME", help="default: hidden layers")
    modules.add_argument("--n-controls", type=int, help="random sets to compare (default: 10)")
    modules.add_argument("--n-sets", type=int, help="random sets of features whose joint effects "
                         "the modules predict (default: 8; 0: none)")  # fmt: skip
    modules.add_argument("--seed", type=int, help="of the random sets (default: 0)")
    return command


def execute(options: argparse.Namespace) -> None:
    """Runs the command."""
    from .output import check_writable
    from .specs import load_model_and_data, load_object

    _check_options(options)
    folder = None if options.output is None else Path(options.output)
    if folder is not None:
        check_writable(folder / (_EDGES if options.modules is None else _MODULES))
    graph = read_graph(options.graph)
    model, data = load_model_and_data(options)
    given = {
        "model": model,
        "data": data,
        "forward": None if options.forward is None else load_object(options.forward, "--forward"),
        "baseline": options.baseline,
        "position_mask": options.position_mask,
        "progress": not options.no_progress,
    }
    if options.modules is None:
        _edges(graph, given, options, folder)
    else:
        _modules(graph, given, options, folder)


def _check_options(options: argparse.Namespace) -> None:
    """Stops where an option was given that the other kind of ablation has."""
    other = _OF_MODULES if options.modules is None else _OF_EDGES
    if found := list(_asked(options, *other)):
        names = ", ".join("--" + name.replace("_", "-") for name in found)
        what = "needs --modules" if options.modules is None else "is for edges, without --modules"
        raise InteractGraphError(f"{names} {what}; see interactgraph ablate --help")


def _asked(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Of some options, those that were given."""
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def _modules(
    graph: InteractionGraph, given: dict[str, Any], options: argparse.Namespace, folder: Path | None
) -> None:
    from ..communities import Partition
    from ..validation import ablate_modules, joint_effects

    partition = Partition.load(options.modules)
    ablation = ablate_modules(
        graph, partition, measures=options.measure,
        **_asked(options, "ways", "layers", "n_controls", "seed"), **given,
    )  # fmt: skip
    for effect in ablation:
        print(effect)
    if not ablation:
        print("no module has two features in these layers")
    if folder is not None:
        effects = [_without_nan(dataclasses.asdict(effect)) for effect in ablation]
        _write(folder / _MODULES, json.dumps(effects, allow_nan=False))
    if not ablation or options.n_sets == 0:
        return
    joint = joint_effects(graph, partition, **_asked(options, "layers", "seed", "n_sets"), **given)
    print(joint)
    if folder is not None:
        numbers = {
            name: getattr(joint, name) for name in ("score", "standard_error", "spread", "error")
        }
        numbers["control_errors"] = joint.control_errors.tolist()
        _write(folder / "joint_effects.json", json.dumps(_without_nan(numbers), allow_nan=False))


def _edges(
    graph: InteractionGraph, given: dict[str, Any], options: argparse.Namespace, folder: Path | None
) -> None:
    from ..validation import edges_required
    from .options import split_pair

    pairs = graph.pairs if not options.pairs else [split_pair(text) for text in options.pairs]
    curves = {}
    print(f"{'pair':<30} edges needed       of   intact     kept")
    for pair in pairs:
        curves[pair] = edges_required(
            graph, source=pair[0], target=pair[1], measure=options.measure,
            **_asked(options, "tolerance", "ranking"), **given,
        )  # fmt: skip
        one = curves[pair]
        print(
            f"{' -> '.join(pair):<30} {one.n_edges:>12} {one.kept.numel():>8} {one.intact:>8.4f} "
            f"{one.curve[one.n_edges]:>8.4f}",
            flush=True,
        )
    if folder is not None:
        table = [
            {"source": a, "target": b, "measure": options.measure, "tolerance": one.tolerance,
             "ranking": options.ranking or graph.strengths[0], "n_edges": one.n_edges,
             "intact": one.intact, "curve": list(one.curve.items())}
            for (a, b), one in curves.items()
        ]  # fmt: skip
        _write(folder / _EDGES, json.dumps(table))
        _picture(curves, options.measure, (folder / _EDGES).with_suffix(".png"))


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(path: Path, text: str) -> None:
    from ..files import replacing

    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"wrote {path}")


def _picture(found: dict[tuple[str, str], EdgesRequired], measure: str, path: Path) -> None:
    from ..report import draw_curves

    curves = {" -> ".join(pair): (one.curve, one.intact) for pair, one in found.items()}
    try:
        print(f"wrote {draw_curves(curves, path, x='edges kept', y=measure)}")
    except InteractGraphError as error:
        print(f"no picture: {error}")
