"""The command line, as a person at a terminal meets it."""

import json
import os
import signal
import subprocess
import sys
import time
from inspect import signature
from pathlib import Path

import pytest
import torch

import interactgraph as itg
from interactgraph.cli import main, parser

CODE = """
import time, torch
from torch import nn
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3))
def make(): return nn.Sequential(nn.Linear(6, 8), nn.Tanh())
data = [torch.randn(20, 6), torch.randn(10, 6)]
pairs = [(torch.randn(12, 6), torch.arange(12) % 2), (torch.randn(12, 6), torch.arange(12) % 2)]
def broken(): raise KeyError("no such thing")
labels = {"4": ["a", "b\\x00", "c"]}
baseline = torch.ones(6)
class Slow:
    def __len__(self): return 50
    def __iter__(self):
        for _ in range(50):
            time.sleep(0.2)
            yield torch.randn(4, 6)
slow = Slow()
"""


@pytest.fixture
def code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code.py").write_text(CODE)
    return tmp_path


def run(*arguments):
    return main([str(a) for a in arguments])


def test_pruning_flags_are_those_of_prune():
    rules = set(signature(itg.InteractionGraph.prune).parameters) - {"self", "strength"}
    export = parser().parse_args(["export", "g.safetensors", "g.gexf"])
    whole = parser().parse_args(["run", "m.py:m", "d.py:d", "--layers", "a", "b"])
    shared = vars(export).keys() & vars(whole).keys()
    assert rules == {"threshold", "relative", "top_k", "top_k_per_target"}
    assert rules | {"strength", "no_progress"} <= shared


LAYERS = ("--layers", "input", "1", "3", "4", "--no-progress")


def test_build_modules_export_info(code, capsys):
    assert run("build", "code.py:net", "code.py:data", *LAYERS, "--strengths", "rms", "mean",
               "--labels", "code.py:labels", "--baseline", "input=code.py:baseline", "1=mean",
               "-o", "g.safetensors") == 0  # fmt: skip
    assert "closed_form" in capsys.readouterr().out
    graph = itg.load("g.safetensors")
    assert graph.labels["4"] == ("a", "b\x00", "c")
    assert graph.metadata["baseline"] == {"input": "tensor", "1": "mean", "3": "zero"}
    assert graph.metadata["n_samples"] == 30
    assert run("modules", "g.safetensors", "--no-significance", "-o", "m.json", "--profile",
               "--tree", "--algorithm", "leiden", "--n-modules", 3) == 0  # fmt: skip
    out = capsys.readouterr().out
    assert "3 modules (features: " in out
    assert "resolution  modules  quality  agreement" in out
    assert "features, z inside" in out
    for suffix in ("gexf", "graphml", "csv", "json"):
        assert (
            run("export", "g.safetensors", f"g.{suffix}", "--modules", "m.json", "--top-k", 5) == 0
        )
    capsys.readouterr()
    assert run("info", "g.safetensors", "--json") == 0
    assert json.loads(capsys.readouterr().out) == dict(graph.metadata)


def test_compare_and_perturbation_methods(code, capsys):
    for name in ("integrated_gradients", "ablation", "captum.FeatureAblation"):
        assert run("build", "code.py:net", "code.py:data", *LAYERS, "--method", name,
                   "-o", f"{name}.safetensors") == 0  # fmt: skip
    assert run("compare", "ablation.safetensors", "captum.FeatureAblation.safetensors") == 0
    out = capsys.readouterr().out
    assert "input -> 1" in out
    assert " 100.0% of 48" in out
    assert run("build", "code.py:net", "code.py:data", *LAYERS, "--method", "captum.No") == 1


def test_run_writes_a_folder(code, capsys):
    assert (
        run("run", "code.py:net", "code.py:data", *LAYERS, "-o", "out", "--top-k-per-target", 2)
        == 0
    )
    written = {path.name for path in (code / "out").iterdir()}
    assert written == {
        "graph.safetensors", "modules.json", "graph.gexf", "graph.nodes.csv", "graph.edges.csv",
        "graph.png", "report.html",
    }  # fmt: skip


def test_modules_with_significance_and_flow(code, capsys):
    assert run("build", "code.py:net", "code.py:data", *LAYERS, "-o", "g.safetensors") == 0
    assert run("modules", "g.safetensors", "-o", "m.json", "--flow") == 0
    out = capsys.readouterr().out
    (head,) = (line for line in out.splitlines() if line.startswith("module  features"))
    assert head.split()[-2:] == ["z", "p"]
    assert "stays in its module" in out
    assert "wrote m_flow.csv" in out
    assert "wrote m_flow.svg" in out
    assert (code / "m_flow.csv").read_text().startswith("source,source_module,target,")
    assert "<svg" in (code / "m_flow.svg").read_text()


