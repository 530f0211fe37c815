"""What held-out edges and held-out samples say of modules, as `find_modules` asks it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from ..graph import InteractionGraph
from ..notes import handful_of_samples, not_on_other_samples, of_one_group
from ..sparse import is_sparse
from . import constants
from .held_out_samples import held_out_samples_test
from .network import Network
from .partition import SIGNIFICANT, Partition, by_size
from .sample_support import ModuleSupport, sample_support
from .significance import (
    STANDARD_NORMAL,
    NullScores,
    held_out_test,
    held_out_tests,
    spectral_null_scores,
)

__all__ = ["edge_evidence", "sample_evidence"]

_UNTESTED = (
    "significance could not be tested: modules found without some of the edges hold none of these, "
    "as where a layer has hardly more features than there are modules"
)

_SPARSE_SKIPS = (
    "significance is not known: along skip connections the test is held against networks of the "
    "same spectrum, for which the blocks of this graph are too large"
)
_SPARSE = "modules of graphs with sparse blocks are tested together, not one by one"


def edge_evidence(
    network: Network, labels: np.ndarray, resolution: float, passing: bool, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tests a partition and each of its modules on held-out edges.

    Args:
        network: strengths, not weighted yet.
        labels: module of each node, `[nodes]`.
        resolution: that the test finds modules with.
        passing: whether some blocks are of skip connections; the test is then held against networks
            of the same spectrum, where blocks are dense.
        seed: of folds and starts.

    Returns:
        Fields of the partition, and what goes to its details.
    """
    n_starts = 1 if passing else _n_starts(network)  # as surrogates have
    if any(is_sparse(block.weight) for block in network.blocks):
        test = held_out_test(network, resolution, n_starts=n_starts, seed=seed)
        told = {"untested_modules": _SPARSE}
        if passing:
            test, told["significance"] = test._replace(p_value=math.nan), _SPARSE_SKIPS
        elif math.isnan(test.p_value):
            told["significance"] = _UNTESTED
        return {"z_score": test.z_score, "p_value": test.p_value}, told
    labels = by_size(labels)
    z_scores = np.full(int(labels.max(initial=-1)) + 1, np.nan)
    if network.is_large:  # the smallest modules are tested together, as one that is not shown
        z_scores_of = slice(0, constants.MOST_TESTED)
        labels = np.minimum(labels, constants.MOST_TESTED)
    else:
        z_scores_of = slice(None)
    test, modules = held_out_tests(network, labels, resolution, n_starts=n_starts, seed=seed)
    details: dict[str, Any] = {}
    null = STANDARD_NORMAL
    if passing:
        n_surrogates = 1 if network.is_large else constants.SURROGATES
        null = spectral_null_scores(
            network, resolution, n_surrogates=n_surrogates, n_starts=n_starts, seed=seed
        )
        details["spectral_null"] = {
            "z_score": test.z_score, "shift": null.mean, "spread": math.sqrt(null.variance),
            "n": null.n,
        }  # fmt: skip
        test = null.test(test.z_score)
    z_scores[z_scores_of] = modules.z_scores(null.mean, null.variance)[z_scores_of]
    if math.isnan(test.p_value):
        details["significance"] = _UNTESTED
    names = list(network.n_features)
    narrow = [
        f"{names[block.source]} -> {names[block.target]}"
        for block in network.blocks
        if (block.source, block.target) not in modules.tested
    ]
    if narrow:
        details["untested_pairs"] = narrow
    fields = {"z_score": test.z_score, "p_value": test.p_value, "module_z_scores": z_scores}
    return fields, details


def sample_evidence(
    partition: Partition,
    graph: InteractionGraph,
    network: Network,
    resolution: float,
    self_edges: str,
) -> Partition:
    """The partition with what the samples say for and against its modules.

    Args:
        partition: of the graph, tested on held-out edges.
        graph: the graph; its folds are held out where it has some.
        network: its strengths.
        resolution: that the test finds modules with.
        self_edges: see `find_modules`.

    Returns:
        `details["held_out_samples"]` holds the test on folds, where blocks are dense,
        `details["notes"]` what is doubtful.
    """
    strength = partition.strength or None
    details: dict[str, Any] = {}
    null = _null_of(partition)
    if len(graph.folds) > 1 and not any(is_sparse(block.weight) for block in network.blocks):
        test = held_out_samples_test(
            graph.folds, strength, resolution, self_edges=self_edges,
            n_starts=_n_starts(network) if null.n == 0 else 1, seed=partition.seed, null=null,
        )  # fmt: skip
        details["held_out_samples"] = test._asdict()
    support = sample_support(graph, partition, strength)
    if notes := _notes(partition, support, details.get("held_out_samples")):
        details["notes"] = notes
    return replace(partition, details={**partition.details, **details})


def _null_of(partition: Partition) -> NullScores:
    """What the test on held-out edges was held against."""
    found = partition.details.get("spectral_null")
    if found is None:
        return STANDARD_NORMAL
    return NullScores(found["shift"], found["spread"] ** 2, found["n"])


def _n_starts(network: Network) -> int:
    return 1 if network.is_large else 4


def _notes(
    partition: Partition, support: list[ModuleSupport], samples: dict[str, float] | None
) -> list[str]:
    """What the samples say against the modules."""
    found = []
    n_modules = partition.n_modules
    if handful := [each.module for each in support if each.is_handful]:
        found.append(handful_of_samples(handful, n_modules))
    of_group = {each.module: each.group.part for each in support if each.is_of_group and each.group}
    if of_group:
        groups = list(dict.fromkeys(of_group.values()))
        found.append(of_one_group(list(of_group), groups, n_modules))
    if samples is not None and partition.significant and not samples["p_value"] <= SIGNIFICANT:
        found.append(not_on_other_samples(samples["p_value"]))
    return found
