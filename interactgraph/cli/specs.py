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
    import argparse

    from torch import nn

__all__ = ["load_model", "load_model_and_data", "load_object"]

_HUB = "hf:"  # what MODEL begins with for a transformer


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
    from torch import nn

    from ..models import load_model as load_program

    if spec.endswith(".pt2"):
        model: nn.Module = load_program(spec)
        return model
    model = _made(spec, "MODEL")
    if not isinstance(model, nn.Module):
        raise InteractGraphError(
            f"MODEL {spec} is a {type(model).__name__}, not a torch.nn.Module or a function that "
            "returns one"
        )
    return model


def load_model_and_data(options: argparse.Namespace) -> tuple[nn.Module, Any]:
    """What MODEL names, and the batches that DATA or --text name.

    Raises:
        InteractGraphError: they cannot be loaded, or do not go together.
    """
    from ..models import from_pretrained, read_texts

    pretrained = options.model.startswith(_HUB)
    if (options.data is None) is (options.text is None):
        raise InteractGraphError(
            "DATA is missing: give file.py:name or, for a transformer, --text FILE"
            if options.data is None
            else f"DATA {options.data} and --text {options.text} are both given; give one"
        )
    if options.text is not None and not pretrained:
        raise InteractGraphError(
            f"--text {options.text} needs a tokenizer, and MODEL {options.model} has none; give a "
            f"transformer, {_HUB}NAME_OR_FOLDER"
        )
    texts = None if options.text is None else read_texts(options.text)
    if not pretrained:
        return load_model(options.model), _made(options.data, "DATA")
    loaded = from_pretrained(options.model.removeprefix(_HUB))
    if texts is None:
        return loaded.model, _made(options.data, "DATA")
    data = loaded.batches(texts, batch_size=options.batch_size, max_length=options.max_length)
    return loaded.model, data
