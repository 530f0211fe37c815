"""Transcoders: the map itself, and graphs across the MLPs that they take the place of."""

from dataclasses import replace

import networks
import pytest
import reference
import torch
from torch import nn

import interactgraph as itg
from interactgraph import InteractGraphError, ModelError, fit_features
from interactgraph.features import Dictionary, Neurons, Transcoder
from interactgraph.layers import Layers
from interactgraph.model import Runner, resolve_sites

SIZE, F, POSITIONS = 4, 7, 3


class Residual(nn.Module):
    """Two MLPs beside a residual stream, with a norm before each."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, SIZE)
        self.norms = nn.ModuleList(nn.LayerNorm(SIZE) for _ in range(2))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(SIZE, 6), nn.GELU(), nn.Linear(6, SIZE)) for _ in range(2)
        )
        self.head = nn.Linear(SIZE, 2)

    def forward(self, x):
        x = self.embed(x)
        for norm, mlp in zip(self.norms, self.mlps, strict=True):
            x = x + mlp(norm(x))
        return self.head(x)


def residual():
    torch.manual_seed(0)
    return Residual().double().eval(), torch.randn(5, POSITIONS, 3).double().split(3)


def transcoder(seed, *, skip=True, **options):
    generator = torch.Generator().manual_seed(seed)

    def r(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64) / 2

    return Transcoder(
        r(F, SIZE), r(SIZE, F), r(F), r(SIZE), skip=r(SIZE, SIZE) if skip else None, **options
    )


def predicted(t, x):
    """Codes and output of a transcoder, by its formula."""
    z = (x @ t.encoder.T + t.encoder_bias).relu()
    skipped = 0 if t.skip is None else x @ t.skip.T
    return z, z @ t.decoder.T + t.decoder_bias + skipped


def both(model, x, n):
    """What the MLP of a layer reads and gives."""
    stream = model.embed(x)
    for norm, mlp in zip(model.norms[:n], model.mlps[:n], strict=True):
        stream = stream + mlp(norm(stream))
    read = model.norms[n](stream)
    return stream, read, model.mlps[n](read)


@pytest.mark.parametrize("normalization", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("skip", [True, False])
def test_the_error_feature_makes_decoding_exact(normalization, skip):
    t = transcoder(0, skip=skip, normalization=normalization)
    f = torch.randn(6, POSITIONS, 2 * SIZE).double()
    here = t.at(f)
    z = here.encode(f)
    torch.testing.assert_close(here.decode(z), f)
    torch.testing.assert_close(t.encode(f), z)
    x, y = f.split(SIZE, -1)
    if normalization == "none":
        codes, output = predicted(t, x)
        torch.testing.assert_close(z[..., :-1], codes)
        torch.testing.assert_close(z[..., -1], (y - output).norm(dim=-1))
    # The input stays that of the samples, the output goes where features move it.
    moved = here.decode(torch.zeros_like(z))
    torch.testing.assert_close(moved[..., :SIZE], x)
    rest = t.decoder_bias + (x @ t.skip.T if skip else torch.zeros_like(x))
    torch.testing.assert_close(moved[..., SIZE:], rest)


def test_input_and_output_of_other_sizes():
    wide = Transcoder(torch.randn(9, 3), torch.randn(5, 9), skip=torch.randn(5, 3))
    f = torch.randn(4, 8)
    bound = wide.bind("mlp", f.shape, 1)
    here = bound.at(f)
    torch.testing.assert_close(here.decode(here.encode(f)), f)
    assert bound.n_features == 10
    directions, z = here.directions, here.encode(f)
    step = torch.zeros_like(z)
    step[:, 2], step[:, -1] = 0.5, 2.0
    moved = here.decode(z + step) - here.decode(z)
    torch.testing.assert_close(moved, 0.5 * directions.rows[2] + 2 * directions.extra)


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("engine", ["auto", "forward", "reverse"])
def test_from_transcoder_to_transcoder(engine, skip):
    """Against plain autograd: write at the first output, read at the second input."""
    model, data = residual()
    one, two = transcoder(0, skip=skip), transcoder(1)
    graph = itg.interaction_graph(
        model, data, ["mlps.0", "mlps.1"], features={"mlps.0": one, "mlps.1": two}, n_steps=40,
        tolerance=None, engine=engine, progress=False,
    )  # fmt: skip
    assert graph.n_features == {"mlps.0": F + 1, "mlps.1": F + 1}
    a = []
    for x in data:
        with torch.no_grad():
            stream, read, given = both(model, x, 0)
            codes, output = predicted(one, read)
            missed = (given - output).norm(dim=-1, keepdim=True)
            direction, fixed = (given - output) / missed, output - codes @ one.decoder.T
            _, read_later, given_later = both(model, x, 1)
            wrong = given_later - predicted(two, read_later)[1]
            along = wrong / wrong.norm(dim=-1, keepdim=True)

        def function(z, stream=stream, fixed=fixed, direction=direction, along=along):
            y = stream + z[..., :-1] @ one.decoder.T + fixed + z[..., -1:] * direction
            read = model.norms[1](y)
            codes, output = predicted(two, read)
            error = ((model.mlps[1](read) - output) * along).sum(-1, keepdim=True)
            return torch.cat([codes, error], -1)

        z = torch.cat([codes, missed], -1)
        a.append(reference.attributions(function, z, torch.zeros_like(z), 40))
        torch.testing.assert_close(function(z)[..., -1:], wrong.norm(dim=-1, keepdim=True))
    expected = torch.from_numpy(reference.strengths(a)["rms"])
    assert (expected > 1e-3).sum() > 40
    torch.testing.assert_close(
        graph.weights("mlps.0", "mlps.1"), expected, rtol=1e-9, atol=1e-12
    )  # fmt: skip


def test_between_other_layers():
    """As the target of an earlier layer, and as the source of a later one."""
    model, data = residual()
    t = transcoder(2)
    graph = itg.interaction_graph(
        model, data, ["embed", "mlps.0", "output"], features={"mlps.0": t},
        pairs=[("embed", "mlps.0"), ("mlps.0", "output")], n_steps=40, tolerance=None,
        progress=False,
    )  # fmt: skip
    into, out_of = [], []
    for x in data:
        with torch.no_grad():
            stream, read, given = both(model, x, 0)
            codes, output = predicted(t, read)
            missed = (given - output).norm(dim=-1, keepdim=True)
            direction, fixed = (given - output) / missed, output - codes @ t.decoder.T

        def read_codes(f, direction=direction):
            read = model.norms[0](f)
            codes, output = predicted(t, read)
            error = ((model.mlps[0](read) - output) * direction).sum(-1, keepdim=True)
            return torch.cat([codes, error], -1)

        def write(z, stream=stream, fixed=fixed, direction=direction):
            y = stream + z[..., :-1] @ t.decoder.T + fixed + z[..., -1:] * direction
            return model.head(y + model.mlps[1](model.norms[1](y)))

        z = torch.cat([codes, missed], -1)
        zero = torch.zeros_like
        into.append(reference.attributions(read_codes, stream, zero(stream), 40))
        out_of.append(reference.attributions(write, z, zero(z), 40))
    for pair, a in ((("embed", "mlps.0"), into), (("mlps.0", "output"), out_of)):
        expected = torch.from_numpy(reference.strengths(a)["rms"])
        torch.testing.assert_close(graph.weights(*pair), expected, rtol=1e-9, atol=1e-12)


def test_a_layer_that_is_read_by_name(tmp_path):
    """In a transformer whose MLP is no module of its own, with attention in between."""
    torch.manual_seed(0)
    model = nn.Sequential(networks.Block(SIZE), networks.Block(SIZE)).double()
    data = torch.randn(6, POSITIONS, SIZE).double().split(3)
    maps = {f"{n}.down": transcoder(n, source=f"{n}.ln2") for n in range(2)}
    graph = itg.interaction_graph(
        model, data, list(maps), features=maps, baseline="mean", progress=False
    )
    assert graph.completeness["0.down", "1.down"] < 0.02
    graph.save(tmp_path / "g.safetensors")
    again = itg.load(tmp_path / "g.safetensors").features["1.down"]
    assert (again.kind, again.source, again.inputs) == ("transcoder", "1.ln2", None)
    f = torch.randn(2, POSITIONS, 2 * SIZE).double()
    torch.testing.assert_close(again.encode(f), maps["1.down"].encode(f))
    assert "of the variance unexplained" in graph.metadata["feature_maps"]["1.down"]["remark"]
    assert any("0.down: the dictionary leaves" in note for note in graph.notes)


def test_an_input_that_the_module_changes_in_place():
    def unexplained(inplace):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(3, SIZE), nn.Sequential(nn.ReLU(inplace=inplace), nn.Linear(SIZE, SIZE))
        ).double()
        x = torch.randn(9, 3).double()
        maps = fit_features(model, [x], {"0": Neurons(), "1": transcoder(0)}, progress=False)
        return maps["1"].unexplained

    assert unexplained(True) == unexplained(False)


def test_what_is_read_may_be_replaced():
    """In whatever order the two are named."""
    model, data = residual()
    source, target = resolve_sites(model, ["mlps.0.input", "mlps.0"])
    target, seen = replace(target, reads=source), []

    def look(activation):
        seen.append(activation)
        return activation

    changes = {target: look, source: torch.zeros_like}
    Runner.on(model, None, None, None).output(data[0], changes)
    zero = torch.zeros(3, POSITIONS, SIZE).double()
    torch.testing.assert_close(seen[0], torch.cat([zero, model.mlps[0](zero)], -1))


def test_features_that_never_fire():
    model, data = residual()
    t = transcoder(0, drop_dead=True)
    t.encoder_bias[[1, 4]] = -100
    found = fit_features(model, list(data), {"mlps.0": t, "output": Neurons()}, progress=False)
    fitted = found["mlps.0"]
    x, y = (torch.cat(parts).detach() for parts in zip(
        *(both(model, batch, 0)[1:] for batch in data), strict=True
    ))  # fmt: skip
    codes, output = (each.detach() for each in predicted(t, x))
    assert not {1, 4} & set(fitted.alive.tolist())
    found = fitted.encode(torch.cat([x, y], -1))[..., :-1]
    torch.testing.assert_close(found, codes[..., fitted.alive])
    missed = (y - output).square().sum(-1).mean() / y.flatten(0, 1).var(0).sum()
    assert fitted.unexplained == pytest.approx(float(missed), rel=1e-9)
    assert fitted.active == pytest.approx(float((codes != 0).sum(-1).double().mean()))
    graph = itg.interaction_graph(
        model, data, ["mlps.0", "output"], features={"mlps.0": fitted}, progress=False
    )
    assert graph.completeness["mlps.0", "output"] < 0.02


def test_the_output_alone_is_replaced():
    """With every feature at zero, b + S x is left, and the residual path is as it was."""
    model, data = residual()
    t, pair = transcoder(0), ["mlps.0", "output"]
    with torch.no_grad():
        layers = Layers.look(
            Runner.on(model, None, None, None), data, resolve_sites(model, pair), [tuple(pair)],
            {"mlps.0": t, "output": Neurons()}, baselines={"mlps.0": "zero"},
        ).fitted()  # fmt: skip
        encoded = layers.encode(data[0])
        found = layers.run_on("mlps.0", encoded, torch.zeros_like(encoded.z["mlps.0"]))
        stream, read, _ = both(model, data[0], 0)
        y = stream + t.decoder_bias + read @ t.skip.T
        expected = model.head(y + model.mlps[1](model.norms[1](y)))
    torch.testing.assert_close(found, expected)


def test_a_transcoder_of_the_last_module():
    """Where the layer is the model's output, features are read and replaced as anywhere."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(SIZE, 6), nn.GELU(), nn.Linear(6, SIZE)).double()
    x = torch.randn(9, SIZE).double()
    t, pair = transcoder(0, source="input"), ["0", "output"]
    with torch.no_grad():
        layers = Layers.look(
            Runner.on(model, None, None, None), [x], resolve_sites(model, pair), [tuple(pair)],
            {"0": Neurons(), "output": t}, baselines={"0": "zero"},
        ).fitted()  # fmt: skip
        encoded = layers.encode(x)
        found = layers.run_on("output", encoded, encoded.z["output"])
    torch.testing.assert_close(found, model(x).detach())


