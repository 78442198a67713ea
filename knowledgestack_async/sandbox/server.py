"""The sandbox's HTTP server: it carries requests to the service, and faults to the client."""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from attrs import define, evolve, field

from knowledgestack_async.sandbox.answers import Answer
from knowledgestack_async.sandbox.delivery import Exchange, RawResponse, deliver, pause
from knowledgestack_async.sandbox.endpoints import Endpoints
from knowledgestack_async.sandbox.faults import Fault, Faults
from knowledgestack_async.sandbox.recording import RecordedRequest, Recorder

_GRACE = 0.2


class Listener(web.Server):
    """Knows its connections, and tells each of them when its client is gone."""

    def __init__(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> None:
        """Listen.

        Args:
            handler: What answers requests.
        """
        super().__init__(handler, access_log=None)
        self.opened: int = 0
        self._open: dict[RequestHandler, tuple[asyncio.Transport, asyncio.Event]] = {}

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Count a connection."""
        self.opened += 1
        self._open[handler] = (transport, asyncio.Event())
        super().connection_made(handler, transport)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Tell whoever answers on a connection that it is gone."""
        self._open.pop(handler)[1].set()
        super().connection_lost(handler, exc)

    def gone(self, request: web.BaseRequest) -> asyncio.Event:
        """Return what is set once the client of a request is gone."""
        if request.protocol in self._open:
            return self._open[request.protocol][1]
        event = asyncio.Event()
        event.set()
        return event

    def abort(self) -> None:
        """End all connections at once."""
        for transport, _ in self._open.values():
            transport.abort()


@define(eq=False)
class Server:
    """Answers requests, one after the other on each connection.

    Args:
        endpoints: The service.
        recorder: What remembers requests.
        faults: What goes wrong.
        latency: How many seconds every answer takes.
        before_request: Called with each request just before it is handled.
        rewrite_answer: Called with each request and the object that the service answers; what it
            returns is sent instead.
    """

    endpoints: Endpoints
    recorder: Recorder
    faults: Faults
    latency: float
    before_request: Callable[[RecordedRequest], object] | None = None
    rewrite_answer: Callable[[RecordedRequest, Any], Any] | None = None
    max_in_flight: int = field(init=False, default=0)
    _in_flight: int = field(init=False, default=0)
    _closing: asyncio.Event = field(init=False, factory=asyncio.Event)
    _tasks: set[asyncio.Task[None]] = field(init=False, factory=set[asyncio.Task[None]])
    _listener: Listener = field(init=False)
    _server: asyncio.Server | None = field(init=False, default=None)

    @property
    def connections(self) -> int:
        """How many connections were opened."""
        return self._listener.opened

    async def start(self, host: str, port: int, ssl_context: ssl.SSLContext | None) -> int:
        """Begin to listen.

        Args:
            host: The address to listen on.
            port: The port; 0 takes a free one.
            ssl_context: For TLS.

        Returns:
            The port.
        """
        self._listener = Listener(self._handle)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._listener, host, port, ssl=ssl_context)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """End everything that is under way, at once."""
        self._closing.set()
        await self._stop_listening()
        self._listener.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._listener.shutdown(_GRACE)

    async def _stop_listening(self) -> None:
        """Take no more connections; asyncio loses those that it is just taking as a server closes."""
        if self._server is None:
            return
        loop = asyncio.get_running_loop()
        for listening in self._server.sockets:
            with suppress(NotImplementedError):  # not every event loop has that
                loop.remove_reader(listening)
        for _ in range(2):  # what was accepted gets its transport, then its protocol
            await asyncio.sleep(0)
        self._server.close()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something in the background until the server stops."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self._in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self._in_flight)
        try:
            return await self._answer(request)
        except ConnectionError:
            return RawResponse()
        finally:
            self._in_flight -= 1

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        recorded = self._read(request, await request.read())
        fault, latency = self._draw(recorded)
        if fault is not None or latency > 0:
            recorded = evolve(recorded, fault="latency" if fault is None else fault.kind)
        self.recorder.arrive(recorded)
        if latency + self.latency > 0:
            await pause(self._closing, latency + self.latency)
        if self.before_request is not None:
            self.before_request(recorded)
        exchange = Exchange(
            request=request,
            act=lambda: self._act(recorded),
            refuse=lambda status, detail, code: self.endpoints.problem(
                recorded, status, detail, code
            ),
            gone=self._listener.gone(request),
            spawn=self.spawn,
        )
        try:
            return await deliver(exchange, fault)
        finally:
            self.recorder.answer(recorded.number, exchange.sent)

    def _draw(self, recorded: RecordedRequest) -> tuple[Fault | None, float]:
        return self.faults.draw(recorded) if self.faults else (None, 0.0)

    def _act(self, recorded: RecordedRequest) -> Answer:
        answer = self.endpoints.handle(recorded)
        if self.rewrite_answer is None:
            return answer
        return evolve(answer, payload=self.rewrite_answer(recorded, answer.payload))

    def _read(self, request: web.BaseRequest, body: bytes) -> RecordedRequest:
        self.recorder.arrived += 1
        path = request.raw_path.partition("?")[0]
        route, resource_id = self.endpoints.find(request.method, path)
        return RecordedRequest(
            number=self.recorder.arrived,
            at=time.monotonic(),
            method=request.method,
            path=path,
            route=route,
            id=resource_id,
            query=tuple(request.query.items()),
            headers=request.headers,
            body=body,
        )
