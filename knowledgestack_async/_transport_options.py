"""The way to the server as users set it: proxy, TLS, an aiohttp session of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from ssl import SSLContext
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from ._version import __version__
from ._wire import Secret
from .errors import ConfigurationError

__all__ = [
    "COMMON_HEADERS",
    "Disconnected",
    "TransportOptions",
    "check_session",
    "for_a_given_session",
]

# What every request says; where the pool is the user's, each request has to say it itself.
COMMON_HEADERS: Mapping[str, str] = {
    "Accept": "application/json",
    "Accept-Encoding": "gzip, deflate",
    "User-Agent": f"knowledgestack-async/{__version__}",
}


class TransportOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What users can say about the way to the server."""

    client_session: aiohttp.ClientSession | None = None
    trace_configs: Sequence[aiohttp.TraceConfig] = ()
    proxy: Secret | None = None
    ssl: SSLContext | bool | aiohttp.Fingerprint = True

    @property
    def pool_size(self) -> int:
        """How many connections a user's pool has for one server; 0 for no limit."""
        connector = None if self.client_session is None else self.client_session.connector
        limits = [getattr(connector, name, 0) for name in ("limit", "limit_per_host")]
        return min(filter(None, limits), default=0)

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("proxy", self.proxy is not None), ("ssl", self.ssl)]

    def __repr__(self) -> str:
        return f"<TransportOptions: proxy {self.proxy is not None}, ssl {self.ssl}>"

    def check(self) -> None:
        """Make sure that aiohttp takes them.

        Raises:
            ConfigurationError: It doesn't.
        """
        _expect(self.client_session, aiohttp.ClientSession | None, "client_session")
        _expect(self.trace_configs, list | tuple, "trace_configs")
        for one in self.trace_configs:
            _expect(one, aiohttp.TraceConfig, "each of trace_configs")
        if self.client_session is not None and self.trace_configs:
            raise ConfigurationError(
                "trace_configs go with a pool of our own: give them to client_session instead"
            )
        _expect(self.ssl, SSLContext | bool | aiohttp.Fingerprint, "ssl")
        if self.proxy is not None and not _is_proxy(self.proxy.reveal()):
            raise ConfigurationError("proxy must look like http://host:port")


def _expect(value: object, kind: Any, name: str) -> None:
    if not isinstance(value, kind):
        wanted = getattr(kind, "__name__", str(kind).replace(" | None", ""))
        raise ConfigurationError(f"{name} must be {wanted}, not {type(value).__name__}")


def _is_proxy(proxy: str) -> bool:
    try:
        parts = urlsplit(proxy)
        return parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        return False


class Disconnected(Exception):
    """A disconnect that aiohttp doesn't recognise, so that it doesn't send the request again itself."""


# For a pool of the user's; ours sees to it in its connector, at no cost.
async def _no_silent_resend(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise Disconnected(type(error).__name__) from None


def for_a_given_session(
    session: aiohttp.ClientSession, credential: Secret, *, once: bool
) -> dict[str, Any]:
    """What a request through a user's aiohttp session says itself, so that it means what ours means.

    The session's own middlewares are around it; ours come first, so that one of them may change the
    key, and last.
    """

    async def with_key(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        request.headers["Authorization"] = f"Bearer {credential.reveal()}"
        return await handler(request)

    own: Sequence[Any] = getattr(session, "_middlewares", ())
    return {
        "middlewares": (with_key, *own, *([_no_silent_resend] if once else [])),
        "raise_for_status": False,
        "timeout": aiohttp.ClientTimeout(total=None),
    }


def check_session(session: aiohttp.ClientSession) -> None:
    """Make sure that a user's aiohttp session can be used on this loop.

    Raises:
        ConfigurationError: It can't.
    """
    if session.closed:
        raise ConfigurationError("the aiohttp session given as client_session is closed")
    if getattr(session, "_loop", None) is not asyncio.get_running_loop():
        raise ConfigurationError(
            "the aiohttp session given as client_session belongs to another event loop"
        )
    for name in session.headers:
        if name.lower() in _FRAMING:
            raise ConfigurationError(
                f"client_session has the header {name}, which would change every request: take it out"
            )


_FRAMING = frozenset(
    {"connection", "content-encoding", "content-length", "expect", "host", "te", "trailer"}
    | {"transfer-encoding", "upgrade"}
)
