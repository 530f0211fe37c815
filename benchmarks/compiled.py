"""Programs compiled into transformers, whose true edges are known: which method sees them?

    python benchmarks/compiled.py [--only edges|sources|bases] [NAME or FILE.npz ...]

Named programs are measured and printed; without names all of them are, and the page is written.
The split: on the programs CHOSEN_ON, the form of `expected_shapley` was chosen (single features,
half of the paths from the baseline) and the weights of `fit_stream_rotation` were set. With 4 paths
it missed 2 edges of those LOOKED_AT_ONCE, in the two with 30 and 62 inputs, so that it has 8 now.
All others were compiled afterwards and never used to choose.
"""

import argparse
import time
import warnings
from collections import Counter

import numpy as np
import torch
from page import write
from sklearn.decomposition import FastICA
from sklearn.metrics import average_precision_score

import interactgraph as itg
from interactgraph.calculus.derivatives import jvps
from interactgraph.calculus.path import gauss_legendre
from interactgraph.features.matching import match_rows
from interactgraph.zoo.compiled_model import AttentionHalf

CHOSEN_ON = ("hist", "reverse", "pair_balance", "detect_pattern")
LOOKED_AT_ONCE = (
    "copies_previous", "count_less_freq", "first_or_last", "frac_prevs", "length", "shuffle_dyck",
    "sort_freq", "sort_unique", "sum_modulo",
)  # fmt: skip
SEEN = 1e-6  # strengths of false edges are zero; below this, those of true ones are, too
METHODS = {  # name -> options
    "gradient": {"method": "gradient"},
    "integrated gradients": {"method": "integrated_gradients"},
    "expected gradients": {"method": "expected_gradients"},
    "ablation": {"method": "ablation"},
    "Shapley, 64 orders": {"method": "shapley"},
    "Shapley, 4 orders": {"method": "shapley", "n_steps": 4},
    "2 blocks, 4 nodes": {"n_blocks": 2},
    "4 blocks, 4 nodes": {"n_blocks": 4},
    "expected Shapley": {"method": "expected_shapley"},
    "expected Shapley, 1 path": {"method": "expected_shapley", "n_steps": 8},
}
WHY = (
    "scores of attention",
    "values of attention",
    "units that are on, slopes cancel",
    "units that are off",
)


def states(net):
    """Residual states of all inputs, batch by batch; and which axes are ever used."""
    model, found = net.model.double(), {layer: [] for layer in net.layers}
    for batch in net.data:
        state = batch
        for layer in net.layers:
            state = model.get_submodule(layer)(state)
            found[layer].append(state)
    used = {
        layer: torch.stack([x.flatten(0, 1).any(0) for x in each]).any(0)
        for layer, each in found.items()
    }
    return found, used


def precision(net, weights):
    """Average precision on edges between different axes, edges seen, edges, false edges seen."""
    truth, strength = [], []
    for pair, edges in net.written().items():
        apart = ~torch.eye(len(edges), dtype=torch.bool)
        truth.append(edges[apart])
        strength.append(weights[pair][apart])
    truth, strength = torch.cat(truth), torch.cat(strength)
    strength = strength.where(strength > SEEN, 0)
    seen = strength > 0
    score = average_precision_score(truth, strength)
    return score, int(seen[truth].sum()), int(truth.sum()), int(seen[~truth].sum())


def graph_of(net, model=None, **options):
    return itg.interaction_graph(
        model or net.model, net.data, net.layers, pairs=list(net.written()), dtype=torch.float64,
        progress=False, **options,
    )  # fmt: skip


def passes(graph):
    """Forward passes (or Jacobian-vector products) for a sample, mean over pairs."""
    each = []
    for plan in graph.metadata["plans"]:
        used = plan.get("n_steps_used", plan["n_steps"]) / max(plan["n_steps"], 1)
        predicted = plan["predicted_passes_per_batch"] * (used or 1)
        each.append(plan.get("passes_per_sample", predicted))
    return float(np.mean(each))


def reasons(net, weights):
    """Why true edges were missed: how they pass, and what happens there on the straight path."""
    found, count = states(net)[0], Counter()
    for (source, target), edges in net.written().items():
        half = net.model.get_submodule(target)
        apart = ~torch.eye(len(edges), dtype=torch.bool)
        missed = edges & apart & ~(weights[source, target] > SEEN)
        if isinstance(half, AttentionHalf):
            value, linear = half.weights["value"], half.weights["linear"]
            heads = value.unflatten(1, (half.n_heads, -1)).transpose(0, 1)
            moves = (heads @ linear.unflatten(0, (half.n_heads, -1))).ne(0).any(0).mT
            count[WHY[1]] += int((missed & moves).sum())
            count[WHY[0]] += int((missed & ~moves).sum())
            continue
        # Without biases a unit that is on at the sample is on all along the path from zero.
        first, second = half.weights["first"], half.weights["second"]
        on = torch.stack([(x @ first > 0).flatten(0, 1).any(0) for x in found[source]]).any(0)
        through = (second[on].ne(0).double().mT @ first[:, on].ne(0).double().mT) > 0
        count[WHY[2]] += int((missed & through).sum())
        count[WHY[3]] += int((missed & ~through).sum())
    return count


