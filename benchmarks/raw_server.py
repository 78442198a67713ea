"""A server on asyncio's bare protocols: statuses that echo their id, pages of a list, and reruns.

It knows only what the benchmarks ask for, on kept connections: GETs, and POSTs whose body has a
length. A latency of -1 means that it never answers.
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import sys
from functools import lru_cache
from itertools import count
from urllib.parse import parse_qs, urlsplit

from payloads import ACTION, STATUS, make_page

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"

make_page_once = lru_cache(maxsize=256)(make_page)
"""Pages that are read again and again (there are few of them then) are made once."""


class Answers:
    """What is answered, whatever connection it is asked on.

    Items have failed, unless another status is asked for. Where several are, those of the first page
    go from one to the next at every look, so that there is something to see for who watches.
    """

    def __init__(self, total: int, shape: str) -> None:
        self.total = total
        self.shape = shape
        self.looks = count()

    def answer(self, method: str, target: str, body: bytes) -> bytes:
        """A whole answer."""
        path, query = urlsplit(target)[2:4]
        last = path.rpartition("/")[2]
        if last == "document_versions":
            answer = self.answer_list(parse_qs(query))
        elif last == "bulk-rerun":
            taken = json.loads(body)["document_version_ids"]
            answer = json.dumps({"succeeded": taken, "failed": []}).encode()
        else:
            answer = ((ACTION if method == "POST" else STATUS) % last).encode()
        return HEAD % len(answer) + answer

    def answer_list(self, asked: dict[str, list[str]]) -> bytes:
        """A page of the list."""
        offset, limit = int(asked["offset"][0]), int(asked["limit"][0])
        statuses = asked.get("status", ["failed"])
        look = next(self.looks) if offset == 0 else 0
        status = statuses[look % len(statuses)]
        return make_page_once(self.shape, offset, limit, self.total, status)


class Service(asyncio.Protocol):
    """One connection."""

    def __init__(self, answers: Answers, latency: float) -> None:
        self.answers = answers
        self.latency = latency
        self.buffer = b""
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what answers are written to."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each whole request, however they are cut into pieces."""
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n") + 4) > 3:
            method, target, _ = self.buffer.split(b" ", 2)
            told = LENGTH.search(self.buffer, 0, end)
            whole = end + (int(told[1]) if told else 0)
            if len(self.buffer) < whole:
                return
            body, self.buffer = self.buffer[end:whole], self.buffer[whole:]
            if self.latency < 0:
                continue
            answer = self.answers.answer(method.decode(), target.decode(), body)
            if self.latency:
                self.loop.call_later(self.latency, self.transport.write, answer)
            else:
                self.transport.write(answer)


async def main() -> None:
    port, latency, total, shape = sys.argv[1:]
    gc.disable()
    answers = Answers(int(total), shape)
    server = await asyncio.get_running_loop().create_server(
        lambda: Service(answers, float(latency)), "127.0.0.1", int(port), backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
