"""The time left, and runs that are interrupted."""

import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import interactgraph as itg
from interactgraph.attribution.pair_run import PairRun
from interactgraph.attribution.progress import Interrupt, Progress
from interactgraph.attribution.time_budget import TimeBudget


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3)).double()


X = torch.randn(40, 4, generator=torch.Generator().manual_seed(1)).double()
LAYERS = ["0", "3"]


class Pressed:
    """Batches of eight; Ctrl-C is pressed while one of them is read."""

    def __init__(self, at, in_run=None):
        self.at, self.n, self.read = at, 0, 0

    def __len__(self):
        return 5

    def __iter__(self):
        for number, batch in enumerate(X.split(8)):
            # The first look at the data reads the first batch, too.
            if number == self.at:
                os.kill(os.getpid(), signal.SIGINT)
            self.read += 1
            yield batch


def run(data, **options):
    return itg.interaction_graph(network(), data, LAYERS, progress=False, **options)


@pytest.fixture(autouse=True)
def _default_handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_an_interrupted_run_gives_what_it_has():
    data = Pressed(3)
    graph = run(data)
    expected = run(list(X.split(8))[:3])
    assert torch.equal(graph.weights(*LAYERS), expected.weights(*LAYERS))
    assert torch.equal(graph.standard_error(*LAYERS), expected.standard_error(*LAYERS))
    assert graph.metadata["n_samples"] == 24
    assert any("interrupted after 24 samples" in note for note in graph.notes)


def test_a_batch_in_pieces_ends_between_them(monkeypatch):
    """One batch that memory cuts: what is there after the piece at hand."""
    add, calls = PairRun.add, []

    def pressed(self, *arguments):
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        add(self, *arguments)

    monkeypatch.setattr(PairRun, "add", pressed)
    many = torch.cat([X] * 10)
    graph = run([many], memory_budget=30_000)
    n = graph.metadata["n_samples"]
    assert 0 < n < 400
    assert len(calls) == 2
    assert graph.metadata["n_batches"] == 0
    monkeypatch.setattr(PairRun, "add", add)
    torch.testing.assert_close(graph.weights(*LAYERS), run([many[:n]]).weights(*LAYERS))


def test_a_checkpoint_stays(tmp_path):
    """The same call goes on to the numbers of a run that was never interrupted."""
    data = Pressed(3)
    part = run(data, checkpoint=tmp_path / "state", checkpoint_seconds=0)
    assert part.metadata["n_samples"] == 24
    assert list((tmp_path / "state").iterdir())
    data.at = None
    again = run(data, checkpoint=tmp_path / "state", checkpoint_seconds=0)
    whole = run(list(X.split(8)))
    assert torch.equal(again.weights(*LAYERS), whole.weights(*LAYERS))
    assert not any("interrupted" in note for note in again.notes)
    assert not (tmp_path / "state").exists() or not list((tmp_path / "state").iterdir())


def test_the_second_time_ends_at_once():
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_other_handlers_and_threads_are_left_alone():
    heard = []
    signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
    assert heard == [1]
    assert not interrupt.asked
    signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=lambda: run([X]))
    thread.start()
    thread.join()


def test_later_passes_are_ended_whole():
    """An interrupt in a later pass over the data with new draws ends the run after the pass."""

    class InSecond(Pressed):
        def __iter__(self):
            for batch in X.split(8):
                self.read += 1
                if self.read == 14:
                    os.kill(os.getpid(), signal.SIGINT)
                yield batch

    data = InSecond(0)
    graph = run(data, sources=1, target_error=1e-6)
    assert graph.metadata["n_passes"] in (2, 3)
    assert graph.metadata["n_samples"] == 40
    assert any("interrupted after" in note and "passes" in note for note in graph.notes)


def test_the_last_batch_is_the_end(tmp_path):
    """Nothing is left to read: an ordinary end, whatever was pressed."""

    class AtTheEnd(Pressed):
        def __iter__(self):
            yield from X.split(8)[:4]
            os.kill(os.getpid(), signal.SIGINT)
            yield X[32:]

    class Late(Pressed):
        def __iter__(self):
            yield from X.split(8)
            if self.at is not None:
                os.kill(os.getpid(), signal.SIGINT)

    graph = run(Late(0), checkpoint=tmp_path / "state", checkpoint_seconds=0)
    assert not graph.notes
    assert not (tmp_path / "state").exists() or not list((tmp_path / "state").iterdir())
    part = run(AtTheEnd(0), groups=["a"] * 40)
    assert part.metadata["n_samples"] == 32
    assert not any("groups names" in note for note in part.notes)


class FakeRun:
    """A pair that is planned to take so many passes, of so many seconds."""

    is_drawn = False
    share_of_nodes = 1.0

    def __init__(self, cost, pass_seconds):
        self.plan, self.pass_seconds = SimpleNamespace(cost=cost), pass_seconds


def test_time_left_does_not_jump_between_pairs(monkeypatch):
    """Two pairs of which the second takes three times as long, which nobody predicted."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    runs = {("a", "b"): FakeRun(100, 0.05), ("b", "c"): FakeRun(100, 0.05)}
    seconds = {("a", "b"): 0.05, ("b", "c"): 0.15}
    total = 4 * 100 * (0.05 + 0.15)
    with Progress(runs, 4, TimeBudget(), shown=False) as progress:
        for _ in range(4):
            for pair, run in runs.items():
                progress.begins(pair, 1.0)
                for _ in range(run.plan.cost):
                    clock[0] += seconds[pair]
                    progress.tick(1)
                    if clock[0] > 0.26 * total:  # after the first batch
                        estimate = clock[0] / progress.share
                        assert estimate == pytest.approx(total, rel=0.05)
                progress.ends()
    assert progress.share == pytest.approx(1.0)


def test_pairs_that_have_not_begun_are_taken_to_need_as_many_nodes(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    first, second = FakeRun(64, 1.0), FakeRun(64, 1.0)
    first.share_of_nodes, second.share_of_nodes = 1 / 8, None
    with Progress({("a", "b"): first, ("b", "c"): second}, 1, TimeBudget(), shown=False) as bar:
        bar.begins(("a", "b"), 1.0)
        for _ in range(4):  # half of the 8 passes of the first pair
            clock[0] += 1.0
            bar.tick(1)
        assert clock[0] / bar.share == pytest.approx(16.0)


def test_bar_of_data_without_length_counts_batches(capsys):
    itg.interaction_graph(network(), Endless(), LAYERS, progress=True)
    assert "3batch" in capsys.readouterr().err


class Endless:
    def __iter__(self):
        return iter(X[:24].split(8))
