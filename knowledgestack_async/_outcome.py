"""What happened to a call so far, and what an answer, or that there is none, means for it."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

import msgspec

from ._codec import DecodeError
from ._dialects import Dialect, Target
from ._problems import Problem, call_facts, hide_in_text, make_error, without_secrets
from ._responses import is_foreign
from ._retry import Fault
from ._transport import Failure
from ._wire import Answer, Call, Misdelivered, Withdrawn, excerpt
from .errors import RequestError

__all__ = [
    "FOREVER",
    "CallProgress",
    "Done",
    "call_error",
    "read_failure",
    "read_success",
    "wait_permitted",
]

R = TypeVar("R")
T = TypeVar("T")

FOREVER = float("inf")


class Done(msgspec.Struct, Generic[T], frozen=True):
    """What came of a call.

    Attributes:
        value: What the answer means.
        doubted: Whether an earlier try of it may have acted already.
        tries: How often it was sent.
        request_id: What the server calls the request that was answered.
    """

    value: T
    doubted: bool = False
    tries: int = 0
    request_id: str | None = None


class CallProgress(msgspec.Struct):
    """What happened to one call so far."""

    ticket: int
    deadline_at: float
    sent_at: float = 0.0
    give_up_at: float = FOREVER
    tries: int = 0
    held: int = 0
    """Tries that were due and not sent, for the circuit breaker was open."""
    excused: int = 0
    """Tries that were refused for the rate while others got through."""
    successes: int = -1
    retries: int = 0
    moves: int = 0
    probe: object | None = None
    doubted: bool = False
    was_hung_up: bool = False
    secrets: tuple[object, ...] = ()

    def done(self, value: T, answer: Answer) -> Done[T]:
        return Done(value, self.doubted, self.tries, answer.request_id)


def read_failure(call: Call[T], failure: Failure, progress: CallProgress) -> Done[T] | Problem:
    """What it means that there is no whole answer."""
    head = failure.answer
    if head is not None and call.accepted is not None and not is_foreign(head):
        return progress.done(call.accepted(head), head)
    if failure.is_final and not failure.sent:
        return Problem(Fault.UNTRUSTED, failure.reason, hint=failure.hint, cause=failure.cause)
    if failure.is_final:
        shown = None if head is None else without_secrets(progress.secrets, head)
        return Problem(Fault.ODD, failure.reason, shown, cause=failure.cause)
    fault = Fault.UNCERTAIN if failure.sent else Fault.NOT_SENT
    return Problem(fault, failure.reason, hung_up=failure.hung_up)


def read_success(
    call: Call[T],
    dialect: Dialect,
    answer: Answer,
    progress: CallProgress,
) -> Done[T] | Problem:
    """What a success means."""
    if call.effect and is_foreign(answer):
        # Whoever sent that page, it is not the API, which may never have seen the request.
        answer.discard()
        kind = excerpt(answer.headers.get("Content-Type", "")) or "text/html"
        reason = f"the answer is another server's page ({kind})"
        return Problem(Fault.UNCERTAIN, reason, without_secrets(progress.secrets, answer))
    try:
        return progress.done(call.read(answer, dialect), answer)
    except Misdelivered as error:
        answer.discard()
        reason = hide_in_text(progress.secrets, f"the answer is not to this request: {error}")
        return Problem(Fault.UNCERTAIN, reason, without_secrets(progress.secrets, answer))
    except DecodeError as error:
        answer.discard()
        if call.accepted is not None:
            return progress.done(call.accepted(answer), answer)
        shown = without_secrets(progress.secrets, answer)
        reason = hide_in_text(progress.secrets, error.reason)
        if answer.is_on_reused and progress.tries == 1:
            # It may be a late answer to the request before; another connection tells.
            return Problem(Fault.UNCERTAIN, reason, shown)
        return Problem(Fault.ODD, reason, shown, json_path=error.path)


async def wait_permitted(
    call: Call[Any], progress: CallProgress, waiting: Coroutine[Any, Any, R]
) -> R:
    """Wait for what comes before a try, unless the call is withdrawn meanwhile."""
    if call.permit is None:
        return await waiting
    try:
        with call.permit:
            return await waiting
    except Withdrawn:
        waiting.close()  # it may not have begun
        raise Withdrawn(progress.tries) from None


def call_error(
    call: Call[Any],
    target: Target,
    progress: CallProgress,
    problem: Problem,
    now: float,
    *,
    why: str,
) -> RequestError:
    """The error of a call that is not sent again."""
    return make_error(
        call,
        call_facts(call, target, progress.tries),
        problem,
        doubted=progress.doubted,
        deadline_is_over=progress.deadline_at <= now,
        why=why,
    )
