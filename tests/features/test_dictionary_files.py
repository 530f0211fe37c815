"""Dictionaries that other packages have written: codes, output, what cannot be read.

`tests/data/dictionaries/make.py` says how the folders were made, and by which versions.
"""

import json
import pickle
import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from interactgraph import FileError, InputError, InteractGraphError, InteractGraphWarning
from interactgraph.features import Dictionary, Transcoder
from interactgraph.features.reconstruction import Reconstruction

DATA = Path(__file__).parents[1] / "data" / "dictionaries"
SAE_LENS = (
    [
        f"{architecture}{mode}"
        for architecture in ("standard", "jumprelu", "topk", "gated", "transcoder")
        for mode in ("", "-layer_norm", "-constant_norm_rescale")
    ]
    + ["topk-rescaled", "topk-rescaled-layer_norm", "abstopk", "batchtopk", "matryoshka_batchtopk"]
    + ["skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"]
    + ["skip_transcoder-layer_norm", "standard-b_dec_kept", "standard-expected_average_only_in"]
    + ["standard-covariance_whitening", "old-minimal", "old-b_dec_kept", "old-topk"]
    + ["old-topk-renamed", "old-jumprelu", "old-gated", "old-scaling_factor"]
)
FOLDERS = {
    "sae_lens": SAE_LENS,
    "dictionary_learning": [
        "AutoEncoder", "AutoEncoderNew", "AutoEncoderTopK", "BatchTopKSAE",
        "MatryoshkaBatchTopKSAE", "GatedAutoEncoder", "JumpReluAutoEncoder",
    ],
    "sparsify": [
        "sae", "transcoder", "skip_transcoders/layers.0.mlp", "skip_transcoders/layers.1.mlp",
    ],
    "gemma_scope": ["sae", "transcoder"],
    "gemma_scope_2": ["sae", "transcoder", "skip_transcoder"],
    "circuit_tracer": ["relu", "relu_skip", "jumprelu"],
}  # fmt: skip
ALL = [f"{package}/{name}" for package, names in FOLDERS.items() for name in names]
SINGLE = [name for name in ALL if "circuit_tracer" not in name]


def load(name, **options):
    """A Gemma Scope 1 file does not tell what it is, and `Transcoder.load` says it."""
    cls = Transcoder if name == "gemma_scope/transcoder" else Dictionary
    return cls.load(DATA / name, allow_pickle="dictionary_learning" in name, **options)


def check(dictionary, x, codes, output):
    """Codes and reconstruction, read off where the error is known."""
    across = isinstance(dictionary, Transcoder)
    f = torch.cat([x, output], -1) if across else x
    here = dictionary.at(f)
    z = here.encode(f)
    assert torch.allclose(z[:, :-1], codes, rtol=0, atol=1e-5)
    z[:, -1] = 0
    assert torch.allclose(here.decode(z)[:, -output.shape[1] :], output, rtol=0, atol=1e-5)


def test_every_folder_is_tested():
    found = {path.parent.relative_to(DATA).as_posix() for path in DATA.rglob("expected.*")}
    assert found == set(ALL)


@pytest.mark.parametrize("name", SINGLE)
def test_codes_and_output_are_those_of_the_package(name):
    expected = load_file(DATA / name / "expected.safetensors")
    dictionary = load(name)
    assert isinstance(dictionary, Transcoder) == ("transcoder" in name)
    check(dictionary, expected["input"], expected["codes"], expected["output"])


@pytest.mark.parametrize("name", FOLDERS["circuit_tracer"])
@pytest.mark.parametrize("layer", [0, 1])
def test_one_layer_of_circuit_tracer(name, layer):
    folder = DATA / "circuit_tracer" / name
    expected = load_file(folder / "expected.safetensors")
    values = expected["input"], expected["codes"][layer], expected["output"][layer]
    check(Dictionary.load(folder, name=f"layer_{layer}"), *values)
    check(Transcoder.load(folder / f"layer_{layer}.safetensors"), *values)


def test_files_and_folders_further_up(tmp_path):
    file = DATA / "sae_lens/gated/sae_weights.safetensors"
    assert torch.equal(Dictionary.load(file).encoder, load("sae_lens/gated").encoder)
    shutil.copytree(DATA / "sae_lens/gated", tmp_path / "release/blocks.1")
    assert torch.equal(Dictionary.load(tmp_path).encoder, load("sae_lens/gated").encoder)
    # Gemma Scope files have other names in other places.
    shutil.copy(DATA / "gemma_scope_2/sae/params.safetensors", tmp_path / "width_16k.safetensors")
    found = Dictionary.load(tmp_path / "width_16k.safetensors")
    assert torch.equal(found.encoder, load("gemma_scope_2/sae").encoder)
    # What the tensors of sae_lens mean is said by the configuration only.
    shutil.copy(file, tmp_path / "weights.safetensors")
    with pytest.raises(FileError, match=r"no tensor 'w_enc'; it holds \['W_dec', 'W_enc'"):
        Dictionary.load(tmp_path / "weights.safetensors")


