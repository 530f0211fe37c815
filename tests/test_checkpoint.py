"""Interrupted at any moment, a run goes on to bit-identical numbers."""

import os
import subprocess
import sys

import networks
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import interactgraph as itg
from interactgraph import InteractGraphError
from interactgraph.passes import Passes

ALL = ("rms", "mean_abs", "mean", "max")


class Interrupted:
    """Data whose n-th batch is never reached."""

    def __init__(self, batches, stop):
        self.batches, self.stop, self.passes = batches, stop, 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for number, batch in enumerate(self.batches):
            # The first look and the means are over before the run begins.
            if number == self.stop:
                raise KeyboardInterrupt
            yield batch


def nets():
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(6, 7), nn.GELU(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))
    two = nn.Sequential(nn.Linear(4, 6), networks.Block(6))
    return {
        "one map": (one, torch.randn(70, 6).split(9), ["input", "1", "3"], {}),
        "two maps": (one, torch.randn(70, 6).split(9), ["input", "2"], {}),
        "columns": (two, torch.randn(30, 5, 4).split(4), ["0", "1"], {"engine": "forward"}),
        "rows": (two, torch.randn(30, 5, 4).split(4), ["0", "1"], {"engine": "reverse"}),
        "drawn": (
            two, torch.randn(30, 5, 4).split(4), ["0", "1"], {"engine": "forward", "sources": 2}
        ),
        "lengths": (
            two, [torch.randn(4, n, 4) for n in (5, 5, 3, 2, 5, 5, 5, 5)], ["0", "1.up"], {}
        ),
    }  # fmt: skip


@pytest.mark.parametrize("stop", [1, 4, 7])
@pytest.mark.parametrize("name", list(nets()))
def test_resumed_run_is_bit_identical(name, stop, tmp_path):
    model, batches, layers, options = nets()[name]
    options = {"strengths": ALL, "n_steps": 2, "progress": False, **options}
    whole = itg.interaction_graph(model, list(batches), layers, **options)
    saves = {"checkpoint": tmp_path / "state", "checkpoint_seconds": 0}
    with pytest.raises(KeyboardInterrupt):
        itg.interaction_graph(model, Interrupted(batches, stop), layers, **options, **saves)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["interactions.checkpoint"]
    again = itg.interaction_graph(model, list(batches), layers, **options, **saves)
    assert list((tmp_path / "state").iterdir()) == []
    for pair in whole.pairs:
        for strength in ALL:
            assert torch.equal(again.weights(*pair, strength), whole.weights(*pair, strength))
            if strength != "max":
                assert torch.equal(
                    again.standard_error(*pair, strength), whole.standard_error(*pair, strength)
                )
        assert again.completeness[pair] == whole.completeness[pair]
    for key in ("n_samples", "n_batches", "baseline_outside_range", "plans"):
        assert again.metadata[key] == whole.metadata[key]


def test_resumes_after_the_mean_was_found(tmp_path):
    model, batches, layers, _ = nets()["one map"]
    options = {"baseline": "mean", "progress": False}
    whole = itg.interaction_graph(model, list(batches), layers, **options)
    saves = {"checkpoint": tmp_path, "checkpoint_seconds": 0}

    class Once(Interrupted):
        def __iter__(self):
            self.passes += 1
            # First look and means are one pass; the run itself is interrupted.
            source = self.batches if self.passes < 2 else super().__iter__()
            yield from source

    with pytest.raises(KeyboardInterrupt):
        itg.interaction_graph(model, Once(batches, 3), layers, **options, **saves)
    again = itg.interaction_graph(model, list(batches), layers, **options, **saves)
    for pair in whole.pairs:
        assert torch.equal(again.weights(*pair), whole.weights(*pair))


