"""What a run along a chain shows of each value: whether it goes along, and tells the stimuli apart.

`orders` says why that is enough.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lensframe_pd.validation.along import Along, Fit, Together
from lensframe_pd.validation.orders import Chain

_SEEN = 16  # elements of an entry by which most are told apart
_CORNER = 8  # elements along each axis by which others are
_PAIRED = 64  # stimuli up to which those are compared in pairs
_ROUNDED = 1e-9  # of a sum of numbers, in double precision
_WEIGHTS = torch.linspace(1, 2, _SEEN, dtype=torch.float64).sqrt()  # whose sums are not whole


class Chained(Together):
    """Looks at the values of the run with a chain.

    Attributes
    ----------
    shown
        Rows of which each entry is of its own stimulus, or is as all others are.
    along
        Rows that go along as well, where the stimuli are not told apart.
    unlike
        Rows that do not follow.
    moved
        Whether the stimuli make a difference to any.
    """

    def __init__(self, values: Along, chain: Chain) -> None:
        super().__init__(values, chain.order, self._look_closely)
        self._values = values
        self._last = chain.last.place
        self._given_last = chain.order[self._last]
        places = [place for place in range(values.n) if place != self._last]
        self._places = torch.tensor(places, dtype=torch.int64)
        self._following = self._order[self._places]
        self._follows = values.following(chain.order, places)
        self.shown: set[int] = set()
        self.along: set[int] = set()
        self.unlike: set[int] = set()
        self.moved = False

    def look(self, row: int, value: Tensor) -> None:
        if not self.takes(row, value):
            self._look_closely(row, value)

    def _follow(self, waiting: list[tuple[int, Tensor]]) -> bool:
        own, now = self._joined(waiting)
        if now is None:
            return False
        sizes = torch.tensor([value.numel() // self._n for _, value in waiting])
        entries = torch.cat([own, now[self._last, None]])
        seen = _apart_at_once(entries, sizes)
        here, there = now.index_select(0, self._places), own.index_select(0, self._following)
        if not torch.equal(here, there):
            seen &= _same_at_once(here, there, sizes)
        alike = seen
        if not bool(seen.all()):  # as masks and positions most often are
            alike = _same_at_once(now, own, sizes) & _same_at_once(own, own[:1], sizes)
        for (row, value), is_seen, is_alike in zip(
            waiting, seen.tolist(), alike.tolist(), strict=True
        ):
            if is_seen:
                self._show(row)
            elif is_alike:
                self.shown.add(row)
            else:
                self._look_closely(row, value)
        return True

    def _show(self, row: int) -> None:
        self.shown.add(row)
        self.moved = True

    def _look_closely(self, row: int, value: Tensor) -> None:
        axes, own = self._values.axes[row], self._values.of(row)
        if len(axes) > 1 or value.shape != own.shape:
            return
        fit = self._follows(row, value)
        if fit is Fit.NONE:
            self.unlike.add(row)
            return
        room = 0.0 if fit is Fit.EXACT else self._values.room(row)
        if self._are_apart(row, value, room):
            self._show(row)
            return
        own, (axis,) = self._values.of(row), self._values.axes[row]
        if self._values.close(row, own, own.narrow(axis, 0, 1).expand_as(own)):
            if self._values.close(row, value, own):
                self.shown.add(row)
            return
        self.moved = True  # as some differ that are next to each other
        if self._is_last_right(row, value, room):
            self.along.add(row)

    def _are_apart(self, row: int, value: Tensor, room: float) -> bool:
        """Whether all entries, and that of the new stimulus, differ."""
        entries = self._corners(row, value)
        if self._n > _PAIRED:
            weights = torch.linspace(1, 2, entries.shape[1], dtype=torch.float64).sqrt()
            return bool(_have_gaps(entries @ weights, room * float(weights.sum())))
        apart = torch.cdist(entries, entries, p=torch.inf).fill_diagonal_(torch.inf)
        return bool((apart > room).all())

    def _is_last_right(self, row: int, value: Tensor, room: float) -> bool:
        """Whether the new stimulus has the entry of the one that was given, or one of its own."""
        axis = self._values.axes[row][0]
        entries = (
            tensor.narrow(axis, place, 1)
            for tensor, place in ((value, self._last), (self._values.of(row), self._given_last))
        )
        if self._values.close(row, *entries):
            return True
        corners = self._corners(row, value)
        return bool((torch.cdist(corners[-1:], corners[:-1], p=torch.inf) > room).all())

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


def _apart_at_once(entries: Tensor, sizes: Tensor) -> Tensor:
    """Of values side by side, of so many columns each, whether all entries of one differ.

    It is seen by a sum of what each begins with.
    """
    ends = sizes.cumsum(0)[:, None]
    columns = (ends - sizes[:, None] + torch.arange(_SEEN)).minimum(ends - 1)
    begins = entries.index_select(1, columns.flatten())
    if begins.is_complex():
        begins = begins.real + begins.imag
    numbers = begins.view(len(entries), len(sizes), _SEEN).double()
    return _have_gaps((numbers * _WEIGHTS).sum(-1), 0.0)


def _have_gaps(sums: Tensor, room: float) -> Tensor:
    """Whether all sums along the first axis differ by more than their terms may, and rounding."""
    gaps = sums.sort(0).values.diff(dim=0)
    return (gaps > room + _ROUNDED * sums.abs().amax(0)).all(0)


def _same_at_once(here: Tensor, there: Tensor, sizes: Tensor) -> Tensor:
    """Of values side by side, of so many columns each, which are equal."""
    unequal = (here != there).any(0).cumsum(0)[sizes.cumsum(0) - 1]
    return unequal.diff(prepend=unequal.new_zeros(1)) == 0
