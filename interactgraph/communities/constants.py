"""Every number that somebody chose, with the benchmark that it comes from.

The tables are in `benchmarks/communities/README.md`; `python -m benchmarks.communities NAME`
regenerates them. What was chosen on some graphs says nothing about others until it is tried there.
"""

from __future__ import annotations

# --- weights (table "recovery") ------------------------------------------------------------------

# Effective share of features below which weak ones are taken as noise: trained networks in which
# few features carry everything lie below, planted graphs above.
FEW = 0.25
# Of a block's weight, for all edges that are given back to features that a weighting cut off.
FAINT = 1e-4

# --- resolution and weights (table "arena", choosing set) -----------------------------------------

RESOLUTIONS = (0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5)
# Of the largest excess: resolutions whose excess is above are as good (0.8 to 0.85 do alike; 0.95
# loses tasks, 0.7 superposition).
NEAR_BEST = 0.8
# Times that every edge of a graph is hidden (one time leaves the choice to luck in small graphs),
# and edges above which once is enough.
ROUNDS = 2
HIDDEN_ONCE = 200_000
# z below which hidden edges speak for nothing: for no resolution, and not for energies.
LEAST_Z = 3.0
# Of z: a weighting is better than energies where its z is larger by more.
STANDARD_ERROR = 1.0
# Of the z of compressed weights: energies have to reach as much, too (superposition has 0.58 to
# 0.91 of it, planted graphs that energies do not show 0.1 to 0.5).
DWARFED = 0.5
# Resolution that takes apart only what hardly hangs together; for graphs that fall apart and whose
# hidden edges speak for nothing (table "arena", "programs" of the choosing set).
COARSEST = 0.1
# Share of the features in one part above which a graph does not fall apart (the same programs: the
# largest parts hold 0.2 to 0.6).
LARGEST_PART = 0.75
# Share of the weight between parts above which it does not (programs have 0.0002 at most, the
# published modular addition 0.03: its frequencies hang together).
BETWEEN = 0.01
# Adjusted mutual information from which neighbouring partitions of a profile are one plateau.
SAME_PLATEAU = 0.9

# --- search (tables "algorithms" and "size") -----------------------------------------------------

# Edges above which one start and one fold have to do, spectral starts agree, and threads pay.
LARGE = 2_000_000
# Features of sparse graphs above which the same holds: scores take one number for each feature and
# module, whatever the edges.
MANY = 20_000
# Groups of spectral starts, in turn.
SPECTRAL_GROUPS = (100, 48)
# Leading eigenvectors that are kept, rounds of subspace iteration, rounds of k-means.
SPECTRAL_VECTORS, SPECTRAL_ROUNDS, KMEANS_ROUNDS = 24, 12, 12
# Pairs of modules merged between two rounds of sweeps, as a share of the modules.
MERGED = 0.05
# Modules at the start of a run of sweeps.
MOST_MODULES = 1024
# Of the edges that networkit starts from, those largest against what is expected.
NETWORKIT_SHARE = 0.03

# --- significance (table "calibration") ----------------------------------------------------------

# Features of the smaller layer up to which contrasts are solved for instead of fitted in rounds.
SOLVED_CONTRASTS = 512
# Networks of random singular vectors that tests of residual networks are held against.
SURROGATES = 8
# Modules of a large network that are tested one by one, the largest.
MOST_TESTED = 64
# Effective samples below which a feature lives on one or two.
FEW_SAMPLES = 2.0
# Share of a feature's strength that is nearly all of it.
NEARLY_ALL = 0.8
# Share of a module's features above which what holds for them holds for the module.
MOST_FEATURES = 0.5
# Features: smaller modules are not divided further.
SMALLEST_DIVIDED = 8
