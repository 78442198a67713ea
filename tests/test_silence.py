"""A server that goes silent, or away, and comes back: nobody waits for what hangs, and nothing runs twice."""

from __future__ import annotations

import asyncio
import socket

import pytest
from outages import BOUND, CASES, failed_box, go_through, until

import knowledgestack_async as ks
from knowledgestack_async._journal import JournalItem
from knowledgestack_async._pulse import Pulse
from knowledgestack_async._rerun_breaker import Breaker
from knowledgestack_async._rerun_settings import RerunSettings
from knowledgestack_async._rerun_supply import Supply
from knowledgestack_async._retry import CircuitBreaker
from knowledgestack_async.sandbox import Fault
from support import (
    KEY,
    FakeClock,
    QuickClock,
    answering,
    assert_within,
    http,
    ids_of,
    raw_server,
    run_id_of,
)


def new_path(folder):
    """A journal for each attempt."""
    return folder / f"{len(list(folder.iterdir()))}.journal"


def presume_lost(session, before):
    session.hearing.hang_up(before)
    session.hearing.write_off(before, None)


async def one_more_runs(box):
    before = len(box.effects)
    await until(lambda: len(box.effects) > before)


# A job goes on


@pytest.mark.no_cover
@pytest.mark.parametrize(("lasting", "factor"), [(1.0, 4.0), (25.0, 10.0)])
async def test_a_job_goes_on_soon_after_a_silence_of_any_length(tmp_path, lasting, factor):
    async def measure():
        case = CASES["single"] | {"lasting": lasting, "factor": factor}
        took, report, silenced = await go_through(new_path(tmp_path), "silence", **case)
        assert 0 < len(silenced) <= 50
        assert sorted(report.unknown) == silenced
        return took

    await assert_within(BOUND, measure)


@pytest.mark.parametrize(
    ("outage", "case"),
    [
        ("silence-after-the-effect", "one at a time"),
        ("silence", "in bulk"),
        ("reset", "sweeping"),
        ("silence", "followed"),
    ],
)
async def test_whatever_a_job_does_it_goes_on_soon_after_an_outage(tmp_path, outage, case):
    async def measure():
        took, report, silenced = await go_through(new_path(tmp_path), outage, **CASES[case])
        assert outage in {"reset", "502"} or set(report.unknown) <= set(silenced)
        return took

    await assert_within(BOUND, measure)


async def test_waits_before_a_retry_dont_put_off_the_next_look(tmp_path):
    async def measure():
        options = {"speed": 20, "pipeline_seconds": (12.0, 12.0)}
        clock = QuickClock()
        async with failed_box(2, **options) as box:
            patient = ks.RetryPolicy(base_delay=16.0)  # half of that, with this chance
            async with box.session(clock=clock, retry=patient, chance=Half()) as session:
                failed = await ks.iter_ingestion_workflows(session)
                box.faults.add(Fault("status", status=503, route="get_ingest*", times=1))
                began = clock.now()
                journal = new_path(tmp_path)
                async with ks.rerun_ingestions(session, failed, journal=journal, wait=True) as job:
                    assert (await job.finish()).outcomes == {"completed": 2}
                return clock.now() - began

    await assert_within(20, measure)


class Half:
    """Chance that always draws a half."""

    def random(self):
        return 0.5


@pytest.mark.no_cover
@pytest.mark.parametrize(("case", "most"), [("single", 57), ("one at a time", 8), ("in bulk", 400)])
async def test_an_outage_leaves_hardly_more_unknown_than_was_on_its_way(tmp_path, case, most):
    """Seven more, for eight failures in a row tell that it is one; a request of many tells it at once."""
    _took, report, _silenced = await go_through(new_path(tmp_path), "502", **CASES[case])
    assert 0 < report.counts["unknown"] <= most


async def test_a_job_that_is_paused_is_left_soon(tmp_path):
    async with failed_box(60) as box, box.session(clock=FakeClock()) as session:
        failed = await ks.iter_ingestion_workflows(session)
        box.faults.add(Fault("status", status=503, after=20))
        async with asyncio.timeout(10):
            options = {"journal": tmp_path / "j", "concurrency": 2}
            async with ks.rerun_ingestions(session, failed, **options) as job:
                await until(lambda: job.progress.paused)
        assert job.report.counts == {"accepted": 20, "planned": 40}
        assert job.report.stopped_by == "it was left before its end"


