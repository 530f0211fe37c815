"""Texts as batches of tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interactgraph import DataError, MissingFileError
from interactgraph.models import TextBatches, read_texts


class Words:
    """A tokenizer of words: the number of a word is 1 + its length."""

    model_max_length = 9
    pad_token_id = 0

    def __call__(self, texts, truncation, max_length):
        assert truncation
        return {
            "input_ids": [[1 + len(word) for word in text.split()][:max_length] for text in texts]
        }

    def convert_ids_to_tokens(self, ids):
        return ["x" * (number - 1) for number in ids]

    def decode(self, ids):
        return " ".join(self.convert_ids_to_tokens(ids))


texts = st.lists(
    st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=12).map(" ".join),
    min_size=1, max_size=20,
)  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(texts, st.integers(1, 7), st.integers(0, 3))
def test_every_text_once_with_little_padding(given_texts, batch_size, seed):
    batches = TextBatches(given_texts, Words(), batch_size, seed=seed)
    seen = []
    for batch in batches:
        assert set(batch) == {"input_ids", "attention_mask"}
        assert batch["attention_mask"].sum(1).max() == batch["input_ids"].shape[1]  # trimmed
        assert bool(((batch["input_ids"] > 0) == (batch["attention_mask"] == 1)).all())
        assert len(batch["input_ids"]) <= batch_size
        seen += [row[row > 0].tolist() for row in batch["input_ids"]]
    assert len(batches) == -(-len(given_texts) // batch_size)
    assert sorted(batches.order) == list(range(len(given_texts)))
    for sample, ids in enumerate(seen):
        expected = [1 + len(word) for word in given_texts[batches.order[sample]].split()][:9]
        assert ids == expected
        assert batches.text(sample) == given_texts[batches.order[sample]]
        assert len(batches.tokens(sample)) == len(ids)
    again = TextBatches(given_texts, Words(), batch_size, seed=seed)
    assert again.order == batches.order


def test_labels_show_the_token_between_its_neighbours():
    batches = TextBatches(["a bb ccc dddd"], Words())
    assert batches.label(0, 1) == "x [xx] xxx xxxx"
    assert batches.label(0) == "a bb ccc dddd"
    assert batches.label(0, 99) == batches.label(0)


def test_an_encoder_decoder_gets_more():
    batches = TextBatches(
        ["a bb"], Words(), complete=lambda batch: {**batch, "more": torch.ones(1)}
    )
    assert set(next(iter(batches))) == {"input_ids", "attention_mask", "more"}


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ("one string", {}, "texts is one string"),
        ([], {}, "there are no texts"),
        (["a", " "], {}, "text 1 .* has no tokens"),
        (["a"], {"batch_size": 0}, "batch_size=0"),
    ],
)
def test_bad_texts(texts, options, message):
    with pytest.raises(DataError, match=message):
        TextBatches(texts, Words(), **options)


def test_files(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("\ufeffone\n\n  two  \r\nthree", encoding="utf-8")
    assert read_texts(path) == ["one", "two", "three"]
    with pytest.raises(MissingFileError, match="no text file"):
        read_texts(tmp_path / "other.txt")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="no text in UTF-8"):
        read_texts(path)
    path.write_text("\n \n")
    with pytest.raises(DataError, match="holds no text"):
        read_texts(path)
