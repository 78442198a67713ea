"""Watching many at once: changes only, each once, for the fewest requests."""

from __future__ import annotations

import asyncio
import random
import tracemalloc
from collections import Counter, defaultdict
from contextvars import ContextVar
from itertools import pairwise

import pytest

import knowledgestack_async as ks
from knowledgestack_async._codec import pack_ending, pack_summary, unpack_summary
from knowledgestack_async._poller import Observation
from knowledgestack_async.sandbox import Fault, Sandbox, SteppedClock
from support import KEY, Stepping, ids_of

ACTIVE = {"statuses": {"processing": 1.0}, "superseded": 0, "pipeline_seconds": (2.0, 60.0)}


def stepped_box(count: int, **options) -> tuple[Sandbox, Stepping]:
    box_clock = SteppedClock()
    return Sandbox(ingestions=count, clock=box_clock, **(ACTIVE | options)), Stepping(box_clock)


class Ticks:
    """Requests of the list and of single ingestions, tick by tick."""

    def __init__(self, session: ks.Session, box: Sandbox) -> None:
        self.session, self.box = session, box
        self.seen = 0

    def cost(self) -> int:
        routes = ("list_ingestion_workflows", "get_ingestion_workflow")
        now = sum(self.box.request_counts[route] for route in routes)
        spent, self.seen = now - self.seen, now
        return spent


@pytest.mark.no_cover
@pytest.mark.parametrize("dialect", ["documented", "offset", "system-jobs"])
async def test_all_final_changes_arrive_exactly_once_and_changes_once(dialect):
    box, clock = stepped_box(700, dialect=dialect)
    async with box, box.session(clock=clock) as session:
        ids = list(box.store.ids())
        seen = defaultdict(list)
        async with ks.watch_ingestions(session, ids) as watch:
            async for change in watch:
                seen[change.workflow_id].append(change)
            summary = watch.summary
    assert seen.keys() == set(ids)
    for changes in seen.values():
        assert [change.is_final for change in changes] == [False] * (len(changes) - 1) + [True]
        assert len({change.current for change in changes}) == len(changes)
        assert [c.previous for c in changes] == [None, *(c.current for c in changes[:-1])]
        assert changes[-1].state.status == "completed"
    assert summary.counts == {"completed": 700}
    assert (summary.total, summary.finished, summary.missing) == (700, 700, 0)


@pytest.mark.no_cover
@pytest.mark.parametrize("dialect", ["documented", "offset", "system-jobs"])
async def test_a_tick_costs_a_hundredth(dialect):
    box, clock = stepped_box(2000, dialect=dialect, pipeline_seconds=(1000.0, 1001.0))
    async with box, box.session(clock=clock, dialect=dialect) as session:
        ticks = Ticks(session, box)
        poller_ticks = []

        async with ks.watch_ingestions(session, box.store.ids(), deadline=10) as watch:
            box.before_request = lambda _r: poller_ticks.append(watch._poller.ticks)
            async for _ in watch:
                pass
        each = Counter(poller_ticks)
        assert max(each.values()) <= 22
        assert len(each) >= 4
        assert ticks.cost() == len(poller_ticks)


async def test_watching_three_of_many_costs_three():
    box, clock = stepped_box(3000, pipeline_seconds=(1000.0, 1001.0))
    async with box, box.session(clock=clock) as session:
        ids = list(box.store.ids())[:3]
        async with ks.watch_ingestions(session, ids, deadline=8) as watch:
            async for _ in watch:
                pass
            assert len(box.requests) == 3 * watch._poller.ticks
            assert watch.timed_out


async def test_when_many_finish_at_once_a_second_sweep_finds_them():
    box, clock = stepped_box(2000, dialect="system-jobs", pipeline_seconds=(20.0, 21.0))
    async with box, box.session(clock=clock, dialect="system-jobs") as session:
        costs: Counter[int] = Counter()
        async with ks.watch_ingestions(session, box.store.ids()) as watch:
            box.before_request = lambda _r: costs.update([watch._poller.ticks])
            final = [change async for change in watch if change.is_final]
    assert len(final) == 2000
    assert max(costs.values()) <= 44
    assert box.request_counts["get_ingestion_workflow"] <= 20


