"""Where a bulk rerun was pressed hardest: broken plans, stops, caps, settling times, moved journals."""

from __future__ import annotations

import asyncio
import csv
import io
import shutil
from collections import Counter
from datetime import UTC, datetime, timedelta

import attrs
import pytest

import knowledgestack_async as ks
from knowledgestack_async._database import Database, Layout
from knowledgestack_async._journal import ItemState, JournalItem, SqliteJournal
from knowledgestack_async._rerun_plan import baseline_of
from knowledgestack_async.rerun_report import RerunReport
from knowledgestack_async.sandbox import Fault, Sandbox, SteppedClock
from support import KEY, FakeClock, Stepping

SOON = 10.0


@pytest.fixture
def path(tmp_path):
    return tmp_path / "job.journal"


def failed_box(count, **options):
    options = {"statuses": {"failed": 1.0}, "superseded": 0, "api_key": KEY} | options
    return Sandbox(ingestions=count, **({"speed": 1000} | options))


def effects_by_id(box):
    return Counter(effect.id for effect in box.effects if effect.kind == "rerun")


# Planning


async def test_a_planning_that_broke_off_leaves_no_targets_to_the_next(path):
    def breaks_off(ids):
        yield from ids
        raise LookupError("the source broke")

    async with failed_box(1_100) as box, box.session() as session:
        ids = list(box.store.ids())
        with pytest.raises(LookupError, match="broke"):
            async with ks.rerun_ingestions(session, breaks_off(ids[10:]), journal=path) as job:
                await job.finish()
        assert box.effects == []
        async with ks.rerun_ingestions(session, ids[:10], journal=path) as job:
            assert (await job.finish()).counts == {"accepted": 10}
        assert set(effects_by_id(box)) == set(ids[:10])


@pytest.mark.parametrize("resumed", [False, True])
async def test_a_server_that_was_never_there_is_not_waited_for(path, resumed, clock):
    async with failed_box(3) as box:
        ids = list(box.store.ids())
        async with box.session() as session:
            if resumed:
                box.faults.add(Fault("reset", method="POST", when="before"))
                async with ks.rerun_ingestions(session, ids, journal=path) as job:
                    assert (await job.finish()).counts == {"unknown": 3}
        base_url = box.base_url
    async with ks.Session(KEY, base_url, clock=clock) as session:
        async with ks.rerun_ingestions(session, ids, journal=path) as job:
            async with asyncio.timeout(SOON):
                with pytest.raises(ks.ConnectionFailed):
                    await job.finish()


async def test_an_id_from_the_list_that_could_reach_another_route_is_refused(path, session):
    item = (await ks.list_ingestion_workflows(session)).items[0]
    evil = attrs.evolve(item, workflow_id="x/../y/cancel")
    with pytest.raises(ks.ConfigurationError, match="could reach another route"):
        async with ks.rerun_ingestions(session, [evil], journal=path) as job:
            await job.finish()


async def test_what_goes_on_is_looked_at_anew_for_somebody_may_have_rerun_it_since(path):
    box_clock = SteppedClock()
    options = {"clock": box_clock, "pipeline_seconds": (5.0, 6.0), "dialect": "offset"}
    async with failed_box(20, **options) as box:
        ids = list(box.store.ids())
        async with box.session(clock=Stepping(box_clock)) as session:
            # Planned, and nothing sent.
            box.before_request = lambda request: request.method == "POST" and job._breaker.stop("x")
            box.faults.add(Fault("status", route="rerun*", status=503))
            async with ks.rerun_ingestions(session, ids, journal=path, concurrency=1) as job:
                assert (await job.finish()).counts == {"planned": 20}
            box.before_request = None
            box.faults.clear()
            for one in ids:
                box.store.rerun(one)
            box_clock.advance(60)
            now = await ks.iter_ingestion_workflows(session)
            runs = {item.workflow_id: item.last_run_timestamp for item in now}
            async with ks.rerun_ingestions(session, [], journal=path) as job:
                await job.finish()
        journal = SqliteJournal(path)
        await journal.open_to_read()
        baselines = {item.workflow_id: item.baseline async for item in journal.items()}
        await journal.close()
    assert {one: baselines[one].last_run_timestamp for one in ids} == runs


# Stopping


async def test_leaving_does_not_wait_for_a_rate(path):
    loop = asyncio.get_running_loop()
    async with failed_box(30) as box, box.session() as session:
        async with ks.rerun_ingestions(session, box.store.ids(), journal=path, rate=0.01) as job:
            await anext(job)
            began = loop.time()
        assert loop.time() - began < SOON / 2
        assert job.report.counts == {"accepted": 1, "planned": 29}


