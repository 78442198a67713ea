"""Finding out where many ingestions are with the fewest requests: by the list, or one by one.

The list tells a hundred statuses a request from the database alone; one by one each request also
asks the live engine. Knows no HTTP: it is handed functions that fetch.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import MAXYEAR, datetime, timedelta
from typing import Any, Protocol

import msgspec

from ._poller import Deliver, Observation, Reader, Sight, read_each, run_bounded
from ._windows import Window
from .errors import KnowledgeStackError, WalkError
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


class _Sweep(msgspec.Struct):
    """What a sweep of everything has shown.

    Attributes:
        seen_until: All that changed before this time was there to be seen when the sweep began.
        most: How many items the list had, at its longest.
        shown: The hashes of the ids that it showed: so few bytes, for there may be very many.
    """

    seen_until: datetime | None
    most: int = 0
    shown: set[int] = msgspec.field(default_factory=set[int])

    def add(self, window: Window[WorkflowSummaryResponse]) -> None:
        """It has shown this as well."""
        self.most = max(self.most, window.total)
        self.shown.update(hash(item.workflow_id) for item in window.items)

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
    MOST_EMPTY = 100
    """After so many empty pages in a row, the list's length is not believed."""
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

        sight = Sight(since)
        for filters in self._plan_everything(since) if everything else self._plan(len(left)):
            if everything or len(left) > 1:
                sweep = await self._sweep(filters, None if everything else left, find)
                sight = Sight(since)
                if everything and self._is_complete(sweep, filters):
                    sight = Sight(sweep.seen_until, is_whole=not filters)
        if everything and len(left) > self._pages(self._counts.all):
            await self._sweep({}, left, find)
        await read_each(self._get, sorted(left), find)
        return sight

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
            return []
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
        first = await self._fetch(0, self.PAGE, filters)
        self._note(filters, first.total)
        self._deliver(first, deliver)
        sweep = _Sweep(None if self._newest is None else self._before_newest())
        if left is None:
            sweep.add(first)
        rest = range(first.size, first.total, first.size)
        if left is not None and len(rest) >= len(left):
            return sweep

        troubles: list[KnowledgeStackError] = []

        empty = 0

        async def read(start: int) -> None:
            nonlocal empty
            try:
                window = await self._fetch(start, first.size, filters)
            except KnowledgeStackError as error:
                troubles.append(error)  # what the other pages tell is taken all the same
            else:
                empty = 0 if window.items else empty + 1
                if empty >= self.MOST_EMPTY:
                    raise WalkError(
                        f"the server says that the list has {window.total} items, but {empty} pages, up "
                        f"to item {window.end}, were empty"
                    )
                self._deliver(window, deliver)
                if left is None:
                    sweep.add(window)

        await run_bounded(read(start) for start in rest)
        if troubles:
            raise troubles[0]
        return sweep

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
    ) -> None:
        for item in window.items:
            changed = item.last_state_update_timestamp
            if changed is None or changed.year >= MAXYEAR:  # an odd one would hide all that follow
                continue
            if self._newest is None or changed > self._newest:
                self._newest = changed
        for item in window.items:
            deliver(Observation(item.workflow_id, state=item))
