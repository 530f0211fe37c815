"""What taking a module away does, as a result to read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ..communities import Partition
from ..graph import InteractionGraph
from ..sparse import is_sparse, nonzero

__all__ = ["WORDS", "ModuleEffect", "share_inside", "specialisation", "strongest_features"]


@dataclass(frozen=True)
class ModuleEffect:
    """A module and what taking it away does.

    Attributes:
        module: its number in the partition.
        size: layer -> number of its features.
        strongest: layer -> labels of its strongest features.
        share_inside: share of the absolute weight of its features' edges that stays inside.
        max_activating_samples: numbers of the samples that move its features most, in data order.
        intact: measure -> mean over samples for the intact model.
        effect: way -> measure -> how much the measure drops.
        control: way -> measure -> drops for random sets of equal size and similar strength.
        control_strength: strength of these sets over that of the module, mean; NaN without any.
        by_class: way -> measure -> drop for each class of the samples; empty without labels.
        specialisation: way -> measure -> share of the class that suffers most in the drop over all
            classes (rises count as none): 1 where one class suffers alone, 1 / classes where all
            suffer alike.
    """

    module: int
    size: Mapping[str, int]
    strongest: Mapping[str, Sequence[str]]
    share_inside: float
    max_activating_samples: Sequence[int]
    intact: Mapping[str, float]
    effect: Mapping[str, Mapping[str, float]]
    control: Mapping[str, Mapping[str, Sequence[float]]]
    control_strength: float = math.nan
    by_class: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    specialisation: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __str__(self) -> str:
        sizes = ", ".join(f"{layer}: {n}" for layer, n in self.size.items() if n)
        lines = [
            f"module {self.module} ({sizes}), {self.share_inside:.0%} of its weight inside",
            *(
                f"  strongest in {layer}: {', '.join(labels)}"
                for layer, labels in self.strongest.items()
                if labels
            ),
            f"  moved most by samples {', '.join(map(str, self.max_activating_samples))}",
        ]
        for way, effects in self.effect.items():
            for name, drop in effects.items():
                text = f"  {WORDS[way]}: {name} {self.intact[name]:.4g} drops by {drop:.4g}"
                controls = self.control[way][name]
                if controls:
                    mean, spread = np.mean(controls), np.std(controls)
                    text += (
                        f" (random sets as large and {self.control_strength:.2g} times as strong: "
                        f"{mean:.4g} +- {spread:.2g})"
                    )
                classes = self.by_class.get(way, {}).get(name)
                if classes:
                    worst = max(classes, key=lambda label: classes[label])
                    share = self.specialisation[way][name]
                    text += (
                        f"; class {worst} suffers most ({classes[worst]:.3g}, share {share:.2f})"
                    )
                lines.append(text)
        return "\n".join(lines)


WORDS = {
    "features": "without it",
    "edges": "without its internal edges",
    "others": "with nothing but it",
}


def strongest_features(
    graph: InteractionGraph, partition: Partition, number: int
) -> dict[str, list[str]]:
    """Layer -> labels of the five strongest features of a module."""
    strength, offsets = graph.node_strength(), graph.offsets
    features = {}
    for layer, modules in partition.membership.items():
        members = np.flatnonzero(modules == number)
        order = members[np.argsort(-strength[members + offsets[layer]])][:5]
        features[layer] = [graph.labels[layer][j] for j in order]
    return features


def share_inside(graph: InteractionGraph, partition: Partition, number: int) -> float:
    """Share of the absolute weight of a module's edges that stays inside it."""
    inside = total = 0.0
    for source, target in graph.pairs:
        matrix = graph.weights(source, target)
        rows = torch.from_numpy(partition.membership[target] == number)
        columns = torch.from_numpy(partition.membership[source] == number)
        if is_sparse(matrix):
            i, j, values = nonzero(matrix)
            size, of_target, of_source = values.abs().double(), rows[i], columns[j]
            inside += float(size[of_target & of_source].sum())
            total += float(size[of_target | of_source].sum())
            continue
        weight = matrix.abs().double()
        both = float(weight[rows][:, columns].sum())
        inside += both
        total += float(weight[rows].sum()) + float(weight[:, columns].sum()) - both
    return inside / total if total else 0.0


def specialisation(drops: Mapping[str, float]) -> float:
    """Share of the class that suffers most in the drop over all classes."""
    clipped = np.clip(list(drops.values()), 0, None)
    return float(clipped.max() / clipped.sum()) if clipped.sum() > 0 else float("nan")