def test_profiles_are_of_the_modules_they_stand_beside(code, monkeypatch):
    """In the page and in the table: found with the partition's own null model, weights and seed."""
    asked = []
    real = itg.communities.resolution_profile

    def profile(graph, strength=None, **options):
        asked.append({"strength": strength, **options})
        return real(graph, strength, resolutions=[1.0, 1.1], **options)

    monkeypatch.setattr(itg.communities, "resolution_profile", profile)
    assert run("build", "code.py:net", "code.py:data", *LAYERS, "--strengths", "rms", "mean",
               "-o", "g.safetensors") == 0  # fmt: skip
    assert run("modules", "g.safetensors", "-o", "m.json", "--strength", "mean", "--null", "cpm",
               "--weighting", "raw", "--seed", "3", "--self-edges", "keep", "--profile",
               "--no-significance") == 0  # fmt: skip
    assert run("report", "g.safetensors", "-m", "m.json", "--profile", "-o", "m.html") == 0
    wanted = {"strength": "mean", "null": "cpm", "weighting": "raw", "seed": 3,
              "self_edges": "keep"}  # fmt: skip
    assert len(asked) == 2
    for found in asked:
        assert {name: found[name] for name in wanted} == wanted


def test_report_from_files(code, capsys):
    assert run("build", "code.py:net", "code.py:data", *LAYERS, "-o", "g.safetensors") == 0
    assert run("report", "g.safetensors", "-o", "a.html", "--n-edges", 10, "--profile") == 0
    assert "wrote a.html" in capsys.readouterr().out
    run("modules", "g.safetensors", "-o", "m.json")
    entry = {"source": "input", "target": "1", "n_edges": 5, "intact": 0.9, "curve": [[5, 0.9]]}
    (code / "ablation.json").write_text(json.dumps([entry]))
    assert (
        run(
            "report", "g.safetensors", "-m", "m.json", "--ablation", "ablation.json", "-o", "b.html"
        )
        == 0
    )
    text = (code / "b.html").read_text()
    assert '"n_edges":5' in text
    assert run("report", "g.safetensors", "-m", "ablation.json") == 1
    assert run("report", "g.safetensors", "--ablation", "m.json") == 1
    assert run("report", "missing.safetensors") == 1
    assert not (code / "report.html").exists()


def test_config_holds_any_flag_and_the_command_line_wins(code, capsys):
    (code / "run.toml").write_text(
        'model = "code.py:net"\ndata = "code.py:data"\nlayers = ["input", "1"]\n'
        'strengths = ["max"]\nno-progress = true\nn_steps = 4\n'
    )
    assert run("build", "--config", "run.toml") == 0
    graph = itg.load("graph.safetensors")
    assert graph.strengths == ("max",)
    assert graph.metadata["n_steps"] == 4
    assert (
        run("build", "--config", "run.toml", "--strengths", "rms", "-o", "other.safetensors") == 0
    )
    assert itg.load("other.safetensors").strengths == ("rms",)


