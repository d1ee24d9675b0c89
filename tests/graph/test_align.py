"""Rows of two frames as one list: the script is a shortest one, and nothing is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensframe_pd.graph.align import Pair, Steps, aligned

few = st.lists(st.sampled_from("abc"), max_size=12)


def steps(keys, shapes=None):
    return Steps([*keys], [*keys], [*(shapes or [object() for _ in keys])])


def longest_common(a, b):
    """By the textbook's table."""
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = (
                table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
            )
    return table[-1][-1]


@given(few, few, st.randoms(use_true_random=False))
def test_the_script_is_a_shortest_one_whatever_agrees(a, b, random):
    agreement = {}

    def score(i, j):
        return agreement.setdefault((i, j), random.randrange(5))

    found = aligned(steps(a), steps(b), score, lambda *_: False)
    both = [pair for pair in found if None not in pair]
    assert len(both) == longest_common(a, b)
    assert all(a[i] == b[j] for i, j in both)
    for side, keys in enumerate((a, b)):
        assert [pair[side] for pair in found if pair[side] is not None] == [*range(len(keys))]


@given(st.integers(0, 6), st.integers(1, 4), st.integers(0, 6))
def test_what_was_put_in_is_found_where_it_agrees_least(before, extra, after):
    """Of equal keys: a row put in anywhere is told by the rows it would tear apart."""
    mine = [*range(before), *["new"] * extra, *range(before, before + after)]
    found = aligned(
        steps("x" * len(mine)), steps("x" * (before + after)),
        lambda i, j: mine[i] == j, lambda *_: False,
    )  # fmt: skip
    assert [i for i, j in found if j is None] == [*range(before, before + extra)]


def pairs(a, b, **options):
    found = aligned(steps(a, options.get("of_a")), steps(b, options.get("of_b")),
                    lambda i, j: 0, options.get("same", lambda *_: False))  # fmt: skip
    return [("" if i is None else a[i]) + ("" if j is None else b[j]) for i, j in found]


@pytest.mark.parametrize(
    ("a", "b", "shapes", "expected"),
    [
        ("xay", "xby", "111", ["xx", "ab", "yy"]),  # between the same neighbours
        ("xay", "xby", "121", ["xx", "a", "b", "yy"]),  # of another shape
        ("xay", "xyb", "111", ["xx", "a", "yy", "b"]),  # between others
        ("a", "b", "1", ["ab"]),
        ("xabcy", "xdy", "11111", ["xx", "a", "b", "cd", "yy"]),  # the ends of two ways
        ("xdy", "xabcy", "11111", ["xx", "a", "b", "dc", "yy"]),
        ("", "ab", "11", ["a", "b"]),
    ],
)
def test_what_is_left_over_is_paired_by_place_and_shape(a, b, shapes, expected):
    of_b = "1" * len(b)
    assert pairs(a, b, of_a=shapes[: len(a)], of_b=of_b) == expected


def test_what_ran_at_another_time_is_paired_if_it_is_the_same():
    assert pairs("qkv", "kqv", same=lambda *_: True) == ["qq", "kk", "vv"]
    assert pairs("qkv", "vkq", same=lambda *_: True) == ["qq", "kk", "vv"]
    assert len(pairs("qkv", "kqv")) == 4
    chained = {(0, 1): {}, (1, 2): {0: 1}}  # a row after its parent

    def same(i, j, known):
        return all(known.get(p) == q for p, q in chained.get((i, j), {}).items())

    assert pairs("abx", "xab", same=same) == ["aa", "bb", "xx"]


def test_places_are_named():
    assert aligned(steps("a"), steps("a"), lambda i, j: 0, lambda *_: True) == [Pair(0, 0)]
