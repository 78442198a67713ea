"""What the service answers, and how it words a refusal."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec
from attrs import evolve, field, frozen

from knowledgestack_async.sandbox.dialects import Dialect

UNAUTHORIZED = 401
_CODES: Mapping[int, str] = MappingProxyType(
    {
        400: "bad_request",
        401: "unauthorized",
        403: "forbidden",
        404: "not_found",
        409: "conflict",
        422: "unprocessable_entity",
        429: "too_many_requests",
        500: "internal_error",
        501: "not_implemented",
        503: "service_unavailable",
    }
)


@frozen
class Answer:
    """An answer that isn't encoded yet.

    Args:
        status: The HTTP status.
        payload: What the body says, to be encoded as JSON; None means no body.
        headers: Further headers.
    """

    status: int
    payload: Any = None
    headers: Mapping[str, str] = field(factory=dict[str, str])

    def encode(self) -> bytes:
        """Return the body."""
        return b"" if self.payload is None else msgspec.json.encode(self.payload)


def make_problem(
    dialect: Dialect, number: int, status: int, detail: Any, code: str | None = None
) -> Answer:
    """Write an error in a generation's words.

    Args:
        dialect: The generation.
        number: The number of the request.
        status: The HTTP status.
        detail: A text, or a list of problems.
        code: The error code; by default the one that goes with the status, where the generation
            has codes.
    """
    body: dict[str, Any] = {"detail": detail}
    if dialect.coded:
        body["code"] = code or _CODES.get(status, "error")
        body["request_id"] = make_request_id(number)
    elif code is not None:
        body["code"] = code
    headers = {"WWW-Authenticate": "Bearer"} if status == UNAUTHORIZED else {}
    return sign(dialect, number, Answer(status, body, headers))


def sign(dialect: Dialect, number: int, answer: Answer) -> Answer:
    """Add the request's id to an answer's headers, where the generation does that."""
    if not dialect.coded:
        return answer
    return evolve(answer, headers={**answer.headers, "x-request-id": make_request_id(number)})


def make_request_id(number: int) -> str:
    """Return the id that the service gives to its n-th request."""
    return f"sandbox-{number:08d}"
