"""Transformers by folder, in Python and on the command line."""

import pytest
import torch

import interactgraph as itg
from interactgraph.cli import main
from interactgraph.model import LayerNames, Runner, resolve_sites

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

WORDS = ["the", "cat", "sat", "on", "mat", "dog", "ran", "far", "away", "and", "came", "back"]
LINES = ["the cat sat on the mat", "the dog ran far away and came back", "the cat ran"]
SIZES = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 3, "vocab_size": 20,
         "intermediate_size": 24}  # fmt: skip


def tokenizer(pad="[PAD]"):
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[EOS]", *WORDS])}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, unk_token="[UNK]", pad_token=pad, eos_token="[EOS]",
        model_max_length=16,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(**SIZES))
    model.to(torch.bfloat16).save_pretrained(tmp_path / "bert")
    tokenizer().save_pretrained(tmp_path / "bert")
    (tmp_path / "lines.txt").write_text("\n".join(LINES))
    return tmp_path / "bert"


def test_a_folder_and_its_texts(folder):
    lm = itg.models.from_pretrained(folder)
    assert {parameter.dtype for parameter in lm.model.parameters()} == {torch.float32}
    graph = itg.interaction_graph(lm.model, lm.batches(LINES), "residual", progress=False)
    assert graph.layers == tuple(f"encoder.layer.{n}" for n in range(3))
    plain = lm.tokenizer(LINES, padding=True, return_tensors="pt")
    loaded = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)
    same = itg.interaction_graph(loaded, plain, ["encoder.layer.*"], progress=False)
    for pair in graph.pairs:
        torch.testing.assert_close(graph.weights(*pair), same.weights(*pair), rtol=2e-3, atol=1e-5)


def test_texts_are_cut_where_the_model_ends(tmp_path):
    torch.manual_seed(0)
    config = transformers.BertConfig(**SIZES, max_position_embeddings=16)
    transformers.BertModel(config).save_pretrained(tmp_path / "short")
    reader = tokenizer()
    reader.model_max_length = int(1e30)
    reader.save_pretrained(tmp_path / "short")
    lm = itg.models.from_pretrained(tmp_path / "short")
    (batch,) = lm.batches(["the cat", "dog " * 30])
    assert batch["input_ids"].shape[1] == 16
    itg.interaction_graph(lm.model, lm.batches(["dog " * 30]), "residual", progress=False,
                          time_budget=1)  # fmt: skip


def test_on_the_command_line(folder, tmp_path, capsys):
    lines, out = tmp_path / "lines.txt", tmp_path / "graph.safetensors"
    status = main([
        "build", f"hf:{folder}", "--text", str(lines), "--layers", "residual", "-o", str(out),
        "--no-progress",
    ])  # fmt: skip
    assert status == 0
    assert "over 3 samples" in capsys.readouterr().out
    assert itg.load(out).layers == tuple(f"encoder.layer.{n}" for n in range(3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hf:{folder}"], "DATA is missing"),
        (["hf:{folder}", "d.py:x", "--text", "{lines}"], "are both given"),
        (["net.py:net", "--text", "{lines}"], "needs a tokenizer"),
        (["hf:{folder}/nothing", "--text", "{lines}"], "there is no folder"),
        (["hf:{folder}", "--text", "{lines}.gone"], "there is no text file"),
    ],
)
def test_what_does_not_go_together(folder, tmp_path, capsys, arguments, message):
    names = {"folder": folder, "lines": tmp_path / "lines.txt"}
    given = [argument.format(**names) for argument in arguments]
    assert (
        main(["build", *given, "--layers", "residual", "-o", str(tmp_path / "g.safetensors")]) == 1
    )
    assert message in capsys.readouterr().err


def test_an_encoder_decoder_decodes_its_own_text(tmp_path):
    torch.manual_seed(0)
    config = transformers.T5Config(
        d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=2, vocab_size=20,
        decoder_start_token_id=0,
    )  # fmt: skip
    transformers.T5Model(config).save_pretrained(tmp_path / "t5")
    tokenizer().save_pretrained(tmp_path / "t5")
    lm = itg.models.from_pretrained(tmp_path / "t5")
    batch = next(iter(lm.batches(LINES[:1])))
    assert batch["decoder_input_ids"][0, 1:].tolist() == batch["input_ids"][0, :-1].tolist()
    graph = itg.interaction_graph(lm.model, lm.batches(LINES), "decoder.residual", progress=False)
    assert graph.layers == ("decoder.block.0", "decoder.block.1")


def test_a_tokenizer_without_padding_takes_its_end(tmp_path):
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=16, n_head=2, n_layer=2, vocab_size=20)
    transformers.GPT2Model(config).save_pretrained(tmp_path / "gpt")
    tokenizer(pad=None).save_pretrained(tmp_path / "gpt")
    lm = itg.models.from_pretrained(tmp_path / "gpt")
    (batch,) = lm.batches(LINES)
    assert batch["input_ids"].max() < 20
    assert int(batch["attention_mask"].sum()) == sum(len(line.split()) for line in LINES)


