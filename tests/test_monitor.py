"""Waiting for one thing, and polling many."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import attrs
import pytest

import knowledgestack_async as ks
from knowledgestack_async.sandbox import Fault, Sandbox, SteppedClock
from support import ids_of, run_id_of


class TickingClock:
    """A session's clock whose sleeps move the sandbox's time too."""

    def __init__(self, sandbox_clock: SteppedClock) -> None:
        self.sandbox_clock = sandbox_clock
        self.time = 0.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds
        self.sandbox_clock.advance(seconds)
        await asyncio.sleep(0)

    def timeout(self, seconds: float | None):
        return asyncio.timeout(None if seconds is None else 5)


@pytest.fixture
async def stepped():
    sandbox_clock = SteppedClock()
    async with Sandbox(ingestions=40, runs=4, clock=sandbox_clock) as sandbox:
        clock = TickingClock(sandbox_clock)
        async with sandbox.session(clock=clock) as session:
            yield sandbox, session, clock


async def test_waiting_gives_the_terminal_detail(stepped):
    sandbox, session, clock = stepped
    seen = []
    workflow_id = ids_of(sandbox, "pending")[0]
    done = await ks.wait_for_ingestion(session, workflow_id, on_change=seen.append)
    assert done.status == "completed"
    assert done.is_terminal
    assert seen[0].status == "pending"
    assert seen[-1] == done
    assert clock.slept == sorted(clock.slept) or len(clock.slept) < 30
    assert sandbox.request_counts["get_ingestion_workflow"] == len(clock.slept) + 1


async def test_intervals_grow_with_jitter_up_to_a_bound(stepped):
    sandbox, session, clock = stepped
    sandbox.store.set_status(ids_of(sandbox, "processing")[0], "processing")
    run_id = run_id_of(sandbox, "PENDING")
    with pytest.raises(ks.DeadlineExceeded):
        await ks.wait_for_workflow_run(session, run_id, deadline=600)
    assert clock.slept[0] < 0.7
    assert 11 < max(clock.slept) < 19
    assert len(set(clock.slept)) > 20


async def test_an_old_outcome_is_not_taken_for_the_new(stepped):
    sandbox, session, _clock = stepped
    workflow_id = ids_of(sandbox, "failed")[0]
    before = await ks.get_ingestion_workflow(session, workflow_id)
    assert (await ks.wait_for_ingestion(session, workflow_id)).status == "failed"
    await ks.rerun_ingestion_workflow(session, workflow_id)
    done = await ks.wait_for_ingestion(session, workflow_id, after=before)
    assert done.status == "completed"
    assert done.last_run_timestamp > before.last_run_timestamp


@pytest.mark.parametrize("dialect", ["documented", "system-jobs"])
async def test_an_old_outcome_that_still_shows_after_a_rerun_is_waited_out(dialect):
    sandbox_clock = SteppedClock()
    options = {"dialect": dialect, "stale_after_rerun": 3, "stale_detail": True}
    async with Sandbox(ingestions=40, clock=sandbox_clock, **options) as sandbox:
        async with sandbox.session(clock=TickingClock(sandbox_clock)) as session:
            workflow_id = ids_of(sandbox, "failed")[0]
            before = await ks.get_ingestion_workflow(session, workflow_id)
            await ks.rerun_ingestion_workflow(session, workflow_id)
            assert (await ks.get_ingestion_workflow(session, workflow_id)).status == "failed"
            done = await ks.wait_for_ingestion(session, workflow_id, after=before)
    assert done.status == "completed"


async def test_a_deadline_holds_what_was_seen_last(stepped):
    sandbox, session, _clock = stepped
    with pytest.raises(ks.DeadlineExceeded) as caught:
        await ks.wait_for_workflow_run(session, run_id_of(sandbox, "PENDING"), deadline=5)
    assert caught.value.last.status == "PENDING"
    assert isinstance(caught.value, TimeoutError)


async def test_a_deadline_is_kept_when_the_server_says_nothing(sandbox):
    async with sandbox.session() as session:
        sandbox.faults.add(Fault("silence", after=1))
        with pytest.raises(ks.DeadlineExceeded) as caught:
            await ks.wait_for_workflow_run(session, run_id_of(sandbox), deadline=0.6)
    assert caught.value.last.status == "RUNNING"


async def test_the_sessions_own_deadline_is_not_the_waits(sandbox):
    sandbox.faults.add(Fault("silence"))
    async with sandbox.session(deadline=0.02) as session:
        with pytest.raises(ks.DeadlineExceeded) as caught:
            await ks.wait_for_workflow_run(session, run_id_of(sandbox))
    assert caught.value.last is None


async def test_an_error_ends_the_wait(stepped):
    _sandbox, session, _clock = stepped
    with pytest.raises(ks.NotFound):
        await ks.wait_for_ingestion(session, "nobody", deadline=5)
    with pytest.raises(ks.ConfigurationError, match="deadline"):
        await ks.wait_for_ingestion(session, "nobody", deadline=0)


async def test_a_run_is_waited_for(stepped):
    sandbox, session, _clock = stepped
    assert (await ks.wait_for_workflow_run(session, run_id_of(sandbox, "FAILED"))).is_terminal


async def test_polling_answers_each_id_once_with_a_status_or_an_error(sandbox, session):
    ids = [*ids_of(sandbox, "failed"), "nobody", "a/b"]
    async with ks.poll_workflow_statuses(session, ids, concurrency=3) as poll:
        results = {result.workflow_id: result async for result in poll}
    assert results.keys() == set(ids)
    assert isinstance(results["nobody"].error, ks.NotFound)
    assert isinstance(results["a/b"].error, ks.ConfigurationError)
    assert all(
        results[one].status.execution_status == "FAILED" for one in ids_of(sandbox, "failed")
    )


async def test_polling_keeps_to_its_concurrency(sandbox):
    sandbox.faults.add(Fault("latency", seconds=0.005))
    async with sandbox.session() as session:
        async with ks.poll_workflow_statuses(
            session, ids_of(sandbox, "failed"), concurrency=4
        ) as poll:
            _ = [result async for result in poll]
    assert sandbox.max_in_flight == 4


async def test_polling_takes_ids_as_they_come_and_holds_only_what_is_in_flight(sandbox, session):
    known = ids_of(sandbox, "failed")
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield known[0]

    async with ks.poll_workflow_statuses(session, endless(), concurrency=5) as poll:
        for _ in range(40):
            await anext(poll)
    assert taken <= 45


async def test_polling_takes_an_asynchronous_source_that_waits_for_answers(sandbox, session):
    known = ids_of(sandbox, "failed")[:5]
    answered = asyncio.Semaphore(1)

    async def one_after_the_other():
        for workflow_id in known:
            await answered.acquire()
            yield workflow_id

    got = []
    async for result in ks.poll_workflow_statuses(session, one_after_the_other()):
        got.append(result.workflow_id)
        answered.release()
    assert got == known


async def test_an_error_of_the_source_comes_up(session):
    async def broken():
        yield "x"
        raise LookupError("no more")

    with pytest.raises(LookupError):
        async for _ in ks.poll_workflow_statuses(session, broken(), concurrency=2):
            pass


async def test_leaving_a_poll_ends_its_tasks(sandbox):
    sandbox.faults.add(Fault("silence"))

    async def never():
        await asyncio.Event().wait()
        yield "x"

    async with sandbox.session() as session:
        level = len(asyncio.all_tasks())
        async with ks.poll_workflow_statuses(session, ["a", "b"]) as poll:
            asking = asyncio.create_task(anext(poll))
            await asyncio.sleep(0.01)
            asking.cancel()
        async with ks.poll_workflow_statuses(session, never()) as poll:
            asking2 = asyncio.create_task(anext(poll))
            await asyncio.sleep(0)
            asking2.cancel()
        await asyncio.gather(asking, asking2, return_exceptions=True)
        await asyncio.sleep(0.01)
        assert len(asyncio.all_tasks()) <= level + 2  # the sandbox's two silent answers
        assert session.stats.in_flight == 0


@pytest.mark.parametrize(("ids", "concurrency"), [("one", 5), ([], 0), ([], True), (b"x", 1)])
async def test_arguments_of_a_poll_that_make_no_sense_are_refused(session, ids, concurrency):
    with pytest.raises(ks.ConfigurationError):
        ks.poll_workflow_statuses(session, ids, concurrency=concurrency)


async def test_a_newer_run_is_told_by_its_time_or_by_a_state_that_moved_on(stepped):
    from knowledgestack_async.monitor import is_newer_run

    sandbox, session, _clock = stepped
    old = await ks.get_ingestion_workflow(session, ids_of(sandbox, "failed")[0])
    moved = old.last_state_update_timestamp + timedelta(seconds=1)
    assert not is_newer_run(old, old)
    assert is_newer_run(attrs.evolve(old, last_run_timestamp=moved), old)
    assert not is_newer_run(old, attrs.evolve(old, last_run_timestamp=moved))
    cancelled = attrs.evolve(old, status=ks.IngestionStatus.CANCELLED)
    assert not is_newer_run(cancelled, old)
    assert is_newer_run(attrs.evolve(cancelled, last_state_update_timestamp=moved), old)
    again = attrs.evolve(old, last_state_update_timestamp=moved)
    assert not is_newer_run(again, old)
    assert is_newer_run(attrs.evolve(again, run_id="2"), attrs.evolve(old, run_id="1"))


async def test_cancelling_what_is_over_is_noticed_before_anything_is_sent(sandbox, session):
    over, going = ids_of(sandbox, "failed")[0], ids_of(sandbox, "processing")[0]
    with pytest.raises(ks.AlreadyFinished) as caught:
        await ks.cancel_workflow(session, over, check=True)
    assert caught.value.last.execution_status == "FAILED"
    assert sandbox.request_counts["cancel_workflow"] == 0
    answer = await ks.cancel_workflow(session, going, check=True)
    assert answer.workflow_id == going
    assert [effect.kind for effect in sandbox.effects] == ["cancel"]


@pytest.mark.parametrize("workflow_id", ["document_versions"])
async def test_ids_that_would_reach_the_list_are_refused(session, workflow_id):
    for call in (ks.get_workflow_status, ks.cancel_workflow):
        with pytest.raises(ks.ConfigurationError, match="list of ingestions"):
            await call(session, workflow_id)
