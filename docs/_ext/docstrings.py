"""Docstrings as they are written here: `name` links where it can, |x| is an absolute value.

A role without a name is a link to a documented object if there is one of that name in the module or
class at hand, and plain code otherwise. Types in signatures are found by where they are public.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

import public_api
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxRole

# What reStructuredText would take for markup: |x|, and *positions in a shape outside of code.
_CODE = re.compile(r"(``.*?``|`[^`]*`)", re.DOTALL)
_BAR = re.compile(r"\|")
_TRAILING = re.compile(r"(?<=\w)_(?=\W|$)")


class NameRole(SphinxRole):
    """`name` in a docstring."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """A reference that may fail, or code."""
        literal = nodes.literal(self.text, self.text)
        name = self.text.removeprefix("itg.").removesuffix("()")
        if not re.fullmatch(r"[A-Za-z_][\w.]*", name):
            return [literal], []
        reference = addnodes.pending_xref(
            "", literal, refdomain="py", reftype="obj", reftarget=name, may_fail=True,
            refdoc=self.env.docname,
        )  # fmt: skip
        for key in ("py:module", "py:class"):
            reference[key] = self.env.ref_context.get(key)
        return [reference], []


def escape(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escapes what is no markup here; fenced blocks become literal ones."""
    text = "\n".join(lines)
    text = re.sub(r"^( *)```\n(.*?)\n *```$", _fenced, text, flags=re.DOTALL | re.MULTILINE)
    parts = _CODE.split(text)
    parts[::2] = [_TRAILING.sub(r"\\_", _BAR.sub(r"\\|", part)) for part in parts[::2]]
    lines[:] = "".join(parts).split("\n")


def _fenced(match: re.Match[str]) -> str:
    indent, code = match[1], match[2]
    inside = "\n".join("    " + line for line in code.split("\n"))
    return f"{indent}::\n\n{inside}"


def resolve(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.TextElement
) -> nodes.Element | None:
    """Finds classes where they are public; leaves what is not ours, or may fail, as it is."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    domain = env.domains.python_domain
    for public in (_public_names().get(target), f"interactgraph.{target}"):
        if public in domain.objects:
            return domain.resolve_xref(
                env, node["refdoc"], app.builder, "obj", public, node, content
            )
    ours = target.startswith("interactgraph.") and not node.get("in_signature")
    return None if ours and not _is_internal(target) and not node.get("may_fail") else content


_found: dict[str, str] = {}


def _public_names() -> dict[str, str]:
    """Where an object is defined -> the name by which users know it."""
    if not _found:
        for public in reversed(public_api.documented_names()):
            module, _, name = public.rpartition(".")
            value = getattr(import_module(module), name)
            if hasattr(value, "__qualname__"):
                _found[f"{value.__module__}.{value.__qualname__}"] = public
    return _found


def _is_internal(target: str) -> bool:
    """Whether it names an object that exists and is not public, as types in signatures do."""
    module, _, name = target.rpartition(".")
    try:
        return hasattr(import_module(module), name)
    except ImportError:
        return False


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the role and the hooks."""
    app.add_role("name", NameRole())
    app.connect("autodoc-process-docstring", escape, priority=400)  # before napoleon
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
