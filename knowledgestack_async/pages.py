"""Walking a list page by page while it changes: nothing that stays is lost or given twice.

How that is proved is in ``_windows``; here windows are read, ahead of the reader where that pays.
Knows no HTTP: it is handed a function that fetches a window.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Mapping
from types import TracebackType
from typing import Any, Generic, NoReturn, Protocol, Self, TypeAlias, TypeVar, cast

import msgspec

from ._windows import Plan, Seam, Window, plan_window
from .errors import ConfigurationError, SessionError, WalkError

__all__ = ["Fetch", "PageIterator", "Spawn"]

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


class _Walk(Generic[T]):
    """Reads windows, and gives the items of each that were not given yet."""

    DEEPEST = 16
    SHALLOWEST = 2
    MOST_BRIDGES = 50
    MOST_STRAIN = 4

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
        self._sizes = range(max(1, size * 4 // 5), size + 1)
        self._by_number = True
        self._overlap = 1
        self._strain = 0
        self.seam = Seam(key)
        self.is_done = False
        self.is_resumed = False

    async def next_page(self, wanted: int | None) -> list[T]:
        """The items of the next window that were not given yet; may be none.

        Args:
            wanted: How many items the reader still wants, if there is a limit.

        Raises:
            KnowledgeStackError: The window can't be read; asking again tries again.
        """
        ahead = await self._ready_window()
        found = await self._find_place() if self.is_resumed else None
        if found is not None:
            window, plan = found
        elif ahead is not None and self.seam.joins(window := ahead.task.result(), read_after=False):
            self._overlap = max(1, self._overlap - 1)
            self._strain = max(0, self._strain - 1)
            self._ahead.popleft()
            plan = ahead.plan
        else:
            self._note_strain(missed=ahead is not None)
            window, plan = await self._read_next(
                None if ahead is None else ahead.task.result().total
            )
        fresh = self.seam.take(window, plan, read_after=ahead is None or plan is not ahead.plan)
        self._heed(window, plan)
        self.is_done = window.is_last and not self.seam.is_stale
        self._skip_passed()
        if self.is_done:
            self.drop()
        else:
            self._read_ahead(None if wanted is None else wanted - len(fresh))
        return fresh

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
        for _ in range(self.MOST_BRIDGES):
            plan = self._plan(reach)
            window = await self._fetch(plan.start, plan.size)
            if self.seam.joins(window, read_after=True):
                return window, plan
            self._heed(window, plan)
            reach = min(reach, self.seam.reach_in(window.total))
            self._overlap = min(self._overlap * 2, max(1, self._sizes[-1] // 2))
        raise WalkError("the list changes faster than it can be read")

    def _note_strain(self, *, missed: bool) -> None:
        """Where windows that were read ahead keep missing the seam, read one after the other."""
        if missed:
            self._overlap = min(self._overlap * 4, max(1, self._sizes[-1] // 2))
        self._strain = self._strain + 2 if missed else max(0, self._strain - 1)
        if self._strain > self.MOST_STRAIN:
            self.drop()

    async def _find_place(self) -> tuple[Window[T], Plan] | None:
        """Where an earlier walk stopped; what came in since has pushed it back.

        None where none of the items that it gave last is left: then the place is as good as any.
        """
        reach = self.seam.reach
        looks_back = False
        while self.seam.total is not None:
            plan = self._plan(reach)
            window = await self._fetch(plan.start, plan.size)
            self._heed(window, plan)
            if self.seam.shares(window):
                self.is_resumed = False
                return window, plan
            if looks_back and window.is_last:
                break
            # What was removed may have pulled it to the front: look from there on.
            reach = window.end if looks_back else self.seam.reach_in(window.total)
            looks_back = True
        self.is_resumed = False
        return None

    def _plan(self, reach: int) -> Plan:
        return plan_window(reach, self._overlap, self._sizes, by_number=self._by_number)

    def _heed(self, window: Window[T], plan: Plan) -> None:
        """Learn from an answer: how windows are placed, how large they are."""
        self._by_number = window.by_number
        if window.size != plan.size:
            # The first time it may be a cap, within which sizes are honoured; then it is a fixed size.
            is_cap = window.size < self._sizes[0]
            smallest = max(1, window.size * 4 // 5) if is_cap else window.size
            self._sizes = range(smallest, window.size + 1)

    def _skip_passed(self) -> None:
        while self._ahead and self._ahead[0].plan.end <= self.seam.reach:
            self._ahead.popleft().task.cancel()

    def _read_ahead(self, wanted: int | None) -> None:
        total = self.seam.total or 0
        if self._strain > self.MOST_STRAIN:
            return
        reach = self._ahead[-1].plan.end if self._ahead else self.seam.reach
        while len(self._ahead) < self._depth and reach < total:
            if wanted is not None and reach - self.seam.reach >= wanted:
                return
            plan = self._plan(reach)
            if plan.start >= reach:
                return  # without an overlap, only reading one after the other proves anything
            task = self._spawn(self._fetch(plan.start, plan.size))
            task.add_done_callback(_look_at_error)
            self._ahead.append(_Ahead(plan, task))
            reach = plan.end


def _look_at_error(task: asyncio.Task[Any]) -> None:
    """An error of a page that nobody came to read is nobody's."""
    if not task.cancelled():
        task.exception()


