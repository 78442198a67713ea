"""Waiting for one thing, and the status of many, without any HTTP: what reads is handed in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

from ._checks import check_count, check_seconds
from ._clock import Clock
from ._retry import Chance
from .errors import ConfigurationError, DeadlineExceeded, KnowledgeStackError, SessionError
from .models import StatusResult, WorkflowStatusResponse, WorkflowSummaryResponse
from .pages import Spawn

__all__ = ["StatusPoll", "is_newer_run", "wait_until"]

T = TypeVar("T")

FIRST_INTERVAL = 0.5
LONGEST_INTERVAL = 15.0
GROWTH = 1.5


async def wait_until(
    read: Callable[[float | None], Awaitable[T]],
    is_over: Callable[[T], bool],
    what: str,
    *,
    clock: Clock,
    chance: Chance,
    deadline: float | None = None,
    on_change: Callable[[T], None] | None = None,
) -> T:
    """Read until it is over, at growing, jittered intervals.

    Args:
        read: Reads the state; told the seconds that are left, if there is a deadline.
        is_over: Whether a state is the end.
        what: What is waited for, in words.
        clock: Where time comes from.
        chance: Where jitter comes from.
        deadline: How long to wait at most, in seconds.
        on_change: Called with each state that differs from the one before.

    Raises:
        ConfigurationError: The deadline is not a time.
        DeadlineExceeded: It is not over yet; ``last`` is what was read last.
    """
    if deadline is not None:
        check_seconds(deadline, "deadline")
    ends_at = None if deadline is None else clock.now() + deadline
    interval = FIRST_INTERVAL
    last: T | None = None
    while True:
        time_left = None if ends_at is None else ends_at - clock.now()
        if time_left is not None and time_left <= 0:
            raise _too_late(what, last)
        try:
            state = await read(time_left)
        except DeadlineExceeded:
            if ends_at is None or clock.now() < ends_at:
                raise
            state = last  # type: ignore[assignment]
        if state is not None and state != last:
            last = state
            if on_change is not None:
                on_change(state)
        if last is not None and is_over(last):
            return last
        pause = interval * (0.75 + 0.5 * chance.random())
        if ends_at is not None:
            pause = min(pause, max(0.0, ends_at - clock.now()))
        await clock.sleep(pause)
        interval = min(LONGEST_INTERVAL, interval * GROWTH)


def _too_late(what: str, last: object) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"{what} is not over yet",
        "GET",
        hint="Wait longer, or go on from what .last holds.",
        last=last,
    )


def is_newer_run(current: WorkflowSummaryResponse, before: WorkflowSummaryResponse) -> bool:
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
        workflow_ids: Iterable[str | UUID] | AsyncIterable[str | UUID],
        spawn: Spawn,
        *,
        concurrency: int,
    ) -> None:
        check_count(concurrency, "concurrency")
        if isinstance(workflow_ids, str | bytes):
            raise ConfigurationError("workflow_ids must be an iterable of ids, not one text")
        self._read = read
        self._spawn = spawn
        self._concurrency = concurrency
        self._ids: Iterator[str | UUID] | None = None
        self._later_ids: AsyncIterator[str | UUID] | None = None
        if isinstance(workflow_ids, AsyncIterable):
            self._later_ids = aiter(workflow_ids)
        else:
            self._ids = iter(workflow_ids)
        self._pull: asyncio.Task[str | UUID] | None = None
        self._asked: set[asyncio.Task[StatusResult]] = set()
        self._ready: list[StatusResult] = []

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
        while not self._ready:
            self._fill()
            waiting: set[asyncio.Task[Any]] = {*self._asked, *([self._pull] if self._pull else [])}
            if not waiting:
                raise StopAsyncIteration
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            self._collect()
        return self._ready.pop()

    def _collect(self) -> None:
        done = {task for task in self._asked if task.done()}
        self._asked -= done
        if any(task.cancelled() for task in done):
            raise SessionError("the session was closed during the poll")
        self._ready = [task.result() for task in done]
        if self._pull is not None and self._pull.done():
            pull, self._pull = self._pull, None
            try:
                self._ask(pull.result())
            except StopAsyncIteration:
                self._later_ids = None

    def _fill(self) -> None:
        """Ask about as many as may be in flight; an asynchronous source is waited for on the side."""
        while self._ids is not None and len(self._asked) < self._concurrency:
            try:
                self._ask(next(self._ids))
            except StopIteration:
                self._ids = None
        has_room = len(self._asked) < self._concurrency
        if self._later_ids is not None and self._pull is None and has_room:
            self._pull = self._spawn(_next_of(self._later_ids))

    def _ask(self, workflow_id: str | UUID) -> None:
        self._asked.add(self._spawn(self._find_out(workflow_id)))

    async def _find_out(self, workflow_id: str | UUID) -> StatusResult:
        try:
            return StatusResult(str(workflow_id), status=await self._read(workflow_id))
        except KnowledgeStackError as error:
            return StatusResult(str(workflow_id), error=error)

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
