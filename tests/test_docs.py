"""What README and manual show, runs: Python, commands, and the output that is printed with them.

A page's `python` blocks run in order in one namespace, those with `>>>` as doctests; lines of
`console` blocks that begin with `$ interactgraph` and of `bash` blocks that begin with
`interactgraph` go through the command line, in the same folder. What a page prints must come out
("..." stands for anything). A block whose first line names a file, as in "```python my_model.py",
becomes that file. Pages that need an extra say so in a comment: `<!-- needs: transformers -->`.
"""

import ast
import contextlib
import doctest
import io
import re
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from interactgraph.cli import main

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    *sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts),
]
LIKE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# How lines of `bash` blocks begin that are not run: they install, or need several processes.
SHELL = ("python -m venv ", ". .venv/", "pip install ", "torchrun ")


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        language: the first word behind the fence.
        file: the second one.
        text: what it holds.
        line: where it begins.
    """

    language: str
    file: str
    text: str
    line: int


def blocks_of(page):
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w+) ?(\S*)[^\n]*\n(.*?)^```$", text, re.M | re.S):
        yield Block(found[1], found[2], found[3], text[: found.start()].count("\n") + 1)


def name_of(page):
    return str(page.relative_to(ROOT))


class Page:
    """What runs a page's blocks."""

    def __init__(self, page):
        self.name = name_of(page)
        self.names = {"__name__": "__main__"}

    def run(self, block):
        if block.file:
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(block.text)
        elif block.language == "python" and ">>>" in block.text:
            self.doctest(block)
        elif block.language == "python":
            lines = "\n" * block.line + block.text  # so that errors name the page's own lines
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(lines, self.name, "exec"), self.names)
        elif block.language in ("console", "bash"):
            for command, output in commands_of(block):
                self.command(command, output, block)

    def doctest(self, block):
        test = doctest.DocTestParser().get_doctest(
            block.text, self.names, self.name, self.name, block.line
        )
        said = io.StringIO()
        runner = doctest.DocTestRunner(optionflags=LIKE, verbose=False)
        runner.run(test, out=said.write, clear_globs=False)
        self.names.update(test.globs)
        assert not runner.failures, said.getvalue()

    def command(self, command, output, block):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()) as errors:
            status = main(shlex.split(command)[1:])
        assert status == 0, f"{self.name}, line {block.line}: {command}\n{errors.getvalue()}"
        said = out.getvalue()
        assert not output or doctest.OutputChecker().check_output(output, said, LIKE), (
            f"{self.name}, line {block.line}: {command} printed\n{said}"
        )


def commands_of(block):
    """The commands of a block that are run, each with the output that follows it."""
    text = block.text.replace("\\\n", " ")
    if block.language == "bash":
        for line in text.splitlines():
            if line.startswith("interactgraph "):
                yield line.split(" #")[0], ""
        return
    for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
        command, _, output = part.partition("\n")
        assert command.startswith("interactgraph "), command
        yield command, output


def forget_modules(folder):
    """Pages have files of the same names."""
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_page_runs(page, tmp_path, monkeypatch):
    text = page.read_text(encoding="utf-8")
    for needed in re.findall(r"<!-- needs: (\w+) -->", text):
        pytest.importorskip(needed)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    runner = Page(page)
    try:
        for block in blocks_of(page):
            runner.run(block)
    finally:
        forget_modules(tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_is_run_or_cannot_be(page):
    for block in blocks_of(page):
        assert block.language in {"python", "bash", "console", "text", "toml", "json"}, block
        if block.language == "bash":
            lines = block.text.replace("\\\n", " ").splitlines()
            assert all(line.startswith(("interactgraph ", *SHELL)) for line in lines if line), block
        if block.language == "python" and ">>>" not in block.text:
            ast.parse(block.text)


def test_readme_commands_are_one_line_each():
    """In the order in which the gate runs them."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    ends = ["interactgraph demo", "pytest -q -n 2", r"--text README\.md .*-o minilm"]
    lines = re.findall(r"^python3? -m venv .*$", text, re.M)
    assert len(lines) == len(ends)
    for line, end in zip(lines, ends, strict=True):
        assert re.search(f"{end}$", line)


WRONG = {
    "doctest": "```python\n>>> 1 + 1\n3\n```\n",
    "error": "```python\nassert False\n```\n",
    "output": "```console\n$ interactgraph info g\n3 features\n```\n",
    "status": "```bash\ninteractgraph info missing\n```\n",
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_in_a_page_is_seen(kind, tmp_path, monkeypatch):
    def command(arguments):
        print("2 features")
        return int("missing" in arguments)

    monkeypatch.setitem(Page.command.__globals__, "main", command)
    (tmp_path / "page.md").write_text(WRONG[kind])
    (block,) = blocks_of(tmp_path / "page.md")
    with pytest.raises(AssertionError):
        Page(ROOT / "README.md").run(block)
