"""Sending what is planned: claimed, marked, sent, written down."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from ._clock import Clock
from ._journal import ItemState, Journal, JournalItem
from ._places import Place, Places
from ._rerun_breaker import Breaker
from ._upstream import Accepted, BulkAnswer, Upstream
from ._wire import Withdrawn
from .errors import (
    BadRequest,
    ConfigurationError,
    ConnectionFailed,
    CredentialError,
    DeadlineExceeded,
    KnowledgeStackError,
    NotFound,
    OutcomeUnknown,
    QuotaExceeded,
    RequestError,
    ResponseError,
    ServiceUnavailable,
    SessionError,
    TooManyRequests,
    Unauthorized,
    UnprocessableEntity,
)

__all__ = ["Sender"]

BULK_STATUSES = frozenset({"failed", "cancelled", "quota_limit"})
"""What a bulk rerun takes as a single one does: completed ones are refused there."""


class Sender:
    """Sends the planned items of a journal.

    Args:
        journal: Where they are.
        upstream: What to call.
        breaker: Whether it may go on.
        clock: Where time comes from.
        concurrency: How many single reruns are on their way at a time.
        rate: The most reruns a second.
        most_running: The most workflows that may be running on the server's side.
        follows: Whether somebody says when they end.
        on_done: Told each item with its outcome.
    """

    BULK_AT_A_TIME = 2

    def __init__(
        self,
        journal: Journal,
        upstream: Upstream,
        breaker: Breaker,
        clock: Clock,
        *,
        concurrency: int,
        rate: float | None,
        most_running: int | None,
        follows: bool,
        on_done: Callable[[JournalItem], Awaitable[None]],
    ) -> None:
        self._journal = journal
        self._upstream = upstream
        self._breaker = breaker
        self._clock = clock
        self._concurrency = concurrency
        self._rate = rate
        self._most_running = most_running
        self._follows = follows
        self._on_done = on_done
        self._places = Places(concurrency)
        self._bulk_places = Places(self.BULK_AT_A_TIME)
        self._changed = asyncio.Event()
        breaker.on_stop = self._changed.set
        breaker.on_lost = self._write_off
        self._pace = asyncio.Lock()
        self._next_at = float("-inf")
        self._reserved = 0
        self._sending = 0
        self._left: int | None = None
        self._singly: set[str] = set()
        self._workers = self._wanted = 0
        self.running = 0

    def started(self) -> None:
        """A workflow that an earlier go of the job started is running."""
        self.running += 1

    def ended(self) -> None:
        """A workflow that was started is over."""
        self.running -= 1
        self._changed.set()

    async def send(self, most: int | None = None) -> int:
        """Send what is planned, or so many of it, until none is left or it is stopped.

        There are twice as many workers as may send at a time, so that writing down and sending don't
        wait for each other.

        Returns:
            How many were sent, if it is told how many to send at most.
        """
        self._left = most
        self._workers = self._wanted = 0
        async with asyncio.TaskGroup() as self._group:
            self._add_workers(2 * self._concurrency)
        return (most or 0) - (self._left or 0)

    def _add_workers(self, count: int) -> None:
        self._wanted += count
        self._workers += count
        for _ in range(count):
            self._group.create_task(self._work())

    def _write_off(self, before: float, most: int | None) -> None:
        """What is on its way since before then will hardly be answered: others go in its place."""
        lost = (places.write_off(before, most) for places in (self._places, self._bulk_places))
        self._add_workers(sum(lost))

    def _give_back(self, places: Places, place: Place) -> None:
        """One that was written off has somebody else in its place, who is one too many now."""
        self._wanted -= not places.give_back(place)

    async def _work(self) -> None:
        while self._breaker.is_open or await self._breaker.may_go():
            if self._workers > self._wanted or not await self._take_turn():
                break
        self._workers -= 1

    async def _take_turn(self) -> bool:
        """Send something, or wait for a change; False where there won't be anything to send any more."""
        bulk = self._upstream.bulk_limit
        found = await (self._send_in_bulk_place(bulk) if bulk else self._send_some(1))
        if found:
            return True
        # Nothing is planned any more, and nobody has anything in hand that could be again.
        if self._sending == 0 and (found is False or self._left == 0):
            self._changed.set()
            return False
        if self._breaker.stopped_by is None:
            self._changed.clear()
            await self._changed.wait()
        return True

    async def _send_in_bulk_place(self, most: int) -> bool | None:
        place = await self._bulk_places.take()
        try:
            if not await self._breaker.may_go():
                return None
            return await self._send_some(most, place)
        finally:
            self._give_back(self._bulk_places, place)

    async def _send_some(self, most: int, bulk_place: Place | None = None) -> bool | None:
        """Whether there was something to send; None if there is no room for it now."""
        room = self._room(most)
        return await self._claim_and_send(room, bulk_place) > 0 if room else None

    def _room(self, most: int) -> int:
        """How many items may be claimed now."""
        if self._rate is not None:
            most = min(most, max(1, int(self._rate)))  # not more than a second's at once
        if self._left is not None:
            most = min(most, self._left - self._reserved)
        if self._most_running is not None:
            most = min(most, self._most_running - self.running - self._reserved)
        return max(0, most)

    async def _claim_and_send(self, room: int, bulk_place: Place | None) -> int:
        self._reserved += room
        try:
            items = await self._claim(room)
        finally:
            self._reserved -= room
        if items:
            self._count(len(items))
            self._sending += 1
            try:
                await self._send(items, bulk_place)
            finally:
                self._sending -= 1
                self._changed.set()
        return len(items)

    def _count(self, begun: int) -> None:
        self.running += begun
        if self._left is not None:
            self._left -= begun

    async def _claim(self, most: int) -> list[JournalItem]:
        """Take planned items when their time has come; only those that there are take time."""
        if self._rate is None:
            return await self._journal.claim(most)
        async with self._pace:
            wait = self._next_at - self._clock.now()
            if wait > 0:
                await self._wait_or_stop(wait)
            if not await self._breaker.may_go():
                return []
            items = await self._journal.claim(most)
            self._next_at = max(self._next_at, self._clock.now()) + len(items) / self._rate
            return items

    async def _wait_or_stop(self, seconds: float) -> None:
        waits = [
            asyncio.ensure_future(self._clock.sleep(seconds)),
            asyncio.ensure_future(self._breaker.wait_until_stopped()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()

    async def _send(self, items: Sequence[JournalItem], bulk_place: Place | None) -> None:
        if bulk_place is None:
            await self._send_each(items)
            return
        together = [item for item in items if self._goes_in_bulk(item)]
        alone = [item for item in items if not self._goes_in_bulk(item)]
        if together:
            await self._send_bulk(together, bulk_place)
        await self._send_each(alone)

    async def _send_each(self, items: Sequence[JournalItem]) -> None:
        if len(items) == 1:
            await self._send_one(items[0])
            return
        async with asyncio.TaskGroup() as group:  # the first that can't be written down ends all
            for item in items:
                group.create_task(self._send_one(item))

    def _goes_in_bulk(self, item: JournalItem) -> bool:
        """Whether a bulk rerun means the same for it as a single one."""
        baseline = item.baseline
        return (
            baseline is not None
            and baseline.document_version_id is not None
            and baseline.status in BULK_STATUSES
            and item.workflow_id not in self._singly
        )

    async def _send_one(self, item: JournalItem) -> None:
        place = await self._places.take()
        try:
            accepted = await self._rerun(item, place)
        except Withdrawn as withdrawn:
            await self._put_back([item], withdrawn.tries)
            return
        except KnowledgeStackError as error:
            await self._conclude([item], error, place.since)
            return
        self._breaker.succeeded(place.since)
        tries, request_id = item.tries - 1 + accepted.tries, accepted.request_id
        await self._settle(
            [msgspec.structs.replace(item, tries=tries, request_id=request_id, **_ACCEPTED)]
        )

    async def _put_back(self, items: Sequence[JournalItem], tries: int) -> None:
        """They were refused so often, and not sent again: somebody takes them, if the job goes on."""
        back = {"state": ItemState.PLANNED}
        await self._settle(
            [msgspec.structs.replace(item, tries=item.tries - 1 + tries, **back) for item in items]
        )

    def _may_send(self, place: Place) -> bool:
        """Whether what has that place may be sent now; it is on its way from now on."""
        if self._breaker.holds_all:
            return False
        place.since = self._clock.now()
        return True

    async def _rerun(self, item: JournalItem, place: Place) -> Accepted:
        """Rerun one in that place, unless the job is paused or stopped before it is sent."""
        try:
            if self._breaker.holds_all and not await self._breaker.may_go():
                raise Withdrawn(0)
            return await self._upstream.rerun(item.workflow_id, partial(self._may_send, place))
        finally:
            self._give_back(self._places, place)

    async def _send_bulk(self, items: Sequence[JournalItem], place: Place) -> None:
        versions: dict[str, list[JournalItem]] = {}
        for item in items:
            versions.setdefault(_version(item), []).append(item)
        try:
            answer = await self._upstream.rerun_many(list(versions), partial(self._may_send, place))
        except (BadRequest, UnprocessableEntity, NotFound):
            # Nothing acted: one of them can't be in a bulk rerun, or the server has none after all.
            self._singly |= {item.workflow_id for item in items}
            await self._send_each(items)
        except Withdrawn as withdrawn:
            await self._put_back(items, withdrawn.tries)
        except KnowledgeStackError as error:
            await self._conclude(items, error, place.since)
        else:
            self._breaker.succeeded(place.since)
            settled = [
                _in_bulk(item, version, answer)
                for version in versions
                for item in versions[version]
            ]
            await self._settle(settled)

    async def _conclude(
        self, items: Sequence[JournalItem], error: KnowledgeStackError, since: float
    ) -> None:
        """Write down what an error means for the items that it came for, which were sent then."""
        state = _state_after(error)
        tries, code, reason = 1, None, str(error)
        if isinstance(error, RequestError):
            tries, reason = error.tries, error.message
            code = error.code or (str(error.status) if error.status else None)
        concluded = [
            msgspec.structs.replace(
                item,
                state=state,
                tries=item.tries - 1 + tries,
                request_id=getattr(error, "request_id", None),
                code=code,
                error=reason,
            )
            for item in items
        ]
        if isinstance(error, QuotaExceeded):
            self._breaker.stop("a quota is used up")
        elif isinstance(error, Unauthorized | SessionError):
            self._breaker.stop(str(error))
        if state in {ItemState.PLANNED, ItemState.UNKNOWN}:
            is_away = isinstance(error, ConnectionFailed | CredentialError)
            is_away = is_away or self._upstream.is_exhausted
            self._breaker.failed(reason, count=len(items), since=since, is_away=is_away)
        await self._settle(concluded)

    async def _settle(self, items: Sequence[JournalItem]) -> None:
        """Write down where items are now, and tell of those that have their outcome."""
        await self._journal.update(items)
        for item in items:
            if item.state is ItemState.PLANNED:
                self._count(-1)
            elif not self._may_be_running(item):
                self.running -= 1
            if item.state is not ItemState.PLANNED:
                await self._on_done(item)
        self._changed.set()

    def _may_be_running(self, item: JournalItem) -> bool:
        """Whether somebody will say when it is over."""
        if item.state is ItemState.UNKNOWN:
            return self._most_running is not None
        return item.state is ItemState.ACCEPTED and self._follows


_ACCEPTED: Mapping[str, Any] = {"state": ItemState.ACCEPTED, "code": None, "error": None}


def _version(item: JournalItem) -> str:
    version = None if item.baseline is None else item.baseline.document_version_id
    return version or item.workflow_id


def _in_bulk(item: JournalItem, version_id: str, answer: BulkAnswer) -> JournalItem:
    told = msgspec.structs.replace(item, request_id=answer.request_id)
    if version_id in answer.succeeded:
        return msgspec.structs.replace(told, **_ACCEPTED)
    reason = answer.failed.get(version_id)
    if reason is not None:
        return msgspec.structs.replace(told, state=ItemState.REFUSED, code=reason, error=reason)
    unknown = "the answer to the bulk rerun doesn't name it"
    return msgspec.structs.replace(told, state=ItemState.UNKNOWN, error=unknown)


def _state_after(error: KnowledgeStackError) -> ItemState:
    """Where an error leaves an item."""
    if isinstance(error, OutcomeUnknown):
        return ItemState.UNKNOWN
    if isinstance(error, TooManyRequests | ServiceUnavailable | Unauthorized):
        return ItemState.PLANNED
    if isinstance(error, ConnectionFailed | CredentialError | DeadlineExceeded | SessionError):
        return ItemState.PLANNED
    if isinstance(error, ConfigurationError):
        return ItemState.FAILED
    return ItemState.REFUSED if isinstance(error, ResponseError) else ItemState.UNKNOWN
