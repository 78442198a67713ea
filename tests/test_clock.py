"""Time-outs share one timer, and end blocks just as the standard library's do."""

import asyncio

import pytest

from knowledgestack_async._clock import MonotonicClock

SHORT, LONG = 0.02, 30.0


async def never():
    await asyncio.Event().wait()


async def within(clock, seconds):
    async with clock.timeout(seconds):
        await never()


async def test_a_block_that_takes_too_long_is_ended():
    with pytest.raises(TimeoutError):
        await within(MonotonicClock(), SHORT)
    assert asyncio.current_task().cancelling() == 0


async def test_without_a_limit_a_block_is_left_alone():
    async with MonotonicClock().timeout(None):
        await asyncio.sleep(0)


async def test_one_timer_serves_them_all_and_the_shortest_goes_first():
    clock = MonotonicClock()
    loop = asyncio.get_running_loop()
    began = loop.time()
    limits = (LONG, 3 * SHORT, SHORT, SHORT, LONG)
    waits = [asyncio.create_task(within(clock, seconds)) for seconds in limits]
    results = await asyncio.gather(*waits[1:4], return_exceptions=True)
    assert [type(result) for result in results] == [TimeoutError] * 3
    assert 3 * SHORT <= loop.time() - began < LONG / 2
    assert not waits[0].done()
    for wait in (waits[0], waits[4]):
        wait.cancel()
    await asyncio.wait(waits)


async def test_a_block_that_is_over_in_time_is_never_cancelled_later():
    clock = MonotonicClock()
    async with clock.timeout(SHORT):
        await asyncio.sleep(0)
    await asyncio.sleep(2 * SHORT)


async def test_a_cancellation_from_outside_is_none_of_its_own():
    waiting = asyncio.create_task(within(MonotonicClock(), LONG))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_cancelled_from_outside_and_too_late_at_once_it_stays_cancelled():
    clock = MonotonicClock()
    waiting = asyncio.create_task(within(clock, SHORT))
    await asyncio.sleep(0)
    [block] = clock._alarm._running
    block.interrupt()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_an_error_of_the_block_is_its_own_even_when_it_is_late():
    clock = MonotonicClock()

    async def fail():
        async with clock.timeout(SHORT):
            try:
                await never()
            except asyncio.CancelledError:
                raise LookupError from None

    with pytest.raises(LookupError):
        await fail()


async def test_blocks_within_blocks_end_for_their_own_limit():
    clock = MonotonicClock()
    async with clock.timeout(LONG):
        with pytest.raises(TimeoutError):
            await within(clock, SHORT)
    with pytest.raises(TimeoutError):
        async with clock.timeout(SHORT):
            await within(clock, LONG)


def test_each_loop_has_a_timer_of_its_own():
    clock = MonotonicClock()
    for _ in range(2):
        with pytest.raises(TimeoutError):
            asyncio.run(within(clock, SHORT))


async def test_outside_of_a_task_there_is_nothing_to_end():
    block = MonotonicClock().timeout(SHORT)
    entering = block.__aenter__()
    loop = asyncio.get_running_loop()
    told = loop.create_future()

    def enter():
        try:
            entering.send(None)
        except RuntimeError as error:
            told.set_result(str(error))

    loop.call_soon(enter)
    assert await told == "a time-out needs a task to end"
