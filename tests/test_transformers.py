"""Transformers as they come: the integral they claim to be, what is frozen, what is causal.

Small random configurations; a trained one is in `benchmarks/path_nodes.py`.
"""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from reference import attributions
from torch.nn import functional as F

import interactgraph as itg
from interactgraph.attribution import planner
from interactgraph.attribution.methods.factored_maps import FactoredMaps
from interactgraph.model import Runner, prepared, resolve_sites

transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "vocab_size": 50}
MLP = {**SIZES, "intermediate_size": 24}
GROUPED = {**MLP, "num_key_value_heads": 1, "head_dim": 8}
EXPERTS = {**GROUPED, "num_local_experts": 3, "num_experts_per_tok": 2}
MODELS = {
    "GPT2": ("h", {"n_embd": 16, "n_head": 2, "n_layer": 2, "vocab_size": 50}),
    "Llama": ("layers", MLP),
    "Gemma2": ("layers", {**GROUPED, "query_pre_attn_scalar": 8}),
    "GPTNeoX": ("layers", MLP),
    "Bert": ("encoder.layer", MLP),
    "Mamba": (
        "layers",
        {"hidden_size": 16, "state_size": 4, "num_hidden_layers": 2, "vocab_size": 50},
    ),
}


T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "vocab_size": 50}
PLAIN = {  # perceptrons that are not gated, keys that heads share, pairs that are rotated
    "Phi": ("layers", MLP),
    "Nemotron": ("layers", {**GROUPED, "num_attention_heads": 4, "num_key_value_heads": 2}),
    "Starcoder2": ("layers", {**MLP, "num_key_value_heads": 1}),
    "OPT": (
        "decoder.layers",
        {**SIZES, "ffn_dim": 24, "word_embed_proj_dim": 16, "max_position_embeddings": 16},
    ),
    "GPTJ": (
        "h",
        {"n_embd": 16, "n_head": 2, "n_layer": 2, "vocab_size": 50, "rotary_dim": 4},
    ),
    "Falcon": ("h", {**SIZES, "multi_query": True, "alibi": False}),
}
ROTATED = {  # neighbouring coordinates are rotated, and perceptrons gated
    "Glm": ("layers", {**GROUPED, "partial_rotary_factor": 0.5, "pad_token_id": 0}),
    "Cohere": ("layers", GROUPED),
}
FAMILIES = {
    **MODELS,
    "Mixtral": ("layers", EXPERTS),
    "Qwen3": ("layers", GROUPED),
    "Gemma3Text": ("layers", {**GROUPED, "query_pre_attn_scalar": 8}),
    "T5Encoder": ("encoder.block", T5),
}


def small(name):
    """A model of a family, in float64, and names of its blocks."""
    start, sizes = {**FAMILIES, **PLAIN, **ROTATED}[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name.removesuffix('Encoder')}Config")(**sizes)
    model = getattr(transformers, f"{name}Model")(config).double().eval()
    if name == "Mixtral":
        model.set_experts_implementation("eager")
    return model, [f"{start}.0", f"{start}.1"]


def tokens(n, length):
    generator = torch.Generator().manual_seed(1)
    return {"input_ids": torch.randint(5, 45, (n, length), generator=generator)}


def block_of(model, layers, batch):
    """The second of two blocks as a function of its input, and its input on the batch."""
    block, calls = model.get_submodule(layers[1]), []
    hook = block.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    model(**batch, use_cache=False)
    hook.remove()
    (x, *rest), kwargs = calls[0]

    def function(z):
        result = block(z, *rest, **kwargs)
        return result if isinstance(result, torch.Tensor) else result[0]

    return function, x


