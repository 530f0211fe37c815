"""Writes small dictionaries with the packages that people use, and what these make of an input.

    python tests/data/dictionaries/make.py

in an environment that has sae-lens 6.54.12, dictionary-learning 0.1.0, eai-sparsify 1.3.3,
circuit-tracer 0.5.0 and torch 2.13.0; the tests need none of them. Every folder is written by the
package, or by the layout of older versions of it, and read again by the package, whose codes and
output are kept in `expected.safetensors`. Weights are random and no bias is zero.
"""

import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import torch
import yaml
from circuit_tracer.transcoder import single_layer_transcoder as circuit_tracer
from circuit_tracer.transcoder.activation_functions import JumpReLU
from dictionary_learning.dictionary import (
    AutoEncoder,
    AutoEncoderNew,
    GatedAutoEncoder,
    JumpReluAutoEncoder,
)
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
from dictionary_learning.trainers.top_k import AutoEncoderTopK
from dictionary_learning.utils import load_dictionary
from sae_lens import (
    SAE,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
)
from sae_lens.registry import get_sae_class
from safetensors.torch import save_file
from sparsify import SparseCoder, SparseCoderConfig

HERE = Path(__file__).parent
D_IN, D_OUT, D_SAE, K = 8, 6, 24, 4
MODES = ("layer_norm", "constant_norm_rescale")
torch.set_grad_enabled(False)


def folder(*parts):
    torch.manual_seed(zlib.crc32("/".join(parts).encode()))
    path = HERE.joinpath(*parts)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def inputs():
    """Not centred, so that normalisation has something to do."""
    return 1.5 * torch.randn(6, D_IN) + 0.5


def expect(path, codes, output, x):
    assert (codes != 0).any(0).sum() > D_SAE / 4, path
    assert (codes == 0).any(), path
    tensors = {"input": x, "codes": codes, "output": output}
    save_file(
        {k: v.float().contiguous() for k, v in tensors.items()}, path / "expected.safetensors"
    )


def randomised(module, **scales):
    """The module with random parameters; thresholds lie around zero."""
    for name, parameter in module.named_parameters():
        short = name.split(".")[-1]
        size = D_IN**-0.5 if parameter.ndim > 1 else 0.4
        parameter.data = scales.get(short, size) * torch.randn(parameter.shape)
    return module


# --- sae_lens ------------------------------------------------------------------------------------


def sae_lens_reads(path):
    x, sae = inputs(), SAE.load_from_disk(path)
    expect(path, sae.encode(x), sae(x), x)


def sae_lens(name, architecture, **options):
    path = folder("sae_lens", name)
    sae_class, config_class = get_sae_class(architecture)
    if "transcoder" in architecture:
        options |= {"d_out": D_OUT, "apply_b_dec_to_input": False}
    sae = randomised(sae_class(config_class(d_in=D_IN, d_sae=D_SAE, **options)))
    sae.cfg.metadata.hook_name = "blocks.1.hook_resid_post"
    sae.save_model(path)
    sae_lens_reads(path)


def sae_lens_trained(name, sae_class, config):
    """Trained with a threshold over the batch, saved for use with one for each feature."""
    path = folder("sae_lens", name)
    sae = randomised(sae_class(config))
    sae.topk_threshold += 0.7
    sae.save_inference_model(path)
    sae_lens_reads(path)


def sae_lens_old(name, config, **more):
    """As written before version 6."""
    path = folder("sae_lens", name)
    generic = {"W_enc": torch.randn(D_IN, D_SAE) / 3, "W_dec": torch.randn(D_SAE, D_IN) / 3,
               "b_enc": torch.randn(D_SAE) / 2, "b_dec": torch.randn(D_IN) / 2}  # fmt: skip
    tensors = {**generic, **{key: make() for key, make in more.items()}}
    if "b_gate" in tensors:
        del tensors["b_enc"]
    save_file(tensors, path / "sae_weights.safetensors")
    given = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "torch.float32", "device": "cpu", **config}
    (path / "cfg.json").write_text(json.dumps(given))
    sae_lens_reads(path)


