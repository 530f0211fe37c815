"""Small models whose modules or edges are known."""

from .attribution_graphs import PlantedAttributionGraph, planted_attribution_graph
from .compiled import COMPILED, CompiledProgram, compiled, compiled_program
from .independent_tasks import IndependentTasks, independent_tasks
from .modular_addition import (
    AdditionNetwork,
    ModularAddition,
    modular_addition,
    train_modular_addition,
)
from .planted import PlantedModules, planted_modules
from .simplex import SimplexModules, simplex_modules
from .superposition import Superposition, sparse_features, superposition
from .two_digits import TwoDigits, two_digits

__all__ = [
    "COMPILED",
    "AdditionNetwork",
    "CompiledProgram",
    "IndependentTasks",
    "ModularAddition",
    "PlantedAttributionGraph",
    "PlantedModules",
    "SimplexModules",
    "Superposition",
    "TwoDigits",
    "compiled",
    "compiled_program",
    "independent_tasks",
    "modular_addition",
    "planted_attribution_graph",
    "planted_modules",
    "simplex_modules",
    "sparse_features",
    "superposition",
    "train_modular_addition",
    "two_digits",
]
