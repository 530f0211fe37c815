"""One field for every option: parameters, recipe, checkpoints and flags follow from it."""

import inspect
import json
from dataclasses import fields

import pytest
import torch

import interactgraph as itg
from interactgraph import InteractGraphError
from interactgraph.attribution.options import Options, flags
from interactgraph.cli import parser


def test_interaction_graph_has_the_same_options_with_the_same_defaults():
    parameters = dict(inspect.signature(itg.interaction_graph).parameters)
    for name in ("model", "data"):
        del parameters[name]
    assert list(parameters) == [field.name for field in fields(Options)]
    for field in fields(Options):
        if field.name != "layers":
            assert parameters[field.name].default == field.default, field.name


def test_every_option_is_documented_and_has_a_flag():
    text = inspect.getdoc(itg.interaction_graph)
    build = parser()._subparsers._group_actions[0].choices["build"].format_help()
    for field in fields(Options):
        assert f"{field.name}:" in text
        flag = f"--no-{field.name}" if field.default is True else f"--{field.name}"
        assert flag.replace("_", "-") in build
    assert set(flags()) == {field.name for field in fields(Options)}


def test_recipe_and_identity_are_plain_values():
    options = Options(
        layers=["a", "b"], baseline=torch.ones(3), groups=[0, 1], forward=lambda m, b: m(b),
        features={"a": itg.features.Linear(torch.eye(3))}, dtype=torch.float64,
    )  # fmt: skip
    recipe = json.loads(json.dumps(options.recipe()))
    assert recipe["baseline"] == {"a": "tensor"}
    assert recipe["features"] == {"a": "linear", "b": "neurons"}
    assert recipe["pairs"] == [["a", "b"]]
    other = Options(
        layers=["a", "b"], baseline=torch.zeros(3), dtype=torch.float64,
        features={"a": itg.features.Linear(torch.eye(3))},
    )  # fmt: skip
    found = [json.loads(json.dumps(each.identity())) for each in (options, other)]
    assert found[0]["baseline"] != found[1]["baseline"]
    assert found[0]["features"] == found[1]["features"]


def test_options_are_checked_once_and_frozen():
    options = Options(layers=["a", "b"], n_steps=4.0, strengths="max")
    assert (options.n_steps, options.strengths) == (4, ("max",))
    with pytest.raises(AttributeError):
        options.n_steps = 3
    with pytest.raises(InteractGraphError, match="n_steps=0"):
        Options(layers=["a", "b"], n_steps=0, tolerance=None)


def test_public_names_can_be_reached():
    for name in itg.__all__:
        assert getattr(itg, name) is not None
    assert {"validation", "communities", "report", "exporters", "ablate_modules"} <= set(dir(itg))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "captum"}, "is unknown"),
        ({"method": "expected_gradients", "engine": "closed_form"}, "has no engine='closed_form'"),
        ({"method": "expected_gradients", "sources": 2}, "sources=2 does not apply"),
        ({"method": "baseline_gradient", "sources": 2}, "sources=2 does not apply"),
        ({"method": "ablation", "engine": "forward"}, "differentiates nothing"),
        ({"checkpoint_seconds": "x"}, "checkpoint_seconds='x'"),
        ({"checkpoint_seconds": -1}, "must not be negative"),
    ],
)
def test_options_that_do_not_apply_are_refused(options, match):
    model, data = torch.nn.Sequential(torch.nn.Linear(3, 2)), [torch.randn(4, 3)]
    with pytest.raises(InteractGraphError, match=match):
        itg.interaction_graph(model, data, ["input", "0"], progress=False, **options)


def test_every_parameter_reaches_the_options(monkeypatch):
    given = {}

    def options(**values):
        given.update(values)
        raise KeyboardInterrupt

    monkeypatch.setattr("interactgraph.run.Options", options)
    parameters = {
        name: object() for name in inspect.signature(itg.interaction_graph).parameters
        if name not in ("model", "data", "layers")
    }  # fmt: skip
    model, data = torch.nn.Sequential(torch.nn.Linear(3, 2)), [torch.randn(4, 3)]
    with pytest.raises(KeyboardInterrupt):
        itg.interaction_graph(model, data, ["input", "0"], **parameters)
    assert given == {"layers": ["input", "0"], **parameters}
