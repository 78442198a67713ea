"""Slots: how many, to whom, how fast, and what a push-back does."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextvars import ContextVar

import pytest

import knowledgestack_async as ks
from knowledgestack_async._governor import Governor
from knowledgestack_async._wire import Priority
from support import FakeClock

FOREVER = float("inf")


class Chance:
    """Chance that always draws the same."""

    def __init__(self, drawn: float) -> None:
        self.drawn = drawn

    def random(self) -> float:
        return self.drawn


def governor_of(clock: FakeClock, **options: object) -> Governor:
    return Governor(**{"clock": clock, "chance": random.Random(1), "ceiling": 100} | options)


async def fill(governor: Governor, count: int) -> list:
    return [await governor.acquire(Priority.NORMAL, FOREVER) for _ in range(count)]


async def test_it_starts_modest_and_grows_while_it_is_what_holds_calls_back(clock):
    governor = governor_of(clock, ceiling=30)
    assert governor.limit == 20
    governor.answered()
    assert governor.limit == 20  # nothing was held back
    await fill(governor, 20)
    governor.answered()
    assert governor.limit == 21
    await fill(governor, 1)
    for _ in range(50):
        governor.answered()
        while governor.in_flight < governor.limit:
            await governor.acquire(Priority.NORMAL, FOREVER)
    assert governor.limit == governor.in_flight == 30


async def test_it_never_hands_out_more_than_the_pool_has(clock):
    assert governor_of(clock, ceiling=50, pool_size=3).limit == 3
    assert governor_of(clock, ceiling=50, pool_size=7).limit == 6  # one is kept for outcomes
    assert governor_of(clock, ceiling=5, pool_size=0).limit == 5


def test_a_limit_that_is_none_is_refused(clock):
    with pytest.raises(ks.ConfigurationError) as caught:
        governor_of(clock, ceiling=0)
    assert str(caught.value) == "max_in_flight must be a whole number from 1, not 0"


@pytest.mark.parametrize(("ceiling", "count"), [(2, 2), (100, 20)])
async def test_where_nothing_holds_them_back_calls_go_at_once(clock, ceiling, count):
    governor = governor_of(clock, ceiling=ceiling)
    await fill(governor, count)
    assert governor.in_flight == count
    assert clock.slept == []


async def test_a_clock_may_begin_at_zero(clock):
    clock.time = 0.0
    governor = governor_of(clock)
    assert governor.cooling_for() == 0.0
    await fill(governor, 1)
    assert clock.slept == []


async def test_requests_that_were_in_flight_together_cut_the_limit_once(clock):
    governor = governor_of(clock)
    slots = await fill(governor, 20)
    for slot in slots:
        governor.pushed_back(slot, None)
    assert governor.limit == 14
    for slot in slots:
        governor.release(slot)
    [later] = await fill(governor, 1)
    governor.pushed_back(later, None)
    assert governor.limit == 9
    governor.pushed_back(later, None)
    assert governor.limit == 9


async def test_a_slot_that_was_waited_for_cuts_the_limit_like_any_other(clock):
    governor = governor_of(clock)
    [first, *others] = await fill(governor, 20)
    waiting = asyncio.create_task(governor.acquire(Priority.NORMAL, FOREVER))
    await asyncio.sleep(0)
    governor.pushed_back(first, None)
    for slot in others[:7]:
        governor.release(slot)
    later = await waiting
    assert (governor.limit, governor.in_flight) == (14, 14)
    governor.pushed_back(later, None)
    assert governor.limit == 9


async def test_the_limit_does_not_fall_below_its_floor(clock):
    governor = governor_of(clock)
    for _ in range(30):
        [slot] = await fill(governor, 1)
        governor.pushed_back(slot, None)
        governor.release(slot)
    assert governor.limit == Governor.FLOOR


async def test_after_a_push_back_it_grows_by_about_one_a_round_trip(clock):
    governor = governor_of(clock)
    slots = await fill(governor, 20)
    governor.pushed_back(slots[0], None)
    for _ in range(14):
        governor.answered()
    assert governor.limit in {14, 15}
    for _ in range(15):
        governor.answered()
    assert governor.limit in {15, 16}


async def test_a_cool_down_holds_everybody_and_lets_them_go_one_by_one(clock):
    governor = governor_of(clock)
    [slot] = await fill(governor, 1)
    governor.pushed_back(slot, 5)
    governor.release(slot)
    assert governor.cooling_for() == 5
    began = clock.now()
    times = []

    async def call() -> None:
        await governor.acquire(Priority.NORMAL, FOREVER)
        times.append(clock.now() - began)

    await asyncio.gather(*(call() for _ in range(10)))
    assert min(times) >= 5
    assert max(times) - min(times) > 0.3
    assert len(set(times)) >= 8
    assert governor.cool_downs == 1


@pytest.mark.parametrize(("drawn", "gap"), [(0.0, 0.5 / 7), (0.5, 1 / 7), (0.75, 1.25 / 7)])
async def test_a_limit_of_slots_is_spread_over_a_second_and_the_rest_goes_at_once(
    clock, drawn, gap
):
    governor = governor_of(clock, ceiling=10, chance=Chance(drawn))
    [slot] = await fill(governor, 1)
    governor.pushed_back(slot, 5)
    governor.release(slot)
    assert governor.limit == 7
    began = clock.now()
    times = []
    for _ in range(12):
        slot = await governor.acquire(Priority.NORMAL, FOREVER)
        times.append(clock.now() - began)
        governor.release(slot)
    assert times == pytest.approx([5 + gap * min(turn, 7) for turn in range(12)])


async def test_a_pause_is_over_when_its_time_has_passed(clock):
    governor = governor_of(clock)
    assert governor.cooling_for() == 0.0
    [slot] = await fill(governor, 1)
    governor.pushed_back(slot, 5)
    clock.time += 4.5
    assert governor.cooling_for() == 0.5
    clock.time += 0.5
    assert governor.cooling_for() == 0.0
    governor.pushed_back(slot, 2)
    assert governor.cool_downs == 2
    clock.time += 10
    assert governor.cooling_for() == 0.0


async def test_nobody_is_woken_for_a_slot_that_only_a_release_can_free(clock):
    governor = governor_of(clock, ceiling=1, chance=Chance(0.5))
    [slot] = await fill(governor, 1)
    governor.pushed_back(slot, 5)
    governor.release(slot)
    [slot] = await fill(governor, 1)
    governor.release(slot)
    [slot] = await fill(governor, 1)
    assert clock.slept == [5.0, 1.0]  # now it is the very moment at which the gate opened
    waiting = asyncio.create_task(governor.acquire(Priority.NORMAL, FOREVER))
    for _ in range(5):
        await asyncio.sleep(0)
    assert clock.slept == [5.0, 1.0]
    governor.release(slot)
    await waiting


async def test_a_shorter_pause_does_not_shorten_a_longer_one(clock):
    governor = governor_of(clock)
    [slot] = await fill(governor, 1)
    governor.pushed_back(slot, 5)
    governor.pushed_back(slot, 1)
    assert governor.cooling_for() == 5
    governor.pushed_back(slot, 9)
    assert governor.cooling_for() == 9
    assert governor.cool_downs == 1


async def test_a_rate_spaces_requests_evenly(clock):
    governor = governor_of(clock, rate=10)
    began = clock.now()
    times = []
    for _ in range(30):
        slot = await governor.acquire(Priority.NORMAL, FOREVER)
        times.append(clock.now() - began)
        governor.release(slot)
    assert times[-1] == pytest.approx(2.8, abs=0.15)


async def test_a_rate_may_be_less_than_one_a_second(clock):
    governor = governor_of(clock, rate=0.5)
    began = clock.now()
    await fill(governor, 3)
    assert clock.now() - began == pytest.approx(3.9)  # a tenth of a second is caught up, once


async def test_who_waits_for_the_rate_is_not_overtaken_by_who_comes_later(clock):
    governor = governor_of(clock, rate=1)
    await fill(governor, 1)
    order: list[str] = []

    async def call(name: str) -> None:
        await governor.acquire(Priority.NORMAL, FOREVER)
        order.append(name)

    waiting = asyncio.create_task(call("first"))
    await asyncio.sleep(0)
    clock.time += 2  # the gate is open, but who sleeps till then has not woken up yet
    await call("second")
    await waiting
    assert order == ["first", "second"]


@pytest.mark.parametrize("rate", [0, -1, float("inf"), float("nan")])
def test_a_rate_that_is_none_is_refused(clock, rate):
    with pytest.raises(ks.ConfigurationError) as caught:
        governor_of(clock, rate=rate)
    assert str(caught.value) == f"rate must be requests a second above 0, not {rate!r}"


async def test_urgent_calls_go_first_and_nobody_starves(clock):
    governor = governor_of(clock, ceiling=1)
    [held] = await fill(governor, 1)
    order: list[Priority] = []

    async def call(priority: Priority) -> None:
        slot = await governor.acquire(priority, FOREVER)
        order.append(priority)
        await asyncio.sleep(0)
        governor.release(slot)

    calls = [
        call(priority) for priority in (Priority.BACKGROUND, Priority.NORMAL, Priority.URGENT) * 20
    ]
    work = asyncio.gather(*calls)
    await asyncio.sleep(0)
    governor.release(held)
    await work
    first = Counter(order[:20])
    assert first[Priority.URGENT] > 15
    assert first[Priority.BACKGROUND] >= 2


async def test_every_eighth_slot_goes_to_the_lowest_priority(clock):
    governor = governor_of(clock, ceiling=1)
    [held] = await fill(governor, 1)
    order = [Priority.NORMAL]

    async def call(priority: Priority) -> None:
        slot = await governor.acquire(priority, FOREVER)
        order.append(priority)
        governor.release(slot)

    calls = [call(priority) for priority in [Priority.BACKGROUND] * 3 + [Priority.URGENT] * 20]
    work = asyncio.gather(*calls)
    await asyncio.sleep(0)
    governor.release(held)
    await work
    turns = [turn for turn, priority in enumerate(order, 1) if priority is Priority.BACKGROUND]
    assert turns == [8, 16, 24]


async def test_within_a_priority_the_first_come_is_the_first_served(clock):
    governor = governor_of(clock, ceiling=1)
    [held] = await fill(governor, 1)
    order: list[int] = []

    async def call(number: int) -> None:
        slot = await governor.acquire(Priority.NORMAL, FOREVER)
        order.append(number)
        governor.release(slot)

    work = asyncio.gather(*(call(number) for number in range(50)))
    await asyncio.sleep(0)
    governor.release(held)
    await work
    assert order == list(range(50))


async def test_whoever_is_cancelled_or_out_of_time_takes_no_slot_along(clock):
    clock.patience = 0.01
    governor = governor_of(clock, ceiling=1)
    [held] = await fill(governor, 1)
    with pytest.raises(TimeoutError):
        await governor.acquire(Priority.NORMAL, 3)
    waiting = asyncio.create_task(governor.acquire(Priority.NORMAL, FOREVER))
    await asyncio.sleep(0)
    assert governor.waiting == 1
    governor.release(held)  # granted, but the task has not run yet
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert governor.in_flight == 0
    assert governor.waiting == 0


@pytest.mark.parametrize(("time_left", "timeout"), [(FOREVER, None), (7.5, 7.5)])
async def test_who_waits_for_ever_has_no_timer(clock, monkeypatch, time_left, timeout):
    """Not every loop takes an endless one."""
    asked = []
    begin = clock.timeout
    monkeypatch.setattr(clock, "timeout", lambda seconds: asked.append(seconds) or begin(seconds))
    governor = governor_of(clock, ceiling=1)
    [held] = await fill(governor, 1)
    waiting = asyncio.create_task(governor.acquire(Priority.NORMAL, time_left))
    await asyncio.sleep(0)
    governor.release(held)
    await waiting
    assert asked == [timeout]


async def test_a_probe_needs_no_free_slot_but_waits_for_a_pause_like_all(clock):
    governor = governor_of(clock, ceiling=1)
    [held] = await fill(governor, 1)
    waiting = asyncio.create_task(governor.acquire(Priority.URGENT, FOREVER))
    await asyncio.sleep(0)
    probes = [await governor.acquire(Priority.PROBE, FOREVER) for _ in range(2)]
    assert governor.in_flight == 3
    assert not waiting.done()
    assert clock.slept == []
    governor.pushed_back(held, 5)
    probes.append(await governor.acquire(Priority.PROBE, FOREVER))
    assert clock.slept == [5.0]
    for slot in probes:
        governor.release(slot)
    assert not waiting.done()
    governor.release(held)
    await waiting


async def test_what_is_written_off_leaves_its_place_to_others(clock):
    governor = governor_of(clock, ceiling=2)
    old, older = await fill(governor, 2)
    waiting = [asyncio.create_task(governor.acquire(Priority.NORMAL, FOREVER)) for _ in range(3)]
    await asyncio.sleep(0)
    governor.write_off(clock.time)
    assert not any(slot.done() for slot in waiting), "they came at that very time, not before"
    clock.time += 1
    governor.write_off(clock.time)
    await asyncio.sleep(0)
    assert [slot.done() for slot in waiting] == [True, True, False]
    assert (governor.in_flight, governor.limit) == (4, 2)
    governor.release(old)
    governor.release(older)
    await asyncio.sleep(0)
    assert governor.in_flight == 2
    assert not waiting[2].done(), "a place is given away only once"
    governor.release(waiting[0].result())
    await waiting[2]


async def test_what_is_written_off_still_has_its_connection_in_a_users_pool(clock):
    governor = governor_of(clock, ceiling=50, pool_size=3)
    old = await fill(governor, 2)
    clock.time += 1
    governor.write_off(clock.time)
    await fill(governor, 1)
    waiting = [
        asyncio.create_task(governor.acquire(priority, FOREVER))
        for priority in (Priority.NORMAL, Priority.PROBE)
    ]
    await asyncio.sleep(0)
    assert not any(slot.done() for slot in waiting)
    governor.release(old[0])
    await waiting[1]
    governor.release(old[1])
    await waiting[0]
    assert governor.in_flight == 3


async def test_it_is_busy_while_anything_is_in_flight(clock):
    governor = governor_of(clock)
    first, second = await fill(governor, 2)
    clock.time += 3
    assert governor.busy_for() == 3
    governor.release(first)
    clock.time += 2
    governor.write_off(clock.time)
    clock.time += 1
    governor.release(second)
    clock.time += 50
    assert governor.busy_for() == 6
    await fill(governor, 1)
    clock.time += 1
    assert governor.busy_for() == 7


async def test_closing_turns_everybody_away(clock):
    governor = governor_of(clock, ceiling=1)
    [slot] = await fill(governor, 1)
    governor.pushed_back(slot, 50)
    calls = [asyncio.create_task(governor.acquire(Priority.NORMAL, FOREVER)) for _ in range(3)]
    clock.sleep = asyncio.sleep  # the waker sleeps for real, until it is cancelled
    await asyncio.sleep(0)
    gone = asyncio.create_task(governor.acquire(Priority.NORMAL, FOREVER))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    governor.close()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, ks.SessionError) for result in results)
    assert {str(result) for result in results} == {"the session was closed while this call waited"}
    with pytest.raises(ks.SessionError) as caught:
        await governor.acquire(Priority.NORMAL, FOREVER)
    assert str(caught.value) == "the session is closed"
    governor.release(slot)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_closing_may_find_nobody(clock):
    governor = governor_of(clock)
    governor.close()
    with pytest.raises(ks.SessionError):
        await governor.acquire(Priority.NORMAL, FOREVER)


async def test_the_waker_inherits_nobodys_context(clock):
    secret: ContextVar[str] = ContextVar("secret", default="none")
    seen = []

    async def sleep(_seconds: float) -> None:
        seen.append(secret.get())
        clock.time += 100

    governor = governor_of(clock)
    [slot] = await fill(governor, 1)
    governor.pushed_back(slot, 5)
    clock.sleep = sleep
    secret.set("mine")
    await governor.acquire(Priority.NORMAL, FOREVER)
    assert seen == ["none"]
