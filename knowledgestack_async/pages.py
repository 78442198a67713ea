"""Walking a list page by page while it changes: nothing that stays is lost or given twice.

How that is proved is in ``_windows``, how windows are read in ``_walk``; here is what users iterate.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from types import TracebackType
from typing import Any, Generic, NoReturn, Self, TypeGuard, TypeVar, cast

from ._walk import Fetch, Spawn, Walk
from .errors import ConfigurationError

__all__ = ["Fetch", "PageIterator", "Spawn"]

T = TypeVar("T")


def _are_sizes(found: object) -> TypeGuard[list[int]]:
    """Whether it is the smallest and the largest of some sizes."""
    both = cast("list[object]", found) if isinstance(found, list) else []
    return (
        len(both) == 2
        and all(isinstance(one, int) and not isinstance(one, bool) for one in both)
        and 1 <= cast("int", both[0]) <= cast("int", both[1])
    )


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
        release: Callable[[Sequence[T], int], None] = lambda _items, _of: None,
    ) -> None:
        self._walk = Walk(fetch, spawn, key, page_size, prefetch)
        self._key = key
        self._limit = limit
        self._keep = keep
        self._unread: deque[tuple[T, bool]] = deque()
        """What was read and the reader hasn't come to, in the list's order, and whether it matches."""
        self._unread_from = self._fresh = 0
        self._passed: deque[str] = deque(maxlen=self.POSITION_IDS)
        """The ids that the reader came to last, what a filter took out included."""
        self._turn = asyncio.Lock()
        self._is_closed = False
        self._release = release
        self._given = 0
        self.matched: int = 0
        if position is not None:
            self._restore(position)

    @property
    def total(self) -> int | None:
        """How many items the server says the list has; None before the first page."""
        return self._walk.seam.total

    @property
    def position(self) -> dict[str, Any]:
        """Where the reader is, small and ready for JSON; give it as ``position=`` to go on from here.

        It goes on after the item that was given last, whatever ended the walk: its limit, a break,
        an error, or the end of its block. Items of a page that were not given yet are read again.
        """
        seam = self._walk.seam
        reach = seam.reach
        if self._unread:
            reach = self._unread_from + (0 if seam.is_sparse else self._fresh - len(self._unread))
        passed = seam.given - len(self._unread)
        position: dict[str, Any] = {
            "reach": reach,
            "total": seam.total,
            "last_ids": [*self._passed],
        }
        if passed != reach:
            position["passed"] = passed
        if (sizes := self._walk.learned_sizes) is not None:
            position["sizes"] = [sizes[0], sizes[-1]]
        return position

    async def pages(self) -> AsyncIterator[list[T]]:
        """The walk page by page: lists of items, none of them empty."""
        while page := await self._next_page():
            yield page

    async def aclose(self) -> None:
        """The same as `close`, for ``contextlib.aclosing``."""
        await self.close()

    async def close(self) -> None:
        """End the walk's tasks at once."""
        self._walk.drop()
        self._is_closed = True

    async def _next_page(self) -> list[T]:
        async with self._turn:  # several may walk together: each item goes to one of them
            if (first := await self._next_item()) is None:
                return []
            return [first, *iter(self._next_unread, None)]

    async def _next_item(self) -> T | None:
        """The next item that matches; None at the end."""
        while not self._is_closed and self._wanted != 0:
            if (item := self._next_unread()) is not None:
                return item
            if self._walk.is_done:
                break
            # What a filter will let through can't be known, so only an unfiltered walk stops early.
            wanted = self._wanted if self._keep is None else None
            self._unread_from, fresh = await self._walk.next_page(wanted)
            self._fresh = len(fresh)
            self._unread.extend((item, self._keep is None or self._keep(item)) for item in fresh)
            if self._keep is not None:
                self._release([item for item, matches in self._unread if matches], len(fresh))
            self.matched += sum(matches for _, matches in self._unread)
            if self._limit is not None and self.matched >= self._limit:
                self.matched = self._limit
                self._walk.drop()
        return None

    def _next_unread(self) -> T | None:
        """The next of what was read that matches; None if there is none, or no more is wanted."""
        while self._unread and self._wanted != 0:
            item, matches = self._unread.popleft()
            self._passed.append(self._key(item))
            if matches:
                self._given += 1
                return item
        return None

    @property
    def _wanted(self) -> int | None:
        return None if self._limit is None else self._limit - self._given

    def _restore(self, position: object) -> None:
        found: Mapping[str, Any] = {}
        if isinstance(position, Mapping):
            found = cast("Mapping[str, Any]", position)
        reach, total, last_ids = (found.get(name) for name in ("reach", "total", "last_ids"))
        passed, sizes = found.get("passed", reach), found.get("sizes", [1, 1])
        if (
            not isinstance(reach, int)
            or not isinstance(total, int | None)
            or not isinstance(last_ids, list)
            or not isinstance(passed, int)
            or isinstance(reach, bool)
            or reach < 0
            or (total or 0) < 0
            or not _are_sizes(sizes)
        ):
            raise ConfigurationError("position must be what an iterator's .position gave")
        ids = [str(id_) for id_ in cast("list[object]", last_ids)]
        self._passed.extend(ids)
        self._walk.seam.restore(reach, total, ids, passed)
        if "sizes" in found:
            self._walk.sizes = range(sizes[0], sizes[1] + 1)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        item = None if self._is_closed else self._next_unread()
        if item is None:
            async with self._turn:
                item = await self._next_item()
        if item is None:
            raise StopAsyncIteration
        return item

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
