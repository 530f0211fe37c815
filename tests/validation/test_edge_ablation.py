"""Edge ablation against a loop over target features; the search for the fewest edges."""

import networks
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import interactgraph as itg
from interactgraph import InteractGraphError
from interactgraph.features import Dictionary, Neurons
from interactgraph.validation import (
    MEASURES,
    PairAblation,
    ablation_curve,
    edges_required,
    greedy_ranking,
)
from interactgraph.validation.ablation import top_edges


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 7), nn.GELU(), nn.Linear(7, 4)
    ).double()
    x = torch.randn(30, 5, dtype=torch.float64)
    return model, x, [(part, model(part).argmax(-1)) for part in x.split(13)]


def by_hand(model, x, kept, one, two, start, middle, stop, z0):
    """Output when target feature i is computed from its kept source features only."""
    f = model[:start](x)
    z = one.encode(f)
    y = torch.stack(
        [
            two.encode(model[start:middle](one.decode(torch.where(kept[i], z, z0))))[:, i]
            for i in range(len(kept))
        ],
        1,
    )
    return model[middle:stop](two.decode(y))


@pytest.mark.parametrize("layers", [("1", "3"), ("3", "4"), ("input", "output")])
@pytest.mark.parametrize("baseline", ["mean", "zero"])
def test_against_a_loop(layers, baseline):
    model, x, data = network()
    graph = itg.interaction_graph(
        model, data, list(layers), features={layers[0]: "pca", layers[1]: "random_rotation"},
        progress=False,
    )  # fmt: skip
    one, two = (graph.features[layer] for layer in layers)
    numbers = {"input": 0, "output": 5}
    start, middle = (numbers.get(layer, 0) or (int(layer) + 1 if layer.isdigit() else 0)
                     for layer in layers)  # fmt: skip
    f = model[:start](x)
    z0 = one.encode(f.mean(0, keepdim=True))
    z0 = z0 if baseline == "mean" else torch.zeros_like(z0)
    pair = PairAblation.of_graph(graph, model, data, *layers, baseline=baseline, progress=False)
    generator = torch.Generator().manual_seed(1)
    labels = torch.cat([label for _, label in data])
    for share in (0.0, 0.4, 1.0):
        kept = torch.rand(two.n_features, one.n_features, generator=generator) < share
        with torch.no_grad():
            output = by_hand(model, x, kept, one, two, start, middle, 5, z0)
            found = {name: pair.evaluate(kept, name) for name in
                     ("accuracy", "log_likelihood", "similarity", "agreement")}  # fmt: skip
            intact = model(x)
        assert found["accuracy"] == pytest.approx(
            float((output.argmax(-1) == labels).double().mean())
        )
        assert found["agreement"] == found["accuracy"]  # the labels are the model's own answers
        assert found["log_likelihood"] == pytest.approx(-float(F.cross_entropy(output, labels)))
        expected = -float((output - intact).square().sum(1).mean())
        assert found["similarity"] == pytest.approx(expected, abs=1e-12)
    assert pair.evaluate(None) == 1.0


def test_with_positions():
    """A transformer block: a source feature is set to the baseline at all positions at once."""
    case = networks.make("transformer")
    graph = itg.interaction_graph(
        case.model, case.batches, ["0", "1"], baseline="mean", progress=False
    )
    kept = top_edges(graph.weights("0", "1"), 10)
    pair = PairAblation.of_graph(graph, case.model, case.batches, "0", "1", progress=False)
    found = pair.evaluate(kept, lambda output, batch, intact: output.square().flatten(1).sum(1))
    x = torch.cat(case.batches)
    f = case.model[0](x).detach()
    mean = f.mean((0, 1))
    y = torch.stack(
        [case.model[1](torch.where(kept[i], f, mean))[..., i] for i in range(6)], -1
    ).detach()  # fmt: skip
    assert found == pytest.approx(float(y.square().sum() / len(x)), rel=1e-12)


def test_dictionaries_decode_with_the_error_of_the_sample():
    model, _, data = network()
    generator = torch.Generator().manual_seed(0)
    encoder = torch.randn(9, 6, generator=generator, dtype=torch.float64)
    maps = {"1": Dictionary(encoder, encoder.T.contiguous() / 9).bind("1", (1, 6), 1),
            "3": Neurons().bind("3", (1, 7), 1)}  # fmt: skip
    pair = PairAblation(model, data, "1", "3", maps, progress=False)
    everything = torch.ones(7, 10, dtype=torch.bool)
    assert pair.evaluate(everything, "similarity") == pytest.approx(0, abs=1e-20)


