"""Windows on a list that changes, and the proof that nothing is missing between them. No I/O.

An answer is a snapshot of a window, and items keep their order. So two windows that share an item
prove their boundary, whichever was read first. Two that share none prove it only if the second was
asked for after the first was read, and begins no later than the first one's end less what the total
says was removed in between: items that come in push the rest back, which loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar

import msgspec

from .errors import WalkError

__all__ = ["Plan", "Seam", "Window", "plan_window"]

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
    def is_last(self) -> bool:
        """Whether the window reached the end of the list, as the list was then."""
        return self.end >= self.total


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


class Memory:
    """The ids given last, between 5,000 and 10,000 of them: a walk of any length stays flat."""

    HALF = 5_000

    def __init__(self, ids: Sequence[str] = ()) -> None:
        self._newer: dict[str, None] = dict.fromkeys(ids)
        self._older: dict[str, None] = {}

    def reach_into(self, ids: Sequence[str]) -> int:
        """How many of some ids there are up to the last one that is remembered."""
        newer, older = self._newer, self._older
        known = [place for place, id_ in enumerate(ids, 1) if id_ in newer or id_ in older]
        return known[-1] if known else 0

    def add(self, ids: Mapping[str, None]) -> None:
        """Remember some more."""
        self._newer.update(ids)
        if len(self._newer) >= self.HALF:
            self._newer, self._older = {}, self._newer

    def last(self, count: int) -> list[str]:
        """The last ones, in order."""
        newest = [*islice(reversed(self._newer), count), *islice(reversed(self._older), count)]
        return newest[:count][::-1]


class _Compared(msgspec.Struct):
    """A window, its items' ids, and how many of these there are up to the last one given before."""

    window: Window[Any]
    ids: list[str]
    known_up_to: int


class Seam:
    """What has been read so far, and whether another window joins on to it without a gap."""

    MOST_EMPTY = 3
    MOST_ASTRAY = 5
    MOST_STALE = 10
    MOST_STALE_ITEMS = 200

    def __init__(self, key: Callable[[Any], str]) -> None:
        self._key = key
        self._memory = Memory()
        self._compared: _Compared | None = None
        self._empty = 0
        self._astray = 0
        self._stale = 0
        self.total: int | None = None
        self.reach = 0
        self.is_stale = False
        self._last_shown: tuple[int, list[str]] = (0, [])
        self.last_start = 0
        self.last_count = 0

    def restore(self, reach: int, total: int | None, last_ids: Sequence[str]) -> None:
        """Go on where another walk stopped."""
        self._compared = None
        self.reach, self.total, self._memory = reach, total, Memory(last_ids)

    def last_ids(self, count: int) -> list[str]:
        """The ids of the items that were given last."""
        return self._memory.last(count)

    def shares(self, window: Window[Any]) -> bool:
        """Whether an item of the window was given before."""
        return self._compare(window).known_up_to > 0

    def _compare(self, window: Window[Any]) -> _Compared:
        """The window beside what was given; asked for twice, it is looked at once."""
        if self._compared is None or self._compared.window is not window:
            ids = [*map(self._key, window.items)]
            self._compared = _Compared(window, ids, self._memory.reach_into(ids))
        return self._compared

    def joins(self, window: Window[Any], *, read_after: bool) -> bool:
        """Whether nothing can be missing between what was read and this window.

        Args:
            window: The window.
            read_after: Whether it was asked for after the last one that joined had been read.
        """
        if window.start == 0 or self.shares(window):
            return True
        return read_after and window.start <= self.reach_in(window.total)

    def reach_in(self, total: int) -> int:
        """At the earliest, how many items come before the first one that was not read yet."""
        removed = 0 if self.total is None else max(0, self.total - total)
        return max(0, self.reach - removed)

    def take(self, window: Window[T], planned: Plan, *, read_after: bool) -> list[T]:
        """Join a window on: the items in it that were not given yet.

        Raises:
            WalkError: The server contradicts itself.
        """
        compared = self._compare(window)
        self._compared = None
        ids, first = compared.ids, compared.known_up_to
        new_ids, fresh = dict.fromkeys(ids[first:]), [*window.items[first:]]
        if len(new_ids) != len(fresh):
            fresh = [*dict(zip(ids[first:], fresh, strict=True)).values()]
        self._memory.add(new_ids)
        self.is_stale = self._is_the_last_one_again(window, ids)
        if ids != self._last_shown[1]:
            self._last_shown = (window.start, ids)
        self._check_sense(window, planned, got_any=bool(fresh))
        # A window read ahead that turns out to lie behind what was read is not where we are.
        if (fresh or read_after or window.end > self.reach) and not self.is_stale:
            self.reach, self.total = window.end, window.total
        if fresh:
            self.last_start, self.last_count = window.start, len(fresh)
        return fresh

    def _is_the_last_one_again(self, window: Window[Any], ids: list[str]) -> bool:
        """Whether a window further on in a list that didn't grow shows what the last one did."""
        last_start, last_ids = self._last_shown
        grew = self.total is None or window.total > self.total
        return window.start > last_start and not grew and bool(ids) and ids == last_ids

    def _check_sense(self, window: Window[Any], planned: Plan, *, got_any: bool) -> None:
        self._empty = 0 if window.items or window.is_last else self._empty + 1
        if self._empty >= self.MOST_EMPTY:
            raise WalkError(
                f"the server says that the list has {window.total} items, but {self._empty} pages in "
                f"a row, up to item {window.end}, were empty"
            )
        self._stale = self._stale + 1 if self.is_stale else 0
        if self._stale >= self.MOST_STALE + self.MOST_STALE_ITEMS // max(1, len(window.items)):
            raise WalkError(
                f"the server says that the list has {window.total} items, but shows the same ones "
                f"again where those from {self.reach} on should be"
            )
        went_astray = window.start != planned.start and not got_any and not window.is_last
        self._astray = self._astray + 1 if went_astray else 0
        if self._astray >= self.MOST_ASTRAY:
            raise WalkError(
                f"the server answers with items from {window.start} on, whatever is asked of it"
            )