async def test_what_waits_for_its_turn_in_bulk_is_not_sent_after_a_stop(tmp_path):
    async with failed_box(1_500, dialect="system-jobs") as box, box.session() as session:
        failed = await ks.iter_ingestion_workflows(session)
        quota = Fault("status", method="POST", status=429, code="quota_exceeded")
        box.faults.add(quota)
        async with ks.rerun_ingestions(session, failed, journal=tmp_path / "j") as job:
            report = await job.finish()
        assert report.stopped_by == "a quota is used up"
        assert sum(request.method == "POST" for request in box.requests) <= 2
    assert report.counts == {"planned": 1_500}


async def test_a_server_that_says_no_to_the_question_is_there(tmp_path):
    """Some keys may rerun, and not list."""
    async with failed_box(30) as box, box.session(clock=FakeClock()) as session:
        failed = await ks.iter_ingestion_workflows(session)
        box.faults.add(Fault("status", route="list*", status=403))
        box.faults.add(Fault("reset", method="POST", when="before", times=10))
        options = {"journal": tmp_path / "j", "concurrency": 1}
        async with asyncio.timeout(10), ks.rerun_ingestions(session, failed, **options) as job:
            report = await job.finish()
    assert report.counts == {"accepted": 20, "unknown": 10}


@pytest.mark.no_cover
async def test_a_server_that_refuses_some_goes_on_getting_what_was_begun(tmp_path, monkeypatch):
    """An empty budget pauses a job; to hold back what is begun would only make it slow."""
    monkeypatch.setattr(CircuitBreaker, "BUDGET", 1)
    meanwhile = 0

    def look(request):
        nonlocal meanwhile
        meanwhile += request.method == "POST" and job.progress.paused is not None

    async with failed_box(400) as box, box.session(clock=FakeClock()) as session:
        failed = await ks.iter_ingestion_workflows(session)
        box.faults.add(Fault("status", method="POST", status=503, probability=0.4))
        box.faults.add(Fault("latency", route="list*", seconds=0.05))
        async with ks.rerun_ingestions(session, failed, journal=tmp_path / "j") as job:
            box.before_request = look
            assert (await job.finish()).counts == {"accepted": 400}
    assert meanwhile > 300


async def test_nothing_is_sent_into_a_silence_that_is_noticed(tmp_path):
    async with failed_box(300) as box:
        clock = QuickClock()
        async with box.session(clock=clock, timeout=20.0) as session:
            failed = await ks.iter_ingestion_workflows(session)
            box.faults.add(Fault("silence", after=10))
            async with ks.rerun_ingestions(session, failed, journal=tmp_path / "j", rate=2) as job:
                await until(lambda: job.progress.paused)
                assert job.progress.paused == "the server has gone silent"
                sent = box.request_counts["rerun_ingestion_workflow"]
                await clock.sleep(10)
                assert box.request_counts["rerun_ingestion_workflow"] <= sent + 1


async def test_only_what_is_on_its_way_leaves_its_place_to_others():
    clock = FakeClock()
    settings = RerunSettings(concurrency=1)
    breaker = Breaker(_Upstream(), clock, Half())
    supply = Supply(_Planned(3), breaker, clock, settings, bulk_limit=lambda: None)
    running = asyncio.create_task(supply.run(None))
    waiting, on_its_way = await supply.take(), await supply.take()
    assert on_its_way.may_send()
    sent_at = clock.now()
    assert supply.write_off(sent_at, None) == 0
    assert supply.write_off(sent_at + 1, None) == 1
    await supply.take()
    assert not supply.give_back(on_its_way)
    assert supply.give_back(waiting)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


class _Upstream:
    """A server that says nothing by itself, and what is written off for it."""

    is_silent, lost_before, written_off = False, float("-inf"), ()

    def __init__(self):
        self.hearing = self

    def write_off(self, before, most):
        self.written_off += ((before, most),)


class _Planned:
    """A journal with so many planned items."""

    def __init__(self, count):
        self.left = [JournalItem(f"w-{number}") for number in range(count)]

    async def claim(self, most):
        await asyncio.sleep(0)
        taken, self.left = self.left[:most], self.left[most:]
        return taken


async def test_what_hangs_on_is_no_silence_of_its_own_and_its_end_is_no_outage(tmp_path):
    async with failed_box(40) as box:
        clock = QuickClock(10)  # a burst of reruns on a busy machine must not look like a silence
        async with box.session(clock=clock, timeout=20.0) as session:
            failed = await ks.iter_ingestion_workflows(session)
            silence = box.faults.add(Fault("silence", after=20))
            async with ks.rerun_ingestions(session, failed, journal=tmp_path / "j") as job:
                await until(lambda: silence.fired >= 8 and job.progress.paused)
                silence.remove()
                await until(lambda: job.progress.paused is None)
                asked = box.request_counts["list_ingestion_workflows"]
                report = await job.finish()
        assert report.counts["unknown"] >= 8
        assert box.request_counts["list_ingestion_workflows"] == asked


