"""Every number of the search for supernodes, chosen on planted attribution graphs.

`python benchmarks/supernodes.py` fits the evidence on one half of them and reports the other half;
no published graph was used to choose a number.
"""

from __future__ import annotations

# --- evidence that two features belong together, as a logarithm of odds (logistic regression) ----

BIAS = -3.8  # two neighbouring features of which nothing else is known
SAME_POSITION = 1.7
PER_LAYER = -0.8  # for each layer between them
ALIKE_IN, ALIKE_OUT = (
    0.95,
    1.0,
)  # for each standard deviation by which they are more alike than is usual

# --- which pairs are looked at, and what is usual -------------------------------------------------

FARTHEST_LAYERS, FARTHEST_POSITIONS = 10, 1
USUAL_LAYERS = 5.0  # features at this distance count 1/e in what is usual around a feature
USUAL_FLOOR = 0.1  # standard deviation of cosines below which differences mean little
LEAST, MOST = -3.0, 6.0  # standard deviations that count

# --- grouping ------------------------------------------------------------------------------------

SHIFT = 3.0  # added to every pair: the odds from which two features are put together
CLIP = 4.0  # odds against that a single pair can bring at most, after the shift
NEIGHBOURS = 64  # pairs of each feature that are kept; others count as CLIP against

# --- confidence of a group, from the mean of its pairs' odds (after the shift) -------------------

CONFIDENCE_BIAS, CONFIDENCE_SLOPE = -1.0, 1.0
