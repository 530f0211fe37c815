"""`interactgraph codes`: clusters of samples by the affine piece of the network they are on."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..errors import InteractGraphError
from .options import add_model_and_data, add_seed_flag, group_names

if TYPE_CHECKING:
    import numpy as np

    from ..codes import Codes

__all__ = ["add", "execute"]


def add(commands: Any) -> argparse.ArgumentParser:
    """Adds the command's parser."""
    command: argparse.ArgumentParser = commands.add_parser(
        "codes",
        help="group samples by the gates that are open",
        description="Reads which gates (ReLU, GELU, SiLU, sigmoid, softplus) are open on every "
        "sample, clusters the samples by that, and writes one group for each sample, for --groups "
        "of build and run. Clusters of plain activations are the control.",
        epilog="examples:\n"
        "  interactgraph codes model.py:net data.py:loader --layers 1 3 --labels 1 -o codes.json\n"
        "  interactgraph build model.py:net data.py:loader --layers input 1 3 4 "
        "--groups codes.json\n"
        "DATA comes in the same order in both.",
    )
    add_model_and_data(command)
    command.add_argument("--layers", nargs="+", required=True, metavar="NAME",
                         help="activation functions, or what they receive")  # fmt: skip
    command.add_argument("-o", "--output", default="codes.json", metavar="FILE")
    command.add_argument("--gates", nargs="+", default=[], metavar="LAYER=GATE",
                         help="where the gate cannot be found: relu, gelu, ...")  # fmt: skip
    command.add_argument("--algorithm", default="kmeans",
                         choices=["kmeans", "agglomerative", "hdbscan"])  # fmt: skip
    command.add_argument("--n-clusters", type=int, help="default: 8; hdbscan finds it itself")
    command.add_argument("--min-cluster-size", type=int, help="of hdbscan (default: 5)")
    command.add_argument("--labels", metavar="KEY|PLACE|FILE.py:NAME",
                         help="of samples, to compare with")  # fmt: skip
    command.add_argument("--n-positions", type=int, default=6,
                         help="of each sequence, evenly spaced (default: 6)")  # fmt: skip
    command.add_argument("--skip-positions", type=int, default=100,
                         help="at the start of each sequence (default: 100)")  # fmt: skip
    command.add_argument("--position-mask", metavar="KEY", help="key of dict batches")
    command.add_argument("--forward", metavar="FILE.py:NAME", help="forward(model, batch)")
    command.add_argument("--no-progress", action="store_true", help="no progress bar")
    add_seed_flag(command)
    return command


def execute(options: argparse.Namespace) -> None:
    """Runs the command."""
    from ..codes import save_groups, spline_codes
    from ..codes.clusters import scikit_learn
    from .output import check_writable
    from .specs import load_model_and_data, load_object

    check_writable(options.output)
    if options.algorithm == "hdbscan" and options.n_clusters is not None:
        raise InteractGraphError(
            f"--n-clusters {options.n_clusters}: hdbscan finds the number of clusters itself; give "
            "--min-cluster-size"
        )
    scikit_learn()
    gates = dict(_gate(text) for text in options.gates)
    forward = None if options.forward is None else load_object(options.forward, "--forward")
    labels = None if options.labels is None else group_names(options.labels, "--labels")
    model, data = load_model_and_data(options)
    codes = spline_codes(
        model, data, options.layers, gates=gates, n_positions=options.n_positions,
        skip_positions=options.skip_positions, keep_activations=True, labels=labels,
        position_mask=options.position_mask, forward=forward, progress=not options.no_progress,
    )  # fmt: skip
    print(f"{codes.n_samples} samples, {len(codes)} observations")
    regions = {layer: _count(codes.regions(layer)) for layer in codes.layers}
    for layer, gate in codes.gates.items():
        print(f"  {layer}: {codes.sizes[layer]} gates ({gate}), {regions[layer]} regions")
    all_regions = _count(codes.regions())
    print(f"  all layers: {all_regions} regions")
    groups, scores = {}, {}
    n_clusters = 8 if options.n_clusters is None else options.n_clusters
    for of in ("codes", "activations"):
        clusters = codes.clusters(
            n_clusters, algorithm=options.algorithm, of=of,
            min_cluster_size=options.min_cluster_size, seed=options.seed,
        )  # fmt: skip
        groups[of] = codes.groups(clusters)
        scores[of] = _scores(codes, groups[of])
        shown = "".join(f", {name} {value:.3f}" for name, value in scores[of].items())
        print(f"{options.algorithm} of {of}: {len(set(groups[of]))} groups{shown}")
    save_groups(
        options.output, groups["codes"],
        {
            "gates": dict(codes.gates), "sizes": dict(codes.sizes), "n_observations": len(codes),
            "regions": {"layers": regions, "all": all_regions}, "algorithm": options.algorithm,
            "seed": options.seed, "scores": scores, "control": groups["activations"],
        },
    )  # fmt: skip
    print(f"wrote {options.output}")


def _gate(text: str) -> tuple[str, str]:
    layer, equals, gate = text.partition("=")
    if not equals:
        raise InteractGraphError(f"--gates {text!r} is not of the form LAYER=GATE")
    return layer, gate


def _count(regions: np.ndarray) -> int:
    return int(regions.max(initial=-1)) + 1


def _scores(codes: Codes, groups: list[str]) -> dict[str, float]:
    import numpy as np

    from ..codes import purity
    from ..communities import adjusted_rand_index

    if codes.labels is None:
        return {}
    return {
        "purity": purity(groups, codes.labels),
        "adjusted Rand index": float(
            adjusted_rand_index(np.asarray(groups), np.asarray(codes.labels))
        ),
    }
