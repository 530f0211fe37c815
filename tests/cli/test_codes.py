"""`interactgraph codes`, as a person at a terminal meets it."""

import json
from pathlib import Path

import pytest

import interactgraph as itg
from interactgraph.cli import main

pytest.importorskip("sklearn")

CODE = """
import torch
from torch import nn
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3))
side = torch.arange(40) % 2
x = torch.randn(40, 6) + (6 * side - 3)[:, None]
data = [(x[:25], side[:25]), (x[25:], side[25:])]
"""


@pytest.fixture(autouse=True)
def code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code.py").write_text(CODE)
    return tmp_path


BASE = ("codes", "code.py:net", "code.py:data", "--layers", "1", "3", "--no-progress")


def test_groups_for_a_graph(capsys):
    assert main([*BASE, "--labels", "1", "--n-clusters", "2", "-o", "c.json"]) == 0
    shown = capsys.readouterr().out
    assert "1: 8 gates (relu)" in shown
    assert "3: 8 gates (gelu)" in shown
    assert "kmeans of activations: 2 groups" in shown
    content = json.loads(Path("c.json").read_text())
    assert content["scores"]["codes"]["adjusted Rand index"] == 1
    assert content["scores"]["codes"]["purity"] == 1
    assert len(content["groups"]) == len(content["control"]) == 40
    assert main(["build", "code.py:net", "code.py:data", "--layers", "input", "1", "--groups",
                 "c.json", "--no-progress", "-o", "g.safetensors"]) == 0  # fmt: skip
    assert set(itg.load("g.safetensors").groups) == {"0", "1"}


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (("--algorithm", "hdbscan", "--n-clusters", "3"), "give --min-cluster-size"),
        (("--gates", "1"), "is not of the form LAYER=GATE"),
        (("--gates", "1=tanh"), "choose one of relu"),
        (("--n-clusters", "0"), "n_clusters=0"),
        (("--labels", "5"), "labels=5 is in no tuple batch"),
    ],
)
def test_what_can_be_mended(flags, match, capsys):
    assert main([*BASE, *flags]) == 1
    assert match in capsys.readouterr().err


def test_hdbscan_and_a_gate_that_is_told(capsys):
    assert main(["codes", "code.py:net", "code.py:data", "--layers", "2", "--gates", "2=silu",
                 "--algorithm", "hdbscan", "--min-cluster-size", "8",
                 "--no-progress"]) == 0  # fmt: skip
    assert "2: 8 gates (silu)" in capsys.readouterr().out