def test_where_it_was_trained():
    assert load("sae_lens/topk").hook == "blocks.1.hook_resid_post"
    assert load("sae_lens/old-topk").hook == "mlp_out"
    assert load("sparsify/skip_transcoders/layers.1.mlp").hook == "layers.1.mlp"
    assert load("gemma_scope_2/transcoder").hook.endswith("pre_feedforward_layernorm.output")
    assert load("sae_lens/old-minimal").hook is None
    relu = DATA / "circuit_tracer/relu"
    assert Dictionary.load(relu, name="layer_1").hook == "blocks.1.mlp.hook_in"


@pytest.mark.parametrize("text", [b"model_kind: transcoder_set", b"\xff\xfe", None])
def test_no_word_of_where_it_was_trained(tmp_path, text):
    shutil.copy(DATA / "circuit_tracer/relu/layer_1.safetensors", tmp_path)
    if text is not None:
        (tmp_path / "config.yaml").write_bytes(text)
    assert Dictionary.load(tmp_path).hook is None


def test_options_win():
    found = load("sae_lens/standard", error=False, drop_dead=True, decoder_bias=None)
    assert not found.error
    assert found.drop_dead
    assert not found.decoder_bias.any()


def copied(name, folder, *, config=None, **tensors):
    """A folder of sae_lens or sparsify with some values changed; None leaves one out."""
    shutil.copytree(DATA / name, folder)
    file = next(folder.glob("sae*.safetensors"))
    changed = {**load_file(file), **tensors}
    save_file({k: v.contiguous() for k, v in changed.items() if v is not None}, file)
    if config is not None:
        values = {**json.loads((folder / "cfg.json").read_text()), **config}
        (folder / "cfg.json").write_text(json.dumps(values))
    return folder


def test_layouts_that_no_installed_version_writes(tmp_path):
    """By their documented layout: a factor of the codes, and codes with signs."""
    factor = torch.rand(24) + 0.5
    folder = copied(
        "sae_lens/standard", tmp_path / "a", config={"finetuning_scaling_factor": True},
        scaling_factor=factor,
    )  # fmt: skip
    plain, scaled = load("sae_lens/standard"), Dictionary.load(folder)
    torch.testing.assert_close(scaled.decoder, plain.decoder * factor)
    torch.testing.assert_close(scaled.encoder, plain.encoder)

    signed = Dictionary.load(copied("sparsify/sae", tmp_path / "b", config={"signed": True}))
    x = load_file(DATA / "sparsify/sae/expected.safetensors")["input"]
    p = (x - signed.offset) @ signed.encoder.T + signed.encoder_bias
    p[p.abs() < p.abs().sort(descending=True).values[:, 3:4]] = 0
    assert (p < 0).any()
    torch.testing.assert_close(signed.encode(x)[:, :-1], p)


def test_precision(tmp_path):
    plain = load("sae_lens/jumprelu")
    for dtype, read in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        stored = load_file(DATA / "sae_lens/jumprelu/sae_weights.safetensors")
        changed = {name: value.to(dtype) for name, value in stored.items()}
        found = Dictionary.load(copied("sae_lens/jumprelu", tmp_path / str(dtype), **changed))
        assert found.encoder.dtype == found.threshold.dtype == read
        torch.testing.assert_close(found.encoder, plain.encoder.to(dtype).to(read))
    one = {"b_enc": torch.ones(24, dtype=torch.float64)}
    mixed = Dictionary.load(copied("sae_lens/jumprelu", tmp_path / "mixed", **one))
    assert mixed.encode(torch.ones(1, 8, dtype=torch.float64)).dtype == torch.float64


# --- pickles -------------------------------------------------------------------------------------


