"""Compiles RASP programs by tracr into the files of `itg.zoo.compiled`.

    pip install tracr-pypi && python benchmarks/compile_programs.py [NAME ...]

Another program: compile it, then `itg.zoo.compiled_program(assembled, inputs).save("NAME.npz")`,
and `python benchmarks/compiled.py NAME.npz` measures on it.
"""

import argparse
import itertools
import random
from pathlib import Path

from tracr.compiler import compiling, lib
from tracr.rasp import rasp

import interactgraph as itg

FOLDER = Path(itg.zoo.__file__).parent / "programs"
MOST = 256  # inputs; of longer lists a random part


def copies_previous():
    """Whether a token is that of the position before."""
    return rasp.SequenceMap(
        lambda now, before: now == before, rasp.tokens, lib.shift_by(1, rasp.tokens)
    )


def first_or_last():
    """The first token at even positions, the last one at odd positions."""
    first = rasp.Aggregate(
        rasp.Select(rasp.indices, rasp.indices, lambda key, query: key == 0), rasp.tokens
    )
    last = rasp.Aggregate(
        rasp.Select(rasp.indices, lib.make_length() - 1, rasp.Comparison.EQ), rasp.tokens
    )
    even = rasp.Map(lambda index: index % 2, rasp.indices)
    joined = rasp.SequenceMap(lambda one, two: (one, two), first, last)
    return rasp.SequenceMap(lambda both, odd: both[odd], joined, even)


def sum_modulo():
    """A token plus the one before it, modulo 3."""
    previous = lib.shift_by(1, rasp.tokens)
    return rasp.SequenceMap(lambda now, before: (now + before) % 3, rasp.tokens, previous)


def larger_before():
    """How many positions before have a larger token; attention is causal."""
    return rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.GT))


# Name -> program, vocabulary, longest input, further options of the compiler.
PROGRAMS = {
    "hist": lambda: (lib.make_hist(), "abc", 5),
    "reverse": lambda: (lib.make_reverse(rasp.tokens), "abc", 5),
    "pair_balance": lambda: (lib.make_pair_balance(rasp.tokens, "(", ")"), "a()", 5),
    "detect_pattern": lambda: (lib.detect_pattern(rasp.tokens, "ab"), "abc", 5),
    "length": lambda: (lib.make_length(), "abc", 5),
    "sort_unique": lambda: (lib.make_sort_unique(rasp.tokens, rasp.tokens), [1, 2, 3, 4], 4),
    "frac_prevs": lambda: (lib.make_frac_prevs(rasp.tokens == "x"), "wxyz", 5),
    "shuffle_dyck": lambda: (lib.make_shuffle_dyck(["()"]), "()", 5),
    "count_less_freq": lambda: (lib.make_count_less_freq(2), "abc", 5),
    "sort_freq": lambda: (lib.make_sort_freq(3), "abc", 3),
    "copies_previous": lambda: (copies_previous(), "abc", 5),
    "first_or_last": lambda: (first_or_last(), "ab", 4),
    "count_token": lambda: (lib.make_count(rasp.tokens, "a"), "abc", 5),
    "larger_before": lambda: (larger_before(), [1, 2, 3], 4),
    "shift_two": lambda: (lib.shift_by(2, rasp.tokens), "abc", 5),
    "sum_modulo": lambda: (sum_modulo(), [0, 1, 2], 5),
}
CAUSAL = ("frac_prevs", "larger_before")


def sequences(name, vocabulary, longest):
    """All inputs, or so many of them."""
    every = [
        each
        for length in range(1, longest + 1)
        for each in itertools.product(vocabulary, repeat=length)
    ]
    if name == "sort_unique":  # the only inputs that it is for
        every = [each for each in every if len(set(each)) == len(each)]
    if len(every) > MOST:
        every = sorted(random.Random(0).sample(every, MOST), key=lambda each: (len(each), each))
    return every


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("names", nargs="*", default=list(PROGRAMS))
    for name in arguments.parse_args().names:
        program, vocabulary, longest = PROGRAMS[name]()
        assembled = compiling.compile_rasp_to_model(
            program, set(vocabulary), longest, causal=name in CAUSAL
        )
        found = itg.zoo.compiled_program(assembled, sequences(name, vocabulary, longest))
        path = FOLDER / f"{name}.npz"
        found.save(path)
        n_edges = sum(int(edges.sum()) for edges in found.written().values())
        n_axes = len(assembled.residual_labels)
        print(f"{name}: {n_axes} axes, {n_edges} edges, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
