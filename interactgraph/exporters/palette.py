"""Colours of modules."""

from __future__ import annotations

import colorsys

import numpy as np

__all__ = ["ISOLATED", "module_colour", "module_colours"]

Colour = tuple[int, int, int]

ISOLATED: Colour = (153, 153, 153)

# Okabe and Ito's colours, which people with any colour vision can tell apart (without black, for
# dark backgrounds, and ordered so that the largest modules differ most).
_FIRST: tuple[Colour, ...] = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (213, 94, 0),
    (86, 180, 233),
    (204, 121, 167),
    (240, 228, 66),
)
_GOLDEN = (5**0.5 - 1) / 2
_START = 0.42  # the hue that keeps the next ones farthest from the fixed colours and from grey
_TONES = ((0.40, 0.75), (0.62, 0.60), (0.30, 0.55), (0.72, 0.80))  # lightness, saturation


def module_colour(module: int) -> Colour:
    """Red, green and blue (0 to 255) of a module; grey for -1, features in no module.

    Past the fixed palette the hue turns by the golden angle, which keeps any number of successive
    hues far apart, and the lightness changes with every step.
    """
    if module < 0:
        return ISOLATED
    if module < len(_FIRST):
        return _FIRST[module]
    step = module - len(_FIRST)
    lightness, saturation = _TONES[step % len(_TONES)]
    red, green, blue = colorsys.hls_to_rgb((_START + step * _GOLDEN) % 1, lightness, saturation)
    return round(255 * red), round(255 * green), round(255 * blue)


def module_colours(modules: np.ndarray) -> np.ndarray:
    """`module_colour` of each of many modules, int64 `[nodes, 3]`."""
    numbers, inverse = np.unique(modules, return_inverse=True)
    colours = [module_colour(number) for number in numbers.tolist()]
    return np.array(colours, dtype=np.int64).reshape(-1, 3)[inverse]
