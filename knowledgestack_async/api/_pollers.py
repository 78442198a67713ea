"""One poller for each kind of thing, session and credential: everybody who waits shares its requests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context, copy_context
from datetime import datetime
from typing import Any, TypeVar

from .._poller import Deliver, Poller, Reader, Sight, read_each
from .._sweeps import IngestionReader
from .._windows import Window
from .._wire import Priority
from ..models import (
    WorkflowDetailResponse,
    WorkflowRunResponse,
    WorkflowStatusResponse,
    WorkflowSummaryResponse,
)
from ..session import Session
from ._calls import fetch_window, read_detail, read_run, read_status

__all__ = ["ingestion_poller", "run_poller", "status_poller"]

StateT = TypeVar("StateT")


class _EachReader(Reader[StateT]):
    """Looks up ids one by one, where there is no list."""

    def __init__(self, get: Callable[[str], Awaitable[StateT]]) -> None:
        self._get = get

    async def read(
        self,
        wanted: frozenset[str],
        deliver: Deliver[StateT],
        *,
        everything: bool,
        since: datetime | None,
    ) -> Sight:
        del everything, since
        await read_each(self._get, sorted(wanted), deliver)
        return Sight()


def ingestion_poller(session: Session) -> Poller[WorkflowSummaryResponse]:
    """The poller of ingestions."""
    view = session.without_deadline()

    async def fetch(
        start: int, size: int, filters: Mapping[str, Any]
    ) -> Window[WorkflowSummaryResponse]:
        window, _ = await fetch_window(view, start, size, filters, Priority.BACKGROUND)
        return window

    async def get(workflow_id: str) -> WorkflowDetailResponse:
        return await read_detail(view, workflow_id, Priority.BACKGROUND)

    def can_filter() -> bool:
        return {"status", "updated_after"} <= session.capabilities.filters.keys()

    return _poller(session, "ingestions", lambda: IngestionReader(fetch, get, can_filter))


def run_poller(session: Session) -> Poller[WorkflowRunResponse]:
    """The poller of workflow runs."""
    view = session.without_deadline()

    async def get(run_id: str) -> WorkflowRunResponse:
        return await read_run(view, run_id, Priority.BACKGROUND)

    return _poller(session, "runs", lambda: _EachReader(get))


def status_poller(session: Session) -> Poller[WorkflowStatusResponse]:
    """The poller of any workflow's status."""
    view = session.without_deadline()

    async def get(workflow_id: str) -> WorkflowStatusResponse:
        return await read_status(view, workflow_id, Priority.BACKGROUND)

    return _poller(session, "statuses", lambda: _EachReader(get))


def _poller(
    session: Session, kind: str, make_reader: Callable[[], Reader[StateT]]
) -> Poller[StateT]:
    session.check_usable()

    # A key function may read context variables: then who waits is asked for by its own context.
    context = copy_context() if session.has_key_function else Context()
    values = frozenset((id(variable), id(value)) for variable, value in context.items())

    def make() -> Poller[StateT]:
        return Poller(
            make_reader(),
            session.clock,
            session.chance,
            session.cooling_for,
            session.busy_for,
            context,
        )

    return session.share((kind, session.identity, session.patience, values), make)
