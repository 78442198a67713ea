"""How long does it take to walk 1,000 pages of 100, when each answer takes 20 ms?

In order, with the defaults: ours reads ahead, the others read one page after the other. The server
pages by offsets, as the one in production does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from measure import Contender, Facts, Goal, Question, take_turn
from servers import raw_server

LATENCY = 0.02
PAGE = 100
KEY = "sk-user-benchmark"
HEADERS = {"Authorization": f"Bearer {KEY}", "Accept": "application/json"}


def tell(began: float, pages: int, seen: int, facts: Facts) -> dict[str, float]:
    assert seen == facts["total"], seen
    return {"page": (time.perf_counter() - began) / pages * 1000}


def pages_of(facts: Facts) -> int:
    return facts["total"] // PAGE


def walk_with_ours(**options: Any) -> Callable[[Facts], dict[str, float]]:
    async def work(facts: Facts) -> dict[str, float]:
        import knowledgestack_async as ks

        async with ks.Session(KEY, facts["url"], dialect="system-jobs") as session:
            began = time.perf_counter()
            seen = 0
            async for _ in ks.iter_ingestion_workflows(session, **options):
                seen += 1
            return tell(began, pages_of(facts), seen, facts)

    return lambda facts: asyncio.run(work(facts))


async def walk_with_aiohttp(facts: Facts) -> dict[str, float]:
    import aiohttp

    async with aiohttp.ClientSession(headers=HEADERS) as session:
        began = time.perf_counter()
        seen = 0
        for offset in range(0, facts["total"], PAGE):
            query = f"?limit={PAGE}&offset={offset}"
            async with session.get(facts["list"] + query) as response:
                for _ in (await response.json())["items"]:
                    seen += 1
        return tell(began, pages_of(facts), seen, facts)


def walk_with_official(facts: Facts) -> dict[str, float]:
    import ksapi

    client = ksapi.ApiClient(
        ksapi.Configuration(host=facts["url"]), "Authorization", HEADERS["Authorization"]
    )
    api = ksapi.SystemJobsApi(client)
    began = time.perf_counter()
    seen = 0
    for offset in range(0, facts["total"], PAGE):
        for _ in api.list_dv_workflows(limit=PAGE, offset=offset).items:
            seen += 1
    return tell(began, pages_of(facts), seen, facts)


@contextmanager
def setup(facts: Facts) -> Iterator[Facts]:
    total = 20_000 if facts["quick"] else 100_000
    with raw_server(LATENCY, total) as url:
        yield {"url": url, "list": f"{url}/v1/system-jobs/document_versions", "total": total}


QUESTION = Question(
    name="walk_with_latency",
    title="How long does a page take in a walk of 1,000 pages, when each answer takes 20 ms?",
    figures={"page": "ms/page"},
    contenders=[
        Contender("knowledgestack-async", walk_with_ours()),
        Contender("knowledgestack-async, prefetch=0", walk_with_ours(prefetch=0)),
        Contender("aiohttp by hand", lambda facts: asyncio.run(walk_with_aiohttp(facts))),
        Contender("ksapi 3.18.2", walk_with_official, peer="ksapi-3.18.2"),
    ],
    goals=[
        Goal("knowledgestack-async, prefetch=0", by="knowledgestack-async", at_least=8),
        Goal("aiohttp by hand", by="knowledgestack-async", at_least=8),
        Goal("ksapi 3.18.2", by="knowledgestack-async"),
    ],
    rounds=3,
    quick_rounds=1,
    setup=setup,
)

if __name__ == "__main__":
    take_turn(QUESTION)
