"""One poller for everybody who waits: each look asks once for all that is wanted, the cheapest way.

Knows no HTTP: it is handed a reader, which decides how ids are looked up.
"""

from __future__ import annotations

import asyncio
from asyncio import FIRST_COMPLETED
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Sequence
from contextlib import suppress
from contextvars import Context
from copy import copy
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from ._clock import Clock
from ._problems import own_copy
from ._retry import Chance
from .errors import KnowledgeStackError, NotFound, SessionError

__all__ = ["Observation", "Pace", "Poller", "Reader", "Sight", "Subscription", "read_each"]

StateT = TypeVar("StateT")


class Observation(msgspec.Struct, Generic[StateT], frozen=True):
    """What a tick found out about one id: its state, or that there is none, or what went wrong."""

    id: str
    state: StateT | None = None
    error: KnowledgeStackError | None = None

    @property
    def is_missing(self) -> bool:
        """Whether the server says that there is no such thing."""
        return isinstance(self.error, NotFound) and self.error.names_it

    def for_another(self) -> Observation[StateT]:
        """The same for one more who waits: an error is each one's own."""
        if self.error is None:
            return self
        return msgspec.structs.replace(self, error=own_copy(self.error))


Deliver = Callable[[Observation[StateT]], None]
OnTick = Callable[[KnowledgeStackError | None, bool], None]


class Sight(msgspec.Struct, frozen=True):
    """What a look at everything has shown.

    Attributes:
        since: Since when to ask for everything next time; None: for all of it.
        is_whole: Whether all there is was shown, so that what wasn't may have vanished.
    """

    since: datetime | None = None
    is_whole: bool = False


class Reader(Protocol[StateT]):
    """Looks up what is wanted."""

    async def read(
        self,
        wanted: frozenset[str],
        deliver: Deliver[StateT],
        *,
        everything: bool,
        since: datetime | None,
    ) -> Sight:
        """Look up these ids, or everything and these ids, and deliver what is found as it comes.

        Every wanted id is delivered at least once, with its state or an error. Of everything what
        didn't change since a time may be left out.

        Raises:
            KnowledgeStackError: It can't be looked up now.
        """
        ...


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How often to look: at ``first`` seconds, then less and less often, up to ``longest``."""

    first: float = 0.5
    growth: float = 1.5
    longest: float = 15.0


class Subscription(Generic[StateT]):
    """Somebody's interest in some ids, or in everything; the ids may be changed at any time."""

    def __init__(
        self,
        wanted: Iterable[str],
        everything: bool,
        on_observation: Callable[[Observation[StateT]], None],
        on_tick: OnTick,
        on_end: Callable[[Exception], None],
        pace: Pace,
        now: float,
    ) -> None:
        self.wanted = set(wanted)
        self.everything = everything
        self.on_observation = on_observation
        self.on_tick = on_tick
        self.on_end = on_end
        self.pace = pace
        self.interval = pace.first
        self.due_at = self.not_before = now
        self.was_hastened = False
        self.is_urgent = False
        self.seen_until: datetime | None = None

    def schedule(self, now: float, pause: float, took: float, chance: Chance) -> None:
        """Be due again after an interval, a longer one from time to time, but not during a pause.

        Where things are added all the time, looking for them takes no more than a third of it.
        """
        if self.is_urgent:
            self.is_urgent, self.interval, took = False, self.pace.first, 0.0
        least = max(pause, 2 * took if self.was_hastened else 0.0)
        self.was_hastened = False
        wait = max(self.interval * (0.75 + 0.5 * chance.random()), self.pace.first, least)
        self.due_at = now + wait
        self.not_before = now + max(self.pace.first, least)
        self.interval = min(self.pace.longest, self.interval * self.pace.growth)

    def hasten(self) -> None:
        """Begin with short intervals again, for there is something new to look for."""
        self.was_hastened = True
        self.interval = self.pace.first
        self.due_at = min(self.due_at, self.not_before)


class _Look(Generic[StateT]):
    """One round of asking: what each of some subscriptions still waits for in it."""

    def __init__(self, due: Sequence[Subscription[StateT]], ids: frozenset[str]) -> None:
        self.due = due
        self.ids = ids
        self.whole = [one for one in due if one.everything]
        self.left = {one: set(one.wanted & ids) for one in due}
        self._by_id: dict[str, list[Subscription[StateT]]] = {}
        for one in due:
            for id_ in self.left[one]:
                self._by_id.setdefault(id_, []).append(one)

    def interested(self, id_: str) -> list[Subscription[StateT]]:
        """Who asked about an id."""
        named = self._by_id.get(id_, [])
        return named + [one for one in self.whole if one not in named]

    def found(self, one: Subscription[StateT], id_: str) -> bool:
        """Whether a subscription has all that it asked for with this one."""
        left = self.left[one]
        left.discard(id_)
        return not left and not one.everything


