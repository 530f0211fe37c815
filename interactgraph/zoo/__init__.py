"""Small models whose modules are known."""

from .two_digits import TwoDigits, two_digits

__all__ = ["TwoDigits", "two_digits"]
