"""Before anything is sent: the targets written down, what they were like, and what a crash left open."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import TypeAlias, TypeVar
from uuid import UUID

import msgspec

from ._baseline import Baseline
from ._clock import Clock
from ._journal import ItemState, Journal, JournalItem
from ._poller import run_bounded
from ._upstream import Upstream
from .errors import (
    ConnectionFailed,
    ConnectionLost,
    CredentialError,
    DeadlineExceeded,
    InvalidResponse,
    NotFound,
    QuotaExceeded,
    RequestError,
    ServerError,
    TooManyRequests,
    Unauthorized,
)
from .models import WorkflowSummaryResponse

__all__ = ["Source", "plan", "renew", "settle"]

T = TypeVar("T")
Target: TypeAlias = str | UUID | WorkflowSummaryResponse
Source: TypeAlias = Iterable[Target] | AsyncIterable[Target]

CHUNK = 1000
PAGE = 100

IsNewer = Callable[[WorkflowSummaryResponse, Baseline], bool]

Pause = Callable[[str], Awaitable[bool]]
"""Waits until the server answers again; False where waiting is of no use."""

ROUNDS = 10
"""So often what fails is read again, once the server answers."""

_MAY_PASS = (
    ConnectionFailed,
    ConnectionLost,
    CredentialError,
    DeadlineExceeded,
    InvalidResponse,
    NotFound,
    ServerError,
    TooManyRequests,
)
"""What may pass; a 404 only if it names nothing, for then it may be a proxy's."""


def is_missing(error: Exception) -> bool:
    """Whether the API says of an ingestion that there is none."""
    return isinstance(error, NotFound) and error.names_it


async def plan(journal: Journal, upstream: Upstream, source: Source, pause: Pause) -> None:
    """Write every target down, with what it was like before.

    Raises:
        ConfigurationError: An id can't be one; nothing was sent.
        KnowledgeStackError: The targets, or what they are like, can't be read; nothing was sent.
    """
    await journal.clear()  # what an earlier call didn't get to the end of is no part of the job
    chunk: list[tuple[str, Baseline | None]] = []
    async for target in _each(source):
        if isinstance(target, WorkflowSummaryResponse):
            chunk.append((upstream.check(target.workflow_id), baseline_of(target)))
        else:
            chunk.append((upstream.check(target), None))
        if len(chunk) == CHUNK:
            await journal.add(chunk)
            chunk = []
    await journal.add(chunk)
    bare = {item.workflow_id async for item in journal.items() if item.baseline is None}
    await _find_baselines(bare, journal, upstream, pause)
    await journal.finish_planning()


async def renew(journal: Journal, upstream: Upstream, pause: Pause) -> None:
    """What a job that goes on has still to send, as it is now: somebody else may have rerun it since.

    Raises:
        KnowledgeStackError: It can't be read.
    """
    planned = {item.workflow_id async for item in journal.items(ItemState.PLANNED)}
    await _find_baselines(planned, journal, upstream, pause)


def baseline_of(summary: WorkflowSummaryResponse) -> Baseline:
    """What an ingestion is like now."""
    return Baseline(
        status=str(summary.status),
        last_run_timestamp=summary.last_run_timestamp,
        last_state_update_timestamp=summary.last_state_update_timestamp,
        run_id=getattr(summary, "run_id", None),
        document_version_id=summary.document_version_id,
    )


async def _each(source: Source) -> AsyncIterator[Target]:
    if isinstance(source, AsyncIterable):
        async for target in source:
            yield target
    else:
        for target in source:
            yield target


async def _patiently(read: Callable[[], Awaitable[T]], pause: Pause) -> T:
    """Read something in spite of noise and outages; what fails though the server answers comes up."""
    for _ in range(ROUNDS):
        try:
            return await read()
        except _MAY_PASS as error:
            is_final = isinstance(error, QuotaExceeded) or is_missing(error)
            if is_final or not await pause(error.message):
                raise
    return await read()


