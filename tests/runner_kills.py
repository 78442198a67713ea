"""Kills runners at random points, and looks whether an outcome was lost."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from knowledgestack_async.api.reporting import deliver_spooled
from knowledgestack_async.sandbox import Fault, Sandbox

CHILD = Path(__file__).parent / "runner_child.py"
CALLBACK = "send_workflow_run_callback"
SECONDS = 0.4
RUNS = 30


def add_noise(sandbox: Sandbox) -> None:
    for fault in (
        Fault("status", status=503, retry_after=0, probability=0.1),
        Fault("reset", when="before", probability=0.1),
        Fault("reset", when="after", probability=0.1),
        Fault("truncate", how="header", probability=0.1),
        Fault("latency", seconds=0.02, probability=0.3),
    ):
        sandbox.faults.add(fault)


async def run_child(
    sandbox: Sandbox, home: Path, *, kill_after: float | None, runs: int = RUNS, dies: str = ""
) -> None:
    """Give some runs to a runner, and kill it so many seconds later, unless it kills itself."""
    job: dict[str, Any] = {
        "api_key": sandbox.api_key,
        "base_url": sandbox.base_url,
        "spool": str(home / "outcomes.db"),
        "log": str(home / "log"),
        "runs": [sandbox.store.add_run("RUNNING").id for _ in range(runs)],
        "seconds": SECONDS,
        "dies": dies,
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(CHILD), json.dumps(job)), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    if kill_after is not None:
        await asyncio.sleep(kill_after)
        with suppress(ProcessLookupError):
            process.kill()
    await process.communicate()


async def kill_runners(sandbox: Sandbox, home: Path, *, kills: int, lanes: int, seed: int) -> None:
    """Kill so many runners, some at the same time; all share one spool."""
    draws = random.Random(seed)
    moments = iter([draws.random() * SECONDS * 1.2 for _ in range(kills)])

    async def lane() -> None:
        for moment in moments:
            await run_child(sandbox, home, kill_after=moment)

    async with asyncio.TaskGroup() as group:
        for _ in range(lanes):
            group.create_task(lane())


def count_decided(home: Path) -> int:
    """How many outcomes were decided and written down so far."""
    log = home / "log"
    return len(log.read_text().splitlines()) if log.exists() else 0


async def check_nothing_is_lost(sandbox: Sandbox, home: Path) -> int:
    """Deliver what is left; every outcome that was on the disk is the server's. How many those were."""
    sandbox.faults.clear()
    async with sandbox.session() as session:
        report = await deliver_spooled(session, home / "outcomes.db")
        assert report.left == {}
        assert report.gone == ()
        assert (await deliver_spooled(session, home / "outcomes.db")).delivered == ()
    decided = {
        line[0]: line[1:] for line in map(json.loads, (home / "log").read_text().splitlines())
    }
    for run_id, (status, error) in decided.items():
        run = sandbox.store.get_run(run_id)
        assert (run.status, run.error) == (status, error)
    # Nothing was sent before it was on the disk, and never two different outcomes.
    sent = {(request.id, request.body) for request in sandbox.requests if request.route == CALLBACK}
    assert {run_id for run_id, _ in sent} <= decided.keys() | set(report.delivered)
    assert max(Counter(run_id for run_id, _ in sent).values(), default=1) == 1
    assert max(Counter(effect.id for effect in sandbox.effects).values(), default=1) == 1
    for run_id in sandbox.store.runs.ids():
        expected = "FAILED" if int(run_id[0], 16) % 2 else "COMPLETED"
        assert sandbox.store.get_run(run_id).status in {expected, "RUNNING"}
    return len(decided)
