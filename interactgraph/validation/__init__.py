"""Does the graph matter to the model: ablate edges, measure what it still does."""

from .ablation import PairAblation
from .greedy import greedy_ranking
from .measures import MEASURES, Measure
from .required import EdgesRequired, ablation_curve, edges_required

__all__ = [
    # one layer pair with some of its edges
    "MEASURES",
    "EdgesRequired",
    "Measure",
    "PairAblation",
    # how many are needed
    "ablation_curve",
    "edges_required",
    "greedy_ranking",
]
