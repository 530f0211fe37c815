import json

import numpy as np
import pytest

from interactgraph import InteractGraphError
from interactgraph.communities import Partition, load_partition
from interactgraph.communities.partition import by_size


def make() -> Partition:
    labels = np.array([7, 7, -1, 3, 3, 3, 7, 3])
    return Partition.from_labels(
        labels, {"a": 3, "b": 5}, quality=0.25, agreement=0.5, z_score=2.0, p_value=0.02, seed=4
    )


@pytest.mark.parametrize(
    ("membership", "match"),
    [
        ([0, 0.5], "holds .*0.5"),
        ([0, -5], "holds .*-5"),
        ([0, 2**70], "holds .*1180591620717411303424"),
        (np.array([0, 2**63], np.uint64), "holds .*9223372036854775808"),
        ([0, None], "holds None"),
        ([0, 1j], "holds .*0"),
        ([0, np.timedelta64(1)], "holds"),
        ([0, np.inf], "holds .*inf"),
        ([[0], [0, 1]], "expected one module number"),
        (["0", "1"], "holds"),
        ([[0, 1]], r"has shape \(1, 2\)"),
        ([0, 2], "without gaps"),
    ],
)
def test_foreign_memberships(membership, match):
    with pytest.raises(InteractGraphError, match=match):
        Partition({"a": membership}, quality=0.0)
    with pytest.raises(InteractGraphError, match="confidence of layer 'a'"):
        Partition({"a": [0, 0]}, quality=0.0, confidence={"a": [1.0]})


def test_modules_are_numbered_by_size():
    partition = make()
    assert partition.membership["a"].tolist() == [1, 1, -1]
    assert partition.membership["b"].tolist() == [0, 0, 0, 1, 0]
    assert partition.n_modules == 2
    assert partition.sizes == [4, 3]
    assert list(partition.modules[0]) == ["b"]
    assert partition.modules[0]["b"].tolist() == [0, 1, 2, 4]
    assert {k: v.tolist() for k, v in partition.modules[1].items()} == {"a": [0, 1], "b": [3]}


def test_numbers_depend_on_the_grouping_only():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 6, 40)
    renamed = generator.permutation(6)[labels] * 10
    assert by_size(labels).tolist() == by_size(renamed).tolist()


def test_saved_and_loaded(tmp_path):
    partition = make()
    partition.save(tmp_path / "p.json")
    again = load_partition(tmp_path / "p.json")
    assert again.labels.tolist() == partition.labels.tolist()
    for name in ("quality", "agreement", "p_value", "z_score", "null", "weighting", "seed"):
        assert getattr(again, name) == getattr(partition, name)
    assert Partition.load(tmp_path / "p.json").layers == ("a", "b")


def test_significance_of_modules(tmp_path):
    labels = np.array([0] * 4 + [1] * 3 + [2] * 2 + [3])
    z = np.array([5.0, 1.9, np.nan, 0.1])
    partition = Partition.from_labels(
        labels, {"a": 10}, quality=0.3, p_value=1e-6, z_score=5, module_z_scores=z
    )
    # Holm: 3 p, 2 p, 1 p of the three that were tested.
    assert partition.module_p_values[:2] == pytest.approx(
        [3 * 2.8665157e-7, 2 * 0.02871656], rel=1e-6
    )
    assert np.isnan(partition.module_p_values[2])
    assert partition.significant_modules == [0]
    told = "1 of 4 modules are more than chance (1 could not be tested)"
    assert told in partition.summary()
    assert "<th>p</th>" in partition._repr_html_()
    assert "<td>5.0</td><td>8.6e-07</td>" in partition._repr_html_()
    partition.save(tmp_path / "p.json")
    again = load_partition(tmp_path / "p.json")
    assert np.array_equal(again.module_z_scores, z, equal_nan=True)
    with pytest.raises(InteractGraphError, match="each of the 1 modules"):
        Partition({"a": [0, 0]}, quality=0.1, module_z_scores=z)


def test_files_without_significance_of_modules(tmp_path):
    make().save(tmp_path / "p.json")
    content = json.loads((tmp_path / "p.json").read_text())
    del content["module_z_scores"]
    (tmp_path / "p.json").write_text(json.dumps(content))
    again = load_partition(tmp_path / "p.json")
    assert len(again.module_p_values) == 0
    assert "<th>p</th>" not in again._repr_html_()


def test_what_was_not_measured_survives_saving(tmp_path):
    Partition({"a": [0, 0]}, quality=0.1).save(tmp_path / "p.json")
    again = Partition.load(tmp_path / "p.json")
    assert np.isnan(again.p_value)
    assert again.significant is None


@pytest.mark.parametrize("text", ["{", "[]", '{"interactgraph_partition": 1}', "\x00\x01"])
def test_broken_files(tmp_path, text):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(InteractGraphError, match="is not a complete partition"):
        Partition.load(tmp_path / "p.json")


def test_other_files(tmp_path):
    with pytest.raises(InteractGraphError, match="there is no partition file"):
        Partition.load(tmp_path / "nothing.json")
    (tmp_path / "p.json").write_text(json.dumps({"a": 1}))
    with pytest.raises(InteractGraphError, match="is not a partition"):
        Partition.load(tmp_path / "p.json")
    (tmp_path / "p.json").write_text(json.dumps({"interactgraph_partition": 99}))
    with pytest.raises(InteractGraphError, match="newer interactgraph"):
        Partition.load(tmp_path / "p.json")


def test_module_numbers_have_no_gaps():
    with pytest.raises(InteractGraphError, match="without gaps"):
        Partition({"a": [0, 2]}, quality=0.0)
    with pytest.raises(InteractGraphError, match="3 features"):
        Partition.from_labels(np.zeros(2, int), {"a": 3}, quality=0.0)


def test_summary_says_when_there_is_nothing():
    assert "2 modules" in make().summary()
    assert "no modular structure" not in make().summary()
    nothing = Partition({"a": [0, 1]}, quality=0.3, p_value=0.4, z_score=0.2)
    assert nothing.summary().startswith("no modular structure found")
    assert not nothing.significant
    assert "no edges" in Partition({"a": [-1]}, quality=0.0).summary()
