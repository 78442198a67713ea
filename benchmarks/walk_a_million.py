"""What does walking 1,000,000 items cost: CPU for an item, and memory?

The floor is bare aiohttp reading bytes, msgspec decoding them into Structs, one page after the other,
with no check that anything is missing or comes twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path

from measure import Contender, Facts, Goal, Question, take_turn
from servers import raw_server

PAGE = 100
KEY = "sk-user-benchmark"
HEADERS = {"Authorization": f"Bearer {KEY}", "Accept": "application/json"}
Walk = Callable[[str, int], AbstractAsyncContextManager[AsyncIterator[object]]]


def most_memory() -> float:
    """The most memory that this process has had, in MiB.

    Linux's own count: the one of getrusage begins with what the process that started this one had.
    """
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**10


@asynccontextmanager
async def ours(url: str, count: int) -> AsyncIterator[AsyncIterator[object]]:
    import knowledgestack_async as ks

    async with (
        ks.Session(KEY, url, dialect="system-jobs") as session,
        ks.iter_ingestion_workflows(session, limit=count) as walk,
    ):
        yield walk


@asynccontextmanager
async def floor(url: str, count: int) -> AsyncIterator[AsyncIterator[object]]:
    import aiohttp
    from floor import make_page_decoder

    decode = make_page_decoder()
    listed = f"{url}/v1/system-jobs/document_versions?limit={PAGE}&offset="

    async def walk(session: aiohttp.ClientSession) -> AsyncIterator[object]:
        for offset in range(0, count, PAGE):
            async with session.get(f"{listed}{offset}") as response:
                for item in decode(await response.read()).items:
                    yield item

    async with aiohttp.ClientSession(headers=HEADERS) as session:
        yield walk(session)


async def count_items(walk: Walk, url: str, count: int) -> float:
    """Walk, and tell the CPU seconds that it took."""
    cpu = time.process_time()
    seen = 0
    async with walk(url, count) as items:
        async for _ in items:
            seen += 1
    assert seen == count, seen
    return time.process_time() - cpu


async def measure(walk: Walk, facts: Facts) -> dict[str, float]:
    url, total = facts["url"], facts["total"]
    await count_items(walk, url, PAGE)
    at_first = most_memory()
    short = await count_items(walk, url, 10_000)
    whole = await count_items(walk, url, total)
    return {
        "item": whole / total * 1e6,
        "item of 10,000": short / 10_000 * 1e6,
        "memory": most_memory() - at_first,
    }


@contextmanager
def setup(facts: Facts) -> Iterator[Facts]:
    total = 100_000 if facts["quick"] else 1_000_000
    with raw_server(total=total) as url:
        yield {"url": url, "total": total}


OURS, FLOOR = "knowledgestack-async", "floor: aiohttp and msgspec Structs"
QUESTION = Question(
    name="walk_a_million",
    title="What does walking 1,000,000 items cost?",
    figures={"item": "µs CPU/item", "item of 10,000": "µs CPU/item", "memory": "MiB more"},
    contenders=[
        Contender(OURS, lambda facts: asyncio.run(measure(ours, facts))),
        Contender(FLOOR, lambda facts: asyncio.run(measure(floor, facts))),
    ],
    goals=[
        Goal(OURS, by=FLOOR, at_most=1.6),
        Goal(OURS, by=OURS, by_figure="item of 10,000", at_most=1.15),
    ],
    limits={OURS: ("memory", 30)},
    rounds=3,
    quick_rounds=1,
    setup=setup,
)

if __name__ == "__main__":
    take_turn(QUESTION)
