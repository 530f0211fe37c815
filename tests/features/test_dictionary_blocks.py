"""Attributions of a transformer block add up in a sparse autoencoder's features and its error."""

import pytest
import torch

import interactgraph as itg

transformers = pytest.importorskip("transformers")

BLOCKS = ["h.0", "h.1"]


def graph(activation, **options):
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=40, n_positions=8, n_embd=16, n_layer=2, n_head=2, bos_token_id=0,
        eos_token_id=0, activation_function=activation,
    )  # fmt: skip
    model = transformers.GPT2Model(config).eval()
    data = [{"input_ids": torch.randint(0, 40, (6, 6))} for _ in range(2)]
    features = itg.features.SparseAutoencoder(n_dictionary=48, k=4, n_rows=4000, batch_size=64)
    return itg.interaction_graph(
        model, data, BLOCKS, features={"h.0": features}, progress=False, **options
    )


@pytest.mark.parametrize("activation", ["relu", "gelu_new"])
def test_a_frozen_block_in_one_node(activation):
    found = graph(activation, freeze=("attention", "layernorm"))
    (plan,) = found.metadata["plans"]
    assert plan["n_steps"] == 1
    assert found.n_features["h.0"] == 49  # the error is the last one
    assert found.completeness["h.0", "h.1"] < 1e-4


@pytest.mark.slow
def test_a_block_by_default():
    found = graph("gelu_new")
    assert found.completeness["h.0", "h.1"] < 0.02
    assert found.notes == ()
    error = found.weights(*BLOCKS)[:, -1]
    assert (error > 0).any()  # what the dictionary leaves out has edges of its own
