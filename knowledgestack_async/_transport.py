"""One try over aiohttp's client: bytes in, bytes out, and never an error of aiohttp's."""

from __future__ import annotations

import asyncio
import os
import selectors
import zlib
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from ssl import SSLContext
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakSet

import aiohttp
import msgspec
from yarl import URL

from ._clock import Clock, Interruption
from ._dialects import Target
from ._version import __version__
from ._wire import Answer, Secret
from .errors import ConfigurationError

__all__ = ["Failure", "Transport", "TransportOptions"]

BODY_LIMIT = 32 * 2**20
CHUNK = 2**16

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
    proxy: str | None = None
    ssl: SSLContext | bool | aiohttp.Fingerprint = True

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
        _expect(self.ssl, SSLContext | bool | aiohttp.Fingerprint, "ssl")
        if self.proxy is not None and not _is_proxy(self.proxy):
            raise ConfigurationError("proxy must look like http://host:port")


def _expect(value: object, kind: Any, name: str) -> None:
    if not isinstance(value, kind):
        wanted = getattr(kind, "__name__", str(kind).replace(" | None", ""))
        raise ConfigurationError(f"{name} must be {wanted}, not {type(value).__name__}")


def _is_proxy(proxy: object) -> bool:
    try:
        parts = urlsplit(proxy) if isinstance(proxy, str) else None
        return parts is not None and parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        return False


class Failure(msgspec.Struct, frozen=True):
    """Why there is no whole answer. ``sent``: whether the server may have seen the request."""

    reason: str
    sent: bool
    untrusted: bool = False
    hung_up: bool = False
    """Whether it was us who didn't wait any longer."""
    answer: Answer | None = None
    """The status and headers, where only the body is missing."""


class _Progress(Interruption):
    """How far one try got: from the moment it has its connection on, the server may see it."""

    __slots__ = ("began", "connection", "is_reused", "once", "patient", "sent")

    def __init__(self, began: float, *, sent: bool, once: bool, patient: bool) -> None:
        self.began = began
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


class _Disconnected(Exception):
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
        raise _Disconnected(type(error).__name__) from None


def _is_readable(transport: asyncio.BaseTransport | None) -> bool:
    """Whether something lies in an idle connection's socket: its end, mostly, that the loop didn't read yet."""
    sock = None if transport is None else transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return False
    with selectors.DefaultSelector() as selector:
        selector.register(sock.fileno(), selectors.EVENT_READ)
        return bool(selector.select(0))


class _WatchedConnector(aiohttp.TCPConnector):
    """Tells the try that it has a connection: one, so that aiohttp doesn't send it again by itself.

    And never an idle one on which something came unasked.
    """

    def __init__(self, *, force_close: bool) -> None:
        # Slots are the governor's to hand out, so the pool has no limit of its own. Idle connections
        # are kept shorter than the servers keep them (uvicorn: 5 s), so that a request seldom meets
        # one that is just being closed.
        lifetime: dict[str, Any] = {} if force_close else {"keepalive_timeout": 4}
        super().__init__(limit=0, force_close=force_close, **lifetime)  # pyright: ignore[reportUnknownMemberType]
        self._handed_out: WeakSet[object] = WeakSet()

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Any],
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.connector.Connection:
        progress = _CURRENT_TRY.get()
        if progress is not None and progress.connection is not None:
            raise _Disconnected
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
            if given.closed:
                raise ConfigurationError("the aiohttp session given as client_session is closed")
            self._pooled = self._single = given
            return
        self._pooled = self._make_session(_WatchedConnector(force_close=False))
        self._single = self._make_session(_WatchedConnector(force_close=True))

    def _make_session(self, connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            headers=COMMON_HEADERS,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=None),
            trace_configs=list(self._options.trace_configs),
        )

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
        headers: Mapping[str, str],
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
                return Failure("the server had gone silent", progress.sent, hung_up=True)
            return Failure(f"no answer within {timeout:.3g} s", progress.sent)
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
        headers: Mapping[str, str],
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
            headers = {**COMMON_HEADERS, **headers}
            headers |= {"Connection": "close"} if own_connection else {}
            extra = {"middlewares": (_no_silent_resend,)} if once else {}
        response: aiohttp.ClientResponse | None = None
        content: bytes | None = None
        try:
            response = await session.request(
                method,
                self._url(target),
                data=body,
                headers={**headers, "Authorization": f"Bearer {credential.reveal()}"},
                allow_redirects=False,
                auto_decompress=False,
                proxy=self._options.proxy,
                ssl=self._options.ssl,
                **extra,
            )
            content = await self._read(response)
            return Answer(
                response.status, response.headers, content, progress.discard, progress.is_reused
            )
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
            reason = f"TLS failed with {self._server}: {_tls_reason(error)}"
            return Failure(reason, sent=False, untrusted=True)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return Failure(f"no connection to {self._server}: {_connect_reason(error)}", sent=False)
        except TimeoutError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it may show the headers
            head = None if response is None else Answer(response.status, response.headers, b"")
            return Failure(_lost_reason(error), progress.sent, answer=head)
        finally:
            if response is not None and content is None:
                response.close()

    def _url(self, target: Target) -> URL:
        url = self._base_url.with_path(self._prefix + target.path, encoded=True)
        return URL(f"{url}?{target.query}", encoded=True) if target.query else url

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        encoding = response.headers.get("Content-Encoding")
        body = _Body() if encoding is None else _CompressedBody(encoding)
        stream = response.content
        while not stream.at_eof():
            came = await stream.readany()
            self.bytes_in += len(came)
            body.add(came)
        return body.whole()


