"""Watching at full size: ten thousand at once, tick by tick, in noise; a hundred thousand in memory."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
from peak import peak_of

import knowledgestack_async as ks
from knowledgestack_async.sandbox import Fault, Sandbox, SteppedClock
from support import Stepping

DIALECTS = ("documented", "offset", "system-jobs")
MANY = 10_000


def ten_thousand(seconds: tuple[float, float], **options) -> tuple[Sandbox, Stepping]:
    box_clock = SteppedClock()
    options = {"statuses": {"processing": 1.0}, "superseded": 0} | options
    box = Sandbox(ingestions=MANY, clock=box_clock, pipeline_seconds=seconds, **options)
    return box, Stepping(box_clock)


def count_by_tick(box: Sandbox, watch: ks.Watch) -> Counter[int]:
    """The requests of each tick, as the sandbox counts them."""
    costs: Counter[int] = Counter()
    box.before_request = lambda _request: costs.update([watch._poller.ticks])
    return costs


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_all_final_changes_arrive_exactly_once(dialect):
    box, clock = ten_thousand((2.0, 300.0), dialect=dialect)
    async with box, box.session(clock=clock, dialect=dialect) as session:
        final: Counter[str] = Counter()
        async with ks.watch_ingestions(session, box.store.ids()) as watch:
            costs = count_by_tick(box, watch)
            async for change in watch:
                final[change.workflow_id] += change.is_final
        assert final == Counter(box.store.ids())
    print(
        f"{dialect}: {len(costs)} ticks, {sum(costs.values())} requests, at most {max(costs.values())}"
    )
    assert max(costs.values()) <= 2 * 102


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_tick_costs_what_it_should(dialect):
    box, clock = ten_thousand((1000.0, 1001.0), dialect=dialect)
    async with box, box.session(clock=clock, dialect=dialect) as session:
        async with ks.watch_ingestions(session, box.store.ids(), deadline=30) as watch:
            all_of_them = count_by_tick(box, watch)
            _ = [change async for change in watch]
        async with ks.watch_ingestions(session, box.store.ids()[:3], deadline=30) as watch:
            before = watch._poller.ticks
            three = count_by_tick(box, watch)
            _ = [change async for change in watch]
        assert len(three) == watch._poller.ticks - before
    print(f"{dialect}: {max(all_of_them.values())} for all, {max(three.values())} for three")
    assert len(all_of_them) >= 4
    assert max(all_of_them.values()) <= 102
    assert set(three.values()) == {3}


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_when_all_finish_at_once_it_costs_two_sweeps(dialect):
    box, clock = ten_thousand((20.0, 20.5), dialect=dialect)
    async with box, box.session(clock=clock, dialect=dialect) as session:
        async with ks.watch_ingestions(session, box.store.ids()) as watch:
            costs = count_by_tick(box, watch)
            final = Counter([change.workflow_id async for change in watch if change.is_final])
        assert final == Counter(box.store.ids())
    print(f"{dialect}: at most {max(costs.values())} requests a tick")
    assert max(costs.values()) <= 2 * 102


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_in_noise_while_items_come_and_go_still_exactly_once(dialect, everything):
    box, clock = ten_thousand((5.0, 300.0), dialect=dialect, seed=6)
    rng = random.Random(6)
    async with box, box.session(clock=clock, chance=random.Random(6), dialect=dialect) as session:
        ids = box.store.ids()
        box.faults.add(Fault("status", status=503, probability=0.2))
        box.faults.add(Fault("reset", probability=0.05))
        doomed = rng.sample(ids, 500)
        left = set(ids)

        def churn(_request: object) -> None:
            if clock.now() < 400 and rng.random() < 0.2:
                left.add(box.store.add_ingestion().workflow_id)
            if doomed and rng.random() < 0.2:
                left.discard(doomed[-1])
                box.store.remove_ingestion(doomed.pop())

        box.before_request = churn
        final: Counter[str] = Counter()
        async with ks.watch_ingestions(session, None if everything else ids) as watch:
            async for change in watch:
                if change.is_final:
                    final[change.workflow_id] += 1
                    left.discard(change.workflow_id)
                if everything and clock.now() >= 400 and not left:
                    break
        print(f"{dialect}: {watch._poller.ticks} ticks, {len(box.requests)} requests")
        expected = set(box.store.ids()) if everything else set(ids)
    assert {one: final[one] for one in expected} == dict.fromkeys(expected, 1)
    assert max(final.values()) == 1


async def test_cancelling_a_watch_leaves_no_task():
    box, clock = ten_thousand((1000.0, 1001.0))
    async with box, box.session(clock=clock) as session:

        async def watch_all() -> None:
            async with ks.watch_ingestions(session, box.store.ids()) as watch:
                async for _ in watch:
                    pass

        watching = asyncio.create_task(watch_all())
        while session.stats.in_flight == 0:
            await asyncio.sleep(0)
        watching.cancel()
        await asyncio.wait([watching])
        await asyncio.sleep(0.05)
        assert session.stats.in_flight == 0
        ours = [task for task in asyncio.all_tasks() if "RequestHandler" not in repr(task)]
        assert ours == [asyncio.current_task()]


WATCH = """
import asyncio, sys
import knowledgestack_async as ks

async def main(base_url, slow):
    async with ks.Session("sk-user-sandbox", base_url) as session:
        ids = [one.workflow_id async for one in ks.iter_ingestion_workflows(session)]
        async with ks.watch_ingestions(session, ids) as watch:
            while slow and watch.summary.finished < 100_000:
                await asyncio.sleep(0.2)
            final = 0
            async for change in watch:
                final += change.is_final
    assert final == 100_000, final

asyncio.run(main(sys.argv[1], sys.argv[2] == "slow"))
"""


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("reader", ["quick", "slow"])
async def test_a_hundred_thousand_watched_ids_stay_under_200_mib(reader):
    options = {"statuses": {"processing": 1.0}, "superseded": 0, "record": False}
    seconds = {"pipeline_seconds": (60.0, 120.0)}
    async with Sandbox(ingestions=100_000, dialect="system-jobs", **options, **seconds) as box:
        megabytes = await peak_of(WATCH, box.base_url, reader)
    print(f"{megabytes:.0f} MiB")
    assert megabytes < 200
