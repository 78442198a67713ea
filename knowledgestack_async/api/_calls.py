"""The calls that several endpoint functions share, each with the priority of who makes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._dialects import Dialect, Route, window_of
from .._negotiation import Page
from .._windows import Window
from .._wire import Answer, Call, Priority, list_reader, model_reader, route_target
from ..errors import InvalidResponse
from ..models import (
    WorkflowDetailResponse,
    WorkflowRunResponse,
    WorkflowStatusResponse,
    WorkflowSummaryResponse,
)
from ..session import Session

__all__ = ["fetch_window", "read_detail", "read_page", "read_run", "read_status"]


MOST_TURNS = 8
"""How often a page is asked for again in another generation's way."""


async def read_page(
    session: Session, start: int, size: int, filters: Mapping[str, Any], priority: Priority
) -> tuple[Page, Dialect]:
    """A page of the list of ingestions, wherever it begins, and the generation that gave it.

    Raises:
        InvalidResponse: The server answers each time in another generation's way than it was asked.
    """
    read = list_reader(start, size)

    def read_and_observe(answer: Answer, dialect: Dialect) -> tuple[Page, Dialect, Dialect]:
        page = read(answer, dialect)
        return page, dialect, session.observe(dialect, page)

    call = Call(
        method="GET",
        target=lambda dialect: dialect.list_target(start, size, filters),
        read=read_and_observe,
        route=Route.LIST_INGESTIONS,
        priority=priority,
    )
    began, timed, turns = session.clock.now(), session, 0
    while True:
        turns += 1
        page, asked, spoken = (await timed.execute(call)).value
        # Else it ignored which page was asked for, or was not sent filters that it has.
        if asked.paging == spoken.paging and (not filters or asked.filters or not spoken.filters):
            return page, spoken
        if turns == MOST_TURNS:
            raise InvalidResponse(
                f"the server answers as {spoken.name!r} and as others by turns",
                call.method,
                asked.paths[Route.LIST_INGESTIONS],
                tries=turns,
                hint="Is an upgrade under way? Try again when it is done.",
            )
        timed = session.with_what_is_left(began)


async def fetch_window(
    session: Session, start: int, size: int, filters: Mapping[str, Any], priority: Priority
) -> tuple[Window[WorkflowSummaryResponse], Dialect]:
    """A window of the list of ingestions, for walks and sweeps, and the generation that gave it."""
    page, spoken = await read_page(session, start, size, filters, priority)
    place = window_of(page)
    found, found_size, by_number = place if place is not None else (start, size, False)
    return Window(page.items, page.total, found, found_size, by_number), spoken


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
