"""Workflow runs: get, delete, and the runner's callback (reference page: Workflow runs)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal
from uuid import UUID

from .._checks import check_callable, check_each, plain
from .._codec import encode_json
from .._dialects import Route
from .._wire import (
    Call,
    Priority,
    Secret,
    check_credential,
    check_id,
    model_reader,
    route_target,
    seal,
)
from ..errors import ConfigurationError
from ..models import WorkflowCallbackResponse, WorkflowRunResponse, WorkflowRunStatus
from ..monitor import wait_for_end
from ..session import Session
from ..watching import Watch
from ._calls import read_run
from ._pollers import run_poller

__all__ = [
    "CALLBACK_ERROR_LENGTH",
    "callback_call",
    "delete_workflow_run",
    "get_workflow_run",
    "send_workflow_run_callback",
    "wait_for_workflow_run",
    "watch_workflow_runs",
]

CALLBACK_ERROR_LENGTH = 8192
"""How many characters of an error the callback takes (reference page: Run callback)."""

_OUTCOMES = ("COMPLETED", "FAILED")


async def get_workflow_run(session: Session, run_id: str | UUID) -> WorkflowRunResponse:
    """Get the current state of a run (reference page: Get run).

    Args:
        session: An open session.
        run_id: UUID of the run.

    Raises:
        ConfigurationError: The id is none; nothing was sent.
        NotFound: There is no such run, or this key may not see it.
        RequestError: The call failed.
    """
    return await read_run(session, check_id(run_id, "run_id"), Priority.NORMAL)


async def delete_workflow_run(session: Session, run_id: str | UUID) -> None:
    """Delete the record of a run (reference page: Delete run).

    This removes the run from the API. **It does not cancel an execution that is in progress**, and a
    server may refuse to delete a run that is still running.

    Deleting is idempotent, so it is sent again when an answer is lost; a 404 after a try that may
    have acted counts as deleted.

    Args:
        session: An open session.
        run_id: UUID of the run to delete.

    Raises:
        ConfigurationError: The id is none; nothing was sent.
        NotFound: There is no such run, or this key may not see it.
        Conflict: The run is still running, and the server doesn't delete such ones.
        OutcomeUnknown: No answer came; sending it again does no harm.
        RequestError: The call failed.
    """
    checked = check_id(run_id, "run_id")
    await session.execute(
        Call(
            method="DELETE",
            target=route_target(Route.RUN, checked),
            read=lambda _answer, _dialect: None,
            accepted=lambda _answer: None,
            gone=lambda: None,
            effect=True,
            own_connection=True,
        )
    )


async def send_workflow_run_callback(
    session: Session,
    run_id: str | UUID,
    status: Literal["COMPLETED", "FAILED"] | WorkflowRunStatus,
    *,
    error: str | None = None,
    token: str | None = None,
) -> WorkflowCallbackResponse:
    """Report the outcome of a run (reference page: Run callback).

    **This is the runner's endpoint, not the end user's**: a self-hosted runner signals with it that
    it has finished. Secure it with the runner's webhook secret or the run's own token.

    A callback is idempotent: for a run that has its outcome already the server answers
    ``already_terminal`` and changes nothing, so it is sent again when an answer is lost.

    Args:
        session: An open session.
        run_id: UUID of the run to update.
        status: COMPLETED or FAILED.
        error: Why it failed, with FAILED only; at most 8,192 characters, longer ones are cut.
        token: The run's own token or the runner's secret; default: the session's key.

    Raises:
        ConfigurationError: An argument is wrong; nothing was sent.
        NotFound: There is no such run.
        OutcomeUnknown: No answer came; sending it again does no harm.
        RequestError: The call failed.
    """
    credential = seal(token)
    del token  # so that no error's frame shows it
    if credential is not None:
        credential = check_credential(credential, "token")
    call = callback_call(run_id, status, error, credential)
    return (await session.execute(call)).value


def callback_call(
    run_id: str | UUID, status: object, error: object, credential: Secret | None = None
) -> Call[WorkflowCallbackResponse]:
    """The call that reports the outcome of a run; see ``send_workflow_run_callback``."""
    checked = check_id(run_id, "run_id")
    word = plain(status) if isinstance(status, str) else ""
    if word not in _OUTCOMES:
        raise ConfigurationError(f"status must be COMPLETED or FAILED, not {status!r:.40}")
    if not isinstance(error, str | None):
        raise ConfigurationError(f"error must be a str, not {type(error).__name__}")
    if error is not None and word == "COMPLETED":
        raise ConfigurationError("error goes with FAILED only: a completed run has none")
    body = {"status": word} if error is None else {"status": word, "error": fit_error(error)}
    return Call(
        method="POST",
        target=route_target(Route.RUN_CALLBACK, checked),
        read=model_reader(WorkflowCallbackResponse),
        accepted=lambda _answer: WorkflowCallbackResponse(),
        body=encode_json(body),
        effect=True,
        priority=Priority.OUTCOME,
        own_connection=True,
        credential=credential,
        exempt=True,
    )


def fit_error(text: str) -> str:
    """An error's text as the callback takes it: cut to its length, without half characters."""
    whole = plain(text).encode("utf-8", "replace").decode()
    if len(whole) <= CALLBACK_ERROR_LENGTH:
        return whole
    return whole[: CALLBACK_ERROR_LENGTH - 1] + "…"


async def wait_for_workflow_run(
    session: Session,
    run_id: str | UUID,
    *,
    deadline: float | None = None,
    on_change: Callable[[WorkflowRunResponse], None] | None = None,
) -> WorkflowRunResponse:
    """Wait until a run is over: COMPLETED or FAILED.

    Reads it at growing, jittered intervals.

    Args:
        session: An open session.
        run_id: UUID of the run.
        deadline: How long to wait at most, in seconds; default: the session's deadline for a call, if
            it has one, else as long as it takes.
        on_change: Called with each state that differs from the one before.

    Raises:
        ConfigurationError: An argument is wrong; nothing was sent.
        DeadlineExceeded: The run is not over yet; ``last`` is what was read last.
        RequestError: The run can't be read.
    """
    checked = check_id(run_id, "run_id")
    check_callable(on_change, "on_change")
    watch = watch_workflow_runs(
        session, [checked], deadline=session.deadline if deadline is None else deadline
    )
    return await wait_for_end(watch, f"workflow run {checked}", on_change)


def watch_workflow_runs(
    session: Session, run_ids: Iterable[str | UUID], *, deadline: float | None = None
) -> Watch[WorkflowRunResponse]:
    """Watch workflow runs until all of them are over.

    They have no list of their own, so each costs a request a tick; ticks grow apart.

    Args:
        session: An open session.
        run_ids: The runs.
        deadline: How long to watch at most, in seconds; default: until all are over.

    Returns:
        A watch; ``async with`` it, and iterate ``StatusChange`` from it with ``async for``.

    Raises:
        ConfigurationError: An argument is wrong.
    """
    return Watch(
        lambda: run_poller(session),
        check_each(run_ids, "run_ids", partial(check_id, what="run_id")),
        check=partial(check_id, what="run_id"),
        clock=session.clock,
        status_of=lambda run: str(run.status),
        run_of=lambda _run: None,
        deadline=deadline,
    )