def all_of_sae_lens():
    for architecture in ("standard", "jumprelu", "topk", "gated", "transcoder"):
        sparse = {"k": K} if architecture == "topk" else {}
        sae_lens(architecture, architecture, **sparse)
        for mode in MODES:
            sae_lens(f"{architecture}-{mode}", architecture, normalize_activations=mode, **sparse)
    rescaled = {"k": K, "rescale_acts_by_decoder_norm": True}
    sae_lens("topk-rescaled", "topk", **rescaled)
    sae_lens("topk-rescaled-layer_norm", "topk", normalize_activations=MODES[0], **rescaled)
    sae_lens("abstopk", "abstopk", k=K)
    for architecture in ("skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"):
        sae_lens(architecture, architecture)
    sae_lens("skip_transcoder-layer_norm", "skip_transcoder", normalize_activations=MODES[0])
    sae_lens("standard-b_dec_kept", "standard", apply_b_dec_to_input=False)
    for mode in ("expected_average_only_in", "covariance_whitening"):
        sae_lens(f"standard-{mode}", "standard", normalize_activations=mode)
    sizes = {"d_in": D_IN, "d_sae": D_SAE, "k": K}
    sae_lens_trained(
        "batchtopk", BatchTopKTrainingSAE,
        BatchTopKTrainingSAEConfig(rescale_acts_by_decoder_norm=False, **sizes),
    )  # fmt: skip
    sae_lens_trained(
        "matryoshka_batchtopk", MatryoshkaBatchTopKTrainingSAE,
        MatryoshkaBatchTopKTrainingSAEConfig(matryoshka_widths=[8, D_SAE], **sizes),
    )  # fmt: skip

    sae_lens_old("old-minimal", {})
    sae_lens_old("old-b_dec_kept", {"apply_b_dec_to_input": False, "normalize_activations": True})
    topk = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
    sae_lens_old("old-topk", {"architecture": "standard", "hook_point": "mlp_out", **topk})
    renamed = {"activation_fn": "topk", "activation_fn_kwargs": {"k": K}}
    sae_lens_old("old-topk-renamed", {"sae_lens_version": "5.10.7", **renamed})
    sae_lens_old(
        "old-jumprelu", {"architecture": "jumprelu", "normalize_activations": "layer_norm"},
        threshold=lambda: torch.rand(D_SAE),
    )  # fmt: skip
    of_features = dict.fromkeys(("b_gate", "b_mag", "r_mag"), lambda: torch.randn(D_SAE) / 2)
    sae_lens_old("old-gated", {"architecture": "gated", "activation_fn_str": "relu"}, **of_features)
    sae_lens_old("old-scaling_factor", {}, scaling_factor=lambda: torch.ones(D_SAE))


# --- dictionary_learning -------------------------------------------------------------------------


def dictionary_learning(name, module, *, threshold=None, **config):
    path = folder("dictionary_learning", name)
    randomised(module)
    if threshold is not None:
        module.threshold.data.fill_(threshold)
    torch.save(module.state_dict(), path / "ae.pt")
    sizes = {"activation_dim": D_IN, "dict_size": D_SAE}
    trainer = {"dict_class": type(module).__name__, **sizes, **config}
    (path / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))
    x, (again, _) = inputs(), load_dictionary(path, device="cpu")
    expect(path, again.encode(x), again(x), x)


def all_of_dictionary_learning():
    for make in (AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder):
        dictionary_learning(make.__name__, make(D_IN, D_SAE))
    dictionary_learning("AutoEncoderTopK", AutoEncoderTopK(D_IN, D_SAE, K), threshold=0.3, k=K)
    dictionary_learning("BatchTopKSAE", BatchTopKSAE(D_IN, D_SAE, K), threshold=0.3, k=K)
    matryoshka = MatryoshkaBatchTopKSAE(D_IN, D_SAE, K, group_sizes=[8, D_SAE - 8])
    dictionary_learning("MatryoshkaBatchTopKSAE", matryoshka, threshold=0.3, k=K)


# --- sparsify ------------------------------------------------------------------------------------


def sparsify(*names, **options):
    path = folder("sparsify", *names)
    config = SparseCoderConfig(num_latents=D_SAE, k=K, **options)
    randomised(SparseCoder(D_IN, config)).save_to_disk(path)
    x, coder = inputs(), SparseCoder.load_from_disk(path)
    top_acts, top_indices, _ = coder.encode(x)
    codes = torch.zeros(len(x), D_SAE).scatter(-1, top_indices, top_acts)
    expect(path, codes, coder(x).sae_out, x)


