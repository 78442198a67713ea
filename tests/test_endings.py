"""Whoever waits is told: of a poller that can't go on, of a session that closes, of a deadline."""

import asyncio
import gc
import random
from uuid import UUID

import pytest

import knowledgestack_async as ks
from knowledgestack_async.sandbox import Fault, Sandbox, SteppedClock
from support import KEY, FakeClock, Stepping

SOON = 5.0


def key_that_fails(at, error):
    """A key function that raises at one of its calls."""
    asked = 0

    def give():
        nonlocal asked
        asked += 1
        if asked == at:
            raise error
        return KEY

    return give


def busy_box(count, **options):
    """Ingestions that run for long, on a clock that is moved by hand."""
    clock = SteppedClock()
    options = {"statuses": {"processing": 1.0}, "superseded": 0, "api_key": KEY} | options
    box = Sandbox(ingestions=count, clock=clock, pipeline_seconds=(1000.0, 1001.0), **options)
    return box, Stepping(clock)


# A key function that raises


async def test_a_key_function_that_raises_is_an_error_of_ours_with_its_cause(sandbox):
    away = OSError("the vault is away")
    async with ks.Session(key_that_fails(1, away), sandbox.base_url) as session:
        with pytest.raises(ks.CredentialError, match="raised OSError") as caught:
            await ks.list_ingestion_workflows(session)
        assert caught.value.__cause__ is away
        assert caught.value.path.endswith("/document_versions")
        assert (await ks.list_ingestion_workflows(session)).total == 50
    assert len(sandbox.requests) == 1


@pytest.mark.parametrize(
    ("count", "told"),
    # As many as are read singly where the list can't be read are all seen all the same.
    [(30, []), (120, ["trouble", "recovered"])],
)
async def test_a_key_function_that_raises_once_ends_no_watch(count, told):
    box, clock = busy_box(count)
    async with box:
        key = key_that_fails(3, OSError("away"))
        async with ks.Session(key, box.base_url, clock=clock, dialect="documented") as session:
            async with ks.watch_ingestions(session, box.store.ids(), deadline=30) as watch:
                kinds = [change.kind async for change in watch if not change.workflow_id]
    assert kinds == told


async def test_a_key_function_that_raises_once_fails_no_item_of_a_bulk_rerun(tmp_path):
    failed = {"statuses": {"failed": 1.0}, "superseded": 0, "api_key": KEY}
    async with Sandbox(ingestions=20, **failed) as box:
        ids = box.store.ids()
        key = key_that_fails(6, OSError("away"))
        options = {"dialect": "documented", "clock": FakeClock(), "chance": random.Random(1)}
        async with ks.Session(key, box.base_url, **options) as session:
            async with ks.rerun_ingestions(session, ids, journal=tmp_path / "j") as job:
                report = await job.finish()
    assert report.counts == {"accepted": 20}


# A poller that nobody foresaw ending


async def test_what_nobody_foresaw_ends_all_waits_and_not_the_next(sandbox, session):
    watch = ks.watch_ingestions(session, sandbox.store.ids("completed")[:3])

    def break_it(*_):
        raise LookupError("unforeseen")

    async with watch:
        watch._subscription.on_observation = break_it
        async with asyncio.timeout(SOON):
            with pytest.raises(LookupError, match="unforeseen"):
                await anext(watch)
    done = sandbox.store.ids("completed")[0]
    async with asyncio.timeout(SOON):
        assert (await ks.wait_for_ingestion(session, done)).is_terminal


# Closing


@pytest.mark.parametrize(
    "wait",
    [
        ks.wait_for_ingestion,
        lambda session, id_: anext(
            aiter(ks.poll_workflow_statuses(session, [id_], until_closed=True))
        ),
        lambda session, _id: anext(aiter(ks.poll_workflow_statuses(session, never_comes()))),
    ],
    ids=["wait", "until closed", "slow source"],
)
async def test_closing_the_session_ends_every_wait_with_an_error(wait):
    box, _ = busy_box(3)
    async with box:
        async with box.session(clock=FakeClock()) as session:
            waiting = asyncio.ensure_future(wait(session, box.store.ids()[0]))
            await asyncio.sleep(0.05)
            assert not waiting.done()
        async with asyncio.timeout(SOON):
            with pytest.raises(ks.SessionError, match="closed"):
                await waiting


async def never_comes():
    await asyncio.Event().wait()
    yield "x"