def measured(name):
    """Method -> (average precision, edges seen, edges, false edges, passes, residual, why)."""
    net, rows = itg.zoo.compiled(name), {}
    for method, options in METHODS.items():
        if "n_blocks" in options:
            weights, cost, residual = block_paths(net, **options)
            rows[method] = (*precision(net, weights), cost, residual, reasons(net, weights))
            continue
        graph = graph_of(net, **options)
        weights = {pair: graph.weights(*pair) for pair in net.written()}
        rows[method] = (
            *precision(net, weights),
            passes(graph),
            max(graph.completeness.values()),
            reasons(net, weights),
        )
    return rows


def block_paths(net, n_blocks, n_nodes=4, seed=0):
    """Paths from zero that move one random block of features after the other, each straight.

    Blocks are other ones for every sample; strengths are rms, as of the library's methods.
    """
    generator, found = torch.Generator().manual_seed(seed), states(net)[0]
    rule, weights, cost = gauss_legendre(n_nodes), {}, []
    missed = change = 0.0
    for source, target in net.written():
        half, total, count = net.model.get_submodule(target), 0.0, 0
        for z in found[source]:
            n, _, d = z.shape
            blocks = torch.rand(n, d, generator=generator).argsort(1) % n_blocks
            step = torch.eye(d, dtype=z.dtype)[:, None, None] * z  # [j, b, s, j]
            a = 0.0
            for block in range(n_blocks):
                mine, before = (blocks == block)[:, None], (blocks < block)[:, None]
                tangents = step * mine
                for u, weight in zip(*rule, strict=True):
                    point = z * before + u * z * mine
                    a = a + weight * jvps(half, point, tangents)
            total = total + a.square().sum((1, 2))
            count += a.shape[1] * a.shape[2]
            true = half(z) - half(torch.zeros_like(z))
            missed += float((a.sum(0) - true).square().sum())
            change += float(true.square().sum())
            cost.append(n_nodes * int((z != 0).any(1).sum(1).max()))
        weights[source, target] = (total / count).sqrt().mT
    return weights, float(np.mean(cost)), (missed / change) ** 0.5


def mark(name):
    return "*" if name in CHOSEN_ON else "+" if name in LOOKED_AT_ONCE else ""


MARKS = {"mean, *": "*", "mean, +": "+", "mean, the others": ""}


def label(name):
    return f"{name} {mark(name)}".strip()


def edges_page(names):
    rows = {name: measured(name) for name in names}
    lines = [
        "### Edges that each method sees", "",
        "True edges between different residual axes of consecutive states: seen (strength above "
        f"{SEEN:g}) of all, and average precision over all pairs of axes. Programs with * are "
        "those that expected Shapley values were chosen on; after a look at those with + they were "
        "given 8 paths instead of 4; the others were compiled afterwards.", "",
        f"| program | {' | '.join(METHODS)} |", f"| --- |{' --- |' * len(METHODS)}",
    ]  # fmt: skip
    for name, row in rows.items():
        cells = [f"{row[m][1]} of {row[m][2]}, {row[m][0]:.3f}" for m in METHODS]
        lines.append(f"| {label(name)} | {' | '.join(cells)} |")
    for words, some in MARKS.items():
        chosen = [name for name in names if mark(name) == some]
        if chosen:
            cells = [f"{np.mean([rows[n][m][0] for n in chosen]):.3f}" for m in METHODS]
            lines.append(f"| {words} | {' | '.join(cells)} |")
    lines += [
        "", "Cost and completeness, mean and largest over these programs, and edges missed by the "
        "way that they take:", "",
        f"| method | passes a sample | false edges | residual | {' | '.join(WHY)} |",
        f"| --- | --- | --- | --- |{' --- |' * len(WHY)}",
    ]  # fmt: skip
    for method in METHODS:
        each = [row[method] for row in rows.values()]
        why = sum((e[6] for e in each), Counter())
        missed = " | ".join(str(why[reason]) for reason in WHY)
        lines.append(
            f"| {method} | {np.mean([e[4] for e in each]):.0f} | {sum(e[3] for e in each)} | "
            f"{max(e[5] for e in each):.1e} | {missed} |"
        )
    lines += ["", EXPLANATION]
    return lines