async def test_fifty_tasks_waiting_for_the_same_cost_one_request_a_tick():
    box, clock = stepped_box(5, pipeline_seconds=(10.0, 12.0))
    async with box, box.session(clock=clock) as session:
        workflow_id = box.store.ids()[0]
        waits = [ks.wait_for_ingestion(session, workflow_id) for _ in range(50)]
        done = await asyncio.gather(*waits)
        assert {one.status for one in done} == {"completed"}
        assert len(box.requests) <= 20


async def test_answers_are_shared_only_by_calls_with_the_same_credential():
    box, clock = stepped_box(5, pipeline_seconds=(10.0, 12.0))
    async with box, box.session(clock=clock, dialect="documented") as session:
        workflow_id = box.store.ids()[0]
        other = session.with_options(api_key="sk-user-other")
        mine = asyncio.create_task(ks.wait_for_ingestion(session, workflow_id))
        with pytest.raises(ks.Unauthorized):
            await ks.wait_for_ingestion(other, workflow_id)
        assert (await mine).is_terminal


async def test_a_key_function_is_asked_in_the_context_of_who_waits():
    secret: ContextVar[str] = ContextVar("secret", default="none")
    seen = set()

    def key() -> str:
        seen.add(secret.get())
        return KEY

    box, clock = stepped_box(3, pipeline_seconds=(3.0, 4.0), api_key=KEY)
    async with box, box.session(clock=clock, api_key=key) as session:
        secret.set("mine")
        await ks.wait_for_ingestion(session, box.store.ids()[0])
    assert seen == {"mine"}


async def test_one_that_doesnt_exist_or_vanishes_is_an_event():
    box, clock = stepped_box(30, pipeline_seconds=(30.0, 40.0))
    async with box, box.session(clock=clock) as session:
        ids = [*box.store.ids(), "nobody"]
        vanishing = ids[3]
        kinds = {}
        async with ks.watch_ingestions(session, ids) as watch:
            async for change in watch:
                if change.kind is ks.ChangeKind.MISSING:
                    kinds[change.workflow_id] = change
                elif change.workflow_id == vanishing:
                    box.store.remove_ingestion(vanishing)
            summary = watch.summary
    assert kinds.keys() == {"nobody", vanishing}
    assert kinds[vanishing].previous == "processing"
    assert all(
        isinstance(change.error, ks.NotFound) and change.is_final for change in kinds.values()
    )
    assert (summary.finished, summary.missing) == (29, 2)


@pytest.mark.parametrize("dialect", ["documented", "system-jobs"])
async def test_a_tenant_is_watched_with_new_arrivals_until_it_is_left(dialect):
    box, clock = stepped_box(150, dialect=dialect, pipeline_seconds=(5.0, 9.0))
    async with box, box.session(clock=clock) as session:
        final = Counter()
        arrived = None
        async with ks.watch_ingestions(session) as watch:
            async for change in watch:
                if change.is_final:
                    final[change.workflow_id] += 1
                if len(final) == 100 and arrived is None:
                    arrived = box.store.add_ingestion().workflow_id
                if arrived in final and len(final) == 151:
                    break
    assert set(final.values()) == {1}


@pytest.mark.parametrize("dialect", ["documented", "system-jobs"])
async def test_failed_rerun_completed_is_seen_as_three_facts(dialect):
    box, clock = stepped_box(
        3, dialect=dialect, statuses={"failed": 1.0}, pipeline_seconds=(0.1, 0.2)
    )
    async with box, box.session(clock=clock) as session:
        workflow_id = box.store.ids()[0]
        facts = []
        async with ks.watch_ingestions(session) as watch:
            async for change in watch:
                if change.workflow_id == workflow_id:
                    facts.append((change.kind, change.current))
                    if change.current == "failed":
                        box.store.rerun(workflow_id)
                    if change.current == "completed":
                        break
    assert facts[0] == ("status", "failed")
    assert ("new_run", None) in facts
    assert facts[-1] == ("status", "completed")


