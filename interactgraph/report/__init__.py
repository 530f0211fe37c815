"""Pictures and pages for people."""

from .ablation_file import AblationCurve, Curve, read_ablation
from .alluvial import plot_flow
from .axes import (
    plot_blocks,
    plot_curves,
    plot_graph,
    plot_modules,
    plot_profile,
    plot_strengths,
)
from .figures import strong_edge_error
from .page import MOST_EDGES, write_report
from .picture import draw, draw_curves

__all__ = [
    "MOST_EDGES",
    "AblationCurve",
    "Curve",
    "draw",
    "draw_curves",
    "plot_blocks",
    "plot_curves",
    "plot_flow",
    "plot_graph",
    "plot_modules",
    "plot_profile",
    "plot_strengths",
    "read_ablation",
    "strong_edge_error",
    "write_report",
]
