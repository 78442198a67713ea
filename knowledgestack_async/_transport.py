"""One try over aiohttp's client: bytes in, bytes out, and never an error of aiohttp's."""

from __future__ import annotations

import asyncio
import os
import selectors
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Protocol, cast
from weakref import WeakSet, ref

import aiohttp
import msgspec
from yarl import URL

from ._body import Body, UnreadableBody, codings_of
from ._clock import Clock, Interruption
from ._dialects import Target
from ._transport_options import (
    COMMON_HEADERS,
    Disconnected,
    TransportOptions,
    check_session,
    for_a_given_session,
)
from ._wire import Answer, Secret

__all__ = ["Failure", "Transport"]


class Revealable(Protocol):
    """Headers that don't show themselves in a frame."""

    def reveal(self) -> dict[str, str]:
        """The headers themselves."""
        ...


class Failure(msgspec.Struct, frozen=True):
    """Why there is no whole answer. ``sent``: whether the server may have seen the request."""

    reason: str
    sent: bool
    is_final: bool = False
    """Whether it fails the next time as well, such as where the server can't prove who it is."""
    hint: str = ""
    cause: Exception | None = None
    """What a middleware or a trace config of the user's raised."""
    hung_up: bool = False
    """Whether it was us who didn't wait any longer."""
    answer: Answer | None = None
    """The status and headers, where only the body is missing."""


class _Progress(Interruption):
    """How far one try got: from the moment it has its connection on, the server may see it."""

    __slots__ = ("began", "connection", "head", "is_reused", "once", "patient", "sent")

    def __init__(self, began: float, *, sent: bool, once: bool, patient: bool) -> None:
        self.began = began
        self.head: Answer | None = None
        self.once = once
        self.patient = patient
        self.sent = sent
        self.is_reused = sent
        self.connection: asyncio.BaseTransport | None = None

    def connected(self, connection: asyncio.BaseTransport | None, *, is_reused: bool) -> None:
        self.sent = True
        self.is_reused = is_reused
        self.connection = connection

    def discard(self) -> None:
        if self.connection is not None:
            self.connection.close()


_CURRENT_TRY: ContextVar[_Progress | None] = ContextVar("current_try", default=None)


# The kinds that need no descriptor of their own, for there may be none left.
_SELECTOR: type[selectors.BaseSelector] = getattr(
    selectors, "PollSelector", selectors.SelectSelector
)


def _is_readable(transport: asyncio.BaseTransport | None) -> bool:
    """Whether something lies unread in an idle connection's socket: its end, mostly."""
    sock = None if transport is None else transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return False
    with _SELECTOR() as selector:
        selector.register(sock.fileno(), selectors.EVENT_READ)
        return bool(selector.select(0))


class _WatchedConnector(aiohttp.TCPConnector):
    """Tells the try that it has a connection: one, so that aiohttp doesn't send it again by itself.

    And never an idle one on which something came unasked.
    """

    def __init__(self, owner: object, *, force_close: bool) -> None:
        # Slots are the governor's to hand out, so the pool has no limit of its own. Idle connections
        # are kept shorter than the servers keep them (uvicorn: 5 s), so that a request seldom meets
        # one that is just being closed.
        lifetime: dict[str, Any] = {} if force_close else {"keepalive_timeout": 4}
        super().__init__(limit=0, force_close=force_close, **lifetime)  # pyright: ignore[reportUnknownMemberType]
        self._handed_out: WeakSet[object] = WeakSet()
        self._owner = ref(owner)

    @property
    def closed(self) -> bool:
        """Whether it is closed; true where its owner went unclosed, which says so itself."""
        return self._closed or self._owner() is None

    def abandon(self) -> None:
        """Close all connections at once, where nothing can be awaited any more."""
        with suppress(RuntimeError):  # the event loop may be closed
            self._close()

    def __del__(self, _warnings: Any = None) -> None:
        """The session that owns it says that it was not closed: aiohttp needn't say so too."""
        self.abandon()

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Any],
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.connector.Connection:
        progress = _CURRENT_TRY.get()
        if progress is not None and progress.connection is not None:
            raise Disconnected
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            is_reused = protocol in self._handed_out
            is_once = progress is not None and progress.once
            if protocol is None or not is_reused:
                break
            if not (protocol.should_close or (is_once and _is_readable(connection.transport))):
                break
            connection.close()
        if protocol is not None and progress is not None:  # pragma: no branch - both always are
            if not is_reused:
                self._handed_out.add(protocol)
            progress.connected(connection.transport, is_reused=is_reused)
        return connection