class Harmful:
    """Writes a file where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_pickles_are_read_on_request_only(tmp_path):
    name = "dictionary_learning/AutoEncoder"
    with pytest.raises(FileError, match="is a pickle, which can run any code"):
        Dictionary.load(DATA / name)
    shutil.copytree(DATA / name, tmp_path / "a")
    touched = tmp_path / "touched"
    state = torch.load(tmp_path / "a/ae.pt", weights_only=True)
    torch.save({**state, "more": Harmful(touched)}, tmp_path / "a/ae.pt")
    with pytest.raises(FileError):
        Dictionary.load(tmp_path / "a")
    assert not touched.exists()
    found = Dictionary.load(tmp_path / "a", allow_pickle=True)
    assert touched.exists()
    assert torch.equal(found.encoder, load(name).encoder)


def test_a_pickled_module(tmp_path):
    shutil.copytree(DATA / "dictionary_learning/AutoEncoder", tmp_path / "a")
    module = torch.nn.Module()
    module.encoder, module.decoder = torch.nn.Linear(8, 24), torch.nn.Linear(24, 8, bias=False)
    module.bias = torch.nn.Parameter(torch.ones(8))
    torch.save(module, tmp_path / "a/ae.pt")
    found = Dictionary.load(tmp_path / "a", allow_pickle=True)
    torch.testing.assert_close(found.offset, torch.ones(8))


# --- several ------------------------------------------------------------------------------------


def test_several_dictionaries_are_listed(tmp_path):
    with pytest.raises(FileError, match=r"2 dictionaries, choose one .*: layer_0, layer_1$"):
        Dictionary.load(DATA / "circuit_tracer/relu")
    folder = DATA / "sparsify/skip_transcoders"
    with pytest.raises(FileError, match=r"name=...: layers\.0\.mlp, layers\.1\.mlp$"):
        Dictionary.load(folder)
    with pytest.raises(FileError, match=r"none is called 'layers\.2': layers\.0\.mlp, "):
        Dictionary.load(folder, name="layers.2")
    found = Dictionary.load(folder, name="layers.1.mlp")
    assert torch.equal(found.skip, load("sparsify/skip_transcoders/layers.1.mlp").skip)
    for layer in (10, 9):
        shutil.copytree(folder / "layers.0.mlp", tmp_path / f"layers.{layer}")
    with pytest.raises(FileError, match=r"layers\.9, layers\.10$"):
        Dictionary.load(tmp_path)
    with pytest.raises(FileError, match="is one file, and name='a' chooses in a folder"):
        Dictionary.load(folder / "layers.0.mlp/sae.safetensors", name="a")


# --- what cannot be read -------------------------------------------------------------------------


STANDARD = "sae_lens/standard"
WRONG = {
    "encoder of three axes": (
        STANDARD, {"W_enc": torch.ones(8, 24, 2)}, {}, "W_enc is a torch.float32 of shape"),
    "whole numbers": (STANDARD, {"b_enc": torch.ones(24).int()}, {}, "b_enc is a torch.int32"),
    "no bias": (STANDARD, {"b_dec": None}, {}, r"has no tensor 'b_dec'; it holds \['W_dec'"),
    "turned": (STANDARD, {"W_dec": torch.ones(8, 24)}, {}, r"it must be .* shape \(24, any\)"),
    "not finite": (STANDARD, {"b_enc": torch.full((24,), torch.nan)}, {}, "encoder_bias holds NaN"),
    "unknown architecture": (
        STANDARD, {}, {"architecture": "temporal"}, "architecture 'temporal' is unknown; stand"),
    "architecture is no text": (STANDARD, {}, {"architecture": ["topk"]}, "must be text"),
    "unknown activation": (
        STANDARD, {}, {"activation_fn_str": "tanh-relu"}, "activation_fn='tanh-relu' is unknown"),
    "unknown normalisation": (
        STANDARD, {}, {"normalize_activations": "x"}, "normalize_activations='x' is unknown"),
    "not a flag": (STANDARD, {}, {"apply_b_dec_to_input": "yes"}, "must be true or false"),
    "two decoders": (
        STANDARD, {"scaling_factor": torch.rand(24)}, {}, "has no finetuning_scaling_factor"),
    "no k": ("sae_lens/topk", {}, {"k": None}, "k=None must be a whole number"),
    "large k": ("sae_lens/topk", {}, {"k": 25}, "k between 1 and 24, got k=25"),
    "no gate": ("sae_lens/gated", {"b_gate": None}, {}, "has no tensor 'b_gate'"),
    "short gate": ("sae_lens/gated", {"r_mag": torch.ones(3)}, {}, "r_mag is a"),
    "no skip": ("sae_lens/skip_transcoder", {"W_skip": None}, {}, "has no tensor 'W_skip'"),
    "sizes differ": (
        STANDARD, {"W_dec": torch.ones(24, 6), "b_dec": torch.ones(6)}, {}, "b_dec is a"),
    "groups": ("sparsify/sae", {}, {"activation": "groupmax"}, "'groupmax' is unknown; topk is"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_values(case, tmp_path):
    name, tensors, config, message = WRONG[case]
    folder = copied(name, tmp_path / "a", config=config, **tensors)
    with pytest.raises(InteractGraphError, match=message):
        Dictionary.load(folder)


def test_wrong_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        Dictionary.load(tmp_path / "nowhere")
    with pytest.raises(FileError, match="holds no dictionary; readable are sae_lens"):
        Dictionary.load(tmp_path)
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(FileError, match="is no file of a dictionary; readable are"):
        Dictionary.load(tmp_path / "notes.txt")
    shutil.copytree(DATA / STANDARD, tmp_path / "a")
    (tmp_path / "a/cfg.json").write_text("{")
    with pytest.raises(FileError, match=r"cannot read .*cfg\.json"):
        Dictionary.load(tmp_path / "a")
    (tmp_path / "a/cfg.json").write_text("[1]")
    with pytest.raises(FileError, match="holds a list and no table"):
        Dictionary.load(tmp_path / "a")
    (tmp_path / "a/cfg.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"needs its configuration, cfg\.json, in the same"):
        Dictionary.load(tmp_path / "a")
    (tmp_path / "a/sae_weights.safetensors").write_bytes(b"none")
    (tmp_path / "a/cfg.json").write_text("{}")
    with pytest.raises(FileError, match="cannot read"):
        Dictionary.load(tmp_path / "a")
    with pytest.raises(FileError, match="holds no transcoder; read it by Dictionary"):
        Transcoder.load(DATA / STANDARD)
    (tmp_path / "clt").mkdir()
    save_file({"W_enc_0": torch.ones(2, 2)}, tmp_path / "clt/W_enc_0.safetensors")
    with pytest.raises(FileError, match="cross-layer transcoder, whose features write to many"):
        Dictionary.load(tmp_path / "clt")


def test_archives_hold_no_pickles(tmp_path):
    touched, harmful = tmp_path / "touched", np.empty(1, dtype=object)
    harmful[0] = Harmful(tmp_path / "touched")
    np.savez(tmp_path / "params.npz", W_enc=harmful)
    with pytest.raises(FileError, match="cannot read"):
        Dictionary.load(tmp_path, allow_pickle=True)
    assert not touched.exists()
    (tmp_path / "params.npz").write_bytes(pickle.dumps({"W_enc": 1}))
    with pytest.raises(FileError, match="cannot read"):
        Dictionary.load(tmp_path)


PLAIN = (
    st.none() | st.booleans() | st.integers(-2, 40) | st.floats() | st.text(max_size=5)
    | st.sampled_from(["topk", "gated", "layer_norm", "skip_transcoder", "AutoEncoderTopK"])
)  # fmt: skip
JSON = PLAIN | st.lists(PLAIN, max_size=2) | st.dictionaries(st.text(max_size=3), PLAIN, max_size=2)
KEYS = [
    "architecture", "activation_fn", "activation_fn_str", "activation_fn_kwargs", "k", "trainer",
    "normalize_activations", "apply_b_dec_to_input", "rescale_acts_by_decoder_norm", "metadata",
    "finetuning_scaling_factor", "transcode", "skip_connection", "signed", "activation",
    "dict_class", "hf_hook_point_in", "hf_hook_point_out",
]  # fmt: skip
TENSORS = [
    "W_enc", "W_dec", "b_enc", "b_dec", "threshold", "b_gate", "b_mag", "r_mag", "W_skip", "bias",
    "scaling_factor", "encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias", "w_enc",
    "w_dec", "activation_function.threshold", "affine_skip_connection",
]  # fmt: skip
SHAPES = st.lists(st.sampled_from([0, 1, 3, 4]), max_size=3).map(tuple)
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool, torch.complex64])


def no_other_error(write):
    """Loading what was written gives a dictionary or says what is wrong with it."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        try:
            Dictionary.load(folder, allow_pickle=True)
        except InteractGraphError:
            return


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from([name for name in SINGLE if "gemma_scope/" not in name]),
    config=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4),
    inside=st.booleans(),
)
def test_any_configuration(name, config, inside):
    def write(folder):
        shutil.copytree(DATA / name, folder, dirs_exist_ok=True)
        for file in folder.glob("c*.json"):
            old = json.loads(file.read_text())
            changed = old | config
            if inside and "trainer" in old:
                changed = {"trainer": old["trainer"] | config}
            file.write_text(json.dumps(changed))

    no_other_error(write)


