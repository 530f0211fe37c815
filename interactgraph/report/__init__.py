"""Pictures and pages for people."""

from .figures import strong_edge_error
from .page import MOST_EDGES, write_report
from .picture import draw, draw_curves

__all__ = ["MOST_EDGES", "draw", "draw_curves", "strong_edge_error", "write_report"]
