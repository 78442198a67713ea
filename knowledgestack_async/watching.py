"""Changes of many things as they happen: each told once, merged while nobody looks."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping
from copy import copy
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

import attrs
import msgspec

from ._changes import Backlog, ChangeKind, Packing, StatusChange
from ._checks import check_each, check_seconds
from ._clock import Clock
from ._poller import Observation, Pace, Poller, Subscription
from .errors import KnowledgeStackError, SessionError

__all__ = ["ChangeKind", "StatusChange", "Watch", "WatchSummary"]

StateT = TypeVar("StateT", bound="HasStatus")


class HasStatus(Protocol):
    """What is watched: something with a status that ends some day."""

    @property
    def is_terminal(self) -> bool:
        """Whether it is over."""
        ...


@attrs.frozen(kw_only=True)
class WatchSummary:
    """Where a watch is.

    Attributes:
        counts: How many have which status.
        total: How many are watched.
        finished: How many are over.
        missing: How many don't exist.
        rate: How many ended a second, lately; None until that can be told.
        eta: Seconds until all are over at that rate; None if that can't be told.
        stalled: The ids that have not changed for long.
        last_error: What went wrong last.
        elapsed: Seconds since the watch began.
        is_complete: Whether all were looked at; until then the counts grow.
    """

    counts: Mapping[str, int]
    total: int
    finished: int
    missing: int
    rate: float | None
    eta: float | None
    stalled: tuple[str, ...]
    last_error: KnowledgeStackError | None
    elapsed: float
    is_complete: bool = True


class _Known(msgspec.Struct):
    """What is remembered of one id: small, for there may be a hundred thousand."""

    status: str | None
    run: Any
    changed_at: float
    is_over: bool
    tick: int = 0
    """When it was seen last, in a watch of everything."""


class Watch(Generic[StateT]):
    """The changes of some things, or of everything there is, until all are over or it is left.

    Use it with ``async with``, and iterate with ``async for``.
    """

    STALLED_AFTER = 600.0
    RATE_WINDOW = 60.0

    def __init__(
        self,
        poller: Callable[[], Poller[StateT]],
        ids: object | None,
        *,
        check: Callable[[object], str],
        clock: Clock,
        status_of: Callable[[StateT], str],
        run_of: Callable[[StateT], Any],
        deadline: float | None = None,
        pace: Pace | None = None,
        after: Mapping[str, Any] | None = None,
        is_newer: Callable[[StateT, Any], bool] = lambda _current, _before: True,
        stays_open: bool = False,
        packing: Packing[StateT] | None = None,
    ) -> None:
        if deadline is not None:
            check_seconds(deadline, "deadline")
        self._make_poller = poller
        self._everything = ids is None
        self._check = check
        # Each by itself, so that the same text is kept wherever an answer names it again.
        self._ids = {id_: id_ for id_ in ([] if ids is None else check_each(ids, "the ids", check))}
        self._clock = clock
        self._status_of = status_of
        self._run_of = run_of
        self._deadline = deadline
        self._pace = pace or Pace()
        self._after = dict(after or {})
        self._stays_open = stays_open
        self._is_newer = is_newer
        self._poller: Poller[StateT] | None = None
        self._subscription: Subscription[StateT] | None = None
        self._began_at = 0.0
        self._known: dict[str, _Known] = {}
        self._ends: dict[str | None, _Known] = {}
        self._tick = 0
        self._counts: Counter[str] = Counter()
        self._finished = 0
        self._missing = 0
        self._endings: deque[float] = deque()
        self._pending = Backlog(packing)
        self._news = asyncio.Event()
        self._trouble: KnowledgeStackError | None = None
        self._in_trouble: set[str] = set()
        self._last_error: KnowledgeStackError | None = None
        self._is_over = False
        self._ended_by: Exception | None = None
        self._has_looked = False
        self.timed_out: bool = False
        self.last_state: StateT | None = None

    async def __aenter__(self) -> Self:
        if self._poller is not None:
            raise SessionError("a watch is used once; make another one")
        self._began_at = self._clock.now()
        self._poller = self._make_poller()
        self._is_over = not self._everything and not self._ids and not self._stays_open
        if not self._is_over:
            self._subscription = self._poller.subscribe(
                self._ids,
                self._observe,
                self._end_tick,
                self._end,
                self._pace,
                everything=self._everything,
            )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StatusChange[StateT]:
        await self._wait_until_pending()
        if not self._pending:
            raise StopAsyncIteration
        return self._pending.take()

    async def next_changes(self, most: int = 500) -> list[StatusChange[StateT]]:
        """The changes that wait, so many of them, once there are any; none when the watch is over."""
        await self._wait_until_pending()
        return [self._pending.take() for _ in range(min(most, len(self._pending)))]

    async def _wait_until_pending(self) -> None:
        if self._poller is None:
            raise SessionError("use a watch with 'async with', and iterate inside of it")
        while not self._pending:
            if self._ended_by is not None:
                raise copy(self._ended_by)
            if self._is_over:
                return
            self._news.clear()
            if (
                not await self._wait_for_news()
            ):  # pragma: no cover - run by a test of a silent server,
                self.timed_out = True  # but Python 3.11 doesn't trace what follows a timeout here
                self.stop()

    async def _wait_for_news(self) -> bool:
        try:
            async with self._clock.timeout(self._time_left()):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    def add(self, workflow_id: object, after: Any = None) -> None:
        """Watch one more from now on; for watches that stay open.

        Raises:
            ConfigurationError: The id is none.
        """
        id_ = self._check(workflow_id)
        self._ids[id_] = id_
        known = self._known.get(id_)
        if known is not None and known.is_over:
            self._count(known, -1)  # it is followed anew
            del self._known[id_]
        if after is not None:
            self._after[id_] = after
        if self._subscription is not None and self._poller is not None:
            self._subscription.wanted.add(id_)
            self._poller.look_sooner(self._subscription)

    def look_now(self) -> None:
        """Look at once, whatever the pace: for when a server is back that was away."""
        if self._subscription is not None and self._poller is not None:
            self._poller.look_now(self._subscription)

    @property
    def unfinished(self) -> list[str]:
        """The ids that were given and are not over yet."""
        known = self._known
        return [id_ for id_ in self._ids if id_ not in known or not known[id_].is_over]

    @property
    def summary(self) -> WatchSummary:
        """Where it is now."""
        now = self._clock.now()
        total = max(len(self._known), len(self._ids))
        while self._endings and self._endings[0] < now - self.RATE_WINDOW:
            self._endings.popleft()
        span = min(self.RATE_WINDOW, now - self._began_at)
        rate = len(self._endings) / span if span > 0 and self._endings else None
        return WatchSummary(
            counts=dict(self._counts),
            total=total,
            finished=self._finished,
            missing=self._missing,
            rate=rate,
            eta=(total - self._finished - self._missing) / rate if rate else None,
            stalled=tuple(
                id_
                for id_, known in self._known.items()
                if not known.is_over and now - known.changed_at >= self.STALLED_AFTER
            ),
            last_error=self._last_error,
            elapsed=now - self._began_at,
            is_complete=self._has_looked or self._is_over,
        )

    async def aclose(self) -> None:
        """The same as `stop`, for ``contextlib.aclosing``."""
        self.stop()

    def stop(self) -> None:
        """End it."""
        self._is_over = True
        if self._poller is not None and self._subscription is not None:
            self._poller.unsubscribe(self._subscription)
        self._news.set()

    def _end(self, reason: Exception) -> None:
        """There will be no more ticks."""
        self._ended_by = reason
        self._is_over = True
        self._news.set()

    def _end_tick(self, trouble: KnowledgeStackError | None, all_was_seen: bool) -> None:
        if all_was_seen and self._everything:
            self._look_for_vanished()
        self._tick += 1
        if trouble is not None:
            self._last_error = trouble
            if self._trouble is None:
                self._tell(ChangeKind.TROUBLE, "", error=trouble)
        elif self._trouble is not None:
            self._tell(ChangeKind.RECOVERED, "")
        self._has_looked = self._has_looked or trouble is None
        self._trouble = trouble
        if self._time_left() == 0:
            self.timed_out = True
            self.stop()

    def _look_for_vanished(self) -> None:
        """What a look at everything didn't show is looked up by itself in the next tick."""
        self._wanted.update(
            id_
            for id_, known in self._known.items()
            if known.tick != self._tick and known.status is not None
        )

    @property
    def _wanted(self) -> set[str]:
        """What is asked for."""
        return set() if self._subscription is None else self._subscription.wanted

    def _time_left(self) -> float | None:
        if self._deadline is None:
            return None
        return max(0.0, self._began_at + self._deadline - self._clock.now())

    def _observe(self, seen: Observation[StateT]) -> None:
        id_ = self._ids.get(seen.id, seen.id)
        known = self._known.get(id_)
        if self._is_over or (known is not None and known.is_over and not self._everything):
            return
        if id_ in self._in_trouble and (seen.error is None or seen.is_missing):
            self._in_trouble.discard(id_)
            self._tell(ChangeKind.RECOVERED, id_)
        if seen.state is not None:
            self.last_state = seen.state
            self._observe_state(id_, seen.state, known)
        elif seen.is_missing:
            self._observe_absence(id_, seen, known)
        else:
            self._last_error = seen.error
            if id_ not in self._in_trouble:
                self._in_trouble.add(id_)
                self._tell(ChangeKind.TROUBLE, id_, error=seen.error)

    def _observe_state(self, id_: str, state: StateT, known: _Known | None) -> None:
        before = self._after.get(id_)
        is_old = before is not None and state.is_terminal and not self._is_newer(state, before)
        status, run = self._status_of(state), self._run_of(state)
        previous = None if known is None else known.status
        is_over = state.is_terminal and not is_old
        if known is not None and (status, run, is_over) == (known.status, known.run, known.is_over):
            known.tick = self._tick
            if is_over:
                self._wanted.discard(id_)
            return
        if known is not None and known.run != run and known.run is not None:
            self._tell(ChangeKind.NEW_RUN, id_, previous=previous, state=state)
        self._remember(id_, _Known(status, run, self._clock.now(), is_over, self._tick), known)
        if not is_old:
            self._tell(
                ChangeKind.STATUS,
                id_,
                previous=previous,
                current=status,
                final=is_over,
                state=state,
            )

    def _observe_absence(self, id_: str, seen: Observation[StateT], known: _Known | None) -> None:
        if known is not None and known.status is None and known.is_over:
            return
        previous = None if known is None else known.status
        self._remember(id_, _Known(None, None, self._clock.now(), is_over=True), known)
        was_over = known is not None and known.is_over
        self._tell(ChangeKind.MISSING, id_, previous=previous, final=not was_over, error=seen.error)

    def _remember(self, id_: str, now: _Known, before: _Known | None) -> None:
        if before is not None:
            self._count(before, -1)
        self._count(now, 1)
        if now.is_over and not self._everything:  # then nothing of it but the status is needed
            now = self._ends.setdefault(now.status, now)
        self._known[id_] = now
        wanted = self._wanted
        if now.is_over:
            self._endings.append(self._clock.now())
            self._after.pop(id_, None)
            wanted.discard(id_)
        else:
            wanted.add(id_)
        if not (self._everything or self._stays_open or wanted):
            self.stop()

    def _count(self, known: _Known, step: int) -> None:
        status = known.status or "missing"
        self._counts[status] += step
        if not self._counts[status]:
            del self._counts[status]
        self._finished += step * (known.is_over and known.status is not None)
        self._missing += step * (known.status is None)

    def _tell(
        self,
        kind: ChangeKind,
        id_: str,
        *,
        previous: str | None = None,
        current: str | None = None,
        final: bool = False,
        state: StateT | None = None,
        error: KnowledgeStackError | None = None,
    ) -> None:
        self._pending.add(
            kind, id_, previous=previous, current=current, final=final, state=state, error=error
        )
        self._news.set()
