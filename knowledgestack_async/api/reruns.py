"""Rerunning many ingestions, on a journal."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from typing import cast

from .._codec import encode_json, pack_ending
from .._dialects import Dialect, Route, Target
from .._journal import SqliteJournal
from .._rerun_settings import RerunSettings
from .._responses import read_bulk_answer
from .._retry import RetryPolicy
from .._upstream import Accepted, BulkAnswer
from .._wire import Call, Permit, Priority, check_id
from ..bulk import RerunJob, Source
from ..errors import ConfigurationError, InvalidResponse, NotFound, RequestError
from ..models import WorkflowSummaryResponse
from ..monitor import is_newer_run
from ..session import Session
from ..watching import Watch
from ._calls import read_detail, read_page
from .ingestion_workflows import iter_ingestion_workflows, make_watch, rerun_call

__all__ = ["rerun_ingestions"]


def _check_source(source: object) -> None:
    if isinstance(source, str | bytes) or not isinstance(source, Iterable | AsyncIterable):
        raise ConfigurationError("source must be an iterable of ids or ingestions, such as a list")


def _checked_path(path: object) -> str | os.PathLike[str]:
    if isinstance(path, str) and path:
        return path
    if isinstance(path, os.PathLike):
        return cast("os.PathLike[str]", path)
    raise ConfigurationError(f"journal must be the path of a file, not {path!r}")


_RERUN_ROUTE = rerun_call("any").key


class _SessionUpstream:
    """What a job calls, through a session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.hearing = session.hearing
        self._once = session.with_options(deadline=30.0, retry=RetryPolicy(tries=1))

    @property
    def server(self) -> str:
        return self._session.base_url

    @property
    def bulk_limit(self) -> int | None:
        return self._session.bulk_limit

    def lacks_bulk(self) -> None:
        self._session.learn_no_bulk()

    @property
    def is_exhausted(self) -> bool:
        return self._session.is_exhausted

    @property
    def is_failing(self) -> bool:
        return self._session.is_failing(_RERUN_ROUTE)

    def check(self, target: object) -> str:
        return check_id(target)

    async def rerun(self, workflow_id: str, permit: Permit) -> Accepted:
        done = await self._session.execute(rerun_call(workflow_id, permit))
        return Accepted(done.request_id, done.tries)

    async def rerun_many(self, version_ids: Sequence[str], permit: Permit) -> BulkAnswer:
        def target(dialect: Dialect) -> Target:
            fallback = dialect.paths[Route.LIST_INGESTIONS] + "/bulk-rerun"
            return Target(dialect.paths.get(Route.BULK_RERUN, fallback))

        done = await self._session.execute(
            Call(
                method="POST",
                target=target,
                read=read_bulk_answer,
                idempotent=False,
                effect=True,
                body=encode_json({"document_version_ids": version_ids}),
                permit=permit,
            )
        )
        succeeded, failed = done.value
        return BulkAnswer(succeeded, failed, done.request_id)

    async def read(self, workflow_id: str) -> WorkflowSummaryResponse:
        return await read_detail(self._session, workflow_id, Priority.BACKGROUND)

    def walk(self) -> AsyncIterator[WorkflowSummaryResponse]:
        return iter_ingestion_workflows(self._session)

    async def count(self) -> int:
        page, _ = await read_page(self._once, 0, 1, {}, Priority.PROBE)
        return page.total

    async def make_contact(self) -> None:
        if self.hearing.was_understood:
            return
        try:
            await read_page(self._session, 0, 1, {}, Priority.NORMAL)
        except (NotFound, InvalidResponse):
            raise  # another server, or another path than the API's: that doesn't pass
        except RequestError:
            if not self.hearing.was_heard:
                raise

    def follow(self) -> Watch[WorkflowSummaryResponse]:
        return make_watch(self._session, (), stays_open=True, pack=pack_ending)


def rerun_ingestions(
    session: Session,
    source: Source,
    *,
    journal: str | os.PathLike[str],
    wait: bool = False,
    concurrency: int = 50,
    max_in_flight: int | None = None,
    rate: float | None = None,
    canary: int = 0,
    abort_over: float = 0.2,
    resend_unknown: bool = False,
    settle_after: float = 30.0,
) -> RerunJob:
    """Rerun many ingestions, and know what ran, whatever happens (reference page: Rerun ingestion).

    First every target is written to the journal, with what it was like; then the first one is sent.
    Killed at any moment, the same call with the same journal goes on: nothing is sent twice that may
    have acted. What was being sent then is *unknown*, unless a newer run proves that it was accepted
    (by us, or overtaken by somebody else's rerun: that can't be told apart).

    An outage pauses the job, and doesn't fail its items; it goes on within five seconds of the server's
    return. A quota that is used up stops it.

    Args:
        session: An open session.
        source: Ids, summaries, or an iterator of either, asynchronous ones too; duplicates count
            once. When a planned job is resumed, it is not read (``job.resumed`` tells): a new job
            takes a new journal.
        journal: The job's file; made if it isn't there. One process uses it at a time.
        wait: Whether to follow each to the end of the run that this job started.
        concurrency: How many reruns are on their way at a time.
        max_in_flight: The most workflows of this job that may be running on the server's side.
        rate: The most reruns a second.
        canary: How many to run to their end first; unknown ones are replaced by others.
        abort_over: The share of these that may fail again, from 0 to 1; if more do, the job stops.
        resend_unknown: On resuming: whether what stays unknown is sent again. It may run twice.
        settle_after: Seconds that an unknown one has to show, before it is sent again.

    Returns:
        A job; ``async with`` it and ``async for`` its ``RerunOutcome``s, then ``.report``.

    Raises:
        ConfigurationError: An argument is wrong (at once), or an id (before anything is sent).
        RequestError: While it runs: the session's server never answered anything, after the usual
            tries. Once it did, it is waited for.
        JournalError: On entry: the journal is in use, torn, foreign, newer, or of another job.

    Example:
        ```python
        failed = ks.iter_ingestion_workflows(session, status="failed")
        async with ks.rerun_ingestions(session, failed, journal="rerun.journal") as job:
            async for outcome in job:
                print(outcome.workflow_id, outcome.state)
        print(job.report.counts)
        ```
    """
    settings = RerunSettings(
        wait=wait,
        concurrency=concurrency,
        max_in_flight=max_in_flight,
        rate=rate,
        canary=canary,
        abort_over=abort_over,
        resend_unknown=resend_unknown,
        settle_after=settle_after,
    )
    _check_source(source)
    return RerunJob(
        SqliteJournal(_checked_path(journal)),
        _SessionUpstream(session),
        source,
        settings,
        is_newer_run,
        clock=session.clock,
        chance=session.chance,
    )