async def _find_baselines(
    bare: set[str], journal: Journal, upstream: Upstream, pause: Pause
) -> None:
    """By a sweep of the list where that costs less, else one by one."""
    if bare and len(bare) > await _patiently(upstream.count, pause) / PAGE:
        await _patiently(lambda: _sweep_baselines(journal, upstream, bare), pause)

    async def find(workflow_id: str) -> None:
        try:
            summary = await _patiently(lambda: upstream.read(workflow_id), pause)
        except NotFound as error:
            if not error.names_it:
                raise
            refused = JournalItem(
                workflow_id=workflow_id,
                state=ItemState.REFUSED,
                code="not_found",
                error=error.message,
                request_id=error.request_id,
            )
            await journal.update([refused])
        else:
            await journal.set_baselines({workflow_id: baseline_of(summary)})

    await run_bounded(find(one) for one in sorted(bare))


async def _sweep_baselines(journal: Journal, upstream: Upstream, bare: set[str]) -> None:
    """Write down what the list shows of these, and take them out."""
    found: dict[str, Baseline] = {}
    async for summary in upstream.walk():
        if summary.workflow_id in bare:
            found[summary.workflow_id] = baseline_of(summary)
            if len(found) == CHUNK:
                await journal.set_baselines(found)
                bare.difference_update(found)
                found = {}
    await journal.set_baselines(found)
    bare.difference_update(found)


async def settle(
    journal: Journal,
    upstream: Upstream,
    is_newer: IsNewer,
    *,
    resend: bool,
    settle_after: float,
    clock: Clock,
    pause: Pause,
) -> list[JournalItem]:
    """Find out, where that can be proved, what came of reruns whose answer nobody read.

    A run that is newer than the baseline means that one was accepted: ours, or somebody else's since.
    All else stays unknown; with ``resend`` it is planned again, once it had ``settle_after`` seconds
    to show.

    Returns:
        What was open, as it is now; since when it may show, is left as it was.
    """
    settled: list[JournalItem] = []
    unknown = [item async for item in journal.items(ItemState.UNKNOWN)]
    # What was being sent may have waited for long before it was, so its time begins anew.
    sending = [
        msgspec.structs.replace(item, changed_at=None)
        async for item in journal.items(ItemState.SENDING)
    ]

    unseen: set[str] = set()

    async def look(item: JournalItem) -> JournalItem:
        try:
            now = await _patiently(lambda: upstream.read(item.workflow_id), pause)
        except (Unauthorized, QuotaExceeded):
            raise
        except RequestError as error:
            if not is_missing(error):
                unseen.add(item.workflow_id)  # what wasn't looked at isn't sent again
            return msgspec.structs.replace(item, state=ItemState.UNKNOWN, error=error.message)
        unseen.discard(item.workflow_id)
        if item.baseline is not None and is_newer(now, item.baseline):
            return msgspec.structs.replace(item, state=ItemState.ACCEPTED, code=None, error=None)
        reason = item.error or "the answer was never read"
        return msgspec.structs.replace(item, state=ItemState.UNKNOWN, error=reason)

    async def settle_one(item: JournalItem) -> None:
        now = await look(item)
        if now.state is ItemState.UNKNOWN and resend:
            await clock.sleep(time_to_show(item, settle_after))
            now = await look(item)
            if now.state is ItemState.UNKNOWN and item.workflow_id not in unseen:
                now = msgspec.structs.replace(now, state=ItemState.PLANNED, error=None)
        await journal.update([now])
        settled.append(now)

    await run_bounded(settle_one(item) for item in sending + unknown)
    return settled


def time_to_show(item: JournalItem, settle_after: float) -> float:
    """The seconds that are left to it, of those since it may have been sent; all, if nobody knows when."""
    now = datetime.now(UTC)
    age = (now - (item.changed_at or now)).total_seconds()
    return max(0.0, settle_after - max(0.0, age))
