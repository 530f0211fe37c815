"""The weighted graph: strengths, pruning, storage, views."""

from .comparison import EdgeDifference, PairComparison, compare, differences
from .interaction_graph import Edges, InteractionGraph, Pair
from .storage import load
from .views import node_names

__all__ = [
    "EdgeDifference",
    "Edges",
    "InteractionGraph",
    "Pair",
    "PairComparison",
    "compare",
    "differences",
    "load",
    "node_names",
]