@pytest.mark.no_cover
async def test_one_silence_after_the_other_leaves_no_job_without_hands(tmp_path):
    async def measure():
        times = []
        async with failed_box(200) as box:
            clock = QuickClock()
            async with box.session(clock=clock, timeout=30.0) as session:
                failed = await ks.iter_ingestion_workflows(session)
                options = {"journal": new_path(tmp_path), "concurrency": 4, "rate": 10}
                async with ks.rerun_ingestions(session, failed, **options) as job:
                    for _ in range(3):
                        await one_more_runs(box)
                        silence = box.faults.add(Fault("silence"))
                        await until(lambda: job.progress.paused)
                        silence.remove()
                        back_at = clock.now()
                        await one_more_runs(box)
                        times.append(clock.now() - back_at)
                    report = await job.finish()
            assert report.counts["unknown"] == sum(
                request.fault == "silence" for request in box.requests if request.method == "POST"
            )
        return max(times)

    await assert_within(BOUND, measure)


# A server that is only slow


@pytest.mark.no_cover
async def test_a_slow_server_is_not_taken_for_a_silent_one_again_and_again(tmp_path):
    async with failed_box(20) as box, box.session(clock=QuickClock()) as session:
        failed = await ks.iter_ingestion_workflows(session)
        box.faults.add(Fault("latency", seconds=0.3))  # six seconds by the session's clock
        options = {"journal": tmp_path / "j", "concurrency": 5}
        async with ks.rerun_ingestions(session, failed, **options) as job:
            report = await job.finish()
        assert report.counts == {"accepted": 20}
        assert box.request_counts["rerun_ingestion_workflow"] == 20
        assert box.request_counts["list_ingestion_workflows"] < 8


async def test_slow_reruns_are_hardly_more_than_doubled_until_the_first_is_answered(tmp_path):
    """Then it is known how slow they are; until then it is one more every three seconds."""
    open_at_a_time = []

    def look(_request):
        reruns = [request for request in box.requests if request.method == "POST"]
        open_at_a_time.append(sum(request.status is None for request in reruns))

    async with failed_box(9) as box, box.session(clock=QuickClock()) as session:
        failed = await ks.iter_ingestion_workflows(session)
        box.faults.add(Fault("latency", route="rerun*", seconds=0.5))  # ten seconds
        box.before_request = look
        options = {"journal": tmp_path / "j", "concurrency": 3}
        async with ks.rerun_ingestions(session, failed, **options) as job:
            report = await job.finish()
        assert report.counts == {"accepted": 9}
        assert box.request_counts["rerun_ingestion_workflow"] == 9
    assert 3 < max(open_at_a_time) <= 8
    assert open_at_a_time[-1] <= 3


def test_a_silence_is_long_in_itself_and_beside_what_answers_take():
    pulse = Pulse()
    assert not pulse.is_silent(1_000.0, None, resumed_at=float("-inf")), "nothing is waited for"
    assert not pulse.is_silent(102.9, 100.0, resumed_at=float("-inf"))
    assert pulse.is_silent(103.0, 100.0, resumed_at=float("-inf"))
    pulse.heard(103.0, took=0.5)
    assert not pulse.is_silent(105.9, 100.0, resumed_at=float("-inf"))
    assert pulse.is_silent(106.0, 100.0, resumed_at=float("-inf"))
    assert not pulse.is_silent(106.0, 103.1, resumed_at=float("-inf"))
    pulse.heard(106.0, took=2.0)
    assert not pulse.is_silent(113.9, 100.0, resumed_at=float("-inf"))
    assert pulse.is_silent(114.0, 100.0, resumed_at=float("-inf"))


def test_a_slow_answer_is_forgotten_in_time():
    pulse = Pulse()
    pulse.heard(0.0, took=20.0)
    for _ in range(5_000):
        pulse.heard(0.0, took=0.1)
    assert pulse.is_silent(3.0, 0.0, resumed_at=float("-inf"))


# What was in flight


async def in_flight(session, count):
    await until(lambda: session.stats.in_flight == count)


