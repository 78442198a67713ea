"""Time as the SDK takes it: monotonic, and to be replaced in a test."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Generator
from contextlib import AbstractAsyncContextManager, contextmanager
from math import inf
from types import TracebackType
from typing import Any, ClassVar, Protocol

__all__ = ["Clock", "Interruption", "MonotonicClock", "shielded"]


class Clock(Protocol):
    """What the SDK asks of time. All of it is in seconds."""

    def now(self) -> float:
        """A reading that only ever grows."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...

    def timeout(self, seconds: float | None) -> AbstractAsyncContextManager[object]:
        """A block that is cancelled, and raises TimeoutError, after so long; never for None."""
        ...


@contextmanager
def shielded() -> Generator[None, None, None]:
    """A block that a scope of anyio's doesn't cancel again in each step of the loop.

    asyncio cancels once, and a wait that goes on all the same may do so; anyio repeats it until its
    scope is left, which would keep the processor busy.
    """
    scope: Any = getattr(sys.modules.get("anyio"), "CancelScope", None)
    if scope is None:
        yield
        return
    with scope(shield=True):
        yield


class Interruption:
    """A block that somebody else may end: it is cancelled, and raises ``ends_with``."""

    __slots__ = ("_cancelling", "_task", "was_interrupted")

    ends_with: ClassVar[type[Exception]] = TimeoutError
    was_interrupted: bool

    def interrupt(self) -> None:
        """End it, if it is entered; said again, it changes nothing."""
        if hasattr(self, "_task") and not self.was_interrupted:
            self.was_interrupted = True
            self._task.cancel()

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a time-out needs a task to end")
        self._task = task
        self._cancelling = task.cancelling()
        self.was_interrupted = False

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task = self._task
        del self._task  # whose context may hold this block, and would keep it alive
        # Somebody else may have cancelled the task as well, and then it stays cancelled.
        if (
            self.was_interrupted
            and task.uncancel() <= self._cancelling
            and exc_type is asyncio.CancelledError
        ):
            raise self.ends_with from exc


class MonotonicClock:
    """The system's monotonic time, and the event loop's timers."""

    def __init__(self) -> None:
        self._alarm: _Alarm | None = None

    def now(self) -> float:
        """The system's reading."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait by the loop's timers."""
        await asyncio.sleep(seconds)

    def timeout(self, seconds: float | None) -> AbstractAsyncContextManager[object]:
        """As the standard library's, but all of them share one timer of the loop's."""
        if seconds is None:
            return asyncio.timeout(None)
        loop = asyncio.get_running_loop()
        if self._alarm is None or self._alarm.loop is not loop:
            self._alarm = _Alarm(loop)
        return _Timeout(self._alarm, loop.time() + seconds)


class _Alarm:
    """Goes off when the first of many blocks has taken too long.

    A timer of its own is most of what a time-out costs, and nearly none of them ever goes off. So
    there is one, set for the first that is due; when it is over by then, it is set for the next.
    """

    GRAIN = 0.01
    """Where many are due one after the other, they are looked at together, so many seconds apart."""
    LATE, GRACE = 0.05, 0.25
    """When it goes off this much too late, the loop didn't run: what came meanwhile is read first."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._running: set[_Timeout] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = inf

    def add(self, block: _Timeout) -> None:
        self._running.add(block)
        if block.due_at < self._rings_at:
            self._set(block.due_at)

    def discard(self, block: _Timeout) -> None:
        self._running.discard(block)

    def _set(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_at(when, self._ring)
        self._rings_at = when

    def _ring(self) -> None:
        now = self.loop.time()
        late = now - self._rings_at
        self._timer, self._rings_at = None, inf
        if late > self.LATE:
            self._set(now + min(late, self.GRACE))
            return
        for block in [block for block in self._running if block.due_at <= now]:
            self._running.discard(block)
            block.interrupt()
        if self._running:
            self._set(max(now + self.GRAIN, min(block.due_at for block in self._running)))


class _Timeout(Interruption):
    """A block that is cancelled when it has taken too long, and raises TimeoutError then."""

    __slots__ = ("_alarm", "due_at")

    def __init__(self, alarm: _Alarm, due_at: float) -> None:
        self._alarm = alarm
        self.due_at = due_at

    async def __aenter__(self) -> None:
        self.__enter__()
        self._alarm.add(self)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._alarm.discard(self)
        self.__exit__(exc_type, exc, traceback)
