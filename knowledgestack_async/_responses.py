"""What an answer means: refusals and their reasons, pauses, and whether it is the API's at all."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, cast

from . import errors
from ._codec import DecodeError, decode_json
from ._dialects import Dialect
from ._wire import EXCERPT_LENGTH, Answer, excerpt
from .errors import FieldError, ResponseError

__all__ = [
    "ERROR_LIMIT",
    "http_date",
    "is_foreign",
    "is_quota_refusal",
    "lacks_route",
    "names_missing_thing",
    "read_bulk_answer",
    "read_retry_after",
    "response_error",
]

ERROR_LIMIT = 2**18


_NO_ROUTE = "Not Found"
"""What the service's framework says where it has no such route."""


def read_bulk_answer(answer: Answer, _dialect: Dialect) -> tuple[frozenset[str], dict[str, str]]:
    """What a bulk rerun took, by id, and why it didn't take the rest."""
    body = _as_object(decode_json(answer.body))
    if not isinstance(body.get("succeeded"), list) or not isinstance(body.get("failed"), list):
        raise DecodeError("a bulk rerun answers what succeeded and what failed", "$")
    refused = [_as_object(entry) for entry in body["failed"]]
    return (
        frozenset(map(str, body["succeeded"])),
        {str(entry.get("id")): excerpt(str(entry.get("reason"))) for entry in refused},
    )


def read_retry_after(headers: Mapping[str, str], wall_clock: float) -> float | None:
    """The seconds that ``Retry-After`` asks for, from a number or a date; None where it says nothing.

    A date is read against the answer's own ``Date``, so that a clock that is wrong here doesn't matter.
    """
    asked = [_seconds_in(text, headers, wall_clock) for text in _all_of(headers, "Retry-After")]
    return max((seconds for seconds in asked if seconds is not None), default=None)


def _all_of(headers: Mapping[str, str], name: str) -> list[str]:
    """The values of a header, each of a list and of a header that comes twice."""
    getall = getattr(headers, "getall", None)
    found: list[str] = [headers.get(name, "")] if getall is None else getall(name, [])
    return [text for value in found for text in [value, *value.split(", ")]]


def _seconds_in(text: str, headers: Mapping[str, str], wall_clock: float) -> float | None:
    text = text.strip(" \t")
    if _NUMBER.fullmatch(text):
        seconds = float(text)
        return seconds if math.isfinite(seconds) else None
    until = http_date(text)
    if until is None:
        return None
    sent = http_date(headers.get("Date", ""))
    return max(0.0, until - (wall_clock if sent is None else sent))


_NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?")


def http_date(text: str) -> float | None:
    """A date of HTTP in seconds since 1970, in any of its forms; None where it is none."""
    try:
        moment = parsedate_to_datetime(text)
        # All forms are in UTC (RFC 9110, 5.6.7); without a zone, or with -0000, it parses as naive.
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


_BY_STATUS: Mapping[int, type[ResponseError]] = {
    400: errors.BadRequest,
    401: errors.Unauthorized,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    422: errors.UnprocessableEntity,
    429: errors.TooManyRequests,
    503: errors.ServiceUnavailable,
}


_HINTS: Mapping[int, str] = {
    400: "The server says above what is wrong with the request.",
    401: "Check the key or token that was given, else KS_API_KEY, and that it is for this base URL.",
    403: "This key may not do that; ask for the right, or use another key.",
    404: "Check the id, and that the key may see it.",
    409: "Read its state first: what it is in doesn't allow this.",
    407: "A proxy on the way wants a user and a password: give them in proxy=.",
    422: "The server names the fields above.",
    429: "Slow down: lower max_in_flight or rate.",
    500: "The server failed; try again later, and tell its support the request id.",
    503: "The server is busy; try again in a moment.",
}


_NO_API = (
    "Nothing says what is missing: is base_url the API's own address, with its prefix? "
    "If it is, check the id."
)


