"""How an answer, or what goes wrong with it, gets onto the wire."""

import asyncio
import itertools
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from http import HTTPStatus
from http.client import responses
from types import MappingProxyType
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from attrs import define, evolve, field

from knowledgestack_async.sandbox.answers import Answer
from knowledgestack_async.sandbox.faults import Fault
from knowledgestack_async.sandbox.foreign import guess_type, make_page
from knowledgestack_async.sandbox.garbage import GARBAGE, Garbage

_JSON = "application/json"
_BANNER = b"SSH-2.0-OpenSSH_9.6\r\n"
_COOKIE = "session=sandbox; Path=/"
_UNAVAILABLE = 503
_PROCESSING = 102
_TRICKLE = 0.05
_MOST_BUFFERED = 1 << 16


class RawResponse(web.Response):
    """Bytes as they are, in place of an answer that is put together properly."""

    def __init__(self, data: bytes = b"", *, keep_alive: bool = False) -> None:
        """Take the bytes.

        Args:
            data: All that is sent.
            keep_alive: Whether the connection stays open afterwards.
        """
        super().__init__()
        self._data = data
        self._keep_alive = keep_alive

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the bytes."""
        write(request, self._data)
        return None

    async def write_eof(self, data: bytes | bytearray | memoryview = b"") -> None:
        """Send nothing more."""


@define(eq=False)
class Exchange:
    """One request that is being answered.

    Args:
        request: The request.
        act: Does what the request asks for, and gives the answer.
        refuse: Makes an error answer out of a status, a detail and a code.
        gone: Set when the client, or the sandbox, goes away.
        spawn: Runs something that may outlive the request.
        sent: The status that was sent, if one was.
    """

    request: web.BaseRequest
    act: Callable[[], Answer]
    refuse: Callable[[int, str, str | None], Answer]
    gone: asyncio.Event
    spawn: Callable[[Coroutine[Any, Any, None]], None]
    sent: int | None = field(init=False, default=None)

    def acted(self) -> Answer:
        """Do what the request asks for; the answer counts as sent."""
        answer = self.act()
        self.sent = answer.status
        return answer


def write(request: web.BaseRequest, data: bytes) -> None:
    """Send bytes, if there is still someone to send them to."""
    transport = request.transport
    if transport is not None and not transport.is_closing():
        transport.write(data)


async def pause(gone: asyncio.Event, seconds: float) -> None:
    """Wait so many seconds, or until there is nobody to wait for."""
    try:
        await asyncio.wait_for(gone.wait(), seconds)
    except TimeoutError:
        return


def respond(answer: Answer, body: bytes | None = None) -> web.Response:
    """Make a proper answer.

    Args:
        answer: What to say.
        body: The body, if it isn't the answer's own.
    """
    data = answer.encode() if body is None else body
    headers = dict(answer.headers)
    if data or answer.payload is not None:
        headers.setdefault("Content-Type", _JSON)
    return web.Response(status=answer.status, body=data or None, headers=headers)


def _as_bytes(body: Mapping[str, Any] | str | bytes) -> bytes:
    if isinstance(body, bytes):
        return body
    return body.encode() if isinstance(body, str) else msgspec.json.encode(body)


def spell(answer: Answer, framing: Mapping[str, str]) -> bytes:
    """Write the head of an answer down, byte by byte, with headers that say how long it is."""
    phrase = responses.get(answer.status, "Unknown")
    lines = [f"HTTP/1.1 {answer.status} {phrase}", f"Content-Type: {_JSON}"]
    lines += [f"{name}: {value}" for name, value in {**answer.headers, **framing}.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def spell_whole(answer: Answer) -> tuple[bytes, bytes]:
    """Write an answer down, byte by byte: its head, and its body."""
    body = answer.encode()
    return spell(answer, {"Content-Length": str(len(body))}), body


async def deliver(exchange: Exchange, fault: Fault | None) -> web.StreamResponse:
    """Answer a request, with whatever goes wrong.

    Args:
        exchange: The request.
        fault: What goes wrong.
    """
    if fault is None:
        return respond(exchange.acted())
    if fault.acts_first:
        exchange.act()
    return await _DELIVERIES[fault.kind](exchange, fault)


async def _status(exchange: Exchange, fault: Fault) -> web.StreamResponse:
    return _refuse(exchange, fault, fault.status or _UNAVAILABLE)


async def _rate_limit(exchange: Exchange, fault: Fault) -> web.StreamResponse:
    return _refuse(exchange, fault, HTTPStatus.TOO_MANY_REQUESTS)


def _refuse(exchange: Exchange, fault: Fault, status: int) -> web.StreamResponse:
    answer = exchange.refuse(status, responses.get(status, "Unknown"), fault.code)
    headers = {**answer.headers, **(fault.headers or {})}
    if fault.retry_after is not None:
        headers["Retry-After"] = str(fault.retry_after)
    exchange.sent = status
    raw = None if fault.body is None else _as_bytes(fault.body)
    return respond(evolve(answer, headers=headers), raw)


async def _page(exchange: Exchange, fault: Fault) -> web.StreamResponse:
    exchange.sent = status = fault.status or HTTPStatus.OK
    page = _as_bytes(make_page(status) if fault.body is None else fault.body)
    kind = fault.content_type or guess_type(page)
    response = web.Response(status=status, body=page, headers={"Content-Type": kind})
    response.headers["Server"] = "nginx"
    response.headers.update(fault.headers or {})
    return response


async def _break_off(exchange: Exchange, fault: Fault) -> web.StreamResponse:
    if fault.effect_delay is not None:
        exchange.spawn(_act_later(exchange, fault.effect_delay))
    transport = exchange.request.transport
    if fault.kind == "reset" and transport is not None:
        _reset(transport)
    return RawResponse()


def _reset(transport: asyncio.Transport) -> None:
    connection = transport.get_extra_info("socket")
    linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()


async def _act_later(exchange: Exchange, seconds: float) -> None:
    await asyncio.sleep(seconds)
    exchange.act()


async def _truncate(exchange: Exchange, fault: Fault) -> web.StreamResponse:
    answer = exchange.acted()
    head, body = spell_whole(answer)
    half = body[: len(body) // 2]
    if fault.how == "header":
        return RawResponse(head[: len(head) // 2])
    if fault.how == "chunk":
        head = spell(answer, {"Transfer-Encoding": "chunked"})
        return RawResponse(head + f"{max(1, len(body)):x}\r\n".encode() + half)
    return RawResponse(head + half)


async def _garbage(exchange: Exchange, fault: Fault) -> web.StreamResponse:
    answer = exchange.acted()
    exchange.sent = status = fault.status or HTTPStatus.OK
    if fault.body is None or isinstance(fault.body, str):
        garbage = GARBAGE[fault.body or "html"]
    else:
        data = _as_bytes(fault.body)
        garbage = Garbage(lambda _: data)
    headers = {**garbage.headers, **(fault.headers or {})}
    headers["Content-Type"] = fault.content_type or garbage.content_type
    spoilt = garbage.spoil(answer.encode() or b"{}")
    return web.Response(status=status, body=spoilt, headers=headers)


async def _silence(exchange: Exchange, _: Fault) -> web.StreamResponse:
    await exchange.gone.wait()
    return RawResponse()


async def _slow(exchange: Exchange, fault: Fault) -> web.StreamResponse:
    head, body = spell_whole(exchange.acted())
    for byte in head:
        write(exchange.request, bytes((byte,)))
        await pause(exchange.gone, _TRICKLE if fault.seconds is None else fault.seconds)
        if exchange.gone.is_set():
            return RawResponse()
    return RawResponse(body, keep_alive=True)


async def _stall_body(exchange: Exchange, _: Fault) -> web.StreamResponse:
    head, body = spell_whole(exchange.acted())
    write(exchange.request, head + body[: len(body) // 2])
    await exchange.gone.wait()
    return RawResponse()


async def _raw(_: Exchange, fault: Fault) -> web.StreamResponse:
    return RawResponse(_BANNER if fault.body is None else _as_bytes(fault.body))


async def _informational(exchange: Exchange, fault: Fault) -> web.StreamResponse:
    status = fault.status or _PROCESSING
    line = f"HTTP/1.1 {status} {responses.get(status, 'Unknown')}\r\n\r\n".encode()
    numbers = itertools.count() if fault.count is None else range(fault.count)
    for _ in numbers:
        transport = exchange.request.transport
        if exchange.gone.is_set() or transport is None:
            return RawResponse()
        write(exchange.request, line)
        full = transport.get_write_buffer_size() > _MOST_BUFFERED
        await asyncio.sleep(_TRICKLE if full else 0)
    return respond(exchange.acted())


async def _redirect(exchange: Exchange, fault: Fault) -> web.StreamResponse:
    exchange.sent = fault.status or HTTPStatus.FOUND
    location = fault.location or str(exchange.request.rel_url)
    return web.Response(status=exchange.sent, headers={"Location": location})


async def _unsolicited(exchange: Exchange, fault: Fault) -> web.StreamResponse:
    head, body = spell_whole(exchange.acted())
    extra = _as_bytes(fault.body or b"{}")
    second = spell(Answer(200), {"Content-Length": str(len(extra))}) + extra
    if fault.seconds is None:
        return RawResponse(head + body + second, keep_alive=True)
    exchange.spawn(_write_later(exchange, second, fault.seconds))
    return RawResponse(head + body, keep_alive=True)


async def _write_later(exchange: Exchange, data: bytes, seconds: float) -> None:
    request = exchange.request
    transport = request.transport
    await pause(exchange.gone, seconds)
    if transport is not None and not transport.is_closing():
        transport.write(data)


async def _cookie(exchange: Exchange, fault: Fault) -> web.StreamResponse:
    answer = exchange.acted()
    headers = {**answer.headers, "Set-Cookie": fault.cookie or _COOKIE}
    return respond(evolve(answer, headers=headers))


_DELIVERIES: Mapping[str, Callable[[Exchange, Fault], Awaitable[web.StreamResponse]]] = (
    MappingProxyType(
        {
            "status": _status,
            "rate-limit": _rate_limit,
            "page": _page,
            "reset": _break_off,
            "close": _break_off,
            "truncate": _truncate,
            "garbage": _garbage,
            "silence": _silence,
            "slow": _slow,
            "stall_body": _stall_body,
            "banner": _raw,
            "raw": _raw,
            "informational": _informational,
            "redirect": _redirect,
            "unsolicited": _unsolicited,
            "cookie": _cookie,
        }
    )
)
