"""Walks: lazy, ahead of the reader, and complete while the list changes between any two requests."""

import asyncio
import json
import random
from itertools import chain

import pytest

from knowledgestack_async import ConfigurationError, PageIterator, SessionError, WalkError
from knowledgestack_async._windows import Window


class Source:
    """A list that doesn't change, served window by window; counts what is in flight."""

    def __init__(self, count, *, by_number=False, steps=0, cap=100):
        self.cap = cap
        self.items = [f"i{number}" for number in range(count)]
        self.by_number = by_number
        self.steps = steps
        self.asked = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.errors = {}
        self.gate = None

    async def fetch(self, start, size):
        self.asked.append((start, size))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            for _ in range(self.steps):
                await asyncio.sleep(0)
            if self.gate is not None and start > 0:
                await self.gate.wait()
            if start in self.errors:
                raise self.errors.pop(start)
        finally:
            self.in_flight -= 1
        used = min(size, self.cap)
        if self.by_number:
            start = start // size * used
        return Window(
            self.items[start : start + used], len(self.items), start, used, self.by_number
        )


class Tasks:
    """Starts tasks as a session does, and ends them as one does."""

    def __init__(self):
        self.alive = set()
        self.started = 0

    def spawn(self, work):
        task = asyncio.ensure_future(work)
        self.started += 1
        self.alive.add(task)
        task.add_done_callback(self.alive.discard)
        return task

    async def end(self):
        for task in self.alive:
            task.cancel()
        await asyncio.gather(*self.alive, return_exceptions=True)


@pytest.fixture
async def tasks():
    made = Tasks()
    yield made
    await made.end()


@pytest.fixture
def walk(tasks):
    def make(source, **options):
        fetch = source.fetch if isinstance(source, Source) else source
        settings = {"key": str, "page_size": 100, **options}
        return PageIterator(fetch, tasks.spawn, **settings)

    return make


async def steps(count):
    for _ in range(count):
        await asyncio.sleep(0)


AHEAD = pytest.mark.parametrize("prefetch", [0, 1, 5, None])
STYLES = pytest.mark.parametrize("by_number", [True, False])


# The three ways to read, and laziness


@pytest.mark.no_cover
@AHEAD
@STYLES
@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 1_234])
async def test_items_pages_and_a_list_are_the_same_walk(walk, prefetch, by_number, count):
    source = Source(count, by_number=by_number)
    assert await walk(source, prefetch=prefetch) == source.items
    assert [item async for item in walk(source, prefetch=prefetch)] == source.items
    pages = [page async for page in walk(source, prefetch=prefetch).pages()]
    assert list(chain.from_iterable(pages)) == source.items
    assert all(pages)


async def test_nothing_is_asked_before_the_first_item_is(walk, tasks):
    source = Source(500)
    iterator = walk(source)
    await steps(5)
    assert (source.asked, iterator.total, iterator.matched, tasks.started) == ([], None, 0, 0)
    assert await anext(iterator) == "i0"
    assert (iterator.total, iterator.matched) == (500, 100)


async def test_a_plain_for_says_what_was_meant(walk):
    with pytest.raises(TypeError, match="did you mean `async for`"):
        iter(walk(Source(5)))


async def test_a_walk_that_is_over_stays_over(walk):
    source = Source(150)
    iterator = walk(source)
    await iterator
    asked = list(source.asked)
    assert await iterator == []
    assert [page async for page in iterator.pages()] == []
    assert source.asked == asked


async def test_items_then_pages_lose_nothing(walk):
    source = Source(250)
    iterator = walk(source)
    first = [await anext(iterator) for _ in range(30)]
    pages = [page async for page in iterator.pages()]
    assert len(pages[0]) == 70
    assert [*first, *chain.from_iterable(pages)] == source.items