class _Unreadable(Exception):
    """A body that can't be taken in."""


class _Body:
    """A body as it comes in, up to a size."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._left = BODY_LIMIT

    def add(self, piece: bytes) -> None:
        self._left -= len(piece)
        if self._left < 0:
            raise _Unreadable(f"the body is larger than {BODY_LIMIT >> 20} MiB")
        self._pieces.append(piece)

    def whole(self) -> bytes:
        return b"".join(self._pieces)


class _CompressedBody(_Body):
    """The same, unpacked piece by piece; what follows a compressed stream must be another one."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding
        self._inflate = _inflater(encoding)
        self._packed_left = BODY_LIMIT

    def add(self, piece: bytes) -> None:
        self._packed_left -= len(piece)
        if self._packed_left < 0:
            raise _Unreadable(f"the body is larger than {BODY_LIMIT >> 20} MiB")
        while piece:
            if self._inflate is None:
                super().add(piece)
                return
            if self._inflate.eof:
                self._inflate = _inflater(self._encoding)
            try:
                unpacked = self._inflate.decompress(piece, CHUNK)
            except zlib.error:
                raise _Unreadable("the body can't be decompressed") from None
            super().add(unpacked)
            piece = self._inflate.unconsumed_tail or self._inflate.unused_data

    def whole(self) -> bytes:
        if self._inflate is not None and self._packed_left < BODY_LIMIT and not self._inflate.eof:
            raise _Unreadable("the compressed body ends too soon")
        return super().whole()


def _inflater(encoding: str) -> Any:
    match encoding.strip().lower():
        case "" | "identity":
            return None
        case "gzip" | "x-gzip":
            return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        case "deflate":
            return zlib.decompressobj()
        case _:
            raise _Unreadable("the body is compressed in a way that was not asked for")


def _tls_reason(error: Exception) -> str:
    reason = getattr(getattr(error, "certificate_error", None), "verify_message", "")
    return reason or "the server did not prove who it is"


def _connect_reason(error: Exception) -> str:
    cause = getattr(error, "os_error", None)
    number = getattr(cause, "errno", None) or 0
    # asyncio puts a text of its own, with the address as a tuple, where the system has a plain one.
    reason = os.strerror(number) if number > 0 else getattr(cause, "strerror", None)
    return reason or "it could not be made in time"


def _lost_reason(error: Exception) -> str:
    if isinstance(error, _Unreadable):
        return str(error)
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer was cut short"
    if isinstance(error, aiohttp.ClientResponseError):
        return "the answer is not HTTP"
    return "the connection was lost before the answer came"
