"""Small models whose modules are known."""

from .modular_addition import ModularAddition, train_modular_addition
from .planted import PlantedModules, planted_modules
from .superposition import Superposition, sparse_features, superposition
from .two_digits import TwoDigits, two_digits

__all__ = [
    "ModularAddition",
    "PlantedModules",
    "Superposition",
    "TwoDigits",
    "planted_modules",
    "sparse_features",
    "superposition",
    "train_modular_addition",
    "two_digits",
]
