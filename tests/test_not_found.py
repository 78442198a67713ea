""" "Not found" and "missing" are only said when the server said so of that very thing."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter, defaultdict
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from test_cli_support import make_cli, served

import knowledgestack_async as ks
from knowledgestack_async.sandbox import Fault, Sandbox, SteppedClock
from support import KEY, FakeClock, Stepping, ids_of, run_id_of

DIALECTS = ("documented", "offset", "system-jobs")
LIST = "list_ingestion_workflows"
NO_RUN = "00000000-0000-4000-8000-000000000000"

PAGE = b"<html><head><title>404 Not Found</title></head><body>nginx/1.27.1</body></html>"
UNNAMED = {
    "nginx": (PAGE, "text/html"),
    "go": (b"404 page not found\n", "text/plain; charset=utf-8"),
    "ingress": (b"default backend - 404", "text/plain"),
    "kong": (b'{"message": "no Route matched with those values"}', "application/json"),
    "unrouted": (b'{"detail": "Not Found"}', "application/json"),
    "unrouted with a code": (
        b'{"detail": "Not Found", "code": "not_found", "request_id": "r-1"}',
        "application/json",
    ),
    "empty": (b"", "text/plain"),
    "empty detail": (b'{"detail": ""}', "application/json"),
    "null detail": (b'{"detail": null}', "application/json"),
    "list for detail": (b'{"detail": [{"msg": "Not Found"}]}', "application/json"),
    "object for detail": (b'{"detail": {"error": "Workflow x not found"}}', "application/json"),
    "a text in JSON": (b'"Workflow x not found"', "application/json"),
    "detail in a page": (b'<p>{"detail": "Workflow x not found"}</p>', "text/html"),
}
"""404s that don't say what they can't find: a proxy's, another pod's, of a path without a route."""

every_unnamed = pytest.mark.parametrize("body", UNNAMED.values(), ids=UNNAMED)


def unnamed(body=UNNAMED["nginx"], **where):
    """A 404 that names nothing."""
    content, content_type = body
    return Fault(
        "status", status=404, body=content, headers={"Content-Type": content_type}, **where
    )


def stepped_box(count, **options):
    """Ingestions that run for about 40 s, on a clock that a session's sleeps move."""
    clock = SteppedClock()
    options = {
        "statuses": {"processing": 1.0},
        "superseded": 0,
        "pipeline_seconds": (40.0, 41.0),
    } | options
    return Sandbox(ingestions=count, clock=clock, api_key=KEY, **options), Stepping(clock)


# --- single calls ---

CALLS = {
    LIST: lambda session, _: ks.list_ingestion_workflows(session),
    "get_ingestion_workflow": lambda session, box: ks.get_ingestion_workflow(
        session, ids_of(box, "failed")[0]
    ),
    "rerun_ingestion_workflow": lambda session, box: ks.rerun_ingestion_workflow(
        session, ids_of(box, "failed")[0]
    ),
    "get_workflow_status": lambda session, box: ks.get_workflow_status(
        session, ids_of(box, "processing")[0]
    ),
    "cancel_workflow": lambda session, box: ks.cancel_workflow(
        session, ids_of(box, "processing")[0]
    ),
    "get_workflow_run": lambda session, box: ks.get_workflow_run(session, run_id_of(box)),
    "delete_workflow_run": lambda session, box: ks.delete_workflow_run(
        session, run_id_of(box, "PENDING")
    ),
    "send_workflow_run_callback": lambda session, box: ks.send_workflow_run_callback(
        session, run_id_of(box), "FAILED"
    ),
}
every_call = pytest.mark.parametrize("name", CALLS)

MISSING = {
    "get_ingestion_workflow": lambda session: ks.get_ingestion_workflow(session, "nobody"),
    "rerun_ingestion_workflow": lambda session: ks.rerun_ingestion_workflow(session, "nobody"),
    "get_workflow_status": lambda session: ks.get_workflow_status(session, "nobody"),
    "cancel_workflow": lambda session: ks.cancel_workflow(session, "nobody"),
    "get_workflow_run": lambda session: ks.get_workflow_run(session, NO_RUN),
    "delete_workflow_run": lambda session: ks.delete_workflow_run(session, NO_RUN),
    "send_workflow_run_callback": lambda session: ks.send_workflow_run_callback(
        session, NO_RUN, "FAILED"
    ),
}


