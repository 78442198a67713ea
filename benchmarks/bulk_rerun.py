"""How many reruns a second, with 50 on their way?

From the first of them to the last answer. Ours keeps its journal on disk, where each rerun is written
before it is sent; the planning is done before, from summaries that are at hand. By hand there is no
journal: a crash would leave nobody knowing what ran.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from measure import Contender, Facts, Goal, Question, take_turn
from servers import raw_server

IN_FLIGHT = 50
KEY = "sk-user-benchmark"
HEADERS = {"Authorization": f"Bearer {KEY}", "Accept": "application/json"}


def tell(count: int, began: float, cpu: float) -> dict[str, float]:
    return {
        "rate": count / (time.perf_counter() - began),
        "CPU": (time.process_time() - cpu) / count * 1e6,
    }


async def with_journal(facts: Facts, dialect: str) -> dict[str, float]:
    import knowledgestack_async as ks

    async with ks.Session(KEY, facts["url"], dialect=dialect) as session:
        with tempfile.TemporaryDirectory(dir=facts["home"]) as home:
            journal = Path(home, "rerun.journal")
            failed = await ks.iter_ingestion_workflows(session)
            async with ks.rerun_ingestions(
                session, failed, journal=journal, concurrency=IN_FLIGHT
            ) as job:
                while not job.progress.total:  # noqa: ASYNC110 - it is being planned
                    await asyncio.sleep(0)
                began, cpu = time.perf_counter(), time.process_time()
                for _ in range(facts["total"]):
                    assert (await anext(job)).state == "accepted"
                return tell(facts["total"], began, cpu)


async def with_aiohttp(facts: Facts) -> dict[str, float]:
    import aiohttp

    base = facts["url"] + "/v1/workflows/document_versions/"
    left = iter(range(facts["total"]))
    async with aiohttp.ClientSession(headers=HEADERS) as session:

        async def work() -> None:
            for number in left:
                id_ = f"ingest-{number:026d}"
                async with session.post(base + id_) as response:
                    assert (await response.json())["workflow_id"] == id_

        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
        return tell(facts["total"], began, cpu)


def ours(dialect: str) -> Callable[[Facts], dict[str, float]]:
    return lambda facts: asyncio.run(with_journal(facts, dialect))


@contextmanager
def setup(facts: Facts) -> Iterator[Facts]:
    total = 2_000 if facts["quick"] else 10_000
    with raw_server(total=total) as url, tempfile.TemporaryDirectory() as home:
        yield {"url": url, "total": total, "home": home}


QUESTION = Question(
    name="bulk_rerun",
    title="How many reruns a second, with 50 on their way?",
    figures={"rate": "reruns/s", "CPU": "µs/rerun"},
    contenders=[
        Contender("knowledgestack-async, journal", ours("offset")),
        Contender("aiohttp by hand, no journal", lambda facts: asyncio.run(with_aiohttp(facts))),
        Contender("knowledgestack-async, journal, 200 a request", ours("system-jobs")),
    ],
    goals=[
        Goal("knowledgestack-async, journal", by="aiohttp by hand, no journal", at_least=0.7),
        Goal("knowledgestack-async, journal, 200 a request", by="aiohttp by hand, no journal"),
        Goal("knowledgestack-async, journal", by="aiohttp by hand, no journal", figure="CPU"),
    ],
    rounds=5,
    quick_rounds=3,
    setup=setup,
    more_is_better=True,
)

if __name__ == "__main__":
    take_turn(QUESTION)
