"""Pages of the API, written from the names and groups in `interactgraph/__init__.pyi`.

They go to `docs/api/`, which git ignores, and are only rewritten where they change. A name that is
added to the package needs nothing here.
"""

from __future__ import annotations

import inspect
import re
import typing
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from sphinx.application import Sphinx

import interactgraph

_PARTS = "the parts"
_TOP = "interactgraph"
# Names of a part that are not in its `__all__` of functions and classes, but that users write.
_MODULES = ("notes",)


class Group(NamedTuple):
    """Public names under one heading."""

    title: str
    names: list[str]


def groups() -> list[Group]:
    """The groups of the package's names, in the order of the file."""
    found: list[Group] = []
    for line in Path(interactgraph.__file__).with_suffix(".pyi").read_text().splitlines():
        if line.startswith("# ") and not line.endswith("."):
            found.append(Group(line[2:], []))
        elif match := re.match(r"from \S+ import (\w+) as", line):
            found[-1].names.append(match[1])
    return [group for group in found if group.names]


def parts() -> list[ModuleType]:
    """The public packages."""
    names = next(group.names for group in groups() if group.title == _PARTS)
    return [import_module(f"{_TOP}.{name}") for name in (*names, *_MODULES)]


def documented_names() -> list[str]:
    """The full name of everything that has an entry, those of the package itself first."""
    top = [f"{_TOP}.{name}" for group in groups() if group.title != _PARTS for name in group.names]
    return top + [f"{part.__name__}.{name}" for part in parts() for name in _own(part)]


def _own(part: ModuleType) -> list[str]:
    """Names of a part that the package itself does not have."""
    top = {name for group in groups() for name in group.names}
    return [
        name
        for name in part.__all__
        if name not in top or getattr(part, name) is not getattr(interactgraph, name)
    ]


def _entry(module: ModuleType, name: str) -> str:
    value = getattr(module, name)
    full = f"{module.__name__}.{name}"
    if inspect.isclass(value):
        return f".. autoclass:: {full}\n   :members:\n   :show-inheritance:\n"
    if callable(value):
        return f".. autofunction:: {full}\n"
    return f".. py:data:: {full}\n\n   {_shown(value)}\n"


def _file_name(group: Group) -> str:
    return re.sub(r"[^a-z]+", "-", group.title).removeprefix("the-")


def _results(group: Group) -> list[str]:
    """Entries of classes that functions of the group return and that have none elsewhere."""
    found: dict[str, None] = {}
    for name in group.names:
        value = getattr(interactgraph, name)
        if inspect.isfunction(value):
            for each in _classes(_returned(value)):
                found[f"{each.__module__}.{each.__qualname__}"] = None
    known = {_home(name) for name in documented_names()}
    return [
        f".. autoclass:: {full}\n   :members:\n"
        for full in found
        if full.startswith(f"{_TOP}.") and full not in known
    ]


def _returned(function: Any) -> Any:
    """The annotation of what a function returns, where its module imports the names in it."""
    hint = function.__annotations__.get("return")
    try:
        return eval(hint, function.__globals__) if isinstance(hint, str) else hint
    except NameError:
        return None


def _home(public: str) -> str:
    module, _, name = public.rpartition(".")
    value = getattr(import_module(module), name)
    return f"{value.__module__}.{value.__qualname__}" if inspect.isclass(value) else public


def _classes(hint: Any) -> list[type]:
    """The classes in an annotation."""
    inside = [each for part in typing.get_args(hint) for each in _classes(part)]
    return [hint, *inside] if inspect.isclass(hint) and not typing.get_args(hint) else inside


def _shown(value: Any) -> str:
    """A constant in words."""
    if isinstance(value, dict) or hasattr(value, "keys"):
        value = tuple(value)
    if isinstance(value, (tuple, list)):
        return ", ".join(f"``{entry!r}``" for entry in value)
    return f"``{value!r}``"


def _page(title: str, *blocks: str) -> str:
    return "\n".join([title, "=" * len(title), "", *blocks])


def _part_page(part: ModuleType) -> str:
    name = part.__name__
    also = [each for each in part.__all__ if each not in _own(part)]
    listed = f"Also here: {', '.join(f':py:obj:`~{_TOP}.{each}`' for each in also)}.\n"
    return _page(
        name,
        f".. automodule:: {name}\n   :no-members:\n",
        *([listed] if also else []),
        *(_entry(part, each) for each in _own(part)),
    )


def pages() -> dict[str, str]:
    """File name -> reStructuredText."""
    written = {}
    own = [group for group in groups() if group.title != _PARTS]
    for group in own:
        title = group.title[0].upper() + group.title[1:]
        names = sorted(group.names, key=lambda name: name.lower() != "interaction_graph")
        entries = [_entry(interactgraph, name) for name in names]
        written[f"{_file_name(group)}.rst"] = _page(title, *entries, *_results(group))
    first = sorted(written, key=lambda name: not name.startswith("main-job"))
    for part in parts():
        written[f"{part.__name__}.rst"] = _part_page(part)
    packages = sorted(set(written) - set(first))
    toctree = "\n".join(
        f".. toctree::\n   :caption: {caption}\n   :maxdepth: 1\n\n   "
        + "\n   ".join(name.removesuffix(".rst") for name in names) + "\n"
        for caption, names in {"import interactgraph as itg": first, "Parts": packages}.items()
    )  # fmt: skip
    written["index.rst"] = _page(
        "API",
        "Everything that ``import interactgraph as itg`` gives, from the docstrings.\n",
        toctree,
    )
    return written


def write_pages(app: Sphinx) -> None:
    """Brings `docs/api` up to date."""
    folder = Path(app.srcdir) / "api"
    folder.mkdir(exist_ok=True)
    current = pages()
    for old in folder.glob("*.rst"):
        if old.name not in current:
            old.unlink()
    for name, text in current.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def setup(app: Sphinx) -> dict[str, bool]:
    """Writes the pages before they are read."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