@contextmanager
def frozen(block, function, x, monkeypatch):
    """Holds patterns and scales of a block at their values at x, without any of our code.

    Attention is replaced by one that keeps its pattern; what a normalisation does by the quotients
    of what it gives and what it is given, which a fixed scale makes constant.
    """
    pattern, factors, kept_softmax = [], {}, F.softmax

    def attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **_):
        scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        if is_causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        return softmax(scores, -1) @ v

    def softmax(scores, dim, **options):
        if scores.ndim < 4:
            return kept_softmax(scores, dim, **options)
        if not pattern:
            pattern.append(kept_softmax(scores, dim, **options).detach())
        return pattern[0]

    def norm(module, args, output):
        bias = getattr(module, "bias", None)
        bias = 0 if bias is None else bias
        given = args[0]
        if isinstance(module, torch.nn.LayerNorm):
            given = given - given.mean(-1, keepdim=True)
        factors.setdefault(module, ((output - bias) / given).detach())
        return given * factors[module] + bias

    norms = [module for module in block.modules() if "Norm" in type(module).__name__]
    handles = [module.register_forward_hook(norm) for module in norms]
    with monkeypatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", attention)
        patch.setattr(F, "softmax", softmax)
        function(x)
        yield
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("what", [("attention", "layernorm"), ()], ids=["frozen", "free"])
@pytest.mark.parametrize("name", FAMILIES)
def test_forward_mode_is_the_reference(name, what, monkeypatch):
    # Many families cast to single precision by name inside normalisations, softmax and routers.
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    model, layers = small(name)
    batch = tokens(2, 4)
    freeze = [each for each in what if (name, each) != ("Mamba", "attention")]
    graph = itg.interaction_graph(
        model, [batch], layers, freeze=freeze, engine="forward", tolerance=None, n_steps=3,
        baseline=torch.tensor(0.125).double(), progress=False,
    )  # fmt: skip
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    function, x = block_of(model, layers, batch)
    block, start = model.get_submodule(layers[1]), torch.full_like(x, 0.125)
    with frozen(block, function, x, monkeypatch) if what else nullcontext():
        reference = attributions(function, x, start, 3)
    expected = reference.square().mean((0, 1)).sqrt()
    found = graph.weights(*layers)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-9


@pytest.mark.parametrize("name", ["GPT2", "GPTNeoX", "Bert", "T5Encoder", *PLAIN, "Llama"])
def test_frozen_blocks_come_apart(name, monkeypatch):
    """Into factors of positions and of features, but for gated perceptrons."""
    model, layers = small(name)
    short = tokens(2, 6)
    short["attention_mask"] = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    options = {
        "freeze": ("attention", "layernorm"), "strengths": ("rms", "mean", "max"),
        "progress": False,
    }  # fmt: skip
    data = [tokens(3, 4), short]
    graph = itg.interaction_graph(model, data, layers, **options)
    method = graph.metadata["plans"][0]["method"]
    assert (method == "factored_maps") == (name != "Llama")
    engine = "closed_form" if method == "factored_maps" else "forward"
    others = tuple(each for each in planner.METHODS if not issubclass(each, FactoredMaps))
    monkeypatch.setattr(planner, "METHODS", others)
    other = itg.interaction_graph(model, data, layers, engine=engine, **options)
    for strength in options["strengths"]:
        torch.testing.assert_close(
            graph.weights(*layers, strength), other.weights(*layers, strength), rtol=1e-9,
            atol=1e-12,
        )  # fmt: skip