EXPLANATION = (
    "One seed. Of Shapley values and derivatives the cost is the planner's, of expected Shapley "
    "values it is counted: 8 paths instead of 64 orders, and no pass for features that do not "
    "move, which orders of Shapley values could leave out as well. Both see nearly everything at "
    "these prices, so that the precision cannot be higher by much; at the same price (4 orders) "
    "Shapley values miss more. The programs that nothing was chosen on are few and small; one path "
    "sees all of their edges, too.\n\n"
    "What is missed, and why. These networks have no biases: everything constant is the weight of "
    "an axis that is always one, and a step of x at c is "
    "relu(100 (x - c one) + one) - relu(100 (x - c one)). On the straight path from zero all axes "
    "grow together, x / one stays what it is, and so does the set of units that are on. The last "
    "two columns follow from that for gradient and integrated gradients: where a unit that joins "
    "the axes is on at some input and the edge is missed, the slopes of such units cancel, as "
    "those of a step that was taken do; where none is on at any input there is no slope. For "
    "the other methods the columns say where an edge passes, not why it is missed. Scores of "
    "attention are missed by the slope at the sample and seen along the path.\n\n"
    "What expected Shapley values do about it: single features leave the straight line, so that "
    "units switch; orders and starts are other ones for every sample, so that a batch shows as "
    "many contexts as it has samples for the price of one order; a step is a difference, so that "
    "there are no nodes to place and the sum is exact. Paths that move random blocks of "
    "features, between the straight line and single features, see some of what cancels, but their "
    "four nodes do not meet the steps (their residual), and they need a Jacobian-vector product "
    "for each feature and node where single features need one pass."
)


# --- sources of what is missed -------------------------------------------------------------------

STRAIGHT = ("gradient", "integrated gradients", "expected gradients", "ablation")
KINDS = ("always one", "a number", "a category")


def missed_by_source(name):
    """Method (or "all") -> number of edges for each kind of source; through attention, MLPs."""
    net, count = itg.zoo.compiled(name), Counter()
    found = states(net)[0]
    graphs = {method: graph_of(net, **METHODS[method]) for method in STRAIGHT}
    for (source, target), edges in net.written().items():
        way = "attention" if isinstance(net.model.get_submodule(target), AttentionHalf) else "MLP"
        x = torch.cat([state.flatten(0, 1) for state in found[source]])
        constant = (x == x[0]).all(0)
        category = ((x - x.round()).abs() < 1e-4).all(0) & (x.round() <= 1).all(0) & ~constant
        apart = edges & ~torch.eye(len(edges), dtype=torch.bool)
        missed = {"all": apart} | {
            method: apart & ~(graph.weights(source, target) > SEEN)
            for method, graph in graphs.items()
        }
        for kind, axes in zip(KINDS, (constant, ~constant & ~category, category), strict=True):
            for method, which in missed.items():
                count[method, way, kind] += int(which[:, axes].sum())
    return count


def sources_page(names):
    count = sum((missed_by_source(name) for name in names), Counter())
    columns = [(way, kind) for way in ("attention", "MLP") for kind in KINDS]
    columns = [column for column in columns if count[("all", *column)]]
    lines = [
        "### Sources of the edges that are missed", "",
        "Edges missed, of all edges of the programs above, by what the source axis holds.", "",
        f"| method | {' | '.join(f'{way}, {kind}' for way, kind in columns)} |",
        f"| --- |{' --- |' * len(columns)}",
    ]  # fmt: skip
    for method in STRAIGHT:
        cells = [f"{count[(method, *each)]} of {count[('all', *each)]}" for each in columns]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return [*lines, "", ON_SOURCES]


ON_SOURCES = (
    "Integrated gradients miss what reads a number through steps: the constant gets the credit. "
    "Expected gradients miss every constant, which does not move between two samples; why they "
    "miss the others was not separated (steps and attention jump between two nodes, as their "
    "residual says, or nothing moves between the samples that were drawn)."
)


# --- hidden axes ---------------------------------------------------------------------------------


def ica(net, model, seed=0):
    maps = {}
    rows = {layer: [] for layer in net.layers}
    for batch in net.data:
        state = batch
        for layer in net.layers:
            state = model.get_submodule(layer)(state)
            rows[layer].append(state.flatten(0, 1))
    for layer, parts in rows.items():
        x = torch.cat(parts)
        offset = x.mean(0)
        rank = int(torch.linalg.matrix_rank(x - offset, rtol=1e-6))
        fit = FastICA(rank, random_state=seed, max_iter=400).fit((x - offset).numpy())
        encoder, decoder = torch.from_numpy(fit.components_), torch.from_numpy(fit.mixing_)
        maps[layer] = itg.features.Linear(encoder, decoder, offset)
    return maps


