"""Reruns in bulk: what ran is known, whatever happens."""

from __future__ import annotations

import asyncio
import csv
import json
import random
from collections import Counter

import pytest

import knowledgestack_async as ks
from bulk_kills import POINTS, kill_and_resume
from knowledgestack_async._journal import ItemState, JournalItem, SqliteJournal
from knowledgestack_async.bulk import RerunJob
from knowledgestack_async.rerun_report import RerunReport, cause_of
from knowledgestack_async.sandbox import Fault, Sandbox, SteppedClock
from support import KEY, FakeClock, Stepping, ids_of, run_id_of

DIALECTS = ("documented", "offset", "system-jobs")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "job.journal"


def failed_box(count: int = 120, **options) -> Sandbox:
    options = {
        "statuses": {"failed": 1.0},
        "superseded": 0,
        "speed": 1000,
        "api_key": KEY,
    } | options
    return Sandbox(ingestions=count, **options)


def effects_by_id(box: Sandbox) -> Counter[str]:
    return Counter(effect.id for effect in box.effects if effect.kind == "rerun")


async def read_items(path) -> dict[str, ks.RerunOutcome]:
    journal = SqliteJournal(path)
    await journal.open_to_read()
    try:
        return {item.workflow_id: item async for item in journal.items()}
    finally:
        await journal.close()


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_every_failed_one_is_rerun_exactly_once(dialect, path):
    async with failed_box(dialect=dialect) as box, box.session() as session:
        failed = ks.iter_ingestion_workflows(session, status="failed")
        async with ks.rerun_ingestions(session, failed, journal=path) as job:
            outcomes = [outcome async for outcome in job]
        assert {outcome.state for outcome in outcomes} == {"accepted"}
        assert effects_by_id(box) == Counter(box.store.ids())
        assert job.report.counts == {"accepted": 120}
        assert job.report.is_good
        singles = box.request_counts["rerun_ingestion_workflow"]
        bulks = box.request_counts["bulk_rerun_ingestions"]
        assert (singles, bulks) == ((0, 1) if dialect == "system-jobs" else (120, 0))


async def test_nothing_is_sent_before_everything_is_written_down(path):
    async with failed_box(300) as box, box.session() as session:
        walked = ks.iter_ingestion_workflows(session, status="failed")
        async with ks.rerun_ingestions(session, walked, journal=path) as job:
            await job.finish()
        routes = [request.route for request in box.requests]
        assert "list_ingestion_workflows" not in routes[routes.index("rerun_ingestion_workflow") :]


@pytest.mark.parametrize("kind", ["list", "generator", "async", "summaries", "twice"])
async def test_sources_of_every_kind_are_taken_and_duplicates_count_once(kind, path):
    async with failed_box(30) as box, box.session() as session:
        ids = list(box.store.ids())

        async def later():
            for one in ids:
                yield one

        source = {
            "list": ids,
            "generator": (one for one in ids),
            "async": later(),
            "summaries": await ks.iter_ingestion_workflows(session),
            "twice": ids * 2,
        }[kind]
        async with ks.rerun_ingestions(session, source, journal=path) as job:
            report = await job.finish()
        assert report.counts == {"accepted": 30}
        assert effects_by_id(box) == Counter(ids)
        assert all(item.baseline is not None for item in (await read_items(path)).values())


async def test_few_bare_ids_are_looked_up_one_by_one_and_unknown_ones_refused(path):
    async with failed_box(500) as box, box.session() as session:
        some = [*list(box.store.ids())[:3], "nobody"]
        async with ks.rerun_ingestions(session, some, journal=path) as job:
            report = await job.finish()
        assert report.counts == {"accepted": 3, "refused": 1}
        assert box.request_counts["get_ingestion_workflow"] == 4
        assert (await read_items(path))["nobody"].code == "not_found"


async def test_an_id_that_cant_be_one_is_said_before_anything_is_sent(path):
    async with failed_box(5) as box, box.session() as session:
        with pytest.raises(ks.ConfigurationError, match="slashes"):
            async with ks.rerun_ingestions(session, ["a/b"], journal=path) as job:
                await job.finish()
        assert box.effects == []


