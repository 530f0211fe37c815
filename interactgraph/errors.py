"""Errors and warnings that a user can act on."""

__all__ = [
    "DataError",
    "FileError",
    "InputError",
    "InteractGraphError",
    "InteractGraphWarning",
    "MissingFileError",
    "ModelError",
    "first_line",
]


class InteractGraphError(ValueError):
    """Something the user can mend: the message says what was asked, what was found, and how."""


class InputError(InteractGraphError):
    """An option, or a combination of options, makes no sense."""


class DataError(InteractGraphError):
    """The data, a batch, a mask or the groups cannot be used."""


class ModelError(InteractGraphError):
    """The model cannot be run, or a layer cannot be read or replaced."""


class FileError(InteractGraphError):
    """A file or folder cannot be read or written."""


class MissingFileError(FileError, FileNotFoundError):
    """A file is not there."""


class InteractGraphWarning(UserWarning):
    """A result is delivered, but the user should know something about it."""


def first_line(error: BaseException) -> str:
    """The first line of its message, or what kind of error it is."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
