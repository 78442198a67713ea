"""Finding out where many ingestions are with the fewest requests: by the list, or one by one.

The list tells a hundred statuses a request from the database alone; one by one each request also
asks the live engine. Knows no HTTP: it is handed functions that fetch.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import MAXYEAR, datetime, timedelta
from typing import Any, ClassVar, Protocol

import msgspec

from ._codec import release
from ._poller import Deliver, Observation, Reader, Sight, read_each, run_bounded
from ._windows import Window
from .errors import InvalidResponse, KnowledgeStackError, WalkError
from .models import WorkflowSummaryResponse

__all__ = ["FetchWindow", "IngestionReader"]

ACTIVE = frozenset({"pending", "processing"})


class FetchWindow(Protocol):
    """Reads a window of the list, with filters."""

    async def __call__(
        self, start: int, size: int, filters: Mapping[str, Any]
    ) -> Window[WorkflowSummaryResponse]:
        """Read it."""
        ...


class _Counts(msgspec.Struct):
    """How many items the list, or a filtered part of it, had when it was last looked at."""

    all: int | None = None
    active: int | None = None


class _Over(Exception):
    """The rest of a sweep isn't worth reading."""


class _Sweep(msgspec.Struct):
    """What a sweep has shown.

    Attributes:
        seen_until: All that changed before this time was there to be seen when the sweep began.
        most: How many items the list had, at its longest.
        shown: The hashes of the ids that it showed: so few bytes, for there may be very many.
        barren: How many pages in a row showed nothing that another one hadn't.
        trouble: What went wrong with a page of it.
    """

    seen_until: datetime | None = None
    most: int = 0
    shown: set[int] = msgspec.field(default_factory=set[int])
    barren: int = 0
    trouble: KnowledgeStackError | None = None

    MOST_BARREN: ClassVar[int] = 100

    def add(self, window: Window[WorkflowSummaryResponse]) -> None:
        """It has shown this as well."""
        before = len(self.shown)
        self.most = max(self.most, window.total)
        self.shown.update(hash(item.workflow_id) for item in window.items)
        self.barren = 0 if len(self.shown) > before else self.barren + 1
        self.check(window)

    def check(self, window: Window[Any]) -> None:
        """Whether the list makes sense so far."""
        if window.refutes_total or self.is_over:
            self.trouble = WalkError(
                f"the server says that the list has {window.total} items, but "
                + (
                    f"{self.barren} pages in a row, up to item {window.end}, showed none that is new"
                    if self.is_over
                    else f"shows {window.start + len(window.items)}"
                )
            )

    @property
    def is_over(self) -> bool:
        """Whether the rest of it isn't worth reading."""
        return self.barren >= self.MOST_BARREN

    @property
    def lacking(self) -> int:
        """How many items slipped from a page that was not read yet to one that was, or are hidden."""
        return max(0, self.most - len(self.shown))


