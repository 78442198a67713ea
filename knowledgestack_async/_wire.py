"""The HTTP of it without any I/O: what a request is, what an answer means, what an id may be."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import IntEnum
from hashlib import sha256
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar, cast
from urllib.parse import quote, urlsplit
from uuid import UUID

import msgspec
from yarl import URL

from . import errors
from ._checks import plain
from ._codec import DecodeError, decode_json, decode_model, decode_summary_page
from ._dialects import Dialect, Route, Target, window_of
from .errors import ConfigurationError, FieldError, ResponseError
from .models import PaginatedResponse, WireObject, WorkflowSummaryResponse

__all__ = [
    "ERROR_LIMIT",
    "Answer",
    "Call",
    "Misdelivered",
    "Priority",
    "Secret",
    "Withdrawn",
    "check_base_url",
    "check_credential",
    "check_id",
    "excerpt",
    "http_date",
    "is_foreign",
    "is_quota_refusal",
    "lacks_route",
    "list_reader",
    "model_reader",
    "names_missing_thing",
    "read_bulk_answer",
    "read_retry_after",
    "response_error",
    "route_target",
    "seal",
]

T = TypeVar("T")
ModelT = TypeVar("ModelT", bound=WireObject)

EXCERPT_LENGTH = 200
ERROR_LIMIT = 2**18

_UNRESERVED = re.compile(r"[\w.~-]+", re.ASCII)
_PLAIN_ID = re.compile(r"[^\x00-\x1f\x7f-\x9f/\\\ud800-\udfff]+")
_NO_ROUTE = "Not Found"
"""What the service's framework says where it has no such route."""


class Priority(IntEnum):
    """Who goes first when slots are short."""

    PROBE = 0
    """Asks whether the server is there; goes even where no slot is free."""
    OUTCOME = 1
    """Reports what came of a run; has slots beside those of all others."""
    URGENT = 2
    NORMAL = 3
    BACKGROUND = 4


class Secret:
    """A credential that doesn't show itself when it is printed, logged or pickled."""

    SHORTEST = 8

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = plain(text)

    def __bool__(self) -> bool:
        return bool(self._text)

    def reveal(self) -> str:
        """The credential itself."""
        return self._text

    @property
    def is_plain_word(self) -> bool:
        """Whether a header takes it."""
        text = self._text
        return bool(text) and text.isascii() and text.isprintable() and " " not in text

    @property
    def fingerprint(self) -> bytes:
        """What tells one credential from another, and doesn't tell it."""
        return sha256(self._text.encode()).digest()

    def hide_in(self, body: bytes) -> bytes:
        """A foreign text, without the credential in it."""
        return body.replace(self._text.encode(), b"[secret]")

    def hide_in_text(self, text: str) -> str:
        """The same, for a text that may have words of our own in it: a short one would cut these up."""
        return text.replace(self._text, "[secret]") if len(self._text) >= self.SHORTEST else text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a credential is not pickled")


def _keep() -> None:
    """Nothing to drop."""


class Answer(msgspec.Struct, frozen=True):
    """A whole answer: status, headers, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    discard: Callable[[], None] = _keep
    """Drop the connection that it came on, which can't be trusted any more."""
    is_on_reused: bool = False
    """Whether it came on a connection that had served another request before."""

    def __repr__(self) -> str:
        return f"<Answer: {self.status}, {len(self.body)} bytes>"

    @property
    def request_id(self) -> str | None:
        """What the server calls this request, if it says so."""
        found = self.headers.get("x-request-id")
        return excerpt(found) if found else None


class Misdelivered(Exception):
    """The answer is about something else than was asked: a late one to an earlier request."""


class Withdrawn(Exception):
    """The call isn't to be sent any more. So often it was sent before, and the server refused it."""

    def __init__(self, tries: int = 0) -> None:
        super().__init__(tries)
        self.tries = tries


