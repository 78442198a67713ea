"""Killing a bulk rerun with SIGKILL, and what must hold of it afterwards."""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter, defaultdict
from pathlib import Path

import knowledgestack_async as ks
from knowledgestack_async.sandbox import Fault, Sandbox
from support import KEY

CHILD = Path(__file__).with_name("bulk_child.py")

POINTS = ("claimed", "headers", "effect", "half-read", "answered", "random")


async def kill_and_resume(
    path: Path, point: str, seed: int, *, dialect: str = "documented"
) -> None:
    """Kill a job at a point, go on with it here, and check that nothing was lost or sent twice."""
    rng = random.Random(f"{point}:{seed}")
    number = rng.randrange(1, 60)
    options = {"statuses": {"failed": 1.0}, "superseded": 0, "api_key": KEY, "seed": seed}
    async with Sandbox(ingestions=80, dialect=dialect, **options) as box:
        box.faults.add(Fault("status", route="rerun*", status=503, probability=0.1))
        await run_until_killed(box, path, point, number, rng)
        async with box.session() as session:
            async with ks.rerun_ingestions(session, ids_not_read(), journal=path) as job:
                report = await job.finish()
        check(box, report)


async def run_until_killed(
    box: Sandbox, path: Path, point: str, number: int, rng: random.Random
) -> None:
    """Start the job in a process of its own, and see to its death."""
    own = point if point in {"claimed", "answered"} else "none"
    arguments = [box.base_url, KEY, str(path), own, str(number)]
    child = await asyncio.create_subprocess_exec(sys.executable, str(CHILD), *arguments)
    posts = 0

    def count(request: object) -> None:
        nonlocal posts
        posts += getattr(request, "method", "") == "POST"
        if point == "headers" and posts == number:
            child.kill()

    box.before_request = count
    if point == "half-read":
        box.faults.add(Fault("stall_body", route="rerun*", after=number))
    try:
        async with asyncio.timeout(20):
            if point == "random":
                while not box.effects:
                    await asyncio.sleep(0.001)
                await asyncio.sleep(rng.random() * 0.1)
            elif point in {"effect", "half-read"}:
                while len(box.effects) <= number and child.returncode is None:
                    await asyncio.sleep(0)
            if point in {"random", "effect", "half-read"} and child.returncode is None:
                child.kill()
            await child.wait()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    box.before_request = None
    box.faults.clear()


async def ids_not_read():
    """A source that a planned job must not read again; one killed before that reads it."""
    if False:
        yield ""


def check(box: Sandbox, report: ks.RerunReport) -> None:
    """Nothing lost, nothing run twice, nothing on the wire twice but after a refusal."""
    effects = Counter(effect.id for effect in box.effects if effect.kind == "rerun")
    assert max(effects.values(), default=0) <= 1
    assert sum(report.counts.values()) == 80
    assert set(report.counts) <= {"accepted", "unknown"}, report.counts
    states = {item.workflow_id: item.state for item in report.items}
    for workflow_id, state in states.items():
        assert state != "accepted" or effects[workflow_id] == 1
    sent = defaultdict(list)
    for request in box.requests:
        if request.route == "rerun_ingestion_workflow":
            sent[request.id].append(request.status)
    for statuses in sent.values():
        assert all(status == 503 for status in statuses[:-1])