@pytest.mark.parametrize("steps", range(6))
async def test_cancelling_while_it_closes_leaves_no_connection_open(sandbox, steps):
    session = sandbox.session()

    async def use():
        async with session:
            poll = ks.poll_workflow_statuses(session, sandbox.store.ids())
            await anext(poll)
            closing.set()

    closing = asyncio.Event()
    using = asyncio.create_task(use())
    await closing.wait()
    pools = session._core.transport._pooled, session._core.transport._single
    for _ in range(steps):
        await asyncio.sleep(0)
    using.cancel()
    await asyncio.wait([using])
    async with asyncio.timeout(SOON):
        while not all(pool.closed for pool in pools):
            await asyncio.sleep(0)


async def test_a_poll_needs_an_open_session(sandbox):
    session = sandbox.session()
    with pytest.raises(ks.SessionError, match="not open"):
        await anext(ks.poll_workflow_statuses(session, sandbox.store.ids()))
    async with session:
        poll = ks.poll_workflow_statuses(session, sandbox.store.ids())
    with pytest.raises(ks.SessionError, match="closed"):
        await anext(poll)


# Deadlines of what takes more than one request


async def test_a_deadline_holds_for_reading_and_cancelling_together(sandbox):
    id_ = sandbox.store.ids("processing")[0]
    sandbox.faults.add(Fault("latency", route="get_workflow_status", seconds=0.2))
    sandbox.faults.add(Fault("silence", route="cancel_workflow"))
    async with sandbox.session(deadline=0.3) as session:
        began = asyncio.get_running_loop().time()
        with pytest.raises(ks.OutcomeUnknown):
            await ks.cancel_workflow(session, id_, check=True)
        assert asyncio.get_running_loop().time() - began < 0.45


async def test_a_deadline_holds_for_a_list_that_has_to_be_asked_twice():
    async with Sandbox(ingestions=30, dialect="offset", api_key=KEY) as box:
        box.faults.add(Fault("latency", seconds=0.2, times=1))
        box.faults.add(Fault("silence", after=1))
        async with box.session(dialect="auto", deadline=0.3) as session:
            began = asyncio.get_running_loop().time()
            with pytest.raises(ks.DeadlineExceeded):
                await ks.list_ingestion_workflows(session, page=2, page_size=5)
            assert asyncio.get_running_loop().time() - began < 0.45


async def test_a_wait_that_the_list_ended_gives_the_whole_detail():
    async with Sandbox(ingestions=40, statuses={"completed": 1.0}, api_key=KEY) as box:
        ids = box.store.ids()[:20]
        async with box.session() as session:
            done = await asyncio.gather(*(ks.wait_for_ingestion(session, one) for one in ids))
        assert [one.workflow_id for one in done] == ids
        assert {type(one) for one in done} == {ks.WorkflowDetailResponse}
        assert box.request_counts["list_ingestion_workflows"] == 1
        assert box.request_counts["get_ingestion_workflow"] == 20


async def test_a_wait_that_the_list_ended_keeps_its_deadline_for_the_detail():
    async with Sandbox(ingestions=40, statuses={"completed": 1.0}, api_key=KEY) as box:
        box.faults.add(Fault("silence", route="get_ingestion_workflow"))
        ids = box.store.ids()[:20]
        async with box.session() as session:
            waits = [ks.wait_for_ingestion(session, one, deadline=0.4) for one in ids]
            async with asyncio.timeout(SOON):
                errors = await asyncio.gather(*waits, return_exceptions=True)
    assert {type(error) for error in errors} == {ks.DeadlineExceeded}
    assert all(error.last.status == "completed" for error in errors)


async def test_a_wait_gives_an_end_even_if_it_was_started_again_before_the_detail_was_read():
    box_clock = SteppedClock()
    options = {"statuses": {"completed": 1.0}, "superseded": 0, "api_key": KEY}
    box = Sandbox(ingestions=40, clock=box_clock, pipeline_seconds=(3.0, 4.0), **options)
    async with box, box.session(clock=Stepping(box_clock)) as session:
        ids = box.store.ids()[:20]
        started = set()

        def start_again(request):
            if request.route == "get_ingestion_workflow" and request.id not in started:
                started.add(request.id)
                box.store.rerun(request.id)

        box.before_request = start_again
        async with asyncio.timeout(20):
            done = await asyncio.gather(*(ks.wait_for_ingestion(session, one) for one in ids))
    assert all(one.is_terminal for one in done)
    assert started >= set(ids)


async def test_a_wait_with_next_to_no_deadline_ends_at_once():
    async with Sandbox(ingestions=40, statuses={"completed": 1.0}, api_key=KEY) as box:
        async with box.session(deadline=1e-9) as session:
            with pytest.raises(ks.DeadlineExceeded):
                await ks.wait_for_ingestion(session, box.store.ids()[0])


