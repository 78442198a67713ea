"""Windows on a list that changes, and the proof that nothing is missing between them. No I/O.

An answer is a snapshot of a window, and items keep their order. So two windows that share an item
prove their boundary, whichever was read first. Two that share none prove it only if the second was
asked for after the first was read, and begins no later than the first one's end less what the total
says was removed in between: items that come in push the rest back, which loses nothing.

A total may be wrong, and a window may hold fewer items than it says: because rows are hidden from this
key, or because the server takes a smaller size than it repeats. So an end is believed only where all
items are accounted for, or where nothing follows it; and a size, once a part of such a window that was
read again showed nothing new.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar

import msgspec

from .errors import WalkError

__all__ = ["Plan", "Seam", "Window", "plan_check", "plan_window"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Window(msgspec.Struct, Generic[T_co], frozen=True):
    """A part of a list, as one answer showed it.

    Attributes:
        items: What the window held.
        total: How many items the list had.
        start: How many items came before the window.
        size: How many items it may hold.
        by_number: Whether windows can only begin at multiples of their size.
    """

    items: Sequence[T_co]
    total: int
    start: int
    size: int
    by_number: bool

    @property
    def end(self) -> int:
        """Where the next window would begin, if nothing changed."""
        return self.start + self.size

    @property
    def is_full(self) -> bool:
        """Whether it holds as many items as it may."""
        return len(self.items) >= self.size

    @property
    def is_dense(self) -> bool:
        """Whether it holds all that it should by its size and total."""
        return len(self.items) >= min(self.size, self.total - self.start)

    @property
    def is_last(self) -> bool:
        """Whether the window reaches the end of the list, if its total is right."""
        return self.end >= self.total

    @property
    def refutes_total(self) -> bool:
        """Whether it shows more items than the list is said to have."""
        return bool(self.items) and self.start + len(self.items) > self.total


class Plan(msgspec.Struct, frozen=True):
    """A window to ask for."""

    start: int
    size: int

    @property
    def end(self) -> int:
        """Where it would end."""
        return self.start + self.size


def plan_window(reach: int, overlap: int, sizes: range, *, by_number: bool) -> Plan:
    """The window to read after ``reach``: it overlaps what was read, and goes as far as it can.

    Where windows begin at multiples of their size, a size is chosen that has such a multiple shortly
    before ``reach``. Where no size has (they are too small, or the server allows only one), the
    window begins at ``reach`` or before it, whether or not it overlaps.

    Args:
        reach: How many items were read so far.
        overlap: How many of them to read again, if that can be had.
        sizes: The sizes that may be asked for.
        by_number: Whether windows begin at multiples of their size.
    """
    largest = sizes[-1]
    latest = max(0, reach - overlap)
    if not by_number:
        return Plan(latest, largest) if latest + largest > reach else Plan(max(0, reach), largest)
    overlapping = [Plan(latest - latest % size, size) for size in sizes]
    best = max(overlapping, key=_end)
    if best.end <= reach:
        best = max((Plan(reach - reach % size, size) for size in sizes), key=_end)
    return best


def _end(plan: Plan) -> int:
    return plan.end


def plan_check(window: Window[Any]) -> Plan:
    """A part of a window, from its second half, to see whether the window held all that was there."""
    end = min(window.end, window.total) if window.total > window.start else window.end
    size = max(1, (end - window.start) // 2)
    start = end - size
    return Plan(start - start % size if window.by_number else start, size)


class Memory:
    """The ids given last, between 5,000 and 10,000 of them: a walk of any length stays flat."""

    HALF = 5_000
    EDGE = 200

    def __init__(self, ids: Sequence[str] = ()) -> None:
        self._newer: dict[str, None] = dict.fromkeys(ids)
        self._older: dict[str, None] = {}
        self.edge = [*ids]
        """Ids at the edge of what is remembered: what comes before one of them was given, too."""

    def known(self, ids: Sequence[str]) -> list[bool]:
        """For each of some ids, whether it is remembered."""
        newer, older = self._newer, self._older
        return [id_ in newer or id_ in older for id_ in ids]

    def add(self, ids: Mapping[str, None]) -> None:
        """Remember some more."""
        self._newer.update(ids)
        if len(self._newer) >= self.HALF:
            if self._older:
                self.edge = [*islice(reversed(self._older), self.EDGE)][::-1]
            self._newer, self._older = {}, self._newer


class _Compared(msgspec.Struct):
    """A window, its items' ids, and which of these were given before."""

    window: Window[Any]
    ids: list[str]
    known: list[bool]