def fitted(kind, net, model):
    """Layer -> feature map, of a network whose axes are hidden."""
    options = {"progress": False}
    if kind == "stream rotation":
        return itg.fit_stream_rotation(model, net.data, net.layers, **options).maps
    if kind == "sparse rotations":
        return itg.fit_sparse_rotations(model, net.data, net.layers, **options).maps
    if kind == "ICA":
        return ica(net, model)
    d = len(net.labels[net.layers[0]])
    maps = {
        "PCA": itg.features.PCA(),
        "local interaction basis": itg.features.LocalInteractionBasis(),
        "sparse autoencoder": itg.features.SparseAutoencoder(
            n_dictionary=2 * d, k=4, n_rows=50_000, batch_size=256
        ),
        "random": itg.features.RandomRotation(),
    }
    return itg.fit_features(model, net.data, dict.fromkeys(net.layers, maps[kind]), **options)


BASES = (
    "random", "PCA", "ICA", "local interaction basis", "sparse autoencoder", "sparse rotations",
    "stream rotation",
)  # fmt: skip


def recovered(name, kind):
    """Mean matched |cosine| of the axes that are used, and average precision on their edges."""
    net = itg.zoo.compiled(name)
    used = states(net)[1]
    model, q = net.rotated(0)
    model = model.double()
    maps = fitted(kind, net, model)
    graph = graph_of(net, model, features=maps, method="expected_shapley", n_steps=16)
    cosines, feature_of = [], {}
    for layer in net.layers:
        axes = used[layer].nonzero()[:, 0]
        directions = maps[layer].decoder.mT.double()
        missing = max(0, len(axes) - len(directions))
        padded = torch.cat([directions, directions.new_zeros(missing, len(q))])
        match = match_rows(q.mT[axes], padded, n_controls=0)
        cosines.append(match.mean)
        kept = match.assignment < len(directions)
        feature_of[layer] = (axes[kept], torch.from_numpy(match.assignment[kept]))
    weights = {}
    for (source, target), edges in net.written().items():
        found = torch.zeros(edges.shape, dtype=torch.float64)
        (columns, j), (rows, i) = feature_of[source], feature_of[target]
        found[rows[:, None], columns] = graph.weights(source, target).double()[i[:, None], j]
        weights[source, target] = found
    return float(np.mean(cosines)), precision(net, weights)[0]


def bases_page(names):
    rows = {name: {kind: recovered(name, kind) for kind in BASES} for name in names}
    lines = [
        "### Axes hidden by a random rotation: which basis finds them again", "",
        "Mean matched |cosine| with the axes in use, over the states, and average precision on the "
        "true edges (expected Shapley values in that basis). The search of `fit_stream_rotation` "
        "was set up on the programs with *; nothing was changed after a look at any other.",
        "", f"| program | {' | '.join(BASES)} |", f"| --- |{' --- |' * len(BASES)}",
    ]  # fmt: skip
    for name, row in rows.items():
        cells = [f"{cosine:.2f}, {found:.2f}" for cosine, found in row.values()]
        lines.append(f"| {label(name)} | {' | '.join(cells)} |")
    others = [name for name in names if name not in CHOSEN_ON]
    above = [
        ", ".join(str(sum(rows[name][kind][0] > 0.9 for name in some)) for some in (names, others))
        for kind in BASES
    ]
    words = f"above 0.9, of {len(names)} and of the {len(others)} others"
    lines.append(f"| {words} | {' | '.join(above)} |")
    return [*lines, "", ON_BASES]


ON_BASES = (
    "One rotation, every basis with its default options (autoencoders: twice as many features as "
    "axes, 4 active), none tuned but the last. PCA, ICA and the local interaction basis match no "
    "better than a random rotation, autoencoders little better, with twice as many directions to "
    "match. The comparison is not even: `fit_stream_rotation` is told that all layers are states "
    "of one stream and reads all of them, the others fit layer by layer or pair by pair. Precision "
    "on edges can stay below 1 where axes are found: it counts every strength above "
    f"{SEEN:g}, and a direction that is a little off has many."
)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("names", nargs="*")
    arguments.add_argument("--only", choices=("edges", "sources", "bases"))
    options = arguments.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    names = options.names or sorted(
        itg.zoo.COMPILED, key=lambda name: ("*", "+", "").index(mark(name))
    )
    pages = {"edges": edges_page, "sources": sources_page, "bases": bases_page}
    for which, page in pages.items():
        section = "compiled" if which == "edges" else f"compiled {which}"
        if options.only in (None, which):
            began = time.perf_counter()
            lines = page(names)
            if options.names:
                print("\n".join(lines))
            else:
                write(section, lines)
            print(f"({time.perf_counter() - began:.0f} s)")


if __name__ == "__main__":
    main()
