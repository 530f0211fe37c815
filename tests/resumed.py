"""A run that is interrupted after some batches and called again."""

import pytest
import torch

import interactgraph as itg


def assert_resumed_is_bit_identical(model, batches, layers, after, folder, **options):
    """The same strengths and plans as without the interruption."""

    class Interrupted(list):
        def __iter__(self):
            yield from self[:after]
            raise KeyboardInterrupt

    whole = itg.interaction_graph(model, batches, layers, **options)
    saves = {"checkpoint": folder, "checkpoint_seconds": 0}
    with pytest.raises(KeyboardInterrupt):
        itg.interaction_graph(model, Interrupted(batches), layers, **options, **saves)
    again = itg.interaction_graph(model, batches, layers, **options, **saves)
    one, other = (graph.weights(*layers).to_dense() for graph in (again, whole))
    assert torch.equal(one, other)
    assert again.metadata["plans"] == whole.metadata["plans"]
