"""Calls of a process of its own, to be stopped: ``stopped_child.py BASE_URL KEY HOW TIMEOUT JOURNAL ID...``.

``HOW`` is ``rerun``, ``get``, or ``bulk`` (a job, with that journal). It prints how each call
ended and how many requests it made, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter

import knowledgestack_async as ks

CALLS = {"rerun": ks.rerun_ingestion_workflow, "get": ks.get_ingestion_workflow}


async def call_all(session: ks.Session, how: str, journal: str, ids: list[str]) -> dict[str, int]:
    if how == "bulk":
        async with ks.rerun_ingestions(session, ids, journal=journal, concurrency=10) as job:
            return dict((await job.finish()).counts)
    calls = (CALLS[how](session, one) for one in ids)
    results = await asyncio.gather(*calls, return_exceptions=True)
    return Counter(type(one).__name__ for one in results)


async def main(base_url: str, key: str, how: str, timeout: str, journal: str, *ids: str) -> None:
    async with ks.Session(key, base_url, timeout=float(timeout), dialect="documented") as session:
        counts = await call_all(session, how, journal, list(ids))
        print(json.dumps({"counts": counts, "requests": session.stats.requests}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
