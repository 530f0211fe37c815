"""The attention mask of batches as position mask, where it plainly is one."""

import pytest
import torch
from torch import nn

import interactgraph as itg
from interactgraph.model import tells_padding


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.o = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x, attention_mask=None):
        return self.o(self.a(x).tanh())


X = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
MASK = torch.arange(5) < torch.tensor([5, 3, 2])[:, None]
LAYERS = ["a", "o"]


def weights(*batches, **options):
    graph = itg.interaction_graph(Tokens(), list(batches), LAYERS, progress=False, **options)
    return graph.weights(*LAYERS), graph.notes


@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.float32])
def test_ones_and_zeros_of_any_kind(kind):
    batch = {"x": X, "attention_mask": MASK.to(kind)}
    found, notes = weights(batch)
    expected, _ = weights(batch, position_mask="attention_mask")
    assert torch.equal(found, expected)
    assert "attention_mask is 0 are left out" in notes[0]
    tupled, _ = weights((batch, torch.zeros(3)))
    assert torch.equal(tupled, expected)


@pytest.mark.parametrize(
    "mask",
    [
        torch.ones(5, 5).tril(),  # of pairs of positions
        torch.where(MASK, 0.0, -torch.inf),  # added to attention
        torch.zeros(3, 5),  # nothing would be left
        torch.ones(2, 5),  # of other samples
        torch.ones(3, 5, 5),
    ],
)
def test_what_is_no_mask_of_padding(mask):
    batch = {"x": X, "attention_mask": mask}
    assert not tells_padding(batch) or not mask.any()
    found, notes = weights(batch)
    expected, _ = weights({"x": X})
    torch.testing.assert_close(found, expected)
    assert not notes


def test_batches_with_and_without():
    masked, plain = {"x": X, "attention_mask": MASK}, {"x": X.flip(0)}
    full = {"x": X.flip(0), "attention_mask": torch.ones(3, 5)}
    expected, _ = weights(masked, full)
    for batches in ((masked, plain), (plain, masked)):
        found, notes = weights(*batches)
        torch.testing.assert_close(found, expected)
        assert "attention_mask is 0 are left out" in notes[0]


def test_a_row_without_tokens_is_padding_alone():
    empty = MASK.clone()
    empty[2] = False
    first, second = {"x": X, "attention_mask": MASK}, {"x": X.flip(0), "attention_mask": empty}
    found, _ = weights(first, second)
    expected, _ = weights(first, second, position_mask="attention_mask")
    torch.testing.assert_close(found, expected)


def test_sentences_sorted_by_length_are_no_pairs_of_positions():
    batch = {"x": X[:, :3], "attention_mask": torch.ones(3, 3).tril()}
    found, notes = weights(batch)
    expected, _ = weights(batch, position_mask="attention_mask")
    torch.testing.assert_close(found, expected)
    assert "attention_mask is 0 are left out" in notes[0]


def test_another_kind_of_mask_later_on_is_refused():
    first, second = (
        {"x": X, "attention_mask": MASK},
        {"x": X, "attention_mask": torch.where(MASK, 0.0, -torch.inf)},
    )
    with pytest.raises(itg.InteractGraphError, match="unlike those before it"):
        weights(first, second)


def test_padding_to_twice_the_length_changes_nothing():
    """Positions that are padding in the whole batch are cut off."""

    class Attending(Tokens):
        def forward(self, x, attention_mask):
            lengths.append(x.shape[1])
            h = self.a(x)
            scores = (h @ h.mT).masked_fill(attention_mask[:, None] == 0, -torch.inf)
            return self.o((scores.softmax(-1) @ h).tanh())

    lengths = []

    def graph(n):
        x = torch.zeros(3, n, 4)
        x[:, :5] = X
        mask = torch.zeros(3, n).long()
        mask[:, :5] = MASK
        batch = {"x": x, "attention_mask": mask}
        return itg.interaction_graph(Attending(), [batch] * 3, LAYERS, progress=False)

    one, two = graph(5), graph(10)
    torch.testing.assert_close(one.weights(*LAYERS), two.weights(*LAYERS), rtol=1e-6, atol=1e-7)
    assert lengths[-1] == 5


def test_positions_left_out_at_the_start():
    """The first ones that count, of every sample by itself, with and without padding."""
    without, _ = weights({"x": X}, skip_positions=2)
    asked, _ = weights({"x": X}, position_mask=lambda batch: torch.arange(5).expand(3, 5) >= 2)
    assert torch.equal(without, asked)
    left = MASK.flip(1)  # padded on the left
    for mask in (MASK, left):
        padded, _ = weights({"x": X, "attention_mask": mask.long()}, skip_positions=1)
        later = mask & (mask.cumsum(1) > 1)
        other, _ = weights({"x": X}, position_mask=lambda batch, later=later: later)
        assert torch.equal(padded, other)
        whole, _ = weights({"x": X, "attention_mask": mask.long()})
        assert not torch.equal(padded, whole)
    pooled = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    with pytest.raises(itg.InputError, match="leaves nothing"):
        itg.interaction_graph(pooled, [X[:, 0]], ["0", "2"], skip_positions=1)
    with pytest.raises(itg.InputError, match="leaves nothing"):
        weights({"x": X}, skip_positions=5)
    with pytest.raises(itg.InputError, match="skip_positions=-1"):
        weights({"x": X}, skip_positions=-1)


def test_batches_of_one_position():
    """A sample that is no longer than what is left out counts nowhere, alone in a batch or not."""
    data = [{"x": X}, {"x": 100 * X[:, :1]}]
    found, _ = weights(*data, skip_positions=1)
    expected, _ = weights({"x": X}, skip_positions=1)
    assert torch.equal(found, expected)


def test_samples_of_edges_and_examples_leave_the_same_positions_out():
    moved = X.clone()
    moved[:, 0] *= 100  # as the first token of a language model
    data = [{"x": moved}]
    graph = itg.interaction_graph(Tokens(), data, LAYERS, skip_positions=1, progress=False)
    assert all(example.position > 0 for example in graph.examples["a"].of(0))
    edges = itg.top_samples(graph.prune(top_k=3), Tokens(), data, k=2, progress=False)

    def later(batch):
        return torch.arange(5).expand(3, 5) >= 1

    masked = itg.interaction_graph(Tokens(), data, LAYERS, position_mask=later, progress=False)
    asked = itg.top_samples(
        masked.prune(top_k=3), Tokens(), data, k=2, position_mask=later, progress=False
    )
    pair = tuple(LAYERS)
    assert torch.equal(edges[pair].values, asked[pair].values)
