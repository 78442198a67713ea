"""The HTTP of it without any I/O: what a request is, what an answer means, what an id may be."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import IntEnum
from hashlib import sha256
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import quote, urlsplit
from uuid import UUID

import msgspec
from yarl import URL

from ._checks import plain
from ._codec import DecodeError, decode_model, decode_summary_page
from ._dialects import Dialect, Route, Target, window_of
from .errors import ConfigurationError
from .models import PaginatedResponse, WireObject, WorkflowSummaryResponse

__all__ = [
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
    "list_reader",
    "model_reader",
    "route_target",
    "seal",
]

T = TypeVar("T")
ModelT = TypeVar("ModelT", bound=WireObject)

EXCERPT_LENGTH = 200

_UNRESERVED = re.compile(r"[\w.~-]+", re.ASCII)
_PLAIN_ID = re.compile(r"[^\x00-\x1f\x7f-\x9f/\\\ud800-\udfff]+")


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
