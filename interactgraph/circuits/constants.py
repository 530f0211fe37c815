"""Every number of the search for supernodes, chosen on planted attribution graphs.

`benchmarks/supernodes.py --choose` and `--calibrate` print them from one half of the planted
graphs; its tables are about the other half. No number is fitted to a published graph.
"""

from __future__ import annotations

# --- evidence that two features belong together, as a logarithm of odds (logistic regression) ----

BIAS = 0.76  # two features of one layer that nothing else is near to
SAME_POSITION = 2.05
PER_LAYER = -0.92  # for each layer between them
ALIKE_IN, ALIKE_OUT = 0.95, 1.09  # for each standard deviation by which they are more alike
# Times log(1 + number of features near): groups are not larger where there are more features.
PER_CROWD = -1.57

# --- which pairs are looked at, and what is usual -------------------------------------------------

FARTHEST_LAYERS, FARTHEST_POSITIONS = 6, 1
USUAL_LAYERS = 5.0  # features at this distance count 1/e among those near a feature
USUAL_FLOOR = 0.1  # standard deviation of cosines below which differences mean little
LEAST, MOST = -3.0, 6.0  # standard deviations that count

# --- grouping ------------------------------------------------------------------------------------

# Added to every pair: the odds from which two features are put together. 3.0 is as good on the
# planted graphs (0.788 and 0.787); the smaller one puts fewer together.
SHIFT = 2.5
CLIP = 4.0  # odds against that a single pair can bring at most, after the shift
NEIGHBOURS = 64  # pairs of each feature that are kept; others count as CLIP against
# Pairs up to which a search goes on until nothing improves, and its rounds where there are more
# (on a graph with 750,000 pairs two rounds lose 0.1 % of the sum, and half of the time).
FEW_PAIRS, ROUNDS = 200_000, 2

# --- confidence of a group, from the mean of its pairs' odds (after the shift) -------------------

CONFIDENCE_BIAS, CONFIDENCE_SLOPE = -2.43, 1.17