def test_wrong_layers():
    model, data = residual()

    def run(layer, t):
        return itg.interaction_graph(
            model, data, [layer, "output"], features={layer: t}, progress=False
        )

    with pytest.raises(ModelError, match=r"'mlps\.1' is not executed before 'mlps\.0'"):
        run("mlps.0", transcoder(0, source="mlps.1"))
    with pytest.raises(ModelError, match=r"layer 'mlp\.0' is not in the model"):
        run("mlps.0", transcoder(0, source="mlp.0"))
    with pytest.raises(InteractGraphError, match=r"reads 4 coordinates of 'input' and gives 4"):
        run("mlps.0", transcoder(0, source="input"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder": torch.ones(4, 5)}, r"encoder \(7, 4\) and decoder \(4, 5\) do not fit"),
        ({"skip": torch.ones(4, 5)}, r"skip is torch.Size\(\[4, 5\]\); it must be a tensor"),
        ({"skip": 3}, r"skip is int; it must be a tensor"),
        ({"skip": torch.full((4, 4), torch.nan)}, "skip holds NaN"),
        ({"offset": torch.ones(5)}, "offset has shape"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InteractGraphError, match=message):
        Transcoder(**{"encoder": torch.ones(7, 4), "decoder": torch.ones(4, 7), **options})


def test_decoding_needs_samples():
    t = transcoder(0)
    with pytest.raises(InteractGraphError, match="a transcoder decodes around samples"):
        t.decode(torch.zeros(2, F + 1).double())
    f = torch.randn(3, 2 * SIZE).double()
    # Samples of before are forgotten.
    torch.testing.assert_close(t.at(f).at(2 * f).encode(2 * f), t.at(2 * f).encode(2 * f))


def test_modules_that_are_transcoders():
    class Module(nn.Module):
        def __init__(self, given):
            super().__init__()
            self.W_enc = nn.Parameter(torch.randn(4, 9))
            self.W_dec = nn.Parameter(torch.randn(9, given))
            self.b_enc, self.b_dec = nn.Parameter(torch.randn(9)), nn.Parameter(torch.randn(given))
            self.W_skip = nn.Parameter(torch.randn(given, 4))

        def encode(self, x):
            return (x @ self.W_enc + self.b_enc).relu()

        def forward(self, x):
            return self.encode(x) @ self.W_dec + self.b_dec + x @ self.W_skip.T

    torch.manual_seed(0)
    for given in (4, 5):
        module, x = Module(given), torch.randn(6, 4)
        found, f = Transcoder.from_module(module), torch.cat([x, module(x).detach()], -1)
        z = found.encode(f)
        torch.testing.assert_close(z[:, :-1], module.encode(x).detach())
        torch.testing.assert_close(z[:, -1], torch.zeros(6), rtol=0, atol=1e-5)
    with pytest.raises(InteractGraphError, match=r"has W_skip, .* Transcoder\.from_module"):
        Dictionary.from_module(Module(4))


def test_an_autoencoder_is_none():
    assert not isinstance(Dictionary(torch.eye(3), torch.eye(3)), Transcoder)
    assert Dictionary(torch.eye(3), torch.eye(3)).reads("a") is None
