"""Any workflow: its status, cancelling it, and many statuses at once."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from typing import Literal, overload
from uuid import UUID

from .._checks import check_each
from .._dialects import Route
from .._wire import Call, Priority, check_id, model_reader, route_target
from ..errors import AlreadyFinished, ConfigurationError
from ..models import WorkflowCancelResponse, WorkflowStatusResponse
from ..monitor import ClosingPoll, StatusPoll
from ..session import Session
from ..watching import Watch
from ._calls import read_status
from ._pollers import status_poller

__all__ = ["cancel_workflow", "get_workflow_status", "poll_workflow_statuses"]


async def get_workflow_status(session: Session, workflow_id: str | UUID) -> WorkflowStatusResponse:
    """Get the execution status of any active workflow (reference page: Get workflow status).

    The route is for *active* workflows: one that was open a moment ago may be NotFound once it is
    closed.

    Args:
        session: An open session.
        workflow_id: The workflow's id.

    Raises:
        ConfigurationError: The id is none, or would reach another route; nothing was sent.
        NotFound: There is no such workflow, or it is closed.
        RequestError: The call failed.
    """
    return await read_status(session, check_id(workflow_id), Priority.NORMAL)


async def cancel_workflow(
    session: Session, workflow_id: str | UUID, *, check: bool = False
) -> WorkflowCancelResponse:
    """Cancel a workflow that is in progress (reference page: Cancel workflow).

    **Cancelling is best effort.** A workflow that has completed or failed cannot be cancelled; some
    servers answer that it was, all the same. Check its status first, or let ``check`` do it.

    It is sent again only where the server can't have acted.

    Args:
        session: An open session.
        workflow_id: The workflow to cancel.
        check: Whether to read its status first, and not to cancel what is over.

    Raises:
        ConfigurationError: The id is none, or would reach another route; nothing was sent.
        AlreadyFinished: With ``check``: the workflow is over.
        NotFound: There is no such workflow.
        Conflict: It can't be cancelled.
        OutcomeUnknown: No answer came; it may have been cancelled.
        RequestError: The call failed.
    """
    checked = check_id(workflow_id)
    target = route_target(Route.WORKFLOW, checked)
    began = session.clock.now()
    if check:
        status = await get_workflow_status(session, checked)
        if status.is_terminal:
            raise AlreadyFinished(
                f"the workflow is over: {status.execution_status}",
                "DELETE",
                target(session.capabilities).path,
                hint="There is nothing to cancel; nothing was sent.",
                last=status,
            )
    done = await session.with_what_is_left(began).execute(
        Call(
            method="DELETE",
            target=target,
            read=model_reader(WorkflowCancelResponse, echo="workflow_id", expected=checked),
            accepted=lambda _answer: WorkflowCancelResponse(checked),
            idempotent=False,
            effect=True,
            route=Route.WORKFLOW,
            priority=Priority.URGENT,
        )
    )
    return done.value


@overload
def poll_workflow_statuses(
    session: Session,
    workflow_ids: Iterable[str | UUID] | AsyncIterable[str | UUID],
    *,
    concurrency: int = ...,
) -> StatusPoll: ...
@overload
def poll_workflow_statuses(
    session: Session,
    workflow_ids: Iterable[str | UUID],
    *,
    until_closed: Literal[True],
    deadline: float | None = ...,
) -> ClosingPoll: ...
def poll_workflow_statuses(
    session: Session,
    workflow_ids: Iterable[str | UUID] | AsyncIterable[str | UUID],
    *,
    concurrency: int = 50,
    until_closed: bool = False,
    deadline: float | None = None,
) -> StatusPoll | ClosingPoll:
    """Read the status of many workflows, some at a time (reference page: Get workflow status).

    Every id is answered exactly once, as its answer arrives, with its status or with an error of its
    own: one that doesn't exist doesn't end the poll. Ids are taken from the iterable as slots come
    free, so it may be endless.

    With ``until_closed`` each is answered when it has closed. The route is for active workflows, so
    a ``NotFound`` for one that was seen open means that it is gone.

    Args:
        session: An open session.
        workflow_ids: The ids, from any iterable; asynchronous ones too, but not with
            ``until_closed``. An id that comes twice is answered twice, or once with ``until_closed``.
        concurrency: How many to ask about at a time.
        until_closed: Whether to watch them until they are closed.
        deadline: With ``until_closed``: how long to watch at most, in seconds.

    Returns:
        An async iterator of ``StatusResult``; with ``async with`` its tasks end at once on leaving.

    Raises:
        ConfigurationError: An argument is wrong.

    Example:
        ```python
        async with ks.poll_workflow_statuses(session, ids) as statuses:
            async for result in statuses:
                print(result.workflow_id, result.status or result.error)
        ```
    """
    if until_closed:
        if isinstance(workflow_ids, AsyncIterable):
            raise ConfigurationError("until_closed takes ids from an ordinary iterable")
        return ClosingPoll(
            Watch(
                lambda: status_poller(session),
                check_each(workflow_ids, "workflow_ids", check_id),
                check=check_id,
                clock=session.clock,
                status_of=lambda status: str(status.execution_status),
                run_of=lambda status: status.run_id,
                deadline=deadline,
            )
        )

    async def read(workflow_id: str | UUID) -> WorkflowStatusResponse:
        return await read_status(session, check_id(workflow_id), Priority.BACKGROUND)

    return StatusPoll(
        read,
        workflow_ids,
        session.spawn,
        check_usable=session.check_usable,
        concurrency=concurrency,
    )