@pytest.mark.parametrize("dialect", ["documented", "system-jobs"])
async def test_leaving_does_not_wait_for_a_pause_that_the_server_asked_for(path, dialect):
    """Neither does what was refused and is to be sent again, nor what waits for a slot meanwhile."""
    loop = asyncio.get_running_loop()
    each = 200 if dialect == "system-jobs" else 1
    async with failed_box(600, dialect=dialect) as box, box.session() as session:
        failed = list(await ks.iter_ingestion_workflows(session))
        box.faults.add(Fault("status", method="POST", status=429, retry_after=60))
        async with ks.rerun_ingestions(session, failed, journal=path) as job:
            # In bulk all that is sent at a time may be refused, so that nothing waits for a slot.
            while not (session.stats.cool_downs and (session.stats.waiting or each > 1)):
                await asyncio.sleep(0.001)
            began = loop.time()
        assert loop.time() - began < SOON / 2
        assert box.effects == []
        refused = sum(request.method == "POST" for request in box.requests)
    assert job.report.counts == {"planned": 600}
    assert sum(item.tries for item in job.report.items) == refused * each


async def test_leaving_does_not_wait_for_a_key(path):
    async def ask():
        if job.progress.total:
            asked.set()
            await asyncio.Event().wait()
        return KEY

    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with failed_box(30) as box, box.session(api_key=ask) as session:
        async with ks.rerun_ingestions(session, box.store.ids(), journal=path) as job:
            await asked.wait()
            began = loop.time()
        assert loop.time() - began < SOON / 2
        assert box.effects == []
    assert job.report.counts == {"planned": 30}
    assert {item.tries for item in job.report.items} == {0}


async def test_leaving_does_not_wait_for_the_question_whether_the_server_is_back(path):
    loop = asyncio.get_running_loop()
    async with failed_box(30) as box, box.session() as session:
        ids = box.store.ids()
        async with ks.rerun_ingestions(session, ids, journal=path, concurrency=1) as job:
            await anext(job)
            box.faults.add(Fault("reset", method="POST", when="before"))
            silence = box.faults.add(Fault("silence", method="GET"))
            while not silence.fired:
                await asyncio.sleep(0.001)
            began = loop.time()
        assert loop.time() - began < 1


async def test_what_was_claimed_is_not_sent_after_a_stop(path):
    done = {"statuses": {"completed": 1.0}, "dialect": "system-jobs", "superseded": 0}
    async with Sandbox(ingestions=300, api_key=KEY, **done) as box, box.session() as session:
        quota = Fault("status", route="rerun*", status=429, code="quota_exceeded", after=10)
        box.faults.add(quota)
        ids = box.store.ids()
        async with ks.rerun_ingestions(session, ids, journal=path, concurrency=5) as job:
            report = await job.finish()
        assert report.stopped_by == "a quota is used up"
        assert box.request_counts["rerun_ingestion_workflow"] <= 20
    assert report.counts["planned"] + report.counts["accepted"] == 300
    assert {item.tries for item in report.items if item.state == "planned"} <= {0, 1}


@pytest.mark.parametrize("dialect", ["documented", "system-jobs"])
async def test_what_was_refused_before_a_stop_keeps_its_tries(path, dialect):
    async with failed_box(3, dialect=dialect) as box, box.session(clock=FakeClock()) as session:
        failed = list(await ks.iter_ingestion_workflows(session))
        box.before_request = lambda request: request.method == "POST" and job._breaker.stop("x")
        box.faults.add(Fault("status", method="POST", status=503))
        async with ks.rerun_ingestions(session, failed, journal=path, concurrency=1) as job:
            report = await job.finish()
        assert sum(request.method == "POST" for request in box.requests) == 1
        assert box.effects == []
    assert report.counts == {"planned": 3}
    sent = 3 if dialect == "system-jobs" else 1
    assert sum(item.tries for item in report.items) == sent


async def test_an_error_of_the_journal_ends_all_and_comes_by_itself(path, monkeypatch):
    original, updates = SqliteJournal.update, 0

    async def update(journal, items):
        nonlocal updates
        updates += 1
        if updates == 3:
            raise ks.JournalError("no space left")
        await original(journal, items)

    monkeypatch.setattr(SqliteJournal, "update", update)
    done = {"statuses": {"completed": 1.0}, "dialect": "system-jobs", "superseded": 0}
    async with Sandbox(ingestions=300, api_key=KEY, **done) as box, box.session() as session:
        box.faults.add(Fault("latency", route="rerun*", seconds=0.02))
        ids = box.store.ids()
        with pytest.raises(ks.JournalError, match="no space left"):
            async with ks.rerun_ingestions(session, ids, journal=path, concurrency=5) as job:
                async for _ in job:
                    pass
        sent = box.request_counts["rerun_ingestion_workflow"]
        await asyncio.sleep(0.1)
        assert box.request_counts["rerun_ingestion_workflow"] == sent < 300


