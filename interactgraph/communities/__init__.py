"""Modules: null models, search, agreement between runs, significance."""

from .mutual_information import adjusted_mutual_information, adjusted_rand_index
from .partition import Partition
from .partition_file import load_partition
from .search import find_modules
from .weighting import WEIGHTINGS

__all__ = [
    # finding modules
    "WEIGHTINGS",
    "Partition",
    # comparing two of them
    "adjusted_mutual_information",
    "adjusted_rand_index",
    "find_modules",
    "load_partition",
]
