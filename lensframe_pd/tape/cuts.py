"""Where a loop is cut in two: at rows that differ from it, and that all its later passes follow.

An operation that one iteration runs besides (`if i == 5: x = x.abs()`) gives the next pass another
parent, and through it all passes after. So this is not one odd pass of a loop but a second loop.
"""

from __future__ import annotations

from lensframe_pd.tape.grouping import Grouping
from lensframe_pd.tape.parts import Arrangement
from lensframe_pd.tape.readings import each


def cut_where_rows_begin(grouping: Grouping, arrangement: Arrangement) -> list[list[int]]:
    """The loops that single rows begin, each of one signature; none if nothing follows them."""
    loop = arrangement.loop
    single = {p.first: p for p in arrangement.undecided if len(p.layer) == 1}
    anew = {*loop.opening_rows}
    loops: list[list[int]] = []
    inside = False
    for row in arrangement.rows:
        part = single.get(row)
        if part is not None and part.waits is not None:
            # passes directly after a cut may differ too, as far as later ones look back
            apart = not inside or len(loops[-1]) >= max(part.waits.reach.values())
            if apart and grouping.follows(loop.row_after(row), row):
                loops.append([])
                inside = True
                grouping.begins.add(row)
        elif row in anew:
            inside = False
        if inside:
            loops[-1].append(row)
    return loops


def cut_where_a_set_begins(grouping: Grouping, arrangement: Arrangement) -> list[list[int]]:
    """The loop that the first undecided set begins, again and again; none if it does not.

    It does not where its rows start from what would be their own loop: then the set is another
    place of the program, as the first pass of an inner loop is.
    """
    loop, first = arrangement.loop, arrangement.undecided[0]
    begins, *again = first.layer
    if not grouping.follows(loop.row_after(begins), begins):
        return []
    anew = {*loop.opening_rows}
    begin = {*first.layer}
    cut: list[int] = []
    inside = False
    for row in arrangement.rows:
        inside = row in begin or (inside and row not in anew)
        if inside:
            cut.append(row)
    taken = {*cut}
    starts = [s for row in again for s in _read_where_it_differs(grouping, arrangement, row)]
    if grouping.descends(starts, taken.__contains__, begins):
        return []
    grouping.begins.update(first.layer)
    return [cut]


def _read_where_it_differs(grouping: Grouping, arrangement: Arrangement, row: int) -> list[int]:
    loop, waits = arrangement.loop, arrangement.undecided[0].waits
    roles = {loop.roles[place] for place in waits.places} if waits is not None else set()
    return [
        source
        for role, sources in zip(grouping.roles[row], grouping.read[row], strict=True)
        if role in roles
        for source in each(sources)
        if source >= 0
    ]
