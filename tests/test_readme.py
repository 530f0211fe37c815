"""The README's Python runs."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_python_block_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert blocks
    for block in blocks:
        if "from_pretrained" not in block:  # which reads from the network; the gate has a folder
            exec(block, {})
    assert (tmp_path / "graph.gexf").stat().st_size > 0


def test_commands_are_one_line_each():
    text = (ROOT / "README.md").read_text()
    assert len(re.findall(r"^python -m venv .*interactgraph demo$", text, re.M)) == 1
    assert len(re.findall(r"^python -m venv .*pytest -q -n 2$", text, re.M)) == 1
    assert len(re.findall(r"^python -m venv .*--text README.md .*-o minilm$", text, re.M)) == 1
