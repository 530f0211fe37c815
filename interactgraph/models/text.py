"""Texts as batches of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError, MissingFileError

__all__ = ["TextBatches", "read_texts"]

_CONTEXT = 6  # tokens on each side
_LONGEST = 512  # tokens of a text that are read without being asked for


def read_texts(path: str | Path) -> list[str]:
    """The lines of a text file that hold something, each a sample of its own.

    Raises:
        MissingFileError: there is no such file.
        DataError: it is no text in UTF-8, or empty.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"there is no text file {path}")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8: {error}") from error
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise DataError(f"{path} holds no text; every line that holds some is a sample")
    return texts


@dataclass(eq=False)
class TextBatches:
    """Texts as batches for a transformer: token numbers and attention mask.

    Texts of about the same length share a batch, so that little of it is padding, and the batches
    come in random order, so that the first ones are no special ones. Samples are numbered along
    the batches.

    Attributes:
        texts: one for each sample, as given.
        tokenizer: of `transformers`, or anything that is called in the same way.
        batch_size: texts in a batch.
        max_length: tokens of a text that are read; None: as many as tokenizer and model take, but
            no more than 512.
        seed: of the order of the batches.
        order: place in `texts` of every sample.
        n_positions: that the model has; None: nothing is known.
        complete: what turns a batch of the tokenizer into one of the model; None: it is one.
    """

    texts: Sequence[str]
    tokenizer: Any
    batch_size: int = 8
    max_length: int | None = None
    seed: int = 0
    n_positions: int | None = None
    complete: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
    order: list[int] = field(init=False)
    _ids: list[list[int]] = field(init=False)

    def __post_init__(self) -> None:
        if isinstance(self.texts, str):
            raise DataError("texts is one string; give a list of texts, one for each sample")
        if not self.texts:
            raise DataError("there are no texts")
        if self.batch_size < 1:
            raise DataError(f"batch_size={self.batch_size}; it must be at least 1")
        if self.max_length is None:
            told = getattr(self.tokenizer, "model_max_length", None)
            self.max_length = min(_LONGEST, told or _LONGEST, self.n_positions or _LONGEST)
        encoded = self.tokenizer(list(self.texts), truncation=True, max_length=self.max_length)
        ids = encoded["input_ids"]
        empty = [number for number, text in enumerate(ids) if not len(text)]
        if empty:
            raise DataError(f"text {empty[0]} ({self.texts[empty[0]]!r}) has no tokens")
        by_length = sorted(range(len(ids)), key=lambda number: (len(ids[number]), number))
        size = self.batch_size
        batches = [by_length[start : start + size] for start in range(0, len(by_length), size)]
        generator = torch.Generator().manual_seed(self.seed)
        shuffled = [batches[n] for n in torch.randperm(len(batches), generator=generator).tolist()]
        self.order = [number for batch in shuffled for number in batch]
        self._sizes = [len(batch) for batch in shuffled]
        self._ids = [ids[number] for number in self.order]

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        start = 0
        for size in self._sizes:
            yield self._batch(self._ids[start : start + size])
            start += size

    def _batch(self, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        longest = max(map(len, rows))
        ids = torch.zeros(len(rows), longest, dtype=torch.int64)
        mask = torch.zeros(len(rows), longest, dtype=torch.int64)
        pad = getattr(self.tokenizer, "pad_token_id", None)
        ids += pad or 0
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        batch = {"input_ids": ids, "attention_mask": mask}
        return batch if self.complete is None else self.complete(batch)

    def text(self, sample: int) -> str:
        """The text of a sample."""
        return self.texts[self.order[sample]]

    def tokens(self, sample: int) -> list[str]:
        """The tokens of a sample, as text."""
        ids = self._ids[sample]
        pieces = self.tokenizer.convert_ids_to_tokens(ids)
        return [
            self.tokenizer.decode([number]) if piece is None else str(piece)
            for number, piece in zip(ids, pieces, strict=True)
        ]

    def label(self, sample: int, position: int | None = None) -> str:
        """A sample in short: the token at a position, in brackets, between its neighbours."""
        if position is None:
            text = self.text(sample)
            return text if len(text) <= 80 else text[:79] + "…"
        ids = self._ids[sample]
        if not 0 <= position < len(ids):
            return self.label(sample)
        start, stop = max(0, position - _CONTEXT), position + 1 + _CONTEXT
        before, here, after = (
            self.tokenizer.decode(part)
            for part in (
                ids[start:position],
                ids[position : position + 1],
                ids[position + 1 : stop],
            )
        )
        text = f"{before} [{here.strip()}] {after}"
        return ("…" if start else "") + " ".join(text.split()) + ("…" if stop < len(ids) else "")