PRESETS = {
    "Bert": ({}, "encoder.layer.1", "attention.output.dense", "output.dense"),
    "GPT2": ({"n_embd": 16, "n_head": 2, "n_layer": 2}, "h.1", "attn.c_proj", "mlp.c_proj"),
    "Llama": ({}, "layers.1", "self_attn.o_proj", "mlp.down_proj"),
    "Qwen3": ({"num_key_value_heads": 1, "head_dim": 8}, "layers.1", "self_attn.o_proj",
              "mlp.down_proj"),
    "GPTNeoX": ({}, "layers.1", "attention.dense", "mlp.dense_4h_to_h"),
}  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_presets_and_names_of_other_libraries(name):
    sizes, block, attention, mlp = PRESETS[name]
    sizes = sizes if "n_embd" in sizes else {**SIZES, **sizes}
    config = getattr(transformers, f"{name}Config")(**{**sizes, "vocab_size": 20})
    model = getattr(transformers, f"{name}Model")(config)
    expected = {
        "residual": block, "layers_output[1]": block, "blocks.1.hook_resid_post": block,
        "blocks.1.hook_resid_pre": f"{block}.input",
        "attention": f"{block}.{attention}", "blocks.1.hook_attn_out": f"{block}.{attention}",
        "heads": f"{block}.{attention}.input", "blocks.1.attn.hook_z": f"{block}.{attention}.input",
        "mlp": f"{block}.{mlp}.input", "blocks.1.mlp.hook_post": f"{block}.{mlp}.input",
        "blocks.1.hook_mlp_out": f"{block}.{mlp}",
    }  # fmt: skip
    for asked, layer in expected.items():
        found = names(model, asked)
        assert found[1 if len(found) > 1 else 0] == layer


def names(model, asked):
    return LayerNames(model, asked).layers


STREAMS = {
    "GPT2": {"n_embd": 16, "n_head": 2, "n_layer": 2},
    "Llama": SIZES,
    "Gemma2": {**SIZES, "num_key_value_heads": 1, "head_dim": 8, "query_pre_attn_scalar": 8},
    "Olmo2": {**SIZES, "pad_token_id": 0},
    "GPTNeoX": SIZES,
    "GPTNeoX, one after the other": {**SIZES, "use_parallel_residual": False},
}


@pytest.mark.parametrize("name", STREAMS)
def test_what_is_added_to_the_stream_is_what_the_names_say(name):
    """resid_pre + attn_out = resid_mid, and + mlp_out = resid_post."""
    torch.manual_seed(0)
    kind = name.split(",")[0]
    config = getattr(transformers, f"{kind}Config")(**{**STREAMS[name], "vocab_size": 20})
    model = getattr(transformers, f"{kind}Model")(config).eval()
    asked = ["resid_pre", "attn_out", "mlp_out", "resid_post"]
    if name in ("Olmo2", "GPTNeoX"):  # no such place
        with pytest.raises(itg.ModelError, match="has no normalisation between"):
            names(model, "blocks.1.hook_resid_mid")
    else:
        asked.append("resid_mid")
    layers = {hook: names(model, f"blocks.1.hook_{hook}")[0] for hook in asked}
    runner = Runner.on(model, None, None, None)
    sites = [resolve_sites(model, [layer])[0] for layer in layers.values()]
    found = runner.activations({"input_ids": torch.arange(6)[None] + 5}, sites)
    value = {hook: found[layer] for hook, layer in layers.items()}
    middle = value["resid_pre"] + value["attn_out"]
    if "resid_mid" in value:
        torch.testing.assert_close(middle, value["resid_mid"])
    torch.testing.assert_close(middle + value["mlp_out"], value["resid_post"])


@pytest.mark.parametrize("preset", ["attention", "heads", "mlp"])
def test_a_state_space_model_has_no_attention(preset):
    model = transformers.MambaModel(
        transformers.MambaConfig(hidden_size=16, state_size=4, num_hidden_layers=2, vocab_size=20)
    )
    with pytest.raises(itg.ModelError, match=r"block 'layers\.0' \(MambaBlock\) has no"):
        names(model, preset)
    assert names(model, "residual") == ["layers.0", "layers.1"]


def test_heads_are_the_sums_of_their_coordinates():
    """From zero, the attribution of a head is the sum of those of its coordinates."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=16, n_head=4, n_layer=2, vocab_size=20)
    model = transformers.GPT2Model(config).double().eval()
    ids = torch.randint(0, 20, (3, 5))
    options = {"strengths": ("mean",), "progress": False, "n_steps": 64, "tolerance": 1e-6}
    layers = ["h.0.attn.c_proj.input", "h.1"]
    data = [{"input_ids": ids}]
    single = itg.interaction_graph(model, data, layers, **options)
    heads = itg.interaction_graph(model, data, layers, features={layers[0]: "heads"}, **options)
    assert heads.n_features[layers[0]] == 4
    summed = single.weights(*layers).unflatten(1, (4, 4)).sum(-1)
    torch.testing.assert_close(heads.weights(*layers), summed, rtol=1e-6, atol=1e-9)
    assert heads.completeness[tuple(layers)] < 1e-5