@every_call
@pytest.mark.parametrize("dialect", ["auto", "documented"])
async def test_a_404_that_stays_and_names_nothing_is_told_as_such(sandbox, name, dialect, clock):
    sandbox.faults.add(unnamed())
    async with sandbox.session(clock=clock, dialect=dialect) as session:
        with pytest.raises(ks.NotFound) as caught:
            await CALLS[name](session, sandbox)
    assert caught.value.names_it is False
    assert "Nothing says what is missing" in caught.value.hint
    assert sandbox.effects == []


@every_unnamed
async def test_what_a_404_must_say_to_name_the_thing(sandbox, session, body):
    sandbox.faults.add(unnamed(body))
    with pytest.raises(ks.NotFound) as caught:
        await ks.get_workflow_run(session, run_id_of(sandbox))
    assert caught.value.names_it is False


@pytest.mark.parametrize("name", MISSING)
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_404_of_the_api_names_the_thing(name, dialect, clock):
    async with Sandbox(ingestions=5, dialect=dialect) as box, box.session(clock=clock) as session:
        with pytest.raises(ks.NotFound) as caught:
            await MISSING[name](session)
    assert caught.value.names_it is True


@every_call
async def test_a_404_that_names_nothing_and_passes_is_never_a_statement_about_the_thing(
    sandbox, session, name
):
    await ks.list_ingestion_workflows(session)
    sandbox.faults.add(unnamed(times=1))
    try:
        await CALLS[name](session, sandbox)
    except ks.NotFound as error:
        assert error.names_it is False
        assert sandbox.effects == []


@every_unnamed
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_proxys_404_after_a_lost_answer_doesnt_say_that_a_run_is_deleted(
    sandbox, session, body, when
):
    run_id = run_id_of(sandbox, "PENDING")
    sandbox.faults.add(Fault("reset", when=when, times=1))
    sandbox.faults.add(unnamed(body))
    with pytest.raises(ks.RequestError) as caught:
        await ks.delete_workflow_run(session, run_id)
    assert caught.value.safe_to_retry
    assert not getattr(caught.value, "names_it", False)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_run_that_is_told_to_be_deleted_is(sandbox, session, when):
    run_id = run_id_of(sandbox, "PENDING")
    sandbox.faults.add(Fault("reset", when=when, times=1))
    sandbox.faults.add(unnamed(times=1))
    try:
        await ks.delete_workflow_run(session, run_id)
    except ks.RequestError:
        return
    assert run_id not in sandbox.store.runs.ids()


async def test_a_404_that_names_the_run_after_a_lost_answer_still_counts_as_deleted(
    sandbox, session
):
    run_id = run_id_of(sandbox, "PENDING")
    sandbox.faults.add(Fault("reset", when="after", times=1))
    await ks.delete_workflow_run(session, run_id)
    assert run_id not in sandbox.store.runs.ids()


# --- a generation that is not known yet ---

PROBES = {
    "429": (Fault("status", status=429, retry_after=300, route=LIST), ks.TooManyRequests),
    "429-without-a-time": (Fault("status", status=429, route=LIST), ks.TooManyRequests),
    "quota": (
        Fault("status", status=429, code="quota_exceeded", route=LIST),
        ks.QuotaExceeded,
    ),
    "500": (Fault("status", status=500, route=LIST), ks.ServerError),
    "502": (Fault("status", status=502, route=LIST), ks.ServerError),
    "503": (Fault("status", status=503, route=LIST), ks.ServiceUnavailable),
    "403": (Fault("status", status=403, route=LIST), ks.Forbidden),
    "401": (Fault("status", status=401, route=LIST), ks.Unauthorized),
    "422": (Fault("status", status=422, route=LIST), ks.UnprocessableEntity),
    "reset": (Fault("reset", when="before", route=LIST), ks.RequestError),
    "cut": (Fault("truncate", how="length", route=LIST), ks.RequestError),
    "page": (Fault("garbage", body="html", route=LIST), ks.RequestError),
    "redirect": (Fault("redirect", status=302, location="/login", route=LIST), ks.InvalidResponse),
}
OF_A_THING = ("get_ingestion_workflow", "rerun_ingestion_workflow", "get_workflow_status")