async def test_refusals_are_told_with_their_reason(path):
    async with failed_box(40) as box, box.session() as session:
        ids = list(box.store.ids())
        box.store.set_status(ids[0], "processing")
        box.store.set_superseded(ids[1])
        async with ks.rerun_ingestions(session, ids, journal=path) as job:
            refused = {o.workflow_id: o async for o in job if o.state == "refused"}
        assert refused.keys() == set(ids[:2])
        assert all(outcome.code == "409" and outcome.error for outcome in refused.values())
        assert sum(job.report.causes.values()) == 2
        assert not job.report.is_good


async def test_the_reasons_of_a_bulk_rerun_become_refusals(path):
    async with failed_box(40, dialect="system-jobs") as box, box.session() as session:
        ids = list(box.store.ids())
        box.store.set_status(ids[1], "completed")
        box.store.set_superseded(ids[2])
        summaries = await ks.iter_ingestion_workflows(session)
        box.store.remove_ingestion(ids[0])
        async with ks.rerun_ingestions(session, summaries, journal=path) as job:
            outcomes = {outcome.workflow_id: outcome async for outcome in job}
        assert outcomes[ids[0]].code == "not_found"
        assert (
            outcomes[ids[1]].state == "accepted"
        )  # not in bulk: a single rerun takes completed ones
        assert outcomes[ids[2]].code == "superseded"
        assert box.request_counts["rerun_ingestion_workflow"] == 1
        assert effects_by_id(box) == Counter(set(ids) - {ids[0], ids[2]})


async def test_a_lost_answer_leaves_the_whole_batch_unknown(path):
    async with failed_box(30, dialect="system-jobs") as box, box.session() as session:
        box.faults.add(Fault("reset", route="bulk_rerun_ingestions", when="after", times=1))
        summaries = await ks.iter_ingestion_workflows(session)
        async with ks.rerun_ingestions(session, summaries, journal=path) as job:
            report = await job.finish()
        assert report.counts == {"unknown": 30}
        async with ks.rerun_ingestions(session, [], journal=path) as job:
            report = await job.finish()
        assert report.counts == {"accepted": 30}
        assert effects_by_id(box) == Counter(box.store.ids())


@pytest.mark.parametrize("status", [400, 404, 422])
async def test_a_bulk_rerun_that_is_refused_whole_goes_one_by_one(status, path):
    async with failed_box(30, dialect="system-jobs") as box, box.session() as session:
        box.faults.add(Fault("status", route="bulk_rerun_ingestions", status=status))
        summaries = await ks.iter_ingestion_workflows(session)
        async with ks.rerun_ingestions(session, summaries, journal=path) as job:
            report = await job.finish()
        assert report.counts == {"accepted": 30}
        assert effects_by_id(box) == Counter(box.store.ids())


async def test_an_answer_that_names_not_all_leaves_those_unknown(path):
    async with failed_box(10, dialect="system-jobs") as box, box.session() as session:
        summaries = await ks.iter_ingestion_workflows(session)
        box.rewrite_answer = lambda _r, body: body | {"succeeded": body["succeeded"][:4]}
        async with ks.rerun_ingestions(session, summaries, journal=path) as job:
            report = await job.finish()
        assert report.counts == {"accepted": 4, "unknown": 6}
        assert len(report.unknown) == 6