async def test_an_entry_that_is_cancelled_lets_the_journal_go(path):
    async with failed_box(3) as box, box.session() as session:
        for steps in range(4):
            job = ks.rerun_ingestions(session, box.store.ids(), journal=path)
            entering = asyncio.create_task(job.__aenter__())
            for _ in range(steps):
                await asyncio.sleep(0)
            entering.cancel()
            await asyncio.wait([entering])
            if not entering.cancelled():
                await job.__aexit__(None, None, None)
        async with asyncio.timeout(SOON):
            while True:
                try:
                    async with ks.rerun_ingestions(session, box.store.ids(), journal=path) as job:
                        report = await job.finish()
                    break
                except ks.JournalError:
                    await asyncio.sleep(0.01)
    assert report.counts == {"accepted": 3}


# What may be running


@pytest.mark.parametrize("dialect", ["documented", "system-jobs"])
async def test_what_may_be_running_counts_against_the_cap(path, dialect):
    options = {"dialect": dialect, "speed": 1, "pipeline_seconds": (0.3, 0.4)}
    async with failed_box(12, **options) as box, box.session() as session:
        running = []

        def look(_request):
            running.append(len(box.store.ids("pending")) + len(box.store.ids("processing")))

        box.before_request = look
        box.faults.add(Fault("reset", method="POST", when="after", times=6))
        ids = box.store.ids()
        async with ks.rerun_ingestions(session, ids, journal=path, max_in_flight=4) as job:
            async with asyncio.timeout(SOON):
                report = await job.finish()
    assert report.counts["unknown"] >= 6
    assert 1 < max(running) <= 4
    assert max(effects_by_id(box).values()) == 1


async def test_an_unknown_one_that_never_ran_frees_its_place_in_time(path):
    box_clock = SteppedClock()
    options = {"clock": box_clock, "pipeline_seconds": (5.0, 6.0)}
    async with failed_box(6, **options) as box:
        box.faults.add(Fault("reset", route="rerun*", when="before", times=4))
        async with box.session(clock=Stepping(box_clock)) as session:
            async with ks.rerun_ingestions(
                session, box.store.ids(), journal=path, max_in_flight=2, settle_after=20
            ) as job:
                async with asyncio.timeout(SOON):
                    report = await job.finish()
    assert report.counts == {"unknown": 4, "accepted": 2}


async def test_an_unknown_one_frees_its_place_when_its_run_is_over(path):
    async with failed_box(6) as box, box.session() as session:
        box.faults.add(Fault("reset", route="rerun*", when="after", times=2))
        async with ks.rerun_ingestions(
            session, box.store.ids(), journal=path, max_in_flight=2, settle_after=1
        ) as job:
            async with asyncio.timeout(SOON):
                report = await job.finish()
            await asyncio.sleep(0)
    assert report.counts == {"unknown": 2, "accepted": 4}
    assert max(effects_by_id(box).values()) == 1


async def test_a_place_that_is_held_keeps_no_job_from_its_end(path):
    async with failed_box(3) as box, box.session() as session:
        box.faults.add(Fault("reset", route="rerun*", when="before", times=1))
        async with ks.rerun_ingestions(
            session, box.store.ids(), journal=path, max_in_flight=3, settle_after=1000
        ) as job:
            async with asyncio.timeout(SOON):
                report = await job.finish()
    assert report.counts == {"unknown": 1, "accepted": 2}


async def test_two_of_one_document_version_have_an_outcome_each(path):
    async with failed_box(6, dialect="system-jobs") as box, box.session() as session:
        items = await ks.iter_ingestion_workflows(session)
        twins = [
            *items[:5],
            attrs.evolve(items[5], document_version_id=items[0].document_version_id),
        ]
        async with ks.rerun_ingestions(session, twins, journal=path) as job:
            report = await job.finish()
    assert report.counts == {"accepted": 6}
    assert job.progress.in_flight == 0


# Settling