async def test_a_filter_lets_some_through_and_counts_them(walk):
    source = Source(1_000)
    iterator = walk(source, keep=lambda item: item.endswith("7"))
    assert await iterator == [item for item in source.items if item.endswith("7")]
    assert (iterator.total, iterator.matched) == (1_000, 100)


async def test_pages_that_a_filter_empties_are_passed_over(walk):
    pages = [page async for page in walk(Source(1_000), keep=lambda item: item == "i555").pages()]
    assert pages == [["i555"]]


# Limits


@AHEAD
@STYLES
@pytest.mark.parametrize("limit", [1, 50, 99, 100, 101, 350])
async def test_no_page_beyond_the_limit_is_asked_for(walk, prefetch, by_number, limit):
    source = Source(2_000, by_number=by_number, steps=3)
    assert await walk(source, prefetch=prefetch, limit=limit) == source.items[:limit]
    assert max(start for start, _ in source.asked) < limit
    assert len(source.asked) <= -(-limit // 80)


async def test_a_limit_counts_what_a_filter_lets_through(walk, tasks):
    source = Source(5_000, steps=2)
    iterator = walk(source, limit=5, keep=lambda item: item.endswith("50"))
    assert await iterator == ["i50", "i150", "i250", "i350", "i450"]
    assert iterator.matched == 5
    await steps(3)
    assert not tasks.alive
    assert len(source.asked) <= 5 + 4 + 16


async def test_a_limit_beyond_the_end_is_none(walk):
    assert len(await walk(Source(120), limit=1_000)) == 120


# Reading ahead


async def test_the_first_page_is_read_alone_then_several_at_a_time_in_order(walk):
    source = Source(3_000, steps=4)
    iterator = walk(source, prefetch=6)
    source.gate = asyncio.Event()
    first = [await anext(iterator) for _ in range(100)]
    assert source.most_in_flight == 1
    await steps(10)
    assert source.in_flight == 6
    source.gate.set()
    assert first + await iterator == source.items
    assert source.most_in_flight == 6


@STYLES
async def test_a_fixed_depth_is_kept_and_never_exceeded(walk, by_number):
    source = Source(5_000, by_number=by_number, steps=30)
    await walk(source, prefetch=3)
    assert source.most_in_flight == 3


async def test_zero_reads_one_page_after_the_other_without_tasks(walk, tasks):
    source = Source(2_000, steps=2)
    iterator = walk(source, prefetch=0)
    async for _page in iterator.pages():
        assert source.in_flight == 0
    assert source.most_in_flight == 1
    assert tasks.started == 0
    assert len(source.asked) <= 21


async def test_the_depth_grows_while_the_reader_waits_up_to_sixteen(walk):
    source = Source(10_000, steps=200)
    depths = []
    async for _page in walk(source).pages():
        await steps(1)
        depths.append(source.in_flight)
    assert depths[0] == 2
    assert sorted(depths[:3]) == depths[:3]
    assert source.most_in_flight == 16


async def test_the_depth_shrinks_while_the_reader_is_slow(walk):
    source = Source(10_000, steps=200)
    pages = walk(source).pages()
    read = 0
    while source.most_in_flight < 16:
        await anext(pages)
        read += 1
    leads = []
    for _ in range(30):
        await steps(250)
        await anext(pages)
        read += 1
        leads.append(len(source.asked) - read)
    assert leads[0] >= 14
    assert leads == sorted(leads, reverse=True)
    assert leads[-1] <= 2
    await pages.aclose()


@pytest.mark.no_cover
async def test_a_million_items_are_walked_in_flat_memory(walk):
    held = []

    async def fetch(start, size):
        return Window(range(start, start + size), 10**6, start, size, False)

    iterator = walk(fetch, page_size=100)
    seam = iterator._walk.seam
    count = 0
    async for page in iterator.pages():
        count += len(page)
        if count % 990 == 100:
            held.append(len(seam._memory._newer) + len(seam._memory._older))
        if count > 60_000:
            break
    await iterator.close()
    assert max(held) <= 10_000


# Leaving early, and errors


@AHEAD
async def test_a_break_leaves_at_most_the_pages_in_flight_which_end_by_themselves(
    walk, tasks, prefetch
):
    source = Source(10_000, steps=20)
    iterator = walk(source, prefetch=prefetch)
    async for item in iterator:
        if item == "i350":
            break
    started = tasks.started
    assert len(tasks.alive) <= (16 if prefetch is None else prefetch)
    await steps(60)
    assert not tasks.alive
    assert tasks.started == started
    assert len(source.asked) <= 4 + (16 if prefetch is None else prefetch)


async def test_leaving_a_block_ends_its_tasks_at_once(walk, tasks):
    source = Source(10_000, steps=5)
    async with walk(source, prefetch=5) as iterator:
        await anext(iterator)
        source.gate = asyncio.Event()
        assert len(tasks.alive) == 5
    await steps(2)
    assert not tasks.alive
    assert [item async for item in iterator] == []


async def test_leaving_a_block_by_an_error_ends_its_tasks_too(walk, tasks):
    source = Source(10_000)
    source.gate = asyncio.Event()
    with pytest.raises(ZeroDivisionError):
        async with walk(source, prefetch=5) as iterator:
            await anext(iterator)
            raise ZeroDivisionError
    await steps(2)
    assert not tasks.alive


async def test_closing_twice_does_no_harm(walk):
    iterator = walk(Source(500))
    await iterator.close()
    await iterator.close()
    assert await iterator == []


@pytest.mark.no_cover
@AHEAD
@STYLES
async def test_an_error_comes_up_at_its_place_and_going_on_tries_again(walk, prefetch, by_number):
    clean = Source(1_500, by_number=by_number)
    await walk(clean, prefetch=prefetch)
    for failing_start, _ in clean.asked:
        source = Source(1_500, by_number=by_number)
        source.errors[failing_start] = ConnectionError("lost")
        iterator, given = walk(source, prefetch=prefetch), []
        with pytest.raises(ConnectionError, match="lost"):
            async for item in iterator:
                given.append(item)
        assert given == source.items[: len(given)]
        assert failing_start <= len(given) <= failing_start + 100
        assert given + await iterator == source.items


async def test_an_error_of_a_page_that_nobody_reads_is_nobodys(walk, tasks, caplog):
    source = Source(1_000)
    source.errors = {start: ConnectionError("lost") for start in range(1, 1_000)}
    iterator = walk(source, prefetch=5)
    await anext(iterator)
    await steps(5)
    assert not tasks.alive
    del iterator
    assert not caplog.records


async def test_an_error_behind_the_limit_is_never_met(walk):
    source = Source(1_000)
    source.errors = {start: ConnectionError("lost") for start in range(150, 1_000)}
    assert len(await walk(source, limit=150)) == 150


async def test_a_walk_whose_session_closes_says_so(walk, tasks):
    source = Source(1_000)
    source.gate = asyncio.Event()
    iterator = walk(source, prefetch=3)
    for _ in range(100):
        await anext(iterator)
    for task in tasks.alive:
        task.cancel()
    with pytest.raises(SessionError, match="closed during the walk"):
        await anext(iterator)


async def test_cancelling_the_reader_loses_nothing(walk):
    source = Source(500)
    iterator = walk(source, prefetch=3)
    given = [await anext(iterator) for _ in range(100)]
    source.gate = asyncio.Event()
    reader = asyncio.ensure_future(anext(iterator))
    await steps(3)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    source.gate.set()
    assert given + await iterator == source.items


# Servers that make no sense


@AHEAD
@STYLES
async def test_endless_empty_pages_are_an_error_soon(walk, prefetch, by_number):
    asked = []

    async def fetch(start, size):
        asked.append(start)
        return Window([], 10**6, start, size, by_number)

    with pytest.raises(WalkError, match=r"100 pages in a row, up to item \d+, were empty"):
        await walk(fetch, prefetch=prefetch)
    assert len(asked) <= 100 + 16 + 12  # rows may be hidden from this key for hundreds of places


@pytest.mark.no_cover
@AHEAD
@STYLES
@pytest.mark.parametrize("total", [200, 1_000, 10**12])
@pytest.mark.parametrize("count", [100, 20, 1])
async def test_the_same_page_for_ever_is_an_error_soon(walk, prefetch, by_number, total, count):
    asked = []

    async def fetch(start, size):
        asked.append(start)
        return Window([f"i{number}" for number in range(count)], total, start, size, by_number)

    with pytest.raises(WalkError, match="shows the same ones again"):
        await walk(fetch, prefetch=prefetch)
    assert len(asked) <= 30 + 220 // count


@AHEAD
@STYLES
async def test_a_server_that_ignores_what_is_asked_is_an_error_soon(walk, prefetch, by_number):
    asked = []

    async def fetch(start, _size):
        asked.append(start)
        return Window([f"i{number}" for number in range(20)], 500, 0, 20, by_number)

    iterator, given = walk(fetch, prefetch=prefetch), []
    with pytest.raises(WalkError, match="whatever is asked of it"):
        async for item in iterator:
            given.append(item)
    assert given == [f"i{number}" for number in range(20)]
    assert len(asked) <= 30


@AHEAD
async def test_a_list_that_changes_faster_than_it_can_be_read_is_an_error(walk, prefetch):
    source = Source(10_000)
    requests = 0

    async def fetch(start, size):
        nonlocal requests
        requests += 1
        if requests <= 60:
            return await source.fetch(start, size)
        # From here on, more is removed before each answer than two windows can overlap.
        strangers = [f"stranger-{requests}-{number}" for number in range(size)]
        return Window(strangers, 10_000 - 60 * (requests - 60), start, size, False)

    with pytest.raises(WalkError, match="changes faster than it can be read"):
        await walk(fetch, prefetch=prefetch)
    assert requests <= 60 + 50 + 16


# A list that changes between any two requests


class ChangingList:
    """Items come in at the front and vanish anywhere, before each answer; some can't be seen."""

    def __init__(self, seed, *, count, churn, by_number, fixed_size=None, hidden=0.0):
        self.chance = random.Random(seed)
        self.items = [f"i{number}" for number in reversed(range(count))]
        self.next_number = count
        self.churn = churn
        self.by_number = by_number
        self.fixed_size = fixed_size
        self.hidden = {item for item in self.items if self.chance.random() < hidden}
        self.at_first = list(self.items)
        self.removed = set()
        self.requests = 0

    def change(self):
        for _ in range(self.chance.randrange(self.churn + 1)):
            if self.chance.random() < 0.5 or not self.items:
                self.items.insert(0, f"i{self.next_number}")
                self.next_number += 1
            else:
                self.removed.add(self.items.pop(self.chance.randrange(len(self.items))))

    async def fetch(self, start, size):
        await steps(self.chance.randrange(4))
        self.requests += 1
        self.change()
        used = self.fixed_size or min(size, 100)
        if self.by_number:
            assert start % size == 0, "a page number can't say that"
            start = start // size * used
        shown = [item for item in self.items[start : start + used] if item not in self.hidden]
        window = Window(shown, len(self.items), start, used, self.by_number)
        await steps(self.chance.randrange(4))
        return window

    def check(self, given):
        """Everything that stayed was given, in order, and nothing was given twice."""
        assert len(given) == len(set(given)), "given twice"
        stayed = [
            item for item in self.at_first if item not in self.removed and item not in self.hidden
        ]
        staying = set(stayed)
        assert [item for item in given if item in staying] == stayed, "lost, or out of order"


def scenes(**options):
    """Seeded lists; each parametrised case walks some dozens of them."""
    for seed in range(14):
        count = random.Random(seed).randrange(1_000)
        yield seed, ChangingList(seed, count=count, **options)


PREFETCH = pytest.mark.parametrize("prefetch", [0, None, 5])


@pytest.mark.no_cover
@STYLES
@PREFETCH
@pytest.mark.parametrize("churn", [0, 2, 10, 40])
async def test_nothing_that_stays_is_lost_or_given_twice(walk, by_number, prefetch, churn):
    for _seed, changing in scenes(churn=churn, by_number=by_number):
        changing.check(await walk(changing.fetch, prefetch=prefetch))


@pytest.mark.no_cover
@STYLES
@PREFETCH
@pytest.mark.parametrize("fixed_size", [20, 50])
async def test_nothing_is_lost_where_the_server_has_a_page_size_of_its_own(
    walk, by_number, prefetch, fixed_size
):
    for _seed, changing in scenes(churn=6, by_number=by_number, fixed_size=fixed_size):
        changing.check(await walk(changing.fetch, prefetch=prefetch))


@pytest.mark.no_cover
@STYLES
@PREFETCH
@pytest.mark.parametrize("hidden", [0.1, 0.5])
async def test_nothing_is_lost_where_a_user_sees_fewer_items_than_there_are(
    walk, by_number, prefetch, hidden
):
    for _seed, changing in scenes(churn=5, by_number=by_number, hidden=hidden):
        changing.check(await walk(changing.fetch, prefetch=prefetch))


@pytest.mark.no_cover
@STYLES
@PREFETCH
@pytest.mark.parametrize("page_size", [1, 3, 7])
async def test_nothing_is_lost_with_small_pages(walk, by_number, prefetch, page_size):
    for seed in range(6):
        changing = ChangingList(
            seed, count=random.Random(seed).randrange(100), churn=2, by_number=by_number
        )
        changing.check(await walk(changing.fetch, prefetch=prefetch, page_size=page_size))


@STYLES
@PREFETCH
@pytest.mark.parametrize("hidden", [0.0, 0.05])
async def test_nothing_is_lost_when_a_walk_is_taken_up_again_and_again(
    walk, by_number, prefetch, hidden
):
    for _seed, changing in scenes(churn=5, by_number=by_number, hidden=hidden):
        given, position, is_over = [], None, False
        while not is_over:
            stop_at = len(given) + changing.chance.randrange(1, 300)
            is_over = True
            async with walk(changing.fetch, prefetch=prefetch, position=position) as iterator:
                async for item in iterator:
                    given.append(item)
                    if len(given) == stop_at:
                        is_over = False
                        break
                position = json.loads(json.dumps(iterator.position))
            for _ in range(changing.chance.randrange(30)):
                changing.change()
        changing.check(given)


async def test_these_lists_do_catch_a_walk_that_takes_page_after_page():
    caught = 0
    for _seed, changing in scenes(churn=10, by_number=True):
        given, page, is_last = [], 0, False
        while not is_last:
            window = await changing.fetch(page * 100, 100)
            given += [item for item in window.items if item not in given]
            page, is_last = page + 1, window.is_last
        try:
            changing.check(given)
        except AssertionError:
            caught += 1
    assert caught >= 5


@STYLES
@PREFETCH
async def test_a_quiet_list_costs_at_most_a_fifth_more_requests(walk, by_number, prefetch):
    for total in (1_000, 5_000):
        source = Source(total, by_number=by_number)
        await walk(source, prefetch=prefetch)
        assert len(source.asked) <= total / 100 * 1.2 + 1


@STYLES
async def test_a_list_that_changes_a_little_costs_at_most_half_as_many_requests_again(
    walk, by_number
):
    requests = pages = 0
    for _seed, changing in scenes(churn=10, by_number=by_number):
        pages += len(await walk(changing.fetch)) / 100
        requests += changing.requests
    assert requests <= 1.5 * pages


@STYLES
async def test_a_server_that_caps_the_page_size_is_still_read_ahead(walk, by_number):
    source = Source(2_000, by_number=by_number, steps=9, cap=50)
    assert await walk(source) == source.items
    assert source.most_in_flight >= 8
    assert len(source.asked) <= 2_000 / 50 * 1.2 + 4


@STYLES
async def test_pages_of_one_item_are_each_read_once(walk, by_number):
    source = Source(60, by_number=by_number)
    assert await walk(source, page_size=1) == source.items
    assert (
        len(source.asked) == 61
    )  # the last one was full: only the next one shows that it is the last


# Positions


async def test_a_position_is_small_and_json_and_the_same_until_something_is_read(walk):
    source = Source(1_000)
    iterator = walk(source)
    assert iterator.position == {"reach": 0, "total": None, "last_ids": []}
    for _ in range(150):
        await anext(iterator)
    position = iterator.position
    assert json.loads(json.dumps(position)) == position
    assert position["last_ids"] == [f"i{number}" for number in range(130, 150)]
    assert len(json.dumps(position)) < 1_000


@pytest.mark.parametrize("count", [0, 1, 57, 99, 100, 101, 150, 299, 300])
@STYLES
async def test_a_walk_goes_on_from_any_position(walk, count, by_number):
    source = Source(300, by_number=by_number)
    iterator = walk(source)
    given = [await anext(iterator) for _ in range(count)]
    again = walk(source, position=iterator.position)
    assert given + await again == source.items


async def test_a_position_between_pages_goes_on_at_the_next_page(walk):
    source = Source(300)
    pages = (iterator := walk(source)).pages()
    first = await anext(pages)
    position = iterator.position
    source.asked.clear()
    assert first + await walk(source, position=position, prefetch=0) == source.items
    assert min(start for start, _ in source.asked) >= 99
    await pages.aclose()


async def test_a_position_whose_items_are_all_gone_goes_on_at_its_place(walk):
    source = Source(500)
    iterator = walk(source)
    for _ in range(200):
        await anext(iterator)
    position = iterator.position
    source.items = source.items[200:]
    assert await walk(source, position=position) == source.items


@pytest.mark.parametrize("moved", [-300, -40, 0, 40, 300])
async def test_a_place_that_moved_is_found_again_in_a_few_requests(walk, moved):
    source = Source(10_000)
    iterator = walk(source, prefetch=0)
    for _ in range(5_000):
        await anext(iterator)
    position = iterator.position
    newer = [f"new{number}" for number in range(moved)]
    source.items = newer + source.items[max(0, -moved) :]
    source.asked.clear()
    found = await anext(walk(source, position=position, prefetch=0))
    assert found == "i5000"
    assert len(source.asked) <= 5


async def test_a_position_in_a_list_that_became_empty_ends_at_once(walk):
    source = Source(0)
    position = {"reach": 40, "total": 50, "last_ids": ["i39"]}
    assert await walk(source, position=position) == []


async def test_the_position_of_a_walk_that_has_not_begun_begins_at_the_start(walk):
    source = Source(250)
    position = json.loads(json.dumps(walk(source).position))
    assert await walk(source, position=position) == source.items


@pytest.mark.parametrize(
    "position",
    [
        {},
        {"reach": 1, "total": 2},
        {"reach": "1", "total": 2, "last_ids": []},
        {"reach": None, "total": 2, "last_ids": []},
        {"reach": -1, "total": 2, "last_ids": []},
        {"reach": 1.5, "total": 2, "last_ids": []},
        {"reach": 1, "total": "2", "last_ids": []},
        {"reach": 1, "total": 2, "last_ids": None},
        {"reach": 1, "total": 2, "last_ids": "abc"},
    ],
)
async def test_what_no_iterator_gave_is_no_position(walk, position):
    with pytest.raises(ConfigurationError, match=r"must be what an iterator's \.position gave"):
        walk(Source(5), position=position)
