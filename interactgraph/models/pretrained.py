"""Pretrained transformers, by name or folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, ModelError, first_line
from .text import TextBatches

__all__ = ["Pretrained", "from_pretrained"]

_SHIFTED = ("camembert", "longformer", "mpnet", "roberta", "xlm-roberta")


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A transformer and its tokenizer.

    Attributes:
        model: the network, in eval mode.
        tokenizer: of its texts; None: it reads none.
    """

    model: nn.Module
    tokenizer: Any

    def batches(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 8,
        max_length: int | None = None,
        seed: int = 0,
    ) -> TextBatches:
        """Texts as batches for the model.

        An encoder-decoder model decodes the text that it encodes, shifted by one.

        Args:
            texts: one for each sample.
            batch_size: texts in a batch.
            max_length: tokens of a text that are read; None: as many as model and tokenizer take,
                but no more than 512.
            seed: of the order of the batches.

        Raises:
            ModelError: the model reads no text.
        """
        if self.tokenizer is None:
            raise ModelError(
                f"{type(self.model).__name__} comes without a tokenizer, so it reads no texts; "
                "give batches as the model takes them"
            )
        return TextBatches(
            texts, self.tokenizer, batch_size, max_length, seed, self._n_positions,
            self._with_decoder if self._has_decoder else None,
        )  # fmt: skip

    @property
    def _n_positions(self) -> int | None:
        """How many positions the model has, where its configuration says so."""
        config = getattr(self.model, "config", None)
        for key in ("max_position_embeddings", "n_positions"):
            number = getattr(config, key, None)
            if isinstance(number, int) and number > 0:
                # Those like RoBERTa number positions from behind the padding.
                shifted = getattr(config, "model_type", "") in _SHIFTED
                return number - 2 if shifted else number
        return None

    @property
    def _has_decoder(self) -> bool:
        return bool(getattr(getattr(self.model, "config", None), "is_encoder_decoder", False))

    def _with_decoder(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        config: Any = self.model.config
        start = config.decoder_start_token_id
        first = torch.full_like(batch["input_ids"][:, :1], 0 if start is None else start)
        decoder = torch.cat([first, batch["input_ids"][:, :-1]], 1)
        return {
            **batch,
            "decoder_input_ids": decoder,
            "decoder_attention_mask": batch["attention_mask"],
        }


def from_pretrained(name: str | os.PathLike[str], **options: Any) -> Pretrained:
    """A transformer of the Hugging Face hub, or of a folder that `save_pretrained` wrote.

    Weights are read in single precision, whatever they were saved in, and mixtures of experts
    compute expert by expert, so that everything can be differentiated forward.

    Args:
        name: on the hub (`sentence-transformers/all-MiniLM-L6-v2`), or a folder.
        options: of `transformers.AutoModel.from_pretrained`.

    Raises:
        InputError: `transformers` is not installed.
        ModelError: there is no such model, or it cannot be loaded.

    Example:
        >>> import interactgraph as itg
        >>> lm = itg.models.from_pretrained("gpt2")  # doctest: +SKIP
        >>> data = lm.batches(["The cat sat on the mat.", "It was raining."])  # doctest: +SKIP
        >>> graph = itg.interaction_graph(lm.model, data, "residual")  # doctest: +SKIP
    """
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            "models of Hugging Face need transformers: pip install 'interactgraph[hf]'"
        ) from error
    where = str(name)
    looks_like_folder = where.startswith((".", "/", "~")) or where.count("/") > 1
    if looks_like_folder and not Path(where).expanduser().is_dir():
        raise ModelError(f"there is no folder {where}")
    place = Path(where).expanduser()
    source = str(place) if place.is_dir() else where
    try:
        model = transformers.AutoModel.from_pretrained(
            source, **{"dtype": torch.float32, **options}
        )
    except Exception as error:
        raise ModelError(
            f"{where} cannot be loaded: {first_line(error)} (a name on the hub needs the network "
            "once; a folder needs config.json and weights)"
        ) from error
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    return Pretrained(model.eval(), _tokenizer(transformers, source))


def _tokenizer(transformers: Any, source: str) -> Any:
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    except Exception:  # a model of pictures, or a folder with the weights alone
        return None
    if getattr(tokenizer, "pad_token", None) is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
