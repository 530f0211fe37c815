"""Group and fold of every sample: what averages are kept apart by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import DataError
from ..notes import names_left_over
from .accumulator import Key
from .options import Options

__all__ = ["SampleKeys", "names_in_order"]


@dataclass(frozen=True, eq=False)
class SampleKeys:
    """Reads the keys of samples off batches.

    Attributes:
        options: of the run, which say what groups and folds there are.
    """

    options: Options

    @property
    def any(self) -> bool:
        """Whether samples are kept apart at all."""
        return self.options.groups is not None or self.options.folds is not None

    def of(self, batch: Any, n_samples: int, offset: int) -> list[Key] | None:
        """Group and fold of each sample of a batch; None: they are not kept apart.

        Args:
            batch: the batch.
            n_samples: in it.
            offset: samples before it in this pass.

        Raises:
            DataError: there is not one name or number for each sample.
        """
        if not self.any:
            return None
        n_folds = self.options.folds
        names: list[Any] = [None] * n_samples
        if self.options.groups is not None:
            names = names_in_order(self.options.groups, batch, n_samples, offset)
        folds = [(offset + n) % n_folds if n_folds else None for n in range(n_samples)]
        return list(zip(names, folds, strict=True))

    def left_over(self, n_samples: int) -> Iterator[str]:
        """A note where more or fewer names were given than there are samples."""
        groups = self.options.groups
        if self.options.groups_in_order and len(groups) != n_samples:
            yield names_left_over(len(groups), n_samples)


def names_in_order(
    groups: Any, batch: Any, n_samples: int, offset: int, what: str = "groups"
) -> list[str]:
    """The name of each sample of a batch.

    Args:
        groups: one for each sample of the data, a function of the batch, a key of dict batches or
            a place in tuples.
        batch: the batch.
        n_samples: in it.
        offset: samples before it in this pass.
        what: the option is called, for messages.

    Raises:
        DataError: there is not one name or number for each sample.
    """
    found: Any
    if callable(groups):
        found, where = groups(batch), f"{what} gives"
    elif isinstance(groups, (str, int)):
        kind = Mapping if isinstance(groups, str) else (tuple, list)
        try:
            found = batch[groups] if isinstance(batch, kind) else None  # type: ignore[index]
        except (KeyError, IndexError):
            found = None
        where = f"{what}={groups!r} of a batch holds"
        if found is None:
            raise DataError(
                f"{what}={groups!r} is in no {type(batch).__name__} batch; give a key of "
                "dict batches, a place in tuples, a function of the batch, or one name for "
                "each sample"
            )
    else:
        found = groups[offset : offset + n_samples]
        where = f"{what} names {len(groups)} samples; from {offset} on it has"
    values = found.tolist() if hasattr(found, "tolist") else found
    several = isinstance(values, Iterable) and not isinstance(values, (str, Mapping))
    values = list(values) if several else [values]
    if len(values) != n_samples or any(isinstance(value, (list, tuple)) for value in values):
        raise DataError(
            f"{where} {len(values)} entries for {n_samples} samples; one name or number for "
            "each sample is needed"
        )
    return [str(value) for value in values]
