"""Pictures of a graph."""

from .picture import draw, draw_curves

__all__ = ["draw", "draw_curves"]