@pytest.mark.parametrize("name", [*FAMILIES, *PLAIN, *ROTATED])
def test_single_target_positions(name):
    """All of them together are what passes give, where a block comes apart into positions."""
    model, layers = small(name)
    data = [
        tokens(2, 5),
        {**tokens(2, 4), "attention_mask": torch.tensor([[1] * 4, [1] * 3 + [0]])},
    ]
    options = {"tolerance": None, "n_steps": 4, "progress": False}
    if name in ("Mamba", "Mixtral"):  # a state carries positions; experts are chosen by positions
        with pytest.raises(
            itg.InputError, match=r"cannot be drawn: .*(not computed alone|cannot be recorded)"
        ):
            itg.interaction_graph(model, data, layers, positions=5, **options)
        return
    graph = itg.interaction_graph(model, data, layers, positions=5, **options)
    assert graph.metadata["plans"][0]["method"] == "drawn_positions_on_path"
    passes = itg.interaction_graph(model, data, layers, engine="forward", **options)
    (pair,) = graph.pairs
    # Some models normalise in single precision, whatever they are in.
    torch.testing.assert_close(graph.weights(*pair), passes.weights(*pair), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("what", [("attention", "layernorm"), ()], ids=["frozen", "free"])
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("Bert", "T5Encoder")])
def test_targets_do_not_depend_on_later_positions(name, what):
    model, layers = small(name)
    batch = tokens(2, 5)
    runner = Runner.on(model, None, None, None, what)
    source, target = resolve_sites(model, layers)
    with prepared(runner.model), torch.no_grad():
        activations = runner.activations(batch, [source, target])
        x, segment = activations[source.name], runner.segment(batch, source, target)
        for position in range(1, 5):
            moved = x.clone()
            moved[:, position:] += 1
            change = segment(moved) - activations[target.name]
            assert float(change[:, :position].abs().max()) < 1e-12
            assert float(change[:, position:].abs().min(0).values.max()) > 1e-3


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("baseline", ["zero", "mean"])
@pytest.mark.parametrize("name", MODELS)
def test_defaults(name, baseline):
    start, sizes = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**sizes)
    model = getattr(transformers, f"{name}Model")(config)
    generator = torch.Generator().manual_seed(1)
    data = [{"input_ids": torch.randint(5, 45, (3, 6), generator=generator)}]
    layers = [f"{start}.0", f"{start}.1"]
    options = {"baseline": baseline, "progress": False}
    graph = itg.interaction_graph(model, data, layers, **options)
    fine = itg.interaction_graph(
        model, data, layers, **options, tolerance=1e-4, n_steps=512, dtype=torch.float64
    )
    assert graph.completeness[tuple(layers)] <= 0.02
    assert fine.completeness[tuple(layers)] <= 1e-4
    found, exact = (g.weights(*layers) for g in (graph, fine))
    assert float((found - exact).norm() / exact.norm()) <= 0.02
    assert graph.metadata["plans"][0]["n_steps_used"] <= 48
    expected = ("baseline", "skip connection")
    assert not [n for n in graph.notes if not any(word in n for word in expected)]


def test_padding_is_left_out_without_being_asked_for():
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(**MLP))
    ids = torch.randint(5, 45, (3, 6), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(3, 6).long()
    mask[1, 4:] = mask[2, 3:] = 0
    layers = ["encoder.layer.0", "encoder.layer.1"]

    def weights(data, **options):
        graph = itg.interaction_graph(model, data, layers, progress=False, **options)
        return graph.weights(*layers), graph

    batch = {"input_ids": ids, "attention_mask": mask}
    found, graph = weights([batch])
    asked, _ = weights([batch], position_mask="attention_mask")
    everything, _ = weights([batch], position_mask=lambda batch: torch.ones(3, 6))
    assert torch.equal(found, asked)
    assert float((found - everything).norm() / everything.norm()) > 0.02
    assert graph.metadata["position_mask"] == "attention_mask"
    # Other tokens where there is padding change nothing.
    other = {"input_ids": torch.where(mask == 1, ids, ids.flip(0)), "attention_mask": mask}
    torch.testing.assert_close(weights([other])[0], found, rtol=1e-4, atol=1e-6)
    edges = itg.top_samples(graph.prune(top_k=3), model, [batch], k=2, progress=False)
    again = itg.top_samples(
        graph.prune(top_k=3), model, [batch], k=2, position_mask="attention_mask", progress=False
    )
    assert torch.equal(edges[tuple(layers)].values, again[tuple(layers)].values)


def test_gradient_checkpoints_and_inputs_that_require_gradients():
    """A model as it comes from fine-tuning with checkpoints: in training, its inputs marked."""
    model, layers = small("Llama")
    expected = itg.interaction_graph(model, [tokens(2, 4)], layers, progress=False)
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    model.train()
    for engine in ("forward", "reverse", "auto"):
        graph = itg.interaction_graph(model, [tokens(2, 4)], layers, engine=engine, progress=False)
        torch.testing.assert_close(graph.weights(*layers), expected.weights(*layers))
    assert model.training
