"""Jobs through outages: a server that goes silent, or refuses, or resets, and comes back."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import asynccontextmanager

import knowledgestack_async as ks
from knowledgestack_async.sandbox import Fault, Sandbox
from support import KEY, QuickClock

BOUND = 5.0
"""The seconds after the server's return in which a job goes on."""
_RUNNING = {"speed": 20, "pipeline_seconds": (2.0, 6.0)}
CASES = {
    "single": {"after": 30},
    "one at a time": {"after": 30, "concurrency": 1},
    "at a rate": {"after": 30, "rate": 20},
    # Time passes slowly enough for a busy machine to answer a rerun of 200 before it times out.
    "in bulk": {"after": 1, "count": 1_500, "box": {"dialect": "system-jobs"}, "factor": 8.0},
    "sweeping": {"after": 2, "ids": 300},
    "reading": {"after": 2, "ids": 3},
    "capped": {"after": 12, "count": 60, "max_in_flight": 10, "box": _RUNNING},
    "followed": {"after": 12, "count": 60, "max_in_flight": 10, "wait": True, "box": _RUNNING},
    "canaries": {"after": 12, "count": 60, "canary": 10, "box": _RUNNING},
}
"""How a job is run, and after how many requests the server goes away."""
OUTAGES = {
    "silence": {"kind": "silence"},
    "silence-after-the-effect": {"kind": "silence", "effect": True},
    "reset": {"kind": "reset"},
    "502": {"kind": "status", "status": 502},
    "503": {"kind": "status", "status": 503},
}


@asynccontextmanager
async def failed_box(count, **options):
    options = {"statuses": {"failed": 1.0}, "superseded": 0, "api_key": KEY} | options
    async with Sandbox(ingestions=count, **({"speed": 1000} | options)) as box:
        yield box


async def until(condition):
    """Wait for it; a minute is more than anything takes, and pytest's own limit can get lost in a loop."""
    async with asyncio.timeout(50):
        while not condition():
            await asyncio.sleep(0.001)


def effects_by_id(box):
    return Counter(effect.id for effect in box.effects if effect.kind == "rerun")


def silenced_in(box, targets):
    """What was in the reruns that were not answered."""
    workflows = {target.document_version_id: target.workflow_id for target in targets}
    for request in box.requests:
        if request.method == "POST" and request.fault == "silence":
            many = () if request.id else json.loads(request.body)["document_version_ids"]
            yield from [request.id] if request.id else [workflows[one] for one in many]


async def go_through(
    path, outage, *, after, count=300, lasting=6.0, ids=0, box=None, factor=20.0, **options
):
    """A job through an outage.

    A short silence is seen as such only where answers come at once: then time must not pass so many
    times as fast that a busy machine looks like a slow server.

    Returns:
        The seconds from the server's return to the next rerun, the report, and what was in the
        reruns that were not answered.
    """
    async with failed_box(count, **(box or {})) as server:
        clock = QuickClock(factor)
        async with server.session(clock=clock, timeout=20.0) as session:
            targets = list(await ks.iter_ingestion_workflows(session))
            source = [target.workflow_id for target in targets[:ids]] if ids else targets
            fault = server.faults.add(Fault(**OUTAGES[outage], after=after))
            async with ks.rerun_ingestions(session, source, journal=path, **options) as job:
                await until(lambda: fault.fired)
                await clock.sleep(lasting)
                fault.remove()
                back_at, before = clock.now(), len(server.effects)
                await until(lambda: len(server.effects) > before)
                took = clock.now() - back_at
                report = await job.finish()
        assert report.stopped_by is None
        assert max(effects_by_id(server).values()) == 1
        assert set(report.counts) <= {"accepted", "unknown"}
        return took, report, sorted(silenced_in(server, targets))