class Transport:
    """Sends requests: from a pool, or where nothing in the answer names it, on a connection of its own."""

    def __init__(self, base_url: str, options: TransportOptions, clock: Clock) -> None:
        self._base_url = URL(base_url, encoded=True)
        self._prefix = self._base_url.raw_path.rstrip("/")
        self._server = self._base_url.raw_authority
        self._options = options
        self._clock = clock
        self._pooled: aiohttp.ClientSession | None = None
        self._single: aiohttp.ClientSession | None = None
        self._tries: set[_Progress] = set()
        self.bytes_in: int = 0

    def open(self) -> None:
        """Make the pool; nothing is connected yet.

        Raises:
            ConfigurationError: The aiohttp session that was given is closed.
        """
        given = self._options.client_session
        if given is not None:
            check_session(given)
            self._pooled = self._single = given
            return
        self._pooled = self._make_session(_WatchedConnector(self, force_close=False))
        self._single = self._make_session(_WatchedConnector(self, force_close=True))

    def _make_session(self, connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            headers=COMMON_HEADERS,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=None),
            trace_configs=list(self._options.trace_configs),
        )

    def abandon(self) -> None:
        """Close what was opened, where nothing can be awaited any more."""
        if self._options.client_session is None:
            for session in filter(None, (self._pooled, self._single)):
                connector = cast("_WatchedConnector", session.connector)
                session.detach()
                connector.abandon()

    async def close(self) -> None:
        """Close what was opened; an aiohttp session that was given stays open."""
        if self._options.client_session is None:
            for session in filter(None, (self._pooled, self._single)):
                await session.close()
        self._pooled = self._single = None

    async def send(
        self,
        method: str,
        target: Target,
        headers: Revealable,
        credential: Secret,
        *,
        body: bytes | None,
        timeout: float,
        own_connection: bool,
        once: bool,
        patient: bool,
    ) -> Answer | Failure:
        """One try; a patient one waits for its whole time-out, come what may.

        What aiohttp raises shows the request's headers, in its text and in its frames; so nothing of
        it leaves here, a cancellation's traceback included.
        """
        has_own_pool = self._options.client_session is None
        progress = _Progress(self._clock.now(), sent=not has_own_pool, once=once, patient=patient)
        _CURRENT_TRY.set(progress)
        try:
            async with self._clock.timeout(timeout):
                with progress:
                    self._tries.add(progress)
                    return await self._exchange(
                        method, target, headers, credential, body, own_connection, once, progress
                    )
        except TimeoutError:
            if progress.was_interrupted:
                reason = "the server had gone silent"
                return Failure(reason, progress.sent, hung_up=True, answer=progress.head)
            reason = f"no whole answer within {timeout:.3g} s"
            if progress.head is None:
                reason = f"no answer within {timeout:.3g} s"
            return Failure(reason, progress.sent, answer=progress.head)
        except asyncio.CancelledError as error:
            cancelled = error
        finally:
            self._tries.discard(progress)
        cancelled.__traceback__ = cancelled.__context__ = None
        raise cancelled

    def oldest(self, since: float, *, once: bool) -> float | None:
        """When the oldest began of those that wait and began after that; ``once``: of these only."""
        began = (one.began for one in self._tries if one.began >= since and one.once >= once)
        return min(began, default=None)

    def hang_up(self, before: float) -> None:
        """End what has waited since before then, where the server never saw it or may see it twice."""
        for progress in self._tries:
            is_safe = not (progress.once and progress.sent)
            if progress.began < before and is_safe and not progress.patient:
                progress.patient = True
                progress.interrupt()

    async def _exchange(
        self,
        method: str,
        target: Target,
        headers: Revealable,
        credential: Secret,
        body: bytes | None,
        own_connection: bool,
        once: bool,
        progress: _Progress,
    ) -> Answer | Failure:
        session = self._single if own_connection else self._pooled
        if session is None:  # pragma: no cover - the governor turns calls away before that
            return Failure("the session is closed", sent=False)
        extra: dict[str, Any] = {}
        if self._options.client_session is not None:
            if session.closed:
                reason = "the aiohttp session given as client_session is closed"
                return Failure(reason, sent=False, is_final=True)
            extra = for_a_given_session(session, credential, once=once)
        response: aiohttp.ClientResponse | None = None
        content: bytes | None = None
        try:
            response = await session.request(
                method,
                self._url(target),
                data=body,
                headers=self._headers(headers, credential, own_connection=own_connection),
                allow_redirects=False,
                auto_decompress=False,
                proxy=None if self._options.proxy is None else self._options.proxy.reveal(),
                ssl=self._options.ssl,
                **extra,
            )
            progress.head = Answer(response.status, response.headers, b"")
            content = await self._read(response)
            return Answer(
                response.status, response.headers, content, progress.discard, progress.is_reused
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, it may show the headers
            return self._explain(error, progress)
        finally:
            if response is not None and content is None:
                response.close()

    def _headers(
        self, headers: Revealable, credential: Secret, *, own_connection: bool
    ) -> dict[str, str]:
        own = headers.reveal()
        if self._options.client_session is None:
            return own | {"Authorization": f"Bearer {credential.reveal()}"}
        # Its key is set by a middleware, in the place of its own ``auth`` and ``.netrc``.
        return {**COMMON_HEADERS, **own, **({"Connection": "close"} if own_connection else {})}

    def _explain(self, error: Exception, progress: _Progress) -> Failure:
        """Why there is no whole answer."""
        if isinstance(error, UnreadableBody):
            is_final = not error.is_cut
            return Failure(str(error), sent=True, answer=progress.head, is_final=is_final)
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            return self._explain_connection(error)
        if isinstance(error, aiohttp.ClientHttpProxyError):
            # A proxy that says no says so again; one that can't now, or is pressed, may later.
            is_final = error.status < 500 and error.status not in {408, 429}
            reason = f"the proxy {self._proxy(error)} answered {error.status} to CONNECT"
            return Failure(reason, sent=False, is_final=is_final, hint=_PROXY_HINT)
        if _is_hooked_in(error):
            reason = f"a middleware or trace config raised {type(error).__name__}"
            cause = error.with_traceback(None)  # whose frames hold the headers
            cause.__context__ = None
            return Failure(reason, progress.sent, is_final=True, hint=_HOOK_HINT, cause=cause)
        reason = _lost_reason(error)
        if not progress.sent and self._options.proxy is not None:
            reason = f"the proxy {self._proxy(error)} let nothing through: {reason}"
        return Failure(reason, progress.sent, answer=progress.head)

    def _explain_connection(self, error: Exception) -> Failure:
        """Why there is no connection: nothing was sent."""
        tls = (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError)
        if isinstance(error, tls):
            reason, hint = _tls_reason(error)
            return Failure(
                f"TLS failed with {self._server}: {reason}", sent=False, is_final=True, hint=hint
            )
        whom = self._server
        if isinstance(error, aiohttp.ClientProxyConnectionError):
            whom = f"the proxy {self._proxy(error)}"
        return Failure(f"no connection to {whom}: {_connect_reason(error)}", sent=False)

    def _proxy(self, error: Exception) -> str:
        """The proxy's host and port, and never its password."""
        if self._options.proxy is not None:
            return URL(self._options.proxy.reveal()).authority.rpartition("@")[2]
        info = getattr(error, "request_info", None)
        return str(getattr(error, "host", None) or (info and info.url.authority) or "")

    def _url(self, target: Target) -> URL:
        url = self._base_url.with_path(self._prefix + target.path, encoded=True)
        return URL(f"{url}?{target.query}", encoded=True) if target.query else url

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        body = Body(codings_of(response.headers.getall("Content-Encoding", ())))
        stream = response.content
        while not stream.at_eof():
            came = await stream.readany()
            self.bytes_in += len(came)
            body.add(came)
        return body.whole()


def _tls_reason(error: Exception) -> tuple[str, str]:
    """What went wrong, and what to do about it."""
    if getattr(error.__cause__, "reason", "") in _PLAIN:
        return "it doesn't speak TLS there", "Give base_url http:// if that is what it speaks."
    reason = getattr(getattr(error, "certificate_error", None), "verify_message", "")
    hint = "Check the server's certificate, or give ssl= a context that trusts it."
    return reason or "the server did not prove who it is", hint


_PROXY_HINT = "Ask whoever runs the proxy, or give proxy= the user and the password that it wants."
_HOOK_HINT = "What it raised is this error's cause."
_PLAIN = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNEXPECTED_MESSAGE"}


def _connect_reason(error: Exception) -> str:
    cause = getattr(error, "os_error", None)
    number = getattr(cause, "errno", None) or 0
    # asyncio puts a text of its own, with the address as a tuple, where the system has a plain one.
    reason = os.strerror(number) if number > 0 else getattr(cause, "strerror", None)
    return reason or "it could not be made in time"


def _lost_reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer was cut short"
    if isinstance(error, aiohttp.ClientResponseError):
        if "bytes when reading" in error.message or "Too many headers" in error.message:
            return "the answer's headers are too large, or too many"
        return "the answer is not HTTP"
    return "the connection was lost before the answer came"


def _is_hooked_in(error: Exception) -> bool:
    """Whether it comes from a middleware or a trace config, and not from the way to the server."""
    return not isinstance(error, aiohttp.ClientError | OSError | EOFError | Disconnected)
