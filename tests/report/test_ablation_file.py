import json
import math

import pytest

import interactgraph as itg
from interactgraph.report import read_ablation


def test_curves(tmp_path):
    entry = {
        "source": "a",
        "target": "b",
        "n_edges": 5,
        "intact": 0.9,
        "curve": [[3, 0.5], [5, 0.9]],
    }
    path = tmp_path / "ablation.json"
    path.write_text(json.dumps([{**entry, "measure": "accuracy"}]))
    curves, effects = read_ablation(path)
    assert curves["a", "b"].curve == {3: 0.5, 5: 0.9}
    assert not effects


def test_effects(tmp_path):
    entry = {
        "module": 1, "size": {"a": 2}, "strongest": {"a": ["x"]}, "share_inside": 0.5,
        "max_activating_samples": [3], "intact": {"accuracy": 0.9},
        "effect": {"features": {"accuracy": 0.4}}, "control": {"features": {"accuracy": []}},
        "control_strength": None, "by_class": {}, "specialisation": {},
    }  # fmt: skip
    path = tmp_path / "ablation.json"
    path.write_text(json.dumps([entry]))
    curves, effects = read_ablation(path)
    assert not curves
    assert effects[0].module == 1
    assert math.isnan(effects[0].control_strength)


NO_POINTS = '[{"source": "a", "target": "b", "n_edges": 1, "intact": 1, "curve": [1]}]'


@pytest.mark.parametrize(
    "text", ["", "3", "[3]", "{}x", '[{"module": 1}]', '[{"curve": 3}]', NO_POINTS]
)
def test_files_that_are_none(text, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(itg.FileError, match="is no result of an ablation"):
        read_ablation(path)


def test_missing_file(tmp_path):
    with pytest.raises(itg.MissingFileError, match="there is no file"):
        read_ablation(tmp_path / "x.json")
