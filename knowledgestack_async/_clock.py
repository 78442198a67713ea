"""Time as the SDK takes it: monotonic, and to be replaced in a test."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from typing import Protocol

__all__ = ["Clock", "MonotonicClock"]


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


class MonotonicClock:
    """The system's monotonic time, and the event loop's timers."""

    def now(self) -> float:
        """The system's reading."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait by the loop's timers."""
        await asyncio.sleep(seconds)

    def timeout(self, seconds: float | None) -> AbstractAsyncContextManager[object]:
        """A timeout of the standard library's."""
        return asyncio.timeout(seconds)
