"""Dictionaries: codes, the error as a feature, dead features, modules as they come."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from interactgraph import InteractGraphError, fit_features
from interactgraph.features import Dictionary, Neurons, from_state

D, F = 5, 12


def tensors():
    generator = torch.Generator().manual_seed(0)

    def r(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {"encoder": r(F, D), "decoder": r(D, F), "encoder_bias": r(F), "decoder_bias": r(D),
            "offset": r(D)}  # fmt: skip


def activation():
    return torch.randn(7, 3, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


OPTIONS = {
    "relu": {},
    "jumprelu": {"threshold": 0.5},
    "topk": {"k": 3},
    "abstopk": {"k": 3},
    "none": {},
}


@pytest.mark.parametrize("name", list(OPTIONS))
def test_codes(name):
    t, f = tensors(), activation()
    found = Dictionary(**t, activation=name, **OPTIONS[name]).encode(f)[..., :-1]
    for b in range(7):
        for s in range(3):
            p = t["encoder"] @ (f[b, s] - t["offset"]) + t["encoder_bias"]
            if name == "relu":
                p = p.clamp_min(0)
            elif name == "jumprelu":
                p[p <= 0.5] = 0
            elif name == "topk":
                p[p.argsort(descending=True)[3:]] = 0
                p = p.clamp_min(0)
            elif name == "abstopk":
                p[p.abs().argsort(descending=True)[3:]] = 0
            torch.testing.assert_close(found[b, s], p)


@pytest.mark.parametrize("name", list(OPTIONS))
def test_the_error_feature_makes_decoding_exact(name):
    f = activation()
    plain = Dictionary(**tensors(), activation=name, **OPTIONS[name])
    here = plain.at(f)
    z = here.encode(f)
    assert z.shape == (7, 3, F + 1)
    torch.testing.assert_close(here.decode(z), f)
    t = tensors()
    error = f - (z[..., :-1] @ t["decoder"].T + t["decoder_bias"])
    torch.testing.assert_close(z[..., -1], error.norm(dim=-1))
    # Moving the error feature alone moves along the error.
    half = z.clone()
    half[..., -1] /= 2
    torch.testing.assert_close(here.decode(half), f - error / 2)
    # Without the direction, the error's size is known and decoding leaves it out.
    torch.testing.assert_close(plain.encode(f), z)
    torch.testing.assert_close(plain.decode(z), f - error)


NORMALIZATIONS = {
    "layer_norm": lambda f: (f.mean(-1, keepdim=True), f.std(-1, keepdim=True), 1e-5),
    "constant_norm_rescale": lambda f: (0, f.norm(dim=-1, keepdim=True) / D**0.5, 0),
}


def normalised(name):
    t = tensors()

    def codes(f, of):
        center, scale, epsilon = NORMALIZATIONS[name](of)
        p = ((f - center) / (scale + epsilon) - t["offset"]) @ t["encoder"].T + t["encoder_bias"]
        return p.clamp_min(0)

    def output(z, of):
        center, scale, _ = NORMALIZATIONS[name](of)
        return (z @ t["decoder"].T + t["decoder_bias"]) * scale + center

    return Dictionary(**t, normalization=name), codes, output


@pytest.mark.parametrize("name", list(NORMALIZATIONS))
def test_normalised_activations(name):
    """Mean and scale are those of the samples, whatever moves afterwards."""
    plain, codes, output = normalised(name)
    f = 3 * activation() + 1
    here = plain.at(f)
    z = here.encode(f)
    torch.testing.assert_close(z[..., :-1], codes(f, f))
    torch.testing.assert_close(plain.encode(f), z)
    torch.testing.assert_close(here.decode(z), f)
    error = f - output(codes(f, f), f)
    torch.testing.assert_close(z[..., -1], error.norm(dim=-1))
    # Moved features move the activation by the scale of the sample.
    half = torch.cat([z[..., :-1] / 2, z[..., -1:]], -1)
    torch.testing.assert_close(here.decode(half), output(codes(f, f) / 2, f) + error)
    # A moved activation is normalised as the sample is.
    found = here.encode(2 * f)
    torch.testing.assert_close(found[..., :-1], codes(2 * f, f))
    direction = error / error.norm(dim=-1, keepdim=True)
    along = ((2 * f - output(codes(2 * f, f), f)) * direction).sum(-1)
    torch.testing.assert_close(found[..., -1], along)
    # Samples of before are forgotten.
    torch.testing.assert_close(here.at(2 * f).encode(2 * f), plain.at(2 * f).encode(2 * f))


@pytest.mark.parametrize("name", list(NORMALIZATIONS))
def test_normalised_dictionaries_without_an_error(name):
    plain, codes, output = normalised(name)
    f, without = activation(), replace(plain, error=False)
    assert without.depends_on_sample
    z = without.encode(f)
    torch.testing.assert_close(z, codes(f, f))
    torch.testing.assert_close(without.at(f).decode(z), output(z, f))
    with pytest.raises(InteractGraphError, match=r"dictionary\.at\(activation\)\.decode"):
        without.decode(z)
    config, _ = without.at(f).state()
    assert config["scale"] is config["center"] is None
    assert from_state(*without.at(f).state()).normalization == name


def test_activations_without_a_scale():
    plain, _, _ = normalised("constant_norm_rescale")
    here = plain.at(torch.zeros(2, D).double())
    z = here.encode(torch.zeros(2, D).double())
    assert z.isfinite().all()
    torch.testing.assert_close(here.decode(z), torch.zeros(2, D).double())
    with pytest.raises(InteractGraphError, match="of one coordinate"):
        Dictionary(torch.ones(3, 1), torch.ones(1, 3), normalization="layer_norm")


def test_one_activation_around_many_samples():
    """A baseline of one sample is encoded along the error directions of all."""
    f = activation()
    here = Dictionary(**tensors()).at(f)
    z0 = here.encode(torch.zeros_like(f[:1]))
    assert z0.shape == (7, 3, F + 1)
    assert (z0[..., -1].std(0) > 0).all()


def test_dead_features_are_dropped():
    t = tensors()
    t["encoder_bias"][[2, 7]] = -100.0
    model = nn.Sequential(nn.Identity(), nn.Linear(D, 2)).double()
    f = activation()[:, 0]
    given = Dictionary(**t, activation="jumprelu", threshold=0.1, drop_dead=True)
    assert not given.is_fitted
    found = fit_features(model, f, {"0": given, "1": Neurons()}, progress=False)["0"]
    codes = Dictionary(**t, activation="jumprelu", threshold=0.1).encode(f)[:, :-1]
    alive = (codes != 0).any(0).nonzero().flatten()
    assert not {2, 7} & set(alive.tolist())
    assert found.alive.tolist() == alive.tolist()
    assert found.n_given == F
    assert found.n_features == len(alive) + 1
    torch.testing.assert_close(found.rate, (codes[:, alive] != 0).double().mean(0))
    torch.testing.assert_close(found.encode(f)[:, :-1], codes[:, alive])


def test_state_round_trip():
    f = activation()
    given = Dictionary(**tensors(), activation="jumprelu", threshold=0.3).bind("x", f.shape, 2)
    again = from_state(*given.at(f).state())
    assert again.direction is None
    torch.testing.assert_close(again.encode(f), given.encode(f), rtol=0, atol=0)


def test_modules():
    t = tensors()

    class Autoencoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.W_enc, self.W_dec = nn.Parameter(t["encoder"].T), nn.Parameter(t["decoder"].T)
            self.b_enc, self.b_dec = (
                nn.Parameter(t["encoder_bias"]),
                nn.Parameter(t["decoder_bias"]),
            )

    class Layers(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = nn.Linear(D, F).double(), nn.Linear(F, D).double()

    f = activation()
    one = Dictionary.from_module(Autoencoder(), offset=t["offset"])
    torch.testing.assert_close(one.encode(f), Dictionary(**t).encode(f))
    layers = Layers()
    two = Dictionary.from_module(layers, error=False)
    torch.testing.assert_close(two.encode(f), layers.encoder(f).relu())
    torch.testing.assert_close(two.decode(two.encode(f)), layers.decoder(layers.encoder(f).relu()))
    with pytest.raises(InteractGraphError, match=r"Linear holds neither W_enc"):
        Dictionary.from_module(nn.Linear(2, 2))


def test_random_control():
    f = activation()
    one = Dictionary.random(D, 40, k=4, seed=3)
    assert ((one.encode(f)[..., :-1] != 0).sum(-1) <= 4).all()
    torch.testing.assert_close(one.encoder.norm(dim=1), torch.ones(40).double())
    torch.testing.assert_close(one.encoder, Dictionary.random(D, 40, seed=3).encoder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder": torch.ones(F, D).double()}, "do not fit"),
        ({"encoder_bias": torch.ones(3).double()}, "encoder_bias has shape"),
        ({"activation": "gelu"}, "'gelu' is unknown"),
        ({"encoder": [[1.0]]}, "encoder is a list; it must be a torch.Tensor"),
        ({"decoder": torch.ones(D, F, dtype=torch.int64)}, "decoder is a torch.int64"),
        ({"offset": torch.full((D,), torch.nan).double()}, "offset holds NaN"),
        ({"activation": "jumprelu"}, "needs threshold"),
        ({"activation": "jumprelu", "threshold": torch.ones(3)}, "threshold has shape"),
        ({"activation": "topk"}, "k between 1 and 12"),
        ({"activation": "topk", "k": 13}, "k between 1 and 12"),
        ({"activation": "abstopk"}, "'abstopk' needs k between 1 and 12"),
        (
            {"normalization": "batch_norm"},
            "'batch_norm' is unknown; choose one of none, layer_norm",
        ),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InteractGraphError, match=message):
        Dictionary(**{**tensors(), **options})


def test_bound_to_another_size():
    with pytest.raises(InteractGraphError, match="reads 5 coordinates"):
        Dictionary(**tensors()).bind("fc", torch.Size([2, 4]), 1)


def test_a_dictionary_that_never_fires():
    t = tensors()
    t["encoder_bias"] -= 1000
    model = nn.Sequential(nn.Identity(), nn.Linear(D, 2)).double()
    with pytest.raises(InteractGraphError, match="no feature of the dictionary of layer '0' fires"):
        fit_features(
            model, activation()[:, 0], {"0": Dictionary(**t, drop_dead=True), "1": Neurons()},
            progress=False,
        )  # fmt: skip


def test_ties_of_the_k_largest():
    same = Dictionary(torch.ones(12, 4), torch.ones(4, 12), activation="topk", k=3, error=False)
    codes = same.bind("a", torch.Size((2, 4)), 1).encode(torch.rand(2, 4))
    assert ((codes != 0).sum(-1) == 3).all()


def test_activation_of_a_module_with_linear_layers():
    class Own(nn.Module):
        def __init__(self, **attributes):
            super().__init__()
            self.encoder, self.decoder = nn.Linear(4, 9), nn.Linear(9, 4)
            for name, value in attributes.items():
                setattr(self, name, value)

    assert Dictionary.from_module(Own()).activation == "relu"
    jump = Dictionary.from_module(Own(threshold=nn.Parameter(torch.rand(9))))
    assert jump.activation == "jumprelu"
    top = Dictionary.from_module(Own(k=3))
    assert (top.activation, top.k) == ("topk", 3)


class Saved(nn.Module):
    """Sparse autoencoders as known libraries lay them out."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        if kind == "matrices":
            self.W_enc, self.W_dec = (nn.Parameter(torch.randn(n)) for n in ((4, 9), (9, 4)))
            self.b_enc, self.b_dec = nn.Parameter(torch.randn(9)), nn.Parameter(torch.randn(4))
            return
        before = kind == "biases before the layers"
        self.encoder = nn.Linear(4, 9, bias=not before)
        self.decoder = nn.Linear(9, 4, bias=False)
        if before:
            self.pre_bias, self.latent_bias = (nn.Parameter(torch.randn(n)) for n in (4, 9))
        else:
            self.bias = nn.Parameter(torch.randn(4))

    def encode(self, x):
        if self.kind == "matrices":
            return ((x - self.b_dec) @ self.W_enc + self.b_enc).relu()
        if self.kind == "one bias":
            return self.encoder(x - self.bias).relu()
        return (self.encoder(x - self.pre_bias) + self.latent_bias).relu(), "statistics"

    def decode(self, codes):
        if self.kind == "matrices":
            return codes @ self.W_dec + self.b_dec
        return self.decoder(codes) + (self.bias if self.kind == "one bias" else self.pre_bias)


