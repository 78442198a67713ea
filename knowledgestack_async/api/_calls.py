"""The calls that several endpoint functions share, each with the priority of who makes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._dialects import Dialect, Route, window_of
from .._windows import Window
from .._wire import Answer, Call, Priority, list_reader, model_reader, route_target
from ..models import (
    PaginatedResponse,
    WorkflowDetailResponse,
    WorkflowRunResponse,
    WorkflowStatusResponse,
    WorkflowSummaryResponse,
)
from ..session import Session

__all__ = ["fetch_window", "read_detail", "read_page", "read_run", "read_status"]


async def read_page(
    session: Session, start: int, size: int, filters: Mapping[str, Any], priority: Priority
) -> PaginatedResponse[WorkflowSummaryResponse]:
    """A page of the list of ingestions, wherever it begins."""
    read = list_reader(start, size)

    def read_and_learn(
        answer: Answer, dialect: Dialect
    ) -> tuple[PaginatedResponse[WorkflowSummaryResponse], bool]:
        page = read(answer, dialect)
        return page, session.learn(dialect, by_number=page.offset is None)

    call = Call(
        method="GET",
        target=lambda dialect: dialect.list_target(start, size, filters),
        read=read_and_learn,
        route=Route.LIST_INGESTIONS,
        priority=priority,
    )
    began = session.clock.now()
    page, was_understood = (await session.execute(call)).value
    if not was_understood:
        # The server ignored which page was asked for; now that is known, ask again in its own way.
        page, _ = (await session.with_what_is_left(began).execute(call)).value
    return page


async def fetch_window(
    session: Session, start: int, size: int, filters: Mapping[str, Any], priority: Priority
) -> Window[WorkflowSummaryResponse]:
    """A window of the list of ingestions, for walks and sweeps."""
    page = await read_page(session, start, size, filters, priority)
    place = window_of(page)
    found, found_size, by_number = place if place is not None else (start, size, False)
    return Window(page.items, page.total, found, found_size, by_number)


async def read_detail(
    session: Session, workflow_id: str, priority: Priority
) -> WorkflowDetailResponse:
    """One ingestion."""
    call = Call(
        method="GET",
        target=route_target(Route.INGESTION, workflow_id),
        read=model_reader(WorkflowDetailResponse, echo="workflow_id", expected=workflow_id),
        route=Route.INGESTION,
        priority=priority,
    )
    return (await session.execute(call)).value


async def read_status(
    session: Session, workflow_id: str, priority: Priority
) -> WorkflowStatusResponse:
    """Any workflow's status."""
    call = Call(
        method="GET",
        target=route_target(Route.WORKFLOW, workflow_id),
        read=model_reader(WorkflowStatusResponse, echo="workflow_id", expected=workflow_id),
        route=Route.WORKFLOW,
        priority=priority,
    )
    return (await session.execute(call)).value


async def read_run(session: Session, run_id: str, priority: Priority) -> WorkflowRunResponse:
    """One workflow run."""
    call = Call(
        method="GET",
        target=route_target(Route.RUN, run_id),
        read=model_reader(WorkflowRunResponse, echo="id", expected=run_id),
        priority=priority,
    )
    return (await session.execute(call)).value
