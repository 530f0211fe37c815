"""Several processes give the graph of one; a killed one leaves its checkpoint."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import distributed

import interactgraph as itg

pytestmark = pytest.mark.skipif(
    not distributed.is_available() or os.name != "posix", reason="needs torch.distributed"
)

CODE = """
import os, time, torch
from torch import nn
torch.manual_seed(0)
net = nn.Sequential(
    nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)
).double()
data = [(torch.randn(n, 6).double(), torch.arange(n) % 3) for n in (7, 5, 9, 4, 6)]
class Slow:
    def __len__(self): return 40
    def __iter__(self):
        x = torch.randn(40, 5, 6, generator=torch.Generator().manual_seed(1)).double()
        for n in range(40):
            time.sleep(float(os.environ.get("PAUSE", 0)))
            yield x[n]
slow = Slow()
torch.manual_seed(os.getpid())
unseeded = nn.Sequential(nn.Linear(6, 8), nn.GELU()).double()
"""

BUILD = ["-m", "interactgraph", "build"]
LAYERS = ["--layers", "input", "1", "4", "--strengths", "rms", "mean", "max", "--no-progress"]


def command(*arguments, processes=1, start=BUILD):
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone"]
        launch += ["--nproc-per-node", str(processes)]
    return [*launch, *start, *arguments]


def call(folder, *arguments, **how):
    return subprocess.run(
        command(*arguments, **how), cwd=folder, capture_output=True, text=True,
        timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"},
    )  # fmt: skip


LEAVE = """
import sys
from pathlib import Path
import interactgraph.distributed
from interactgraph.cli import main

def leave():
    first = leave_world()
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    assert not any("gloo" in name for name in names), names
    return first

leave_world, interactgraph.distributed.leave_world = interactgraph.distributed.leave_world, leave
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def code(tmp_path):
    (tmp_path / "code.py").write_text(CODE)
    return tmp_path


def assert_same(one, other, exactly):
    for a, b in zip(
        [one, *one.groups.values(), *one.folds],
        [other, *other.groups.values(), *other.folds],
        strict=True,
    ):
        for pair in a.pairs:
            for name in a.strengths:
                x, y = a.weights(*pair, name), b.weights(*pair, name)
                assert torch.equal(x, y) if exactly else float((x - y).abs().max()) < 1e-10
                if name != "max":
                    x, y = a.standard_error(*pair, name), b.standard_error(*pair, name)
                    assert torch.equal(x, y) if exactly else float((x - y).abs().max()) < 1e-8
            if a.completeness:
                assert a.completeness[pair] == pytest.approx(b.completeness[pair], rel=1e-6)


def test_two_processes_are_one(code):
    options = ["code.py:net", "code.py:data", *LAYERS, "--groups", "1", "--folds", "2"]
    for processes in (1, 2):
        done = call(code, *options, "-o", f"{processes}.safetensors", processes=processes)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("wrote") == 1
    one, two = (itg.load(code / f"{n}.safetensors") for n in (1, 2))
    assert_same(one, two, exactly=False)
    assert two.metadata["n_processes"] == 2
    for key in ("n_samples", "n_batches", "baseline_outside_range"):
        assert one.metadata[key] == two.metadata[key]


@pytest.mark.slow
def test_two_processes_keep_few_edges(code):
    """64 edges at most, of which one of four have room: those of the run that keeps all."""
    options = ["code.py:net", "code.py:data", *LAYERS]
    for processes, more in ((1, ()), (2, ("--max-edges", "16"))):
        done = call(code, *options, *more, "-o", f"{processes}.safetensors", processes=processes)
        assert done.returncode == 0, done.stderr[-2000:]
    all_, few = (itg.load(code / f"{n}.safetensors") for n in (1, 2))
    assert few.weights("input", "1").is_sparse
    assert_same(all_.prune(top_k=16), few.to_dense(), exactly=False)


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="reads the names of threads")
def test_no_thread_of_the_group_outlives_it(code):
    """A thread that is left aborts its process now and then."""
    (code / "leave.py").write_text(LEAVE)
    options = ["code.py:net", "code.py:data", *LAYERS, "--debug", "-o", "g.safetensors"]
    done = call(code, *options, processes=2, start=["leave.py", "build"])
    assert done.returncode == 0, done.stderr


def test_processes_need_the_same_model(code):
    done = call(code, "code.py:unseeded", "code.py:data", "--layers", "input", "1", processes=2)
    assert done.returncode != 0
    assert "models with different weights" in done.stderr


def wait_for(path, process, seconds=120):
    until = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pgrep") is None, reason="needs pgrep")
