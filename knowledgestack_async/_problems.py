"""From what went wrong with a call to the error that says so."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import copy
from typing import Any, TypeGuard, TypeVar, cast

import msgspec

from . import errors
from ._codec import DecodeError, decode_json, encode_json
from ._dialects import Target
from ._responses import ERROR_LIMIT, names_missing_thing, response_error
from ._retry import Fault
from ._wire import Answer, Call, Secret, excerpt
from .errors import KnowledgeStackError, RequestError

__all__ = ["Problem", "call_facts", "hide_in_text", "make_error", "own_copy", "without_secrets"]

ErrorT = TypeVar("ErrorT", bound=KnowledgeStackError)

_LOOK_FIRST = "Look at its state before you send it again: it may run twice."


class Problem(msgspec.Struct, frozen=True):
    """Why a try failed, and what it tells about the next one."""

    fault: Fault
    reason: str
    answer: Answer | None = None
    retry_after: float | None = None
    json_path: str | None = None
    hung_up: bool = False
    """Whether it was us who didn't wait any longer."""
    hint: str = ""
    """What to do about it, where that isn't plain from the fault."""
    cause: Exception | None = None
    """What something of the user's raised."""


def without_secrets(secrets: Collection[object], answer: Answer) -> Answer:
    """An answer as an error or a log may show it, in whatever form the server repeated a credential."""
    for secret in filter(_is_secret, secrets):
        body = secret.hide_in(answer.body)
        if b"\\" in body and len(body) <= ERROR_LIMIT:
            body = _without_escaped(secret, body)
        headers, request_id = answer.headers, answer.request_id
        if request_id and secret.hide_in_text(request_id) != request_id:
            headers = {"x-request-id": "[secret]"}
        answer = msgspec.structs.replace(answer, headers=headers, body=body)
    return answer


def hide_in_text(secrets: Collection[object], text: str) -> str:
    """A text that may hold what the server said, without a credential."""
    for secret in filter(_is_secret, secrets):
        text = secret.hide_in_text(text)
    return text


def _is_secret(credential: object) -> TypeGuard[Secret]:
    """Whether it is the credential itself, and not a function that gives one."""
    return isinstance(credential, Secret)


def _without_escaped(secret: Secret, body: bytes) -> bytes:
    """JSON can spell each character in several ways."""
    try:
        parsed = decode_json(body)
    except DecodeError:
        return body
    try:
        hidden = _hide_in_json(secret, parsed)
    except RecursionError:
        return b""  # nested so deeply, it says nothing to anybody
    return body if hidden == parsed else encode_json(hidden)


def _hide_in_json(secret: Secret, value: Any) -> Any:
    if isinstance(value, str):
        return secret.hide_in_text(value)
    if isinstance(value, list):
        return [_hide_in_json(secret, one) for one in cast("Sequence[Any]", value)]
    if isinstance(value, dict):
        named = cast("Mapping[str, Any]", value).items()
        return {secret.hide_in_text(name): _hide_in_json(secret, one) for name, one in named}
    return value


def call_facts(call: Call[Any], target: Target, tries: int) -> dict[str, Any]:
    """What every error of a call tells."""
    return {"method": call.method, "path": target.path, "tries": tries}


def own_copy(error: ErrorT) -> ErrorT:
    """The same error for one more who waits: raised twice, one object's traceback grows each time."""
    made = copy(error)
    made.__cause__, made.__suppress_context__ = error.__cause__, True
    return made


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
    error = _make_error(call, facts, problem, doubted, deadline_is_over, why)
    error.__cause__ = problem.cause
    return error


def _make_error(
    call: Call[Any],
    facts: dict[str, Any],
    problem: Problem,
    doubted: bool,
    deadline_is_over: bool,
    why: str,
) -> RequestError:
    answer, fault = problem.answer, problem.fault
    if answer is not None:
        facts |= {"status": answer.status, "request_id": answer.request_id}
    is_unnamed_404 = answer is not None and answer.status == 404 and not names_missing_thing(answer)
    if _may_have_acted(call, fault, doubted=doubted, is_unnamed_404=is_unnamed_404):
        return errors.OutcomeUnknown(
            f"it may have acted: {problem.reason}",
            **facts,
            safe_to_retry=call.idempotent,
            hint="Send it again; that does no harm." if call.idempotent else _LOOK_FIRST,
        )
    if answer is not None and answer.status >= 400:
        error = response_error(answer, problem.retry_after, **facts)
        if fault in {Fault.REFUSED, Fault.LIMITED}:
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
        hint = problem.hint
    return errors.ConnectionFailed(problem.reason, **facts, hint=hint)


def _may_have_acted(call: Call[Any], fault: Fault, *, doubted: bool, is_unnamed_404: bool) -> bool:
    """Whether nobody can tell if it acted. An answer of 4xx can: it is that error."""
    if not call.effect or fault is Fault.QUOTA:
        return False
    if fault is Fault.DENIED:
        # A 404 that names nothing may be a proxy's: it says nothing of what an earlier try did.
        return doubted and is_unnamed_404
    return doubted or fault in {Fault.UNCERTAIN, Fault.ODD}


def _odd_reason(problem: Problem) -> str:
    where = f" at {problem.json_path}" if problem.json_path else ""
    body = excerpt(problem.answer.body[:800].decode(errors="replace")) if problem.answer else ""
    return f"{excerpt(problem.reason)}{where}" + (f"; the body begins {body!r}" if body else "")


def _odd_hint(problem: Problem) -> str:
    if problem.answer is not None and 300 <= problem.answer.status < 400:
        return "Is base_url the API's own address? Redirects would carry the key elsewhere."
    return "Is base_url the API's own address, and not a proxy's or a web page's?"
