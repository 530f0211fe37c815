"""What is published: one version everywhere, and a wheel that holds all of the package."""

import email
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import interactgraph as itg

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "interactgraph"

pytestmark = pytest.mark.skipif(
    not (ROOT / "CITATION.cff").exists(), reason="needs a clone of the repository"
)


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def citation():
    """The plain fields of CITATION.cff, which is YAML."""
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w-]+): (.*)$", text, re.M)), text


def test_one_version():
    about = project()
    assert about["project"]["dynamic"] == ["version"]
    assert about["tool"]["setuptools"]["dynamic"]["version"] == {
        "attr": "interactgraph.__version__"
    }
    assert citation()[0]["version"] == itg.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+)", changelog, re.M)
    assert newest
    assert newest[1] == itg.__version__


def test_the_citation_says_the_same_as_the_project():
    about, (fields, text) = project()["project"], citation()
    assert fields["cff-version"] == "1.2.0"
    assert fields["type"] == "software"
    assert fields["license"] == about["license"]
    assert re.findall(r"^  - name: (.*)$", text, re.M) == [a["name"] for a in about["authors"]]
    keywords = re.findall(r"^  - (.*)$", text.partition("\nkeywords:")[2], re.M)
    assert keywords == about["keywords"]


def test_the_citation_is_valid():
    cffconvert = pytest.importorskip("cffconvert")
    cffconvert.Citation(citation()[1]).validate()


def built(folder):
    """What goes in, the source archive, and the wheel that was built from it alone."""
    tree = folder / "tree"
    names = subprocess.run(
        ["git", "ls-files", "-z", "interactgraph", "pyproject.toml", "README.md", "LICENSE"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, names):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", folder / "dist", tree],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (archive,), (wheel,) = (list((folder / "dist").glob(p)) for p in ("*.tar.gz", "*.whl"))
    return tree, archive, wheel


@pytest.mark.slow
def test_what_is_built(tmp_path):
    pytest.importorskip("build")
    tree, archive, wheel = built(tmp_path)
    check_contents(tree, archive, wheel)
    check_metadata(wheel)
    check_at_work(wheel, tmp_path / "elsewhere")


def check_contents(tree, archive, wheel):
    """The whole package, and nothing else."""
    wanted = {
        path.relative_to(tree).as_posix() for path in tree.rglob("interactgraph/**/*")
        if path.is_file()
    }  # fmt: skip
    wanted = {name for name in wanted if not name.startswith("interactgraph.egg-info/")}
    assert {
        "interactgraph/py.typed",
        "interactgraph/__init__.pyi",
        "interactgraph/report/assets/page.html",
        "interactgraph/zoo/programs/reverse.npz",
    } <= wanted
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    packaged = {name for name in names if not name.startswith("interactgraph-")}
    assert packaged == wanted
    with tarfile.open(archive) as file:
        inside = {name.partition("/")[2] for name in file.getnames()}
    assert wanted | {"pyproject.toml", "README.md", "LICENSE"} <= inside


def check_metadata(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = {Path(name).name: name for name in file.namelist() if ".dist-info/" in name}
        about = email.message_from_bytes(file.read(names["METADATA"]))
        commands = file.read(names["entry_points.txt"]).decode()
    assert about["Name"] == "interactgraph"
    assert about["Version"] == itg.__version__
    assert about["License-Expression"] == "MIT"
    assert about["Requires-Python"] == ">=3.10"
    assert about["Author"] == "The interactgraph developers"
    assert about["Description-Content-Type"] == "text/markdown"
    assert "LICENSE" in names
    assert "interactgraph = interactgraph.cli:main" in commands


def check_at_work(wheel, folder):
    """Unpacked by pip into an empty folder; what it depends on comes from this environment."""
    folder.mkdir()
    place = folder / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", place,
         wheel], check=True,
    )  # fmt: skip
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import interactgraph as itg\n"
        "assert itg.__file__.startswith(sys.argv[1]), itg.__file__\n"
        "net = itg.zoo.compiled('reverse')\n"
        "net = itg.zoo.planted_modules(widths=(8, 12, 8), n_modules=2, n_samples=128)\n"
        "graph = itg.interaction_graph(net.model, net.data, net.layers, progress=False)\n"
        "partition = itg.find_modules(graph, n_runs=2, significance=False)\n"
        "itg.export(graph, 'g.gexf', partition=partition)\n"
        "itg.write_report(graph, 'report.html', partition=partition)\n"
        "from interactgraph.cli import main\n"
        "graph.save('g.safetensors')\n"
        "sys.exit(main(['info', 'g.safetensors']))\n"
    )
    subprocess.run([sys.executable, "-I", "-c", code, place], cwd=folder, check=True)
    assert (folder / "g.gexf").stat().st_size
    assert (folder / "report.html").stat().st_size
