"""Every error that the SDK raises, as one tree.

```
KnowledgeStackError
├── ConfigurationError (ValueError)      a setting or an argument is wrong; nothing was sent
│   └── JournalError                     a journal can't be used
├── SessionError (RuntimeError)          it is not open, or belongs to another loop
├── WalkError                            the list contradicts itself, or changes too fast
└── RequestError                         one call failed; may it be sent again?
    ├── CredentialError                  the function for the key failed: nothing was sent
    ├── ConnectionFailed                 no connection could be made: nothing was sent
    ├── ConnectionLost                   a read was sent, and no whole answer came
    ├── OutcomeUnknown                   it may have acted, and nobody can tell
    ├── DeadlineExceeded (TimeoutError)  the time for the whole call is over
    ├── InvalidResponse                  not what the API promises; see ``json_path``
    ├── AlreadyFinished                  it is over: there is nothing left to cancel
    └── ResponseError                    the server answered, and said no
        ├── BadRequest           400
        ├── Unauthorized         401
        ├── Forbidden            403
        ├── NotFound             404
        ├── Conflict             409
        ├── UnprocessableEntity  422     with the server's list of fields
        ├── TooManyRequests      429     with ``retry_after``
        │   └── QuotaExceeded    429     waiting a little does not help
        └── ServerError          5xx
            └── ServiceUnavailable 503   with ``retry_after``
```

All of them pickle, and none of them holds a credential.
"""

from __future__ import annotations

from typing import Any

import attrs

# attrs takes its time to make a class, so only those are decorated that have fields of their own.

__all__ = [
    "AlreadyFinished",
    "BadRequest",
    "ConfigurationError",
    "Conflict",
    "ConnectionFailed",
    "ConnectionLost",
    "CredentialError",
    "DeadlineExceeded",
    "FieldError",
    "Forbidden",
    "InvalidResponse",
    "JournalError",
    "KnowledgeStackError",
    "NotFound",
    "OutcomeUnknown",
    "QuotaExceeded",
    "RequestError",
    "ResponseError",
    "ServerError",
    "ServiceUnavailable",
    "SessionError",
    "TooManyRequests",
    "Unauthorized",
    "UnprocessableEntity",
    "WalkError",
]


class KnowledgeStackError(Exception):
    """The root of the tree: catch this to catch everything that the SDK raises."""


class ConfigurationError(KnowledgeStackError, ValueError):
    """A setting or an argument is wrong. Raised before anything is sent."""


class JournalError(ConfigurationError):
    """A journal can't be used: it is foreign, torn, newer, in use, or of another job."""


class SessionError(KnowledgeStackError, RuntimeError):
    """The session is used before it is opened, after it is closed, or on another event loop."""


class WalkError(KnowledgeStackError):
    """A list contradicts itself (endless empty pages), or changes faster than it can be read."""


@attrs.frozen
class FieldError:
    """One entry of the field list that a 422 carries."""

    location: tuple[str | int, ...]
    """Where the wrong value is, such as ``("query", "page")``."""
    message: str
    """What the server says is wrong with it."""
    type: str = ""
    """The server's name for the kind of mistake."""

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.location))}: {self.message}"


@attrs.define(eq=False, slots=False)
class RequestError(KnowledgeStackError):
    """One call failed.

    Attributes:
        message: What happened, in the server's words where it said something
            (at most 200 characters of them, control characters escaped).
        method: The HTTP method of the call.
        path: The path of the call, with the id in it.
        status: The HTTP status of the last answer, if there was one.
        code: The server's error code, in the generation that has them.
        request_id: The server's ``x-request-id``, for its support.
        tries: How often the call was sent, or was about to be.
        safe_to_retry: Whether sending the call again can do no harm.
        hint: What to do about it.
    """

    message: str
    method: str = ""
    path: str = ""
    status: int | None = None
    code: str | None = None
    request_id: str | None = None
    tries: int = 0
    safe_to_retry: bool = True
    hint: str = ""

    def __str__(self) -> str:
        facts = [
            f"status {self.status}" if self.status is not None else "",
            f"code {self.code}" if self.code else "",
            f"request id {self.request_id}" if self.request_id else "",
            f"{self.tries} {'try' if self.tries == 1 else 'tries'}",
            "safe to send again" if self.safe_to_retry else "not safe to send again",
        ]
        call = f"{self.method} {self.path}: " if self.method else ""
        text = f"{call}{self.message} ({', '.join(filter(None, facts))})"
        return f"{text}. {self.hint}" if self.hint else text


