"""Changes of many things as they happen: each told once, merged while nobody looks."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

import attrs
import msgspec

from ._checks import check_seconds
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


class ChangeKind(StrEnum):
    """What a ``StatusChange`` tells."""

    STATUS = "status"
    """Its status is another one, or is seen for the first time."""
    NEW_RUN = "new_run"
    """It was started again; the states from here on are of another run."""
    MISSING = "missing"
    """There is no such thing, or not any more."""
    TROUBLE = "trouble"
    """It, or everything if there is no id, can't be looked up now; the watch goes on."""
    RECOVERED = "recovered"
    """Everything can be looked up again."""


@attrs.frozen(kw_only=True)
class StatusChange(Generic[StateT]):
    """One change that was seen.

    Attributes:
        kind: What it tells.
        workflow_id: Whose; empty where all are meant.
        previous: The status before; None at first sight.
        current: The status now; None where it is missing or unknown.
        is_final: Whether it is over with this.
        seen_at: When it was seen, by this machine's clock.
        state: What was read.
        error: What went wrong, for ``missing`` and ``trouble``.
        merged: How many changes in between were left out because nobody was looking.
    """

    kind: ChangeKind
    workflow_id: str = ""
    previous: str | None = None
    current: str | None = None
    is_final: bool = False
    seen_at: datetime
    state: StateT | None = None
    error: KnowledgeStackError | None = None
    merged: int = 0


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


class Watch(Generic[StateT]):
    """The changes of some things, or of everything there is, until all are over or it is left.

    Use it with ``async with``, and iterate with ``async for``.
    """

    STALLED_AFTER = 600.0
    RATE_WINDOW = 60.0

    def __init__(
        self,
        poller: Callable[[], Poller[StateT]],
        ids: Iterable[str] | None,
        *,
        clock: Clock,
        status_of: Callable[[StateT], str],
        run_of: Callable[[StateT], Any],
        deadline: float | None = None,
        pace: Pace | None = None,
        after: Mapping[str, Any] | None = None,
        is_newer: Callable[[StateT, Any], bool] = lambda _current, _before: True,
        stays_open: bool = False,
    ) -> None:
        if deadline is not None:
            check_seconds(deadline, "deadline")
        self._make_poller = poller
        self._everything = ids is None
        self._ids = dict.fromkeys(ids or ())
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
        self._counts: Counter[str] = Counter()
        self._finished = 0
        self._missing = 0
        self._endings: deque[float] = deque()
        self._pending: dict[tuple[str, ChangeKind], StatusChange[StateT]] = {}
        self._news = asyncio.Event()
        self._trouble: KnowledgeStackError | None = None
        self._in_trouble: set[str] = set()
        self._last_error: KnowledgeStackError | None = None
        self._is_over = False
        self._has_looked = False
        self.timed_out: bool = False
        self.last_state: StateT | None = None

    async def __aenter__(self) -> Self:
        self._began_at = self._clock.now()
        self._poller = self._make_poller()
        self._is_over = not self._everything and not self._ids and not self._stays_open
        if not self._is_over:
            self._subscription = self._poller.subscribe(
                self._ids, self._observe, self._end_tick, self._pace, everything=self._everything
            )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StatusChange[StateT]:
        if self._poller is None:
            raise SessionError("use a watch with 'async with', and iterate inside of it")
        while not self._pending:
            if self._is_over:
                raise StopAsyncIteration
            self._news.clear()
            if (
                not await self._wait_for_news()
            ):  # pragma: no cover - run by a test of a silent server,
                self.timed_out = True  # but Python 3.11 doesn't trace what follows a timeout here
                self._stop()
        return self._pending.pop(next(iter(self._pending)))

    async def _wait_for_news(self) -> bool:
        try:
            async with self._clock.timeout(self._time_left()):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    def add(self, id_: str, after: Any = None) -> None:
        """Watch one more from now on; for watches that stay open."""
        self._ids[id_] = None
        if after is not None:
            self._after[id_] = after
        if self._subscription is not None:
            self._subscription.wanted.add(id_)

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

    def _stop(self) -> None:
        self._is_over = True
        if self._poller is not None and self._subscription is not None:
            self._poller.unsubscribe(self._subscription)
        self._news.set()

    def _end_tick(self, trouble: KnowledgeStackError | None) -> None:
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
            self._stop()

    def _time_left(self) -> float | None:
        if self._deadline is None:
            return None
        return max(0.0, self._began_at + self._deadline - self._clock.now())

    def _observe(self, seen: Observation[StateT]) -> None:
        known = self._known.get(seen.id)
        if self._is_over or (known is not None and known.is_over and not self._everything):
            return
        if seen.error is None or seen.is_missing:
            self._in_trouble.discard(seen.id)
        if seen.state is not None:
            self.last_state = seen.state
            self._observe_state(seen.id, seen.state, known)
        elif seen.is_missing:
            self._observe_absence(seen, known)
        else:
            self._last_error = seen.error
            if seen.id not in self._in_trouble:
                self._in_trouble.add(seen.id)
                self._tell(ChangeKind.TROUBLE, seen.id, error=seen.error)

    def _observe_state(self, id_: str, state: StateT, known: _Known | None) -> None:
        before = self._after.get(id_)
        is_old = before is not None and state.is_terminal and not self._is_newer(state, before)
        status, run = self._status_of(state), self._run_of(state)
        previous = None if known is None else known.status
        is_over = state.is_terminal and not is_old
        if known is not None and (status, run, is_over) == (known.status, known.run, known.is_over):
            return
        if known is not None and known.run != run and known.run is not None:
            self._tell(ChangeKind.NEW_RUN, id_, previous=previous, state=state)
        self._remember(id_, _Known(status, run, self._clock.now(), is_over), known)
        if not is_old:
            self._tell(
                ChangeKind.STATUS,
                id_,
                previous=previous,
                current=status,
                final=is_over,
                state=state,
            )

    def _observe_absence(self, seen: Observation[StateT], known: _Known | None) -> None:
        if known is not None and known.status is None and known.is_over:
            return
        previous = None if known is None else known.status
        self._remember(seen.id, _Known(None, None, self._clock.now(), is_over=True), known)
        self._tell(ChangeKind.MISSING, seen.id, previous=previous, final=True, error=seen.error)

    def _remember(self, id_: str, now: _Known, before: _Known | None) -> None:
        for known, step in ((before, -1), (now, 1)):
            if known is not None:
                status = known.status or "missing"
                self._counts[status] += step
                if not self._counts[status]:
                    del self._counts[status]
                self._finished += step * (known.is_over and known.status is not None)
                self._missing += step * (known.status is None)
        self._known[id_] = now
        wanted = set[str]() if self._subscription is None else self._subscription.wanted
        if now.is_over:
            self._endings.append(self._clock.now())
            self._after.pop(id_, None)
            wanted.discard(id_)
        else:
            wanted.add(id_)
        if not (self._everything or self._stays_open or wanted):
            self._stop()

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
        waiting = self._pending.pop((id_, kind), None)
        self._pending[id_, kind] = StatusChange(
            kind=kind,
            workflow_id=id_,
            previous=previous if waiting is None else waiting.previous,
            current=current,
            is_final=final,
            seen_at=datetime.now(UTC),
            state=state,
            error=error,
            merged=0 if waiting is None else waiting.merged + 1,
        )
        self._news.set()
