"""Skip connections: targets that are their source, and what the layers between them add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ..errors import InputError
from ..features import FeatureMap

__all__ = ["check_skips"]


def check_skips(
    activations: Mapping[str, Tensor],
    pairs: Sequence[tuple[str, str]],
    maps: Mapping[str, FeatureMap],
) -> None:
    """Stops where the source's activation cannot be taken off the target's.

    Args:
        activations: layer -> activation of the first samples.
        pairs: (source, target) layers.
        maps: layer -> feature map.

    Raises:
        InputError: activations of a pair have different shapes, or the target's features are no
            linear function of what is added.
    """
    for source, target in pairs:
        shapes = [tuple(activations[layer].shape) for layer in (source, target)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"skip='remove' takes the activation of {source!r} off that of {target!r}, and "
                f"they have shapes {shapes[0]} and {shapes[1]}; name pairs of layers with a skip "
                "connection from one to the other (pairs=...), or keep it"
            )
        if not maps[target].is_linear:
            raise InputError(
                f"skip='remove' leaves what is added to {source!r}, which the features of "
                f"{target!r} ({maps[target].kind}) do not read: they are no linear function of the "
                "activation. Take neurons or a basis there, or keep the skip connection"
            )
