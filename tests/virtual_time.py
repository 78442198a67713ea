"""Time that passes at once whenever nothing else happens: many tasks, real sockets, no real waits.

A test under `in_virtual_time` runs on an event loop that tells when it has nothing to do; then the
clock jumps to whatever is due next. All that can happen before happens before, so seconds are as long
as they are for a user, however busy the machine is.
"""

from __future__ import annotations

import asyncio
import heapq
import selectors
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import wraps
from inspect import signature
from itertools import count


class VirtualTime:
    """A clock for sessions, and for sandboxes."""

    GRAIN = 0.02
    """What is due within so many seconds is due at the same time: steps cost time of the machine's."""
    PATIENCE, LONG_PATIENCE = 0.0005, 0.02
    """So many real seconds nothing may happen before a step, and before one of a second and more."""

    def __init__(self) -> None:
        self.time = 1000.0
        self._due: list[tuple[float, int]] = []
        self._numbers = count()
        self._works: dict[int, Callable[[], object]] = {}

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        over = asyncio.get_running_loop().create_future()
        timer = self.call_later(seconds, lambda: over.done() or over.set_result(None))
        try:
            await over
        finally:
            self.drop(timer)

    def timeout(self, seconds: float | None) -> AbstractAsyncContextManager[object]:
        return (
            asyncio.timeout(seconds) if seconds is None or seconds <= 0 else self._timeout(seconds)
        )

    @asynccontextmanager
    async def _timeout(self, seconds: float) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as block:
            timer = self.call_later(seconds, lambda: block.reschedule(loop.time()))
            try:
                yield
            finally:
                self.drop(timer)

    def call_later(self, seconds: float, work: Callable[[], object]) -> int:
        number = next(self._numbers)
        self._works[number] = work
        heapq.heappush(self._due, (self.time + seconds, number))
        return number

    def drop(self, number: int) -> None:
        self._works.pop(number, None)

    def next_in(self) -> float | None:
        while self._due and self._due[0][1] not in self._works:
            heapq.heappop(self._due)
        return max(0.0, self._due[0][0] - self.time) if self._due else None

    def step(self) -> None:
        """All that is due next has come."""
        step = self.next_in()
        if step is None:
            return
        self.time += step
        until = self.time + self.GRAIN
        while self._due and self._due[0][0] <= until:
            when, number = heapq.heappop(self._due)
            work = self._works.pop(number, None)
            if work is not None:
                self.time = max(self.time, when)
                work()


class _Selector(selectors.DefaultSelector):
    """Lets time pass when nothing is ready."""

    def __init__(self, virtual: VirtualTime) -> None:
        super().__init__()
        self._virtual = virtual

    def select(self, timeout: float | None = None) -> list:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        step = self._virtual.next_in()
        if step is None:
            return super().select(timeout)
        patience = VirtualTime.PATIENCE if step < 1 else VirtualTime.LONG_PATIENCE
        if timeout is not None and timeout <= patience:
            return super().select(timeout)
        ready = super().select(patience)
        if not ready:
            self._virtual.step()
        return ready


def in_virtual_time(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test on a loop that lets time pass, and hand it that time as ``virtual``."""

    @wraps(test)
    def run(**arguments) -> None:
        virtual = VirtualTime()

        def make_loop() -> asyncio.AbstractEventLoop:
            return asyncio.SelectorEventLoop(_Selector(virtual))

        # Debug mode looks up where each callback comes from, which takes most of the time.
        with asyncio.Runner(debug=False, loop_factory=make_loop) as runner:
            runner.run(test(virtual, **arguments))

    whole = signature(test)
    others = [one for name, one in whole.parameters.items() if name != "virtual"]
    run.__signature__ = whole.replace(parameters=others)
    return run
