"""What type checkers see of the public API: nothing here is run, mypy and pyright read it."""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timedelta
from typing import Any, assert_type
from uuid import UUID

import knowledgestack_async as ks
from knowledgestack_async.sandbox import Sandbox


async def sessions_and_views() -> None:
    async with ks.Session() as session:
        assert_type(session, ks.Session)
        assert_type(session.with_options(timeout=1, deadline=2.5, api_key="k"), ks.Session)
        assert_type(session.dialect, str)
        assert_type(session.base_url, str)
        assert_type(session.stats, ks.SessionStats)
        assert_type(session.stats.in_flight, int)
        found = await session.request("GET", "/v2/things", params={"a": 1, "b": True})
        assert_type(found, ks.RawResponse)
        assert_type(found.status, int)
        assert_type(found.headers, Mapping[str, str])


async def ask_for_key() -> str:
    return "sk-user-1"


def keys_may_be_functions() -> None:
    ks.Session(ask_for_key)
    ks.Session(lambda: "sk-user-1", retry=ks.RetryPolicy(tries=2), rate=9, ssl=False)


async def runs(session: ks.Session, run_id: str | UUID) -> None:
    assert_type(await ks.get_workflow_run(session, run_id), ks.WorkflowRunResponse)
    await ks.delete_workflow_run(session, run_id)
    answer = await ks.send_workflow_run_callback(session, run_id, "FAILED", error="e", token="t")
    assert_type(answer, ks.WorkflowCallbackResponse)
    assert_type(answer.already_terminal, bool)
    status = ks.WorkflowRunStatus.COMPLETED
    assert_type(
        await ks.send_workflow_run_callback(session, run_id, status), ks.WorkflowCallbackResponse
    )
    assert_type(await ks.wait_for_workflow_run(session, run_id, deadline=9), ks.WorkflowRunResponse)


async def ingestions(session: ks.Session, workflow_id: str | UUID) -> None:
    page = await ks.list_ingestion_workflows(session, page=1, page_size=20)
    assert_type(page, ks.PaginatedResponse[ks.WorkflowSummaryResponse])
    assert_type(page.items, tuple[ks.WorkflowSummaryResponse, ...])
    assert_type(page.total, int)
    assert_type(page.page, int | None)
    detail = await ks.get_ingestion_workflow(session, workflow_id)
    assert_type(detail, ks.WorkflowDetailResponse)
    assert_type(await ks.rerun_ingestion_workflow(session, workflow_id), ks.WorkflowActionResponse)
    assert_type(
        await ks.wait_for_ingestion(session, workflow_id, after=detail, deadline=60),
        ks.WorkflowDetailResponse,
    )


async def walks(session: ks.Session) -> None:
    walk = ks.iter_ingestion_workflows(
        session, status=["failed", ks.IngestionStatus.CANCELLED], prefetch=0, limit=5
    )
    assert_type(walk, ks.PageIterator[ks.WorkflowSummaryResponse])
    assert_type(await walk, list[ks.WorkflowSummaryResponse])
    assert_type(walk.total, int | None)
    assert_type(walk.matched, int)
    assert_type(walk.position, dict[str, Any])
    assert_type(walk.pages(), AsyncIterator[list[ks.WorkflowSummaryResponse]])
    async for item in walk:
        assert_type(item, ks.WorkflowSummaryResponse)
    async for page in walk.pages():
        assert_type(page, list[ks.WorkflowSummaryResponse])
    async with walk as opened:
        assert_type(opened, ks.PageIterator[ks.WorkflowSummaryResponse])


async def workflows(session: ks.Session, workflow_id: str | UUID) -> None:
    assert_type(await ks.get_workflow_status(session, workflow_id), ks.WorkflowStatusResponse)
    assert_type(
        await ks.cancel_workflow(session, workflow_id, check=True), ks.WorkflowCancelResponse
    )


async def ids() -> AsyncIterator[str]:
    yield "w-1"


async def polls(session: ks.Session) -> None:
    poll = ks.poll_workflow_statuses(session, ["w-1", UUID(int=1)], concurrency=5)
    assert_type(poll, ks.StatusPoll)
    async with ks.poll_workflow_statuses(session, ids()) as results:
        async for result in results:
            assert_type(result, ks.StatusResult)
            assert_type(result.workflow_id, str)
            assert_type(result.status, ks.WorkflowStatusResponse | None)
            assert_type(result.error, Exception | None)


async def polls_until_closed(session: ks.Session) -> None:
    poll = ks.poll_workflow_statuses(session, ["w-1"], until_closed=True, deadline=60)
    assert_type(poll, ks.ClosingPoll)
    async with poll as results:
        async for result in results:
            assert_type(result, ks.StatusResult)


async def watches(session: ks.Session) -> None:
    async with ks.watch_ingestions(session, ["w-1"], deadline=60) as ingestion_changes:
        async for change in ingestion_changes:
            assert_type(change, ks.StatusChange[ks.WorkflowSummaryResponse])
            assert_type(change.kind, ks.ChangeKind)
        assert_type(ingestion_changes.summary, ks.WatchSummary)
    async with ks.watch_workflow_runs(session, ["r-1"]) as run_changes:
        async for run_change in run_changes:
            assert_type(run_change, ks.StatusChange[ks.WorkflowRunResponse])


def models(
    run: ks.WorkflowRunResponse,
    detail: ks.WorkflowDetailResponse,
    status: ks.WorkflowStatusResponse,
) -> None:
    assert_type(run.status, ks.WorkflowRunStatus)
    assert_type(run.status.is_terminal, bool)
    assert_type(run.status.is_known, bool)
    assert_type(run.started_at, datetime | None)
    assert_type(run.run_snapshot, ks.WorkflowRunSnapshot | None)
    assert_type(run.triggered_by, ks.UserInfo | None)
    assert_type(run.duration, timedelta | None)
    assert_type(run.raw, Mapping[str, Any])
    assert_type(run.extra, Mapping[str, Any])
    assert_type(run.to_dict(), dict[str, Any])
    assert_type(detail.status, ks.IngestionStatus)
    assert_type(detail.execution_status, ks.WorkflowExecutionStatus)
    assert_type(detail.chunks_processed, int | None)
    assert_type(detail.uploader, ks.UserInfo | None)
    assert_type(detail.duration, timedelta | None)
    assert_type(status.is_terminal, bool)
    assert_type(status.close_time, datetime | None)
    summary: ks.WorkflowSummaryResponse = detail
    assert_type(summary.is_terminal, bool)


def errors(error: ks.KnowledgeStackError) -> None:
    if isinstance(error, ks.TooManyRequests | ks.ServiceUnavailable):
        assert_type(error.retry_after, float | None)
    if isinstance(error, ks.UnprocessableEntity):
        assert_type(error.fields, tuple[ks.FieldError, ...])
    if isinstance(error, ks.InvalidResponse):
        assert_type(error.json_path, str | None)
    if isinstance(error, ks.RequestError):
        assert_type(error.status, int | None)
        assert_type(error.request_id, str | None)
        assert_type(error.safe_to_retry, bool)
        assert_type(error.tries, int)


async def sandboxes() -> None:
    async with Sandbox(dialect="system-jobs") as box, box.session() as session:
        assert_type(box.base_url, str)
        assert_type(session, ks.Session)