def test_function_package_and_program_as_model(code, capsys):
    assert (
        run("build", "code.py:make", "code.py:data", "--layers", "input", "1", "--no-progress") == 0
    )
    torch.export.save(
        torch.export.export(
            torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh()),
            (torch.randn(20, 6),),
            dynamic_shapes=({0: torch.export.Dim("b", min=1, max=512)},),
        ),
        code / "net.pt2",
    )
    assert (
        run("build", "net.pt2", "code.py:data", "--layers", "input", "0", "1", "--no-progress") == 0
    )
    assert itg.load("graph.safetensors").n_features == {"input": 6, "0": 4, "1": 4}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("build", "code.py", "code.py:data", *LAYERS), "not of the form"),
        (("build", "nowhere.py:net", "code.py:data", *LAYERS), "there is no file nowhere.py"),
        (("build", "code.py:nett", "code.py:data", *LAYERS), "code.py has no 'nett'; it defines"),
        (("build", "no.such.package:net", "code.py:data", *LAYERS), "cannot be imported"),
        (("build", "code.py:data", "code.py:data", *LAYERS), "not a torch.nn.Module"),
        (("build", "code.py:net", "code.py:broken", *LAYERS), "KeyError: 'no such thing'"),
        (("build", "code.py:net", "code.py:data", "--layers", "input", "9"), "'9' is not in the"),
        (("build", "code.py:net", "code.py:data", *LAYERS, "--pairs", "1"), "SOURCE:TARGET"),
        (("build", "code.py:net", "code.py:data", *LAYERS, "-o", "code.py/x"), "cannot write"),
        (("build", "x.pt2", "code.py:data", *LAYERS), "no file x.pt2"),
        (("modules", "code.py"), "not a complete interaction graph"),
        (("modules", "nothing.safetensors"), "there is no graph file"),
        (("info", "code.py"), "not a complete interaction graph"),
        (("build", "--config", "nothing.toml"), "cannot read --config"),
    ],
)
def test_one_line_for_what_the_user_can_mend(code, capsys, arguments, message):
    assert run(*arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("interactgraph: ")
    assert error.count("\n") == 1
    assert {path.name for path in code.iterdir()} <= {"code.py", "__pycache__"}


def test_usage_is_status_two(code, capsys):
    with pytest.raises(SystemExit) as exit_status:
        run("build", "code.py:net")
    assert exit_status.value.code == 2
    assert main([]) == 2


def test_debug_shows_the_traceback(code):
    with pytest.raises(itg.InteractGraphError):
        run("info", "code.py", "--debug")


def under_way(folder):
    """A run whose bar is there."""
    process = subprocess.Popen(
        [sys.executable, "-m", "interactgraph", "run", "code.py:net", "code.py:slow",
         "--layers", "input", "1", "-o", "out"],
        cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        # Ctrl-C counts even where the tests run in the background, which ignores it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    wait_for("interactions", process)
    return process


def wait_for(text, process):
    seen, started = "", time.monotonic()
    while text not in seen and time.monotonic() - started < 60:
        seen += process.stderr.read(1)


@pytest.mark.parametrize(
    "kill",
    [
        signal.SIGINT,
        *(pytest.param(s, marks=pytest.mark.slow) for s in (signal.SIGTERM, signal.SIGKILL)),
    ],
)
def test_interrupted_leaves_no_unfinished_file(code, kill):
    process = under_way(code)
    process.send_signal(kill)
    if kill == signal.SIGINT:  # the second one ends it at once
        wait_for("interrupted", process)
        process.send_signal(kill)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not (code / "out").exists() or not list((code / "out").iterdir())


def test_interrupted_once_gives_what_it_has(code):
    process = under_way(code)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "was interrupted after" in out
    assert (code / "out" / "graph.gexf").exists()


def test_help_does_not_import_torch():
    program = (
        "import sys; from interactgraph.cli import parser; parser().format_help();"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    done = subprocess.run(
        [sys.executable, "-m", "interactgraph", "--help"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "examples:" in done.stdout
    assert os.linesep in done.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--bootstrap", "5"], "give their number, too: --folds 20"),
        (["--null", "nul"], "choose one of layered, undirected"),
        (["--weighting", "noise"], "choose one of auto"),
        (["--strength", "mean"], "choose one of rms"),
        (["--features", "pcaa"], "(did you mean 'pca'?); give a FeatureMap"),
    ],
)
def test_run_fails_before_anything_is_computed(code, capsys, flags, message):
    assert run("run", "code.py:net", "code.py:slow", *LAYERS, *flags, "-o", "out") == 1
    assert message in capsys.readouterr().err
    assert not (code / "out" / "graph.safetensors").exists()


def test_notes_are_printed_and_not_issued(code, capsys, recwarn):
    assert run("build", "code.py:net", "code.py:data", *LAYERS, "--target-error", "0.0001") == 0
    assert "note: input -> 1: standard error of the strongest edges" in capsys.readouterr().out
    assert not [w for w in recwarn if issubclass(w.category, itg.InteractGraphWarning)]


def test_files_and_page_of_a_group(code):
    assert run("build", "code.py:net", "code.py:pairs", *LAYERS, "--groups", "1",
               "-o", "g.safetensors") == 0  # fmt: skip
    graph = itg.load("g.safetensors")
    for group, of in (((), graph), (("--group", "1"), graph.groups["1"])):
        assert run("export", "g.safetensors", "found.json", *group) == 0
        itg.export(of, "wanted.json", progress=False)
        assert Path("found.json").read_text() == Path("wanted.json").read_text()
        assert run("modules", "g.safetensors", "--no-significance", *group, "-o", "m.json") == 0
        assert run("report", "g.safetensors", "-m", "m.json", *group, "-o", "found.html") == 0
        itg.write_report(of, "wanted.html", partition=itg.Partition.load("m.json"))
        assert Path("found.html").read_text() == Path("wanted.html").read_text()
    assert run("export", "g.safetensors", "found.json", "--group", "7") == 1


def test_groups_folds_and_comparison_of_modules(code, capsys):
    assert run("build", "code.py:net", "code.py:pairs", *LAYERS, "--groups", "1", "--folds", "4",
               "-o", "g.safetensors") == 0  # fmt: skip
    assert "groups: 0 (12 samples), 1 (12 samples)" in capsys.readouterr().out
    for name, flags in (("a", ()), ("b", ("--group", "0")), ("c", ("--bootstrap", "3"))):
        assert (
            run("modules", "g.safetensors", "--no-significance", *flags, "-o", f"{name}.json") == 0
        )
    capsys.readouterr()
    assert run("compare", "a.json", "b.json") == 0
    assert "adjusted mutual information" in capsys.readouterr().out
    assert run("compare", "a.json", "b.json", "--graphs", "g.safetensors", "g.safetensors") == 0
    assert "adjusted mutual information" in capsys.readouterr().out
    both = ("g.safetensors", "g.safetensors")
    assert run("compare", *both, "--graphs", *both) == 1
    assert "--graphs belongs to two modules.json" in capsys.readouterr().err
    assert run("compare", "g.safetensors", "--groups", "0", "1") == 0
    assert "z = " in capsys.readouterr().out
    assert itg.Partition.load("c.json").details["bootstrap_samples"] == 3
    assert run("modules", "g.safetensors", "--group", "7") == 1
    assert "no group '7'; its groups: 0, 1" in capsys.readouterr().err
    assert run("compare", "g.safetensors") == 1
    assert "two groups of GRAPH" in capsys.readouterr().err
