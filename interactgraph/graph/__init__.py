"""The weighted graph: strengths, pruning, storage, views."""

from .comparison import PairComparison, compare
from .interaction_graph import Edges, InteractionGraph, Pair
from .storage import load
from .views import node_names

__all__ = [
    "Edges",
    "InteractionGraph",
    "Pair",
    "PairComparison",
    "compare",
    "load",
    "node_names",
]
