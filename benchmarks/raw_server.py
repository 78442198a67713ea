"""A server on asyncio's bare protocols: statuses that echo their id, and pages of a list.

It knows only what the benchmarks ask for: GET requests without a body, on kept connections. A
latency of -1 means that it never answers.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from urllib.parse import parse_qs, urlsplit

from payloads import STATUS, make_page


class Service(asyncio.Protocol):
    """One connection."""

    def __init__(self, latency: float, total: int, shape: str) -> None:
        self.latency = latency
        self.total = total
        self.shape = shape
        self.buffer = b""
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what answers are written to."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each whole request, however they are cut into pieces."""
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
            target = head.split(b" ", 2)[1].decode()
            if self.latency < 0:
                continue
            answer = self.answer(target)
            if self.latency:
                self.loop.call_later(self.latency, self.transport.write, answer)
            else:
                self.transport.write(answer)

    def answer(self, target: str) -> bytes:
        """A whole answer."""
        path, query = urlsplit(target)[2:4]
        if path.endswith("/document_versions"):
            asked = parse_qs(query)
            offset, limit = int(asked["offset"][0]), int(asked["limit"][0])
            body = make_page(self.shape, offset, limit, self.total)
        else:
            body = (STATUS % path.rpartition("/")[2]).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        return head % len(body) + body


async def main() -> None:
    port, latency, total, shape = sys.argv[1:]
    gc.disable()
    server = await asyncio.get_running_loop().create_server(
        lambda: Service(float(latency), int(total), shape), "127.0.0.1", int(port), backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