@pytest.mark.parametrize("dialect", ["documented", "offset"])
async def test_in_noise_everything_runs_once_and_only_what_was_lost_is_unknown(dialect, path):
    async with failed_box(1500, dialect=dialect, seed=11) as box:
        route = "rerun_ingestion_workflow"
        box.faults.add(Fault("status", route=route, status=503, probability=0.3))
        lost = [
            box.faults.add(Fault("reset", route=route, when=when, probability=0.05, **delay))
            for when, delay in (("before", {}), ("after", {"effect_delay": 0.05}))
        ]
        box.faults.add(Fault("truncate", route=route, how="length", probability=0.05))
        async with box.session(clock=FakeClock(), chance=random.Random(3)) as session:
            failed = await ks.iter_ingestion_workflows(session)
            async with ks.rerun_ingestions(session, failed, journal=path) as job:
                report = await job.finish()
        await asyncio.sleep(0.06)
        reset = {r.id for r in box.requests if r.fault == "reset"}
        assert set(report.unknown) == reset
        assert sum(handle.fired for handle in lost) == len(reset)
        assert report.counts == {"accepted": 1500 - len(reset), "unknown": len(reset)}
        assert max(effects_by_id(box).values()) == 1
        assert box.request_counts[route] <= 1.47 * 1500


async def test_unknown_ones_are_settled_by_proof_only(path):
    async with failed_box(20) as box, box.session(clock=FakeClock()) as session:
        ids = list(box.store.ids())
        route = "rerun_ingestion_workflow"
        box.faults.add(Fault("reset", route=route, id=ids[0], when="after"))
        box.faults.add(Fault("reset", route=route, id=ids[1], when="before", times=1))
        async with ks.rerun_ingestions(session, ids, journal=path) as job:
            assert set((await job.finish()).unknown) == set(ids[:2])
        async with ks.rerun_ingestions(session, ids, journal=path) as job:
            assert (await job.finish()).unknown == (ids[1],)
        assert effects_by_id(box)[ids[1]] == 0
        async with ks.rerun_ingestions(session, ids, journal=path, resend_unknown=True) as job:
            assert (await job.finish()).counts == {"accepted": 20}
        assert effects_by_id(box) == Counter(ids)


async def test_what_vanished_meanwhile_stays_unknown(path):
    async with failed_box(5) as box, box.session(clock=FakeClock()) as session:
        ids = list(box.store.ids())
        box.faults.add(Fault("reset", route="rerun_ingestion_workflow", id=ids[0], when="before"))
        async with ks.rerun_ingestions(session, ids, journal=path) as job:
            await job.finish()
        box.store.remove_ingestion(ids[0])
        async with ks.rerun_ingestions(session, ids, journal=path) as job:
            assert (await job.finish()).unknown == (ids[0],)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_waiting_follows_each_to_the_end_of_its_own_run(dialect, path):
    options = {"stale_after_rerun": 100, "rerun_outcomes": {"completed": 0.8, "failed": 0.2}}
    async with failed_box(150, dialect=dialect, speed=200, **options) as box:
        async with box.session() as session:
            failed = await ks.iter_ingestion_workflows(session)
            async with ks.rerun_ingestions(session, failed, journal=path, wait=True) as job:
                outcomes = {o.workflow_id: o.outcome async for o in job}
        endings = {one: end for end in ("completed", "failed") for one in ids_of(box, end)}
        assert outcomes == endings
        assert set(outcomes.values()) == {"completed", "failed"}
        assert job.report.outcomes == Counter(outcomes.values())
        assert not job.report.is_good


async def test_a_wait_that_was_interrupted_goes_on(path):
    async with failed_box(12, speed=20) as box, box.session() as session:
        ids = list(box.store.ids())
        async with ks.rerun_ingestions(session, ids, journal=path, wait=True) as job:
            while job.progress.counts.get("accepted", 0) < 12:
                await asyncio.sleep(0.005)
        assert job.report.stopped_by == "it was left before its end"
        async with ks.rerun_ingestions(session, ids, journal=path, wait=True) as job:
            report = await job.finish()
        assert report.outcomes == {"completed": 12}
        assert effects_by_id(box) == Counter(ids)


@pytest.mark.no_cover
@pytest.mark.parametrize("dialect", ["documented", "system-jobs"])
async def test_the_workflows_running_on_the_servers_side_are_capped(dialect, path):
    box_clock = SteppedClock()
    async with failed_box(60, dialect=dialect, clock=box_clock, pipeline_seconds=(2, 30)) as box:
        most = 0

        def look(request) -> None:
            nonlocal most
            if request.method == "POST":
                asked = json.loads(request.body or b"{}").get("document_version_ids", [1])
                running = len(box.store.ids("pending", "processing"))  # one look: none counts twice
                most = max(most, running + len(asked))

        box.before_request = look
        async with box.session(clock=Stepping(box_clock)) as session:
            failed = await ks.iter_ingestion_workflows(session)
            async with ks.rerun_ingestions(session, failed, journal=path, max_in_flight=15) as job:
                report = await job.finish()
        assert report.counts == {"accepted": 60}
        assert 5 < most <= 15


