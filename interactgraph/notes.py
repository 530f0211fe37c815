"""Every note that a graph can carry: what makes a result doubtful, and what would help.

A note is a sentence of one of these functions; `graph.notes` keeps them, and `interaction_graph`
issues each as an `InteractGraphWarning`.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "all_zero",
    "attention_mask_ignored",
    "attention_mask_used",
    "baseline_outside",
    "does_not_add_up",
    "drivers_of_drawn",
    "edges_dropped",
    "ended_by_time",
    "ended_early",
    "error_above_target",
    "fallback",
    "features_leave_out",
    "guessed_axis",
    "handful_of_samples",
    "held_fixed",
    "interrupted",
    "jumps",
    "large_residual",
    "names_left_over",
    "never_drawn",
    "no_residual",
    "no_time",
    "not_on_other_samples",
    "of_one_group",
    "passes_through",
    "path_off",
    "time_first",
    "underflow",
    "wrong_hook",
]


# --- the layers ----------------------------------------------------------------------------------


def guessed_axis(layer: str, axis: int, shape: Sequence[int]) -> str:
    """Nothing in the model says which axis of an activation (`shape`, with samples) is features."""
    return (
        f"{layer}: axis {axis} ({shape[axis]} entries) of its activations {tuple(shape[1:])} was "
        "taken for features, which nothing in the model confirms; if that is wrong, give "
        f"features={{{layer!r}: Neurons(feature_dim=...)}}"
    )


def features_leave_out(layer: str, share: float) -> str:
    """The features hold less than the activation; `share` is what is lost, root mean square."""
    return (
        f"{layer}: its features leave out {share:.2g} of the activation (root mean square); "
        "strengths and completeness are those of the model run on what they hold"
    )


def wrong_hook(
    where: str, unexplained: float, active: float, n_features: int, hook: str | None
) -> str:
    """A dictionary reconstructs next to nothing; `unexplained` is a share of the variance."""
    trained = "" if hook is None else f" (its file says {hook!r})"
    return (
        f"{where}: the dictionary leaves {unexplained:.3g} of the variance unexplained, with "
        f"{active:.3g} of {n_features} features active on average: it belongs to another layer"
        f"{trained}, its input must be scaled as in its training, or large activations such as "
        "those of the first token were left out there"
    )


def baseline_outside(layer: str, share: float, baseline: str) -> str:
    """The baseline of a `share` of the features is a value that the data never has."""
    help = "" if baseline == "mean" else "; baseline='mean' lies inside"
    return (
        f"{layer}: the baseline of {share:.0%} of its features lies outside the values in the "
        f"data{help}"
    )


def time_first(module: str) -> str:
    """A module takes axis 0 for time, where batches are expected to have their samples."""
    return (
        f"module {module!r} has batch_first=False: what counts as samples on axis 0 of its "
        "activations are time steps; give a model with batch_first=True"
    )


# --- positions -----------------------------------------------------------------------------------


def attention_mask_used() -> str:
    """Batches hold a padded `attention_mask` and no `position_mask` was given."""
    return (
        "positions where the batches' attention_mask is 0 are left out, as with "
        "position_mask='attention_mask'; give position_mask to have it otherwise"
    )


def attention_mask_ignored() -> str:
    """As before, where layers have other positions, or may have those of another sequence."""
    return (
        "the padded attention_mask of the batches is not used, because layers have other "
        "positions, or batches hold inputs of a decoder, too; padding counts as positions. Give "
        "position_mask=lambda batch: ..."
    )


# --- draws and samples ---------------------------------------------------------------------------


def names_left_over(n_names: int, n_samples: int) -> str:
    """`groups` has not one name for each sample."""
    return f"groups names {n_names} samples and the data has {n_samples}: is it shifted?"


def drivers_of_drawn(pair: str) -> str:
    """What shares of samples are where target positions were drawn."""
    return (
        f"{pair}: the samples that drive the strongest edges (graph.drivers) are those among the "
        "drawn target positions, and their shares count these alone: all positions of a sample "
        "contribute more"
    )


def never_drawn(pair: str, number: int, n_features: int, share: float) -> str:
    """Source features were never drawn; `share` is theirs of all steps z - z0."""
    return (
        f"{pair}: {number} of {n_features} source features were never drawn, which make "
        f"{share:.0%} of all steps; their edges are unknown (0 with an infinite standard "
        "error). Give more sources or more samples"
    )


def error_above_target(pair: str, error: float, target: float) -> str:
    """`target_error` was not reached."""
    return (
        f"{pair}: standard error of the strongest edges at most {error:.2g}, above "
        f"target_error={target:g}"
    )


def ended_early(pair: str, error: float, n_batches: int) -> str:
    """`target_error` was reached before the data ended."""
    return (
        f"{pair}: standard error of the strongest edges at most {error:.2g} after {n_batches} "
        "batches, the rest was not read"
    )


# --- the integral --------------------------------------------------------------------------------


def fallback(pair: str, method: str, planned: str, reason: str) -> str:
    """A batch could not be computed as planned."""
    return f"{pair}: {method} where the planned {planned} fails, at first with a {reason}"


def ended_by_time(seconds: float, n_samples: int, n_batches: int) -> str:
    """Not all of the data was read within `time_budget`."""
    return (
        f"time_budget={seconds:g} s ended the run after {n_samples} samples ({n_batches} batches); "
        "the errors hold if these are a random part of the data"
    )


def interrupted(n_samples: int, n_batches: int, n_passes: int) -> str:
    """Ctrl-C ended the run."""
    if n_passes > 1:
        return f"the run was interrupted after {n_passes} passes, before it reached target_error"
    return (
        f"the run was interrupted after {n_samples} samples ({n_batches} whole batches); the graph "
        "is theirs, and the errors hold if these are a random part of the data"
    )


def path_off(pair: str, error: float, tolerance: float, used: int, most: int, help: str) -> str:
    """The nodes that may be used do not reach `tolerance`."""
    return (
        f"{pair}: the path integral is off by {error:.2g} on some batches, above "
        f"tolerance={tolerance:g}, with {used} of at most n_steps={most} nodes{help}"
    )


def jumps(operations: Sequence[str]) -> str:
    """How `path_off` and `large_residual` end where the segment jumps."""
    return (
        f"; the segment holds operations that may jump ({', '.join(operations)}), which no "
        "derivative sees, so that more nodes may not help: method='ablation' counts them"
    )


def held_fixed() -> str:
    """How they end where the segment holds values fixed on purpose."""
    return (
        "; the segment holds values fixed (detach or no_grad), and what these change is no part of "
        "any strength"
    )


def no_time() -> str:
    """How `path_off` ends where the time of a budget is better spent on draws than on nodes."""
    return "; time_budget leaves no time for more, which would be taken from the draws"


def large_residual(pair: str, residual: float, help: str) -> str:
    """The integral misses much of the change of the target."""
    return f"{pair}: the completeness residual is {residual:.2g}{help}"


def no_residual(pair: str) -> str:
    """The target is not finite at the baseline, so that nothing says how good the sums are."""
    return (
        f"{pair}: the target is not finite at the baseline, so that there is no completeness "
        "residual"
    )


def edges_dropped(pair: str, strength: str, absent: float, missed: float) -> str:
    """Sums of weak edges were dropped on the way, see `attribution.sums.sparse_sums`."""
    return (
        f"{pair}: the smallest sums were dropped on the way; edges with {strength} above "
        f"{absent:.2g} are all there, and what an edge may lack is at most {missed:.2g} "
        f"(of {strength}); raise max_edges"
    )


def does_not_add_up(pair: str, method: str, residual: float) -> str:
    """A captum method whose values are no shares of the change."""
    return (
        f"{pair}: what {method} gives does not add up to the change of the target (residual "
        f"{residual:.2g}); its values are no shares of it"
    )


def all_zero(pair: str) -> str:
    """No edge at all."""
    return f"{pair}: every interaction is zero; the target does not depend on the source"


def passes_through(pair: str) -> str:
    """The strongest edge of most features leads to themselves."""
    return (
        f"{pair}: most features have themselves as their strongest target, as where a skip "
        "connection passes them through; skip='remove' gives the edges of what is added to them, "
        "and find_modules does not count such edges as structure"
    )


def underflow(pair: str, dtype: str) -> str:
    """Strengths so small that squares of them are zero, or that nothing changes but by rounding."""
    return (
        f"{pair}: interactions are so small that their squares, or the change of the target, "
        f"vanish in {dtype}; compute in dtype=torch.float64"
    )


# --- the modules ---------------------------------------------------------------------------------


def handful_of_samples(modules: Sequence[int], n_modules: int) -> str:
    """Most features of some modules owe their strength to one or two samples, or to one fold."""
    return (
        f"{_modules(modules, n_modules)}: most of their features owe their strength to a handful "
        "of samples, so that they may be no more than a list of these (itg.sample_support says how "
        "many); give more samples"
    )


def of_one_group(modules: Sequence[int], groups: Sequence[str], n_modules: int) -> str:
    """Most features of some modules owe their strength to one group of samples."""
    return (
        f"{_modules(modules, n_modules)}: most of their features owe their strength to a single "
        f"group of samples ({', '.join(groups)}); look for modules in the graph of a group"
    )


def not_on_other_samples(p_value: float) -> str:
    """Modules of some samples say nothing of others; p is NaN where nothing is left to test."""
    found = "none of their edges are left" if p_value != p_value else f"p = {p_value:.2g}"
    return (
        f"modules found on some of the samples do not hold on the others ({found}), though hidden "
        "edges of the same samples speak for them: they are of the samples, not of the model"
    )


def _modules(modules: Sequence[int], n_modules: int) -> str:
    shown = ", ".join(map(str, modules[:10])) + (", ..." if len(modules) > 10 else "")
    return f"{len(modules)} of {n_modules} modules ({shown})"