@pytest.mark.parametrize("kind", ["matrices", "one bias", "biases before the layers"])
def test_layouts_of_other_libraries(kind):
    torch.manual_seed(0)
    module, x = Saved(kind).train(), torch.randn(20, 4)
    found = Dictionary.from_module(module, error=False)
    codes = module.encode(x)
    codes = codes if isinstance(codes, torch.Tensor) else codes[0]
    torch.testing.assert_close(found.encode(x), codes.detach())
    torch.testing.assert_close(found.decode(codes), module.decode(codes))
    assert module.training
    assert Dictionary.from_module(module, normalization="layer_norm").encode(x).isfinite().all()
    # What is asked for wins over what the module does.
    assert Dictionary.from_module(module, activation="none").activation == "none"


def test_modules_that_do_something_else_are_refused():
    class Scaled(Saved):
        def encode(self, x):
            return super().encode(x / x.norm(dim=-1, keepdim=True))

    with pytest.raises(InteractGraphError, match=r"Scaled\.encode gives other codes"):
        Dictionary.from_module(Scaled("matrices"))
    gated = Saved("matrices")
    gated.gate, gated.encode = nn.Parameter(torch.ones(9)), None
    with pytest.raises(InteractGraphError, match=r"has parameters \['gate'\]"):
        Dictionary.from_module(gated)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("threshold", [0.1, 300.0])
def test_codes_of_modules_are_compared_where_they_fire(dtype, threshold):
    class Jumping(Saved):
        def encode(self, x):
            if x.ndim != 3:
                raise ValueError("sequences only")
            self.calls += 1
            p = (x - self.b_dec) @ self.W_enc + self.b_enc
            return torch.where(p > self.threshold, p, 0)

    torch.manual_seed(0)
    module = Jumping("matrices")
    module.threshold = nn.Parameter(torch.full((9,), threshold))
    module.register_buffer("calls", torch.zeros(()))
    found = Dictionary.from_module(module.to(dtype))
    assert torch.equal(found.offset, module.b_dec)
    assert module.calls == 0


def test_a_threshold_beside_a_number_of_codes():
    class Either(Saved):
        def encode(self, x):
            p = ((x - self.b_dec) @ self.W_enc + self.b_enc).relu()
            values, places = p.topk(self.k, -1)
            return torch.zeros_like(p).scatter(-1, places, values)

    torch.manual_seed(0)
    module = Either("matrices")
    module.k, module.threshold = 3, nn.Parameter(torch.tensor(-1.0))
    found = Dictionary.from_module(module)
    assert (found.activation, found.k) == ("topk", 3)