async def test_what_an_earlier_go_started_counts_as_running(path):
    box_clock = SteppedClock()
    async with failed_box(60, clock=box_clock, pipeline_seconds=(2, 30)) as box:
        running = []

        def look(request) -> None:
            if request.method == "POST":
                running.append(len(ids_of(box, "pending")) + len(ids_of(box, "processing")))

        box.before_request = look
        async with box.session(clock=Stepping(box_clock)) as session:
            ids = list(box.store.ids())
            async with ks.rerun_ingestions(session, ids, journal=path, max_in_flight=15) as job:
                for _ in range(10):
                    await anext(job)
            async with ks.rerun_ingestions(session, [], journal=path, max_in_flight=15) as job:
                report = await job.finish()
        assert report.counts == {"accepted": 60}
        assert max(running) < 15


@pytest.mark.parametrize("dialect", ["documented", "system-jobs"])
@pytest.mark.parametrize(("ending", "stops"), [("failed", True), ("completed", False)])
async def test_canaries_stop_the_job_if_they_fail_again(dialect, ending, stops, path):
    async with failed_box(60, dialect=dialect, rerun_outcomes={ending: 1.0}) as box:
        async with box.session() as session:
            failed = await ks.iter_ingestion_workflows(session)
            async with ks.rerun_ingestions(session, failed, journal=path, canary=10) as job:
                report = await job.finish()
        assert len(box.effects) == (10 if stops else 60)
        assert report.counts == ({"accepted": 10, "planned": 50} if stops else {"accepted": 60})
        assert (report.stopped_by == "10 of the first 10 failed again") is stops


@pytest.mark.parametrize("count", [40, 8])
async def test_canaries_of_which_nothing_is_known_are_replaced_and_not_judged(path, count):
    async with failed_box(count, pipeline_seconds=(1.0, 2.0)) as box:
        async with box.session(clock=FakeClock()) as session:
            failed = await ks.iter_ingestion_workflows(session)
            box.faults.add(Fault("reset", route="rerun*", when="after", times=3))
            async with ks.rerun_ingestions(session, failed, journal=path, canary=6) as job:
                report = await job.finish()
    assert report.stopped_by is None
    assert report.counts == {"accepted": count - 3, "unknown": 3}


async def test_canaries_that_were_refused_for_now_are_sent_again(path):
    async with failed_box(20, rerun_outcomes={"failed": 1.0}) as box:
        once = ks.RetryPolicy(tries=1)
        async with box.session(clock=FakeClock(), retry=once) as session:
            failed = await ks.iter_ingestion_workflows(session)
            box.faults.add(Fault("status", method="POST", status=503, times=4))
            async with ks.rerun_ingestions(session, failed, journal=path, canary=6) as job:
                report = await job.finish()
        assert len(box.effects) == 6
    assert report.stopped_by == "6 of the first 6 failed again"


async def test_each_outcome_is_told_to_one_who_reads_late(path, monkeypatch):
    monkeypatch.setattr(RerunJob, "WAITING_OUTCOMES", 1)
    async with failed_box(60) as box, box.session() as session:
        failed = await ks.iter_ingestion_workflows(session)
        async with ks.rerun_ingestions(session, failed, journal=path, concurrency=3) as job:
            told = []
            async for outcome in job:
                told.append(outcome.workflow_id)
                await asyncio.sleep(0.001)
    assert sorted(told) == sorted(box.store.ids())


