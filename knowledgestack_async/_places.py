"""So many at a time, not counting those that are given up but not over yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec

from ._clock import Clock

__all__ = ["Place", "Places"]


class Place(msgspec.Struct, eq=False):
    """One of them."""

    since: float


class Places:
    """Places that are handed out, first come, first served.

    Args:
        count: How many there are.
        clock: Where time comes from.
    """

    def __init__(self, count: int, clock: Clock) -> None:
        self._free = asyncio.Semaphore(count)
        self._clock = clock
        self._taken: set[Place] = set()
        self._lost: set[Place] = set()

    @property
    def lost(self) -> int:
        """How many are written off, and not over yet."""
        return len(self._lost)

    @asynccontextmanager
    async def take(self) -> AsyncGenerator[Place]:
        """Wait for one, and have it for a block."""
        await self._free.acquire()
        place = Place(self._clock.now())
        self._taken.add(place)
        try:
            yield place
        finally:
            if place in self._taken:
                self._taken.discard(place)
                self._free.release()
            self._lost.discard(place)

    def write_off(self, before: float) -> int:
        """Those that were taken before then leave their places to others; how many these are."""
        lost = {place for place in self._taken if place.since < before}
        self._taken -= lost
        self._lost |= lost
        for _ in lost:
            self._free.release()
        return len(lost)