@pytest.mark.no_cover
@pytest.mark.parametrize("name", OF_A_THING)
@pytest.mark.parametrize(("fault", "kind"), PROBES.values(), ids=PROBES)
async def test_a_probe_that_decides_nothing_is_the_error_that_comes_up(name, fault, kind):
    """The documented path's 404 says nothing, as long as nobody knows whether that is the path."""
    async with Sandbox(ingestions=20, dialect="system-jobs") as box:
        box.faults.add(fault)
        async with box.session(clock=FakeClock(), chance=random.Random(1)) as session:
            for _ in range(2):
                try:
                    await CALLS[name](session, box)
                except ks.RequestError as error:
                    # In a pause that the server asked for, the second one is not sent.
                    assert isinstance(error, kind | ks.DeadlineExceeded), error
                    assert not isinstance(error, ks.NotFound), error
                else:
                    assert fault.status == 403  # the route is there: that may be answer enough
        box.faults.clear()
        async with box.session() as session:
            await CALLS[name](session, box)


@pytest.mark.parametrize("name", OF_A_THING)
async def test_a_deadline_that_ends_during_the_probe_is_the_error_that_comes_up(name):
    async with Sandbox(ingestions=20, dialect="system-jobs", latency=0.06) as box:
        async with box.session(deadline=0.15) as session:
            for _ in range(3):
                try:
                    await CALLS[name](session, box)
                except ks.DeadlineExceeded:
                    continue
                except ks.OutcomeUnknown:  # found in time, sent, and not answered in time
                    assert name == "rerun_ingestion_workflow"
                break  # what the first ones found out is enough for this one


async def test_a_probe_that_hangs_is_the_error_that_comes_up():
    async with Sandbox(ingestions=5, dialect="system-jobs") as box:
        box.faults.add(Fault("silence", route=LIST))
        clock = FakeClock(patience=0.05)
        async with box.session(clock=clock, retry=ks.RetryPolicy(tries=2)) as session:
            with pytest.raises(ks.RequestError) as caught:
                await ks.get_ingestion_workflow(session, box.store.ids()[0])
    assert isinstance(caught.value, ks.ConnectionLost | ks.DeadlineExceeded)


@pytest.mark.parametrize(("fault", "kind"), PROBES.values(), ids=PROBES)
async def test_nobody_who_waits_for_a_probe_that_decides_nothing_is_told_not_found(fault, kind):
    async with Sandbox(ingestions=20, dialect="system-jobs") as box:
        box.faults.add(fault)
        async with box.session(clock=FakeClock(), chance=random.Random(1)) as session:
            gets = (ks.get_ingestion_workflow(session, one) for one in box.store.ids())
            told = await asyncio.gather(*gets, return_exceptions=True)
    errors = [one for one in told if isinstance(one, Exception)]
    assert not [one for one in errors if isinstance(one, ks.NotFound)], Counter(map(type, errors))
    assert all(isinstance(one, ks.RequestError) for one in errors)
    assert errors or fault.status == 403


@pytest.mark.no_cover
@pytest.mark.parametrize("status", [403, 429, 500])
@pytest.mark.parametrize("count", [3, 30])
async def test_a_watch_whose_probe_decides_nothing_reports_trouble_and_ends_well(status, count):
    box, clock = stepped_box(count, dialect="system-jobs", pipeline_seconds=(400.0, 401.0))
    async with box, box.session(clock=clock) as session:
        fault = box.faults.add(Fault("status", status=status, route=LIST))
        async with ks.watch_ingestions(session, box.store.ids()[:3], deadline=2000) as watch:
            first = await anext(watch)
            fault.remove()
            changes = [first, *[change async for change in watch]]
    assert_nobody_is_missing(changes)
    assert {change.workflow_id: change.current for change in changes if change.is_final} == (
        dict.fromkeys(box.store.ids()[:3], "completed")
    )


class Tenants:
    """A server of the current generation with two keys: one of them may get, and may not list."""

    def __init__(self, status, ids, detail):
        self.status = status
        self.detail = detail
        self.ids = ids
        self.lists = Counter()

    async def list(self, request):
        key = request.headers["Authorization"].removeprefix("Bearer ")
        self.lists[key] += 1
        await asyncio.sleep(0.05)
        if key == "sk-narrow":
            return web.json_response({"detail": self.detail}, status=self.status)
        item = self.detail_of(self.ids[0])
        return web.json_response({"items": [item], "total": 1, "limit": 1, "offset": 0})

    async def get(self, request):
        return web.json_response(self.detail_of(request.match_info["id"]))

    def detail_of(self, workflow_id):
        moment = "2026-07-01T12:00:00+00:00"
        return {
            "workflow_id": workflow_id,
            "document_id": NO_RUN,
            "document_version_id": NO_RUN,
            "status": "completed",
            "last_activity": None,
            "error": None,
            "last_run_timestamp": moment,
            "last_state_update_timestamp": moment,
            "created_at": moment,
            "document_name": "a.pdf",
            "materialized_path": "/shared/a.pdf",
            "is_active_version": True,
            "uploader": None,
            "temporal_status": "COMPLETED",
            "start_time": moment,
            "close_time": moment,
            "chunks_processed": 1,
        }


@asynccontextmanager
async def serving(*routes):
    """A server of a test's own; gives its address."""
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("status", [401, 403, 429])
@pytest.mark.parametrize("first", ["narrow", "wide"])
async def test_what_one_key_may_not_do_is_no_answer_for_another_key(status, first):
    ids = [f"ingest-{number}" for number in range(18)]
    tenants = Tenants(status, ids, "quota" if status == 429 else "this key may not list")
    routes = (
        web.get("/v1/system-jobs/document_versions", tenants.list),
        web.get("/v1/system-jobs/document_versions/{id}", tenants.get),
    )
    retry = ks.RetryPolicy(tries=1)
    async with serving(*routes) as url, ks.Session("sk-wide", url, retry=retry) as wide:
        narrow = wide.with_options(api_key="sk-narrow")
        gets = [ks.get_ingestion_workflow(wide, one) for one in ids]
        gets.insert(0 if first == "narrow" else len(ids), ks.get_ingestion_workflow(narrow, ids[0]))
        found = await asyncio.gather(*gets, return_exceptions=True)
    told = found.pop(0 if first == "narrow" else -1)
    # A rate limit is the session's matter: all of its callers pause.
    errors = [one for one in found if isinstance(one, Exception)]
    assert not [one for one in errors if isinstance(one, ks.NotFound)], Counter(map(type, errors))
    if status != 429:
        assert errors == []
        assert [one.workflow_id for one in found] == ids
    assert not isinstance(told, ks.NotFound)


# --- watches ---


def assert_nobody_is_missing(changes):
    kinds = Counter(str(change.kind) for change in changes)
    assert kinds["missing"] == 0, kinds
    assert not [change for change in changes if change.is_final and change.state is None]


async def follow(watch):
    async with watch:
        return [change async for change in watch]


@pytest.mark.no_cover
@every_unnamed
@pytest.mark.parametrize("after", [0, 2])
async def test_a_watch_through_404s_that_name_nothing_reports_trouble_and_recovers(body, after):
    box, clock = stepped_box(20)
    async with box, box.session(clock=clock) as session:
        ids = box.store.ids()[:3]
        times = 60 if "unrouted" in str(body) or b"Not Found" in str(body).encode() else 12
        box.faults.add(unnamed(body, after=after, times=times))
        watch = ks.watch_ingestions(session, ids, deadline=600)
        changes = await follow(watch)
        summary = watch.summary
    assert_nobody_is_missing(changes)
    told = defaultdict(set)
    for change in changes:
        told[str(change.kind)].add(change.workflow_id)
    assert told["trouble"]
    assert told["recovered"] == told["trouble"]
    final = [change.workflow_id for change in changes if change.is_final]
    assert sorted(final) == sorted(ids)
    assert (summary.missing, summary.counts) == (0, {"completed": 3})


WATCHES = {
    "a few": lambda session, box: ks.watch_ingestions(session, box.store.ids()[:3], deadline=600),
    "many": lambda session, box: ks.watch_ingestions(session, box.store.ids()[:40], deadline=600),
    "everything": lambda session, _: ks.watch_ingestions(session, deadline=300),
    "runs": lambda session, box: ks.watch_workflow_runs(
        session, box.store.runs.ids(), deadline=600
    ),
}


@pytest.mark.parametrize("which", WATCHES)
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("is_known", [True, False], ids=["known", "unknown"])
async def test_no_kind_of_watch_takes_a_proxys_404_for_an_end(which, dialect, is_known):
    box, clock = stepped_box(60, dialect=dialect, runs=0, run_watchdog=True)
    for _ in range(4):
        box.store.add_run("RUNNING", max_run_duration_seconds=40)
    async with box, box.session(clock=clock) as session:
        if is_known:
            await ks.list_ingestion_workflows(session)
            first = await follow_once(WATCHES[which](session, box))
        box.faults.add(unnamed(times=15))
        watch = WATCHES[which](session, box)
        changes = await follow(watch)
    if is_known:
        assert_nobody_is_missing(first)
    assert_nobody_is_missing(changes)
    assert watch.summary.missing == 0
    ended = Counter(change.workflow_id for change in changes if change.is_final)
    assert set(ended.values()) == {1}
    assert len(ended) == {"a few": 3, "many": 40, "everything": 60, "runs": 4}[which]


async def follow_once(watch):
    """What a watch tells first."""
    async with watch:
        return await watch.next_changes()


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_one_id_that_a_proxy_answers_is_in_trouble_by_itself(dialect):
    box, clock = stepped_box(20, dialect=dialect)
    async with box, box.session(clock=clock) as session:
        ids = box.store.ids()[:3]
        await ks.list_ingestion_workflows(session)
        box.faults.add(unnamed(id=ids[1], times=10))
        changes = await follow(ks.watch_ingestions(session, ids, deadline=600))
    assert_nobody_is_missing(changes)
    of_each = defaultdict(list)
    for change in changes:
        of_each[change.workflow_id].append(str(change.kind))
    assert "trouble" in of_each[ids[1]]
    assert "trouble" not in of_each[ids[0]] + of_each[ids[2]]
    assert {change.workflow_id for change in changes if change.is_final} == set(ids)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_what_the_server_says_is_missing_is_missing(dialect):
    """Also among what is there, and after trouble."""
    box, clock = stepped_box(20, dialect=dialect)
    async with box, box.session(clock=clock) as session:
        ids = [*box.store.ids()[:2], "nobody"]
        box.faults.add(unnamed(times=4))
        changes = await follow(ks.watch_ingestions(session, ids, deadline=600))
        runs = await follow(ks.watch_workflow_runs(session, [NO_RUN], deadline=600))
    told = {change.workflow_id: change for change in changes if change.kind == "missing"}
    assert list(told) == ["nobody"]
    assert told["nobody"].is_final
    assert told["nobody"].error.names_it
    assert [str(change.kind) for change in runs] == ["missing"]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_what_vanishes_from_a_watch_of_everything_is_missing_only_by_the_apis_own_word(
    dialect,
):
    box, clock = stepped_box(20, dialect=dialect, pipeline_seconds=(4000.0, 4001.0))
    async with box, box.session(clock=clock) as session:
        gone = box.store.ids()[5]
        async with ks.watch_ingestions(session, deadline=900) as watch:
            while not watch.summary.is_complete:
                await watch.next_changes()
            box.store.remove_ingestion(gone)
            proxy = box.faults.add(unnamed(id=gone))
            told = []
            async for change in watch:
                if change.workflow_id in {gone, ""}:
                    told.append(str(change.kind))
                if change.kind == "trouble":
                    proxy.remove()
    assert [kind for kind in told if kind != "recovered"][-1] == "missing"
    assert told.count("missing") == 1
    assert "trouble" in told


async def test_statuses_that_are_polled_until_closed_are_not_ended_by_a_proxys_404():
    box, clock = stepped_box(6)
    async with box, box.session(clock=clock) as session:
        await ks.list_ingestion_workflows(session)
        box.faults.add(unnamed(after=4, times=20))
        ids = box.store.ids()
        poll = ks.poll_workflow_statuses(session, ids, until_closed=True, deadline=600)
        results = [result async for result in poll]
    assert sorted(result.workflow_id for result in results) == sorted(ids)
    assert {result.status and result.status.execution_status for result in results} == {"COMPLETED"}


@pytest.mark.parametrize("which", ["ingestion", "run"])
async def test_a_lone_wait_never_says_that_the_thing_is_missing(which):
    box, clock = stepped_box(3, runs=0, run_watchdog=True)
    run = box.store.add_run("RUNNING", max_run_duration_seconds=40)
    async with box, box.session(clock=clock) as session:
        box.faults.add(unnamed(after=2, times=8))
        try:
            if which == "run":
                ended = await ks.wait_for_workflow_run(session, run.id, deadline=600)
            else:
                ended = await ks.wait_for_ingestion(session, box.store.ids()[0], deadline=600)
        except ks.NotFound as error:
            assert not error.names_it
        else:
            assert ended.is_terminal


async def test_many_lone_waits_never_say_that_the_things_are_missing():
    """More than ten are looked up by the list."""
    box, clock = stepped_box(30)
    async with box, box.session(clock=clock) as session:
        box.faults.add(unnamed(after=2, times=8))
        waits = (ks.wait_for_ingestion(session, one, deadline=600) for one in box.store.ids())
        ended = await asyncio.gather(*waits, return_exceptions=True)
    for one in ended:
        if isinstance(one, Exception):
            assert isinstance(one, ks.RequestError)
            assert not getattr(one, "names_it", False)
        else:
            assert one.is_terminal


# --- a watch of everything where this key doesn't see all that is counted (n24) ---


class Ticks:
    """How many requests each tick of a watch of everything takes: a new one begins after a sleep."""

    def __init__(self, clock):
        self.clock = clock
        self.at = Counter()

    def __call__(self, _request):
        self.at[self.clock.now()] += 1


def hide(box, hidden):
    """Count these in totals, and never show them: this key may not see them."""

    def rewrite(_request, body):
        if isinstance(body, dict) and "items" in body:
            body["items"] = [one for one in body["items"] if one["workflow_id"] not in hidden]
        return body

    box.rewrite_answer = rewrite


@pytest.mark.parametrize("count", [1, 40])
async def test_hidden_items_dont_make_each_look_one_at_everything(count):
    box, clock = stepped_box(
        600, dialect="system-jobs", statuses={"completed": 0.99, "processing": 0.01}
    )
    async with box, box.session(clock=clock, dialect="system-jobs") as session:
        done = box.store.ids("completed")
        hide(box, set(random.Random(3).sample(list(done), count)))
        box.before_request = ticks = Ticks(clock)
        changes = await follow(ks.watch_ingestions(session, deadline=520))
    later = list(ticks.at.values())[5:]
    assert len(later) > 25
    assert sum(later) / len(later) < 4, later  # a look at everything is six requests
    assert_nobody_is_missing(changes)


@pytest.mark.no_cover
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("count", [1, 12])
async def test_what_vanishes_is_told_though_there_are_hidden_items(dialect, count):
    box, clock = stepped_box(240, dialect=dialect, statuses={"completed": 0.98, "processing": 0.02})
    async with box, box.session(clock=clock, dialect=dialect) as session:
        done = list(box.store.ids("completed"))
        hide(box, set(random.Random(3).sample(done[1:], count)))
        gone, told = done[0], []
        box.before_request = ticks = Ticks(clock)
        async with ks.watch_ingestions(session, deadline=900) as watch:
            while not watch.summary.is_complete:
                await watch.next_changes()
            box.store.remove_ingestion(gone)
            ticks.at.clear()
            async for change in watch:
                if change.kind == "missing":
                    told.append(change.workflow_id)
                    break
    assert told == [gone]
    assert len(ticks.at) <= 45


# --- a server that changes its generation ---

MOVES = [
    ("documented", "system-jobs"),
    ("offset", "system-jobs"),
    ("system-jobs", "documented"),
    ("system-jobs", "offset"),
]
every_move = pytest.mark.parametrize(("before", "after"), MOVES, ids=map("-to-".join, MOVES))


@asynccontextmanager
async def upgraded(before, after, count=130, **options):
    """A session that knows a generation, has just had a real 404 of it, and meets another one."""
    options = {"clock": SteppedClock(), "pipeline_seconds": (400.0, 401.0)} | options
    async with Sandbox(ingestions=count, dialect=before, api_key=KEY, **options) as box:
        async with box.session(clock=Stepping(box.clock), chance=random.Random(1)) as session:
            await ks.list_ingestion_workflows(session)
            with pytest.raises(ks.NotFound) as caught:
                await ks.get_ingestion_workflow(session, "nobody")
            assert caught.value.names_it
            box.switch_dialect(after)
            yield box, session


@every_move
async def test_an_upgrade_just_after_a_real_404_is_noticed_by_a_list_at_once(before, after):
    async with upgraded(before, after) as (box, session):
        page = await ks.list_ingestion_workflows(session)
        assert [one.workflow_id for one in page.items] == list(box.store.ids())[:100]
        assert session.dialect == after


@every_move
async def test_an_upgrade_just_after_a_real_404_is_noticed_by_a_walk_at_once(before, after):
    async with upgraded(before, after) as (box, session):
        found = await ks.iter_ingestion_workflows(session)
        assert [one.workflow_id for one in found] == list(box.store.ids())


@every_move
@pytest.mark.parametrize(
    "name", [name for name in CALLS if "run" not in name.split("_") and name != LIST]
)
async def test_an_upgrade_just_after_a_real_404_is_noticed_by_other_calls_soon(before, after, name):
    async with upgraded(before, after) as (box, session):
        for _ in range(10):
            try:
                await CALLS[name](session, box)
            except ks.NotFound as error:
                assert not error.names_it
                await session.clock.sleep(1.0)
            else:
                return
    raise AssertionError("it was not noticed in ten seconds")


@every_move
@pytest.mark.parametrize("count", [3, 40, None], ids=["few", "many", "everything"])
async def test_a_watch_goes_on_through_an_upgrade_just_after_a_real_404(before, after, count):
    running = {"statuses": {"processing": 1.0}, "superseded": 0, "pipeline_seconds": (20.0, 21.0)}
    async with upgraded(before, after, **running) as (box, session):
        ids = None if count is None else box.store.ids()[:count]
        watch = ks.watch_ingestions(session, ids, deadline=300)
        changes = await follow(watch)
    assert_nobody_is_missing(changes)
    ended = Counter(change.workflow_id for change in changes if change.is_final)
    assert set(ended.values()) == {1}
    assert len(ended) == (130 if count is None else count)
    assert watch.summary.missing == 0


@every_move
async def test_an_upgrade_in_the_middle_of_a_watch_ends_nothing(before, after):
    box, clock = stepped_box(30, dialect=before)
    async with box, box.session(clock=clock) as session:
        ids = box.store.ids()[:5]
        async with ks.watch_ingestions(session, [*ids, "nobody"], deadline=300) as watch:
            changes = [await anext(watch) for _ in range(6)]
            box.switch_dialect(after)
            changes += [change async for change in watch]
    missing = {change.workflow_id for change in changes if change.kind == "missing"}
    assert missing == {"nobody"}
    assert {change.workflow_id for change in changes if change.is_final} == {*ids, "nobody"}


async def test_a_404_that_names_the_thing_costs_no_probe_once_the_generation_is_known():
    async with Sandbox(ingestions=20) as box, box.session(clock=FakeClock()) as session:
        await ks.list_ingestion_workflows(session)
        for number in range(20):
            with pytest.raises(ks.NotFound):
                await ks.get_ingestion_workflow(session, f"nobody-{number}")
        assert box.request_counts[LIST] + box.request_counts["no_route"] <= 3


# --- a load balancer in front of two generations ---


@asynccontextmanager
async def balanced(first, second, count=130, seed=0, *, is_known=False):
    """Each request is answered by the one or the other; what they hold is the same."""
    chance = random.Random(f"{seed}:{first}:{second}")
    async with Sandbox(ingestions=count, dialect=first, api_key=KEY) as box:
        async with box.session(clock=FakeClock(), chance=random.Random(seed)) as session:
            if is_known:
                await ks.list_ingestion_workflows(session)
            box.before_request = lambda _request: box.switch_dialect(chance.choice([first, second]))
            yield box, session


PODS = [("documented", "system-jobs"), ("offset", "system-jobs")]
every_pair = pytest.mark.parametrize(("first", "second"), PODS, ids=map("+".join, PODS))


@pytest.mark.no_cover
@every_pair
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("is_known", [True, False], ids=["known", "unknown"])
async def test_between_two_generations_what_exists_is_not_told_to_be_missing(
    first, second, seed, is_known
):
    async with balanced(first, second, seed=seed, is_known=is_known) as (box, session):
        told = []
        for one in box.store.ids()[:40]:
            try:
                told.append((await ks.get_ingestion_workflow(session, one)).workflow_id)
            except ks.RequestError as error:
                told.append(type(error).__name__)
    assert "NotFound" not in told, Counter(map(str, told)).most_common(2)
    assert len(set(told) & set(box.store.ids())) >= 20


@pytest.mark.no_cover
@every_pair
async def test_between_two_generations_gathered_gets_are_not_told_to_be_missing(first, second):
    async with balanced(first, second) as (box, session):
        gets = (ks.get_ingestion_workflow(session, one) for one in box.store.ids())
        told = await asyncio.gather(*gets, return_exceptions=True)
    errors = Counter(type(one).__name__ for one in told if isinstance(one, Exception))
    assert errors["NotFound"] == 0, errors


@pytest.mark.parametrize(("first", "second"), [*PODS, ("documented", "offset")])
@pytest.mark.parametrize("seed", range(5))
async def test_between_two_generations_a_walk_gives_all_of_it_or_a_true_error(first, second, seed):
    async with balanced(first, second, count=430, seed=seed) as (box, session):
        try:
            found = await ks.iter_ingestion_workflows(session, page_size=50)
        except ks.KnowledgeStackError as error:
            assert not isinstance(error, ks.NotFound), error
        else:
            assert [one.workflow_id for one in found] == list(box.store.ids())