async def test_what_was_being_sent_has_its_whole_time_to_show_from_now_on(path):
    clock = FakeClock()
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    async with failed_box(2) as box:
        ids = box.store.ids()
        async with box.session() as session:
            items = await ks.iter_ingestion_workflows(session)
        journal = SqliteJournal(path)
        await journal.open(box.base_url, {"wait": False, "canary": 0, "abort_over": 0.2})
        await journal.add([(item.workflow_id, baseline_of(item)) for item in items])
        await journal.finish_planning()
        await journal.claim(1)
        await journal._database.run(
            lambda c: c.execute("UPDATE item SET changed_at = ?", (long_ago.isoformat(),))
        )
        await journal.close()
        async with box.session(clock=clock) as session:
            job = ks.rerun_ingestions(
                session, [], journal=path, resend_unknown=True, settle_after=40
            )
            async with job:
                await job.finish()
    assert clock.slept[0] == 40
    assert effects_by_id(box) == Counter(ids)


# The journal as a file


async def test_a_journal_that_was_closed_is_one_file_and_may_be_moved(path):
    async with failed_box(10) as box, box.session() as session:
        async with ks.rerun_ingestions(session, box.store.ids(), journal=path) as job:
            await job.finish()
        assert not path.with_name(path.name + "-wal").exists()
        moved = path.with_name("moved.journal")
        path.rename(moved)
        async with ks.rerun_ingestions(session, [], journal=moved) as job:
            assert (await job.finish()).counts == {"accepted": 10}
        assert max(effects_by_id(box).values()) == 1


async def test_a_journal_that_was_not_closed_is_refused_without_its_log(path):
    async with failed_box(30) as box, box.session() as session:
        copy = path.with_name("copy.journal")
        ids = box.store.ids()
        async with ks.rerun_ingestions(session, ids, journal=path, concurrency=1) as job:
            await anext(job)
            shutil.copy(path, copy)
        for _ in range(2):
            with pytest.raises(ks.JournalError, match=r"copy.journal-wal is missing"):
                async with ks.rerun_ingestions(session, [], journal=copy):
                    pass
        assert max(effects_by_id(box).values()) == 1


async def test_many_items_are_found_by_their_ids(path):
    journal = SqliteJournal(path)
    await journal.open("https://one.example", {})
    ids = [f"w-{number}" for number in range(1_203)]
    await journal.add([(one, None) for one in ids])
    found = await journal.find([*ids[::2], "nobody"])
    assert sorted(item.workflow_id for item in found) == sorted(ids[::2])
    assert await journal.find([]) == []
    await journal.close()


async def test_an_id_is_kept_as_it_is_whatever_is_in_it(path):
    odd = ['a"b', "a\\b", "ü😀", "a'b", "a\u2028b", "[1]", "a\x01b", "a\x00b"]
    journal = SqliteJournal(path)
    await journal.open("https://one.example", {})
    await journal.add([(one, None) for one in odd])
    claimed = await journal.claim(len(odd))
    assert [item.workflow_id for item in claimed] == odd
    await journal.update([JournalItem(one, state=ItemState.REFUSED, error=one) for one in odd])
    items = [item async for item in journal.items()]
    assert [(item.state, item.error) for item in items] == [("refused", one) for one in odd]
    await journal.close()


async def test_an_opening_that_is_cancelled_leaves_no_thread(path):
    database = Database(
        path, Layout(what="journal", application_id=7, version=1, tables="CREATE TABLE a (b)")
    )
    opening = asyncio.create_task(database.open())
    await asyncio.sleep(0)
    opening.cancel()
    await asyncio.wait([opening])
    thread = database._thread
    if thread is not None:
        await asyncio.to_thread(thread.join, SOON)
        assert not thread.is_alive()


# The report


def test_ends_without_a_text_have_a_cause_too():
    items = [
        JournalItem("a", state=ItemState.ACCEPTED, outcome="missing"),
        JournalItem("b", state=ItemState.ACCEPTED, outcome="quota_limit"),
        JournalItem("c", state=ItemState.ACCEPTED, outcome="completed"),
        JournalItem("d", state=ItemState.ACCEPTED),
    ]
    report = RerunReport.of(items)
    assert report.causes == {"missing": 1, "quota_limit": 1}
    assert repr(report.counts) == "{'accepted': 4}"


def test_no_spreadsheet_takes_a_text_for_a_formula():
    texts = ["=HYPERLINK(1)", "+1", "-1", "@SUM", "\t=1", "plain", 'two\nlines "and" more']
    report = RerunReport.of([JournalItem("a", state=ItemState.REFUSED, error=one) for one in texts])
    rows = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert [row["error"] for row in rows] == [
        "'=HYPERLINK(1)",
        "'+1",
        "'-1",
        "'@SUM",
        "'\t=1",
        "plain",
        'two\nlines "and" more',
    ]