async def test_what_may_be_sent_twice_is_sent_again_at_once_but_only_once(sandbox, session, clock):
    [workflow_id, *_] = sandbox.store.ids()
    sandbox.faults.add(Fault("silence", times=2))
    call = asyncio.create_task(ks.get_ingestion_workflow(session, workflow_id))
    await in_flight(session, 1)
    presume_lost(session, clock.time)  # which is when it was sent, and not later
    await asyncio.sleep(0.05)
    assert len(sandbox.requests) == 1
    clock.time += 1
    presume_lost(session, clock.time)
    await until(lambda: len(sandbox.requests) == 2)
    assert clock.slept == []
    clock.time += 1
    clock.patience = 0.01
    presume_lost(session, clock.time)
    await asyncio.sleep(0.05)
    assert not call.done()
    assert len(sandbox.requests) == 2, "it waits for its time-out now"
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert session.stats.in_flight == 0


async def test_what_must_not_be_sent_twice_waits_on_beside_the_limit(sandbox, clock):
    [workflow_id, *_] = ids_of(sandbox, "failed")
    async with sandbox.session(clock=clock, max_in_flight=1) as session:
        sandbox.faults.add(Fault("latency", route="rerun*", seconds=0.3))
        call = asyncio.create_task(ks.rerun_ingestion_workflow(session, workflow_id))
        await in_flight(session, 1)
        clock.time += 1
        presume_lost(session, clock.time)
        await ks.get_ingestion_workflow(session, workflow_id)
        assert not call.done()
        assert session.stats.in_flight == 1
        await call
    assert sandbox.request_counts["rerun_ingestion_workflow"] == 1


async def test_a_run_that_is_gone_the_second_time_was_deleted(sandbox, session, clock):
    run_id = run_id_of(sandbox, "PENDING")
    sandbox.faults.add(Fault("silence", effect=True, times=1))
    call = asyncio.create_task(ks.delete_workflow_run(session, run_id))
    await until(lambda: sandbox.effects)
    clock.time += 1
    presume_lost(session, clock.time)
    await call
    assert [request.status for request in sandbox.requests] == [None, 404]


async def test_what_has_no_connection_yet_is_sent_on_another_one(clock):
    """A queue of connections that is full is like a network that swallows them."""
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    ahead = [socket.socket() for _ in range(3)]
    for one in ahead:
        one.setblocking(False)
        one.connect_ex(listener.getsockname())
    base_url = "http://{}:{}".format(*listener.getsockname())
    async with ks.Session(KEY, base_url, clock=clock) as session:
        call = asyncio.create_task(ks.rerun_ingestion_workflow(session, "w-1"))
        await in_flight(session, 1)
        await asyncio.sleep(0.1)
        for one in ahead:
            one.close()
        answer = http(b'{"workflow_id": "w-1", "action": "rerun", "message": "on its way"}')
        async with raw_server(answering(answer), sock=listener):
            clock.time += 1
            began = loop.time()
            presume_lost(session, clock.time)
            await call
            assert loop.time() - began < 0.8, "the system tries again after a second"
    assert clock.slept == []


# Several at a time, and parts of a server


@pytest.mark.no_cover
async def test_two_jobs_of_a_session_both_go_on(tmp_path):
    async def measure():
        clock = QuickClock(8.0)
        async with failed_box(200) as box, box.session(clock=clock, timeout=20.0) as session:
            failed = list(await ks.iter_ingestion_workflows(session))
            halves = [failed[:100], failed[100:]]
            ids = [{one.workflow_id for one in half} for half in halves]
            silence = box.faults.add(Fault("silence", after=30))
            paths = [new_path(tmp_path).with_suffix(f".{number}") for number in range(2)]
            options = [{"journal": path, "concurrency": 5, "rate": 60} for path in paths]
            first = ks.rerun_ingestions(session, halves[0], **options[0])
            second = ks.rerun_ingestions(session, halves[1], **options[1])
            async with first, second:
                await until(lambda: silence.fired >= 10)
                await clock.sleep(2)
                silence.remove()
                back_at, before = clock.now(), len(box.effects)
                for half in ids:
                    await until(lambda half=half: half & {one.id for one in box.effects[before:]})
                took = clock.now() - back_at
                reports = [await job.finish() for job in (first, second)]
            assert sum(report.counts["accepted"] for report in reports) >= 180
            return took

    await assert_within(BOUND, measure)