@settings(max_examples=200, deadline=None)
@given(
    file=st.sampled_from(
        ["sae_weights.safetensors", "sae.safetensors", "ae.pt", "params.npz", "params.safetensors",
         "layer_0.safetensors"]),
    shapes=st.dictionaries(st.sampled_from(TENSORS), st.tuples(SHAPES, DTYPES), max_size=19),
    config=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=6),
)  # fmt: skip
def test_any_tensors(file, shapes, config):
    def write(folder):
        tensors = {name: torch.ones(shape).to(dtype) for name, (shape, dtype) in shapes.items()}
        for name in ("cfg.json", "config.json"):
            (folder / name).write_text(json.dumps(config))
        if file == "ae.pt":
            torch.save(tensors, folder / file)
        elif file == "params.npz":
            np.savez(folder / file, **{name: value.numpy() for name, value in tensors.items()})
        else:
            save_file(tensors, folder / file)

    no_other_error(write)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(SINGLE),
    start=st.floats(0, 1),
    piece=st.binary(max_size=64),
    cut=st.booleans(),
)
def test_damaged_files(name, start, piece, cut):
    def write(folder):
        shutil.copytree(DATA / name, folder, dirs_exist_ok=True)
        (folder / "expected.safetensors").unlink()
        for file in folder.iterdir():
            content = file.read_bytes()
            at = int(start * len(content))
            rest = b"" if cut else content[at + len(piece) :]
            file.write_bytes(content[:at] + piece + rest)

    no_other_error(write)