async def test_a_rate_is_kept(path):
    clock = FakeClock()
    async with failed_box(50) as box, box.session(clock=clock) as session:
        failed = await ks.iter_ingestion_workflows(session)
        began = clock.now()
        async with ks.rerun_ingestions(session, failed, journal=path, rate=10) as job:
            await job.finish()
        assert clock.now() - began >= 4.5


async def test_a_quota_that_is_used_up_stops_the_job(path):
    async with failed_box(60) as box, box.session() as session:
        failed = await ks.iter_ingestion_workflows(session)
        quota = Fault("status", route="rerun*", status=429, code="quota_exceeded", after=20)
        handle = box.faults.add(quota)
        async with ks.rerun_ingestions(session, failed, journal=path, concurrency=5) as job:
            report = await job.finish()
        assert report.stopped_by == "a quota is used up"
        assert report.counts == {"accepted": 20, "planned": 40}
        handle.remove()
        async with ks.rerun_ingestions(session, failed, journal=path) as job:
            assert (await job.finish()).counts == {"accepted": 60}
        assert effects_by_id(box) == Counter(box.store.ids())


async def test_a_key_that_is_not_good_any_more_stops_the_job(path):
    async with failed_box(20) as box, box.session() as session:
        failed = await ks.iter_ingestion_workflows(session)
        box.api_key = "sk-user-rotated"
        async with ks.rerun_ingestions(session, failed, journal=path) as job:
            report = await job.finish()
        assert "401" in report.stopped_by
        assert report.counts == {"planned": 20}


async def test_an_outage_pauses_the_job_and_fails_nothing(path):
    async with failed_box(200) as box, box.session(clock=FakeClock()) as session:
        failed = await ks.iter_ingestion_workflows(session)
        outage = box.faults.add(Fault("status", status=503, after=50))
        async with ks.rerun_ingestions(session, failed, journal=path, concurrency=10) as job:
            seen = 0
            async for _ in job:
                seen += 1
                if seen == 50:
                    while job.progress.paused is None:
                        await asyncio.sleep(0.001)
                    outage.remove()
        assert job.report.counts == {"accepted": 200}
        assert effects_by_id(box) == Counter(box.store.ids())


async def test_a_server_that_is_gone_for_a_while_is_waited_for(path):
    async with failed_box(40) as box:
        port = int(box.base_url.rpartition(":")[2])
        async with box.session(retry=ks.RetryPolicy(tries=1)) as session:
            failed = await ks.iter_ingestion_workflows(session)
            async with ks.rerun_ingestions(session, failed, journal=path, concurrency=2) as job:
                await box._server.stop()
                while job.progress.paused is None:
                    await asyncio.sleep(0.001)
                await box._server.start("127.0.0.1", port, None)
                began = asyncio.get_running_loop().time()
                report = await job.finish()
                assert asyncio.get_running_loop().time() - began < 5
        assert report.counts["accepted"] + report.counts.get("unknown", 0) == 40
        assert max(effects_by_id(box).values()) == 1


async def test_leaving_early_stops_cleanly_and_the_same_call_goes_on(path):
    async with failed_box(300) as box, box.session() as session:
        failed = await ks.iter_ingestion_workflows(session)
        async with ks.rerun_ingestions(session, failed, journal=path, concurrency=5) as job:
            async for _ in job:
                break
        counts = job.report.counts
        assert counts["planned"] > 200
        assert "sending" not in counts
        async with ks.rerun_ingestions(session, [], journal=path) as job:
            assert (await job.finish()).counts == {"accepted": 300}
        assert effects_by_id(box) == Counter(box.store.ids())


async def test_a_journal_of_another_job_or_server_is_refused(path):
    async with failed_box(3) as box, box.session() as session:
        async with ks.rerun_ingestions(session, box.store.ids(), journal=path) as job:
            await job.finish()
        with pytest.raises(ks.JournalError, match="settings"):
            async with ks.rerun_ingestions(session, [], journal=path, wait=True):
                pass
    async with failed_box(3) as other, other.session() as session:
        with pytest.raises(ks.JournalError, match="server"):
            async with ks.rerun_ingestions(session, [], journal=path):
                pass