class PageIterator(Generic[T]):
    """A lazy walk over a list: ``async for`` gives items, ``pages()`` pages, ``await`` a list of all.

    With ``async with`` its tasks end at once on leaving; without it, a break leaves at most the pages
    in flight, which end by themselves. An error comes up where it belongs, after all items before
    it, and going on from there tries again.

    Example:
        ```python
        async for workflow in ks.iter_ingestion_workflows(session, status="failed"):
            print(workflow.workflow_id)
        ```
    """

    POSITION_IDS = 20

    def __init__(
        self,
        fetch: Fetch[T],
        spawn: Spawn,
        *,
        key: Callable[[T], str],
        page_size: int,
        prefetch: int | None = None,
        limit: int | None = None,
        keep: Callable[[T], bool] | None = None,
        position: Mapping[str, Any] | None = None,
    ) -> None:
        self._walk = _Walk(fetch, spawn, key, page_size, prefetch)
        self._key = key
        self._limit = limit
        self._keep = keep
        self._buffer: deque[T] = deque()
        self._turn = asyncio.Lock()
        self.matched: int = 0
        if position is not None:
            self._restore(position)

    @property
    def total(self) -> int | None:
        """How many items the server says the list has; None before the first page."""
        return self._walk.seam.total

    @property
    def position(self) -> dict[str, Any]:
        """Where the walk is, small and ready for JSON; give it as ``position=`` to go on from here.

        Items of a page that were read but not given yet are read again.
        """
        seam = self._walk.seam
        reach = seam.reach
        ids = seam.last_ids(self.POSITION_IDS + seam.last_count)
        if self._buffer:
            reach = seam.last_start
            ids = ids[: ids.index(self._key(self._buffer[0]))]
        return {"reach": reach, "total": seam.total, "last_ids": ids[-self.POSITION_IDS :]}

    async def pages(self) -> AsyncIterator[list[T]]:
        """The walk page by page: lists of items, none of them empty."""
        while page := await self._next_page():
            yield page

    async def close(self) -> None:
        """End the walk's tasks at once."""
        self._walk.drop()
        self._walk.is_done = True
        self._buffer.clear()

    async def _next_page(self) -> list[T]:
        async with self._turn:  # several may walk together: each item goes to one of them
            if self._buffer:
                page = list(self._buffer)
                self._buffer.clear()
                return page
            return await self._read_page()

    async def _read_page(self) -> list[T]:
        while not self._walk.is_done and self._wanted != 0:
            # What a filter will let through can't be known, so only an unfiltered walk stops early.
            fresh = await self._walk.next_page(self._wanted if self._keep is None else None)
            kept = fresh if self._keep is None else [item for item in fresh if self._keep(item)]
            kept = kept[: self._wanted]
            self.matched += len(kept)
            if self._wanted == 0:
                self._walk.drop()
            if kept:
                return kept
        return []

    @property
    def _wanted(self) -> int | None:
        return None if self._limit is None else self._limit - self.matched

    def _restore(self, position: object) -> None:
        found: Mapping[str, Any] = {}
        if isinstance(position, Mapping):
            found = cast("Mapping[str, Any]", position)
        reach, total, last_ids = (found.get(name) for name in ("reach", "total", "last_ids"))
        if (
            not isinstance(reach, int)
            or not isinstance(total, int | None)
            or not isinstance(last_ids, list)
            or isinstance(reach, bool)
            or reach < 0
            or (total or 0) < 0
        ):
            raise ConfigurationError("position must be what an iterator's .position gave")
        self._walk.seam.restore(reach, total, [str(id_) for id_ in cast("list[object]", last_ids)])
        self._walk.is_resumed = True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while not self._buffer:
            page = await self._next_page()
            if not page:
                raise StopAsyncIteration
            self._buffer.extend(page)
        return self._buffer.popleft()

    def __await__(self) -> Generator[Any, None, list[T]]:
        return self._collect().__await__()

    async def _collect(self) -> list[T]:
        return [item async for item in self]

    def __iter__(self) -> NoReturn:
        raise TypeError("this walk is asynchronous: did you mean `async for`?")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
