"""In which orders the stimuli are given to a run, so that it shows whose each entry of a value is.

`chain`: all places stand in a chain, in a drawn order. Each is given the stimulus of the next one,
and the last a new one, blended of the first's and its own. What is at each place but the last has
to be what was at the next one. That shows of each entry that it is of its own stimulus and of no
other. Say that place p shows the stimulus q(p), alone or beside others. It has to show now what was
shown at the next place: so q of the next place is the one after q(p), and q(p) is not the last,
whose new stimulus was nowhere. If q of the first place is further along, q comes to the last one at
a place that is not, and only the q of each place itself does not.

For that the value has to tell the stimuli apart: all its entries, and that of the new one, differ,
and not by few numbers. Where they are all alike and stay so, each is as right as another. Of others
(masks, labels, what a threshold makes) two `halves` of the stimuli are replaced by neighbours, one
and then the other: of all maps from places to stimuli only the identity follows both.

`bits` tell any two stimuli apart, whatever a value makes of them.
"""

from __future__ import annotations

import itertools
import random
from typing import NamedTuple

from lensframe_pd.validation.arranged import Blended


class Chain(NamedTuple):
    """Of each place the stimulus that it is given, and the last place, with what is blended in."""

    order: list[int]
    last: Blended


def chain(n: int) -> Chain:
    """The chain of `n` places; by `n` alone, so that a report can be had again."""
    drawn = [*range(n)]
    random.Random(n).shuffle(drawn)
    following = dict(itertools.pairwise([*drawn, drawn[0]]))
    return Chain([following[place] for place in range(n)], Blended(drawn[-1], drawn[-1]))


def halves(n: int) -> list[set[int]]:
    """A drawn half and its complement; by `n` alone, so that a report can be had again."""
    drawn = random.Random(n)
    while True:
        half = {*drawn.sample(range(n), n // 2)}
        turned = [{(i + k) % n for i in half} for k in range(1, n) if n % k == 0]
        if half not in turned:
            return [half, {*range(n)} - half]


def bits(n: int) -> list[set[int]]:
    """For each bit the numbers that have it, and those that do not."""
    ones = [{i for i in range(n) if i >> bit & 1} for bit in range((n - 1).bit_length())]
    return [some for one in ones for some in (one, {*range(n)} - one)]


def generators(n: int) -> tuple[list[int], list[int]]:
    """Two orders of which all others are made."""
    return [1, 0, *range(2, n)], [*range(1, n), 0]
