"""Data flows one way: a package imports from those above it in CONTRIBUTING's list only."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONTRIBUTING = ROOT / "CONTRIBUTING.md"


def ranks():
    """Package or module -> its row in the list; those of one row do not count as above."""
    text = CONTRIBUTING.read_text(encoding="utf-8")
    rows = text.split("| package |")[1].split("\n\n")[0].splitlines()[2:]
    names = [re.findall(r"`([\w./]+)`", row.split("|")[1]) for row in rows]
    return {name.removesuffix(".py").rstrip("/"): n for n, row in enumerate(names) for name in row}


def imports(path):
    """Parts of this library that a file imports."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            for name in names:
                yield [*base, *name.split(".")][1]


# `graph.plot()` and `partition.plot()` are where people look for them; they load the part that
# draws when they are called.
CALLED = {
    ("graph/interaction_graph.py", "report"),
    ("graph/interaction_graph.py", "communities"),  # a type
    ("communities/partition.py", "report"),
    ("communities/flow.py", "report"),
}


@pytest.mark.skipif(not CONTRIBUTING.exists(), reason="needs CONTRIBUTING.md")
def test_imports_go_up_the_list():
    rank, wrong = ranks(), []
    for path in (ROOT / "interactgraph").rglob("*.py"):
        part = path.relative_to(ROOT / "interactgraph").with_suffix("").parts[0]
        if part in ("__init__", "__main__"):
            continue
        assert part in rank, f"{part} is not in the list"
        for name in imports(path):
            inside = path.relative_to(ROOT / "interactgraph").as_posix()
            if name in rank and rank[name] > rank[part] and (inside, name) not in CALLED:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong
