"""Bulk reruns behind a proxy that answers for the service: 404s that name nothing, and pages at 200."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from functools import partial

import pytest
from outages import effects_by_id, failed_box, until
from test_cli_support import make_cli, served

import knowledgestack_async as ks
from knowledgestack_async._rerun_send import _UnnamedMisses
from knowledgestack_async.sandbox import Fault
from support import FakeClock, QuickClock, ids_of, run_id_of

DIALECTS = ("documented", "offset", "system-jobs")
every_dialect = pytest.mark.parametrize("dialect", DIALECTS)
LIST, GET, RERUN, BULK = (
    "list_ingestion_workflows",
    "get_ingestion_workflow",
    "rerun_ingestion_workflow",
    "bulk_rerun_ingestions",
)
SOON = 20.0

PAGE = b"<!DOCTYPE html>\n<html><head><title>Sorry</title></head><body>Back soon</body></html>"
UNNAMED = {
    "nginx": (b"<html><title>404 Not Found</title></html>", "text/html"),
    "ingress": (b"default backend - 404", "text/plain"),
    "unrouted": (b'{"detail": "Not Found"}', "application/json"),
    "kong": (b'{"message": "no Route matched with those values"}', "application/json"),
    "empty": (b"", "text/plain"),
}
every_unnamed = pytest.mark.parametrize("body", UNNAMED.values(), ids=UNNAMED)
PAGES = {
    "page": (PAGE, "text/html; charset=utf-8"),
    "page as JSON": (PAGE, "application/json"),
    "page after spaces": (b"\n\n  " + PAGE, "text/html"),
    "page with a mark": (b"\xef\xbb\xbf" + PAGE, "text/html"),
    "page without a type": (PAGE, "application/octet-stream"),
    "text": (b"The service is under maintenance.", "text/plain"),
    "XML": (b'<?xml version="1.0"?><error/>', "application/xml"),
}
every_page = pytest.mark.parametrize("body", PAGES.values(), ids=PAGES)


def answering(status, body, **where):
    """What a proxy answers by itself; the service never sees the request."""
    content, content_type = body
    return Fault(
        "status", status=status, body=content, headers={"Content-Type": content_type}, **where
    )


unnamed = partial(answering, 404)
paged = partial(answering, 200)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "job.journal"


def assert_each_ran_once(box):
    assert effects_by_id(box) == Counter(box.store.ids())


# --- 404s that name nothing, during a job ---


@pytest.mark.no_cover
@every_dialect
@every_unnamed
async def test_a_proxys_404_for_seconds_pauses_the_job_and_refuses_nothing(dialect, body, path):
    count = 450 if dialect == "system-jobs" else 150
    clock = QuickClock()
    async with failed_box(count, dialect=dialect) as box, box.session(clock=clock) as session:
        failed = await ks.iter_ingestion_workflows(session)
        proxy = box.faults.add(unnamed(body, after=1 if dialect == "system-jobs" else 40))
        async with ks.rerun_ingestions(session, failed, journal=path, concurrency=10) as job:
            running = asyncio.create_task(job.finish())
            async with asyncio.timeout(SOON):
                await until(lambda: proxy.fired)
                await until(lambda: job.progress.paused or running.done())
                was_paused = job.progress.paused
                await clock.sleep(3.0)
                sent = sum(one.method == "POST" and one.status == 404 for one in box.requests)
                proxy.remove()
                report = await running
        assert report.counts == {"accepted": count}
        assert_each_ran_once(box)
    assert report.stopped_by is None
    assert was_paused
    assert sent <= 100  # of what is left, not each is tried against a wall


@pytest.mark.no_cover
@every_dialect
@pytest.mark.parametrize("body", [UNNAMED["nginx"], UNNAMED["unrouted"]], ids=["nginx", "unrouted"])
async def test_404s_of_the_reruns_alone_are_no_refusals(dialect, body, path):
    async with failed_box(120, dialect=dialect) as box, box.session(clock=QuickClock()) as session:
        failed = await ks.iter_ingestion_workflows(session)
        proxy = box.faults.add(unnamed(body, method="POST", times=30))
        async with ks.rerun_ingestions(session, failed, journal=path, concurrency=5) as job:
            async with asyncio.timeout(SOON):
                outcomes = [outcome async for outcome in job]
        assert proxy.fired
        assert {str(outcome.state) for outcome in outcomes} == {"accepted"}
        assert job.report.counts == {"accepted": 120}
        assert_each_ran_once(box)


async def test_a_404_that_names_nothing_for_a_bulk_rerun_and_its_single_ones_refuses_nothing(path):
    """The bulk rerun's 404 may mean that there is none: then those that go singly meet the proxy."""
    async with failed_box(60, dialect="system-jobs") as box:
        async with box.session(clock=QuickClock()) as session:
            failed = await ks.iter_ingestion_workflows(session)
            box.faults.add(unnamed(UNNAMED["nginx"], route=BULK))
            box.faults.add(unnamed(UNNAMED["nginx"], route=RERUN, times=25))
            async with asyncio.timeout(SOON):
                async with ks.rerun_ingestions(session, failed, journal=path) as job:
                    report = await job.finish()
        assert report.counts == {"accepted": 60}
        assert_each_ran_once(box)


@pytest.mark.parametrize("body", [UNNAMED["nginx"], UNNAMED["unrouted"]], ids=["nginx", "unrouted"])
async def test_a_job_ends_although_one_item_is_answered_by_a_proxy_for_ever(
    body, path, monkeypatch
):
    monkeypatch.setattr(_UnnamedMisses, "LONGEST", 30.0)
    async with failed_box(60) as box, box.session(clock=QuickClock()) as session:
        failed = await ks.iter_ingestion_workflows(session)
        one = box.store.ids()[30]
        box.faults.add(unnamed(body, method="POST", id=one))
        async with asyncio.timeout(SOON):
            async with ks.rerun_ingestions(session, failed, journal=path) as job:
                report = await job.finish()
        [left] = [item for item in report.items if item.state != "accepted"]
        assert left.workflow_id == one
        assert left.state == "failed" or report.stopped_by
        assert Counter(effects_by_id(box).values()) == {1: 59}


async def test_a_job_that_cant_be_planned_for_404s_that_name_nothing_sends_nothing(path):
    async with failed_box(120) as box, box.session(clock=QuickClock()) as session:
        await ks.list_ingestion_workflows(session)
        box.faults.add(unnamed(UNNAMED["nginx"], route=GET))
        async with asyncio.timeout(SOON):
            with pytest.raises(ks.NotFound):
                async with ks.rerun_ingestions(session, box.store.ids()[:1], journal=path) as job:
                    await job.finish()
        assert not box.effects


async def test_a_job_stops_where_a_proxy_answers_all_reruns_for_minutes(path, monkeypatch):
    monkeypatch.setattr(_UnnamedMisses, "LONGEST", 30.0)
    clock = QuickClock()
    async with failed_box(30) as box, box.session(clock=clock) as session:
        failed = await ks.iter_ingestion_workflows(session)
        box.faults.add(unnamed(UNNAMED["nginx"], method="POST"))
        began = clock.now()
        async with asyncio.timeout(SOON):
            async with ks.rerun_ingestions(session, failed, journal=path) as job:
                report = await job.finish()
        assert clock.now() - began >= 30
        assert report.counts == {"planned": 30}
        assert "route" in report.stopped_by


@every_dialect
async def test_what_the_server_says_is_not_there_is_refused_and_the_job_goes_on(dialect, path):
    async with failed_box(30, dialect=dialect) as box, box.session() as session:
        failed = await ks.iter_ingestion_workflows(session)
        gone = box.store.ids()[7]
        box.store.remove_ingestion(gone)
        async with ks.rerun_ingestions(session, failed, journal=path) as job:
            report = await job.finish()
        assert report.counts == {"accepted": 29, "refused": 1}
        [refused] = [item for item in report.items if item.state == "refused"]
        assert refused.workflow_id == gone
        assert_each_ran_once(box)


@every_dialect
@pytest.mark.parametrize("body", [UNNAMED["nginx"], UNNAMED["unrouted"]], ids=["nginx", "unrouted"])
async def test_404s_that_name_nothing_while_it_is_planned_refuse_nothing(dialect, body, path):
    async with failed_box(600, dialect=dialect) as box, box.session(clock=QuickClock()) as session:
        ids = list(box.store.ids())[:3]
        await ks.list_ingestion_workflows(session)
        proxy = box.faults.add(unnamed(body, route=GET, times=9))
        async with asyncio.timeout(SOON):
            async with ks.rerun_ingestions(session, ids, journal=path) as job:
                report = await job.finish()
        assert proxy.fired
        assert report.counts == {"accepted": 3}
        assert effects_by_id(box) == Counter(ids)


@pytest.mark.no_cover
@every_dialect
@pytest.mark.parametrize("count", [3, 40])
async def test_where_all_that_it_is_planned_with_is_a_404_nothing_is_refused(dialect, count, path):
    """It may end with that error, for perhaps there is no API there; then it can be begun again."""
    async with failed_box(60, dialect=dialect) as box, box.session(clock=QuickClock()) as session:
        ids = list(box.store.ids())[:count]
        await ks.list_ingestion_workflows(session)
        proxy = box.faults.add(unnamed(UNNAMED["nginx"], method="GET", times=12))
        async with asyncio.timeout(SOON):
            try:
                async with ks.rerun_ingestions(session, ids, journal=path) as job:
                    await job.finish()
            except ks.NotFound as error:
                assert not error.names_it
                assert box.effects == []
            proxy.remove()
            async with ks.rerun_ingestions(session, ids, journal=path) as job:
                report = await job.finish()
        assert report.counts == {"accepted": count}
        assert effects_by_id(box) == Counter(ids)


async def test_a_base_url_where_no_api_is_ends_a_job_that_has_not_begun(path):
    """It answers, but nothing there is the API's: to wait until it is back would be for ever."""
    async with failed_box(5) as box, box.session(base_url=f"{box.base_url}/wrong") as session:
        with pytest.raises(ks.NotFound) as caught:
            async with asyncio.timeout(SOON):
                async with ks.rerun_ingestions(session, box.store.ids(), journal=path) as job:
                    await job.finish()
        assert not caught.value.names_it


@every_dialect
async def test_an_id_that_isnt_there_is_refused_while_it_is_planned(dialect, path):
    async with failed_box(60, dialect=dialect) as box, box.session() as session:
        ids = [*list(box.store.ids())[:3], "nobody"]
        async with ks.rerun_ingestions(session, ids, journal=path) as job:
            report = await job.finish()
        assert report.counts == {"accepted": 3, "refused": 1}


@pytest.mark.parametrize("count", [2, 40])
async def test_a_dialect_by_name_that_isnt_the_servers_ends_a_job_that_has_not_begun(count, path):
    """Each answer is one that can't be read: to wait until it can be would be for ever."""
    async with (
        failed_box(40, dialect="offset") as box,
        box.session(dialect="documented") as session,
    ):
        ids = list(box.store.ids())[:count]
        with pytest.raises(ks.InvalidResponse, match="not as 'documented'"):
            async with asyncio.timeout(3):
                async with ks.rerun_ingestions(session, ids, journal=path) as job:
                    await job.finish()


@pytest.mark.no_cover
@every_dialect
@pytest.mark.parametrize("body", [UNNAMED["nginx"], UNNAMED["unrouted"]], ids=["nginx", "unrouted"])
async def test_404s_that_name_nothing_refuse_nothing_of_a_job_that_goes_on(dialect, body, path):
    async with failed_box(900, dialect=dialect) as box, box.session(clock=QuickClock()) as session:
        ids = list(box.store.ids())[:4]
        run = partial(ks.rerun_ingestions, session, ids, journal=path, concurrency=1)
        box.faults.add(Fault("status", status=503, method="POST"))
        async with run() as job:
            await until(lambda: job.progress.paused)
        box.faults.clear()
        assert job.report.counts == {"planned": 4}
        proxy = box.faults.add(unnamed(body, route=GET, times=12))
        async with asyncio.timeout(SOON), run() as job:
            report = await job.finish()
        assert proxy.fired
        assert report.counts == {"accepted": 4}
        assert effects_by_id(box) == Counter(ids)


@pytest.mark.no_cover
@every_dialect
@pytest.mark.parametrize("body", [UNNAMED["nginx"], UNNAMED["unrouted"]], ids=["nginx", "unrouted"])
async def test_a_proxys_404_is_no_proof_that_an_unknown_one_didnt_run(dialect, body, path):
    """With resend_unknown it is looked up before it is sent again: that look must have been one."""
    async with failed_box(900, dialect=dialect) as box, box.session(clock=QuickClock()) as session:
        ids = list(box.store.ids())[:4]
        run = partial(ks.rerun_ingestions, session, ids, journal=path, settle_after=0.1)
        lost = box.faults.add(Fault("reset", when="after", method="POST"))
        async with run() as job:
            assert (await job.finish()).counts == {"unknown": 4}
        lost.remove()
        box.faults.add(unnamed(body, route=GET, times=12))
        async with asyncio.timeout(SOON), run(resend_unknown=True) as job:
            report = await job.finish()
        assert report.counts == {"accepted": 4}
        assert effects_by_id(box) == Counter(ids)


# --- followed to their ends ---

RUNNING = {"speed": 20, "pipeline_seconds": (2.0, 6.0)}


@every_dialect
@pytest.mark.parametrize("count", [3, 30])
@pytest.mark.parametrize("body", [UNNAMED["nginx"], UNNAMED["unrouted"]], ids=["nginx", "unrouted"])
async def test_what_is_followed_through_a_proxys_404_is_not_told_to_be_missing(
    dialect, count, body, path
):
    clock = QuickClock()
    async with failed_box(60, dialect=dialect, **RUNNING) as box:
        async with box.session(clock=clock) as session:
            ids = list(box.store.ids())[:count]
            async with ks.rerun_ingestions(session, ids, journal=path, wait=True) as job:
                running = asyncio.create_task(job.finish())
                async with asyncio.timeout(SOON):
                    await until(lambda: len(box.effects) == count or running.done())
                    proxy = box.faults.add(unnamed(body))
                    await until(lambda: proxy.fired or running.done())
                    await clock.sleep(3.0)
                    proxy.remove()
                    report = await running
        assert report.counts == {"accepted": count}
        assert report.outcomes == {"completed": count}
        assert effects_by_id(box) == Counter(ids)


@pytest.mark.no_cover
@every_dialect
async def test_a_followed_job_through_404s_of_everything_ends_well(dialect, path):
    """From before the first is sent: reruns and looks meet it both."""
    clock = QuickClock()
    async with failed_box(60, dialect=dialect, **RUNNING) as box:
        async with box.session(clock=clock) as session:
            failed = await ks.iter_ingestion_workflows(session)
            proxy = box.faults.add(unnamed(UNNAMED["nginx"], after=12))
            settings = {"wait": True, "max_in_flight": 10}
            async with ks.rerun_ingestions(session, failed, journal=path, **settings) as job:
                running = asyncio.create_task(job.finish())
                async with asyncio.timeout(SOON):
                    await until(lambda: proxy.fired or running.done())
                    await clock.sleep(4.0)
                    proxy.remove()
                    report = await running
        assert report.counts == {"accepted": 60}
        assert report.outcomes == {"completed": 60}
        assert_each_ran_once(box)


@pytest.mark.parametrize("dialect", ["documented", "system-jobs"])
async def test_canaries_that_a_proxy_answers_for_are_no_bad_ones(dialect, path):
    clock = QuickClock()
    async with failed_box(40, dialect=dialect, **RUNNING) as box:
        async with box.session(clock=clock) as session:
            failed = await ks.iter_ingestion_workflows(session)
            async with ks.rerun_ingestions(
                session, failed, journal=path, canary=5, abort_over=0.0
            ) as job:
                running = asyncio.create_task(job.finish())
                async with asyncio.timeout(SOON):
                    await until(lambda: len(box.effects) == 5 or running.done())
                    proxy = box.faults.add(unnamed(UNNAMED["nginx"]))
                    await until(lambda: proxy.fired or running.done())
                    await clock.sleep(2.0)
                    proxy.remove()
                    report = await running
        assert report.stopped_by is None
        assert report.counts == {"accepted": 40}
        assert_each_ran_once(box)


@every_dialect
async def test_what_was_deleted_while_it_was_followed_is_missing_by_the_apis_own_word(
    dialect, path
):
    clock = QuickClock()
    async with failed_box(20, dialect=dialect, **RUNNING) as box:
        async with box.session(clock=clock) as session:
            ids = list(box.store.ids())[:3]
            async with ks.rerun_ingestions(session, ids, journal=path, wait=True) as job:
                running = asyncio.create_task(job.finish())
                async with asyncio.timeout(SOON):
                    await until(lambda: len(box.effects) == 3)
                    box.store.remove_ingestion(ids[1])
                    report = await running
        assert report.outcomes == {"completed": 2, "missing": 1}


# --- what the journal then holds, and what is done with that ---


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(ks.RetryPolicy, "ceiling", lambda _self, _tries: 0.0)
    return make_cli(monkeypatch, capsys, tmp_path)


@pytest.mark.parametrize("dialect", ["documented", "system-jobs"])
@pytest.mark.parametrize("wait", [(), ("--wait",)], ids=["sent", "followed"])
def test_after_a_proxys_404s_trying_again_what_went_wrong_runs_nothing_twice(
    cli, tmp_path, dialect, wait
):
    journal = str(tmp_path / "own.journal")
    settings = {"statuses": {"failed": 1.0}, "superseded": 0, "pipeline_seconds": (0.1, 0.2)}
    with served(dialect=dialect, ingestions=40, **settings) as server:
        cli.aim_at(server)
        ids = list(server.store.ids())[:4]
        left = [4 if wait else 2]

        def meet_a_proxy(request):
            """What comes after this rerun meets it: looks at those that run, or further reruns."""
            left[0] -= request.route == RERUN
            if not left[0]:
                left[0] = -1
                server.faults.add(unnamed(UNNAMED["nginx"], times=8))

        server.before_request = meet_a_proxy
        args = (*ids, "--yes", "--journal", journal, "--concurrency", "1", *wait)
        if dialect == "system-jobs":
            server.faults.add(Fault("status", status=400, route=BULK))
        first = cli("ingestions", "rerun", *args, "--dialect", dialect)
        server.faults.clear()
        again = cli("jobs", "retry-failed", journal, "--yes", *wait, "--dialect", dialect)
        assert max(effects_by_id(server).values()) == 1, first.err + again.err
        assert effects_by_id(server) == Counter(ids)
        assert first.code == 0, first.err
        assert "Nothing went wrong: nothing to do." in again.err


# --- a server that changes its generation under a job ---

MOVES = [("documented", "system-jobs"), ("offset", "system-jobs"), ("system-jobs", "offset")]


@pytest.mark.no_cover
@pytest.mark.parametrize(("before", "after"), MOVES, ids=map("-to-".join, MOVES))
@pytest.mark.parametrize("wait", [False, True], ids=["sent", "followed"])
async def test_an_upgrade_in_the_middle_of_a_job_refuses_nothing(before, after, wait, path):
    count = 250
    async with failed_box(count, dialect=before) as box:
        async with box.session(clock=QuickClock()) as session:
            failed = await ks.iter_ingestion_workflows(session)
            with pytest.raises(ks.NotFound):  # so that the last probe is just behind it
                await ks.get_ingestion_workflow(session, "nobody")
            seen = Counter()

            def upgrade(request):
                seen[request.method] += 1
                if seen["POST"] == (2 if before == "system-jobs" else 60):
                    box.switch_dialect(after)

            box.before_request = upgrade
            async with asyncio.timeout(SOON):
                async with ks.rerun_ingestions(
                    session, failed, journal=path, concurrency=10, wait=wait
                ) as job:
                    report = await job.finish()
        assert report.counts == {"accepted": count}
        assert not wait or report.outcomes == {"completed": count}
        assert_each_ran_once(box)


@pytest.mark.no_cover
@pytest.mark.parametrize(("first", "second"), MOVES[:2], ids=map("+".join, MOVES[:2]))
@pytest.mark.parametrize("wait", [False, True], ids=["sent", "followed"])
async def test_a_rolling_upgrade_refuses_nothing(first, second, wait, path):
    """For a while each request is answered by one of two generations; then by the new one."""
    chance = random.Random(11)
    async with failed_box(100, dialect=first) as box:
        async with box.session(clock=QuickClock(), chance=random.Random(1)) as session:
            failed = list(await ks.iter_ingestion_workflows(session))
            left = iter(range(150))

            def roll(_request):
                is_over = next(left, None) is None
                box.switch_dialect(second if is_over else chance.choice([first, second]))

            box.before_request = roll
            async with asyncio.timeout(SOON):
                async with ks.rerun_ingestions(
                    session, failed, journal=path, concurrency=5, wait=wait
                ) as job:
                    report = await job.finish()
        assert report.counts == {"accepted": 100}
        assert not wait or report.outcomes == {"completed": 100}
        assert_each_ran_once(box)


@pytest.mark.no_cover
@every_dialect
async def test_a_pod_that_answers_for_nobody_refuses_nothing(dialect, path):
    """One of four is another service's, and stays: its 404s are met again and again."""
    async with failed_box(80, dialect=dialect) as box:
        async with box.session(clock=QuickClock(40), chance=random.Random(1)) as session:
            failed = list(await ks.iter_ingestion_workflows(session))
            box.faults.add(unnamed(UNNAMED["unrouted"], probability=0.25))
            async with asyncio.timeout(SOON):
                async with ks.rerun_ingestions(
                    session, failed, journal=path, concurrency=5, wait=True
                ) as job:
                    report = await job.finish()
        assert report.counts == {"accepted": 80}
        assert report.outcomes == {"completed": 80}
        assert_each_ran_once(box)


# --- pages at 200 ---


@every_page
@pytest.mark.parametrize("effect", [False, True], ids=["unseen", "acted"])
async def test_a_page_at_200_doesnt_say_that_a_rerun_was_taken(sandbox, session, body, effect):
    sandbox.faults.add(paged(body, effect=effect, method="POST"))
    with pytest.raises(ks.OutcomeUnknown) as caught:
        await ks.rerun_ingestion_workflow(session, ids_of(sandbox, "failed")[0])
    assert not caught.value.safe_to_retry
    assert caught.value.status == 200
    assert len(sandbox.requests) == 1
    assert len(sandbox.effects) == effect


@every_page
async def test_a_page_at_200_doesnt_say_that_something_was_cancelled(sandbox, session, body):
    sandbox.faults.add(paged(body, method="DELETE"))
    with pytest.raises(ks.OutcomeUnknown):
        await ks.cancel_workflow(session, ids_of(sandbox, "processing")[0])
    assert sandbox.effects == []


@every_page
async def test_a_page_at_200_doesnt_say_that_a_run_was_deleted(sandbox, session, body):
    sandbox.faults.add(paged(body, method="DELETE"))
    with pytest.raises(ks.OutcomeUnknown) as caught:
        await ks.delete_workflow_run(session, run_id_of(sandbox, "PENDING"))
    assert caught.value.safe_to_retry
    assert sandbox.effects == []


@every_page
async def test_a_page_at_200_doesnt_say_that_a_callback_was_taken(sandbox, session, body):
    sandbox.faults.add(paged(body, method="POST"))
    with pytest.raises(ks.OutcomeUnknown) as caught:
        await ks.send_workflow_run_callback(session, run_id_of(sandbox), "COMPLETED")
    assert caught.value.safe_to_retry
    assert sandbox.effects == []


async def test_a_page_at_200_that_passes_keeps_no_callback_from_being_delivered(sandbox, session):
    run_id = run_id_of(sandbox)
    sandbox.faults.add(paged(PAGES["page"], method="POST", times=1))
    try:
        await ks.send_workflow_run_callback(session, run_id, "COMPLETED")
    except ks.OutcomeUnknown:
        assert sandbox.store.get_run(run_id).status == "RUNNING"
    else:
        assert sandbox.store.get_run(run_id).status == "COMPLETED"


@pytest.mark.no_cover
@every_dialect
@pytest.mark.parametrize("body", [PAGES["page"], PAGES["text"]], ids=["page", "text"])
@pytest.mark.parametrize("effect", [False, True], ids=["unseen", "acted"])
async def test_reruns_that_a_page_answers_are_unknown_and_never_accepted(
    dialect, body, effect, path
):
    async with failed_box(60, dialect=dialect) as box, box.session(clock=QuickClock()) as session:
        ids = list(await ks.iter_ingestion_workflows(session))
        page = box.faults.add(paged(body, method="POST", effect=effect, times=3))
        async with asyncio.timeout(SOON):
            async with ks.rerun_ingestions(session, ids, journal=path, concurrency=5) as job:
                report = await job.finish()
        hidden = 60 if dialect == "system-jobs" else 3
        accepted = {} if dialect == "system-jobs" else {"accepted": 57}
        assert page.fired == (1 if dialect == "system-jobs" else 3)
        assert report.counts == {"unknown": hidden} | accepted
        ran = effects_by_id(box)
        assert max(ran.values(), default=1) == 1
        states = {item.workflow_id: str(item.state) for item in report.items}
        assert all(ran[one] == 1 for one, state in states.items() if state == "accepted")
        assert all(ran[one] == effect for one, state in states.items() if state == "unknown")
        # Looked at once more: what acted has its proof, what didn't stays unknown.
        async with ks.rerun_ingestions(session, [], journal=path) as job:
            report = await job.finish()
        assert report.counts == ({"accepted": 60} if effect else {"unknown": hidden} | accepted)


@every_dialect
async def test_a_maintenance_page_pauses_the_job_and_is_no_answer_for_the_rest(dialect, path):
    """All routes show it, for a while: few are asked for in vain, and nothing runs twice."""
    clock = QuickClock()
    count = 700 if dialect == "system-jobs" else 200
    async with failed_box(count, dialect=dialect) as box, box.session(clock=clock) as session:
        failed = await ks.iter_ingestion_workflows(session)
        page = box.faults.add(paged(PAGES["page"], after=1 if dialect == "system-jobs" else 40))
        run = partial(ks.rerun_ingestions, session, failed, journal=path, concurrency=10)
        async with run() as job:
            running = asyncio.create_task(job.finish())
            async with asyncio.timeout(SOON):
                await until(lambda: page.fired)
                await until(lambda: job.progress.paused or running.done())
                was_paused = job.progress.paused
                await clock.sleep(3.0)
                page.remove()
                report = await running
        ran = effects_by_id(box)
        assert was_paused
        assert set(report.counts) == {"accepted", "unknown"}
        assert all(ran[item.workflow_id] == (item.state == "accepted") for item in report.items)
        assert report.counts["unknown"] <= (400 if dialect == "system-jobs" else 40)
        async with asyncio.timeout(SOON), run(resend_unknown=True, settle_after=0.0) as job:
            report = await job.finish()
        assert report.counts == {"accepted": count}
        assert_each_ran_once(box)


async def test_looks_that_a_page_answers_end_nothing_that_is_followed(path):
    clock = QuickClock()
    async with failed_box(30, **RUNNING) as box, box.session(clock=clock) as session:
        ids = list(box.store.ids())[:3]
        async with ks.rerun_ingestions(session, ids, journal=path, wait=True) as job:
            running = asyncio.create_task(job.finish())
            async with asyncio.timeout(SOON):
                await until(lambda: len(box.effects) == 3)
                page = box.faults.add(paged(PAGES["page"]))
                await until(lambda: page.fired)
                await clock.sleep(2.0)
                page.remove()
                report = await running
        assert report.outcomes == {"completed": 3}


# --- a runner's outcome ---


@every_page
async def test_an_outcome_that_a_page_answers_is_kept_in_the_spool(
    sandbox, session, body, tmp_path
):
    spool = tmp_path / "outcomes.db"
    run = sandbox.store.add_run("RUNNING")
    page = sandbox.faults.add(paged(body, method="POST"))
    async with ks.report_outcome(session, run.id, spool=spool) as outcome:
        pass
    assert (outcome.delivered, outcome.spooled) == (False, True)
    assert run.status == "RUNNING"
    report = await ks.deliver_spooled(session, spool)
    assert (report.delivered, report.gone, list(report.left)) == ((), (), [run.id])
    page.remove()
    assert (await ks.deliver_spooled(session, spool)).delivered == (run.id,)
    assert run.status == "COMPLETED"


async def test_an_outcome_that_a_page_answers_is_not_told_to_be_delivered(sandbox, session):
    run = sandbox.store.add_run("RUNNING")
    sandbox.faults.add(paged(PAGES["page"], method="POST"))
    outcome = ks.report_outcome(session, run.id)
    with pytest.raises(ks.OutcomeUnknown):
        async with outcome:
            pass
    assert not outcome.delivered
    assert run.status == "RUNNING"


async def test_an_outcome_that_met_a_page_once_is_delivered(sandbox, tmp_path):
    spool = tmp_path / "outcomes.db"
    run = sandbox.store.add_run("RUNNING")
    async with sandbox.session(clock=FakeClock()) as session:
        sandbox.faults.add(paged(PAGES["page"], method="POST", times=1))
        async with ks.report_outcome(session, run.id, spool=spool) as outcome:
            outcome.fail("no good")
        assert outcome.delivered or outcome.spooled
        report = await ks.deliver_spooled(session, spool)
    assert outcome.delivered or report.delivered == (run.id,)
    assert (run.status, run.error) == ("FAILED", "no good")


@pytest.mark.parametrize(("apart", "most"), [(False, 2), (True, 12)])
async def test_a_job_pauses_at_once_where_its_session_has_already_given_reruns_up(
    tmp_path, apart, most
):
    """What others of the session met counts; what another session met is not known to it."""
    once = ks.RetryPolicy(tries=1)
    async with failed_box(40) as box, box.session(clock=QuickClock(), retry=once) as session:
        ids = ids_of(box, "failed")
        async with box.session(clock=QuickClock(), retry=once) as other:
            box.faults.add(Fault("status", status=500, route=RERUN, times=8))
            for workflow_id in ids[:8]:
                with pytest.raises(ks.OutcomeUnknown):
                    await ks.rerun_ingestion_workflow(other if apart else session, workflow_id)
        box.faults.add(Fault("status", status=500, route=RERUN))
        options = {"journal": tmp_path / "j", "concurrency": 1}
        async with ks.rerun_ingestions(session, ids[8:], **options) as job:
            async with asyncio.timeout(SOON):
                await until(lambda: job.progress.paused)
            sent = box.request_counts[RERUN] - 8
    assert sent <= most
    assert apart == (sent > 2)
