"""`interactgraph supernodes`."""

import json

import interactgraph as itg
from interactgraph.cli import main


def test_supernodes(tmp_path, capsys):
    value = itg.zoo.planted_attribution_graph(3).content
    path, out = tmp_path / "in.json", tmp_path / "out.json"
    path.write_text(json.dumps(value))
    page = tmp_path / "groups.html"
    assert main(["supernodes", str(path), "-o", str(out), "--page", str(page)]) == 0
    groups = itg.supernodes(path)
    printed = capsys.readouterr().out
    assert f"{len(groups)} groups suggested" in printed
    assert "Neuronpedia draws pinned ones only" in printed
    graph = itg.load_attribution_graph(path)
    shown, partition = itg.circuits.as_interaction_graph(graph, groups)
    itg.write_report(shown, tmp_path / "wanted.html", partition=partition)
    assert page.read_text() == (tmp_path / "wanted.html").read_text()
    found = json.loads(out.read_text())
    assert found["qParams"]["supernodes"] == [[group.label, *group.ids] for group in groups]
    found["qParams"]["supernodes"] = []
    assert found == value
    assert main(["supernodes", str(path), "-o", str(out), "--page", str(out)]) == 1
    assert "give two files" in capsys.readouterr().err
    assert json.loads(out.read_text())["qParams"]["supernodes"]
    path.write_text("{")
    assert main(["supernodes", str(path), "-o", str(out)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("interactgraph: ")
    assert error.count("\n") == 1