def test_dead_process_ends_the_run_and_leaves_checkpoints(code):
    options = ["code.py:net", "code.py:slow", *LAYERS]
    assert call(code, *options, "-o", "whole.safetensors", processes=2).returncode == 0
    saves = ["--checkpoint", "state", "--checkpoint-seconds", "0", "-o", "g.safetensors"]
    process = subprocess.Popen(
        command(*options, *saves, processes=2), cwd=code, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**os.environ, "PAUSE": "0.2", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    saved = code / "state" / "process-1" / "interactions.checkpoint"
    wait_for(saved, process)
    workers = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    _, error = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "SIGKILL" in error or "exitcode" in error
    assert saved.exists()
    assert not (code / "g.safetensors").exists()
    done = call(code, *options, *saves, processes=2)
    assert done.returncode == 0, done.stderr[-2000:]
    whole, again = (itg.load(code / f"{name}.safetensors") for name in ("whole", "g"))
    assert_same(whole, again, exactly=False)


@pytest.mark.slow
def test_killed_at_random_moments(code):
    """`KILLS=20 pytest tests/test_distributed.py -k random` for more of them."""
    kills = int(os.environ.get("KILLS", "2"))
    options = ["code.py:net", "code.py:slow", *LAYERS]
    assert call(code, *options, "-o", "whole.safetensors").returncode == 0
    whole = itg.load(code / "whole.safetensors")
    saves = ["--checkpoint", "state", "--checkpoint-seconds", "0", "-o", "g.safetensors"]
    draw = random.Random(int(os.environ.get("SEED", "0")))
    killed = 0
    while killed < kills:
        process = subprocess.Popen(
            command(*options, *saves), cwd=code, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "PAUSE": "0.05", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        wait_for(code / "state" / "interactions.checkpoint", process)
        time.sleep(draw.uniform(0, 2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        done = call(code, *options, *saves)
        assert done.returncode == 0, done.stderr[-2000:]
        assert_same(whole, itg.load(code / "g.safetensors"), exactly=True)


@pytest.mark.slow
def test_processes_share_the_error_that_ends_the_run(code):
    options = ["code.py:net", "code.py:slow", "--layers", "input", "1", "--no-progress"]
    graphs = []
    for processes in (1, 2):
        output = ["--target-error", "0.2", "-o", f"{processes}.safetensors"]
        done = call(code, *options, *output, processes=processes)
        assert done.returncode == 0, done.stderr[-2000:]
        graphs.append(itg.load(code / f"{processes}.safetensors"))
    one, two = graphs
    assert one.metadata["n_batches"] == two.metadata["n_batches"] < 40
    assert_same(one, two, exactly=False)


@pytest.mark.slow
def test_several_processes_draw_until_the_error_is_small(code):
    options = ["code.py:net", "code.py:slow", "--layers", "1", "4", "--no-progress"]
    options += ["--engine", "forward", "--n-steps", "1", "--sources", "1"]

    def worst(graph):
        strength, error = (f("1", "4").flatten() for f in (graph.weights, graph.standard_error))
        return float((error / strength).max())

    def graph(*arguments):
        done = call(code, *arguments, "-o", "g.safetensors", processes=2)
        assert done.returncode == 0, done.stderr[-2000:]
        return itg.load(code / "g.safetensors")

    target = (worst(graph(*options[:-2])) + worst(graph(*options))) / 2
    more = graph(*options, "--target-error", str(target))
    assert more.metadata["n_passes"] > 1
    assert more.metadata["n_samples"] == 200
    assert worst(more) < target
    refused = call(
        code, *options, "--target-error", "0.1", "--checkpoint", "state", "-o", "h.safetensors",
        processes=2,
    )  # fmt: skip
    assert refused.returncode != 0
    assert "leave one of the two out" in refused.stderr


@pytest.mark.slow
def test_every_pass_divides_the_batches_alike(code):
    """Five batches for two processes: a pass that gave others would count them as other draws."""
    exact = ["code.py:net", "code.py:data", "--layers", "1", "4", "--no-progress"]
    draws = ["--engine", "forward", "--n-steps", "1", "--sources", "2", "--target-error", "0.01"]
    graphs = []
    for name, options in (("exact", []), ("drawn", draws)):
        done = call(code, *exact, *options, "-o", f"{name}.safetensors", processes=2)
        assert done.returncode == 0, done.stderr[-2000:]
        graphs.append(itg.load(code / f"{name}.safetensors"))
    samples, drawn = (graph.standard_error("1", "4") for graph in graphs)
    assert graphs[1].metadata["n_passes"] > 3
    assert float((drawn / samples).median()) > 0.95


@pytest.mark.slow
def test_fewer_batches_than_processes(code):
    (code / "one.py").write_text("from code import *\ndata = data[:1]\n".replace("code", "ours"))
    (code / "code.py").rename(code / "ours.py")
    options = ["one.py:net", "one.py:data", "--layers", "1", "4", "--no-progress", "--engine"]
    options += ["forward", "--sources", "2", "--target-error", "0.05", "-o", "g.safetensors"]
    done = call(code, *options, processes=2)
    assert done.returncode == 0, done.stderr[-2000:]
    graph = itg.load(code / "g.safetensors")
    assert graph.metadata["n_samples"] == 7
    assert graph.metadata["n_passes"] > 1


@pytest.mark.slow
def test_processes_without_chance_go_on_with_the_others(code):
    """One position a sample leaves the first process nothing to draw, and the other one draws."""
    with (code / "code.py").open("a") as file:
        file.write("positions = [torch.randn(4, n, 6).double() for n in (1, 5, 1, 5)]\n")
    options = ["code.py:net", "code.py:positions", "--layers", "input", "1", "--no-progress"]
    options += ["--positions", "2", "--target-error", "0.001", "-o", "g.safetensors"]
    done = call(code, *options, processes=2)
    assert done.returncode == 0, done.stderr[-2000:]
    assert itg.load(code / "g.safetensors").metadata["n_passes"] > 1
