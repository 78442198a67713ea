"""How much memory do an idle session and 10,000 waiting calls take, and does what is done leave any?

The server for the waiting ones never answers. By hand they wait in aiohttp's pool of 100 connections.
"""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any

from measure import Contender, Facts, Goal, Question, take_turn
from servers import raw_server, status_server

KEY = "sk-user-benchmark"
HEADERS = {"Authorization": f"Bearer {KEY}", "Accept": "application/json"}
WAITING = 10_000
Get = Callable[[Any, str, str], Awaitable[object]]


def in_use() -> int:
    """Bytes that Python has handed out and not got back."""
    for _ in range(3):
        gc.collect()
    return tracemalloc.get_traced_memory()[0]


async def measure(open_: Callable[[str], AbstractAsyncContextManager[Any]], get: Get, facts: Facts):
    url = facts["url"]
    async with open_(url) as session:  # what is made once and for all
        await get(session, url, "warm-up")
    tracemalloc.start()
    before = in_use()
    async with open_(url) as session:
        idle = in_use() - before

        async def run(count: int) -> int:
            for number in range(0, count, 50):
                await asyncio.gather(*(get(session, url, f"id-{number + i}") for i in range(50)))
            return in_use()

        after_some = await run(500)
        after_more = await run(1_000 if facts["quick"] else 5_000)
    async with open_(facts["silent"]) as session:
        before = in_use()
        ids = [f"ingest-{number:026d}" for number in range(WAITING)]
        tasks = [asyncio.create_task(get(session, facts["silent"], id_)) for id_ in ids]
        await asyncio.sleep(1)
        waiting = in_use() - before
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return {
        "waiting call": waiting / WAITING / 2**10,
        "idle session": idle / 2**10,
        "left by 1,000 calls": (after_more - after_some) / 2**10 / (1 if facts["quick"] else 5),
    }


def ours(facts: Facts) -> dict[str, float]:
    import knowledgestack_async as ks

    async def get(session: ks.Session, _url: str, id_: str) -> object:
        return await ks.get_workflow_status(session, id_)

    def open_(url: str) -> ks.Session:
        return ks.Session(KEY, url, dialect="system-jobs")

    return asyncio.run(measure(open_, get, facts))


def by_hand(facts: Facts) -> dict[str, float]:
    import aiohttp

    async def get(session: aiohttp.ClientSession, url: str, id_: str) -> object:
        async with session.get(f"{url}/v1/system-jobs/{id_}") as response:
            return await response.json()

    def open_(_url: str) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(headers=HEADERS)

    return asyncio.run(measure(open_, get, facts))


@contextmanager
def setup(_facts: Facts) -> Iterator[Facts]:
    with status_server() as url, raw_server(-1) as silent:
        yield {"url": url, "silent": silent}


QUESTION = Question(
    name="memory",
    title="How much memory do an idle session and 10,000 waiting calls take?",
    figures={"waiting call": "KiB", "idle session": "KiB", "left by 1,000 calls": "KiB"},
    contenders=[
        Contender("knowledgestack-async", ours),
        Contender("aiohttp by hand", by_hand),
    ],
    goals=[
        Goal("knowledgestack-async", by="aiohttp by hand"),
        Goal("knowledgestack-async", by="aiohttp by hand", figure="idle session"),
    ],
    limits={"knowledgestack-async": ("left by 1,000 calls", 10)},
    rounds=3,
    quick_rounds=1,
    setup=setup,
)

if __name__ == "__main__":
    take_turn(QUESTION)