class Poller(Generic[StateT]):
    """Serves all subscriptions from one loop; what is due soon is taken along.

    What takes long holds up nobody else: a subscription is due again once its own ids are answered,
    or after a while in any case, and an id that is asked about already is not asked about again.

    Args:
        reader: Looks up ids.
        clock: Where time comes from.
        chance: Where jitter comes from.
        pause: For how many seconds the server has asked not to be asked.
        busy: For how many seconds so far it was asked things: waits before a retry are no load.
        context: The context in which the server is asked.
    """

    TAKE_ALONG = 0.25
    """The share of its interval by which a subscription may be served early, with another one."""
    GRACE = 1.0
    """Seconds after which the rest of what a subscription wants is asked about without what hangs."""

    def __init__(
        self,
        reader: Reader[StateT],
        clock: Clock,
        chance: Chance,
        pause: Callable[[], float],
        busy: Callable[[], float],
        context: Context | None = None,
    ) -> None:
        self._reader = reader
        self._clock = clock
        self._chance = chance
        self._pause = pause
        self._busy = busy
        self._context = context or Context()
        self._subscriptions: dict[Subscription[StateT], None] = {}
        self._loop_task: asyncio.Task[None] | None = None
        self._looks: set[asyncio.Task[None]] = set()
        self._asked: set[str] = set()
        self._looks_at_all = False
        self._changed = asyncio.Event()
        self.ticks = 0

    def subscribe(
        self,
        wanted: Iterable[str],
        on_observation: Callable[[Observation[StateT]], None],
        on_tick: OnTick,
        on_end: Callable[[Exception], None],
        pace: Pace,
        *,
        everything: bool = False,
    ) -> Subscription[StateT]:
        """Ask for some ids, or for everything and these, from the next look on.

        Args:
            wanted: The ids; they may be changed later.
            on_observation: Told what a look found out.
            on_tick: Told that a look is over, what went wrong in it, and whether all there is was seen.
            on_end: Told why there will be no more looks, if that isn't the subscriber's own doing.
            pace: How often to look.
            everything: Whether to look at all there are.
        """
        now = self._clock.now()
        subscription = Subscription(wanted, everything, on_observation, on_tick, on_end, pace, now)
        self._subscriptions[subscription] = None
        self._changed.set()
        if self._loop_task is None or self._loop_task.done() or self._loop_task.cancelling():
            # Started by whoever comes first, it works for all.
            serving = self._serve(after=self._loop_task)
            loop = asyncio.get_running_loop()
            self._loop_task = loop.create_task(serving, context=self._context)
        return subscription

    def look_sooner(self, subscription: Subscription[StateT]) -> None:
        """Look for something that was added as soon as its pace allows."""
        subscription.hasten()
        self._changed.set()

    def look_now(self, subscription: Subscription[StateT]) -> None:
        """Look at once, and often again, whatever its pace: what it saw last is old."""
        subscription.is_urgent = True
        subscription.due_at = subscription.not_before = self._clock.now()
        self._changed.set()

    def unsubscribe(self, subscription: Subscription[StateT]) -> None:
        """Be told no more; when the last one goes, so does what is asked for."""
        if self._subscriptions.pop(subscription, subscription) is None:
            self._changed.set()
            if not self._subscriptions:
                for task in [*self._looks, *filter(None, [self._loop_task])]:
                    task.cancel()

    async def close(self) -> None:
        """End the loop."""
        self._end(SessionError("the session was closed while something was watched or waited for"))
        tasks = [*self._looks, *filter(None, [self._loop_task])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _end(self, reason: Exception) -> None:
        subscriptions, self._subscriptions = self._subscriptions, {}
        for one in subscriptions:
            one.on_end(copy(reason))

    async def _serve(self, after: asyncio.Task[None] | None) -> None:
        if after is not None:
            await asyncio.wait([after])
        while True:  # cancelled when the last subscription leaves
            self._changed.clear()
            now = self._clock.now()
            if min(one.due_at for one in self._subscriptions) > now:
                await self._sleep_until_due(now)
                continue
            await asyncio.sleep(0)  # so that those who come together are served together
            self._begin_look([one for one in self._subscriptions if self._is_due(one, now)], now)

    def _is_due(self, one: Subscription[StateT], now: float) -> bool:
        early = self.TAKE_ALONG * one.interval
        return one.due_at <= now + early and one.not_before <= now

    async def _sleep_until_due(self, now: float) -> None:
        seconds = min(one.due_at for one in self._subscriptions) - now
        news = asyncio.ensure_future(self._changed.wait())
        try:
            if self._looks:  # time need not pass for what may be over at once
                with suppress(TimeoutError):
                    async with self._clock.timeout(seconds):
                        await asyncio.wait([news, *self._looks], return_when=FIRST_COMPLETED)
                return
            nap = asyncio.ensure_future(self._clock.sleep(seconds))
            try:
                await asyncio.wait([nap, news], return_when=FIRST_COMPLETED)
            finally:
                nap.cancel()
        finally:
            news.cancel()

    def _begin_look(self, due: list[Subscription[StateT]], now: float) -> None:
        """Ask about all that is wanted and isn't asked about already."""
        asking: list[Subscription[StateT]] = []
        ids: set[str] = set()
        for one in due:
            wanted = one.wanted - self._asked if self._asked else one.wanted
            if wanted or (one.everything and not self._looks_at_all):
                ids |= wanted
                asking.append(one)
            one.due_at = one.not_before = now + max(self.GRACE, one.interval)
        if not asking:
            return
        self.ticks += 1
        look = _Look(asking, frozenset(ids))
        self._asked |= ids
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._look(look))
        self._looks.add(task)
        task.add_done_callback(self._looks.discard)

    async def _look(self, look: _Look[StateT]) -> None:
        busy_before = self._busy()
        looks_at_all = bool(look.whole) and not self._looks_at_all
        self._looks_at_all |= looks_at_all

        def deliver(observation: Observation[StateT]) -> None:
            self._asked.discard(observation.id)
            for number, one in enumerate(look.interested(observation.id)):
                if one not in self._subscriptions:  # it was left meanwhile
                    continue
                if one.everything or observation.id in one.wanted:
                    one.on_observation(observation if not number else observation.for_another())
                if look.found(one, observation.id) and one in self._subscriptions:
                    one.schedule(
                        self._clock.now(), self._pause(), self._busy() - busy_before, self._chance
                    )
                    self._changed.set()

        seen = [one.seen_until for one in look.whole if one.seen_until is not None]
        since = min(seen) if seen and len(seen) == len(look.whole) else None
        trouble: KnowledgeStackError | None = None
        sight = Sight()
        try:
            sight = await self._reader.read(look.ids, deliver, everything=looks_at_all, since=since)
        except KnowledgeStackError as error:
            trouble = error
        except Exception as error:  # noqa: BLE001 - nobody foresaw it, so whoever waits must be told
            self._end(error)
        finally:
            self._asked -= look.ids
            if looks_at_all:
                self._looks_at_all = False
        self._end_look(look, trouble, sight, self._busy() - busy_before)

    def _end_look(
        self,
        look: _Look[StateT],
        trouble: KnowledgeStackError | None,
        sight: Sight,
        took: float,
    ) -> None:
        now, pause = self._clock.now(), self._pause()
        for one in look.due:
            if one not in self._subscriptions:
                continue
            if one.everything and trouble is None:
                one.seen_until = sight.since
            if look.left[one] or one.everything:
                one.schedule(now, pause, took, self._chance)
            one.on_tick(None if trouble is None else own_copy(trouble), sight.is_whole)
        self._changed.set()