async def test_a_journal_in_use_is_refused_and_says_by_whom(path):
    import os

    async with failed_box(60, latency=0.005) as box, box.session() as session:
        job = ks.rerun_ingestions(session, box.store.ids(), journal=path, concurrency=1)
        async with job:
            with pytest.raises(ks.JournalError, match=f"in use .*process {os.getpid()}"):
                async with ks.rerun_ingestions(session, [], journal=path):
                    pass


async def test_no_secret_is_in_the_journal(path):
    async with failed_box(10) as box, box.session() as session:
        box.faults.add(
            Fault("status", route="rerun*", status=409, body={"detail": f"key {KEY}?"}, times=1)
        )
        async with ks.rerun_ingestions(session, box.store.ids(), journal=path) as job:
            await job.finish()
    everything = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert KEY.encode() not in everything


async def test_the_report_counts_groups_and_exports(path):
    async with failed_box(30) as box, box.session() as session:
        ids = list(box.store.ids())
        for one in ids[:10]:
            box.store.set_superseded(one)
        async with ks.rerun_ingestions(session, ids, journal=path) as job:
            with pytest.raises(ks.SessionError):
                _ = job.report
            await job.finish()
        report = job.report
    assert list(report.causes.values()) == [10]
    rows = list(csv.DictReader(report.to_csv().splitlines()))
    assert {row["workflow_id"] for row in rows} == set(ids)
    assert json.loads(report.to_json())["counts"] == {"accepted": 20, "refused": 10}
    assert report.to_dict()["counts"]["refused"] == 10


def test_causes_of_ten_thousand_messages_are_few():
    texts = [
        f"Table on page {n} of ingest-01J{n:05}AB has {n * 3} columns, see "
        f"0631eea0-4957-421b-ae7d-{n:012x}"
        for n in range(10_000)
    ]
    assert len({cause_of(text) for text in texts}) == 1
    assert cause_of("Table on page 27 has 349 columns") == "Table on page # has # columns"


def test_a_report_of_nothing_is_good_and_one_of_something_unknown_is_not():
    assert RerunReport.of([]).is_good
    unknown = JournalItem(workflow_id="a", state=ItemState.UNKNOWN)
    assert RerunReport.of([unknown]).unknown == ("a",)
    assert not RerunReport.of([unknown]).is_good


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 0}, {"max_in_flight": 0}, {"rate": 0}, {"canary": -1}, {"abort_over": 2},
        {"settle_after": -1},
    ],
)  # fmt: skip
async def test_settings_that_make_no_sense_are_refused_at_once(session, path, options):
    with pytest.raises(ks.ConfigurationError):
        ks.rerun_ingestions(session, [], journal=path, **options)
    assert not path.exists()


async def test_it_is_used_with_async_with(session, path):
    with pytest.raises(ks.SessionError, match="async with"):
        await anext(ks.rerun_ingestions(session, [], journal=path))


async def test_many_workers_with_little_to_do_come_to_an_end_soon(path):
    async with failed_box(1) as box, box.session() as session:
        claims = 0
        original = SqliteJournal.claim

        async def count(journal: SqliteJournal, most: int):
            nonlocal claims
            claims += 1
            return await original(journal, most)

        SqliteJournal.claim = count
        try:
            async with asyncio.timeout(10):
                job = ks.rerun_ingestions(session, box.store.ids(), journal=path, concurrency=100)
                async with job:
                    await job.finish()
        finally:
            SqliteJournal.claim = original
    assert claims <= 2 * 200 + 1


async def test_progress_tells_where_it_is(path):
    async with failed_box(100, latency=0.002) as box, box.session() as session:
        async with ks.rerun_ingestions(
            session, box.store.ids(), journal=path, concurrency=4
        ) as job:
            for _ in range(50):
                await anext(job)
            progress = job.progress
            assert progress.total == 100
            assert 50 <= progress.done < 100
            assert progress.rate > 0
            assert progress.eta > 0