@pytest.fixture
def interrupted(tmp_path):
    model, batches, layers, _ = nets()["one map"]
    saves = {"checkpoint": tmp_path, "checkpoint_seconds": 0, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        itg.interaction_graph(model, Interrupted(batches, 3), layers, **saves)
    return model, list(batches), layers, saves


def test_checkpoint_of_another_recipe_is_refused(interrupted):
    model, batches, layers, saves = interrupted
    with pytest.raises(InteractGraphError, match=r"another run: its method is 'integrated_grad"):
        itg.interaction_graph(model, batches, layers, method="gradient", **saves)
    model[0].weight.data += 1
    with pytest.raises(InteractGraphError, match=r"another run: its weights"):
        itg.interaction_graph(model, batches, layers, **saves)


@pytest.mark.parametrize(
    "changed",
    [
        {"baseline": torch.ones(6)},
        {"groups": [0, 1] * 100},
        {"dtype": torch.float32},
        {"forward": lambda model, batch: model(batch)},
        {"features": {"input": itg.features.Linear(torch.eye(6))}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_checkpoint_of_another_call_is_refused(interrupted, changed):
    model, batches, layers, saves = interrupted
    with pytest.raises(InteractGraphError, match="another run: its "):
        itg.interaction_graph(model, batches, layers, **saves, **changed)


def test_checkpoint_of_other_data_is_refused(interrupted):
    model, batches, layers, saves = interrupted
    with pytest.raises(InteractGraphError, match="another run: its first batch"):
        itg.interaction_graph(model, [b + 1 for b in batches], layers, **saves)


def test_leftovers_of_a_killed_save_are_removed(interrupted, tmp_path):
    model, batches, layers, saves = interrupted
    (tmp_path / ".interactions.checkpoint.abc.part").write_bytes(b"half")
    itg.interaction_graph(model, batches, layers, **saves)
    assert not list(tmp_path.iterdir())


def test_damaged_checkpoint(interrupted, tmp_path):
    model, batches, layers, saves = interrupted
    path = tmp_path / "interactions.checkpoint"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InteractGraphError, match=r"no complete checkpoint"):
        itg.interaction_graph(model, batches, layers, **saves)


def test_shuffled_data_is_refused(tmp_path):
    model, batches, layers, _ = nets()["one map"]
    loader = DataLoader(TensorDataset(torch.cat(batches)), batch_size=9, shuffle=True)
    with pytest.raises(InteractGraphError, match="same order"):
        itg.interaction_graph(model, loader, layers, checkpoint=tmp_path, progress=False)


def test_a_run_that_ended_early_ends_there_again(tmp_path, monkeypatch):
    """Killed after its last batch: what is resumed looks at the error before it reads on."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))
    batches = torch.randn(640, 6).split(10)
    options = {"layers": ["0", "2"], "target_error": 0.1, "progress": False}
    whole = itg.interaction_graph(model, batches, **options)
    assert 2 < whole.metadata["n_batches"] < 64
    saves = {"checkpoint": tmp_path / "state", "checkpoint_seconds": 0}

    def killed(self, engines):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Passes, "add_up", killed)
        with pytest.raises(KeyboardInterrupt):
            itg.interaction_graph(model, batches, **options, **saves)
    again = itg.interaction_graph(model, batches, **options, **saves)
    assert again.metadata["n_batches"] == whole.metadata["n_batches"]
    assert torch.equal(again.weights("0", "2"), whole.weights("0", "2"))


FUNCTIONS = """
import dataclasses
import functools
import operator
import os
import random
import threading
import types
import numpy as np
import torch
from interactgraph.checkpoint import description

LIMIT = {limit}

@dataclasses.dataclass
class Settings:
    limit: int

class Mask:
    def __init__(self, limit):
        self.limit = limit

    def __call__(self, batch):
        return batch > self.limit

    def method(self, batch):
        return batch > self.limit

def closure(limit):
    return lambda batch: batch > limit

def default(batch, limit={limit}):
    return batch > limit

def keyword(batch, *, limit={limit}):
    return batch > limit

def constant(batch):
    return batch in {{"a", "b", "c", {limit}}}

def by_global(batch):
    return [x > LIMIT for x in batch]

def by_function(batch):
    return by_global(batch)

def recursive(batch):
    return recursive(batch) if len(batch) > {limit} else batch

functions = [
    Mask({limit}), Mask({limit}).method, closure({limit}), default, keyword, constant, by_global,
    by_function, recursive, functools.partial(default, limit={limit}),
    closure(torch.full((2,), float({limit}))), lambda batch: closure({limit})(batch),
    closure(Settings({limit})), closure(types.SimpleNamespace(limit={limit})),
    closure(np.int64({limit})), closure(np.full(2, {limit})), closure(range({limit})),
    closure(slice({limit})), closure([torch.float32, torch.float64][{limit} - 1]),
    closure([torch.relu, torch.tanh][{limit} - 1]), closure([np.exp, np.log][{limit} - 1]),
    operator.itemgetter({limit}), functools.lru_cache(closure({limit})),
    closure(torch.nn.LeakyReLU({limit})), closure(torch.eye(2).mul({limit}).to_sparse()),
    torch.no_grad()(closure({limit})), closure({{"a", "b", {limit}}}),
]
same = [
    closure(os.environ), closure(torch.Generator().manual_seed({limit})), closure(open),
    closure(threading.Lock()), closure(random.Random({limit})),
]
assert all(description(function) == description(closure(part)) for function, part in zip(same, [
    os.environ, torch.Generator(), open, threading.Lock(), random.Random(),
]))
description(closure(torch.nn.LazyLinear(3)))
limit = {limit}  # a global that an attribute happens to have the name of
attribute = lambda batch: batch.limit
before, limit = description(attribute), -1
assert description(attribute) == before
deep = []
for _ in range(5000):
    deep = [deep]
description(closure(deep))
print(*(description(function).split()[-1] for function in functions))
"""


def descriptions(limit, hash_seed):
    done = subprocess.run(
        [sys.executable, "-c", FUNCTIONS.format(limit=limit)], capture_output=True, text=True,
        check=True, env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )  # fmt: skip
    return done.stdout.split()


def test_functions_are_told_apart_by_what_they_refer_to():
    """In every process alike."""
    one, again, other = descriptions(1, "1"), descriptions(1, "2"), descriptions(2, "1")
    assert len(one) == 27
    assert one == again
    assert all(a != b for a, b in zip(one, other, strict=True))
