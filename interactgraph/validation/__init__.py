"""Does the graph matter to the model: ablate edges, measure what it still does."""

from .ablation import PairAblation
from .greedy import greedy_ranking
from .joint_effects import JointEffects, joint_effects
from .measures import MEASURES, Measure
from .modules import ModuleEffect, ablate_modules
from .required import EdgesRequired, ablation_curve, edges_required

__all__ = [
    "MEASURES",
    "EdgesRequired",
    "JointEffects",
    "Measure",
    "ModuleEffect",
    "PairAblation",
    "ablate_modules",
    "ablation_curve",
    "edges_required",
    "greedy_ranking",
    "joint_effects",
]
