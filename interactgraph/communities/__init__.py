"""Modules: null models, search, confidence, significance, comparison."""

from .backbone import backbone
from .bootstrap import bootstrap, mean_graph
from .comparison import Comparison, Match, compare
from .confidence import co_assignment
from .hierarchy import ModuleNode, module_tree
from .mixtures import Mixture
from .mutual_information import adjusted_mutual_information, adjusted_rand_index
from .noise_aware import WEIGHTINGS
from .partition import Partition
from .partition_file import load_partition
from .resolution import Plateau, ResolutionProfile, resolution_profile
from .search import find_modules

__all__ = [
    "WEIGHTINGS",
    "Comparison",
    "Match",
    "Mixture",
    "ModuleNode",
    "Partition",
    "Plateau",
    "ResolutionProfile",
    "adjusted_mutual_information",
    "adjusted_rand_index",
    "backbone",
    "bootstrap",
    "co_assignment",
    "compare",
    "find_modules",
    "load_partition",
    "mean_graph",
    "module_tree",
    "resolution_profile",
]
