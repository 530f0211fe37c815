"""Modules that are samples: features of a dictionary that fire in one sentence each."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

import interactgraph as itg
from interactgraph.communities import adjusted_mutual_information
from interactgraph.features import Dictionary
from interactgraph.zoo import planted_modules

from .recovery import table

SEEDS = range(4)
SENTENCES, OWN, POSITIONS = 12, 4, 6


def samples(cache: Path) -> str:
    rows = []
    for name, make in (("of sentences", sentences), ("planted", planted)):
        graphs = [make(seed) for seed in SEEDS]
        found = [_found(graph) for graph, _ in graphs]
        agreement = [
            adjusted_mutual_information(each.labels[truth >= 0], truth[truth >= 0])
            for each, (_, truth) in zip(found, graphs, strict=True)
        ]
        support = [
            one
            for each, (graph, _) in zip(found, graphs, strict=True)
            for one in itg.sample_support(graph, each)
        ]
        p = [each.details["held_out_samples"]["p_value"] for each in found]
        kept = sum(value <= 0.05 for value in p)
        told = sum(bool(each.notes) for each in found)
        rows.append([
            name, f"{np.mean(agreement):.2f}", f"{np.mean([each.z_score for each in found]):.1f}",
            f"{np.median([one.effective_samples for one in support]):.1f}",
            f"{np.mean([one.fold.features for one in support]):.0%}",
            f"{kept} of {len(p)}", f"{told} of {len(p)}",
        ])  # fmt: skip
    head = ["graphs", "AMI with what they are", "z, edges held out", "effective samples, median",
            "features of one fold", "p <= 0.05, samples held out", "said"]  # fmt: skip
    return (
        f"## Samples held out\n\n{SENTENCES} sentences of {POSITIONS} positions and dictionaries "
        f"whose features fire in one sentence each, {OWN} for each sentence and layer, beside "
        "planted modules that all samples use; graphs with 4 folds. Said: a note says that the "
        "modules are of a handful of samples, or do not hold on others.\n\n" + table(head, rows)
    )


def _found(graph: itg.InteractionGraph) -> itg.Partition:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return itg.find_modules(graph, n_runs=4)


def sentences(seed: int) -> tuple[itg.InteractionGraph, np.ndarray]:
    """A linear map between dictionaries; the sentence of each feature, -1 for errors."""
    torch.manual_seed(seed)
    n = SENTENCES * OWN
    owner = torch.arange(n) // OWN
    mix = torch.randn(n, n, dtype=torch.float64) / n**0.5
    within = (torch.rand(n, n, dtype=torch.float64) + 0.2) * (owner[:, None] == owner)
    model = nn.Sequential(nn.Identity(), nn.Linear(n, n, bias=False)).double()
    model[1].weight.data = mix
    x = torch.rand(SENTENCES, POSITIONS, n, dtype=torch.float64)
    x = x * (owner == torch.arange(SENTENCES)[:, None])[:, None]
    read, eye = within @ torch.linalg.inv(mix), torch.eye(n, dtype=torch.float64)
    dictionaries = {
        "0": Dictionary(encoder=eye, decoder=eye),
        "1": Dictionary(encoder=read, decoder=torch.linalg.inv(read)),
    }
    graph = itg.interaction_graph(
        model, [x], ["0", "1"], features=dictionaries, folds=4, progress=False
    )
    truth = np.append(owner.numpy(), -1)
    return graph, np.concatenate([truth, truth])


def planted(seed: int) -> tuple[itg.InteractionGraph, np.ndarray]:
    net = planted_modules(seed=seed, cross_talk=0.3, n_samples=256)
    graph = itg.interaction_graph(net.model, net.data, net.layers, folds=4, progress=False)
    return graph, np.concatenate([net.truth[layer] for layer in net.layers])
