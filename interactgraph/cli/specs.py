"""MODEL and DATA on the command line: where an object is defined."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import InteractGraphError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["load_data", "load_model", "load_object"]


def load_object(spec: str, what: str) -> Any:
    """The object that `path/to/file.py:name` or `package.module:name` names.

    Args:
        spec: where it is.
        what: what it is for, for messages.

    Raises:
        InteractGraphError: the file, module or name does not exist, or fails when imported.
    """
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name:
        raise InteractGraphError(
            f"{what} {spec!r} is not of the form path/to/file.py:name or package.module:name"
        )
    module = _import(place, what)
    target: Any = module
    for part in name.split("."):
        if not hasattr(target, part):
            public = [n for n in vars(module) if not n.startswith("_")][:15]
            raise InteractGraphError(
                f"{what}: {place} has no {name!r}; it defines {', '.join(public) or 'nothing'}"
            )
        target = getattr(target, part)
    return target


def _import(place: str, what: str) -> ModuleType:
    try:
        if not place.endswith(".py"):
            if (working_folder := str(Path.cwd())) not in sys.path:
                sys.path.insert(0, working_folder)
            return importlib.import_module(place)
        path = Path(place).resolve()
        if not path.is_file():
            raise InteractGraphError(f"{what}: there is no file {place}")
        # A name of its own, so that MODEL and DATA of one file share it, and no package is hidden.
        name = f"_interactgraph_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
        if name in sys.modules:
            return sys.modules[name]
        if (folder := str(path.parent)) not in sys.path:
            sys.path.insert(0, folder)
        description = importlib.util.spec_from_file_location(name, path)
        assert description is not None
        assert description.loader is not None
        module = importlib.util.module_from_spec(description)
        sys.modules[name] = module
        try:
            description.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module
    except InteractGraphError:
        raise
    except Exception as error:
        raise InteractGraphError(
            f"{what}: {place} cannot be imported: {type(error).__name__}: {error}"
        ) from error


def _made(spec: str, what: str) -> Any:
    """The object itself, or what a function without arguments returns."""
    from torch import nn

    made = load_object(spec, what)
    if callable(made) and not isinstance(made, nn.Module):
        try:
            return made()
        except Exception as error:
            raise InteractGraphError(
                f"{what}: calling {spec} without arguments failed: {type(error).__name__}: {error}"
            ) from error
    return made


def load_model(spec: str) -> nn.Module:
    """The network that MODEL names; a `.pt2` file is a program saved by `torch.export.save`.

    Raises:
        InteractGraphError: it cannot be loaded or is no module.
    """
    import torch
    from torch import nn

    if spec.endswith(".pt2"):
        if not Path(spec).is_file():
            raise InteractGraphError(f"MODEL: there is no file {spec}")
        try:
            return torch.export.unflatten(torch.export.load(spec))
        except Exception as error:
            raise InteractGraphError(f"MODEL: {spec} is not a .pt2 program: {error}") from error
    model = _made(spec, "MODEL")
    if not isinstance(model, nn.Module):
        raise InteractGraphError(
            f"MODEL {spec} is a {type(model).__name__}, not a torch.nn.Module or a function that "
            "returns one"
        )
    return model


def load_data(spec: str) -> Any:
    """The batches that DATA names.

    Raises:
        InteractGraphError: they cannot be loaded.
    """
    return _made(spec, "DATA")
