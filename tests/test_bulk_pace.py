"""The pace of a bulk rerun: a rate is kept, and only what is sent takes time."""

from __future__ import annotations

import asyncio

import pytest

import knowledgestack_async as ks
from knowledgestack_async.sandbox import Sandbox
from support import KEY, FakeClock


@pytest.fixture
def path(tmp_path):
    return tmp_path / "job.journal"


def failed_box(count: int, dialect: str) -> Sandbox:
    return Sandbox(
        ingestions=count,
        dialect=dialect,
        statuses={"failed": 1.0},
        superseded=0,
        speed=1000,
        api_key=KEY,
    )


@pytest.mark.parametrize("dialect", ["documented", "system-jobs"])
async def test_a_job_ends_when_nothing_is_left_however_low_its_rate(dialect, path):
    clock = FakeClock()
    async with failed_box(6, dialect) as box, box.session(clock=clock) as session:
        failed = await ks.iter_ingestion_workflows(session)
        began = clock.now()
        async with ks.rerun_ingestions(session, failed, journal=path, rate=2) as job:
            report = await job.finish()
        assert report.counts == {"accepted": 6}
        assert 2 <= clock.now() - began <= 4


async def test_a_bulk_rerun_is_no_larger_than_a_second_of_the_rate(path):
    clock = FakeClock()
    async with failed_box(60, "system-jobs") as box, box.session(clock=clock) as session:
        failed = await ks.iter_ingestion_workflows(session)
        async with ks.rerun_ingestions(session, failed, journal=path, rate=20) as job:
            await job.finish()
        assert box.request_counts["bulk_rerun_ingestions"] == 3


async def test_what_only_waits_for_its_time_is_not_in_flight(path):
    async with failed_box(6, "system-jobs") as box, box.session() as session:
        failed = await ks.iter_ingestion_workflows(session)
        async with ks.rerun_ingestions(session, failed, journal=path, rate=2) as job:
            while not job.progress.done:
                await asyncio.sleep(0.001)
            assert job.progress.in_flight == 0


async def test_leaving_sends_nothing_that_waited_for_its_time(path):
    async with failed_box(60, "system-jobs") as box, box.session() as session:
        failed = await ks.iter_ingestion_workflows(session)
        async with ks.rerun_ingestions(session, failed, journal=path, rate=10) as job:
            async for _ in job:
                break
        assert job.report.counts == {"accepted": 10, "planned": 50}
