"""How much may be in flight: slots that adapt, a rate, and the cool-down that all tasks share."""

from __future__ import annotations

import asyncio
from contextvars import Context
from heapq import heapify, heappop, heappush
from math import inf
from operator import attrgetter
from typing import Any

import msgspec

from ._checks import check_count
from ._clock import Clock
from ._retry import Chance
from ._wire import Priority
from .errors import ConfigurationError, SessionError

__all__ = ["CoolingDown", "Governor", "Slot"]


class CoolingDown(Exception):
    """The server's pause is longer than the call may wait, or it refused everything for so long.

    Attributes:
        seconds: How long the pause is still, or how long it refused everything.
        is_pause: Which of both.
    """

    def __init__(self, seconds: float, *, is_pause: bool) -> None:
        super().__init__(seconds)
        self.seconds = seconds
        self.is_pause = is_pause


class Slot(msgspec.Struct, frozen=True, eq=False, gc=False):
    """The right to have one request in flight.

    Attributes:
        epoch: Which cut of the limit it came after.
        since: When it was handed out.
    """

    epoch: int
    since: float


class _Waiter(msgspec.Struct, order=True, gc=False):
    """A call that waits for a slot; the one that began first goes first."""

    ticket: int
    since: float
    patience: float
    slot: Any


class Governor:
    """Hands out slots: first come, first served within a priority, and no priority starves.

    A call that was refused keeps its place before those that came later. Probes need no place within
    the limit, and outcomes have some beside it: what is in flight may hang.

    The limit starts modest, grows by one for each answer that comes while it is used up, and falls
    by a factor when the server pushes back; from then on it grows by about one a round trip. Requests
    that were in flight together cut it once. A rate, where set, spaces requests evenly.
    """

    START = 20
    FLOOR = 4
    CUT = 0.7
    SPREAD = 1.0
    """After a cool-down the first slots are handed out over so many seconds, not all at once."""
    LONGEST_PAUSE = 3600.0
    """After so long the server is asked again, whatever it said: one odd answer is no end."""
    LOW_TURN, NORMAL_TURN = 8, 16
    """Every eighth slot goes to the lowest priority, and every sixteenth to a normal one, if any waits."""
    RESERVED = 8
    """Slots beside the limit, for outcomes that must go out."""
    FIRST_THROTTLE, LAST_THROTTLE = 0.2, 2.0
    """Seconds of a pause where the server limits the rate without saying for how long."""

    def __init__(
        self,
        *,
        clock: Clock,
        chance: Chance,
        ceiling: int,
        pool_size: int = 0,
        rate: float | None = None,
    ) -> None:
        check_count(ceiling, "max_in_flight")
        is_number = isinstance(rate, int | float) and not isinstance(rate, bool)
        if rate is not None and not (is_number and 0 < rate < inf):
            raise ConfigurationError(f"rate must be requests a second above 0, not {rate!r}")
        self._clock = clock
        self._chance = chance
        # A pool that is smaller would make requests wait where their time-out already runs.
        self._pool_size = pool_size
        usable = pool_size - min(self.RESERVED, pool_size // 4)
        self._ceiling = ceiling = min(ceiling, usable) if pool_size else ceiling
        self._gap = 0.0 if rate is None else 1 / rate
        self._limit = float(min(self.START, ceiling))
        self._pushed_back = False
        self._epoch = 0
        self._granted = 0
        self._gate = 0.0
        self._ramp = 0
        self._cool_until = 0.0
        self._queues: tuple[list[_Waiter], ...] = tuple([] for _ in Priority)
        self._gone = 0
        self._tickets = 0
        self._throttle = 0.0
        self._throttled_at = 0.0
        self._refuses_since: float | None = None
        self._waker: asyncio.Task[None] | None = None
        self._closed = False
        self._held: set[Slot] = set()
        self._lost: set[Slot] = set()
        self._busy = 0.0
        self._busy_since = 0.0
        self.cool_downs: int = 0
        self.successes: int = 0

    @property
    def limit(self) -> int:
        """How many requests may be in flight now."""
        return int(self._limit)

    @property
    def in_flight(self) -> int:
        """How many requests are in flight now."""
        return len(self._held) + len(self._lost)

    @property
    def waiting(self) -> int:
        """How many calls wait for a slot."""
        return sum(not waiter.slot.done() for queue in self._queues for waiter in queue)

    def cooling_for(self) -> float:
        """The seconds left of the pause that the server asked for; 0 if none."""
        return max(0.0, self._cool_until - self._clock.now())

    def refused_for(self) -> float:
        """The seconds for which the server limits the rate and has let nothing through."""
        return 0.0 if self._refuses_since is None else self._clock.now() - self._refuses_since

    def busy_for(self) -> float:
        """The seconds so far in which anything was in flight."""
        since = self._clock.now() - self._busy_since if self.in_flight else 0.0
        return self._busy + since

    def take_free(self, now: float) -> Slot | None:
        """A slot, if there is one and nobody waits; else ``acquire`` has to be awaited."""
        if self._closed or now < self._gate or not self._has_room() or any(self._queues):
            return None
        return self._grant(now)

    def ticket(self) -> int:
        """A call's place in the queue, for as long as it lasts."""
        self._tickets += 1
        return self._tickets

    async def acquire(
        self,
        priority: Priority,
        time_left: float,
        *,
        ticket: int | None = None,
        patience: float = inf,
    ) -> Slot:
        """Wait for a slot.

        Args:
            priority: Who goes first.
            time_left: How long to wait at most, in seconds.
            ticket: The call's place among those of its priority; default: behind all others.
            patience: How long a pause of the server's, or a time in which it refused everything, may
                be, in seconds.

        Raises:
            TimeoutError: No slot came free in that time.
            CoolingDown: The server asked for a longer pause, or refuses everything.
            SessionError: The session was closed meanwhile.
        """
        if self._closed:
            raise SessionError("the session is closed")
        slot = self.take_free(self._clock.now())
        if slot is not None:
            return slot
        future: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        place = self.ticket() if ticket is None else ticket
        waiter = _Waiter(place, self._clock.now(), min(time_left, patience), future)
        heappush(self._queues[priority], waiter)
        self._pump()
        try:
            async with self._clock.timeout(None if time_left == inf else time_left):
                return await future
        except BaseException:
            # Whoever goes away at the moment of getting a slot gives it back.
            if future.done() and not future.cancelled() and not future.exception():
                self.release(future.result())
            else:
                self._forget(future)
            raise

    def _forget(self, future: asyncio.Future[Slot]) -> None:
        """Keep no more of those who went away than of those who wait."""
        future.cancel()
        self._gone += 1
        if self._gone > 100 and self._gone > self.waiting:
            self._gone = 0
            for queue in self._queues:
                queue[:] = [waiter for waiter in queue if not waiter.slot.done()]
                heapify(queue)

    def release(self, slot: Slot) -> None:
        """Give a slot back."""
        self._held.discard(slot)
        self._lost.discard(slot)
        if not self._held and not self._lost:
            self._busy += self._clock.now() - self._busy_since
        if any(self._queues):
            self._pump()

    def renew(self, slot: Slot) -> Slot:
        """A slot for another try in place of one, without waiting for it."""
        self._held.discard(slot)
        self._lost.discard(slot)
        renewed = Slot(self._epoch, self._clock.now())
        self._held.add(renewed)
        return renewed

    def write_off(self, before: float, most: int | None = None) -> None:
        """What has been in flight since before then, the oldest first, leaves its place to others."""
        old = sorted((slot for slot in self._held if slot.since < before), key=attrgetter("since"))
        self._lost.update(old[:most])
        self._held -= self._lost
        self._pump()

    def answered(self) -> None:
        """The server answered in good order: the limit may grow, if it is what held us back."""
        self.successes += 1
        self._refuses_since = None
        self._throttle *= 0.8
        if len(self._held) >= int(self._limit) or any(self._queues):
            grown = 1 / self._limit if self._pushed_back else 1.0
            self._limit = min(float(self._ceiling), self._limit + grown)

    def pushed_back(self, slot: Slot, retry_after: float | None, *, limited: bool = False) -> None:
        """The server said 429 or 503: less from now on, and nothing until the pause is over.

        Args:
            slot: What the refused request held.
            retry_after: The pause that the server asked for, in seconds, if it did.
            limited: Whether it limits the rate: then there is a pause in any case.
        """
        now = self._clock.now()
        if limited and self._refuses_since is None:
            self._refuses_since = now
        if limited and not retry_after and slot.since >= self._throttled_at:
            longer = max(self.FIRST_THROTTLE, self._throttle * 2)
            self._throttle = min(self.LAST_THROTTLE, longer)
            self._throttled_at = now + self._throttle
            self._gate = max(self._gate, self._throttled_at)
            self._ramp = max(self._ramp, 1)
        if slot.epoch == self._epoch:
            self._epoch += 1
            self._pushed_back = True
            floor = float(min(self.FLOOR, self._ceiling))
            self._limit = max(floor, self._limit * self.CUT)
        if retry_after:
            until = now + min(retry_after, self.LONGEST_PAUSE)
            if until > self._cool_until:
                self.cool_downs += self._cool_until <= now
                self._cool_until = until
                self._gate = max(self._gate, until)
                self._ramp = int(self._limit)
        self._turn_away()

    def _turn_away(self) -> None:
        """Those who wait are told what those are told who come now."""
        cooling, refused_for = self.cooling_for(), self.refused_for()
        for queue in self._queues:
            for waiter in queue:
                longest = max(cooling, refused_for)
                if longest >= waiter.patience and not waiter.slot.done():
                    error = CoolingDown(longest, is_pause=longest == cooling)
                    waiter.slot.set_exception(error)

    def close(self) -> None:
        """Turn everybody away who still waits."""
        self._closed = True
        if self._waker is not None:
            self._waker.cancel()
        for queue in self._queues:
            for waiter in queue:
                if not waiter.slot.done():
                    waiter.slot.set_exception(
                        SessionError("the session was closed while this call waited")
                    )
            queue.clear()

    def _has_room(self, beside: int = 0) -> bool:
        return len(self._held) < int(self._limit) + beside and self._has_connection()

    def _has_connection(self) -> bool:
        # What is lost has its own still, and a pool that is the user's is no larger for it.
        return not self._pool_size or self.in_flight < self._pool_size

    def _grant(self, now: float) -> Slot:
        if not self._held and not self._lost:
            self._busy_since = now
        slot = Slot(self._epoch, now)
        self._held.add(slot)
        self._granted += 1
        gap = self._gap
        if self._ramp:
            self._ramp -= 1
            gap = max(gap, self.SPREAD / self._limit * (0.5 + self._chance.random()))
        if gap:
            # A tenth of a second may be caught up, for timers are not that fine.
            self._gate = max(self._gate, now - 0.1) + gap
        return slot

    def _pump(self) -> None:
        now = self._clock.now()
        while now >= self._gate:
            waiter = self._next_waiter()
            if waiter is None:
                return
            waiter.slot.set_result(self._grant(now))
        if now < self._gate and self._waker is None and any(self._queues) and not self._closed:
            # Born of whoever came first, but working for all: it inherits nobody's context.
            loop = asyncio.get_running_loop()
            self._waker = loop.create_task(self._wake_up(self._gate - now), context=Context())

    async def _wake_up(self, seconds: float) -> None:
        try:
            await self._clock.sleep(seconds)
        finally:
            self._waker = None
        self._pump()

    def _next_waiter(self) -> _Waiter | None:
        queues = self._queues
        if not self._has_room():
            if not self._has_connection():
                return None
            has_reserve = self._has_room(self.RESERVED)
            queues = queues[: Priority.OUTCOME + 1] if has_reserve else queues[: Priority.PROBE + 1]
        elif self._granted % self.LOW_TURN == self.LOW_TURN - 1:
            queues = queues[::-1]
        elif self._granted % self.NORMAL_TURN == self.NORMAL_TURN // 4 - 1:
            first = Priority.OUTCOME + 1
            queues = (*queues[:first], queues[Priority.NORMAL], *queues[first:])
        for queue in queues:
            while queue:
                waiter = heappop(queue)
                if not waiter.slot.done():
                    return waiter
        return None
