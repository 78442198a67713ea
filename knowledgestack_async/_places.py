"""So many at a time, not counting those that are given up but not over yet."""

from __future__ import annotations

import asyncio
from math import inf
from operator import attrgetter

import msgspec

__all__ = ["Place", "Places"]


class Place(msgspec.Struct, eq=False, gc=False):
    """One of them, and since when what it was taken for is on its way."""

    since: float = inf


class Places:
    """Places that are handed out, first come, first served.

    Args:
        count: How many there are.
    """

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)
        self._taken: set[Place] = set()

    async def take(self) -> Place:
        """Wait for one."""
        await self._free.acquire()
        place = Place()
        self._taken.add(place)
        return place

    def give_back(self, place: Place) -> bool:
        """Leave it to others; False if it was written off, so that others have it already."""
        if place not in self._taken:
            return False
        self._taken.discard(place)
        self._free.release()
        return True

    def write_off(self, before: float, most: int | None = None) -> int:
        """What is on its way since before then, the oldest first, leaves its places to others.

        Returns:
            How many these are.
        """
        old = sorted(
            (place for place in self._taken if place.since < before), key=attrgetter("since")
        )
        lost = old[:most]
        self._taken.difference_update(lost)
        for _ in lost:
            self._free.release()
        return len(lost)