def response_error(answer: Answer, retry_after: float | None, **facts: Any) -> ResponseError:
    """The error that an answer of 4xx or 5xx means, from either generation's body.

    Args:
        answer: The answer.
        retry_after: What it asks for, in seconds.
        facts: What the error tells besides: method, path, tries, safe_to_retry.
    """
    body = _error_body(answer)
    code = body.get("code")
    detail = body.get("detail")
    status = answer.status
    generic = errors.ServerError if status >= 500 else ResponseError
    kind = _BY_STATUS.get(status, generic)
    request_id = answer.request_id or body.get("request_id")
    facts |= {
        "status": status,
        "code": excerpt(code) if isinstance(code, str) else None,
        "request_id": excerpt(request_id) if isinstance(request_id, str) else None,
        "hint": _HINTS.get(status, _HINTS[500] if generic is errors.ServerError else ""),
    }
    if kind is errors.NotFound:
        facts["names_it"] = names_missing_thing(answer)
        facts["lacks_route"] = lacks_route(answer)
        if not facts["names_it"]:
            facts["hint"] = _NO_API
    if kind is errors.UnprocessableEntity:
        fields = _field_errors(detail)
        message = "; ".join(map(str, fields)) or _detail_text(detail, answer)
        return errors.UnprocessableEntity(message=excerpt(message), fields=fields, **facts)
    if status == 429 and code == "quota_exceeded":
        facts["hint"] = "A quota is used up; waiting a little doesn't help."
        kind = errors.QuotaExceeded
    if issubclass(kind, errors.TooManyRequests | errors.ServiceUnavailable):
        return kind(message=_detail_text(detail, answer), retry_after=retry_after, **facts)
    return kind(message=_detail_text(detail, answer), **facts)


def names_missing_thing(answer: Answer) -> bool:
    """Whether a 404 is the API's own word about the thing, and not a proxy's or an unrouted path's."""
    detail = _error_body(answer).get("detail")
    return isinstance(detail, str) and detail not in {"", _NO_ROUTE}


def lacks_route(answer: Answer) -> bool:
    """Whether a 404 is the service's own word that it has no such route."""
    return _error_body(answer).get("detail") == _NO_ROUTE


def is_foreign(answer: Answer) -> bool:
    """Whether a success is another server's page, such as a proxy's or a login's: not JSON by its type."""
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    body = answer.body.lstrip()
    if body.startswith(b"<"):
        return True
    if not kind:
        return False
    if kind == "text/json" or kind.endswith(("/json", "+json")):
        return False
    if not body:
        return answer.headers.get("Content-Length", "") not in {"", "0"} or (
            "Transfer-Encoding" in answer.headers
        )
    try:
        decode_json(answer.body)
    except DecodeError:
        return True
    return False


def is_quota_refusal(answer: Answer) -> bool:
    """Whether a 429 is for a quota that is used up."""
    return answer.status == 429 and _error_body(answer).get("code") == "quota_exceeded"


def _error_body(answer: Answer) -> Mapping[str, Any]:
    if len(answer.body) > ERROR_LIMIT:  # parsed, it would take many times the memory
        return {}
    try:
        return _as_object(decode_json(answer.body))
    except DecodeError:
        return {}


def _as_list(value: object) -> list[Any]:
    return [*value] if isinstance(value, list) else []  # pyright: ignore[reportUnknownVariableType]


def _detail_text(detail: object, answer: Answer) -> str:
    if isinstance(detail, str) and detail:
        return excerpt(detail)
    longest = 4 * (EXCERPT_LENGTH + 1)  # in UTF-8, with one more to see that it goes on
    return excerpt(answer.body[:longest].decode(errors="replace")) or "no explanation"


def _field_errors(detail: object) -> tuple[FieldError, ...]:
    entries = [_as_object(entry) for entry in _as_list(detail)]
    return tuple(
        FieldError(
            location=tuple(
                part if isinstance(part, int) else excerpt(str(part))
                for part in _as_list(entry.get("loc"))
            ),
            message=excerpt(str(entry.get("msg", ""))),
            type=excerpt(str(entry.get("type", ""))),
        )
        for entry in entries
    )


def _as_object(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}
