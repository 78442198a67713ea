"""What is claimed for sending: as much as there is room for, at the pace that was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from math import inf
from operator import attrgetter

from ._clock import Clock, Interruption
from ._journal import ItemState, Journal, JournalItem
from ._rerun_breaker import Breaker
from ._rerun_settings import RerunSettings
from ._wire import Withdrawn

__all__ = ["BULK_STATUSES", "Parcel", "Supply"]

BULK_STATUSES = frozenset({"failed", "cancelled", "quota_limit"})
"""What a bulk rerun takes as a single one does: completed ones are refused there."""


class Parcel(Interruption):
    """What goes out in one request, and the permit to send it.

    Attributes:
        items: One, or several in a bulk rerun.
        in_bulk: Whether it is a bulk rerun.
        since: Since when it is on its way; infinite while it isn't.
        was_sent: Whether it ever was.
        is_lost: Whether another one has its place, for no answer is expected any more.
    """

    ends_with = Withdrawn
    __slots__ = ("_supply", "in_bulk", "is_lost", "items", "since", "was_sent")

    def __init__(self, items: Sequence[JournalItem], supply: Supply, *, in_bulk: bool) -> None:
        self.items = items
        self.in_bulk = in_bulk
        self.since = inf
        self.was_sent = self.is_lost = False
        self._supply = supply

    def may_send(self) -> bool:
        """Whether it may be sent now; it is on its way from now on."""
        if self.is_lost or self._supply.holds_all:
            return False
        self.since = self._supply.sent_at()
        self.was_sent = True
        return True

    def __enter__(self) -> None:
        if self.is_lost or self._supply.is_stopped:
            raise Withdrawn
        self.since = inf
        super().__enter__()


class Supply:
    """Claims the planned items of a journal, and hands them out in parcels, first come, first served.

    As many as may be sent at a time are claimed ahead, so that writing down and sending don't wait for
    each other; not where there is a rate, which would be exceeded then.

    Args:
        journal: Where the items are.
        breaker: Whether anything may be sent.
        clock: Where time comes from.
        settings: At which pace.
        bulk_limit: How many go in one bulk rerun; None if none do.

    Attributes:
        running: How many workflows may be running.
    """

    BULK_AT_A_TIME = 2
    PACE, BULK_PACE = 0.05, 1.0
    """With a rate, no more are claimed at once than are due in so many seconds."""
    MOST_UNTOLD = 1000
    """Where so many have their outcome that nobody read yet, no more are claimed."""

    def __init__(
        self,
        journal: Journal,
        breaker: Breaker,
        clock: Clock,
        settings: RerunSettings,
        *,
        bulk_limit: Callable[[], int | None],
    ) -> None:
        self._journal = journal
        self._breaker = breaker
        self._clock = clock
        self._bulk_limit = bulk_limit
        self._rate = settings.rate
        self._most_open = settings.concurrency * (2 if settings.rate is None else 1)
        self._most_running = settings.max_in_flight
        self._next_at = -inf
        self._ready: asyncio.Queue[Parcel] = asyncio.Queue()
        self._open: set[Parcel] = set()
        self._in_hand = 0
        self._untold = 0
        self._left: int | None = None
        self._has_more = True
        self._singly: set[str] = set()
        self._changed = asyncio.Event()
        self.running = 0

    def started(self) -> None:
        """A workflow that an earlier go of the job started is running."""
        self.running += 1

    def ended(self) -> None:
        """A workflow that was started is over."""
        self.running -= 1
        self._changed.set()

    async def run(self, most: int | None) -> int:
        """Claim what is planned, or so many of it, until all of it is settled or the job is stopped.

        Returns:
            How many were sent, if it is told how many to send at most.
        """
        self._left, self._has_more = most, True
        while self._breaker.is_open or await self._breaker.may_go():
            self._changed.clear()
            room = self._room() if self._has_more else 0
            if room:
                await self._claim(room)
            elif self._in_hand or (self._left != 0 and await self._is_any_planned()):
                await self._changed.wait()
            else:
                break
        while self._in_hand:
            self._changed.clear()
            await self._changed.wait()
        return (most or 0) - (self._left or 0)

    async def _is_any_planned(self) -> bool:
        """Whether it is worth waiting for room; where all may run that may, claiming doesn't tell."""
        return self._has_more and ItemState.PLANNED in await self._journal.counts()

    @property
    def holds_all(self) -> bool:
        """Whether nothing may be sent now."""
        return self._breaker.holds_all

    @property
    def is_stopped(self) -> bool:
        """Whether nothing may be sent any more."""
        return self._breaker.stopped_by is not None

    def now(self) -> float:
        """What time it is."""
        return self._clock.now()

    def sent_at(self) -> float:
        """What time it is for a parcel that is sent now."""
        self._changed.set()
        return self._clock.now()

    async def take(self) -> Parcel:
        """The next parcel; waits for one."""
        return await self._ready.get()

    def give_back(self, parcel: Parcel) -> bool:
        """It was answered: there is room for another; False if it was written off before."""
        self._open.discard(parcel)
        self._changed.set()
        return not parcel.is_lost

    def send_singly(self, items: Iterable[JournalItem]) -> None:
        """These can't go in a bulk rerun, now or later."""
        for item in items:
            self._singly.add(item.workflow_id)
            self._hand_out([item], in_bulk=False)

    def written(self, count: int) -> None:
        """Where so many items are now is written down, and to be told."""
        self._untold += count

    def settled(self, item: JournalItem, *, may_be_running: bool) -> None:
        """It is told where an item is now; planned again, it will be claimed again."""
        self._in_hand -= 1
        self._untold -= 1
        if item.state is ItemState.PLANNED:
            self._has_more = True
            if self._left is not None:
                self._left += 1
        if not may_be_running:
            self.running -= 1
        self._changed.set()

    def write_off(self, before: float, most: int | None) -> int:
        """What is on its way since before then, the oldest first, leaves its place to others.

        Returns:
            How many these are.
        """
        old = sorted((one for one in self._open if one.since < before), key=attrgetter("since"))
        lost = old[:most]
        for parcel in lost:
            parcel.is_lost = True
        self._open.difference_update(lost)
        self._changed.set()
        return len(lost)

    def stop(self) -> None:
        """The job is stopped: what waits before it is sent is withdrawn."""
        for parcel in self._open:
            parcel.interrupt()
        self._changed.set()

    def _room(self) -> int:
        """How many items may be claimed now."""
        bulk = self._bulk_limit()
        most = self._most_open - len(self._open)
        if bulk:
            in_bulk = sum(parcel.in_bulk for parcel in self._open)
            most = bulk if most > 0 and in_bulk < self.BULK_AT_A_TIME else 0
        if self._rate is not None:
            is_any_waiting = not all(parcel.was_sent for parcel in self._open)
            # Not more at once than are due in so long: neither now, nor after a pause that they waited for.
            due = int(self._rate * (self.BULK_PACE if bulk else self.PACE))
            most = 0 if is_any_waiting else min(most, max(1, due))
        if self._left is not None:
            most = min(most, self._left)
        if self._most_running is not None:
            most = min(most, self._most_running - self.running)
        return max(0, most) if self._untold < self.MOST_UNTOLD else 0

    async def _claim(self, most: int) -> None:
        """Take planned items when their time has come; only those that there are take time."""
        if self._rate is not None:
            await self._breaker.sleep(self._next_at - self._clock.now())
            if not await self._breaker.may_go():
                return
        self._has_more = False  # unless one is planned again meanwhile
        items = await self._journal.claim(most)
        if self._rate is not None:
            self._next_at = max(self._next_at, self._clock.now()) + len(items) / self._rate
        if items:
            self._has_more = True
            self._take_in(items)

    def _take_in(self, items: Sequence[JournalItem]) -> None:
        self._in_hand += len(items)
        self.running += len(items)
        if self._left is not None:
            self._left -= len(items)
        has_bulk = self._bulk_limit() is not None
        together = [item for item in items if has_bulk and self._goes_in_bulk(item)]
        if together:
            self._hand_out(together, in_bulk=True)
        for item in items:
            if not (has_bulk and self._goes_in_bulk(item)):
                self._hand_out([item], in_bulk=False)

    def _hand_out(self, items: Sequence[JournalItem], *, in_bulk: bool) -> None:
        parcel = Parcel(items, self, in_bulk=in_bulk)
        self._open.add(parcel)
        self._ready.put_nowait(parcel)

    def _goes_in_bulk(self, item: JournalItem) -> bool:
        """Whether a bulk rerun means the same for it as a single one."""
        baseline = item.baseline
        return (
            baseline is not None
            and baseline.document_version_id is not None
            and baseline.status in BULK_STATUSES
            and item.workflow_id not in self._singly
        )
