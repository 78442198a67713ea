"""Sending what is planned: claimed, marked, sent, written down."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from ._journal import ItemState, Journal, JournalItem
from ._rerun_breaker import Breaker
from ._rerun_settings import RerunSettings
from ._rerun_supply import Parcel, Supply
from ._upstream import BulkAnswer, Upstream
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


class _UnnamedMisses:
    """404s that name nothing: whether waiting may help."""

    MOST = 12
    """How often one item may get one while others are accepted; then this item can't be sent."""
    LONGEST = 300.0
    """Seconds for which a job waits where nothing is accepted for such 404s."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._passed = 0
        self._met: dict[str, tuple[int, int]] = {}

    def passed(self) -> None:
        """A rerun was answered by the service."""
        self._since, self._passed = None, self._passed + 1

    def met(self, workflow_id: str) -> bool:
        """An item got one; whether it will get no other answer, for others did meanwhile."""
        times, passed = self._met.get(workflow_id, (0, self._passed))
        self._met[workflow_id] = times + 1, passed
        return times + 1 >= self.MOST and self._passed > passed

    def is_final(self, now: float) -> bool:
        """Whether there was nothing else for too long."""
        self._since = now if self._since is None else self._since
        return now - self._since >= self.LONGEST


class Sender:
    """Sends what is claimed from a journal, and writes down what came of it.

    Args:
        journal: Where the items are.
        upstream: What to call.
        breaker: Whether it may go on.
        supply: Where they come from.
        settings: How many requests are on their way at a time, and what is followed.
        on_done: Told each item with its outcome.
    """

    def __init__(
        self,
        journal: Journal,
        upstream: Upstream,
        breaker: Breaker,
        supply: Supply,
        settings: RerunSettings,
        *,
        on_done: Callable[[JournalItem], Awaitable[None]],
    ) -> None:
        self._journal = journal
        self._upstream = upstream
        self._breaker = breaker
        self._supply = supply
        self._settings = settings
        self._on_done = on_done
        self._answers: asyncio.Queue[Sequence[JournalItem]] = asyncio.Queue(settings.concurrency)
        self._written: asyncio.Queue[Sequence[JournalItem]] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._misses = _UnnamedMisses()
        breaker.on_lost = self._write_off

    async def send(self, most: int | None = None) -> int:
        """Send what is planned, or so many of it, until none is left or it is stopped.

        Returns:
            How many were sent, if it is told how many to send at most.
        """
        self._tasks.clear()
        async with asyncio.TaskGroup() as self._group:
            for work in (self._write_down(), self._tell()):
                self._tasks.add(self._group.create_task(work))
            self._add_workers(self._settings.concurrency)
            sent = await self._supply.run(most)
            for task in self._tasks:
                task.cancel()
        return sent

    def _add_workers(self, count: int) -> None:
        self._tasks.update(self._group.create_task(self._work()) for _ in range(count))

    def _write_off(self, before: float, most: int | None) -> None:
        """What is on its way since before then will hardly be answered: others go in its place."""
        self._add_workers(self._supply.write_off(before, most))

    async def _work(self) -> None:
        """Send one after the other; one that was written off has somebody else in its place."""
        has_place = True
        while has_place:
            parcel = await self._supply.take()
            came = await self._send(parcel)
            has_place = self._supply.give_back(parcel)
            await self._answers.put(came)

    async def _write_down(self) -> None:
        """Write down where items are now, whoever is told of it how late."""
        while True:
            items = [*await self._answers.get()]
            while not self._answers.empty():
                items += self._answers.get_nowait()
            await self._journal.update(items)
            self._supply.written(len(items))
            self._written.put_nowait(items)

    async def _tell(self) -> None:
        """Tell of those that have their outcome."""
        while True:
            for item in await self._written.get():
                if item.state is not ItemState.PLANNED:
                    await self._on_done(item)
                self._supply.settled(item, may_be_running=self._settings.says_when_over(item.state))

    async def _send(self, parcel: Parcel) -> Sequence[JournalItem]:
        """Send something, unless the job is paused or stopped before; gives what came of it."""
        if self._breaker.holds_all and not await self._breaker.may_go():
            return _put_back(parcel.items, 0)
        try:
            return await (self._send_bulk if parcel.in_bulk else self._send_one)(parcel)
        except Withdrawn as withdrawn:
            return _put_back(parcel.items, withdrawn.tries)
        except KnowledgeStackError as error:
            return self._conclude(parcel.items, error, parcel.since)

    async def _send_one(self, parcel: Parcel) -> Sequence[JournalItem]:
        [item] = parcel.items
        accepted = await self._upstream.rerun(item.workflow_id, parcel)
        self._breaker.succeeded(parcel.since)
        self._misses.passed()
        tries, request_id = item.tries - 1 + accepted.tries, accepted.request_id
        return [msgspec.structs.replace(item, tries=tries, request_id=request_id, **_ACCEPTED)]

    async def _send_bulk(self, parcel: Parcel) -> Sequence[JournalItem]:
        versions: dict[str, list[JournalItem]] = {}
        for item in parcel.items:
            versions.setdefault(_version(item), []).append(item)
        try:
            answer = await self._upstream.rerun_many(list(versions), parcel)
        except (BadRequest, UnprocessableEntity, NotFound) as error:
            if isinstance(error, NotFound) and (error.names_it or error.lacks_route):
                self._upstream.lacks_bulk()
            # Nothing acted: one of them can't be in a bulk rerun, the server has none after all, or a
            # proxy answered, which the single ones will meet if it is in their way, too.
            self._supply.send_singly(parcel.items)
            return []
        self._breaker.succeeded(parcel.since)
        self._misses.passed()
        return [
            _in_bulk(item, version, answer) for version in versions for item in versions[version]
        ]

    def _conclude(
        self, items: Sequence[JournalItem], error: KnowledgeStackError, since: float
    ) -> Sequence[JournalItem]:
        """What an error means for the items that it came for, which were sent then."""
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
        elif isinstance(error, NotFound) and not error.names_it:
            return self._conclude_unnamed(concluded, error, since)
        if state in {ItemState.PLANNED, ItemState.UNKNOWN}:
            unsent = ConnectionFailed | CredentialError | DeadlineExceeded
            is_away = isinstance(error, unsent | NotFound) or self._upstream.is_exhausted
            self._breaker.failed(reason, since=since, in_bulk=len(items) > 1, is_away=is_away)
        return concluded

    def _conclude_unnamed(
        self, items: Sequence[JournalItem], error: NotFound, since: float
    ) -> Sequence[JournalItem]:
        """A 404 that names nothing: the items wait for another answer, unless none is expected."""
        if self._misses.is_final(self._supply.now()):
            self._breaker.stop(f"the server doesn't know the route: {error}")
            return items
        met = [(item, self._misses.met(item.workflow_id)) for item in items]
        self._breaker.failed(error.message, since=since, in_bulk=len(items) > 1, is_away=True)
        failed = {"state": ItemState.FAILED}
        return [msgspec.structs.replace(item, **failed) if always else item for item, always in met]


_ACCEPTED: Mapping[str, Any] = {"state": ItemState.ACCEPTED, "code": None, "error": None}


def _put_back(items: Sequence[JournalItem], tries: int) -> Sequence[JournalItem]:
    """They were refused so often, and not sent again: somebody takes them, if the job goes on."""
    back = {"state": ItemState.PLANNED}
    return [msgspec.structs.replace(item, tries=item.tries - 1 + tries, **back) for item in items]


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
    if isinstance(error, NotFound) and not error.names_it:
        return ItemState.PLANNED  # a proxy's, or another pod's, which did nothing
    return ItemState.REFUSED if isinstance(error, ResponseError) else ItemState.UNKNOWN