@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("first", "second"), [("documented", "offset"), ("offset", "documented"), *PODS]
)
@pytest.mark.parametrize("seed", range(3))
async def test_between_two_generations_no_other_page_is_given_than_was_asked_for(
    first, second, seed
):
    async with balanced(first, second, count=250, seed=seed) as (box, session):
        ids = list(box.store.ids())
        for _ in range(15):
            try:
                page = await ks.list_ingestion_workflows(session, page=3, page_size=50)
            except ks.RequestError as error:
                assert not isinstance(error, ks.NotFound), error
                continue
            assert (page.page, page.page_size, len(page.items)) == (3, 50, 50)
            assert [one.workflow_id for one in page.items] == ids[100:150]


@every_pair
@pytest.mark.parametrize("count", [3, 30])
async def test_between_two_generations_a_watch_ends_each_once_and_nobody_is_missing(
    first, second, count
):
    box, clock = stepped_box(30, dialect=first)
    chance = random.Random(5)
    async with box, box.session(clock=clock, chance=random.Random(5)) as session:
        box.before_request = lambda _request: box.switch_dialect(chance.choice([first, second]))
        changes = await follow(ks.watch_ingestions(session, box.store.ids()[:count], deadline=900))
    assert_nobody_is_missing(changes)
    ended = Counter(change.workflow_id for change in changes if change.is_final)
    assert ended == Counter(box.store.ids()[:count])


@every_pair
async def test_between_two_generations_what_doesnt_exist_is_still_told(first, second):
    """Whichever of them it is that knows the path names the thing."""
    async with balanced(first, second) as (_box, session):
        named = 0
        for number in range(20):
            with pytest.raises(ks.RequestError) as caught:
                await ks.get_ingestion_workflow(session, f"nobody-{number}")
            named += getattr(caught.value, "names_it", False)
        assert named >= 5


async def test_a_pod_that_answers_for_nobody_is_trouble_and_no_end():
    """One of two pods is another service's: half of all requests get its 404."""
    box, clock = stepped_box(30)
    async with box, box.session(clock=clock, chance=random.Random(5)) as session:
        box.faults.add(unnamed(UNNAMED["go"], probability=0.5))
        watch = ks.watch_ingestions(session, box.store.ids()[:20], deadline=1800)
        changes = await follow(watch)
    assert_nobody_is_missing(changes)
    ended = Counter(change.workflow_id for change in changes if change.is_final)
    assert ended == Counter(box.store.ids()[:20])


# --- the command line ---


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path):
    return make_cli(monkeypatch, capsys, tmp_path)


@pytest.mark.parametrize("count", [1, 12])
@pytest.mark.parametrize("command", [("watch", "--interval", "0.1"), ("ingestions", "wait")])
def test_the_command_line_doesnt_say_not_found_for_a_proxys_404(cli, monkeypatch, command, count):
    monkeypatch.setattr(ks.RetryPolicy, "ceiling", lambda _self, _tries: 0.0)
    with served(dialect="offset", ingestions=40, statuses={"completed": 1.0}) as server:
        ids = list(server.store.ids())[:count]
        cli.aim_at(server)
        server.faults.add(unnamed(UNNAMED["ingress"], after=1, times=2))
        result = cli(*command, *ids, "-o", "ndjson", "--dialect", "offset")
    assert "not found" not in result.err.lower()
    assert '"missing"' not in result.out
    assert result.code == 0, result.err
    lines = [json.loads(line) for line in result.out.splitlines()]
    told = [line for line in lines if line.get("current", line.get("status")) == "completed"]
    assert sorted(line["workflow_id"] for line in told) == sorted(ids)


def test_a_dry_run_doesnt_say_of_what_a_proxy_answered_for_that_it_isnt_there(cli, monkeypatch):
    monkeypatch.setattr(ks.RetryPolicy, "ceiling", lambda _self, _tries: 0.0)
    with served(dialect="offset", ingestions=40, statuses={"failed": 1.0}) as server:
        ids = list(server.store.ids())[:3]
        cli.aim_at(server)
        server.faults.add(unnamed(UNNAMED["ingress"], id=ids[1]))
        result = cli("ingestions", "rerun", *ids, "--dry-run", "--dialect", "offset")
    assert "Don't exist" not in result.out
    assert "not found" not in result.err.lower()
    assert result.code != 0
