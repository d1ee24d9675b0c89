"""What a run along a chain shows of each value: whether it goes along, and tells the stimuli apart.

`orders` says why that is enough.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import chain

import torch
from torch import Tensor

from lensframe_pd.validation.along import Along, Fit, Together
from lensframe_pd.validation.orders import Chain

_FEW = 6  # values that are sooner looked at one by one
_SEEN = 16  # elements of an entry by which most are told apart
_CORNER = 8  # elements along each axis by which others are
_MANY = 4  # whole numbers for each entry that no threshold is likely to give
_ROUNDED = 1e-9  # of a sum of numbers, in double precision
_WEIGHTS = torch.linspace(1, 2, _SEEN, dtype=torch.float64).sqrt()  # whose sums are not whole


class Chained(Together):
    """Looks at the values of the run with a chain.

    Attributes
    ----------
    shown
        Rows of which each entry is of its own stimulus, or is as all others are.
    alike
        Those of them whose entries are all alike, and stay so.
    unlike
        Rows that do not follow.
    moved
        Whether the stimuli make a difference to any.
    """

    def __init__(self, values: Along, links: Chain, given: Collection[int] = ()) -> None:
        super().__init__(values, links.order, self._look_closely)
        self._values = values
        #: Rows that are arguments themselves, which nothing has made of another stimulus.
        self._given = given
        self._last = links.last.place
        places = [place for place in range(values.n) if place != self._last]
        self._places = torch.tensor(places, dtype=torch.int64)
        self._following = self._order[self._places]
        self._links = [*zip(places, self._following.tolist(), strict=True)]
        self._follows = values.following(links.order, places)
        self.shown: set[int] = set()
        self.alike: set[int] = set()
        self.unlike: set[int] = set()
        self.moved = False

    def look(self, row: int, value: Tensor) -> None:
        if not self.takes(row, value):
            self._look_closely(row, value)

    def _follow(self, waiting: list[tuple[int, Tensor]]) -> bool:
        if len(waiting) <= _FEW:
            return False
        own, now = self._joined(waiting)
        if now is None:
            return False
        each = [value.numel() // self._n for _, value in waiting]
        sizes = torch.tensor(each)
        begins = _begins((own, now[self._last, None]), sizes)
        seen = _have_gaps((begins * _WEIGHTS).sum(-1)) & ~_are_coarse(begins)
        if not all(torch.equal(now[place], own[other]) for place, other in self._links):
            here, there = now.index_select(0, self._places), own.index_select(0, self._following)
            seen &= _same_at_once(here, there, sizes)
        end = 0
        for (row, value), is_seen, n in zip(waiting, seen.tolist(), each, strict=True):
            begin, end = end, end + n
            if is_seen:
                self._show(row)
            elif _stay_alike(own[:, begin:end], now[:, begin:end]):  # as masks and positions do
                self._show_alike(row)
            else:
                self._look_closely(row, value)
        return True

    def _show(self, row: int) -> None:
        self.shown.add(row)
        self.moved = True

    def _show_alike(self, row: int) -> None:
        self.shown.add(row)
        self.alike.add(row)

    def _look_closely(self, row: int, value: Tensor) -> None:
        axes, own = self._values.axes[row], self._values.of(row)
        if len(axes) > 1 or value.shape != own.shape:
            return
        fit = self._follows(row, value)
        if fit is Fit.NONE:
            self.unlike.add(row)
            return
        if fit is Fit.EXACT and axes == [0]:  # in few steps what most often holds
            if self._are_apart_at_a_glance(row, value):
                self._show(row)
                return
            if _stay_alike(own, value):
                self._show_alike(row)
                return
        corners = self._corners(row, value)
        apart = torch.cdist(corners, corners, p=torch.inf).fill_diagonal_(torch.inf)
        room = 0.0 if fit is Fit.EXACT else self._values.room(row)
        is_fine = row in self._given or not bool(_are_coarse(corners[:, None]))
        if is_fine and bool((apart > room).all()):
            self._show(row)
            return
        (axis,) = axes
        if self._values.close(row, own, own.narrow(axis, 0, 1).expand_as(own)):
            if self._values.close(row, value, own):
                self._show_alike(row)
        else:
            self.moved = True  # as some differ that are next to each other

    def _are_apart_at_a_glance(self, row: int, value: Tensor) -> bool:
        """Whether a few numbers of each entry, spread over it, tell all of them apart.

        As `_corners` and `_are_coarse` do it of more, but without their many calls.
        """
        own = self._values.of(row)
        if own.is_complex() or not (own.is_contiguous() and value.is_contiguous() and own.numel()):
            return False
        step = max(1, own.numel() // self._n // _SEEN)
        entries = own.view(self._n, -1)[:, ::step][:, :_SEEN].tolist()
        entries.append(value[self._last].view(-1)[::step][:_SEEN].tolist())
        numbers = {*chain.from_iterable(entries)}
        if any([number != number for number in numbers]):
            return False
        whole = not own.is_floating_point() or all([number.is_integer() for number in numbers])
        few = len(numbers) < (_MANY * len(entries) if whole else len(entries))
        return not few and len({*map(tuple, entries)}) == len(entries)

    def _corners(self, row: int, value: Tensor) -> Tensor:
        """Of each entry, and of that of the new stimulus, a corner, as numbers in a row."""
        own, (axis,) = self._values.of(row), self._values.axes[row]
        new = value.narrow(axis, self._last, 1)
        for along in {*range(own.dim())} - {axis}:
            own, new = (t.narrow(along, 0, min(_CORNER, t.shape[along])) for t in (own, new))
        entries = torch.cat([own, new.to(own)], axis).movedim(axis, 0).reshape(self._n + 1, -1)
        if entries.is_complex():
            entries = torch.view_as_real(entries).flatten(1)
        return entries.double()


def _stay_alike(own: Tensor, now: Tensor) -> bool:
    """Whether all entries of a value are alike, and now as they were."""
    return torch.equal(own, own[:1].expand_as(own)) and torch.equal(now, own)


def _begins(parts: Sequence[Tensor], sizes: Tensor) -> Tensor:
    """What the entries of each value begin with, of values of so many columns side by side.

    It is by its sum that all entries of one are seen to differ.
    """
    ends = sizes.cumsum(0)[:, None]
    columns = (ends - sizes[:, None] + torch.arange(_SEEN)).minimum(ends - 1)
    columns = columns.flatten()
    begins = torch.cat([entries.index_select(1, columns) for entries in parts])
    if begins.is_complex():
        begins = begins.real + begins.imag
    return begins.view(len(begins), len(sizes), _SEEN).double()


def _are_coarse(numbers: Tensor) -> Tensor:
    """Of each value, along the second axis, whether it has few different numbers.

    What a threshold makes of another stimulus may be the same by chance: it has fewer numbers than
    there are entries, or whole ones and not many.
    """
    n, first = len(numbers), numbers[:, :, 0]
    are_apart = (first.sort(0).values.diff(dim=0) != 0).all(0)
    found = ~(are_apart & (first != first.round()).any(0))  # few, which are looked at more closely
    if bool(found.any()):
        each = numbers[:, found].movedim(1, 0).flatten(1)
        different = (each.sort(1).values.diff(dim=1) != 0).sum(1) + 1
        are_whole = (each == each.round()).all(1)
        found[found.clone()] = different < torch.where(are_whole, _MANY * n, n)
    return found


def _have_gaps(sums: Tensor) -> Tensor:
    """Whether all sums along the first axis differ by more than rounding."""
    gaps = sums.sort(0).values.diff(dim=0)
    return (gaps > _ROUNDED * sums.abs().amax(0)).all(0)


def _same_at_once(here: Tensor, there: Tensor, sizes: Tensor) -> Tensor:
    """Of values side by side, of so many columns each, which are equal."""
    unequal = (here != there).any(0).cumsum(0)[sizes.cumsum(0) - 1]
    return unequal.diff(prepend=unequal.new_zeros(1)) == 0