async def test_a_failing_sweep_is_told_once_and_the_watch_goes_on():
    box, clock = stepped_box(40, pipeline_seconds=(60.0, 90.0))
    retry = ks.RetryPolicy(tries=1)
    async with box, box.session(clock=clock, retry=retry) as session:
        outage = None
        ticks = 0
        async with ks.watch_ingestions(session, box.store.ids()) as watch:

            def look(_request: object) -> None:
                nonlocal outage, ticks
                ticks += 1
                if ticks == 3:
                    outage = box.faults.add(Fault("status", status=500))
                elif ticks == 7:  # after the list and one of them, twice
                    outage.remove()

            box.before_request = look
            kinds = [change.kind async for change in watch]
            assert isinstance(watch.summary.last_error, ks.ServerError)
    counts = Counter(kinds)
    assert (counts["trouble"], counts["recovered"]) == (1, 1)
    assert counts["status"] == 80


async def test_trouble_with_one_is_told_once_and_ends_nothing():
    box, clock = stepped_box(4, pipeline_seconds=(20.0, 30.0))
    retry = ks.RetryPolicy(tries=1)
    async with box, box.session(clock=clock, retry=retry) as session:
        first = box.store.ids()[0]
        box.faults.add(Fault("status", status=500, id=first, times=4))
        async with ks.watch_ingestions(session, box.store.ids()) as watch:
            changes = [change async for change in watch if change.workflow_id == first]
    assert [change.kind for change in changes] == ["trouble", "recovered", "status", "status"]


async def test_under_noise_and_churn_still_exactly_once():
    box, clock = stepped_box(600, dialect="documented", pipeline_seconds=(5.0, 60.0), seed=4)
    rng = random.Random(4)
    async with box, box.session(clock=clock, chance=random.Random(4)) as session:
        ids = list(box.store.ids())
        box.faults.add(Fault("status", status=503, probability=0.2))
        box.faults.add(Fault("reset", probability=0.05))
        doomed = rng.sample(ids, 60)

        def churn(_request: object) -> None:
            if rng.random() < 0.5:
                box.store.add_ingestion()
            if doomed and rng.random() < 0.5:
                box.store.remove_ingestion(doomed.pop())

        box.before_request = churn
        final = Counter()
        async with ks.watch_ingestions(session, ids) as watch:
            async for change in watch:
                final[change.workflow_id] += change.is_final
    assert {one: final[one] for one in ids} == dict.fromkeys(ids, 1)


async def test_a_slow_reader_gets_merged_changes():
    box, clock = stepped_box(1, statuses={"pending": 1.0}, pipeline_seconds=(30.0, 31.0))
    async with box, box.session(clock=clock) as session:
        async with ks.watch_ingestions(session, box.store.ids()) as watch:
            while watch.summary.finished == 0:
                await asyncio.sleep(0)
            changes = [change async for change in watch]
    assert len(changes) == 1
    assert (changes[0].previous, changes[0].current, changes[0].merged) == (None, "completed", 2)


async def test_leaving_a_watch_leaves_no_task():
    box, clock = stepped_box(20, pipeline_seconds=(1000.0, 1001.0))
    async with box, box.session(clock=clock) as session:
        level = len(asyncio.all_tasks())
        async with ks.watch_ingestions(session, box.store.ids()) as watch:
            await anext(watch)
        for _ in range(50):
            await asyncio.sleep(0)
        await asyncio.sleep(0.02)
        assert len(asyncio.all_tasks()) <= level + 1  # the sandbox's own, of the kept connection


async def test_the_summary_tells_counts_rate_and_what_is_stalled():
    box, clock = stepped_box(50, pipeline_seconds=(5.0, 900.0))
    async with box, box.session(clock=clock) as session:
        stalled = set()
        async with ks.watch_ingestions(session, box.store.ids()) as watch:
            async for _ in watch:
                summary = watch.summary
                stalled |= set(summary.stalled)
                assert sum(summary.counts.values()) <= summary.total == 50
    assert summary.counts == {"completed": 50}
    assert summary.rate > 0
    assert summary.eta == 0
    assert stalled


async def test_runs_are_watched_until_they_are_over(sandbox, session):
    ids = sandbox.store.runs.ids()
    for run_id in ids:
        if sandbox.store.get_run(run_id).status == "RUNNING":
            await ks.send_workflow_run_callback(session, run_id, "COMPLETED")
    over = [one for one in ids if sandbox.store.get_run(one).status in {"COMPLETED", "FAILED"}]
    async with ks.watch_workflow_runs(session, over) as watch:
        assert {change.workflow_id for change in [c async for c in watch]} == set(over)


