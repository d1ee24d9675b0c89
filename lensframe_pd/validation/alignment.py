"""Whether the ids stand at the right values: the model again, with other stimuli.

A value that belongs to one stimulus moves when that stimulus is replaced, and does not when
others are. One that mixes stimuli (a batch statistic) moves with all, but follows their order.

One run in which the stimuli stand a place further along a chain shows that of most values, and two
with a half of them replaced that of nearly all others (`orders`, `chains`). A value that moves but
does not follow (a position is added, a statistic of all is taken) is looked at bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress

from torch import Tensor

from lensframe_pd.tape.tape import Tape
from lensframe_pd.validation.along import Along, Fit, Together, picked
from lensframe_pd.validation.arranged import Order
from lensframe_pd.validation.chains import Chained
from lensframe_pd.validation.descent import below, inputs, mixing_above, random_rows
from lensframe_pd.validation.evidence import Evidence
from lensframe_pd.validation.orders import bits, chain, generators, halves
from lensframe_pd.validation.retraced import Another, Retraced, retraced
from lensframe_pd.validation.verdicts import Verdicts

_CHECK = "alignment"
_NUDGES = 4
_CHAINED = 64  # stimuli, of more some are too much alike
_ROUNDING = 16  # how much further than in those runs rounding may move a value


def check_alignment(
    evidence: Evidence, reference: Tape, values: Along, how: str, verdicts: Verdicts
) -> set[int]:
    """Trace the model again with some stimuli replaced, and where they are mixed, reordered.

    Returns
    -------
    set of int
        Rows whose value was seen to be another one in such a run.
    """
    if not values.axes:
        return set()
    try:
        if values.n < 2:
            raise Another("one stimulus has no neighbour")
        with retraced(evidence, reference, values.n) as runs:
            return _Check(evidence, reference, values, runs, verdicts).run(how)
    except Another as reason:
        for op in values.ops.values():
            verdicts.not_run(_CHECK, op, str(reason))
    return set()


def rows_of_a_chain(values: Along, how: str) -> Mapping[int, str]:
    """The rows that a run along a chain will look at, and their labels: most will be others."""
    return values.ops if how == "sample" and 1 < values.n <= _CHAINED else {}


class _Check:
    """What the runs show of each row."""

    def __init__(
        self,
        evidence: Evidence,
        reference: Tape,
        values: Along,
        runs: Retraced,
        verdicts: Verdicts,
    ) -> None:
        self.evidence = evidence
        self.reference = reference
        self.values = values
        self.runs = runs
        self.verdicts = verdicts
        self.n = values.n
        #: Rows of which entries moved whose stimuli were not replaced.
        self.mixed: set[int] = set()
        #: Rows of which it is not shown that the right stimulus stands at each place.
        self.doubtful: set[int] = set()
        #: Rows with several axes of stimuli, with those along which none was seen to move alone.
        self.still: dict[int, set[int]] = {}
        self.undecided: dict[int, str] = {}
        self.moved = False

    def run(self, how: str) -> set[int]:
        """The rows that a chain showed to have other values for other stimuli."""
        rows, others = self._with_one_extent(), set[int]()
        if not self.evidence.replays_random_numbers:
            self._take_fresh(rows & below(self.reference, random_rows(self.reference)))
        if how == "sample" and self.n <= _CHAINED:
            others = self._replace_along_a_chain(rows)
        else:
            self._replace(rows, how)
        self._replace(self._other_values(), how)
        local = rows - self.mixed
        if self.moved:
            self._reorder(self.mixed)
            self._try_other_axes(how)
            self._try_any_order()
            self._leave_undetermined(self.mixed)
            self._leave_rounding({*self.mixed} - self.undecided.keys(), how)
            self._leave_undecided(local)
        else:
            alike = dict.fromkeys(rows, "nothing moved: the stimuli are alike")
            self.undecided = alike | self.undecided
        self._decide(rows)
        return others

    def _with_one_extent(self) -> set[int]:
        """The rows whose axes of stimuli have an entry for each; the others have failed."""
        rows = set()
        for row, axes in self.values.axes.items():
            shape = self.values.of(row).shape
            wrong = [shape[axis] for axis in axes if shape[axis] != self.n]
            if wrong:
                reason = f"an axis of stimuli has {wrong[0]} entries, and there are {self.n}"
                self.verdicts.fails(_CHECK, self.values.ops[row], reason)
            else:
                rows.add(row)
        return rows

    def _replace_along_a_chain(self, rows: Collection[int]) -> set[int]:
        """One run for most rows; those that do not go along are looked at bit by bit.

        Those are given whose value is another one at each place: of each of its stimuli another.
        """
        chained = self._chained({*rows} - self.undecided.keys())
        by_chance: set[int] = set()
        if chained.unlike and chained.alike:  # what is made of what mixes may be alike by chance
            by_chance = chained.alike & below(self.reference, chained.unlike)
        self._replace({*rows} - (chained.shown - by_chance) - chained.unlike, "sample")
        self._replace(chained.unlike, "all")
        return chained.shown - chained.alike

    def _chained(self, rows: Collection[int]) -> Chained:
        """What a run along the chain says of these rows; nothing where it cannot be made."""
        links = chain(self.n)
        chained = Chained(self.values, links, inputs(self.reference))
        try:
            if rows:
                self.runs.run(
                    links.order, rows, chained.look, blended=links.last, settle=chained.settle
                )
        except Another:  # how it parts is told where stimuli are replaced
            return Chained(self.values, links)
        self.moved = self.moved or chained.moved
        return chained

    def _replace(self, rows: Collection[int], how: str) -> None:
        """Replace stimuli by their neighbours: what else than their entries moves?"""
        if not rows:
            return
        self.mixed -= {*rows}
        self.doubtful -= {*rows}
        made = bits(self.n) if how == "all" else halves(self.n)
        for some in made:
            self._replace_some({*rows} - self.mixed, some)
        doubtful = (self.doubtful - self.mixed) & {*rows}
        if how == "sample" and doubtful:
            for some in [some for some in bits(self.n) if some not in made]:
                self._replace_some(doubtful - self.mixed, some)

    def _replace_some(self, rows: Collection[int], some: Collection[int]) -> None:
        order = [(i + 1) % self.n if i in some else i for i in range(self.n)]
        kept = [i for i in range(self.n) if i not in some]
        values, follows = self.values, self.values.following(order)

        def look(row: int, value: Tensor) -> None:
            if not self.moved:
                self.moved = not values.close(row, value, values.of(row))
            if follows(row, value):
                return
            axes = values.axes[row]
            self.doubtful.add(row)
            before = picked(values.of(row), axes, kept)
            if not values.close(row, picked(value, axes, kept), before):
                self.mixed.add(row)
            elif len(axes) > 1:
                self._see_axes_move(row, value, kept, [*some])

        self._look(order, rows, look, whole=False, together=Together(values, order, look))

    def _see_axes_move(
        self, row: int, value: Tensor, kept: Sequence[int], some: Sequence[int]
    ) -> None:
        """Along which of several axes do entries move whose stimuli on the others were kept?"""
        axes = self.values.axes[row]
        for axis in [*self.still.setdefault(row, {*axes})]:
            others = [k for k in axes if k != axis]
            both = [
                picked(picked(tensor, others, kept), [axis], some)
                for tensor in (value, self.values.of(row))
            ]
            if not self.values.close(row, *both):
                self.still[row].discard(axis)

    def _look(
        self,
        order: Order,
        rows: Collection[int],
        look: Callable[[int, Tensor], None],
        whole: bool = True,
        together: Together | None = None,
        fills: bool = False,
    ) -> None:
        """Look at these rows in one run.

        If not the `whole` of a stimulus need be moved, in a second one, too, where shapes or labels
        depend on it.
        """
        waiting = {row for row in rows if row not in self.undecided}
        settle = int if together is None else together.settle
        reason = "shapes differ between the runs"
        for contents_only in (False,) if whole else (False, True):
            unlike: set[int] = set()

            def look_if_alike(row: int, value: Tensor, unlike: set[int] = unlike) -> None:
                if together is not None and self.moved and together.takes(row, value):
                    return
                if value.shape == self.values.of(row).shape:
                    look(row, value)
                else:
                    unlike.add(row)

            if waiting:
                try:
                    self.runs.run(
                        order, waiting, look_if_alike, contents_only, settle=settle, fills=fills
                    )
                    waiting = unlike
                except Another as another:
                    reason = str(another)
        self.undecided |= dict.fromkeys(waiting, reason)

    def _take_fresh(self, rows: Collection[int]) -> None:
        """Compare these rows with a new run's values from here on."""

        def take(row: int, value: Tensor) -> None:
            self.values.fresh[row] = value.clone()

        self._look(range(self.n), rows, take)

    def _other_values(self) -> set[int]:
        """The mixed rows whose values a new run of the same stimuli does not give again.

        From here on they are compared with that run's, where the saved values are shown to be
        right by other means; else they have failed.
        """
        other: set[int] = set()
        fresh: dict[int, Tensor] = {}

        def take(row: int, value: Tensor) -> None:
            if not self.values.close(row, value, self.values.of(row)):
                other.add(row)
                fresh[row] = value.clone()

        self._look(range(self.n), self.mixed - self.values.fresh.keys(), take)
        for row in sorted(other & self._wrong(other)):
            reason = "these stimuli have other values, traced again"
            self.verdicts.fails(_CHECK, self.values.ops[row], reason)
            self.mixed.discard(row)
        other &= self.mixed
        self.values.fresh |= {row: fresh[row] for row in other}
        return other

    def _wrong(self, other: set[int]) -> set[int]:
        """Values that no replay shows to be right, and what was replayed on them."""
        if self.evidence.tape is not None:
            return set()  # the model may have gone on since, and the trace's own record counts
        replayed = self.verdicts.found["replay"]
        return below(
            self.reference, {row for row in other if not replayed.get(self.values.ops[row])}
        )

    def _reorder(self, rows: Collection[int]) -> None:
        """Give the stimuli in two orders, of which all others are made: what follows is right."""
        if self.n == 2:  # where to exchange two is to replace both
            return
        following = {*rows}
        for order in generators(self.n):
            follows = self.values.following(order)

            def look(
                row: int, value: Tensor, follows: Callable[[int, Tensor], Fit] = follows
            ) -> None:
                if not follows(row, value):
                    following.discard(row)

            self._look(order, following, look)
        self.mixed -= following - self.undecided.keys()

    def _try_other_axes(self, how: str) -> None:
        """Axes without ids may have entries that go along: logits of texts and their images.

        Where a value is right if such axes are moved with the stimuli, the ids it has are.
        """
        own = {row: self.values.axes[row] for row in self.mixed - self.undecided.keys()}
        choices = {row: self.values.more_axes(row) for row in own}
        for k in range(max(map(len, choices.values()), default=0)):
            rows = {row for row in self.mixed & own.keys() if k < len(choices[row])}
            for row in rows:
                self.values.axes[row] = choices[row][k]
            self._replace(rows, how)
            self._reorder(self.mixed & rows)
            for row in self.mixed & rows:
                self.values.axes[row] = own[row]

    def _try_any_order(self) -> None:
        """What an entry has of all stimuli may stand in any order: a text's logits of two views.

        As numbers in no order they follow the stimuli where the ids are right, and tell the
        entries apart.
        """
        if self.n == 2:  # as in `_reorder`
            return
        bags = {row: self.values.bag(row) for row in self.mixed - self.undecided.keys()}
        following = {row for row, bag in bags.items() if bag is not None}
        for order in generators(self.n):

            def look(row: int, value: Tensor, order: Order = order) -> None:
                bag = bags[row]
                if bag is None or not bag.follows(value, order):
                    following.discard(row)

            self._look(order, following, look)
        self.mixed -= following - self.undecided.keys()

    def _leave_undetermined(self, rows: Collection[int]) -> None:
        """Nothing is said of what is not determined, as what is left in fresh memory."""

        def look(row: int, value: Tensor) -> None:
            if not self.values.close(row, value, self.values.of(row)):
                self.undecided[row] = "the same stimuli give another value in another run"

        if not {*rows} - self.undecided.keys():
            return  # filling memory would import torch's compiler
        for fills in (False, True):
            self._look(range(self.n), rows, look, fills=fills)

    def _leave_rounding(self, rows: set[int], how: str) -> None:
        """Nothing is said of what rounding moves as far, as what is left where terms cancel."""
        values = self.values

        def look(row: int, value: Tensor) -> None:
            moved = _ROUNDING * values.moved_by(row, value)
            values.slack[row] = max(moved, values.slack.get(row, 0.0))

        for nudge in range(1, _NUDGES + 1) if rows else ():
            with suppress(Another):
                self.runs.run(range(self.n), rows, look, nudge=nudge)
        rows = {row for row in rows if values.slack.get(row)}
        self._replace(rows, how)
        self._reorder(self.mixed & rows)
        reason = "rounding of the stimuli's last digits moves the value as far as another stimulus"
        self.undecided |= dict.fromkeys(rows - self.mixed, reason)
        values.slack.clear()

    def _leave_undecided(self, local: Collection[int]) -> None:
        """Nothing is said where mixing cannot be told from wrong ids.

        `local` are the rows that are shown not to mix stimuli.
        """
        if self.n == 2:
            for row in self.mixed:
                self.undecided.setdefault(row, "there are two stimuli, and they are mixed")
        for row in self.mixed & below(self.reference, random_rows(self.reference)):
            if mixing_above(self.reference, row, local):
                reason = "below random numbers and a row that mixes stimuli"
                self.undecided.setdefault(row, reason)

    def _decide(self, rows: Iterable[int]) -> None:
        for row in rows:
            op = self.values.ops[row]
            if row in self.undecided:
                self.verdicts.not_run(_CHECK, op, self.undecided[row])
            elif row in self.mixed:
                reason = (
                    "entries moved whose stimuli were not replaced, and the value does not follow "
                    "the stimuli in another order: its ids are not theirs"
                )
                self.verdicts.fails(_CHECK, op, reason)
            elif 0 < len(self.still.get(row, ())) < len(self.values.axes[row]):
                axis = min(self.still[row])
                reason = f"only along other axes than {axis} do entries move: it has no stimuli"
                self.verdicts.fails(_CHECK, op, reason)
            else:
                self.verdicts.holds(_CHECK, op)
