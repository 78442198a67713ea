"""What a session is told: checked here, before any I/O."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from enum import Enum, auto
from typing import Any, Final, TypeAlias, cast

import msgspec

from ._checks import check_seconds, plain
from ._retry import RetryPolicy
from ._wire import Secret, check_credential, seal
from .errors import ConfigurationError, CredentialError

__all__ = [
    "DEFAULT_BASE_URL",
    "UNSET",
    "ApiKey",
    "CallOptions",
    "GivenKeys",
    "KeySource",
    "SealedHeaders",
    "Unset",
    "call_options",
    "changed",
    "resolve_key",
]

DEFAULT_BASE_URL = "https://api-staging.knowledgestack.ai"

ApiKey: TypeAlias = str | Callable[[], str | Awaitable[str]]
"""A key, or a function (a coroutine function too) that is asked for it for each request."""

KeySource = Secret | Callable[[], str | Awaitable[str]]

# What the session itself says in every request, or what would change where the message ends.
_RESERVED_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "host",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    }
)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class CallOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for one call, and can be changed by ``with_options``."""

    key: KeySource
    timeout: float
    deadline: float | None
    headers: SealedHeaders
    retry: RetryPolicy

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("timeout", self.timeout), ("deadline", self.deadline), ("retry", self.retry)]

    def __repr__(self) -> str:
        return f"<CallOptions: timeout {self.timeout}, deadline {self.deadline}, {self.retry}>"

    @property
    def identity(self) -> object:
        """What tells those apart who may see different things; a hash where there is a secret in it."""
        key = self.key.fingerprint if isinstance(self.key, Secret) else _Same(self.key)
        return key, self.headers.fingerprint


class _Same:
    """Equal for one and the same function, whether or not that can be hashed."""

    __slots__ = ("_function",)

    def __init__(self, function: object) -> None:
        self._function = function

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._function is other._function

    def __hash__(self) -> int:
        return id(self._function)


class Unset(Enum):
    """An option that isn't given, where None means something."""

    UNSET = auto()


UNSET: Final = Unset.UNSET


def call_options(
    api_key: KeySource | None,
    timeout: float,
    deadline: float | None,
    headers: SealedHeaders | None,
    retry: RetryPolicy | None,
) -> CallOptions:
    """The options of a session, from its arguments and the environment.

    Raises:
        ConfigurationError: One of them is missing or wrong.
    """
    if api_key is None:
        found = os.environ.get("KS_API_KEY")
        api_key = Secret(found) if found else None
        del found
    if not api_key:
        raise ConfigurationError("no API key: set KS_API_KEY, or give Session(api_key=...)")
    return CallOptions(
        key=_checked_key(api_key),
        timeout=check_seconds(timeout, "timeout"),
        deadline=None if deadline is None else check_seconds(deadline, "deadline"),
        headers=_checked_headers(SealedHeaders({}) if headers is None else headers),
        retry=_checked_retry(retry or RetryPolicy()),
    )


def changed(
    options: CallOptions,
    *,
    api_key: KeySource | None,
    timeout: float | None,
    deadline: float | Unset | None,
    headers: SealedHeaders | None,
    retry: RetryPolicy | None,
) -> CallOptions:
    """The options with some of them changed; None leaves one as it is, headers are added.

    A deadline that is None is taken off.

    Raises:
        ConfigurationError: One of them is wrong.
    """
    changes: dict[str, Any] = {}
    if api_key is not None:
        changes["key"] = _checked_key(api_key)
    if timeout is not None:
        changes["timeout"] = check_seconds(timeout, "timeout")
    if not isinstance(deadline, Unset):
        changes["deadline"] = None if deadline is None else check_seconds(deadline, "deadline")
    if headers is not None:
        changes["headers"] = options.headers.merged(_checked_headers(headers).reveal())
    if retry is not None:
        changes["retry"] = _checked_retry(retry)
    return msgspec.structs.replace(options, **changes)


async def resolve_key(source: KeySource) -> Secret:
    """The key to send now.

    Raises:
        ConfigurationError: The function that was asked for it gave none.
        CredentialError: It raised something.
    """
    if isinstance(source, Secret):
        return source
    try:
        found = seal(source())
        if inspect.isawaitable(found):
            found = seal(await found)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # What the function waited for was cancelled, and not the call.
        raise ConfigurationError("the function for api_key or token was cancelled") from None
    except Exception as error:
        raise CredentialError(
            f"the function for api_key or token raised {type(error).__name__}",
            hint="Nothing was sent. What it raised is this error's cause.",
        ) from error
    return check_credential(found, "what the function for api_key or token gave")


class GivenKeys:
    """The last keys that functions gave, by which they can be taken out of a text."""

    MOST = 100

    def __init__(self) -> None:
        self._keys: dict[bytes, Secret] = {}

    def __iter__(self) -> Iterator[Secret]:
        return iter(self._keys.values())

    async def resolve(self, source: KeySource) -> Secret:
        """As `resolve_key` does."""
        key = await resolve_key(source)
        if key is not source:
            self._keys[key.fingerprint] = key
            if len(self._keys) > self.MOST:
                del self._keys[next(iter(self._keys))]
        return key


def _checked_key(api_key: KeySource) -> KeySource:
    return api_key if callable(api_key) else check_credential(api_key)


class SealedHeaders:
    """Headers that don't show themselves: a key may have been put among them."""

    def __init__(self, headers: object) -> None:
        self._headers = headers

    def problem(self) -> str:
        """What is wrong with them; nothing if all is well."""
        headers = self._headers
        if not isinstance(headers, Mapping):
            return f"headers must be a mapping, not {type(headers).__name__}"
        given = cast("Mapping[object, object]", headers)
        return next(filter(None, (_header_problem(*header) for header in given.items())), "")

    def reveal(self) -> dict[str, str]:
        """The headers themselves."""
        given = cast("Mapping[str, str]", self._headers)
        return {plain(name): plain(value) for name, value in given.items()}

    def merged(self, others: Mapping[str, str]) -> SealedHeaders:
        """These and others, which stand in the place of those of the same names."""
        replaced = set(map(str.lower, others))
        own = self.reveal().items()
        return SealedHeaders({n: v for n, v in own if n.lower() not in replaced} | dict(others))

    @property
    def fingerprint(self) -> frozenset[bytes]:
        """What tells headers from others, and doesn't tell them."""
        named = self.reveal().items()
        return frozenset(Secret(f"{name.lower()}: {value}").fingerprint for name, value in named)


def _header_problem(name: object, value: object) -> str:
    if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
        return f"{name!r} is not the name of a header"
    if name.lower() in _RESERVED_HEADERS:
        is_key = name.lower() == "authorization"
        hint = "give api_key instead" if is_key else "the session sets it"
        return f"the header {name} can't be set: {hint}"
    if not isinstance(value, str) or any(ord(char) < 0x20 or ord(char) == 0x7F for char in value):
        return f"the header {name} must be a text without control characters"
    return ""


def _checked_headers(headers: SealedHeaders) -> SealedHeaders:
    problem = headers.problem()
    if problem:
        raise ConfigurationError(problem)
    return headers


def _checked_retry(retry: object) -> RetryPolicy:
    if not isinstance(retry, RetryPolicy):
        raise ConfigurationError(f"retry must be a RetryPolicy, not {type(retry).__name__}")
    return retry