async def test_any_workflow_is_polled_until_it_is_closed_or_gone():
    box, clock = stepped_box(12, pipeline_seconds=(5.0, 20.0), forget_closed_after=1.0)
    async with box, box.session(clock=clock) as session:
        ids = [*box.store.ids(), "nobody"]
        async with ks.poll_workflow_statuses(session, ids, until_closed=True) as poll:
            results = {result.workflow_id: result async for result in poll}
        again = ks.poll_workflow_statuses(session, ["nobody"], until_closed=True)
        assert [result.workflow_id async for result in again] == ["nobody"]
    assert results.keys() == set(ids)
    assert isinstance(results["nobody"].error, ks.NotFound)
    for result in results.values():
        assert result.error or result.status.is_terminal


async def some_ids():
    yield "one"


@pytest.mark.parametrize("ids", ["one", b"two", some_ids()], ids=["str", "bytes", "asynchronous"])
async def test_until_closed_needs_an_ordinary_iterable(session, ids):
    with pytest.raises(ks.ConfigurationError, match="iterable"):
        ks.poll_workflow_statuses(session, ids, until_closed=True)


async def test_a_watch_of_nothing_ends_at_once(session):
    async with ks.watch_ingestions(session, []) as watch:
        assert [change async for change in watch] == []


async def test_a_watch_says_how_it_is_used_and_checks_its_arguments(session):
    with pytest.raises(ks.SessionError, match="async with"):
        await anext(ks.watch_ingestions(session, ["a"]))
    for options in ({"deadline": 0}, {"interval": -1}):
        with pytest.raises(ks.ConfigurationError):
            ks.watch_ingestions(session, ["a"], **options)


async def test_ticks_are_never_faster_than_asked():
    box, clock = stepped_box(3, pipeline_seconds=(100.0, 101.0))
    async with box, box.session(clock=clock) as session:
        times = []
        box.before_request = lambda _r: times.append(clock.now())
        ids = box.store.ids()[:1]
        async with ks.watch_ingestions(session, ids, interval=20) as watch:
            _ = [change async for change in watch]
    assert min(b - a for a, b in pairwise(times)) >= 20 - 1e-9


async def test_a_pause_that_the_server_asked_for_goes_first():
    box, clock = stepped_box(3, pipeline_seconds=(100.0, 101.0))
    async with box, box.session(clock=clock) as session:
        box.faults.add(Fault("status", status=429, retry_after=40, times=1, after=1))
        times = []
        box.before_request = lambda _r: times.append(clock.now())
        async with ks.watch_ingestions(session, box.store.ids()[:1]) as watch:
            _ = [change async for change in watch]
    assert max(b - a for a, b in pairwise(times)) >= 40


async def test_an_id_that_is_watched_takes_little_memory():
    async with Sandbox(ingestions=1, record=False) as box, box.session() as session:
        known = (await ks.list_ingestion_workflows(session)).items[0]
        watch = ks.watch_ingestions(session, (), stays_open=True)
        ids = [f"ingest-{number:026}" for number in range(20_000)]
        tracemalloc.start()
        try:
            for one in ids:
                watch._observe(Observation(one, state=known))
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        watch._observe(Observation(ids[0], state=known))  # it is over: nothing is told again
        assert watch.summary.total == len(watch._pending) == 20_000
    # A hundred thousand are to stay under 200 MiB, what waits for a slow reader included.
    assert 100 * 20_000 < held < 1000 * 20_000


async def test_a_few_of_many_are_got_singly_once_it_is_known_how_many_are_active():
    box, clock = stepped_box(3000, dialect="system-jobs", pipeline_seconds=(1000.0, 1001.0))
    async with box, box.session(clock=clock, dialect="system-jobs") as session:
        ids = list(box.store.ids())[1000:1012]
        async with ks.watch_ingestions(session, ids, deadline=8) as watch:
            _ = [change async for change in watch]
            ticks = watch._poller.ticks
    assert box.request_counts["list_ingestion_workflows"] <= 3
    assert box.request_counts["get_ingestion_workflow"] == 12 * ticks


async def test_a_deadline_ends_a_watch_of_a_server_that_says_nothing(sandbox):
    sandbox.faults.add(Fault("silence"))
    async with sandbox.session() as session:
        async with ks.watch_ingestions(session, ["a"], deadline=0.05) as watch:
            assert [change async for change in watch] == []
        assert watch.timed_out