class Permit(Protocol):
    """Whether a call may be sent, for as long as it isn't.

    As a block, it is around what the call waits for before it is sent: it ends, and raises
    Withdrawn, when the call is withdrawn.
    """

    def may_send(self) -> bool:
        """Asked at the last moment before each try."""
        ...

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class Call(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """One call in the API's terms; which path and query that is, is the dialect's to say.

    Attributes:
        method: The HTTP method.
        target: Path and query in a given dialect.
        read: What the answer's body means in a given dialect. Raises DecodeError or Misdelivered.
        accepted: For calls that must not be sent twice: what a success means whose body can't be read.
        idempotent: Whether sending it twice does no harm.
        effect: Whether it changes anything on the server.
        body: The JSON that is sent.
        priority: Who goes first when slots are short.
        route: The route, where its path differs between dialects, so that a 404 may mean that it moved.
        gone: What a 404 means after an earlier try that may have acted, where that is a success.
        own_connection: Whether the answer names nothing of the request, so that only a connection of
            its own proves that it belongs to it.
        credential: What to send instead of the session's key.
        exempt: Whether it is sent again even when the session's retry budget is empty.
        permit: Whether it may be sent; if it says no, the call is withdrawn.
    """

    method: str
    target: Callable[[Dialect], Target]
    read: Callable[[Answer, Dialect], T]
    accepted: Callable[[Answer], T] | None = None
    idempotent: bool = True
    effect: bool = False
    body: bytes | None = None
    priority: Priority = Priority.NORMAL
    route: Route | None = None
    gone: Callable[[], T] | None = None
    own_connection: bool = False
    credential: Secret | None = None
    exempt: bool = False
    permit: Permit | None = None

    @property
    def key(self) -> object:
        """What tells its route from others, as far as their failures are told apart."""
        return self.method, self.route, self.priority is Priority.OUTCOME

    def __repr__(self) -> str:
        return f"<Call: {self.method} {self.route or ''}>"


def check_id(value: object, what: str = "workflow_id") -> str:
    """An id as one safe segment of a path.

    Raises:
        ConfigurationError: It is not a text or UUID, is empty, or could reach another route.
    """
    if isinstance(value, UUID):
        return str(value)
    if not isinstance(value, str):
        raise ConfigurationError(f"{what} must be a str or UUID, not {type(value).__name__}")
    value = plain(value)
    if _PLAIN_ID.fullmatch(value) and value not in {".", ".."}:
        return value
    problem = ""
    if not value:
        problem = "is empty"
    elif value in {".", ".."} or "/" in value or "\\" in value:
        problem = "could reach another route: '.', '..', slashes and backslashes are refused"
    elif any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in value):
        problem = "has control characters in it"
    else:
        problem = "has half a character in it (a lone surrogate)"
    raise ConfigurationError(f"{what} '{excerpt(value)}' {problem}")


def route_target(route: Route, resource_id: str) -> Callable[[Dialect], Target]:
    """The target of a call on one resource.

    Raises:
        ConfigurationError: The id would reach the list route instead.
    """
    taken = {Route.WORKFLOW: "document_versions", Route.INGESTION: "bulk-rerun"}
    if resource_id == taken.get(route):
        other = "list of ingestions" if route is Route.WORKFLOW else "bulk rerun"
        raise ConfigurationError(f"workflow_id {resource_id!r} would reach the {other} instead")
    plain = _UNRESERVED.fullmatch(resource_id) is not None
    segment = resource_id if plain else quote(resource_id, safe="")
    return lambda dialect: Target(dialect.paths[route].replace("{id}", segment))


def model_reader(
    model: type[ModelT], *, echo: str | None = None, expected: str = ""
) -> Callable[[Answer, Dialect], ModelT]:
    """A reader of one model that also checks that the answer is about what was asked.

    Args:
        model: The class to read.
        echo: The field that repeats the request's id.
        expected: What it must be.
    """

    def read(answer: Answer, _dialect: Dialect) -> ModelT:
        made = decode_model(answer.body, model)
        echoed = expected if echo is None else str(getattr(made, echo))
        if echoed != expected and not _is_same_id(echoed, expected):
            raise Misdelivered(f"asked about {expected}, answered about {echoed}")
        return made

    return read


def _is_same_id(one: str, other: str) -> bool:
    """Whether they differ only in how they are written: in their case, or as UUIDs are."""
    if one.lower() == other.lower():
        return True
    try:
        return UUID(one) == UUID(other)
    except ValueError:
        return False