async def test_a_view_leaves_its_impatience_to_nobody(sandbox):
    done = sandbox.store.ids("completed")
    async with sandbox.session() as session:
        hurried = session.with_options(timeout=0.02, retry=ks.RetryPolicy(tries=1))
        await ks.wait_for_ingestion(hurried, done[0])
        sandbox.faults.add(Fault("latency", seconds=0.1))
        assert (await ks.wait_for_ingestion(session, done[1])).is_terminal


async def test_pollers_of_keys_that_are_gone_are_gone(sandbox, session):
    done = sandbox.store.ids("completed")[0]
    for number in range(20):
        view = session.with_options(headers={"X-Tenant": str(number)})
        await ks.wait_for_ingestion(view, done)
    await asyncio.sleep(0)
    gc.collect()
    assert len(session._core.shared) <= 2


# Watches


async def test_what_is_added_to_a_watch_is_checked(session):
    async with ks.watch_ingestions(session, [], stays_open=True, deadline=0.01) as watch:
        with pytest.raises(ks.ConfigurationError, match="could reach another route"):
            watch.add("../../workflow-runs")
        watch.add(UUID(int=7))
        assert watch.unfinished == ["00000000-0000-0000-0000-000000000007"]


async def test_a_watch_is_used_once(sandbox, session):
    async with ks.watch_ingestions(session, sandbox.store.ids("completed")[:1]) as watch:
        assert [change.is_final async for change in watch] == [True]
    with pytest.raises(ks.SessionError, match="used once"):
        async with watch:
            pass


async def test_what_is_added_is_looked_for_soon_and_not_at_the_pace_of_what_is_old():
    box, clock = busy_box(2)
    async with box, box.session(clock=clock) as session:
        first, second = box.store.ids()
        async with ks.watch_ingestions(session, [first], stays_open=True) as watch:
            subscription = watch._subscription
            while subscription.interval < 10:
                await asyncio.sleep(0)
            watch.add(second)
            assert subscription.interval == subscription.pace.first
            assert subscription.due_at <= subscription.not_before


async def test_of_statuses_until_closed_those_that_are_late_are_told_as_late():
    box, clock = busy_box(4)
    async with box, box.session(clock=clock) as session:
        ids = box.store.ids()
        poll = ks.poll_workflow_statuses(session, ids, until_closed=True, deadline=20)
        results = [result async for result in poll]
    assert sorted(result.workflow_id for result in results) == sorted(ids)
    assert {type(result.error) for result in results} == {ks.DeadlineExceeded}


async def test_a_break_out_of_statuses_until_closed_ends_what_it_asks_for():
    options = {"statuses": {"processing": 0.5, "completed": 0.5}, "superseded": 0, "api_key": KEY}
    box = Sandbox(ingestions=20, pipeline_seconds=(1000.0, 1001.0), clock=SteppedClock(), **options)
    async with box, box.session(clock=FakeClock()) as session:
        async for _ in ks.poll_workflow_statuses(session, box.store.ids(), until_closed=True):
            break
        await asyncio.sleep(0.05)
        asked = len(box.requests)
        await asyncio.sleep(0.05)
        assert len(box.requests) == asked


# Several readers of one


async def test_two_readers_of_a_poll_get_each_id_once_between_them(sandbox, session):
    ids = sandbox.store.ids()
    poll = ks.poll_workflow_statuses(session, ids)
    got = []

    async def read():
        async for result in poll:
            got.append(result.workflow_id)
            await asyncio.sleep(0)

    async with asyncio.timeout(SOON):
        await asyncio.gather(read(), read(), read())
    assert sorted(got) == sorted(ids)


@pytest.mark.parametrize("prefetch", [None, 0, 3])
async def test_two_readers_of_a_walk_get_each_item_once_between_them(sandbox, session, prefetch):
    walk = ks.iter_ingestion_workflows(session, page_size=7, prefetch=prefetch)
    got = []

    async def read():
        async for item in walk:
            got.append(item.workflow_id)
            await asyncio.sleep(0)

    async with asyncio.timeout(SOON):
        await asyncio.gather(read(), read())
    assert sorted(got) == sorted(sandbox.store.ids())


async def test_what_others_found_is_not_lost_with_the_error_of_one(session):
    async def read(workflow_id):
        if workflow_id == "odd":
            raise LookupError(workflow_id)

    poll = ks.poll_workflow_statuses(session, ["a", "odd", "b"])
    poll._read = read
    with pytest.raises(LookupError):
        await anext(poll)
    left = [result.workflow_id async for result in poll]
    assert sorted(left) == ["a", "b"]
