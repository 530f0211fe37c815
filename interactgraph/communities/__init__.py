"""Modules: null models, search, confidence, significance, comparison."""

from .auto_weighting import WEIGHTINGS
from .backbone import backbone
from .bootstrap import bootstrap
from .comparison import Comparison, Match, compare
from .confidence import co_assignment
from .flow import Band, ModuleFlow, module_flow
from .follow import FollowedModules, Joint, follow_modules
from .hierarchy import ModuleNode, module_tree
from .mean_graph import mean_graph
from .mixtures import Mixture
from .mutual_information import adjusted_mutual_information, adjusted_rand_index
from .partition import Partition
from .partition_file import load_partition
from .resolution import Plateau, ResolutionProfile, resolution_profile
from .sample_support import ModuleSupport, PartShare, sample_support
from .search import find_modules

__all__ = [
    "WEIGHTINGS",
    "Band",
    "Comparison",
    "FollowedModules",
    "Joint",
    "Match",
    "Mixture",
    "ModuleFlow",
    "ModuleNode",
    "ModuleSupport",
    "PartShare",
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
    "follow_modules",
    "load_partition",
    "mean_graph",
    "module_flow",
    "module_tree",
    "resolution_profile",
    "sample_support",
]
