"""What removing a module costs: two-task networks, own task against the other, random controls.

    python benchmarks/removal.py

Trains the two-digits network with several seeds, finds modules with the demo's settings, sets the
hidden features of each of the two largest modules to their mean and measures both answers.
"""

from __future__ import annotations

import numpy as np
import torch
from page import write

import interactgraph as itg
from interactgraph.validation import ablate_modules
from interactgraph.zoo import two_digits

SEEDS = range(5)
RESOLUTION = 0.5


def right(half: int):
    """Whether the answer of one half is right."""

    def measure(output, batch, intact):
        return (output[:, 10 * half : 10 * half + 10].argmax(1) == batch[1][:, half]).float()

    return measure


def main() -> None:
    """Measures and writes."""
    torch.set_num_threads(1)
    measures = {"left": right(0), "right": right(1)}
    own, other, control_own, control_other, ratios, strengths = [], [], [], [], [], []
    for seed in SEEDS:
        task = two_digits(seed)
        graph = itg.interaction_graph(task.model, task.images, task.layers, progress=False)
        partition = itg.find_modules(graph, resolution=RESOLUTION, seed=seed)
        data = [(task.images, task.answers)]
        effects = ablate_modules(
            graph, partition, task.model, data, measures=measures, n_controls=20, seed=seed,
            progress=False,
        )  # fmt: skip
        for effect in effects[:2]:
            falls = effect.effect["features"]
            mine = max(falls, key=falls.get)
            theirs = "right" if mine == "left" else "left"
            own.append(falls[mine])
            other.append(falls[theirs])
            ratios.append(falls[mine] / max(falls[theirs], 1 / len(task.images)))
            strengths.append(effect.control_strength)
            control = effect.control["features"]
            control_own += control[mine]
            control_other += control[theirs]
            print(f"seed {seed}, module {effect.module}, {dict(effect.size)}: {mine} falls by "
                  f"{falls[mine]:.3f}, {theirs} by {falls[theirs]:.3f}; random sets "
                  f"{np.mean(control[mine]):.3f} and {np.mean(control[theirs]):.3f}")  # fmt: skip

    def spread(values: list[float]) -> str:
        return f"{np.mean(values):.3f} +- {np.std(values):.3f}"

    pairs = np.array(control_own), np.array(control_other)
    worst = np.maximum(*pairs) / np.maximum(np.minimum(*pairs), 1 / 2000)
    lines = [
        f"### Removing a module of the two-digits network ({len(SEEDS)} seeds, two largest "
        "modules each)",
        "",
        "| what is removed | accuracy lost, own task | accuracy lost, other task | ratio, "
        "median (lowest, highest) |",
        "| --- | --- | --- | --- |",
        f"| the module's hidden features | {spread(own)} | {spread(other)} | "
        f"{np.median(ratios):.0f} ({np.min(ratios):.1f}, {np.max(ratios):.0f}) |",
        f"| random sets as large and {np.mean(strengths):.2f} times as strong (20 each) | "
        f"{spread(control_own)} | "
        f"{spread(control_other)} | {np.median(worst):.1f} ({np.min(worst):.1f}, "
        f"{np.max(worst):.0f}), larger by smaller |",
        "",
    ]
    write("removal", lines)


if __name__ == "__main__":
    main()
