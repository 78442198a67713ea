"""Waiting for one thing, and the status of many, without any HTTP: what reads is handed in."""

from __future__ import annotations

import asyncio
import inspect
import weakref
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
)
from types import TracebackType
from typing import Any, Self, TypeVar, cast
from uuid import UUID

from ._baseline import Baseline
from ._checks import check_count, plain
from .errors import ConfigurationError, DeadlineExceeded, KnowledgeStackError, SessionError
from .models import StatusResult, WorkflowStatusResponse, WorkflowSummaryResponse
from .pages import Spawn
from .watching import HasStatus, Watch

__all__ = ["ClosingPoll", "StatusPoll", "is_newer_run", "wait_for_end"]

T = TypeVar("T")
StateT = TypeVar("StateT", bound=HasStatus)


async def wait_for_end(
    watch: Watch[StateT],
    what: str,
    on_change: Callable[[StateT], None] | None = None,
) -> StateT:
    """Follow one thing to its end.

    Args:
        watch: Watches just that.
        what: What it is, in words.
        on_change: Called with each state that differs from the one before.

    Raises:
        DeadlineExceeded: It is not over yet; ``last`` is what was read last.
        KnowledgeStackError: It can't be read.
    """
    last: StateT | None = None
    async with watch:
        async for change in watch:
            if change.error is not None:
                raise change.error
            if change.state is not None:  # pragma: no branch - it has one or the other
                last = change.state
                if on_change is not None:
                    _call(on_change, last)
            if change.is_final and last is not None:
                return last
    raise _too_late(what, watch.last_state)


def _call(on_change: Callable[[StateT], object], state: StateT) -> None:
    given = on_change(state)
    if inspect.iscoroutine(given):
        given.close()
        raise ConfigurationError("on_change must be a plain function: nothing awaits what it gives")


def _too_late(what: str, last: object = None) -> DeadlineExceeded:
    return DeadlineExceeded(
        "it is not over yet",
        "wait for",
        what,
        hint="Wait longer, or go on from what .last holds.",
        last=last,
    )


def is_newer_run(
    current: WorkflowSummaryResponse, before: WorkflowSummaryResponse | Baseline
) -> bool:
    """Whether the outcome in ``current`` is of a later run of the ingestion than the one in ``before``.

    A run that has started tells it by its time. One that ended before it started (a queued rerun that
    was cancelled) leaves that time alone, and is told by a state that changed after the end. The
    engine's run id alone proves nothing: it is new while the list still shows the old outcome.
    """
    if current.last_run_timestamp != before.last_run_timestamp:
        return current.last_run_timestamp > before.last_run_timestamp
    then, now = before.last_state_update_timestamp, current.last_state_update_timestamp
    has_moved = now is not None and (then is None or now > then)
    run_ids = getattr(current, "run_id", None), getattr(before, "run_id", None)
    is_another = current.status != before.status or (all(run_ids) and run_ids[0] != run_ids[1])
    return before.is_terminal and has_moved and is_another