def list_reader(
    start: int, size: int
) -> Callable[[Answer, Dialect], PaginatedResponse[WorkflowSummaryResponse]]:
    """A reader of a page of ingestions that also checks that it is the page that was asked for.

    Args:
        start: How many items come before the page.
        size: How many items were asked for; the server may have a mind of its own about that.
    """

    def read(answer: Answer, dialect: Dialect) -> PaginatedResponse[WorkflowSummaryResponse]:
        page = decode_summary_page(answer.body)
        if window_of(page) is None or page.total < 0:
            raise DecodeError("the envelope doesn't say which page of how many items it is", "$")
        numbered = page.offset is None
        if numbered == dialect.paging.by_number:
            asked, found = (start // size + 1, page.page) if numbered else (start, page.offset)
            if asked != found:
                raise Misdelivered(f"asked for the page at {asked}, got the one at {found}")
        return page

    return read


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


def check_base_url(given: Secret | object, *, allow_plain_http: bool) -> str:
    """The base URL without its trailing slash; a path in it is kept as a prefix.

    Args:
        given: The URL, sealed: it may be a key that was given in its place.
        allow_plain_http: Whether plain http to another machine is taken.

    Raises:
        ConfigurationError: It is not an http(s) URL, or has a user, query or fragment, or is plain
            http to another machine.
    """
    if not isinstance(given, Secret):
        raise ConfigurationError(f"base_url must be a str, not {type(given).__name__}")
    url, problem = _read_base_url(given, allow_plain_http=allow_plain_http)
    if problem:
        raise ConfigurationError(f"base_url{problem}")
    return url


def _read_base_url(given: Secret, *, allow_plain_http: bool) -> tuple[str, str]:
    """The URL as it goes out, in ASCII, and what is wrong with it; nothing if all is well."""
    text = given.reveal()
    problem = _base_url_problem(text, allow_plain_http=allow_plain_http)
    if not problem:
        try:
            # A host goes out as IDNA has it, the rest percent-encoded (RFC 9110, 4.2; RFC 3986).
            url = URL(text, encoded=True) if text.isascii() else URL(text)
            _ = url.raw_host, url.port
            return str(url).rstrip("/"), ""
        except (ValueError, UnicodeError):
            problem = "it must look like https://host or https://host/prefix"
    # What doesn't look like a URL at all may be a key, and isn't shown.
    looks_like_one = re.match(r"[a-z]+://", text, re.IGNORECASE) is not None
    shown = excerpt(text.rpartition("@")[2].partition("?")[0]) if looks_like_one else ""
    return "", f" ('{shown}'): {problem}" if shown else f": {problem}"


def _base_url_problem(text: str, *, allow_plain_http: bool) -> str:
    try:
        parts = urlsplit(text)
        host = parts.hostname
        _ = parts.port
    except ValueError as error:
        return str(error)
    problem = ""
    if " " in text or not text.isprintable():
        problem = "it has spaces or control characters in it"
    elif parts.scheme not in {"http", "https"} or not host:
        problem = "it must look like https://host or https://host/prefix"
    elif "\\" in text or not _is_one_host(parts.netloc):
        problem = "its host can be read in two ways"
    elif parts.username is not None or parts.password is not None:
        problem = "it must not hold a user or password; the key is given as api_key"
    elif "?" in text or "#" in text:
        problem = "it must not hold a query or fragment"
    elif {".", ".."} & set(parts.path.split("/")):
        problem = "its path must not hold '.' or '..'"
    elif parts.scheme == "http" and not allow_plain_http and not _is_loopback(host):
        problem = "plain http would show the key on the way; use https, or allow_plain_http=True"
    return problem


def _is_one_host(netloc: str) -> bool:
    """Whether an address in brackets is all of the host."""
    host = netloc.rpartition("@")[2]
    return "[" not in host or re.fullmatch(r"\[[^\[\]]+\](:[0-9]*)?", host) is not None


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def seal(value: str | T) -> Secret | T:
    """A text as a secret, so that no frame that an error may show has it as a text."""
    return Secret(value) if isinstance(value, str) else value


def check_credential(credential: object, what: str = "api_key") -> Secret:
    """A sealed credential that can stand in a header.

    Raises:
        ConfigurationError: It is not a text, empty, or has characters that no header takes.
    """
    if not isinstance(credential, Secret):
        raise ConfigurationError(f"{what} must be a str, not {type(credential).__name__}")
    if not credential.is_plain_word:
        raise ConfigurationError(
            f"{what} must be one word of plain ASCII (a key looks like sk-user-...); "
            "is there a space or a line break in it?"
        )
    return credential


def excerpt(text: str, length: int = EXCERPT_LENGTH) -> str:
    """At most so many characters of a foreign text, with control characters escaped."""
    if len(text) <= length and text.isprintable():
        return text
    cut = text[: length + 1]
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in cut)
    return shown if len(shown) <= length else shown[: length - 1] + "…"


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
    if _NUMBER.fullmatch(text.strip()):
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


def _as_object(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


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