class IngestionReader(Reader[WorkflowSummaryResponse]):
    """Looks up ingestions, each tick in the way that costs the fewest requests.

    Args:
        fetch: Reads a window of the list.
        get: Reads one ingestion.
        can_filter: Whether the server filters by status and by the time of the last change.
    """

    PAGE = 100
    FEW = 10
    """So few are got one by one without asking how long the list is."""
    MARGIN = timedelta(seconds=5)
    """How far back of the newest change that was seen to look for changes, for writes that were late."""
    MOST_SINGLY = 50
    """How many ids of those that a list that can't be read lacks are read one by one in a look."""
    PARTS = (50, 25, 5, 1)
    """The sizes in which a page is read again that can't be read."""
    COUNTS_LAST = 10
    """After so many looks, how many are active is counted anew."""
    WHOLE_AFTER = 20
    """So many looks at what has changed, and then one at all there is, which shows what has vanished."""

    def __init__(
        self,
        fetch: FetchWindow,
        get: Callable[[str], Awaitable[WorkflowSummaryResponse]],
        can_filter: Callable[[], bool],
    ) -> None:
        self._fetch = fetch
        self._get = get
        self._can_filter = can_filter
        self._counts = _Counts()
        self._newest: datetime | None = None
        self._partial_looks = 0
        self._looks_by_count = self._turn = 0
        self._lacked: int | None = None
        self._hidden: int | None = None

    async def read(
        self,
        wanted: frozenset[str],
        deliver: Deliver[WorkflowSummaryResponse],
        *,
        everything: bool,
        since: datetime | None,
    ) -> Sight:
        """Look up these ingestions, or all that changed since a time and these.

        Returns:
            Since when to ask for all next time. It goes on only when all was seen: a sweep that
            failed, or that an item may have slipped through, is made again from where it began.
        """
        left = set(wanted)

        def find(observation: Observation[WorkflowSummaryResponse]) -> None:
            if everything or observation.id in left:
                left.discard(observation.id)
                deliver(observation)

        sight, trouble = Sight(since), None
        for filters in self._plan_everything(since) if everything else self._plan(len(left)):
            if everything or len(left) > 1:
                sweep = await self._sweep(filters, None if everything else left, find)
                sight, trouble = Sight(since), sweep.trouble or trouble
                if everything and not sweep.trouble and self._is_complete(sweep, filters):
                    sight = Sight(sweep.seen_until, is_whole=not filters)
        if everything and not trouble and len(left) > self._pages(self._counts.all):
            sweep = await self._sweep({}, left, find)
            trouble = sweep.trouble
        singly = sorted(left) if trouble is None else self._in_turn(left)
        found = everything or len(left) < len(wanted)
        if trouble is not None and not isinstance(trouble, InvalidResponse | WalkError):
            # One shows whether the server is away, or only its list.
            await read_each(self._get, singly[:1], find, others_were_found=False)
            singly = singly[1:]
        await read_each(self._get, singly, find, others_were_found=found)
        if trouble is not None and (everything or left.difference(singly)):
            raise trouble
        return sight

    def _in_turn(self, left: set[str]) -> list[str]:
        """Some of what a list that can't be read lacks: others each time."""
        ids = sorted(left)
        begin = self._turn % max(1, len(ids))
        self._turn += self.MOST_SINGLY
        return [*ids[begin:], *ids[:begin]][: self.MOST_SINGLY]

    def _is_complete(self, sweep: _Sweep, filters: Mapping[str, Any]) -> bool:
        """Whether all was shown but what is hidden from this key.

        What two sweeps of all lack is hidden; what slipped away in one is shown by the next.
        """
        if filters:
            return sweep.lacking <= (self._hidden or 0)
        is_complete = sweep.lacking <= (self._hidden or 0)
        if self._lacked is not None:
            self._hidden = min(sweep.lacking, self._lacked)
        self._lacked = sweep.lacking
        return is_complete or (self._hidden is not None and sweep.lacking <= self._hidden)

    def _plan_everything(self, since: datetime | None) -> list[dict[str, Any]]:
        """The sweeps that show all there is, or all that may have changed."""
        self._partial_looks += 1
        if since is None or not self._can_filter() or self._partial_looks > self.WHOLE_AFTER:
            self._partial_looks = 0
            return [{}]
        return [{"status": ACTIVE}, {"updated_after": since}]

    def _plan(self, wanted: int) -> list[dict[str, Any]]:
        """The sweeps to make, each for what the one before left over; the last is got one by one."""
        if wanted <= self.FEW:
            return []
        if not self._can_filter():
            return [{}] if self._pages(self._counts.all) < wanted else []
        if self._pages(self._counts.active) >= wanted:
            self._looks_by_count += 1
            if self._looks_by_count < self.COUNTS_LAST:
                return []
            self._looks_by_count = 0
        if self._counts.active is not None and self._counts.active == self._counts.all:
            return [{}]
        changed = {} if self._newest is None else {"updated_after": self._before_newest()}
        return [{"status": ACTIVE}, changed, {}]

    def _pages(self, count: int | None) -> int:
        return 1 if count is None else -(-count // self.PAGE)

    async def _sweep(
        self,
        filters: dict[str, Any],
        left: set[str] | None,
        deliver: Deliver[WorkflowSummaryResponse],
    ) -> _Sweep:
        """Read a part of the list; no more than a page where reading what is left singly costs less.

        Pages are read at the same time and may miss an item that moves between two of them; whoever
        wants that one reads it singly.
        """
        sweep = _Sweep()
        found = await self._read_first(filters, left, sweep, deliver)
        if found is None:
            return sweep
        size, total = found
        sweep.seen_until = self._before_newest()
        rest = range(size, total, size)
        if left is not None and len(rest) >= len(left):
            return sweep

        async def read(start: int) -> None:
            if sweep.is_over:
                raise _Over
            try:
                window = await self._fetch(start, size, filters)
            except KnowledgeStackError as error:
                sweep.trouble = error  # what the other pages tell is taken all the same
                if isinstance(error, InvalidResponse) and left is None:
                    await self._read_in_parts(start, size, filters, sweep, deliver)
            else:
                self._deliver(window, deliver, sweep, left)

        with suppress(_Over):
            await run_bounded(read(start) for start in rest)
        return sweep

    async def _read_first(
        self,
        filters: dict[str, Any],
        left: set[str] | None,
        sweep: _Sweep,
        deliver: Deliver[WorkflowSummaryResponse],
    ) -> tuple[int, int] | None:
        """Read the first page: the size of pages and of the list, or None if that can't be told."""
        try:
            first = await self._fetch(0, self.PAGE, filters)
        except KnowledgeStackError as error:
            sweep.trouble = error
            if not isinstance(error, InvalidResponse):
                return None
            if left is None:
                await self._read_in_parts(0, self.PAGE, filters, sweep, deliver)
            return self.PAGE, sweep.most or (0 if filters else self._counts.all or 0)
        self._note(filters, first.total)
        self._deliver(first, deliver, sweep if left is None else None, left)
        sweep.check(first)
        return first.size, first.total

    async def _read_in_parts(
        self,
        start: int,
        size: int,
        filters: dict[str, Any],
        sweep: _Sweep,
        deliver: Deliver[WorkflowSummaryResponse],
    ) -> None:
        """Read a page in smaller ones, of which only that with the item is lost that can't be read."""
        smaller = next((part for part in self.PARTS if part < size and size % part == 0), size)
        begins = range(start, start + size, smaller) if smaller < size else range(0)
        unreadable: list[int] = []
        for begin in begins:
            try:
                window = await self._fetch(begin, smaller, filters)
            except InvalidResponse:
                unreadable.append(begin)
            else:
                self._deliver(window, deliver, sweep, None)
        if len(unreadable) < len(begins):  # else it is not for an item that it can't be read
            for begin in unreadable:
                await self._read_in_parts(begin, smaller, filters, sweep, deliver)

    def _before_newest(self) -> datetime | None:
        """Since when to look for what has changed; at the beginning of the calendar, for all of it."""
        if self._newest is None:
            return None
        try:
            return self._newest - self.MARGIN
        except OverflowError:
            return self._newest

    def _note(self, filters: Mapping[str, Any], total: int) -> None:
        if not filters:
            self._counts.all = total
        elif "status" in filters:
            self._counts.active = total

    def _deliver(
        self,
        window: Window[WorkflowSummaryResponse],
        deliver: Deliver[WorkflowSummaryResponse],
        sweep: _Sweep | None,
        left: set[str] | None,
    ) -> None:
        if sweep is not None:
            sweep.add(window)
        for item in window.items:
            changed = item.last_state_update_timestamp
            if changed is None or changed.year >= MAXYEAR:  # an odd one would hide all that follow
                continue
            if self._newest is None or changed > self._newest:
                self._newest = changed
        if left is not None:
            release([item for item in window.items if item.workflow_id in left], len(window.items))
        for item in window.items:
            deliver(Observation(item.workflow_id, state=item))
