"""From what went wrong with a call to the error that says so."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from . import errors
from ._dialects import Target
from ._retry import Fault
from ._wire import Answer, Call, Secret, excerpt, response_error
from .errors import FieldError, RequestError

__all__ = ["Problem", "call_facts", "make_error", "without_secrets"]

_LOOK_FIRST = "Look at its state before you send it again: it may run twice."


class Problem(msgspec.Struct, frozen=True):
    """Why a try failed, and what it tells about the next one."""

    fault: Fault
    reason: str
    answer: Answer | None = None
    retry_after: float | None = None
    json_path: str | None = None


def without_secrets(error: RequestError, secrets: Collection[object]) -> RequestError:
    """The error, with no credential in what the server said, in whatever form it said it."""
    for secret in secrets:
        if isinstance(secret, Secret):
            for name in ("message", "code", "request_id", "json_path"):
                text = getattr(error, name, None)
                if text:
                    setattr(error, name, secret.hide_in_text(text))
            if isinstance(error, errors.UnprocessableEntity):
                error.fields = tuple(_hide_in_field(secret, field) for field in error.fields)
    return error


def _hide_in_field(secret: Secret, field: FieldError) -> FieldError:
    parts = (
        part if isinstance(part, int) else secret.hide_in_text(part) for part in field.location
    )
    message, kind = map(secret.hide_in_text, (field.message, field.type))
    return FieldError(tuple(parts), message, kind)


def call_facts(call: Call[Any], target: Target, tries: int) -> dict[str, Any]:
    """What every error of a call tells."""
    return {"method": call.method, "path": target.path, "tries": tries}


def make_error(
    call: Call[Any],
    facts: dict[str, Any],
    problem: Problem,
    *,
    doubted: bool,
    deadline_is_over: bool,
    why: str,
) -> RequestError:
    """The error for a call that is given up.

    Args:
        call: What was called.
        facts: What every error of it tells.
        problem: Why the last try failed.
        doubted: Whether an earlier try may have acted.
        deadline_is_over: Whether it is given up for want of time.
        why: Why it is not tried again.
    """
    answer, fault = problem.answer, problem.fault
    if answer is not None:
        facts |= {"status": answer.status, "request_id": answer.request_id}
    if _may_have_acted(call, fault, doubted):
        return errors.OutcomeUnknown(
            f"it may have acted: {problem.reason}",
            **facts,
            safe_to_retry=call.idempotent,
            hint="Send it again; that does no harm." if call.idempotent else _LOOK_FIRST,
        )
    if answer is not None and answer.status >= 400:
        error = response_error(answer, problem.retry_after, **facts)
        if fault is Fault.REFUSED:
            error.hint = f"{error.hint} Not tried again: {why}."
        return error
    if fault is Fault.ODD:
        return errors.InvalidResponse(
            _odd_reason(problem), **facts, json_path=problem.json_path, hint=_odd_hint(problem)
        )
    if deadline_is_over:
        return errors.DeadlineExceeded(
            f"the deadline is over; at last {problem.reason}",
            **facts,
            hint="Give it a longer deadline.",
        )
    if fault is Fault.UNCERTAIN:
        return errors.ConnectionLost(problem.reason, **facts, hint=f"Not tried again: {why}.")
    hint = "Check the base URL, and that the server can be reached from here."
    if fault is Fault.UNTRUSTED:
        hint = "Check the server's certificate, or give ssl= a context that trusts it."
    return errors.ConnectionFailed(problem.reason, **facts, hint=hint)


def _may_have_acted(call: Call[Any], fault: Fault, doubted: bool) -> bool:
    """Whether nobody can tell if it acted. An answer of 4xx can: it is that error."""
    if not call.effect or fault in {Fault.DENIED, Fault.QUOTA}:
        return False
    return doubted or fault in {Fault.UNCERTAIN, Fault.ODD}


def _odd_reason(problem: Problem) -> str:
    where = f" at {problem.json_path}" if problem.json_path else ""
    body = excerpt(problem.answer.body[:800].decode(errors="replace")) if problem.answer else ""
    return f"{excerpt(problem.reason)}{where}" + (f"; the body begins {body!r}" if body else "")


def _odd_hint(problem: Problem) -> str:
    if problem.answer is not None and 300 <= problem.answer.status < 400:
        return "Is base_url the API's own address? Redirects would carry the key elsewhere."
    return "Is base_url the API's own address, and not a proxy's or a web page's?"
