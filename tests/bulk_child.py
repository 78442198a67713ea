"""A bulk rerun in a process of its own, to be killed: ``bulk_child.py BASE_URL KEY JOURNAL POINT NUMBER``.

It kills itself at a point of its journal's work, or waits to be killed: ``POINT`` is ``claimed`` or
``answered`` (the number of the claim or answer at which it dies), or ``none``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

import knowledgestack_async as ks
from knowledgestack_async._journal import SqliteJournal


def die_after(method: str, number: int) -> None:
    """Die when a method of the journal is done, or begins (``update``), for the n-th time."""
    original = getattr(SqliteJournal, method)
    calls = 0

    async def counted(journal: SqliteJournal, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if method == "update" and calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        result = await original(journal, *arguments)
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(SqliteJournal, method, counted)


async def main(base_url: str, key: str, journal: str, point: str, number: int) -> None:
    """Rerun everything that failed."""
    if point != "none":
        die_after({"claimed": "claim", "answered": "update"}[point], number)
    async with ks.Session(key, base_url) as session:
        failed = ks.iter_ingestion_workflows(session, status="failed")
        job = ks.rerun_ingestions(session, failed, journal=journal, concurrency=8)
        async with job:
            await job.finish()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5], int(sys.argv[5])))