def all_of_sparsify():
    sparsify("sae")
    sparsify("transcoder", transcode=True)
    for hookpoint in ("layers.0.mlp", "layers.1.mlp"):
        sparsify("skip_transcoders", hookpoint, transcode=True, skip_connection=True)


# --- Gemma Scope and circuit-tracer --------------------------------------------------------------


def gemma_tensors():
    return {
        "w_enc": torch.randn(D_IN, D_SAE) / 3, "w_dec": torch.randn(D_SAE, D_IN) / 3,
        "b_enc": torch.randn(D_SAE) / 2, "b_dec": torch.randn(D_IN) / 2,
        "threshold": torch.rand(D_SAE),
    }  # fmt: skip


def gemma_sae_reads(path, tensors):
    """No package reads these from a folder; sae_lens makes this of what it downloads."""
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=D_IN, d_sae=D_SAE, apply_b_dec_to_input=False))
    sae.load_state_dict({key.replace("w_", "W_"): value for key, value in tensors.items()})
    x = inputs()
    expect(path, sae.encode(x), sae(x), x)


def transcoder_expects(path, transcoder):
    x = inputs()
    expect(path, transcoder.encode(x), transcoder(x), x)


def all_of_gemma_scope():
    for name in ("sae", "transcoder"):
        path, tensors = folder("gemma_scope", name), gemma_tensors()
        arrays = {key.replace("w_", "W_"): value.numpy() for key, value in tensors.items()}
        np.savez(path / "params.npz", **arrays)
        if name == "sae":
            gemma_sae_reads(path, tensors)
        else:
            read = circuit_tracer.load_gemma_scope_transcoder(str(path / "params.npz"), 0)
            transcoder_expects(path, read)
    hook = "model.layers.3.output"
    for name in ("sae", "transcoder", "skip_transcoder"):
        path, tensors = folder("gemma_scope_2", name), gemma_tensors()
        config = {"architecture": "jump_relu", "hf_hook_point_in": hook, "hf_hook_point_out": hook}
        if name == "skip_transcoder":
            tensors["affine_skip_connection"] = torch.randn(D_IN, D_IN) / 3
        save_file(tensors, path / "params.safetensors")
        if name != "sae":
            config["hf_hook_point_in"] = "model.layers.3.pre_feedforward_layernorm.output"
            config["hf_hook_point_out"] = "model.layers.3.post_feedforward_layernorm.output"
            config["affine_connection"] = name == "skip_transcoder"
            read = circuit_tracer.load_gemma_scope_2_transcoder(
                str(path / "params.safetensors"), 0, device=torch.device("cpu")
            )
            transcoder_expects(path, read)
        else:
            gemma_sae_reads(path, tensors)
        (path / "config.json").write_text(json.dumps(config))


def all_of_circuit_tracer():
    for name, skip in (("relu", False), ("relu_skip", True), ("jumprelu", False)):
        path, layers = folder("circuit_tracer", name), {}
        for layer in range(2):
            jump = JumpReLU(torch.zeros(D_SAE), 0.1) if name == "jumprelu" else torch.relu
            layers[layer] = circuit_tracer.SingleLayerTranscoder(
                D_IN, D_SAE, jump, layer, skip_connection=skip, dtype=torch.float32
            )
            randomised(layers[layer])
            if name == "jumprelu":
                jump.threshold.data.abs_()
        hooks = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "hook_mlp_out"}
        circuit_tracer.TranscoderSet(layers, **hooks).to_safetensors(str(path))
        config = {"model_kind": "transcoder_set", "model_name": "tiny", **hooks}
        (path / "config.yaml").write_text(yaml.safe_dump(config))
        paths = {layer: str(path / f"layer_{layer}.safetensors") for layer in layers}
        read = circuit_tracer.load_transcoder_set(paths, "tiny", **hooks)
        x = inputs()
        both = torch.stack([x, x])
        codes = read.encode(both)
        output = read.decode(codes, both)
        save_file({"input": x, "codes": codes, "output": output}, path / "expected.safetensors")


if __name__ == "__main__":
    all_of_sae_lens()
    all_of_dictionary_learning()
    all_of_sparsify()
    all_of_gemma_scope()
    all_of_circuit_tracer()
