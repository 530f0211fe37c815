"""The family of errors: each is an `InteractGraphError`, and the builtin that people catch."""

import pytest
import torch
from torch import nn

import interactgraph as itg


def test_family():
    for error in (itg.InputError, itg.DataError, itg.ModelError, itg.FileError):
        assert issubclass(error, itg.InteractGraphError)
    assert issubclass(itg.InteractGraphError, ValueError)
    assert issubclass(itg.MissingFileError, (itg.FileError, FileNotFoundError))


def test_what_is_wrong_decides_which(tmp_path):
    model, x = nn.Sequential(nn.Linear(4, 3), nn.Tanh()), torch.randn(5, 4)

    def run(layers=("0", "1"), data=(x,), **options):
        return itg.interaction_graph(model, list(data), list(layers), progress=False, **options)

    with pytest.raises(itg.InputError):
        run(n_steps=0)
    with pytest.raises(itg.ModelError):
        run(layers=("0", "7"))
    with pytest.raises(itg.DataError):
        run(data=())
    with pytest.raises(FileNotFoundError):
        itg.load(tmp_path / "none.safetensors")
    with pytest.raises(itg.MissingFileError):
        itg.Partition.load(tmp_path / "none.json")
    (tmp_path / "bad.safetensors").write_text("no graph")
    with pytest.raises(itg.FileError):
        itg.load(tmp_path / "bad.safetensors")
