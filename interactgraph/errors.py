"""Errors and warnings that a user can act on."""

__all__ = ["InteractGraphError", "InteractGraphWarning"]


class InteractGraphError(ValueError):
    """Something the user can mend: the message says what was asked, what was found, and how."""


class InteractGraphWarning(UserWarning):
    """A result is delivered, but the user should know something about it."""
