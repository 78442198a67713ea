"""Ingestion workflows: how document versions are processed into the knowledge base."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from operator import attrgetter
from typing import Any, cast
from uuid import UUID

import attrs

from .._baseline import Baseline
from .._checks import check_callable, check_count, check_seconds
from .._codec import pack_summary, release, unpack_summary
from .._dialects import Route
from .._filters import ListFilters
from .._poller import Pace
from .._windows import Window
from .._wire import Call, Permit, Priority, check_id, model_reader, route_target
from ..errors import ConfigurationError, DeadlineExceeded
from ..models import (
    IngestionStatus,
    PaginatedResponse,
    WorkflowActionResponse,
    WorkflowDetailResponse,
    WorkflowSummaryResponse,
)
from ..monitor import is_newer_run, wait_for_end
from ..pages import PageIterator
from ..session import Session
from ..watching import Watch
from ._calls import fetch_window, read_detail, read_page
from ._pollers import ingestion_poller

__all__ = [
    "get_ingestion_workflow",
    "iter_ingestion_workflows",
    "list_ingestion_workflows",
    "rerun_ingestion_workflow",
    "wait_for_ingestion",
    "watch_ingestions",
]

LARGEST_PAGE = 100
MOMENT = 1e-6


async def list_ingestion_workflows(
    session: Session, *, page: int = 1, page_size: int = 100
) -> PaginatedResponse[WorkflowSummaryResponse]:
    """Get one page of ingestions, newest first (reference page: List ingestion workflows).

    To walk all of them, use ``iter_ingestion_workflows``: it copes with a list that changes.

    Args:
        session: An open session.
        page: The page's number, from 1.
        page_size: Items a page, from 1 to 100. The server may have a mind of its own: what it
            really used is in the answer.

    Raises:
        ConfigurationError: An argument is wrong; nothing was sent.
        RequestError: The call failed.
    """
    check_count(page, "page")
    check_count(page_size, "page_size", most=LARGEST_PAGE)
    answer, _ = await read_page(session, (page - 1) * page_size, page_size, {}, Priority.NORMAL)
    if answer.offset is None or answer.limit is None or answer.offset % answer.limit:
        return answer
    numbered = attrs.evolve(answer, page=answer.offset // answer.limit + 1, page_size=answer.limit)
    answer.pass_raw_to(numbered)
    return numbered


def iter_ingestion_workflows(
    session: Session,
    *,
    status: str | IngestionStatus | Iterable[str | IngestionStatus] | None = None,
    page_size: int = 100,
    prefetch: int | None = None,
    limit: int | None = None,
    position: Mapping[str, Any] | None = None,
    name_like: str | None = None,
    latest_version_only: bool | None = None,
    uploader_user_id: str | UUID | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    updated_after: datetime | None = None,
    updated_before: datetime | None = None,
    oldest_first: bool = False,
) -> PageIterator[WorkflowSummaryResponse]:
    """Walk all ingestions, newest first (reference page: List ingestion workflows).

    The list may change while it is walked: no item that stays is lost or given twice. Filters are
    the server's where it has them; else they are applied here, where an item's fields allow it.

    Args:
        session: An open session.
        status: Only these: a text, an ``IngestionStatus``, or several of them.
        page_size: Items a request, from 1 to 100. Where the server numbers its pages, sizes down to
            four fifths of it are asked for too, so that pages overlap.
        prefetch: Pages to read ahead. By default it finds its own depth, from 2 to 16; 0 reads one
            page after the other.
        limit: How many items to give at most.
        position: Where an earlier walk with the same filters stopped: its ``position``.
        name_like: Only documents whose name is like this.
        latest_version_only: Only the documents' active versions.
        uploader_user_id: Only what this user uploaded.
        created_after: Only those created at this time or later.
        created_before: Only those created before this time.
        updated_after: Only those whose state changed at this time or later.
        updated_before: Only those whose state changed before this time.
        oldest_first: Oldest upload first, where the server can.

    Returns:
        A lazy iterator; ``async for`` gives items, ``.pages()`` pages, ``await`` a list.

    Raises:
        ConfigurationError: An argument is wrong (at once), or a filter can't be honoured by the
            server that answers (at the first page).

    Example:
        ```python
        async for workflow in ks.iter_ingestion_workflows(session, status="failed"):
            print(workflow.workflow_id, workflow.error)
        ```
    """
    check_count(page_size, "page_size", most=LARGEST_PAGE)
    if limit is not None:
        check_count(limit, "limit")
    if str(prefetch) not in {"None", "0"}:
        check_count(prefetch, "prefetch")
    filters = ListFilters.checked(
        status=status,
        name_like=name_like,
        latest_version_only=latest_version_only,
        uploader_user_id=uploader_user_id,
        created_after=created_after,
        created_before=created_before,
        updated_after=updated_after,
        updated_before=updated_before,
        oldest_first=oldest_first,
    )

    asked = filters.wire()

    async def fetch(start: int, size: int) -> Window[WorkflowSummaryResponse]:
        window, spoken = await fetch_window(session, start, size, asked, Priority.NORMAL)
        if window.total or window.items:  # where there is nothing, nothing is ignored
            filters.check_honoured(spoken)
        return window

    return PageIterator(
        fetch,
        session.spawn,
        key=attrgetter("workflow_id"),
        page_size=page_size,
        prefetch=prefetch,
        limit=limit,
        keep=filters.keeps if filters else None,
        release=release,
        position=position,
    )


async def get_ingestion_workflow(
    session: Session, workflow_id: str | UUID
) -> WorkflowDetailResponse:
    """Get one ingestion with its live execution (reference page: Get ingestion workflow).

    Args:
        session: An open session.
        workflow_id: The id that was given when the ingestion was triggered.

    Raises:
        ConfigurationError: The id is none; nothing was sent.
        NotFound: There is no such ingestion, or this key may not see it.
        RequestError: The call failed.
    """
    return await read_detail(session, check_id(workflow_id), Priority.NORMAL)


async def rerun_ingestion_workflow(
    session: Session, workflow_id: str | UUID
) -> WorkflowActionResponse:
    """Trigger an ingestion's pipeline again (reference page: Rerun document version ingestion).

    For a failed ingestion, or after the extraction settings have changed. The file that was uploaded
    is used again; it need not be uploaded once more.

    A rerun has no idempotency key, so it is sent again only where the server can't have acted.

    Args:
        session: An open session.
        workflow_id: The ingestion to run again.

    Raises:
        ConfigurationError: The id is none; nothing was sent.
        NotFound: There is no such ingestion.
        Conflict: It is running, or a newer version of the document supersedes it.
        OutcomeUnknown: No answer came; it may be running. Look before sending it again.
        RequestError: The call failed.
    """
    return (await session.execute(rerun_call(check_id(workflow_id)))).value


def rerun_call(workflow_id: str, permit: Permit | None = None) -> Call[WorkflowActionResponse]:
    """The call that reruns one ingestion."""
    return Call(
        method="POST",
        target=route_target(Route.INGESTION, workflow_id),
        read=model_reader(WorkflowActionResponse, echo="workflow_id", expected=workflow_id),
        accepted=lambda _answer: WorkflowActionResponse(workflow_id),
        idempotent=False,
        effect=True,
        route=Route.INGESTION,
        permit=permit,
    )


async def wait_for_ingestion(
    session: Session,
    workflow_id: str | UUID,
    *,
    after: WorkflowSummaryResponse | None = None,
    deadline: float | None = None,
    on_change: Callable[[WorkflowSummaryResponse], None] | None = None,
) -> WorkflowDetailResponse:
    """Wait until an ingestion is done: completed, failed, cancelled, or any other end.

    Reads it at growing, jittered intervals. To wait for a rerun, read the ingestion before the
    rerun and give that as ``after``: the server may show the old outcome for a while.

    Args:
        session: An open session.
        workflow_id: The ingestion.
        after: What was read before a rerun; only the outcome of a newer run is then taken.
        deadline: How long to wait at most, in seconds; default: the session's deadline for a call, if
            it has one, else as long as it takes.
        on_change: Called with each state that differs from the one before.

    Raises:
        ConfigurationError: An argument is wrong; nothing was sent.
        DeadlineExceeded: It is not done yet; ``last`` is what was read last.
        RequestError: The ingestion can't be read.

    Example:
        ```python
        before = await ks.get_ingestion_workflow(session, workflow_id)
        await ks.rerun_ingestion_workflow(session, workflow_id)
        done = await ks.wait_for_ingestion(session, workflow_id, after=before, deadline=600)
        ```
    """
    checked = check_id(workflow_id)
    check_callable(on_change, "on_change")
    deadline = session.deadline if deadline is None else check_seconds(deadline, "deadline")
    timed, began = session.with_options(deadline=deadline), session.clock.now()
    while True:
        rest = timed.with_what_is_left(began)
        watch = watch_ingestions(
            session,
            [checked],
            deadline=None if rest.deadline is None else max(rest.deadline, MOMENT),
            after=None if after is None else {checked: after},
        )
        last = await wait_for_end(watch, f"ingestion {checked}", on_change)
        if isinstance(last, WorkflowDetailResponse):
            return last
        # A list that was read for others has told it; what the detail adds is read now.
        try:
            detail = await get_ingestion_workflow(timed.with_what_is_left(began), checked)
        except DeadlineExceeded as error:
            error.last = last
            raise
        if detail.is_terminal:
            return detail
        after = last  # somebody has started it again meanwhile


def watch_ingestions(
    session: Session,
    workflow_ids: Iterable[str | UUID] | None = None,
    *,
    deadline: float | None = None,
    interval: float | None = None,
    after: Mapping[str, WorkflowSummaryResponse] | None = None,
    stays_open: bool = False,
) -> Watch[WorkflowSummaryResponse]:
    """Watch ingestions: every change once, and the end of each exactly once.

    All watches and waits of a session share one poller. Each tick it asks in the cheapest way: a
    hundred statuses a request from the list, or one by one where there are few.

    Args:
        session: An open session.
        workflow_ids: Which ones; the watch ends when all of them are over. Default: all that there
            are, new arrivals included, until it is left.
        deadline: How long to watch at most, in seconds.
        interval: Seconds between ticks at least. Default: half a second at first, up to 15 s later.
        after: For reruns: what was read before, by id. Only the outcome of a newer run is then taken.
        stays_open: Whether to go on when all are over, for more that are added with ``watch.add``.

    Returns:
        A watch; ``async with`` it, and iterate ``StatusChange`` from it with ``async for``;
        ``.summary`` tells where it is at any time.

    Raises:
        ConfigurationError: An argument is wrong.

    Example:
        ```python
        async with ks.watch_ingestions(session, ids) as watch:
            async for change in watch:
                print(change.workflow_id, change.previous, "->", change.current)
        ```
    """
    pace = Pace()
    if interval is not None:
        seconds = check_seconds(interval, "interval")
        pace = Pace(first=seconds, longest=max(seconds, Pace().longest))
    return make_watch(
        session,
        workflow_ids,
        deadline=deadline,
        pace=pace,
        after={} if after is None else _checked_after(after),
        stays_open=stays_open,
    )


def make_watch(
    session: Session,
    workflow_ids: object,
    *,
    deadline: float | None = None,
    pace: Pace | None = None,
    after: Mapping[str, WorkflowSummaryResponse | Baseline] | None = None,
    stays_open: bool = False,
    pack: Callable[[WorkflowSummaryResponse], bytes] = pack_summary,
) -> Watch[WorkflowSummaryResponse]:
    """A watch of ingestions; ``pack`` makes small what waits for a slow reader."""
    return Watch(
        lambda: ingestion_poller(session),
        workflow_ids,
        check=check_id,
        clock=session.clock,
        status_of=lambda item: str(item.status),
        run_of=_run_of,
        deadline=deadline,
        pace=pace,
        after=after,
        is_newer=is_newer_run,
        stays_open=stays_open,
        packing=(pack, unpack_summary),
    )


def _checked_after(after: object) -> dict[str, WorkflowSummaryResponse | Baseline]:
    if not isinstance(after, Mapping):
        raise ConfigurationError(f"after must be a mapping by id, not {type(after).__name__}")
    given = cast("Mapping[object, object]", after)
    kept = {
        check_id(id_): one
        for id_, one in given.items()
        if isinstance(one, WorkflowSummaryResponse | Baseline)
    }
    if len(kept) != len(given):
        raise ConfigurationError("after must hold ingestions as they were read before the rerun")
    return kept


def _run_of(item: WorkflowSummaryResponse) -> datetime | None:
    """What tells one run from the next; while one is queued, the time is still the one before's."""
    return None if item.status is IngestionStatus.PENDING else item.last_run_timestamp