def test_same_kept_sets_share_a_pass(monkeypatch):
    model, _, data = network()
    maps = {"1": Neurons().bind("1", (1, 6), 1), "3": Neurons().bind("3", (1, 7), 1)}
    pair = PairAblation(model, data, "1", "3", maps, progress=False)
    passes = []
    from interactgraph.validation import ablation

    original = ablation.Piece.with_sources
    monkeypatch.setattr(
        ablation.Piece, "with_sources",
        lambda self, kept: passes.append(1) or original(self, kept),
    )  # fmt: skip
    kept = torch.zeros(7, 6, dtype=torch.bool)
    kept[:4, 2] = True
    pair.evaluate(kept)
    assert len(passes) == 2 * len(data)
    kept = kept.clone()
    kept[0, 0] = True
    pair.evaluate(kept)
    assert len(passes) == 3 * len(data)


def planted():
    """Eight inputs, of which each of four units reads two; a strong third one does not matter."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Identity(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4)).double()
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.zero_()
        model[3].weight.zero_()
        for i in range(4):
            model[1].weight[i, 2 * i] = 1.0
            model[1].weight[i, 2 * i + 1] = -0.7
            model[3].weight[i, i] = 5.0
        # Strong edges into units that nothing reads.
        model[1].weight[4:] = 3.0
    return model, torch.randn(300, 8, dtype=torch.float64)


def test_edges_required_of_a_planted_network():
    model, x = planted()
    graph = itg.interaction_graph(model, x, ["0", "2"], baseline="mean", progress=False)
    options = {"measure": "agreement", "tolerance": 0.0, "progress": False}
    plain = edges_required(graph, model, x, "0", "2", **options)
    greedy = edges_required(graph, model, x, "0", "2", ranking="greedy", **options)
    # Sixteen edges into the unread units are the strongest; taking away what is not missed first
    # leaves the eight that are.
    assert plain.n_edges == 24
    assert greedy.n_edges == 8
    expected = torch.zeros(6, 8, dtype=torch.bool)
    for i in range(4):
        expected[i, 2 * i : 2 * i + 2] = True
    assert torch.equal(greedy.kept, expected)
    assert plain.curve[24] == 1.0
    assert plain.curve[23] < 1.0
    assert plain.intact == 1.0


def test_curve_and_ranking_by_tensor():
    model, x = planted()
    graph = itg.interaction_graph(model, x, ["0", "2"], baseline="mean", progress=False)
    pair = PairAblation.of_graph(graph, model, x, "0", "2", progress=False)
    scores = torch.zeros(6, 8)
    scores[:4] = graph.weights("0", "2")[:4]
    curve = ablation_curve(pair, scores, [8, 0, 4], "agreement")
    assert list(curve) == [0, 4, 8]
    assert curve[0] < curve[4] < curve[8] == 1.0
    found = edges_required(
        graph, model, x, "0", "2", measure="agreement", tolerance=0.0, ranking=scores,
        progress=False,
    )  # fmt: skip
    assert found.n_edges == 8


def test_greedy_order_is_complete():
    model, x = planted()
    graph = itg.interaction_graph(model, x, ["0", "2"], baseline="mean", progress=False)
    pair = PairAblation.of_graph(graph, model, x, "0", "2", progress=False)
    scores = graph.weights("0", "2")
    rank = greedy_ranking(pair, scores, n_start=30, progress=False)
    assert len(rank.unique()) == 48
    # Edges never in the race keep their order, behind.
    outside = ~top_edges(scores, 30)
    assert rank[outside].max() < rank[~outside].min()


def test_bad_input():
    model, x, data = network()
    graph = itg.interaction_graph(model, data, ["1", "3"], progress=False)
    pair = PairAblation.of_graph(graph, model, data, "1", "3", progress=False)
    with pytest.raises(InteractGraphError, match=r"kept has shape \(2, 2\)"):
        pair.evaluate(torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(InteractGraphError, match="'f1' is unknown"):
        pair.evaluate(None, "f1")
    with pytest.raises(InteractGraphError, match="one number for each"):
        pair.evaluate(None, lambda output, batch, intact: output)
    with pytest.raises(InteractGraphError, match=r"needs batches \(input, labels\)"):
        PairAblation.of_graph(graph, model, x, "1", "3", progress=False).evaluate(None)
    with pytest.raises(InteractGraphError, match="no pair"):
        PairAblation.of_graph(graph, model, data, "3", "1", progress=False)
    with pytest.raises(InteractGraphError, match="baseline='median'"):
        PairAblation.of_graph(graph, model, data, "1", "3", baseline="median", progress=False)
    with pytest.raises(InteractGraphError, match="tolerance=-1"):
        edges_required(graph, model, data, "1", "3", tolerance=-1, progress=False)
    with pytest.raises(InteractGraphError, match="ranking has shape"):
        edges_required(graph, model, data, "1", "3", ranking=torch.ones(2, 2), progress=False)
    narrow = itg.interaction_graph(
        model, data, ["1", "3"], features={"3": itg.features.PCA(rank=1)}, progress=False
    )
    with pytest.raises(InteractGraphError, match="leave out what the model needs"):
        edges_required(narrow, model, data, "1", "3", tolerance=0.0, progress=False)
    with pytest.raises(InteractGraphError, match="tolerance=nan"):
        edges_required(graph, model, data, "1", "3", tolerance=float("nan"), progress=False)

    def never(output, batch, intact):
        return torch.full((len(output),), torch.nan)

    with pytest.raises(InteractGraphError, match="measure of the intact model is not a number"):
        edges_required(graph, model, data, "1", "3", measure=never, progress=False)
    for options in ({"n_start": 5.5}, {"share": "x"}, {"share": 2}, {"max_samples": 0}):
        with pytest.raises(InteractGraphError, match="greedy ranking: "):
            greedy_ranking(pair, graph.weights("1", "3"), progress=False, **options)
    with pytest.raises(InteractGraphError, match="ranking_measure is what a greedy ranking"):
        edges_required(graph, model, data, "1", "3", ranking_measure="similarity", progress=False)


class Shuffled:
    """Batches in another order on every pass, which no sampler shows."""

    def __init__(self, batches):
        self.batches, self.passes = batches, 0

    def __iter__(self):
        self.passes += 1
        return iter(self.batches if self.passes % 2 else self.batches[::-1])


def test_data_that_changes_between_passes():
    model, x, data = network()
    graph = itg.interaction_graph(model, data, ["1", "3"], progress=False)
    labels = torch.cat([label for _, label in data])
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, labels), batch_size=10, shuffle=True
    )
    with pytest.raises(InteractGraphError, match="this DataLoader shuffles"):
        PairAblation.of_graph(graph, model, loader, "1", "3", progress=False)
    with pytest.raises(InteractGraphError, match="same samples in every pass"):
        PairAblation.of_graph(graph, model, Shuffled(data), "1", "3", progress=False).evaluate(None)
    named = [{"mask": torch.ones(len(rows)), "rows": rows} for rows, _ in data]
    with pytest.raises(InteractGraphError, match="same samples in every pass"):
        PairAblation.of_graph(
            graph, model, Shuffled(named), "1", "3", progress=False,
            forward=lambda network, batch: network(batch["rows"]),
        ).evaluate(None, "similarity")  # fmt: skip


def test_the_mean_leaves_padding_out():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.randn(8, 5, 3, dtype=torch.float64)
    mask = torch.rand(8, 5) < 0.6
    mask[:, 0] = True
    x[~mask] = 100.0

    def position_mask(batch):
        return mask

    graph = itg.interaction_graph(
        model, [x], ["0", "1"], position_mask=position_mask, baseline="mean", progress=False
    )
    pair = PairAblation.of_graph(
        graph, model, [x], "0", "1", position_mask=position_mask, progress=False
    )
    h = model[0](x)
    torch.testing.assert_close(pair.baseline, h[mask].mean(0))


def test_outputs_with_positions():
    """Shares of right positions and mean log-probabilities; classes are on the last axis."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    x = torch.randn(9, 4, 3, dtype=torch.float64)
    labels = torch.randint(0, 4, (9, 4))
    graph = itg.interaction_graph(model, [x], ["0", "1"], progress=False)
    pair = PairAblation.of_graph(graph, model, [(x, labels)], "0", "1", progress=False)
    output = model(x).detach()
    right = (output.argmax(-1) == labels).double().mean()
    assert pair.evaluate(None, "accuracy") == pytest.approx(float(right))
    logs = output.log_softmax(-1)
    assert pair.evaluate(None, "log_likelihood") == pytest.approx(
        float(logs.gather(-1, labels[..., None]).mean())
    )
    assert pair.evaluate(None, "log_agreement") == pytest.approx(float(logs.amax(-1).mean()))
    rank = greedy_ranking(pair, graph.weights("0", "1"), n_start=5, progress=False)
    assert len(rank.unique()) == rank.numel()