class Seam:
    """What has been read so far, and whether another window joins on to it without a gap.

    Attributes:
        total: How many items the list has, by the last window that joined on.
        reach: How many items come before what is to be read next.
        given: How many items were given.
        is_sparse: Whether windows hold less than they may, so that neighbours may share no item.
        total_is_wrong: Whether a window showed more than the list is said to have.
        goes_by_place: Whether what is read next is told from what was given by its place alone.
        seeks_end: Whether the last window reached the end by its total, so that nothing should follow.
        is_resumed: Whether the place where an earlier walk stopped is still to be found.
    """

    MOST_BARREN, MOST_BARREN_PLACES = 100, 1400
    MOST_ASTRAY = 5
    MOST_MISSES = 28
    MOST_REPEATS, MOST_REPEATED_PLACES = 10, 200
    EDGE_WIDTH = 20
    MOST_VAIN_PASSES, SHORT_LIST = 1, 10

    def __init__(self, key: Callable[[Any], str]) -> None:
        self._key = key
        self._memory = Memory()
        self._compared: _Compared | None = None
        self._barren = 0
        self._astray = 0
        self._repeats = 0
        self.misses = 0
        self._furthest = 0
        self._least_total: int | None = None
        self.total_is_wrong = False
        self._remembers_from = 0
        self._edge_total = 0
        self.is_sparse = False
        self._most_total = 0
        self._is_again = False
        self.goes_by_place = False
        self.seeks_end = False
        self._vain_passes = -1
        self._given_before = -1
        self.total: int | None = None
        self.reach = 0
        self.given = 0
        self.is_resumed = False

    def restore(self, reach: int, total: int | None, last_ids: Sequence[str], given: int) -> None:
        """Go on where another walk stopped."""
        self.reach, self.total, self._memory = reach, total, Memory(last_ids)
        self.given, self._least_total = given, total
        self._remembers_from, self._edge_total = reach, total or 0
        self._furthest = reach
        self.is_resumed = bool(last_ids)

    def shares(self, window: Window[Any]) -> bool:
        """Whether an item of the window was given before."""
        return any(self._compare(window).known)

    def lacks(self, window: Window[Any], part: Window[Any]) -> bool:
        """Whether a window lacks what a part of it, read again, shows."""
        return not {*map(self._key, part.items)} <= {*map(self._key, window.items)}

    def _compare(self, window: Window[Any]) -> _Compared:
        """The window beside what was given; asked for twice, it is looked at once."""
        if self._compared is None or self._compared.window is not window:
            ids = [*map(self._key, window.items)]
            self._compared = _Compared(window, ids, self._memory.known(ids))
        return self._compared

    def joins(self, window: Window[Any], *, read_after: bool, overlaps: bool = True) -> bool:
        """Whether nothing can be missing between what was read and this window.

        Args:
            window: The window.
            read_after: Whether it was asked for after the last one that joined had been read.
            overlaps: Whether it was to share an item with what was read.
        """
        self.total_is_wrong |= window.refutes_total
        if (window.start == 0 and not self._remembers_from) or self.shares(window):
            return True
        is_sparse = self.is_sparse or not window.is_dense
        if read_after and self.seeks_end and not window.items and window.start >= window.total:
            return True
        overlaps = overlaps and not self.goes_by_place
        if not read_after or (overlaps and window.items and not is_sparse):
            return False
        return window.start <= self.reach_in(window.total)

    def reach_in(self, total: int) -> int:
        """At the earliest, how many items come before the first one that was not read yet."""
        removed = 0 if self.total is None else max(0, self.total - total)
        return self.reach if self.total_is_wrong else max(0, self.reach - removed)

    def go_by_place(self, total: int) -> None:
        """None of the items that were given last is left: go on at the same distance from the end.

        What came in at the front, and what was removed of what was given, changes nothing there.
        """
        self.reach = max(0, self.reach + total - (self.total or 0))
        self.total = total
        self.is_resumed, self.goes_by_place = False, True

    def miss(self) -> None:
        """Take note of a window that had nothing to do with what was read.

        Raises:
            WalkError: There were too many since the walk got any further.
        """
        self.misses += 1
        if self.misses > self.MOST_MISSES:
            raise WalkError(
                f"the list changes faster than it can be read: {self.misses} pages had nothing to do "
                f"with what was read up to item {self._furthest}"
            )

    def look_back(self, window: Window[Any]) -> int:
        """Where reading has to begin again by what a window says.

        Where that is before what is remembered, the place is to be found by its items.
        """
        self.total_is_wrong |= window.refutes_total
        reach = self.reach_in(window.total)
        self.is_resumed |= reach < self._remembers_from
        return reach

    def take(self, window: Window[T], planned: Plan, *, read_after: bool) -> list[T]:
        """Join a window on: the items in it that were not given yet.

        Raises:
            WalkError: The server contradicts itself.
        """
        compared = self._compare(window)
        self._compared = None
        ids, known = compared.ids, compared.known
        first = self._count_given_earlier(window, ids, known)
        known = [True] * first + known[first:]
        if self.is_resumed:
            held_new = first < len(ids)
            self._remembers_from = window.start + first if held_new else window.end
            self._edge_total = window.total
        self.is_sparse |= not window.is_dense
        found = zip(ids, window.items, known, strict=True)
        fresh = {id_: item for id_, item, was_given in found if not was_given}
        self._memory.add(dict.fromkeys(fresh))
        self.is_resumed = False
        self.total_is_wrong |= window.refutes_total
        self._check_sense(window, planned, got_any=bool(fresh))
        # A window read ahead that turns out to lie behind what was read is not where we are.
        if fresh or read_after or window.end > self.reach:
            self.reach, self.total = window.end, window.total
            least = window.total if self._least_total is None else self._least_total
            self._least_total = min(least, window.total)
            self._most_total = max(self._most_total, window.total)
        self.given += len(fresh)
        return [*fresh.values()]

    def _count_given_earlier(self, window: Window[Any], ids: list[str], known: list[bool]) -> int:
        """How many items of a window come before what is remembered, and were given before that."""
        if self.goes_by_place:
            self.goes_by_place = False
            return max(0, min(len(ids), self.reach - window.start)) if window.is_full else 0
        edge = self._memory.edge
        if not self.is_resumed:
            arrived = max(0, window.total - self._edge_total)
            if window.start >= self._remembers_from + arrived + self.EDGE_WIDTH * bool(edge):
                return 0
        earlier = known.index(True) if any(known) else 0
        for id_ in reversed(edge):
            places = [place for place, found in enumerate(ids, 1) if found == id_]
            if places:
                # Of an id that is there twice, the one that follows what it followed before.
                before = edge[max(0, edge.index(id_) - 1)]
                found = next((p for p in places if p > 1 and ids[p - 2] == before), places[0])
                return max(earlier, found)
        return earlier

    def is_end(self, window: Window[Any], *, got_any: bool) -> bool:
        """Whether the window that joined on last is the end of the list, for certain.

        Args:
            window: The window.
            got_any: Whether any of its items was not given yet.
        """
        was_sought = self.seeks_end and not got_any
        self.seeks_end = window.is_last or window.refutes_total
        is_accounted_for = self.given >= (self._least_total or 0)
        if was_sought and window.end > window.total and is_accounted_for:
            return True
        if window.refutes_total or not window.is_last:
            return False
        if was_sought and window.end > window.total:
            # A total that was refuted may count what this key can see, and not places.
            return not self.total_is_wrong and not self._begins_again(window)
        # In a list that changes, items come in at the front that it doesn't give, and others go.
        changes = self._least_total != self._most_total
        return not window.is_full and (is_accounted_for or (changes and window.is_dense))

    def _begins_again(self, window: Window[Any]) -> bool:
        """Whether items are missing from a list that didn't change, and it is read once more for them.

        They are where the order is not a fixed one; where ids are there twice, none are.
        """
        is_quiet = self._least_total == self._most_total and not self.is_sparse
        if not is_quiet or self._memory.edge:
            return False
        self._vain_passes = 0 if self.given > self._given_before else self._vain_passes + 1
        self._given_before = self.given
        is_short = window.total <= self.SHORT_LIST * window.size
        if self._vain_passes > self.MOST_VAIN_PASSES + is_short:
            return False
        self.reach = 0
        self._is_again = True
        return True

    def _check_sense(self, window: Window[Any], planned: Plan, *, got_any: bool) -> None:
        if self._is_again:
            return
        grew = self.total is not None and window.total > self.total  # which pushes items back
        repeats = bool(window.items) and not (got_any or grew) and window.end > self._furthest
        self._repeats = 0 if got_any else self._repeats + repeats
        self.misses = 0 if window.end > self._furthest else self.misses
        self._furthest = max(self._furthest, window.end)
        if self._repeats >= self.MOST_REPEATS + self.MOST_REPEATED_PLACES // window.size:
            raise WalkError(
                f"the server says that the list has {window.total} items, but shows the same ones "
                f"again where those up to {window.end} should be"
            )
        went_astray = window.start < planned.start and not got_any and not window.is_last
        self._astray = self._astray + 1 if went_astray else 0
        if self._astray >= self.MOST_ASTRAY:
            raise WalkError(
                f"the server answers with items from {window.start} on, whatever is asked of it"
            )
        self._barren = 0 if got_any else self._barren + 1
        self.check_barren(self._barren, window)

    def check_barren(self, count: int, window: Window[Any]) -> None:
        """Make sure that not too many windows in a row gave nothing.

        Raises:
            WalkError: They did.
        """
        if count >= max(self.MOST_BARREN, self.MOST_BARREN_PLACES // window.size):
            raise WalkError(
                f"the server says that the list has {window.total} items, but {count} pages in a row, "
                f"up to item {window.end}, were empty or showed what was given before"
            )
