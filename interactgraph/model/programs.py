"""A model that is given by what it was saved as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import MissingFileError, ModelError

__all__ = ["load_model"]


def load_model(model: Any) -> Any:
    """The module of a `.pt2` file or of an exported program; anything else as it is.

    Args:
        model: the path of a program that `torch.export.save` wrote, an `ExportedProgram`, or a
            module.

    Raises:
        MissingFileError: there is no such file.
        ModelError: the file is no program, or a path that is none of `.pt2`.
    """
    if isinstance(model, (str, Path)):
        path = Path(model)
        if path.suffix != ".pt2":
            raise ModelError(
                f"the model is the text {str(model)!r}; give a torch.nn.Module, the path of a .pt2 "
                "program, or itg.models.from_pretrained(NAME).model"
            )
        if not path.is_file():
            raise MissingFileError(f"there is no file {path}")
        try:
            model = torch.export.load(path)
        except Exception as error:
            raise ModelError(f"{path} is not a .pt2 program: {error}") from error
    if isinstance(model, torch.export.ExportedProgram):
        module: nn.Module = torch.export.unflatten(model)
        return module
    return model
