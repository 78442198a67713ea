"""What several test modules use: time in one's own hand, raw servers, a sandbox's ids."""

from __future__ import annotations

import asyncio
import importlib.util
import runpy
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import attrs
import pytest

from knowledgestack_async.sandbox import Sandbox, SteppedClock
from knowledgestack_async.sandbox.records import Filters

KEY = "sk-user-canary-7f3a9"


def first_found(*names: str) -> str:
    """The first of several modules that there is."""
    return next(name for name in names if importlib.util.find_spec(name))


# A wheel has these only where others load them from, beside the package.
PLUGIN = first_found("knowledgestack_async.pytest_plugin", "_knowledgestack_async_pytest")
SCRIPT = first_found("knowledgestack_async.cli.script", "_knowledgestack_async_script")


def run_module(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a module as ``python -m`` does, without pytest's own loader, which can't do that."""
    finders = [one for one in sys.meta_path if type(one).__name__ != "AssertionRewritingHook"]
    monkeypatch.setattr(sys, "meta_path", finders)
    runpy.run_module(name, run_name="__main__")


async def assert_within(bound: float, measure: Callable[[], Awaitable[float]]) -> None:
    """What is measured takes less than so many seconds; a busy machine may stretch it, but not each time."""
    taken: list[float] = []
    while len(taken) < 3:
        taken.append(await measure())
        if taken[-1] < bound:
            return
    raise AssertionError(f"it took {taken} seconds, and may take {bound}")


class FakeClock:
    """Time that only passes when somebody sleeps, at once.

    A timeout still has to wait for a real socket, but never longer than ``patience`` real seconds;
    then all of its time has passed. ``once`` is for faults that come once: after the first timeout
    there is patience enough for a busy machine. Before ``has_come`` no timeout passes.
    """

    def __init__(
        self,
        patience: float = 5.0,
        *,
        once: bool = False,
        has_come: Callable[[], object] = lambda: True,
    ) -> None:
        self.time = 1000.0
        self.patience = patience
        self.once = once
        self.has_come = has_come
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += max(0.0, seconds)
        await asyncio.sleep(0)

    def timeout(self, seconds: float | None) -> AbstractAsyncContextManager[object]:
        return self._timeout(seconds)

    @asynccontextmanager
    async def _timeout(self, seconds: float | None) -> AsyncIterator[None]:
        real = None if seconds is None else max(0.0, min(seconds, self.patience))
        try:
            async with asyncio.timeout(real) as limit:
                self._put_off(limit, real)
                yield
        except TimeoutError:
            self.time += seconds or 0.0
            if self.once:
                self.patience = 5.0
            raise

    def _put_off(self, limit: asyncio.Timeout, real: float | None) -> None:
        """Let a timeout begin anew again and again, until what it is for has come."""
        if real and not self.has_come():
            loop = asyncio.get_running_loop()
            limit.reschedule(loop.time() + real)
            loop.call_later(real / 2, self._put_off, limit, real)


class QuickClock:
    """Time that passes so many times as fast as it does."""

    def __init__(self, factor: float = 20.0) -> None:
        self.factor = factor

    def now(self) -> float:
        return time.monotonic() * self.factor

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self.factor)

    def timeout(self, seconds: float | None) -> AbstractAsyncContextManager[object]:
        return asyncio.timeout(None if seconds is None else seconds / self.factor)


class Stepping:
    """A session's clock: each of its sleeps moves the sandbox's time too."""

    def __init__(self, box_clock: SteppedClock) -> None:
        self.box_clock = box_clock
        self.time = 0.0

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds
        self.box_clock.advance(seconds)
        await asyncio.sleep(0)

    def timeout(self, seconds: float | None):
        return asyncio.timeout(None if seconds is None else 30)


@attrs.define
class RawServer:
    """A server that answers with bytes of the test's choosing, and keeps what it was sent."""

    base_url: str
    heads: list[bytes] = attrs.field(factory=list)
    connections: int = 0


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter, bytes], Awaitable[None]]


@asynccontextmanager
async def raw_server(
    script: Script,
    *,
    on_connect: bytes = b"",
    ssl: object = None,
    sock: socket.socket | None = None,
) -> AsyncIterator[RawServer]:
    """Serve each request of each connection with a script, told the request's head."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())  # type: ignore[arg-type]
        server.connections += 1
        try:
            writer.write(on_connect)
            while head := await reader.readuntil(b"\r\n\r\n"):
                server.heads.append(head)
                await script(reader, writer, head)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    if sock is None:
        sock = socket.create_server(("127.0.0.1", 0))
    listener = await asyncio.start_server(serve, sock=sock, ssl=ssl)  # type: ignore[arg-type]
    host, port = listener.sockets[0].getsockname()[:2]
    server = RawServer(f"{'https' if ssl else 'http'}://{host}:{port}")
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listener.wait_closed()


def http(body: bytes, *, status: str = "200 OK", headers: str = "") -> bytes:
    """A whole HTTP answer."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return (head + headers + "\r\n").encode() + body


def answering(*answers: bytes) -> Script:
    """A script that gives one answer after the other, the last one for ever."""
    left = list(answers)

    async def script(_r: asyncio.StreamReader, writer: asyncio.StreamWriter, _h: bytes) -> None:
        writer.write(left.pop(0) if len(left) > 1 else left[0])

    return script


def ids_of(sandbox: Sandbox, status: str) -> list[str]:
    """The ingestions of a sandbox that are in a state."""
    filters = Filters(statuses=frozenset({status}))
    return [item.workflow_id for item in sandbox.store.list(0, 100_000, filters)[0]]


def run_id_of(sandbox: Sandbox, status: str = "RUNNING") -> str:
    """The newest workflow run of a sandbox that is in a state."""
    run = sandbox.store.runs.newest(status)
    if run is None:
        raise LookupError(status)
    return run.id