async def test_a_watch_that_stays_open_takes_more_even_before_it_is_entered():
    box, clock = stepped_box(3, pipeline_seconds=(1.0, 2.0))
    async with box, box.session(clock=clock) as session:
        watch = ks.watch_ingestions(session, (), stays_open=True)
        watch.add(box.store.ids()[0])
        async with watch:
            watch.add(box.store.ids()[1])
            final = set()
            async for change in watch:
                final |= {change.workflow_id} if change.is_final else set()
                if len(final) == 2:
                    break


async def test_one_that_is_gone_is_told_once_in_a_watch_of_everything():
    async with Sandbox(ingestions=1) as box, box.session() as session:
        watch = ks.watch_ingestions(session)
        gone = Observation("nobody", error=ks.NotFound("gone", names_it=True))
        broken = Observation("other", error=ks.ServerError("broken"))
        for seen in (gone, gone, broken, broken):
            watch._observe(seen)
        watch._subscription = None
        changes = [watch._pending.take() for _ in range(2)]
        assert [change.kind for change in changes] == ["missing", "trouble"]
        assert changes[0].merged == 0


async def test_a_summary_tells_whether_all_were_looked_at(session):
    async with ks.watch_ingestions(session) as watch:
        assert not watch.summary.is_complete
        while not watch.summary.is_complete:
            await asyncio.sleep(0.001)
        assert watch.summary.total == 50
    async with ks.watch_ingestions(session, []) as nothing:
        assert nothing.summary.is_complete


HALF_FAILED = {"statuses": {"processing": 0.5, "failed": 0.5}, "pipeline_seconds": (5.0, 100.0)}


async def test_a_watch_of_everything_sees_everything_beside_another_watch():
    box, clock = stepped_box(300, dialect="system-jobs", **HALF_FAILED)
    async with box, box.session(clock=clock) as session:
        final = Counter()
        async with ks.watch_ingestions(session, box.store.ids()) as some:
            for _ in range(200):
                await anext(some)
            async with ks.watch_ingestions(session, deadline=400) as everything:
                async for change in everything:
                    final[change.workflow_id] += change.is_final
        assert final == Counter(box.store.ids())


async def test_a_watch_of_everything_misses_nothing_while_its_sweeps_fail_and_items_come_and_go():
    box, clock = stepped_box(600, dialect="system-jobs", **HALF_FAILED, seed=3)
    rng = random.Random(3)
    async with box, box.session(clock=clock, retry=ks.RetryPolicy(tries=1)) as session:
        box.faults.add(Fault("status", route="list*", status=500, probability=0.3))
        doomed = rng.sample(box.store.ids(), 100)

        def churn(_request: object) -> None:
            if doomed:
                box.store.remove_ingestion(doomed.pop())
                box.store.add_ingestion()

        box.before_request = churn
        final = Counter()
        async with ks.watch_ingestions(session, deadline=600) as watch:
            async for change in watch:
                final[change.workflow_id] += change.is_final
        ids = box.store.ids()
    assert {one: final[one] for one in ids} == dict.fromkeys(ids, 1)


async def test_leaving_a_watch_ends_what_it_asks_for(sandbox):
    sandbox.faults.add(Fault("silence", after=3))
    ids = ids_of(sandbox, "processing")[:3]
    async with sandbox.session() as session:
        level = len(asyncio.all_tasks())
        async with ks.watch_ingestions(session, ids) as watch:
            await anext(watch)
            while session.stats.in_flight < 3:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert session.stats.in_flight == 0
        assert len(asyncio.all_tasks()) <= level + 4  # the sandbox's own, of its connections
        sandbox.faults.clear()
        async with ks.watch_ingestions(session, ids, deadline=5) as watch:
            assert (await anext(watch)).current


async def test_whoever_comes_while_the_last_one_leaves_is_served(sandbox, session):
    ids = sandbox.store.ids()[:3]
    for _ in range(5):
        async with ks.watch_ingestions(session, ids):
            await asyncio.sleep(0)
    async with ks.watch_ingestions(session, ids) as watch:
        assert (await anext(watch)).workflow_id in ids


