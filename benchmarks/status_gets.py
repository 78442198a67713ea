"""How many statuses a second, with 50 requests in flight?

Every contender keeps its connections, sends the same request, reads the same answer and makes
something of it. Ours has its retries, its governor and its checks on, as by default.

httpx has one client, HTTP/1.1 and as many connections as requests, like everybody; with more of them
it only gets slower, for its pool looks through all its connections several times for each request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from measure import Contender, Facts, Goal, Question, take_turn
from servers import status_server

IN_FLIGHT = 50
KEY = "sk-user-benchmark"
HEADERS = {"Authorization": f"Bearer {KEY}", "Accept": "application/json"}


def make_ids(facts: Facts) -> list[str]:
    return [f"ingest-{number:026d}" for number in range(1_000 if facts["quick"] else 10_000)]


def tell(count: int, began: float, cpu: float) -> dict[str, float]:
    return {
        "rate": count / (time.perf_counter() - began),
        "CPU": (time.process_time() - cpu) / count * 1e6,
    }


async def in_workers(facts: Facts, get: Callable[[str], Awaitable[str]]) -> dict[str, float]:
    """All ids, by 50 workers; the first ones only warm up."""
    ids = make_ids(facts)

    async def work(left: Iterator[str]) -> None:
        for id_ in left:
            assert await get(id_) == id_

    async def run(some: list[str]) -> None:
        left = iter(some)
        await asyncio.gather(*(work(left) for _ in range(IN_FLIGHT)))

    await run(ids[: len(ids) // 10])
    began, cpu = time.perf_counter(), time.process_time()
    await run(ids)
    return tell(len(ids), began, cpu)


async def with_ours(facts: Facts) -> dict[str, float]:
    import knowledgestack_async as ks

    async with ks.Session(KEY, facts["url"], dialect="system-jobs") as session:

        async def get(id_: str) -> str:
            return (await ks.get_workflow_status(session, id_)).workflow_id

        return await in_workers(facts, get)


async def with_poll(facts: Facts) -> dict[str, float]:
    import knowledgestack_async as ks

    ids = make_ids(facts)
    async with ks.Session(KEY, facts["url"], dialect="system-jobs") as session:

        async def run(some: list[str]) -> None:
            async with ks.poll_workflow_statuses(session, some, concurrency=IN_FLIGHT) as poll:
                assert sum([result.error is None async for result in poll]) == len(some)

        await run(ids[: len(ids) // 10])
        began, cpu = time.perf_counter(), time.process_time()
        await run(ids)
        return tell(len(ids), began, cpu)


async def with_aiohttp(facts: Facts) -> dict[str, float]:
    import aiohttp

    base = facts["url"] + "/v1/system-jobs/"
    async with aiohttp.ClientSession(headers=HEADERS) as session:

        async def get(id_: str) -> str:
            async with session.get(base + id_) as response:
                return (await response.json())["workflow_id"]

        return await in_workers(facts, get)


async def with_floor(facts: Facts) -> dict[str, float]:
    import aiohttp
    from floor import make_status_decoder

    base, decode = facts["url"] + "/v1/system-jobs/", make_status_decoder()
    async with aiohttp.ClientSession(headers=HEADERS) as session:

        async def get(id_: str) -> str:
            async with session.get(base + id_) as response:
                return decode(await response.read()).workflow_id

        return await in_workers(facts, get)


async def with_httpx(facts: Facts) -> dict[str, float]:
    import httpx

    limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
    base = facts["url"] + "/v1/system-jobs/"
    async with httpx.AsyncClient(headers=HEADERS, limits=limits) as client:

        async def get(id_: str) -> str:
            return (await client.get(base + id_)).json()["workflow_id"]

        return await in_workers(facts, get)


def official(facts: Facts) -> dict[str, float]:
    import ksapi

    configuration = ksapi.Configuration(host=facts["url"])
    configuration.connection_pool_maxsize = IN_FLIGHT
    client = ksapi.ApiClient(configuration, "Authorization", HEADERS["Authorization"])
    jobs = getattr(ksapi, "SystemJobsApi", None) or ksapi.WorkflowsApi
    get = jobs(client).get_temporal_workflow_status
    ids = make_ids(facts)
    with ThreadPoolExecutor(IN_FLIGHT) as threads:
        list(threads.map(get, ids[: len(ids) // 10]))
        began, cpu = time.perf_counter(), time.process_time()
        for id_, status in zip(ids, threads.map(get, ids), strict=True):
            assert status.workflow_id == id_
        return tell(len(ids), began, cpu)


def on_asyncio(work: Callable[[Facts], Any]) -> Callable[[Facts], dict[str, float]]:
    return lambda facts: asyncio.run(work(facts))


def on_uvloop(work: Callable[[Facts], Any]) -> Callable[[Facts], dict[str, float]]:
    def run(facts: Facts) -> dict[str, float]:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            told: dict[str, float] = runner.run(work(facts))
            return told

    return run


@contextmanager
def setup(_facts: Facts) -> Iterator[Facts]:
    with status_server() as url:
        yield {"url": url}


QUESTION = Question(
    name="status_gets",
    title="How many statuses a second, with 50 requests in flight?",
    figures={"rate": "requests/s", "CPU": "µs/request"},
    contenders=[
        Contender("knowledgestack-async", on_asyncio(with_ours)),
        Contender("knowledgestack-async, poll", on_asyncio(with_poll)),
        Contender("aiohttp by hand", on_asyncio(with_aiohttp)),
        Contender("floor: aiohttp and msgspec", on_asyncio(with_floor)),
        Contender("httpx by hand", on_asyncio(with_httpx), peer="httpx"),
        Contender("ksapi 3.18.2, 50 threads", official, peer="ksapi-3.18.2"),
        Contender("ksapi 1.67.0, 50 threads", official, peer="ksapi-1.67.0"),
        Contender("knowledgestack-async, uvloop", on_uvloop(with_ours)),
        Contender("aiohttp by hand, uvloop", on_uvloop(with_aiohttp)),
    ],
    goals=[
        Goal("knowledgestack-async", by="aiohttp by hand", at_least=0.85),
        Goal("knowledgestack-async", by="ksapi 3.18.2, 50 threads", at_least=2.2),
        Goal("knowledgestack-async, poll", by="aiohttp by hand"),
        Goal("knowledgestack-async", by="httpx by hand"),
        Goal("knowledgestack-async, uvloop", by="aiohttp by hand, uvloop"),
    ],
    rounds=5,
    quick_rounds=3,
    setup=setup,
    more_is_better=True,
)

if __name__ == "__main__":
    take_turn(QUESTION)