async def test_reruns_alone_may_go_silent(tmp_path):
    async def read_on(session, workflow_id):
        while True:
            await ks.get_ingestion_workflow(session, workflow_id)
            await session.clock.sleep(0.5)

    async def measure():
        clock = QuickClock()
        async with failed_box(200) as box, box.session(clock=clock, timeout=30.0) as session:
            failed = await ks.iter_ingestion_workflows(session)
            silence = box.faults.add(Fault("silence", method="POST", after=30))
            reading = asyncio.create_task(read_on(session, box.store.ids()[0]))
            journal = new_path(tmp_path)
            options = {"journal": journal, "concurrency": 10}
            async with ks.rerun_ingestions(session, failed, **options) as job:
                await until(lambda: silence.fired)
                await clock.sleep(9.0)
                silence.remove()
                back_at = clock.now()
                await one_more_runs(box)
                took = clock.now() - back_at
                report = await job.finish()
            reading.cancel()
            assert report.counts["accepted"] + report.counts.get("unknown", 0) == 200
            return took

    await assert_within(BOUND, measure)


async def test_what_waits_for_a_slot_is_not_sent_after_a_stop(tmp_path):
    async with failed_box(200) as box:
        clock = QuickClock()
        async with box.session(clock=clock, timeout=20.0) as session:
            failed = await ks.iter_ingestion_workflows(session)
            silence = box.faults.add(Fault("silence", after=10))
            async with ks.rerun_ingestions(session, failed, journal=tmp_path / "j") as job:
                await until(lambda: silence.fired >= 15)
                await clock.sleep(1)
                sent = box.request_counts["rerun_ingestion_workflow"]
                left_at = clock.now()
            assert clock.now() - left_at < 22
            assert box.request_counts["rerun_ingestion_workflow"] == sent
        assert sum(job.report.counts.values()) == 200
        assert job.report.counts["unknown"] == sent - job.report.counts["accepted"]


async def test_a_bulk_rerun_that_waits_for_a_slot_is_not_sent_after_a_stop(tmp_path):
    async with failed_box(1_000, dialect="system-jobs") as box:
        clock = QuickClock()
        async with box.session(clock=clock, timeout=10.0, max_in_flight=1) as session:
            failed = list(await ks.iter_ingestion_workflows(session))
            silence = box.faults.add(Fault("silence", method="POST"))
            async with ks.rerun_ingestions(session, failed, journal=tmp_path / "j") as job:
                await until(lambda: silence.fired and session.stats.waiting)
        assert job.report.counts == {"unknown": 200, "planned": 800}
        assert silence.fired == 1


async def test_a_return_that_was_none_is_not_the_last_word(tmp_path):
    """The question is answered, and what is looked at isn't."""

    async def measure():
        options = {"speed": 20, "pipeline_seconds": (2.0, 3.0)}
        clock = QuickClock()
        async with failed_box(20, **options) as box:
            once = ks.RetryPolicy(tries=1)
            async with box.session(clock=clock, retry=once) as session:
                failed = await ks.iter_ingestion_workflows(session)
                outage = box.faults.add(Fault("status", status=502, route="get_ingest*"))
                options = {"journal": new_path(tmp_path), "max_in_flight": 5}
                async with ks.rerun_ingestions(session, failed, **options) as job:
                    await until(lambda: outage.fired)
                    await clock.sleep(20)
                    outage.remove()
                    back_at = clock.now()
                    await one_more_runs(box)
                    took = clock.now() - back_at
                    await job.finish()
        return took

    await assert_within(BOUND, measure)


async def test_a_slow_key_is_no_silence(tmp_path):
    calls = 0

    async def key():
        nonlocal calls
        calls += 1
        if calls == 20:
            await clock.sleep(8)
        return KEY

    clock = QuickClock()
    async with failed_box(60) as box, box.session(clock=clock, api_key=key) as session:
        failed = await ks.iter_ingestion_workflows(session)
        asked = box.request_counts["list_ingestion_workflows"]
        options = {"journal": tmp_path / "j", "concurrency": 1}
        async with ks.rerun_ingestions(session, failed, **options) as job:
            assert (await job.finish()).counts == {"accepted": 60}
        assert box.request_counts["list_ingestion_workflows"] == asked


async def test_what_another_job_takes_for_lost_is_lost_to_all(clock, chance):
    told = []
    clock.patience = 0.01
    breaker = Breaker(upstream := _Upstream(), clock, chance)
    breaker.on_lost = lambda before, most: told.append((before, most))
    looking_out = asyncio.create_task(breaker.look_out())
    for before in (5.0, 7.0):
        upstream.lost_before = before
        await until(lambda before=before: told and told[-1][0] == before)
    breaker.succeeded(6.0)
    assert told == [(5.0, None), (7.0, 1)], "what was sent before proves nothing"
    breaker.succeeded(7.0)
    breaker.succeeded(8.0)
    assert told == [(5.0, None), (7.0, 1), (7.0, None)] == list(upstream.written_off)
    breaker.stop("enough")
    await looking_out
