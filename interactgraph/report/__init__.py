"""Pictures of a graph."""

from .picture import draw

__all__ = ["draw"]
