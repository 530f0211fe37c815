"""Models as people have them: transformers by name or folder, texts as batches of tokens."""

from ..model import load_model
from .pretrained import Pretrained, from_pretrained
from .text import TextBatches, read_texts

__all__ = ["Pretrained", "TextBatches", "from_pretrained", "load_model", "read_texts"]