@pytest.mark.parametrize(
    ("width", "labels", "match"),
    [
        (1, torch.zeros(6, dtype=torch.long), "at least two classes"),
        (3, torch.full((6,), 3), "labels go from 3 to 3 and the output has 3 classes"),
        (3, torch.zeros(6, 2, dtype=torch.long), "do not fit an output"),
    ],
)
def test_labels_that_do_not_fit(width, labels, match):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, width))
    x = torch.randn(6, 3)
    graph = itg.interaction_graph(model, [x], ["0", "1"], progress=False)
    pair = PairAblation.of_graph(graph, model, [(x, labels)], "0", "1", progress=False)
    for measure in ("accuracy", "log_likelihood"):
        with pytest.raises(InteractGraphError, match=match):
            pair.evaluate(None, measure)


def test_greedy_is_never_worse_than_the_plain_ranking():
    """The greedy search follows the log-likelihood, bisection counts right answers."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x = torch.randn(40, 4, dtype=torch.float64)
    data = [(x, torch.where(torch.rand(40) < 0.7, model(x).argmax(-1), 0))]
    graph = itg.interaction_graph(model, data, ["0", "1"], progress=False)
    counts = {}
    for ranking in (None, "greedy"):
        counts[ranking] = edges_required(
            graph, model, data, "0", "1", ranking=ranking, tolerance=0.02, progress=False
        ).n_edges
    assert counts["greedy"] <= counts[None]


def test_measures_leave_padding_out():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5))
    x, mask = torch.randn(6, 4, 3), torch.rand(6, 4) < 0.6
    mask[:, 0] = True
    labels = torch.where(mask, model(x).argmax(-1), -100)
    labels[0, 0] = (labels[0, 0] + 1) % 5
    graph = itg.interaction_graph(model, [x], ["0", "1"], progress=False)
    options = {"position_mask": lambda batch: mask, "progress": False}
    pair = PairAblation.of_graph(graph, model, [(x, labels)], "0", "1", **options)
    right = (model(x).argmax(-1) == labels) & mask
    share = (right.sum(1).double() / mask.sum(1)).mean()
    assert pair.evaluate(None, "accuracy") == pytest.approx(float(share))
    logs = model(x).detach().double().log_softmax(-1)
    logs = logs.gather(-1, labels.clamp_min(0)[..., None])[..., 0] * mask
    assert pair.evaluate(None, "log_likelihood") == pytest.approx(
        float((logs.sum(1) / mask.sum(1)).mean())
    )
    nothing = torch.zeros(pair.n_targets, pair.n_sources, dtype=torch.bool)
    cut = model[1:](model[0](x)[mask].mean(0).expand(6, 4, -1))
    expected = ((cut - model(x)).double() * mask[..., None]).square().sum((1, 2)).mean()
    assert pair.evaluate(nothing, "similarity") == pytest.approx(
        -float(expected.detach()), rel=1e-5
    )


def test_one_wrong_answer_of_many_in_half_precision():
    """999 of 1,000 positions right is less than 1, whatever the output's dtype."""
    output = torch.zeros(1, 1000, 2, dtype=torch.bfloat16)
    output[..., 1] = 1
    intact = output.clone()
    intact[0, 0] = torch.tensor([1, 0])
    assert float(MEASURES["agreement"](output, None, intact)) == pytest.approx(0.999)


def test_what_forward_returns_is_measured():
    """Of a model that gives several tensors, and where the target is the model's own output."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    x = torch.randn(30, 4, dtype=torch.float64)

    def forward(model, batch):
        y = model(batch[0])
        return -y, y

    data = [(x, (-model(x)).argmax(1))]
    for target in ("2", "output"):
        graph = itg.interaction_graph(model, [x], ["1", target], progress=False)
        ablation = PairAblation.of_graph(graph, model, data, "1", target, forward=forward)
        assert ablation.evaluate(None) == 1
        nothing = torch.zeros(3, 6, dtype=torch.bool)
        mean = model[:2](x).mean(0).expand(30, -1)
        expected = (-model[2](mean)).argmax(1) == data[0][1]
        assert ablation.evaluate(nothing) == pytest.approx(float(expected.double().mean()))
        assert ablation.evaluate(~nothing) == 1