class StatusPoll:
    """The statuses of many workflows as they arrive; see ``poll_workflow_statuses``."""

    def __init__(
        self,
        read: Callable[[str | UUID], Awaitable[WorkflowStatusResponse]],
        workflow_ids: object,
        spawn: Spawn,
        *,
        check_usable: Callable[[], None],
        concurrency: int,
    ) -> None:
        check_count(concurrency, "concurrency")
        if isinstance(workflow_ids, str | bytes):
            raise ConfigurationError("workflow_ids must be an iterable of ids, not one text")
        if not isinstance(workflow_ids, Iterable | AsyncIterable):
            raise ConfigurationError(f"workflow_ids must be an iterable, not {workflow_ids!r:.60}")
        self._check_usable = check_usable
        self._read = read
        self._spawn = spawn
        self._concurrency = concurrency
        self._ids: Iterator[str | UUID] | None = None
        self._later_ids: AsyncIterator[str | UUID] | None = None
        if isinstance(workflow_ids, AsyncIterable):
            self._later_ids = aiter(cast("AsyncIterable[str | UUID]", workflow_ids))
        else:
            self._ids = iter(cast("Iterable[str | UUID]", workflow_ids))
        self._pull: asyncio.Task[str | UUID] | None = None
        self._asked: set[asyncio.Task[StatusResult]] = set()
        self._arrived = asyncio.Event()
        self._ready: list[StatusResult] = []

    async def aclose(self) -> None:
        """The same as `close`, for ``contextlib.aclosing``."""
        await self.close()

    async def close(self) -> None:
        """End the poll's tasks at once."""
        tasks: list[asyncio.Task[Any]] = [*self._asked, *([self._pull] if self._pull else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._ids = self._later_ids = self._pull = None
        self._asked.clear()
        self._ready.clear()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StatusResult:
        self._check_usable()
        while not self._ready:
            self._fill()
            if not self._asked and self._pull is None:
                raise StopAsyncIteration
            await self._arrived.wait()
            self._arrived.clear()
            self._collect()
        return self._ready.pop()

    def _collect(self) -> None:
        done = {task for task in self._asked if task.done()}
        self._asked -= done
        was_closed = any(task.cancelled() for task in done)
        ended = [task for task in done if not task.cancelled()]
        self._ready += [task.result() for task in ended if task.exception() is None]
        for task in ended:
            task.result()  # an error that nobody foresaw comes up, and loses no other's result
        if self._pull is not None and self._pull.done():
            pull, self._pull = self._pull, None
            was_closed = was_closed or pull.cancelled()
            try:
                if not was_closed:
                    self._ask(pull.result())
            except StopAsyncIteration:
                self._later_ids = None
        if was_closed:
            raise SessionError("the session was closed during the poll")

    def _fill(self) -> None:
        """Ask about as many as may be in flight; an asynchronous source is waited for on the side."""
        while self._ids is not None and len(self._asked) < self._concurrency:
            try:
                self._ask(next(self._ids))
            except StopIteration:
                self._ids = None
        has_room = len(self._asked) < self._concurrency
        if self._later_ids is not None and self._pull is None and has_room:
            self._pull = self._begin(_next_of(self._later_ids))

    def _ask(self, workflow_id: str | UUID) -> None:
        self._asked.add(self._begin(self._find_out(workflow_id)))

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = self._spawn(work)
        task.add_done_callback(lambda _: self._arrived.set())
        return task

    async def _find_out(self, workflow_id: str | UUID) -> StatusResult:
        named = plain(workflow_id) if isinstance(workflow_id, str) else str(workflow_id)
        try:
            return StatusResult(named, status=await self._read(workflow_id))
        except KnowledgeStackError as error:
            return StatusResult(named, error=error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


async def _next_of(ids: AsyncIterator[T]) -> T:
    return await anext(ids)


class ClosingPoll:
    """The statuses of many workflows, each once, when it has closed; see ``poll_workflow_statuses``."""

    def __init__(self, watch: Watch[WorkflowStatusResponse]) -> None:
        self._watch = watch
        self._is_open = False
        self._late: Iterator[str] | None = None
        # After a break nobody says that it is over, but nobody has it any more either.
        weakref.finalize(self, watch.stop)

    async def aclose(self) -> None:
        """The same as `close`, for ``contextlib.aclosing``."""
        await self.close()

    async def close(self) -> None:
        """Stop watching."""
        self._watch.stop()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StatusResult:
        await self.__aenter__()
        async for change in self._watch:
            if change.is_final:
                return StatusResult(change.workflow_id, status=change.state, error=change.error)
        if self._late is None:
            self._late = iter(self._watch.unfinished if self._watch.timed_out else [])
        for workflow_id in self._late:
            return StatusResult(workflow_id, error=_too_late(f"workflow {workflow_id}"))
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        if not self._is_open:
            self._is_open = True
            await self._watch.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