@pytest.mark.parametrize("dialect", ["documented", "system-jobs"])
async def test_what_was_over_and_vanishes_is_told_in_a_watch_of_everything(dialect):
    options = {"dialect": dialect, "statuses": {"completed": 1.0}}
    box, clock = stepped_box(230, **options)
    async with box, box.session(clock=clock, dialect=dialect) as session:
        ids = list(box.store.ids())
        gone = set(ids[5:225:20])
        async with ks.watch_ingestions(session, interval=1) as watch:
            seen = [await anext(watch) for _ in ids]
            watch._subscription.wanted.add(ids[0])  # as if a sweep had missed it
            for one in gone:
                box.store.remove_ingestion(one)
            missing = [await anext(watch) for _ in gone]
            await asyncio.sleep(0.05)
            assert watch.summary.counts == {"completed": 230 - len(gone), "missing": len(gone)}
            assert len(watch._pending) == 0
            assert watch._subscription.wanted == set()
    assert all(change.is_final for change in seen)
    assert {change.workflow_id for change in missing} == gone
    assert {change.kind for change in missing} == {"missing"}
    assert not any(change.is_final for change in missing)


@pytest.mark.parametrize("dialect", ["offset", "system-jobs"])
async def test_beside_a_watch_of_everything_many_cost_no_request_each(dialect):
    box, clock = stepped_box(600, dialect=dialect, statuses={"completed": 1.0})
    async with box, box.session(clock=clock, dialect=dialect) as session:
        async with ks.watch_ingestions(session) as everything:
            _ = [await anext(everything) for _ in range(600)]
            while everything._subscription.seen_until is None:
                await asyncio.sleep(0)
            whole = everything._subscription
            async with ks.watch_ingestions(session, box.store.ids()) as watch:
                whole.due_at = whole.not_before = clock.now()  # so that one tick serves both
                final = {change.workflow_id async for change in watch if change.is_final}
    assert final == set(box.store.ids())
    assert box.request_counts["get_ingestion_workflow"] == 0


async def test_an_interval_holds_beside_a_watch_that_looks_more_often():
    box, clock = stepped_box(40, pipeline_seconds=(300.0, 400.0))
    async with box, box.session(clock=clock) as session:
        slow, quick = list(box.store.ids())[:20], list(box.store.ids())[20:]
        times: list[float] = []
        async with (
            ks.watch_ingestions(session, slow, interval=10, deadline=200) as rare,
            ks.watch_ingestions(session, quick, deadline=200) as often,
        ):
            serve = rare._subscription.on_tick

            def on_tick(*told):
                times.append(clock.now())
                serve(*told)

            rare._subscription.on_tick = on_tick
            _ = [change async for change in often]
    assert len(times) > 5
    assert min(b - a for a, b in pairwise(times)) >= 10 - 1e-9


async def test_an_outage_is_one_event_also_where_there_are_few():
    box, clock = stepped_box(3, pipeline_seconds=(100.0, 101.0))
    retry = ks.RetryPolicy(tries=1)
    async with box, box.session(clock=clock, retry=retry) as session:
        box.faults.add(Fault("status", status=500, after=3, times=6))
        async with ks.watch_ingestions(session, box.store.ids()) as watch:
            told = [(change.kind, change.workflow_id) async for change in watch]
    assert [one for one in told if one[0] in {"trouble", "recovered"}] == [
        ("trouble", ""),
        ("recovered", ""),
    ]


async def test_what_waits_for_a_slow_reader_is_packed_and_comes_back_whole():
    box, clock = stepped_box(1_300, dialect="system-jobs", statuses={"completed": 1.0})
    async with box, box.session(clock=clock, dialect="system-jobs") as session:
        async with ks.watch_ingestions(session, box.store.ids()) as watch:
            while watch.summary.finished < 1_300:
                await asyncio.sleep(0)
            kept = [news.state for news in watch._pending._news.values()]
            changes = [change async for change in watch]
        walked = {item.workflow_id: item async for item in ks.iter_ingestion_workflows(session)}
        detail = await ks.get_ingestion_workflow(session, box.store.ids()[0])
    assert sum(isinstance(state, bytes) for state in kept) == 300
    assert {change.workflow_id: change.state for change in changes} == walked
    assert all(change.state.raw == walked[change.workflow_id].raw for change in changes)
    assert unpack_summary(pack_summary(detail)) == detail
    assert unpack_summary(pack_ending(detail)).status == detail.status