class CredentialError(RequestError):
    """The function for ``api_key`` or ``token`` raised something, so nothing was sent.

    What it raised is the error's ``__cause__``.
    """


class ConnectionFailed(RequestError):
    """No connection could be made, so nothing was sent."""


class ConnectionLost(RequestError):
    """The call was sent, and no whole answer came back in time. Only for calls that change nothing."""


class OutcomeUnknown(RequestError):
    """The call may have acted on the server; no answer says whether it did.

    Look before sending it again: a rerun that is sent twice may run twice. Where
    ``safe_to_retry`` is true (deleting a run, a callback) sending it again does no harm.
    """


@attrs.define(eq=False, slots=False)
class DeadlineExceeded(RequestError, TimeoutError):
    """The time given for the whole call is over.

    Attributes:
        last: For waits, the last state that was seen, if any.
        retry_after: What the server asked for, in seconds, where that was longer than the time left.
    """

    last: Any = None
    retry_after: float | None = None


@attrs.define(eq=False, slots=False)
class InvalidResponse(RequestError):
    """The answer is not what the API promises: not JSON, cut, a redirect, or a value of a wrong type.

    Attributes:
        json_path: Where the wrong value is, such as ``$.items[3].status``; None where all of it is wrong.
    """

    json_path: str | None = None


@attrs.define(eq=False, slots=False)
class AlreadyFinished(RequestError):
    """The workflow is over, so there is nothing to cancel. Nothing was sent to cancel it.

    Attributes:
        last: The state that was read.
    """

    last: Any = None


class ResponseError(RequestError):
    """The server answered, and said no."""


class BadRequest(ResponseError):
    """400: the server can't make sense of the request."""


class Unauthorized(ResponseError):
    """401: the key is missing, wrong or expired."""


class Forbidden(ResponseError):
    """403: the key is good, but not for this."""


@attrs.define(eq=False, slots=False)
class NotFound(ResponseError):
    """404: there is no such thing, or this key may not see it.

    Attributes:
        names_it: Whether the API says what it can't find. A route that isn't there, or a proxy, answers
            404 as well, and says nothing about the thing.
        lacks_route: Whether the service itself says that it has no such route.
    """

    names_it: bool = False
    lacks_route: bool = False


class Conflict(ResponseError):
    """409: the state of the thing doesn't allow it, such as rerunning a superseded version."""


@attrs.define(eq=False, slots=False)
class UnprocessableEntity(ResponseError):
    """422: the server names the fields that it can't take.

    Attributes:
        fields: One entry a field.
    """

    fields: tuple[FieldError, ...] = ()


@attrs.define(eq=False, slots=False)
class TooManyRequests(ResponseError):
    """429: slow down.

    Attributes:
        retry_after: The seconds to wait that the server asked for, if it did.
    """

    retry_after: float | None = None


class QuotaExceeded(TooManyRequests):
    """429 for a quota that is used up: never sent again by itself, for waiting a little doesn't help."""


class ServerError(ResponseError):
    """5xx: the server failed."""


@attrs.define(eq=False, slots=False)
class ServiceUnavailable(ServerError):
    """503: the server can't answer now, and did nothing.

    Attributes:
        retry_after: The seconds to wait that the server asked for, if it did.
    """

    retry_after: float | None = None