# --- measured on data ----------------------------------------------------------------------------


def test_data_that_the_dictionary_is_measured_on():
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(3000, 8, generator=generator) + 5
    for name in ("sae_lens/topk", "sae_lens/topk-layer_norm"):
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            found = load(name, data=x.reshape(3, 1000, 8))
        here = found.at(x)
        z = here.encode(x)
        missing = x - here.decode(torch.cat([z[:, :-1], torch.zeros(3000, 1)], -1))
        unexplained = missing.square().sum(-1).double().mean() / x.double().var(0).sum()
        assert found.unexplained == pytest.approx(float(unexplained), rel=1e-5)
        assert found.active == pytest.approx(float((z[:, :-1] != 0).sum(-1).double().mean()))
    assert found.remark.endswith("features active on average")


def test_the_wrong_hook_is_said():
    x = torch.randn(50, 8) * 100
    with pytest.warns(InteractGraphWarning, match=r"its file says 'blocks\.1\.hook_resid_post'"):
        load("sae_lens/standard", data=x)
    known = torch.eye(8)
    plain = Dictionary(known, known, activation="none")
    assert plain.measured(x).unexplained == pytest.approx(0, abs=1e-9)
    assert plain.measured(x).doubts("a") == []
    assert plain.measured(x[:1]).unexplained is None
    assert plain.measured(torch.ones(9, 8)).unexplained is None
    # Of few rows, too, it is about that of many.
    torch.manual_seed(0)
    half = Dictionary(known, known / 2, activation="none")
    few = [half.measured(torch.randn(3, 8)).unexplained for _ in range(400)]
    assert sum(few) / 400 == pytest.approx(0.25, rel=0.1)
    assert plain.measured(x[:0]).active is None


def test_large_means_cancel():
    torch.manual_seed(0)
    x, errors = torch.randn(400, 3).double(), torch.randn(400, 3).double()
    seen = Reconstruction()
    for part, missed in zip((x + 1e9).split(150), errors.split(150), strict=True):
        seen.add(part, missed, torch.eye(3)[:2].repeat(len(part) // 2, 1))
    expected = errors.square().sum(-1).mean() / x.var(0).sum()
    assert seen.unexplained == pytest.approx(float(expected), rel=1e-6)
    assert seen.active == 1


def test_data_of_a_transcoder():
    name = "sae_lens/skip_transcoder"
    expected = load_file(DATA / name / "expected.safetensors")
    found = load(name, data=(expected["input"], expected["output"]))
    assert found.unexplained < 1e-9
    with pytest.warns(InteractGraphWarning, match="variance unexplained"):
        load(name, data=(expected["input"], 9 * expected["output"].flip(0)))
    with pytest.raises(InputError, match=r"must be \(inputs \[\.\.\., 8\], outputs \[\.\.\., 6\]"):
        load(name, data=expected["input"])


@pytest.mark.parametrize("data", [torch.ones(4, 5), [1.0], torch.ones(0, 8), torch.ones(4).int()])
def test_data_of_another_kind(data):
    with pytest.raises(InputError, match="data "):
        load("sae_lens/standard", data=data)
