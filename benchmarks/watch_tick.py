"""How long does it take to look once at 10,000 ingestions that are running?

Ours reads the list, a hundred statuses a request. A later tick finds a hundred of them changed; in the
first one all are news, and connections are made. The others GET each one's status, the shortest answer
that there is, from connections that are warm; the quick choice GETs a tenth of them and counts it
tenfold.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import sub
from statistics import median

import status_gets
from measure import Contender, Facts, Goal, Question, take_turn
from servers import raw_server, status_server

WATCHED = 10_000
KEY = "sk-user-benchmark"
IDS = [f"ingest-{number:026d}" for number in range(WATCHED)]
FIGURES = {"tick": "s", "CPU": "s", "requests": "a tick"}


async def first_tick(facts: Facts) -> dict[str, float]:
    """From entering the block to the last of 10,000 changes."""
    import knowledgestack_async as ks

    async with ks.Session(KEY, facts["list"], dialect="system-jobs") as session:
        began, cpu = time.perf_counter(), time.process_time()
        seen: set[str] = set()
        async with ks.watch_ingestions(session, IDS) as watch:
            async for change in watch:
                seen.add(change.workflow_id)
                if len(seen) == WATCHED:
                    break
        return {
            "tick": time.perf_counter() - began,
            "CPU": time.process_time() - cpu,
            "requests": session.stats.requests,
        }


async def later_tick(facts: Facts) -> dict[str, float]:
    """From one change of the same ingestion to the next, which each tick finds."""
    import knowledgestack_async as ks

    ticks: list[dict[str, float]] = []
    async with (
        ks.Session(KEY, facts["list"], dialect="system-jobs") as session,
        ks.watch_ingestions(session, IDS, interval=0.0001) as watch,
    ):
        before: tuple[float, float, int] | None = None
        async for change in watch:
            if change.workflow_id != IDS[0] or change.kind is not ks.ChangeKind.STATUS:
                continue
            now = time.perf_counter(), time.process_time(), session.stats.requests
            if before is not None:
                ticks.append(dict(zip(FIGURES, map(sub, now, before), strict=True)))
            before = now
            if len(ticks) == (5 if facts["quick"] else 10):
                break
    return {name: median(tick[name] for tick in ticks[1:]) for name in FIGURES}


def one_by_one(get: Callable[[Facts], dict[str, float]]) -> Callable[[Facts], dict[str, float]]:
    """As ``status_gets.py`` has it."""

    def work(facts: Facts) -> dict[str, float]:
        told = get(facts)
        return {
            "tick": WATCHED / told["rate"],
            "CPU": WATCHED * told["CPU"] / 1e6,
            "requests": WATCHED,
        }

    return work


@contextmanager
def setup(_facts: Facts) -> Iterator[Facts]:
    with raw_server(total=WATCHED) as listed, status_server() as url:
        yield {"list": listed, "url": url}


QUESTION = Question(
    name="watch_tick",
    title="How long does it take to look once at 10,000 ingestions that are running?",
    figures=FIGURES,
    contenders=[
        Contender("knowledgestack-async", lambda facts: asyncio.run(later_tick(facts))),
        Contender("knowledgestack-async, first tick", lambda facts: asyncio.run(first_tick(facts))),
        Contender(
            "aiohttp by hand, 50 in flight",
            one_by_one(status_gets.on_asyncio(status_gets.with_aiohttp)),
        ),
        Contender(
            "ksapi 3.18.2, 50 threads", one_by_one(status_gets.official), peer="ksapi-3.18.2"
        ),
    ],
    goals=[
        Goal("ksapi 3.18.2, 50 threads", by="knowledgestack-async", at_least=30),
        Goal("ksapi 3.18.2, 50 threads", by="knowledgestack-async, first tick"),
        Goal("aiohttp by hand, 50 in flight", by="knowledgestack-async"),
        Goal("ksapi 3.18.2, 50 threads", by="knowledgestack-async", figure="CPU"),
    ],
    rounds=3,
    quick_rounds=3,
    setup=setup,
)

if __name__ == "__main__":
    take_turn(QUESTION)
