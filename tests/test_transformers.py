"""Default settings on transformers as they come: the integral that they claim to be.

Small random configurations; a trained one is in `benchmarks/path_nodes.py`.
"""

import pytest
import torch

import interactgraph as itg

transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "vocab_size": 50}
MLP = {**SIZES, "intermediate_size": 24}
GROUPED = {**MLP, "num_key_value_heads": 1, "head_dim": 8}
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
    assert not [note for note in graph.notes if "baseline" not in note]


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
