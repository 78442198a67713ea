"""A bulk rerun that is stopped, left or cancelled at a bad moment, or held back by what must not be exceeded."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from functools import partial
from itertools import pairwise

import pytest
from outages import failed_box, until

import knowledgestack_async as ks
from knowledgestack_async import _transport
from knowledgestack_async.bulk import RerunJob
from knowledgestack_async.sandbox import Fault
from support import FakeClock, QuickClock

SOON = 10.0


@pytest.fixture
def path(tmp_path):
    return tmp_path / "job.journal"


def threads_of(path):
    return [one.name for one in threading.enumerate() if one.name == f"database {path.name}"]


async def states_in(job):
    return Counter([str(item.state) async for item in job._journal.items()])


# Stops


@pytest.mark.parametrize("refusal", [{"status": 429, "code": "quota_exceeded"}, {"status": 401}])
async def test_many_refusals_that_stop_a_job_end_it(path, refusal):
    """They come together, and each of them stops it."""
    async with failed_box(200, latency=0.02) as box, box.session() as session:
        failed = await ks.iter_ingestion_workflows(session)
        box.faults.add(Fault("status", route="rerun*", after=5, **refusal))
        async with asyncio.timeout(SOON), ks.rerun_ingestions(session, failed, journal=path) as job:
            report = await job.finish()
    assert report.counts == {"accepted": 5, "planned": 195}
    assert report.stopped_by


@pytest.mark.parametrize("options", [{"wait": True}, {"canary": 6}])
async def test_a_stop_ends_a_job_that_only_waits_for_ends(path, options):
    clock = QuickClock()
    async with failed_box(6, speed=1, pipeline_seconds=(50.0, 60.0)) as box:
        async with box.session(clock=clock) as session:
            failed = await ks.iter_ingestion_workflows(session)
            async with ks.rerun_ingestions(session, failed, journal=path, **options) as job:
                finishing = asyncio.create_task(job.finish())
                await until(lambda: len(job._followed) == 6)
                await asyncio.sleep(0.05)
                job._breaker.stop("enough")
                async with asyncio.timeout(SOON):
                    assert (await finishing).stopped_by == "enough"


async def test_what_a_stop_withdraws_gives_its_retries_back(path):
    async with failed_box(60) as box, box.session() as session:
        failed = await ks.iter_ingestion_workflows(session)
        before = session._core.engine.breaker._tokens
        box.faults.add(Fault("status", method="POST", status=503))
        async with ks.rerun_ingestions(session, failed, journal=path, concurrency=5):
            await until(lambda: session.stats.retries >= 5)
        assert session._core.engine.breaker._tokens == before


async def test_leaving_does_not_wait_until_a_route_is_found(path):
    loop = asyncio.get_running_loop()
    async with failed_box(30) as box, box.session() as session:
        failed = await ks.iter_ingestion_workflows(session)
        box.faults.add(Fault("status", method="POST", status=404, body={"detail": "Not Found"}))
        box.faults.add(Fault("status", method="GET", status=429, retry_after=60))
        async with ks.rerun_ingestions(session, failed, journal=path):
            await until(lambda: any(request.status == 429 for request in box.requests))
            began = loop.time()
        assert loop.time() - began < SOON / 2


# Pauses that are no withdrawals


async def test_a_long_pause_that_the_server_asks_for_pauses_the_job_and_claims_nothing(path):
    async with failed_box(200) as box, box.session() as session:
        failed = await ks.iter_ingestion_workflows(session)
        asks = Fault("status", method="POST", status=429, retry_after=300, times=1, after=5)
        box.faults.add(asks)
        async with ks.rerun_ingestions(session, failed, journal=path) as job:
            await until(lambda: job.progress.paused)
            assert "the server asked all callers to pause" in job.progress.paused
            await asyncio.sleep(0.1)  # what was claimed is put back
            claim, claims = job._journal.claim, []

            async def claimed(most):
                claims.append(most)
                return await claim(most)

            job._journal.claim = claimed
            await asyncio.sleep(0.3)
            assert claims == []


async def test_a_key_that_takes_too_long_pauses_the_job(path):
    async def ask():
        if job.progress.total:
            await asyncio.Event().wait()
        return box.api_key

    async with failed_box(30) as box, box.session(api_key=ask, clock=QuickClock()) as session:
        ids = box.store.ids()
        async with ks.rerun_ingestions(session, ids, journal=path) as job:
            await until(lambda: job.progress.paused)
            assert "took too long" in job.progress.paused


# Slow readers


async def test_what_was_answered_is_written_down_though_nobody_reads(path, monkeypatch):
    monkeypatch.setattr(RerunJob, "WAITING_OUTCOMES", 10)
    async with failed_box(300) as box, box.session() as session:
        failed = await ks.iter_ingestion_workflows(session)
        box.faults.add(Fault("status", route="rerun*", status=409))
        async with ks.rerun_ingestions(session, failed, journal=path) as job:
            await until(lambda: box.request_counts["rerun_ingestion_workflow"] == 300)
            async with asyncio.timeout(SOON):
                while await states_in(job) != {"refused": 300}:
                    await asyncio.sleep(0.01)
            assert len((await job.finish()).items) == 300


async def test_no_more_is_sent_than_may_wait_to_be_read(path, monkeypatch):
    monkeypatch.setattr(RerunJob, "WAITING_OUTCOMES", 10)
    monkeypatch.setattr("knowledgestack_async._rerun_supply.Supply.MOST_UNTOLD", 20)
    async with failed_box(300) as box, box.session() as session:
        failed = await ks.iter_ingestion_workflows(session)
        async with ks.rerun_ingestions(session, failed, journal=path, concurrency=5) as job:
            await until(lambda: box.request_counts["rerun_ingestion_workflow"] >= 30)
            await asyncio.sleep(0.3)
            assert box.request_counts["rerun_ingestion_workflow"] <= 10 + 20 + 2 * 10 + 5
            assert (await job.finish()).counts == {"accepted": 300}


# Cancellations


async def test_cancelled_while_it_is_entered_it_lets_the_journal_go(path):
    async with failed_box(3) as box, box.session() as session:
        job = ks.rerun_ingestions(session, box.store.ids(), journal=path)
        publish, reached = job._publish, asyncio.Event()

        def published(*, is_over):
            reached.set()
            return publish(is_over=is_over)

        job._publish = published
        entering = asyncio.create_task(job.__aenter__())
        await reached.wait()
        entering.cancel()
        await asyncio.wait([entering])
        assert threads_of(path) == []
        async with ks.rerun_ingestions(session, box.store.ids(), journal=path) as again:
            assert (await again.finish()).counts == {"accepted": 3}


@pytest.mark.parametrize("steps", range(6))
async def test_cancelled_while_it_is_left_it_lets_the_journal_go(path, steps):
    async def run():
        async with job:
            await job.finish()
            ended.set()

    ended = asyncio.Event()
    async with failed_box(3) as box, box.session() as session:
        job = ks.rerun_ingestions(session, box.store.ids(), journal=path)
        running = asyncio.create_task(run())
        await ended.wait()
        for _ in range(steps):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])
        async with asyncio.timeout(SOON):
            while threads_of(path):
                await asyncio.sleep(0.01)


async def test_cancelled_while_it_is_left_with_much_unread_it_ends(path, monkeypatch):
    monkeypatch.setattr(RerunJob, "WAITING_OUTCOMES", 2)

    async def run():
        async with job:
            await until(lambda: silence.fired)
            leaving.set()

    leaving = asyncio.Event()
    async with failed_box(20) as box, box.session() as session:
        silence = box.faults.add(Fault("silence", method="POST", after=8))
        job = ks.rerun_ingestions(session, box.store.ids(), journal=path, concurrency=8)
        running = asyncio.create_task(run())
        await leaving.wait()
        await asyncio.sleep(0.1)
        running.cancel()
        async with asyncio.timeout(SOON):
            await asyncio.wait([running])
            while threads_of(path):
                await asyncio.sleep(0.01)


async def test_what_ended_a_job_comes_up_where_its_block_is_left(path):
    async with failed_box(3) as box, box.session() as session:
        box.faults.add(Fault("status", route="list*", status=403))
        job = ks.rerun_ingestions(session, box.store.ids() * 20, journal=path)
        with pytest.raises(ks.Forbidden):
            async with job:
                await until(job._work.done)


# What must not be exceeded


@pytest.mark.no_cover
async def test_what_waits_to_be_sent_again_is_not_written_off(path):
    """Three were refused and wait, one hangs: after the silence no more than four are on their way."""

    class Late:
        def random(self):
            return 0.99

    clock = QuickClock()
    patient = ks.RetryPolicy(base_delay=10)
    async with failed_box(100) as box:
        async with box.session(clock=clock, timeout=60.0, retry=patient, chance=Late()) as session:
            failed = await ks.iter_ingestion_workflows(session)
            box.faults.add(Fault("status", status=503, route="rerun*", times=3))
            silence = box.faults.add(Fault("silence", after=5))
            async with ks.rerun_ingestions(session, failed, journal=path, concurrency=4) as job:
                await until(lambda: job.progress.paused)
                silence.remove()
                slow = box.faults.add(Fault("latency", method="POST", seconds=0.1))
                worst, ends_at = 0, clock.now() + 12
                while clock.now() < ends_at:
                    tries = session._core.transport._tries
                    worst = max(worst, sum(one.once for one in tries))
                    await asyncio.sleep(0.001)
                slow.remove()
                box.faults.clear()
    assert worst <= 4 + 1


async def test_what_has_no_connection_yet_is_not_sent_beside_its_substitute(path, monkeypatch):
    original, is_up = _transport._WatchedConnector.connect, asyncio.Event()

    async def connect(*args, **options):
        if not is_up.is_set():
            await asyncio.Event().wait()
        return await original(*args, **options)

    clock = QuickClock()
    async with failed_box(60) as box:
        async with box.session(clock=clock, timeout=60.0) as session:
            failed = list(await ks.iter_ingestion_workflows(session))
            monkeypatch.setattr(_transport._WatchedConnector, "connect", connect)
            async with ks.rerun_ingestions(session, failed, journal=path, concurrency=5) as job:
                await until(lambda: job.progress.paused)
                box.faults.add(Fault("latency", method="POST", seconds=0.02))
                is_up.set()
                assert (await job.finish()).counts == {"accepted": 60}
        assert box.max_in_flight <= 5 + 1  # a question of the job's


async def test_a_low_rate_sends_one_after_the_other(path):
    clock = QuickClock(10)
    async with failed_box(12) as box, box.session(clock=clock) as session:
        failed = await ks.iter_ingestion_workflows(session)
        async with ks.rerun_ingestions(session, failed, journal=path, rate=4) as job:
            await job.finish()
        posts = [one.at * clock.factor for one in box.requests if one.method == "POST"]
    together = sum(later - sooner < 0.05 for sooner, later in pairwise(posts))
    assert together <= 1  # a busy machine may be late for one, and in time for the next


@pytest.mark.no_cover
async def test_a_rate_is_kept_after_a_pause_too(path):
    clock = QuickClock()
    async with failed_box(40) as box, box.session(clock=clock, timeout=60.0) as session:
        failed = await ks.iter_ingestion_workflows(session)
        box.faults.add(Fault("status", method="POST", status=429, retry_after=30, times=1, after=4))
        async with ks.rerun_ingestions(session, failed, journal=path, rate=2) as job:
            await until(lambda: len(box.effects) >= 30)
            posts = [one.at * clock.factor for one in box.requests if one.method == "POST"]
            assert len(job._supply._open) <= 4
    most = max(sum(at <= other <= at + 2 for other in posts) for at in posts)
    assert most <= 10


async def test_what_is_unknown_from_before_counts_against_the_cap(path):
    most = 0

    def look(_request):
        nonlocal most
        running = sum(len(box.store.ids(state)) for state in ("pending", "processing"))
        most = max(most, running)

    async with failed_box(12, speed=10, pipeline_seconds=(6.0, 7.0)) as box:
        async with box.session() as session:
            ids = list(box.store.ids())
            box.before_request = look
            lost = Fault("reset", when="before", method="POST", effect_delay=0.3, times=3)
            box.faults.add(lost)
            run = partial(ks.rerun_ingestions, session, ids, journal=path, max_in_flight=3)
            async with run() as job:
                for _ in range(3):
                    await anext(job)
            assert job.report.counts == {"unknown": 3, "planned": 9}
            async with run() as job:
                await job.finish()
    assert most == 3


async def test_what_had_its_time_to_show_does_not_count_against_the_cap(path):
    async with failed_box(12) as box, box.session(clock=FakeClock()) as session:
        ids = list(box.store.ids())
        box.faults.add(Fault("reset", when="before", method="POST", times=3))
        settings = {"journal": path, "max_in_flight": 3, "settle_after": 0.0}
        async with ks.rerun_ingestions(session, ids, **settings) as job:
            for _ in range(3):
                await anext(job)
        async with asyncio.timeout(SOON), ks.rerun_ingestions(session, ids, **settings) as job:
            assert (await job.finish()).counts == {"unknown": 3, "accepted": 9}


async def test_a_full_cap_does_not_keep_a_job_that_has_nothing_left_to_send(path):
    async with failed_box(2) as box, box.session() as session:
        failed = await ks.iter_ingestion_workflows(session)
        box.faults.add(Fault("reset", when="before", method="POST", times=1, after=1))
        settings = {"journal": path, "max_in_flight": 1, "settle_after": 1000}
        async with asyncio.timeout(SOON), ks.rerun_ingestions(session, failed, **settings) as job:
            assert (await job.finish()).counts == {"accepted": 1, "unknown": 1}
