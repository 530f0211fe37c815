"""Small models whose modules are known."""

from .modular_addition import ModularAddition, train_modular_addition
from .two_digits import TwoDigits, two_digits

__all__ = ["ModularAddition", "TwoDigits", "train_modular_addition", "two_digits"]
