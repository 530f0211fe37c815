"""What a feature means: the samples and positions at which it is most active."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Example", "Examples"]


class Example(NamedTuple):
    """One sample on which a feature is active.

    Attributes:
        value: of the feature there, where its absolute value is largest.
        sample: number of the sample, along the data.
        position: where in the sample.
        text: what the data say of it, such as a token with its neighbours; may be empty.
    """

    value: float
    sample: int
    position: int
    text: str

    def __str__(self) -> str:
        place = f"sample {self.sample}, position {self.position}"
        return f"{self.text} ({place})" if self.text else place


@dataclass(frozen=True, eq=False)
class Examples:
    """Of every feature of a layer, the samples on which its absolute value is largest.

    Attributes:
        values: `[k, features]`, largest absolute value first.
        samples: numbers of the samples, int64 `[k, features]`; -1 where there are no more.
        positions: where in the sample, int64 `[k, features]`.
        texts: (sample, position) -> what the data say of it.
    """

    values: Tensor
    samples: Tensor
    positions: Tensor
    texts: Mapping[tuple[int, int], str] = field(default_factory=dict)

    def of(self, feature: int) -> list[Example]:
        """The examples of one feature."""
        found = []
        for value, sample, position in zip(
            self.values[:, feature].tolist(), self.samples[:, feature].tolist(),
            self.positions[:, feature].tolist(), strict=True,
        ):  # fmt: skip
            if sample >= 0:
                text = self.texts.get((sample, position), "")
                found.append(Example(value, sample, position, text))
        return found

    def some(self, features: Tensor) -> Examples:
        """Those of some features only, without texts."""
        return Examples(
            self.values[:, features], self.samples[:, features], self.positions[:, features]
        )

    def state(self) -> tuple[list[Any], dict[str, Tensor]]:
        """As (JSON values, tensors), the inverse of `from_state`."""
        tensors = {"values": self.values, "samples": self.samples, "positions": self.positions}
        return [[*place, text] for place, text in self.texts.items()], tensors

    @staticmethod
    def from_state(texts: list[Any], tensors: Mapping[str, Tensor]) -> Examples:
        """Rebuilds what `state` gave."""
        named = {(int(sample), int(position)): str(text) for sample, position, text in texts}
        return Examples(tensors["values"], tensors["samples"], tensors["positions"], named)

    @staticmethod
    def joined(parts: list[Examples], k: int) -> Examples:
        """The k largest of several ones over other samples."""
        values = torch.cat([part.values for part in parts])
        by_feature = values.abs().mT.contiguous()  # sorted much faster so
        order = torch.argsort(by_feature, dim=1, descending=True, stable=True)[:, :k].mT
        texts = {place: text for part in parts for place, text in part.texts.items()}
        return Examples(
            values.gather(0, order),
            torch.cat([part.samples for part in parts]).gather(0, order),
            torch.cat([part.positions for part in parts]).gather(0, order),
            texts,
        )