async def test_it_runs_beside_other_uses_of_the_session(path):
    async with failed_box(50) as box, box.session() as session:
        async with ks.rerun_ingestions(session, box.store.ids(), journal=path) as job:
            run = await ks.get_workflow_run(session, run_id_of(box))
            report = await job.finish()
    assert run.id
    assert report.counts == {ItemState.ACCEPTED: 50}


async def test_an_effect_that_lands_while_it_is_given_time_to_show_is_proof(path, clock):
    async with failed_box(6) as box, box.session(clock=clock) as session:
        ids = list(box.store.ids())
        box.faults.add(Fault("reset", route="rerun*", id=ids[0], when="before", times=1))
        async with ks.rerun_ingestions(session, ids, journal=path) as job:
            await job.finish()
        original = clock.sleep

        async def land(seconds: float) -> None:
            clock.sleep = original
            box.store.rerun(ids[0])
            await original(seconds)

        clock.sleep = land
        async with ks.rerun_ingestions(session, [], journal=path, resend_unknown=True) as job:
            assert (await job.finish()).counts == {"accepted": 6}
            with pytest.raises(StopAsyncIteration):
                await anext(job)
        await job.__aexit__(None, None, None)
        assert box.request_counts["rerun_ingestion_workflow"] == 6


async def test_a_job_that_was_waited_for_has_nothing_left_to_do(path):
    async with failed_box(4) as box, box.session() as session:
        for _ in range(2):
            source = list(box.store.ids())
            async with ks.rerun_ingestions(session, source, journal=path, wait=True) as job:
                assert (await job.finish()).outcomes == {"completed": 4}
        assert len(box.effects) == 4
    assert all(item.is_good for item in job.report.items)
    assert job.report.is_good


async def test_baselines_of_many_bare_ids_come_from_a_sweep(path, monkeypatch):
    monkeypatch.setattr("knowledgestack_async._rerun_plan.CHUNK", 7)
    async with failed_box(40) as box, box.session() as session:
        async with ks.rerun_ingestions(session, box.store.ids(), journal=path) as job:
            await job.finish()
        assert box.request_counts["get_ingestion_workflow"] == 0
    assert all(item.baseline for item in (await read_items(path)).values())


@pytest.mark.parametrize(
    ("error", "counts", "stops"),
    [
        (ks.ConfigurationError("odd id"), {"failed": 3}, False),
        (ks.InvalidResponse("odd", tries=1), {"unknown": 3}, False),
        (ks.SessionError("closed"), {"planned": 3}, True),
    ],
)
async def test_what_no_server_says_is_concluded_too(path, monkeypatch, error, counts, stops):
    from knowledgestack_async.api.reruns import _SessionUpstream

    async def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(_SessionUpstream, "rerun", fail)
    async with failed_box(3) as box, box.session() as session:
        async with ks.rerun_ingestions(session, box.store.ids(), journal=path) as job:
            report = await job.finish()
    assert report.counts == counts
    assert (report.stopped_by is not None) is stops


@pytest.mark.parametrize(("later", "stops"), [("quota_exceeded", True), (None, False)])
async def test_a_pause_ends_when_the_server_is_back_or_says_that_it_is_no_use(
    path, later, stops, clock
):
    async with failed_box(30) as box:
        async with box.session(clock=clock, retry=ks.RetryPolicy(tries=1)) as session:
            failed = await ks.iter_ingestion_workflows(session)
            box.faults.add(Fault("status", status=503, route="rerun*", times=40))
            box.faults.add(Fault("status", status=503, route="list*", times=2))
            if later:
                box.faults.add(Fault("status", status=429, code=later, route="list*", after=2))
            async with ks.rerun_ingestions(session, failed, journal=path, concurrency=3) as job:
                report = await job.finish()
    assert (report.stopped_by is not None) is stops
    assert stops or report.counts == {"accepted": 30}


@pytest.mark.no_cover
@pytest.mark.parametrize("point", POINTS)
async def test_killed_with_sigkill_nothing_is_lost_or_sent_twice(point, path):
    await kill_and_resume(path, point, seed=1)


async def test_killed_during_a_bulk_call_nothing_is_lost_or_sent_twice(path):
    await kill_and_resume(path, "random", seed=2, dialect="system-jobs")


