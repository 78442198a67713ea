"""Bulk reruns at full size: ten thousand items in noise, two hundred kills, a hundred thousand items."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from peak import peak_of

import knowledgestack_async as ks
from bulk_kills import POINTS, kill_and_resume
from knowledgestack_async.sandbox import Fault, Sandbox
from support import KEY


@pytest.mark.parametrize("seed", range(34))
@pytest.mark.parametrize("point", POINTS)
async def test_two_hundred_kills(point, seed, tmp_path):
    dialect = "system-jobs" if seed % 5 == 4 and point == "random" else "documented"
    await kill_and_resume(tmp_path / "job.journal", point, seed, dialect=dialect)


@pytest.mark.timeout(600)
async def test_ten_thousand_in_noise(tmp_path):
    options = {"statuses": {"failed": 1.0}, "superseded": 0, "api_key": KEY, "seed": 8}
    async with Sandbox(ingestions=10_000, **options) as box, box.session() as session:
        failed = await ks.iter_ingestion_workflows(session)
        route = "rerun_ingestion_workflow"
        box.faults.add(Fault("status", route=route, status=503, probability=0.3))
        box.faults.add(Fault("reset", route=route, when="before", probability=0.05))
        late = Fault("reset", route=route, when="after", effect_delay=0.3, probability=0.05)
        box.faults.add(late)
        box.faults.add(Fault("truncate", route=route, how="length", probability=0.05))
        async with ks.rerun_ingestions(session, failed, journal=tmp_path / "j") as job:
            report = await job.finish()
        await asyncio.sleep(0.4)
        reset = {request.id for request in box.requests if request.fault == "reset"}
        effects = Counter(effect.id for effect in box.effects)
    assert set(report.unknown) == reset
    assert report.counts == {"accepted": 10_000 - len(reset), "unknown": len(reset)}
    assert max(effects.values()) == 1
    posts = box.request_counts[route]
    print(f"{posts / 10_000:.3f} POSTs an item, {len(reset)} unknown")
    assert posts <= 1.47 * 10_000


JOB = """
import asyncio, sys
import knowledgestack_async as ks

async def main(base_url, journal):
    async with ks.Session("sk-user-sandbox", base_url) as session:
        failed = ks.iter_ingestion_workflows(session, status="failed")
        async with ks.rerun_ingestions(session, failed, journal=journal, WAIT) as job:
            async for _ in job:
                pass
        assert job.report.counts == {"accepted": 100_000}, job.report.counts

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("dialect", "wait"), [("documented", False), ("system-jobs", False), ("system-jobs", True)]
)
async def test_a_hundred_thousand_items_stay_under_150_mib(tmp_path, dialect, wait):
    options = {"statuses": {"failed": 1.0}, "superseded": 0, "record": False, "speed": 100}
    async with Sandbox(ingestions=100_000, dialect=dialect, **options) as box:
        program = JOB.replace("WAIT", f"wait={wait}")
        megabytes = await peak_of(program, box.base_url, str(tmp_path / "j"))
    print(f"{megabytes:.0f} MiB")
    assert megabytes < 150
