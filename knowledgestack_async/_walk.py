"""Reading a list's windows one after the other, or ahead of the reader where that pays.

Knows no HTTP: it is handed a function that fetches a window. How it is proved that nothing is missing
between two windows is in ``_windows``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import msgspec

from ._windows import Plan, Seam, Window, plan_check, plan_window
from .errors import SessionError

__all__ = ["Fetch", "Spawn", "Walk"]

T = TypeVar("T")

Fetch: TypeAlias = Callable[[int, int], Coroutine[Any, Any, Window[T]]]
"""Reads the window that begins after so many items; the server may answer with another one."""


class Spawn(Protocol):
    """Starts a task that ends with the session at the latest."""

    def __call__(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start it."""
        ...


class _Ahead(msgspec.Struct, Generic[T], frozen=True):
    """A window that is read ahead of the reader."""

    plan: Plan
    task: asyncio.Task[Window[T]]


class Walk(Generic[T]):
    """Reads windows, and gives the items of each that were not given yet."""

    DEEPEST = 16
    SHALLOWEST = 2
    MOST_STRAIN = 4
    MOST_CHECKS = 3
    """After so many short windows that held all that was there, the others are believed."""
    LOOKS_AHEAD = 3
    VAGUE = 0.25
    """What a check counts for that showed nothing."""

    def __init__(
        self,
        fetch: Fetch[T],
        spawn: Spawn,
        key: Callable[[T], str],
        size: int,
        prefetch: int | None,
    ) -> None:
        self._fetch = fetch
        self._spawn = spawn
        self._prefetch = prefetch
        self._depth = self.SHALLOWEST if prefetch is None else prefetch
        self._ahead: deque[_Ahead[T]] = deque()
        self.sizes = self._first_sizes = range(max(1, size * 4 // 5), size + 1)
        self._by_number = True
        self._overlap = 1
        self._strain = 0
        self._rest = 4
        self._checks_left: float = self.MOST_CHECKS
        self._fullest = 0
        self._unchecked_from: int | None = None
        self._wanted: int | None = None
        self.seam = Seam(key)
        self.is_done = False

    @property
    def learned_sizes(self) -> range | None:
        """The sizes of windows that the server was found to honour, if these are not all."""
        return None if self.sizes == self._first_sizes else self.sizes

    async def next_page(self, wanted: int | None) -> tuple[int, list[T]]:
        """Where the first of the next window's items that were not given yet stands, and these.

        Args:
            wanted: How many items the reader still wants, if there is a limit.

        Raises:
            KnowledgeStackError: The window can't be read; asking again tries again.
        """
        self._wanted = wanted
        ahead = await self._ready_window()
        if ahead is not None:
            self.seam.look_back(ahead.task.result())
        found = await self._find_place() if self.seam.is_resumed else None
        if found is not None:
            window, plan = found
        elif ahead is not None and self.seam.joins(window := ahead.task.result(), read_after=False):
            self._overlap = max(1, self._overlap - 1)
            self._strain = max(0, self._strain - 1)
            self._ahead.popleft()
            plan = ahead.plan
        else:
            grew = ahead is not None and ahead.task.result().total > (self.seam.total or 0)
            self._note_strain(missed=ahead is not None, grew=grew)
            window, plan = await self._read_next(
                None if ahead is None else ahead.task.result().total
            )
        if not await self._is_whole(window):
            return self.seam.reach, []
        fresh = self.seam.take(window, plan, read_after=ahead is None or plan is not ahead.plan)
        self._heed(window, plan)
        self.is_done = self.seam.is_end(window, got_any=bool(fresh))
        self._skip_passed()
        if self.is_done:
            self.drop()
        else:
            self._read_ahead(None if wanted is None else wanted - len(fresh))
        passed = len(window.items) - len(fresh) if window.is_dense else 0
        return window.start + passed, fresh

    def drop(self) -> None:
        """Stop reading ahead."""
        for ahead in self._ahead:
            ahead.task.cancel()
        self._ahead.clear()

    async def _ready_window(self) -> _Ahead[T] | None:
        """The first window that was read ahead, once it is there; None if none was."""
        if not self._ahead:
            return None
        ahead = self._ahead[0]
        if self._prefetch is None:
            if not ahead.task.done():
                self._depth = min(self.DEEPEST, self._depth * 2)
            elif all(other.task.done() for other in self._ahead):
                self._depth = max(self.SHALLOWEST, self._depth - 1)
        if not ahead.task.done():
            await asyncio.wait([ahead.task])
        if ahead.task.cancelled():
            raise SessionError("the session was closed during the walk")
        error = ahead.task.exception()
        if error is not None:
            self.drop()
            raise error
        return ahead

    async def _read_next(self, total: int | None) -> tuple[Window[T], Plan]:
        """Read the window after what was read; again, and earlier, while too much is removed meanwhile.

        Args:
            total: The newest total that is known.
        """
        reach = self.seam.reach if total is None else self.seam.reach_in(total)
        back, looks_ahead, newest_total = 0, 0, None
        while True:
            plan = self._plan(reach)
            window = await self._read(plan)
            overlaps = plan.start < reach
            if self.seam.joins(window, read_after=True, overlaps=overlaps):
                if not looks_ahead and not back:
                    self._overlap -= self._overlap // 8
                return window, plan
            self.seam.miss()
            self._heed(window, plan)
            pushed_to = self.seam.reach + window.total - (self.seam.total or 0)
            if pushed_to > reach and looks_ahead < self.LOOKS_AHEAD:
                # More came in meanwhile than a window holds: what was read last is further on, and
                # as much may come in again during the next request.
                grown = 0 if newest_total is None else max(0, window.total - newest_total)
                reach, newest_total = pushed_to + grown, window.total
                looks_ahead += 1
                continue
            reach = min(reach, self.seam.look_back(window))
            found = await self._find_place() if self.seam.is_resumed else None
            if found is not None:
                return found
            self._overlap = min(self._overlap * 2, max(1, self.sizes[-1] // 2))
            if self._overlap == max(1, self.sizes[-1] // 2):
                back = max(1, back * 2)
                reach = max(0, reach - back)

    async def _is_whole(self, window: Window[T]) -> bool:
        """Whether a window holds all that is there to be seen in it.

        One that holds less than it may has rows that are hidden from this key, or the server takes a
        smaller size than it repeats: then a part of it, read again, shows items that it lacks. From
        then on windows are asked for that are no larger than what one has held, from the first one on
        that was not checked.
        """
        held = len(window.items)
        self._fullest = max(self._fullest, held)
        if window.is_full:
            self._checks_left = 0
        is_dense = window.is_dense and not (window.refutes_total or self.seam.total_is_wrong)
        if self._checks_left <= 0 or is_dense or window.size == 1:
            return True
        plan = plan_check(window)
        part = await self._read(plan)
        if part.total != window.total or part.start != plan.start:
            return True  # it changed, or pages otherwise: that tells nothing
        if self.seam.lacks(window, part):
            size = max(1, min(self._fullest, window.size - 1))
            self.sizes = range(max(1, size * 4 // 5) if held else size, size + 1)
            self._checks_left = self.MOST_CHECKS
            self.drop()
            self.seam.reach = min(
                self.seam.reach,
                window.start if self._unchecked_from is None else self._unchecked_from,
            )
            self._unchecked_from = None
            return False
        self._checks_left -= 1 if part.items else self.VAGUE
        if not part.items and self._unchecked_from is None:
            self._unchecked_from = window.start
        return True

    def _note_strain(self, *, missed: bool, grew: bool) -> None:
        """Where windows that were read ahead keep missing the seam, read one after the other.

        A list that grew pushes what was read back: a larger overlap would only slow the walk down.
        """
        if missed and not grew:
            self._overlap = min(self._overlap * 4, max(1, self.sizes[-1] // 2))
        self._strain = self._strain + 2 if missed else max(0, self._strain - 1)
        if missed and self._strain > self.MOST_STRAIN:
            self.drop()
            self._strain, self._rest = self._strain + self._rest, self._rest * 4

    async def _find_place(self) -> tuple[Window[T], Plan] | None:
        """Where an earlier walk stopped; what came in since has pushed it back.

        None where none of the items that it gave last is left: then the place is as good as any.

        Raises:
            WalkError: The list contradicts itself.
        """
        seam, looks_from_front, has_guessed, barren = self.seam, False, False, 0
        guesses, overlap = [seam.reach], self._overlap
        while seam.is_resumed and seam.total is not None:
            reach = guesses.pop()
            plan = self._plan(reach, overlap)
            overlap = max(1, self.sizes[-1] // 2)
            window = await self._read(plan)
            self._heed(window, plan)
            if not await self._is_whole(window):
                guesses, looks_from_front, has_guessed = [seam.reach], False, False
                continue
            if seam.shares(window):
                return window, plan
            moved = max(0, seam.reach + window.total - seam.total)
            if looks_from_front and window.is_last:
                seam.go_by_place(window.total)
            barren = 0 if window.items else barren + 1
            seam.check_barren(barren, window)
            if looks_from_front:
                guesses = [window.end]
            elif not has_guessed:
                guesses, has_guessed = [moved], True
            else:
                nearest = seam.reach_in(window.total) - self.sizes[-1]
                guesses, looks_from_front = [max(0, nearest)], True
        return None

    async def _read(self, plan: Plan) -> Window[T]:
        """Read a window; one that holds more than it says is as large as what it holds."""
        window = await self._fetch(plan.start, plan.size)
        held = len(window.items)
        if held <= window.size:
            return window
        start = window.start // window.size * held if window.by_number else window.start
        return msgspec.structs.replace(window, start=start, size=held)

    def _plan(self, reach: int, overlap: int | None = None) -> Plan:
        if overlap is None:
            seam = self.seam
            is_exact = seam.seeks_end or seam.goes_by_place or seam.is_sparse
            overlap = 0 if is_exact else self._overlap
        sizes = self.sizes
        if self._wanted is not None and self.seam.total is None:
            largest = min(sizes[-1], self._wanted + overlap)
            sizes = range(min(sizes[0], max(1, largest * 4 // 5)), largest + 1)
        return plan_window(reach, overlap, sizes, by_number=self._by_number)

    def _heed(self, window: Window[T], plan: Plan) -> None:
        """Learn from an answer: how windows are placed, how large they are."""
        self._by_number = window.by_number
        if window.size != plan.size:
            # The first time it may be a cap, within which sizes are honoured; then it is a fixed size.
            is_cap = window.size < self.sizes[0]
            smallest = max(1, window.size * 4 // 5) if is_cap else window.size
            self.sizes = range(smallest, window.size + 1)

    def _skip_passed(self) -> None:
        while self._ahead and self._ahead[0].plan.end <= self.seam.reach:
            self._ahead.popleft().task.cancel()

    def _read_ahead(self, wanted: int | None) -> None:
        total = self.seam.total or 0
        if self._strain > self.MOST_STRAIN or self.seam.is_sparse:
            return
        reach = self._ahead[-1].plan.end if self._ahead else self.seam.reach
        while len(self._ahead) < self._depth and reach < total:
            if wanted is not None and reach - self.seam.reach >= wanted:
                return
            plan = self._plan(reach)
            if plan.start >= reach:
                return  # without an overlap, only reading one after the other proves anything
            task = self._spawn(self._read(plan))
            task.add_done_callback(_look_at_error)
            self._ahead.append(_Ahead(plan, task))
            reach = plan.end


def _look_at_error(task: asyncio.Task[Any]) -> None:
    """An error of a page that nobody came to read is nobody's."""
    if not task.cancelled():
        task.exception()