async def read_each(
    read: Callable[[str], Awaitable[StateT]],
    ids: Iterable[str],
    deliver: Deliver[StateT],
    *,
    others_were_found: bool = False,
) -> None:
    """Look up ids one by one, many at a time; an error of one is that one's.

    Raises:
        KnowledgeStackError: None of them can be looked up, and nothing else could be.
    """
    troubles: dict[str, KnowledgeStackError] = {}
    found_any = others_were_found

    async def find(one: str) -> None:
        nonlocal found_any
        try:
            state = await read(one)
        except KnowledgeStackError as error:
            observation = Observation[StateT](one, error=error)
            if not observation.is_missing:
                troubles[one] = error
                return
            found_any = True
            deliver(observation)
        else:
            found_any = True
            deliver(Observation(one, state=state))

    await run_bounded(find(one) for one in ids)
    if troubles and not found_any:
        raise next(iter(troubles.values()))
    for one, error in troubles.items():
        deliver(Observation(one, error=error))


async def run_bounded(works: Iterable[Coroutine[Any, Any, None]], most: int = 100) -> None:
    """Run works, so many at a time; the first error ends them all, and comes up by itself."""
    running: set[asyncio.Task[None]] = set()
    done: set[asyncio.Task[None]] = set()
    pending = iter(works)
    try:
        while True:
            while len(running) < most and (work := next(pending, None)) is not None:
                running.add(asyncio.ensure_future(work))
            if not running:
                return
            done, running = await asyncio.wait(running, return_when=FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*done, *running, return_exceptions=True)
        if isinstance(pending, Generator):
            pending.close()
