"""The samples that drive a feature's strongest edge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

__all__ = ["Driver", "Drivers"]


class Driver(NamedTuple):
    """One sample that contributes much to an edge.

    Attributes:
        sample: number of the sample, along the data.
        share: of what all samples contribute to the strength of the edge; not a number where the
            strength is signed or a maximum.
        text: what the data say of the sample; may be empty.
    """

    sample: int
    share: float
    text: str

    def __str__(self) -> str:
        place = f"sample {self.sample}"
        text = f"{self.text} ({place})" if self.text else place
        return text if self.share != self.share else f"{self.share:.0%} by {text}"


@dataclass(frozen=True, eq=False)
class Drivers:
    """Of every feature on one side of a pair its strongest edge, and the samples that drive it.

    What sample b contributes to an edge is X[b,i,j], the sum over its target positions of what the
    strength averages: A^2 of the root mean square, |A| of the mean absolute value.

    Attributes:
        partners: the feature at the other end of the edge, int64 `[features]`; -1 where there is
            none.
        samples: numbers of the samples that contribute most, int64 `[k, features]`; -1 where there
            are no more.
        shares: of what all samples contribute, `[k, features]`, largest first.
        texts: sample -> what the data say of it.
    """

    partners: Tensor
    samples: Tensor
    shares: Tensor
    texts: Mapping[int, str] = field(default_factory=dict)

    def of(self, feature: int) -> list[Driver]:
        """The samples that drive the strongest edge of one feature."""
        return [
            Driver(sample, share, self.texts.get(sample, ""))
            for sample, share in zip(
                self.samples[:, feature].tolist(), self.shares[:, feature].tolist(), strict=True
            )
            if sample >= 0
        ]

    def state(self) -> tuple[list[list[object]], dict[str, Tensor]]:
        """As (JSON values, tensors), the inverse of `from_state`."""
        tensors = {"partners": self.partners, "samples": self.samples, "shares": self.shares}
        return [[sample, text] for sample, text in self.texts.items()], tensors

    @staticmethod
    def from_state(texts: list[list[object]], tensors: Mapping[str, Tensor]) -> Drivers:
        """Rebuilds what `state` gave."""
        named = {int(str(sample)): str(text) for sample, text in texts}
        return Drivers(tensors["partners"], tensors["samples"], tensors["shares"], named)
