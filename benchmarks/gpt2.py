"""A model of the size of GPT-2 small within a time budget: how large the errors are.

    python benchmarks/gpt2.py [--minutes 20] [--freeze] [--device cuda]

124 million random weights, all 11 pairs of the residual stream, 64 samples of 128 random tokens.
--freeze holds attention patterns and scales of normalisations at their values. Needs
`pip install 'interactgraph[hf]'`.
"""

from __future__ import annotations

import argparse
import resource
import time
import warnings

import page
import torch

import interactgraph as itg

SAMPLES, TOKENS, TOP = 64, 128, 100


def error_of_strongest(weight: torch.Tensor, error: torch.Tensor) -> float:
    """Relative standard error of the 100 strongest edges, median."""
    top = weight.flatten().topk(TOP).indices
    return float((error.flatten()[top] / weight.flatten()[top]).median())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--minutes", type=float, default=20)
    arguments.add_argument("--freeze", action="store_true")
    arguments.add_argument("--device", default="cpu")
    options = arguments.parse_args()
    from transformers import GPT2Config, GPT2Model

    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    model = GPT2Model(GPT2Config()).eval().to(options.device)
    tokens = torch.randint(0, 50_000, (SAMPLES, TOKENS), device=options.device)
    data = [{"input_ids": part} for part in tokens.split(8)]
    began = time.perf_counter()
    graph = itg.interaction_graph(
        model, data, "residual", freeze=("attention", "layernorm") if options.freeze else (),
        time_budget=60 * options.minutes,
    )  # fmt: skip
    took = time.perf_counter() - began
    all_of_it, beside, unknown = [], [], []
    for pair in graph.pairs:
        weight, error = graph.weights(*pair).cpu(), graph.standard_error(*pair).cpu()
        all_of_it.append(error_of_strongest(weight, error))
        off = ~torch.eye(len(weight), dtype=torch.bool)
        beside.append(error_of_strongest(weight[off], error[off]))
        unknown.append(float(torch.isinf(error).all(0).float().mean()))
    plans = graph.metadata["plans"]
    drawn = [
        plan.get("positions_per_sample") or plan.get("sources_per_sample") or 0 for plan in plans
    ]
    what = "target positions" if "positions_per_sample" in plans[0] else "source features"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    name = "held" if options.freeze else "moving"
    row = (
        f"| {name} | {options.device}, {torch.get_num_threads()} threads | "
        f"{options.minutes:g} min, {took:.0f} s | {graph.metadata['n_samples']} of {SAMPLES} | "
        f"{min(drawn):g} to {max(drawn):g} {what} | {min(all_of_it):.1%} to {max(all_of_it):.1%} | "
        f"{min(beside):.1%} to {max(beside):.1%} | {max(unknown):.0%} | {peak:.1f} GiB |"
    )
    nodes = [plan.get("n_steps_used", plan["n_steps"]) for plan in plans]
    missed = max(graph.completeness.values())
    print(f"path nodes {min(nodes)} to {max(nodes)}, completeness residual {missed:.2g} at most")
    rows = {line.split("|")[1].strip(): line for line in page.rows("gpt2")}
    rows[name] = row
    page.write("gpt2", [
        "## A model of the size of GPT-2 small",
        "",
        f"torch {torch.__version__}, by `python benchmarks/gpt2.py [--freeze]`: random weights, 11 "
        f"residual pairs of 768 features, {SAMPLES} samples of {TOKENS} tokens, within a time "
        f"budget. Errors are standard errors of the {TOP} strongest edges of a pair, median, "
        "samples included; the smallest and the largest of the pairs.",
        "",
        "| patterns and scales | machine | budget, time | samples | drawn on each | error | "
        "off the diagonal | features never drawn | peak memory |",
        "| --- |" + " --- |" * 8,
        *rows.values(),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
