"""Small models whose modules are known."""

from .modular_addition import ModularAddition, train_modular_addition
from .planted import PlantedModules, planted_modules
from .two_digits import TwoDigits, two_digits

__all__ = [
    "ModularAddition",
    "PlantedModules",
    "TwoDigits",
    "planted_modules",
    "train_modular_addition",
    "two_digits",
]