async def leave_unknown(box: Sandbox, session: ks.Session, path, ids: list[str]) -> None:
    """All are rerun, and nobody knows."""
    lost = box.faults.add(Fault("reset", route="rerun_ingestion_workflow", when="after"))
    async with ks.rerun_ingestions(session, ids, journal=path) as job:
        assert (await job.finish()).counts == {"unknown": len(ids)}
    lost.remove()


async def test_noise_and_an_outage_dont_end_settling(path):
    async with failed_box(150) as box, box.session(clock=FakeClock()) as session:
        await leave_unknown(box, session, path, list(box.store.ids()))
        box.faults.add(Fault("status", status=503, probability=0.3))
        outage = box.faults.add(Fault("status", status=502, after=60))
        async with ks.rerun_ingestions(session, [], journal=path) as job:
            while job.progress.paused is None or outage.fired < 20:
                await asyncio.sleep(0.001)
            outage.remove()
            assert (await job.finish()).counts == {"accepted": 150}


@pytest.mark.parametrize("count", [3, 150])
async def test_noise_and_an_outage_dont_end_planning(path, count):
    async with failed_box(450) as box, box.session(clock=FakeClock()) as session:
        ids = list(box.store.ids())[:count]
        box.faults.add(Fault("status", status=503, probability=0.3))
        outage = box.faults.add(Fault("status", status=502))
        async with ks.rerun_ingestions(session, ids, journal=path) as job:
            while job.progress.paused is None or outage.fired < 10:
                await asyncio.sleep(0.001)
            assert box.effects == []
            outage.remove()
            assert (await job.finish()).counts == {"accepted": count}


@pytest.mark.parametrize("status", [403, 500])
async def test_what_cant_be_read_stays_unknown_and_ends_nothing(path, status):
    async with failed_box(20) as box, box.session(clock=FakeClock()) as session:
        ids = list(box.store.ids())
        await leave_unknown(box, session, path, ids)
        box.faults.add(Fault("status", status=status, id=ids[7]))
        async with ks.rerun_ingestions(session, [], journal=path) as job:
            report = await job.finish()
    assert report.counts == {"accepted": 19, "unknown": 1}
    assert report.unknown == (ids[7],)


@pytest.mark.parametrize("fault", [{"status": 401}, {"status": 429, "code": "quota_exceeded"}])
async def test_what_waiting_doesnt_help_ends_settling(path, fault):
    async with failed_box(20) as box, box.session(clock=FakeClock()) as session:
        await leave_unknown(box, session, path, list(box.store.ids()))
        box.faults.add(Fault("status", **fault))
        async with ks.rerun_ingestions(session, [], journal=path) as job:
            with pytest.raises((ks.Unauthorized, ks.QuotaExceeded)):
                await job.finish()
    assert job.report.counts == {"unknown": 20}


async def test_a_key_that_goes_bad_in_an_outage_stops_the_job(path):
    async with failed_box(20) as box, box.session(clock=FakeClock()) as session:
        await leave_unknown(box, session, path, list(box.store.ids()))
        box.faults.add(Fault("status", status=503, route="get*"))
        box.faults.add(Fault("status", status=401, route="list*"))
        async with ks.rerun_ingestions(session, [], journal=path) as job:
            report = await job.finish()
    assert "401" in report.stopped_by
    assert report.counts == {"unknown": 20}


async def test_a_job_that_waits_before_it_sends_is_left_at_once(path):
    async with failed_box(20) as box, box.session(clock=FakeClock()) as session:
        box.faults.add(Fault("status", status=503))
        async with asyncio.timeout(10):
            async with ks.rerun_ingestions(session, box.store.ids(), journal=path) as job:
                while job.progress.paused is None:
                    await asyncio.sleep(0.001)
        assert job.report.counts == {"planned": 20}
        box.faults.clear()
        async with ks.rerun_ingestions(session, box.store.ids(), journal=path) as job:
            assert (await job.finish()).counts == {"accepted": 20}
