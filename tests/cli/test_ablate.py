"""`interactgraph ablate`: edges and modules, tables and the picture."""

import json

import pytest

from interactgraph.cli import main

CODE = """
import torch
from torch import nn
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3))
x = torch.randn(60, 6)
labels = net(x).argmax(-1)
data = [(x[:40], labels[:40]), (x[40:], labels[40:])]
plain = [x]
"""


@pytest.fixture
def code(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code.py").write_text(CODE)
    assert run("build", "code.py:net", "code.py:data", "--layers", "input", "1", "3", "4",
               "--no-progress", "-o", "g.safetensors") == 0  # fmt: skip
    assert run("modules", "g.safetensors", "--no-significance", "-o", "m.json") == 0
    capsys.readouterr()
    return tmp_path


def run(*arguments):
    return main([str(a) for a in arguments])


ABLATE = ("ablate", "g.safetensors", "code.py:net", "code.py:data", "--no-progress")


def test_edges(code, capsys):
    assert run(*ABLATE, "--tolerance", "0.1", "-o", "out") == 0
    out = capsys.readouterr().out
    assert "input -> 1" in out
    table = json.loads((code / "out" / "edge_ablation.json").read_text())
    assert [row["source"] for row in table] == ["input", "1", "3"]
    for row in table:
        kept = dict(row["curve"])[row["n_edges"]]
        assert kept >= row["intact"] - 0.1 - 1e-9
        assert row["intact"] == 1
    pytest.importorskip("matplotlib")
    assert (code / "out" / "edge_ablation.png").stat().st_size > 5000


def test_one_pair_without_labels(code, capsys):
    assert run("ablate", "g.safetensors", "code.py:net", "code.py:plain", "--no-progress",
               "--measure", "agreement", "--pairs", "1:3", "--ranking", "greedy",
               "--tolerance", "0.2") == 0  # fmt: skip
    assert "1 -> 3" in capsys.readouterr().out


def test_modules(code, capsys):
    assert run(*ABLATE, "--modules", "m.json", "--ways", "features", "edges", "others",
               "--n-controls", "2", "--n-sets", "2", "-o", "out") == 0  # fmt: skip
    out = capsys.readouterr().out
    assert "module 0" in out
    assert "joint effects: " in out
    joint = json.loads((code / "out" / "joint_effects.json").read_text())
    assert len(joint["control_errors"]) == 5
    assert joint["score"] is None or joint["score"] <= 1
    assert "with nothing but it" in out
    table = json.loads((code / "out" / "module_ablation.json").read_text())
    assert set(table[0]["effect"]) == {"features", "edges", "others"}


def test_modules_without_joint_effects(code, capsys):
    assert run(*ABLATE, "--modules", "m.json", "--n-controls", "1", "--n-sets", "0") == 0
    assert "joint effects" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--pairs", "1"), "SOURCE:TARGET"),
        (("--pairs", "1:4"), "no pair '1' -> '4'"),
        (("--ranking", "max"), "does not hold strength 'max'"),
        (("--layers", "1"), "--layers needs --modules"),
        (("--modules", "m.json", "--tolerance", "0.1"), "--tolerance is for edges"),
        (("--modules", "m.json", "--seed", "-1"), "seed=-1 must be a whole number"),
        (("--modules", "nowhere.json"), "there is no partition file"),
        (("--modules", "g.safetensors"), "not a complete partition"),
    ],
)
def test_bad_input(code, capsys, arguments, message):
    assert run(*ABLATE, *arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_labels_are_needed_for_accuracy(code, capsys):
    assert run("ablate", "g.safetensors", "code.py:net", "code.py:plain", "--no-progress") == 1
    assert "needs batches (input, labels)" in capsys.readouterr().err
