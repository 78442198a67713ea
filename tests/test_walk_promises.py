"""A walk ends with every item or with an error that names the contradiction, in a bounded number of requests.

Most servers here are models in memory, so that thousands of walks take seconds; the last part repeats
the main cases over a socket.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import zlib
from collections import Counter
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import product

import attrs
import pytest
from aiohttp import web
from wire_examples import CURRENT_SUMMARY

import knowledgestack_async as ks
from knowledgestack_async import PageIterator
from knowledgestack_async._windows import Window
from knowledgestack_async.sandbox import Sandbox
from knowledgestack_async.sandbox.dialects import DIALECTS
from support import KEY, FakeClock

HUGE = 10**9
MOST_FOR_HUGE = 1_500
"""The requests in which a walk must give up on a list that says it has a thousand million items."""


# A list in memory, and the ways in which a server may show it


class UnboundedError(AssertionError):
    """A walk sent more requests than it may."""


class LostError(ConnectionError):
    """One read failed."""


@attrs.define(eq=False)
class ListModel:
    """A list, and a server's way of showing it.

    Args:
        items: What there is, in order; an id may be in it twice.
        by_number: Whether windows are numbered pages; else they begin at any offset.
        cap: The largest window; a larger one asked for is cut to it.
        fixed: The only size of a window, whatever is asked for.
        echoes: Whether the answer names the size that was used; else it repeats the one asked for.
        page_begins_by: For numbered pages that are cut: whether page n begins at a multiple of the
            size that was ``used`` or of the one that was ``asked`` for.
        hidden: What this key may not see: taken out of a window after it was cut; totals count it.
        total: What the server says that the list has, told the true number and the answer's number.
        ties: Items stand in groups of this size whose order differs with each answer.
        changes: At most so many items come and go before each answer.
        arrivals: Where new items come in: ``front``, ``end`` or ``anywhere``.
        lag: Answers come from copies of the list that are up to so many answers old.
        beyond_shows_last: Whether a page past the end shows the last page.
        latency: At most so many steps of the loop pass before and after an answer is made.
    """

    items: list[str]
    by_number: bool = False
    cap: int = 100
    fixed: int | None = None
    echoes: bool = True
    page_begins_by: str = "used"
    hidden: frozenset[str] = frozenset()
    total: object = None
    ties: int = 0
    changes: int = 0
    arrivals: str = "front"
    lag: int = 0
    beyond_shows_last: bool = False
    latency: int = 0
    seed: int = 0
    requests: int = attrs.field(init=False, default=0)
    most: int = attrs.field(init=False, default=100_000)
    fail_at: int = attrs.field(init=False, default=0)
    removed: set[str] = attrs.field(init=False, factory=set)
    protected: frozenset[str] = attrs.field(init=False, default=frozenset())
    at_first: list[str] = attrs.field(init=False)
    _chance: random.Random = attrs.field(init=False)
    _copies: list[list[str]] = attrs.field(init=False, factory=list)
    _answers: int = attrs.field(init=False, default=0)
    _arrived: int = attrs.field(init=False, default=0)

    def __attrs_post_init__(self):
        self._chance = random.Random(self.seed)
        self.at_first = list(self.items)
        self._copies = [list(self.items)]

    @property
    def visible(self):
        """What a walk of the list as it is now must give: each id once."""
        return [item for item in dict.fromkeys(self.items) if item not in self.hidden]

    @property
    def staying(self):
        """What a walk that began at the beginning must have given."""
        return [
            item
            for item in dict.fromkeys(self.at_first)
            if item not in self.removed and item not in self.hidden
        ]

    def pages(self, page_size):
        """How many pages it takes to look at each place once."""
        used = self.fixed or min(page_size, self.cap)
        claimed = 0 if self.total is None else self.total(len(self.items), 0)
        places = max(len(self.items), claimed if claimed < HUGE else 0, len(self.at_first))
        return -(-places // used)

    def allow(self, page_size, *, spare=0):
        """Begin to count: from here on, a walk may send three requests a page, and sixty."""
        self.requests = 0
        self.most = 3 * self.pages(page_size) + 60 + spare

    def change(self, most):
        """Let some items come and go. Of four neighbours three stay for good, so that a place is never lost."""
        for _ in range(self._chance.randrange(most + 1)):
            if self._chance.random() < 0.5 or not self.items:
                places = {"front": 0, "end": len(self.items)}
                anywhere = self._chance.randrange(len(self.items) + 1)
                self.items.insert(places.get(self.arrivals, anywhere), f"new-{self._arrived}")
                self._arrived += 1
                continue
            place = self._chance.randrange(len(self.items))
            item = self.items[place]
            is_passing = item.startswith("new-") or int(item[1:]) % 4 == 0
            if is_passing and item not in self.protected:
                self.removed.add(self.items.pop(place))

    def _shown_list(self):
        if self.changes:
            self.change(self.changes)
        if self.lag:
            self._copies = [*self._copies[-self.lag :], list(self.items)]
            return self._chance.choice(self._copies)
        if not self.ties:
            return self.items
        shown = []
        for start in range(0, len(self.items), self.ties):
            group = self.items[start : start + self.ties]
            shown += self._chance.sample(group, len(group))
        return shown

    async def fetch(self, start, size):
        """Answer as the server does, after a while."""
        await self._wait()
        self.requests += 1
        if self.requests > self.most:
            raise UnboundedError(f"more than {self.most} requests")
        if self.requests == self.fail_at:
            raise LostError("one read failed")
        window = self._answer(start, size)
        await self._wait()
        return window

    async def _wait(self):
        for _ in range(self._chance.randrange(self.latency + 1)):
            await asyncio.sleep(0)

    def _answer(self, start, size):
        shown = self._shown_list()
        used = self.fixed or min(size, self.cap)
        said = used if self.echoes else size
        begin = said_begin = start
        if self.by_number:
            page = start // size
            begin = page * (used if self.page_begins_by == "used" else size)
            said_begin = page * said
        if self.beyond_shows_last and begin >= len(shown):
            begin = max(0, (len(shown) - 1) // used * used)
        self._answers += 1
        total = len(shown) if self.total is None else self.total(len(shown), self._answers)
        found = [item for item in shown[begin : begin + used] if item not in self.hidden]
        return Window(
            items=found, total=total, start=said_begin, size=said, by_number=self.by_number
        )


def numbered(count):
    return [f"i{number}" for number in range(count)]


class Tasks:
    """Starts tasks as a session does, and ends them as one does."""

    def __init__(self):
        self.alive = set()

    def spawn(self, work):
        task = asyncio.ensure_future(work)
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
    def make(server, *, page_size=100, **options):
        return PageIterator(server.fetch, tasks.spawn, key=str, page_size=page_size, **options)

    return make


@attrs.define
class Outcome:
    """What a walk gave, and the error that ended it."""

    given: list[str] = attrs.field(factory=list)
    error: Exception | None = None

    def must_be_all(self, expected, case=""):
        """Nothing else will do than each item once, in order, and no error."""
        if self.error is not None:
            raise AssertionError(
                f"{case}: {len(self.given)} of {len(expected)}, then an error"
            ) from self.error
        lost = len(set(expected) - set(self.given))
        assert not lost, f"{case}: {lost} of {len(expected)} lost without a word"
        twice = [item for item, times in Counter(self.given).items() if times > 1]
        assert not twice, f"{case}: {len(twice)} given twice"
        assert self.given == expected, f"{case}: out of order"

    def must_be_all_or_explained(self, expected, case=""):
        """Each item once, or an error that says what contradicts what; nothing twice in any case."""
        twice = [item for item, times in Counter(self.given).items() if times > 1]
        assert not twice, f"{case}: {len(twice)} given twice"
        if self.error is None:
            lost = len(set(expected) - set(self.given))
            assert not lost, f"{case}: {lost} of {len(expected)} lost without a word"
        else:
            must_explain(self.error)


def must_explain(error):
    """The error names the numbers that contradict each other, or the items."""
    assert isinstance(error, ks.WalkError | ks.ConfigurationError), repr(error)
    assert re.search(r"\d", str(error)), f"says nothing of what was seen: {error}"


async def read_all(walk, server, *, first=None, page_size=100, spare=0, **options):
    """Walk a list at once; or break after the first items, and go on from the position."""
    outcome, position = Outcome(), None
    for count in [None] if first is None else [first, None]:
        server.allow(page_size, spare=spare)
        iterator = walk(server, page_size=page_size, position=position, **options)
        try:
            async for item in iterator:
                outcome.given.append(item)
                if len(outcome.given) == count:
                    break
        except ks.KnowledgeStackError as error:
            outcome.error = error
            return outcome
        position = json.loads(json.dumps(iterator.position))
        await iterator.close()
    return outcome


def cases(**tables):
    """Combinations of some tables' entries, as keywords: any two entries of two tables come together."""
    step = min(map(len, tables.values())) if len(tables) > 2 else 1
    for places in product(*(range(len(table)) for table in tables.values())):
        if sum(places) % step == 0:
            yield {name: tables[name][place] for name, place in zip(tables, places, strict=True)}


STYLES = pytest.mark.parametrize("by_number", [True, False], ids=["numbered", "offsets"])
AHEAD = pytest.mark.parametrize("prefetch", [None, 0, 5])
DEPTHS = [None, 0, 5]
FIRST = [None, 30, 130]
"""After how many items a walk is left and taken up again; None: it is not."""


# Servers with a mind of their own about sizes


CAPS = [(250, 50), (400, 20), (600, 50), (250, 90), (250, 99), (300, 7), (101, 100), (40, 50)]


@pytest.mark.no_cover
@STYLES
@pytest.mark.parametrize(("count", "cap"), CAPS)
async def test_a_server_that_cuts_pages_and_says_so_is_walked_to_the_end(
    walk, by_number, count, cap
):
    for case in cases(page_size=[100, 50, 20], prefetch=DEPTHS, first=FIRST):
        server = ListModel(numbered(count), by_number=by_number, cap=cap, latency=2)
        outcome = await read_all(walk, server, **case)
        outcome.must_be_all(server.visible, case)


@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("by_number", "page_begins_by"),
    [(True, "used"), (True, "asked"), (False, "")],
    ids=["numbered by what it used", "numbered by what was asked", "offsets"],
)
@pytest.mark.parametrize(("count", "cap"), CAPS)
async def test_a_server_that_cuts_pages_and_repeats_the_size_asked_for_is_walked_to_the_end(
    walk, by_number, page_begins_by, count, cap
):
    for case in cases(page_size=[100, 50, 20], prefetch=DEPTHS, first=FIRST):
        server = ListModel(
            numbered(count),
            by_number=by_number,
            page_begins_by=page_begins_by,
            cap=cap,
            echoes=False,
            latency=2,
        )
        outcome = await read_all(walk, server, **case)
        outcome.must_be_all(server.visible, case)


@STYLES
@pytest.mark.parametrize("fixed", [20, 50])
async def test_a_server_that_has_one_size_and_says_so_is_walked_to_the_end(walk, by_number, fixed):
    for case in cases(page_size=[100, 30, 7], prefetch=DEPTHS, first=FIRST):
        server = ListModel(numbered(333), by_number=by_number, fixed=fixed, latency=2)
        outcome = await read_all(walk, server, **case)
        outcome.must_be_all(server.visible, case)


@STYLES
@pytest.mark.parametrize("fixed", [7, 20, 50, 200])
async def test_a_server_that_has_one_size_and_repeats_the_size_asked_for_loses_nothing_in_silence(
    walk, by_number, fixed
):
    for case in cases(page_size=[100, 30, 7], prefetch=DEPTHS, first=FIRST):
        server = ListModel(numbered(333), by_number=by_number, fixed=fixed, echoes=False)
        outcome = await read_all(walk, server, spare=50, **case)
        outcome.must_be_all_or_explained(server.visible, case)


# Rows that this key may not see


def at_random(share):
    def hide(items, seed):
        chance = random.Random(seed)
        return frozenset(item for item in items if chance.random() < share)

    return hide


def but_for(*seen):
    return lambda items, _seed: frozenset(items) - {items[place] for place in seen}


def in_a_row(start, count):
    return lambda items, _seed: frozenset(items[start : start + count])


HIDING = {
    "half at random": at_random(0.5),
    "four of five at random": at_random(0.8),
    "nine of ten at random": at_random(0.9),
    "ninety-nine of a hundred at random": at_random(0.99),
    "every other one": lambda items, _seed: frozenset(items[1::2]),
    "300 in a row": in_a_row(200, 300),
    "300 in a row but for one": lambda items, seed: (
        frozenset(items[200:500]) - {items[200 + 37 * (seed + 1)]}
    ),
    "400 in a row": in_a_row(333, 400),
    "900 in a row": in_a_row(10, 900),
    "the first 500": in_a_row(0, 500),
    "the last 500": in_a_row(500, 500),
    "all": in_a_row(0, 1_000),
    "all but the first": but_for(0),
    "all but the last": but_for(999),
    "all but one in the middle": but_for(555),
}


@pytest.mark.no_cover
@STYLES
@pytest.mark.parametrize("hiding", HIDING)
async def test_rows_that_are_hidden_are_no_end_and_no_error(walk, by_number, hiding):
    for seed, case in enumerate(
        cases(page_size=[100, 20, 7], prefetch=DEPTHS, first=[None, None, 9, 40])
    ):
        items = numbered(1_000)
        server = ListModel(
            items, by_number=by_number, hidden=HIDING[hiding](items, seed % 8), latency=2
        )
        outcome = await read_all(walk, server, **case)
        outcome.must_be_all(server.visible, case)


@pytest.mark.no_cover
@STYLES
@pytest.mark.parametrize("page_size", [1, 2, 3])
async def test_rows_that_are_hidden_are_no_end_of_a_walk_in_very_small_pages(
    walk, by_number, page_size
):
    for hiding in ("half at random", "four of five at random", "300 in a row but for one"):
        for first in (None, 40):
            items = numbered(600)
            server = ListModel(items, by_number=by_number, hidden=HIDING[hiding](items, 2))
            outcome = await read_all(walk, server, first=first, page_size=page_size, prefetch=0)
            outcome.must_be_all(server.visible, f"{hiding}, first={first}")


@STYLES
async def test_fifty_empty_pages_in_a_row_are_no_end(walk, by_number):
    items = numbered(6_000)
    server = ListModel(items, by_number=by_number, hidden=frozenset(items[300:5_300]))
    outcome = await read_all(walk, server)
    outcome.must_be_all(server.visible)


@pytest.mark.no_cover
@STYLES
@pytest.mark.parametrize("cap", [20, 50])
@pytest.mark.parametrize("hiding", ["half at random", "four of five at random", "400 in a row"])
async def test_a_server_that_cuts_pages_and_says_so_may_hide_rows_too(walk, by_number, cap, hiding):
    for case in cases(prefetch=DEPTHS, first=FIRST):
        items = numbered(1_000)
        server = ListModel(items, by_number=by_number, cap=cap, hidden=HIDING[hiding](items, 3))
        outcome = await read_all(walk, server, **case)
        outcome.must_be_all(server.visible, case)


@pytest.mark.no_cover
@STYLES
@pytest.mark.parametrize("cap", [20, 50, 90])
@pytest.mark.parametrize("hiding", ["every other one", "half at random", "400 in a row"])
async def test_a_server_that_cuts_pages_unsaid_and_hides_rows_loses_nothing_in_silence(
    walk, by_number, cap, hiding
):
    for seed, case in enumerate(cases(prefetch=DEPTHS, first=FIRST)):
        items = numbered(1_000)
        server = ListModel(
            items, by_number=by_number, cap=cap, echoes=False, hidden=HIDING[hiding](items, seed)
        )
        outcome = await read_all(walk, server, spare=3 * server.pages(100), **case)
        outcome.must_be_all_or_explained(server.visible, case)


# Totals that are wrong


def always(total):
    return lambda _true, _answer: total


def once(number, total):
    """One answer has a total of its own."""
    return lambda true, answer: total if answer == number else true


def wandering(*shares):
    """Each answer has another total: some share of the true one."""

    def total(true, answer):
        return int(true * random.Random(answer).choice(shares)) if answer else true

    return total


def trembling(most):
    """Each answer has a total that is near the true one."""

    def total(true, answer):
        return max(0, true + random.Random(answer).randint(-most, most)) if answer else true

    return total


# A window that ends just where a total that is too small says the list ends contradicts nothing: hence the primes.
TOTALS = {
    "always 0": always(0),
    "always 1": always(1),
    "always 3": always(3),
    "always 97": always(97),
    "always 251": always(251),
    "always half": lambda true, _answer: true // 2,
    "one too small": lambda true, _answer: true - 1,
    "57 too small": lambda true, _answer: true - 57,
    "the first answer says 0": once(1, 0),
    "the first answer says 53": once(1, 53),
    "the second answer says 0": once(2, 0),
    "the second answer says 53": once(2, 53),
    "the fourth answer says 0": once(4, 0),
    "the fourth answer says 53": once(4, 53),
    "the third answer says far too many": once(3, 50_000),
    "0 or right": wandering(0, 1),
    "half or right": wandering(0.5, 1),
    "anything": wandering(0, 0.1, 0.5, 0.9, 1, 1.1, 2),
    "right or double": wandering(1, 2),
    "nearly right": trembling(3),
    "right to a tenth": trembling(70),
}


@pytest.mark.no_cover
@STYLES
@pytest.mark.parametrize("totals", TOTALS)
async def test_a_total_that_is_wrong_loses_nothing_in_silence(walk, by_number, totals):
    for case in cases(page_size=[100, 20], prefetch=DEPTHS, first=FIRST):
        server = ListModel(numbered(370), by_number=by_number, total=TOTALS[totals], latency=2)
        outcome = await read_all(walk, server, spare=60, **case)
        outcome.must_be_all_or_explained(server.visible, case)


@pytest.mark.parametrize("total", [0, 41])
async def test_one_total_that_is_wrong_gives_nothing_twice_in_a_long_list(walk, total):
    """The ids that a walk remembers are bounded, so going back to the front may give them again."""
    server = ListModel(numbered(16_000), by_number=True, fixed=100, total=once(140, total))
    outcome = await read_all(walk, server, prefetch=0)
    outcome.must_be_all_or_explained(server.visible)


@STYLES
@pytest.mark.parametrize("more", [1, 50, 300, 5_000])
async def test_a_total_that_is_too_large_ends_after_the_places_that_it_names_or_with_an_error(
    walk, by_number, more
):
    for case in cases(prefetch=DEPTHS, first=FIRST):
        server = ListModel(
            numbered(500), by_number=by_number, total=lambda true, _answer: true + more
        )
        outcome = await read_all(walk, server, **case)
        outcome.must_be_all_or_explained(server.visible, case)
        assert outcome.given == server.visible


@STYLES
@pytest.mark.parametrize("share", [0.1, 0.5])
async def test_a_total_that_counts_only_what_this_key_sees_loses_nothing_in_silence(
    walk, by_number, share
):
    for seed, case in enumerate(cases(page_size=[100, 20], prefetch=DEPTHS, first=FIRST)):
        items = numbered(1_000)
        hidden = at_random(share)(items, seed)
        server = ListModel(
            items, by_number=by_number, hidden=hidden, total=always(1_000 - len(hidden))
        )
        outcome = await read_all(walk, server, spare=40, **case)
        outcome.must_be_all_or_explained(server.visible, case)


@pytest.mark.no_cover
@STYLES
@pytest.mark.parametrize("count", [0, 1, 40, 250])
async def test_a_list_that_says_it_is_endless_is_an_error_in_a_bounded_number_of_requests(
    walk, by_number, count
):
    for case in cases(page_size=[100, 20, 7], prefetch=DEPTHS):
        server = ListModel(numbered(count), by_number=by_number, total=always(HUGE))
        outcome = await read_all(walk, server, spare=MOST_FOR_HUGE, **case)
        assert outcome.given == server.visible, case
        must_explain(outcome.error)
        assert str(HUGE) in re.sub(r"[ ,_]", "", str(outcome.error)), case


@STYLES
@pytest.mark.parametrize("given", [1, 20, 130, 250])
@pytest.mark.parametrize("left", ["what there was", "nothing"])
async def test_a_walk_that_is_taken_up_again_gives_up_on_an_endless_list_too(
    walk, by_number, given, left
):
    for case in cases(page_size=[100, 20, 7], prefetch=[None, 0]):
        server = ListModel(numbered(250), by_number=by_number)
        iterator = walk(server, page_size=case["page_size"])
        outcome = Outcome([await anext(iterator) for _ in range(given)])
        position = iterator.position
        await iterator.close()
        server.total = always(HUGE)
        if left == "nothing":
            server.items.clear()
        server.allow(case["page_size"], spare=MOST_FOR_HUGE)
        with pytest.raises(ks.WalkError) as caught:
            async for item in walk(server, position=position, **case):
                outcome.given.append(item)
        must_explain(caught.value)
        expected = numbered(250 if left == "what there was" else given)
        assert outcome.given == expected, case


@STYLES
@pytest.mark.parametrize("more", [0, 300, 50_000])
async def test_a_page_past_the_end_that_shows_the_last_one_again_is_bounded(walk, by_number, more):
    for case in cases(prefetch=DEPTHS, first=FIRST):
        server = ListModel(
            numbered(450), by_number=by_number, beyond_shows_last=True, total=always(450 + more)
        )
        outcome = await read_all(walk, server, **case)
        outcome.must_be_all_or_explained(server.visible, case)


@pytest.mark.no_cover
@STYLES
@AHEAD
async def test_several_faults_at_a_time_lose_nothing_in_silence(walk, by_number, prefetch):
    for seed in range(60):
        chance = random.Random(seed)
        items = numbered(chance.randrange(600))
        hidden, total = chance.choice(
            [(0, None), (0.1, None), (0.5, None), (0, always(0)), (0, trembling(2))]
        )
        server = ListModel(
            items,
            by_number=by_number,
            cap=chance.choice([100, 100, 50, 20]),
            echoes=chance.random() < 0.5,
            page_begins_by=chance.choice(["used", "asked"]),
            hidden=at_random(hidden)(items, seed),
            total=total,
            latency=2,
            seed=seed,
        )
        page_size = chance.choice([100, 100, 60, 20, 7])
        outcome = await read_all(
            walk,
            server,
            first=chance.choice([None, 1, 30, 130]),
            page_size=page_size,
            prefetch=prefetch,
            spare=3 * server.pages(page_size),
        )
        outcome.must_be_all_or_explained(server.visible, f"seed={seed}")


# One id in two places, and an order that is not fixed


def repeated(*places, count=500):
    """The item at the first of each two places stands at the second one too."""
    items = numbered(count)
    for place, again in places:
        items.insert(again, items[place])
    return items


REPEATED = {
    "places 5 and 280": repeated((5, 280)),
    "the first and the last": repeated((0, 499)),
    "neighbours": repeated((10, 11)),
    "in one page": repeated((10, 60)),
    "in two pages": repeated((95, 105)),
    "on both sides of a boundary": repeated((99, 100)),
    "three times": repeated((5, 280), (5, 431)),
    "many": repeated(*((place, place + 170) for place in range(3, 300, 23))),
    "thirty in a row": [*numbered(300), *numbered(130)[100:], *numbered(500)[300:]],
    "a page": [*numbered(250), *numbered(100), *numbered(500)[250:]],
}


@STYLES
@pytest.mark.parametrize("where", REPEATED)
async def test_an_id_that_appears_twice_loses_nothing(walk, by_number, where):
    for case in cases(page_size=[100, 50, 20], prefetch=DEPTHS):
        server = ListModel(list(REPEATED[where]), by_number=by_number, latency=2)
        outcome = await read_all(walk, server, **case)
        outcome.must_be_all(server.visible, case)


@pytest.mark.no_cover
@STYLES
@pytest.mark.parametrize("where", REPEATED)
async def test_an_id_that_appears_twice_loses_nothing_in_a_walk_that_is_taken_up_again(
    walk, by_number, where
):
    for case in cases(page_size=[100, 20], prefetch=[None, 0], first=[1, 10, 30, 130]):
        server = ListModel(list(REPEATED[where]), by_number=by_number)
        outcome = await read_all(walk, server, **case)
        assert outcome.error is None
        # What stands in two places may be given twice: a position doesn't know all that was given.
        lost = set(server.visible) - set(outcome.given)
        assert not lost, f"{case}: {len(lost)} lost"


async def page_after_page(server):
    """How many items are lost by who reads page after page."""
    given = set()
    for start in range(0, len(server.items), 100):
        given |= set((await server.fetch(start, 100)).items)
    return len(set(server.items) - given)


@pytest.mark.no_cover
@STYLES
@pytest.mark.parametrize("prefetch", [0, None])
@pytest.mark.parametrize("ties", [2, 5, 7, 50, 70])
async def test_ties_in_no_fixed_order_lose_at_most_what_page_after_page_does(
    walk, by_number, prefetch, ties
):
    lost_here = lost_there = 0
    for seed in range(8):
        server = ListModel(numbered(600), by_number=by_number, ties=ties, seed=seed, latency=2)
        lost_there += await page_after_page(server)
        outcome = await read_all(walk, server, prefetch=prefetch)
        assert len(outcome.given) == len(set(outcome.given)), f"seed={seed}: given twice"
        if outcome.error is None:
            lost_here += len(server.visible) - len(outcome.given)
    assert lost_here <= lost_there


# Lists that change otherwise than at their front


@pytest.mark.no_cover
@pytest.mark.parametrize("prefetch", [0, None, 5])
@pytest.mark.parametrize("arrivals", ["end", "anywhere"])
@pytest.mark.parametrize("page_size", [100, 20])
async def test_items_that_come_in_elsewhere_than_at_the_front_lose_nothing(
    walk, prefetch, arrivals, page_size
):
    """Oldest first, uploads come in at the end; a server's status filter lets items in anywhere.

    Then the total may stay the same while items before the place were removed.
    """
    for seed in range(20):
        server = ListModel(
            numbered(random.Random(seed).randrange(200, 900)),
            changes=page_size // 4,
            arrivals=arrivals,
            latency=3,
            seed=seed,
        )
        outcome = await read_all(walk, server, page_size=page_size, prefetch=prefetch, spare=100)
        if outcome.error is not None:
            raise AssertionError(f"seed={seed}") from outcome.error
        staying = set(server.staying)
        outcome.given = [item for item in outcome.given if item in staying]
        outcome.must_be_all(server.staying, f"seed={seed}")


@pytest.mark.parametrize("prefetch", [0, None])
@pytest.mark.parametrize("page_size", [100, 20])
async def test_replicas_that_lag_lose_nothing_in_silence(walk, prefetch, page_size):
    for seed in range(20):
        server = ListModel(
            numbered(random.Random(seed).randrange(200, 900)),
            changes=page_size // 10,
            lag=3,
            latency=3,
            seed=seed,
        )
        outcome = await read_all(walk, server, page_size=page_size, prefetch=prefetch, spare=100)
        outcome.must_be_all_or_explained(server.staying, f"seed={seed}")


# Walks that are left, and taken up again


STOPS = ["limit", "break", "leave the block", "pages", "error", "cancelled reader"]


class Histories:
    """Walks of one list in legs: each stops somehow, somewhere, and the next begins at its position."""

    def __init__(
        self, walk, server, chance, *, keep=None, prefetch=None, page_sizes=(100, 50, 20, 7, 3)
    ):
        self.walk = walk
        self.server = server
        self.chance = chance
        self.keep = keep
        self.prefetch = prefetch
        self.page_sizes = page_sizes
        self.given = []
        self.story = []

    async def run(self, *, between=0):
        """All legs, until one comes to the end; that may not take more legs than items and errors."""
        position = None
        for _ in range(200):
            page_size = self.chance.choice(self.page_sizes)
            stop = self.chance.choice(STOPS)
            count = self.chance.choice([1, 2, self.chance.randrange(1, 120), page_size])
            self.story.append((stop, count, page_size))
            self.server.allow(page_size)
            self.server.fail_at = self.chance.randrange(1, 6) if stop == "error" else 0
            is_over, position = await self._leg(stop, count, page_size, position)
            if is_over:
                return
            position = json.loads(json.dumps(position))
            self.server.protected = frozenset(self.given[-1:])
            self.server.change(between)
        raise AssertionError("the walk comes to no end")

    async def _leg(self, stop, count, page_size, position):
        iterator = self.walk(
            self.server,
            page_size=page_size,
            prefetch=self.prefetch,
            position=position,
            keep=self.keep,
            limit=count if stop == "limit" else None,
        )
        before = len(self.given)
        is_over = False
        if stop == "limit":
            is_over = await self._read(iterator) and len(self.given) - before < count
        elif stop == "leave the block":
            async with iterator:
                is_over = await self._read(iterator, count)
        elif stop == "pages":
            is_over = True
            async for page in iterator.pages():
                self.given += page
                if len(self.given) - before >= count:
                    is_over = False
                    break
        elif stop == "cancelled reader":
            is_over = await self._read(iterator, count) or await self._cancel_a_reader(iterator)
        else:
            is_over = await self._read(iterator, count)
        if self.chance.random() < 0.3:
            await iterator.close()
        return is_over, iterator.position

    async def _read(self, iterator, count=None):
        """Read so many; whether the walk came to its end."""
        read = 0
        try:
            async for item in iterator:
                self.given.append(item)
                read += 1
                if read == count:
                    return False
        except LostError:
            return False
        return True

    async def _cancel_a_reader(self, iterator):
        reader = asyncio.ensure_future(anext(iterator))
        for _ in range(self.chance.randrange(6)):
            await asyncio.sleep(0)
        reader.cancel()
        try:
            self.given.append(await reader)
        except asyncio.CancelledError:
            pass
        except StopAsyncIteration:
            return True
        return False

    def check(self, expected, case):
        expected = [item for item in expected if self.keep is None or self.keep(item)]
        wanted = set(expected)
        outcome = Outcome([item for item in self.given if item in wanted])
        outcome.must_be_all(expected, f"{case}: {self.story}")


async def go_through_histories(walk, kind, *, by_number, prefetch, count=42):
    for seed in range(count):
        chance = random.Random(f"{kind}:{seed}")
        items = numbered(chance.randrange(160))
        options, between = {}, 0
        page_sizes = (50, 20, 7, 3, 1)
        if kind in {"changes", "changes and a filter"}:
            options["changes"], between = 2, 12
            page_sizes = (100, 50, 20)
        if kind == "hidden rows":
            options["hidden"] = at_random(chance.choice([0.2, 0.5, 0.8]))(items, seed)
        if kind == "cut pages":
            options.update(cap=chance.choice([20, 50, 90]), echoes=False)
        server = ListModel(items, by_number=by_number, latency=2, seed=seed, **options)
        keep = (lambda item: hash_of(item) % 3 == 0) if kind.endswith("filter") else None
        histories = Histories(
            walk, server, chance, keep=keep, prefetch=prefetch, page_sizes=page_sizes
        )
        try:
            await histories.run(between=between)
        except (ks.KnowledgeStackError, AssertionError) as error:
            raise AssertionError(f"seed={seed}: {histories.story}") from error
        histories.check(server.staying, f"seed={seed}")


def hash_of(item):
    """A number of an item that is the same in each process."""
    return zlib.crc32(item.encode())


KINDS = ["quiet", "a filter", "changes", "changes and a filter", "hidden rows", "cut pages"]


@STYLES
@AHEAD
@pytest.mark.parametrize("kind", KINDS)
async def test_a_walk_that_is_taken_up_again_is_the_same_walk(walk, by_number, prefetch, kind):
    """36 times 42 random histories of walks in legs."""
    await go_through_histories(walk, kind, by_number=by_number, prefetch=prefetch)


async def in_legs(walk, server, limit, *, keep=None, **options):
    """A whole walk in legs of so many items, each from the position of the one before."""
    given, position = [], None
    while True:
        iterator = walk(server, limit=limit, position=position, keep=keep, **options)
        leg = await iterator
        given += leg
        position = json.loads(json.dumps(iterator.position))
        if len(leg) < limit:
            return given


@pytest.mark.no_cover
@STYLES
@pytest.mark.parametrize("limit", [1, 10, 30, 99, 100, 101, 130, 250, 500])
async def test_limits_cut_a_walk_into_legs_without_a_loss(walk, by_number, limit):
    for case in cases(page_size=[100, 20, 7], prefetch=DEPTHS):
        server = ListModel(numbered(min(500, 40 * limit)), by_number=by_number, latency=2)
        outcome = Outcome(await in_legs(walk, server, limit, **case))
        outcome.must_be_all(server.items, case)


@pytest.mark.no_cover
@STYLES
@pytest.mark.parametrize("limit", [1, 10, 33])
@pytest.mark.parametrize("one_in", [2, 3, 10, 150])
async def test_limits_and_a_filter_cut_a_walk_into_legs_without_a_loss(
    walk, by_number, limit, one_in
):
    def keep(item):
        return int(item[1:]) % one_in == 0

    for case in cases(page_size=[100, 30], prefetch=DEPTHS):
        server = ListModel(numbered(40 * limit), by_number=by_number, latency=2)
        outcome = Outcome(await in_legs(walk, server, limit, keep=keep, **case))
        outcome.must_be_all([item for item in server.items if keep(item)], case)


@STYLES
@pytest.mark.parametrize("count", [0, 1, 30, 99, 100, 101, 130, 250, 499, 500])
async def test_a_position_is_the_same_inside_and_after_the_block(walk, by_number, count):
    for prefetch in DEPTHS:
        server = ListModel(numbered(500), by_number=by_number, latency=2)
        given = []
        async with walk(server, prefetch=prefetch) as iterator:
            while len(given) < count:
                given.append(await anext(iterator))
            inside = json.loads(json.dumps(iterator.position))
        after = json.loads(json.dumps(iterator.position))
        for place, position in {"inside": inside, "after": after}.items():
            rest = await walk(server, prefetch=prefetch, position=position)
            Outcome(given + rest).must_be_all(server.items, f"{place}, prefetch={prefetch}")


@STYLES
@pytest.mark.parametrize("count", [1, 40, 150])
async def test_a_block_that_is_left_by_an_error_leaves_the_position(walk, by_number, count):
    server = ListModel(numbered(300), by_number=by_number)
    given = []
    with pytest.raises(ZeroDivisionError):
        async with walk(server) as iterator:
            async for item in iterator:
                given.append(item)
                if len(given) == count:
                    raise ZeroDivisionError
    assert given + await walk(server, position=iterator.position) == server.items


@STYLES
@AHEAD
async def test_a_position_after_an_error_is_where_the_error_came(walk, by_number, prefetch):
    for fail_at in (1, 2, 3, 5):
        server = ListModel(numbered(700), by_number=by_number, latency=2)
        server.fail_at = fail_at
        given, iterator = [], walk(server, prefetch=prefetch)
        with pytest.raises(LostError):
            async for item in iterator:
                given.append(item)
        server.fail_at = 0
        given += await walk(server, prefetch=prefetch, position=iterator.position)
        Outcome(given).must_be_all(server.items, f"fail_at={fail_at}")


@STYLES
@pytest.mark.parametrize("count", [0, 1, 30, 150])
async def test_a_walk_that_has_not_gone_on_has_the_position_that_it_was_given(
    walk, by_number, count
):
    server = ListModel(numbered(300), by_number=by_number)
    first = walk(server)
    given = [await anext(first) for _ in range(count)]
    untouched = walk(server, position=first.position)
    failing = walk(server, position=untouched.position)
    server.requests, server.fail_at = 0, 1
    with pytest.raises(LostError):
        await anext(failing)
    server.fail_at = 0
    assert given + await walk(server, position=failing.position) == server.items


@STYLES
async def test_the_position_of_a_walk_that_is_over_has_nothing_after_it(walk, by_number):
    server = ListModel(numbered(250), by_number=by_number)
    for limit in (None, 250):
        iterator = walk(server, limit=limit)
        assert await iterator == server.items
        assert await walk(server, position=iterator.position) == []


@STYLES
async def test_a_walk_in_turn_by_items_and_by_pages_leaves_the_right_position(walk, by_number):
    server = ListModel(numbered(420), by_number=by_number)
    iterator = walk(server)
    given = [await anext(iterator) for _ in range(130)]
    given += await anext(iterator.pages())
    given += [await anext(iterator) for _ in range(5)]
    assert given + await walk(server, position=iterator.position) == server.items


@STYLES
@pytest.mark.parametrize("newer", [0, 50])
@pytest.mark.parametrize("count", [150, 200])
async def test_where_the_last_items_given_are_all_gone_the_distance_from_the_end_decides(
    walk, by_number, newer, count
):
    server = ListModel(numbered(500), by_number=by_number)
    iterator = walk(server)
    given = [await anext(iterator) for _ in range(count)]
    server.items = [f"new-{number}" for number in range(newer)] + server.items
    server.items = [item for item in server.items if item not in given[-100:]]
    assert given + await walk(server, position=iterator.position) == numbered(500)


class Shrinking(ListModel):
    """Before each answer, the first items that came in later are removed again."""

    def change(self, most):
        newer = sum(item.startswith("new-") for item in self.items)
        del self.items[: min(most, newer)]


@pytest.mark.no_cover
@STYLES
async def test_a_place_that_moves_while_it_is_looked_for_is_found(walk, by_number):
    for newer in range(400, 900, 20):
        server = Shrinking(numbered(1_000), by_number=by_number)
        iterator = walk(server)
        given = [await anext(iterator) for _ in range(200)]
        server.items = [f"new-{number}" for number in range(newer)] + server.items
        server.changes = 40
        given += await walk(server, position=iterator.position, prefetch=0)
        Outcome(given).must_be_all(numbered(1_000), f"newer={newer}")


# Over a socket: the sandbox in each of its generations


@asynccontextmanager
async def sandbox_of(dialect, count, **options):
    async with Sandbox(
        ingestions=count, runs=0, dialect=dialect, api_key=KEY, record=False, **options
    ) as box:
        async with box.session(clock=FakeClock()) as session:
            yield box, session


async def ids_in_legs(session, limit, **options):
    """All ids, in legs: each walk has a limit and a block, and its position is read after the block."""
    given, position = [], None
    while True:
        async with ks.iter_ingestion_workflows(
            session, limit=limit, position=position, **options
        ) as iterator:
            leg = [item.workflow_id async for item in iterator]
        given += leg
        position = json.loads(json.dumps(iterator.position))
        if len(leg) < limit:
            return given


GENERATIONS = pytest.mark.parametrize("dialect", sorted(DIALECTS))


@pytest.mark.no_cover
@GENERATIONS
@pytest.mark.parametrize(
    ("limit", "page_size"), [(130, 100), (250, 100), (30, 20), (30, 100), (130, 20), (25, 7)]
)
async def test_limits_lose_nothing_in_any_generation(dialect, limit, page_size):
    async with sandbox_of(dialect, 10 * limit if page_size == 7 else 500) as (box, session):
        given = await ids_in_legs(session, limit, page_size=page_size)
        assert given == box.store.ids()


@pytest.mark.no_cover
@GENERATIONS
@pytest.mark.parametrize("page_size", [100, 20, 7])
async def test_a_limit_and_a_filter_lose_nothing_in_any_generation(dialect, page_size):
    async with sandbox_of(dialect, 500) as (box, session):
        given = await ids_in_legs(session, 10, page_size=page_size, status="failed")
        assert given == box.store.ids("failed")
        assert len(given) > 100


@pytest.mark.no_cover
@GENERATIONS
@pytest.mark.parametrize("status", [None, "failed"])
@pytest.mark.parametrize("count", [1, 29, 130])
async def test_a_position_read_after_the_block_loses_nothing_in_any_generation(
    dialect, status, count
):
    async with sandbox_of(dialect, 500) as (box, session):
        given = []
        async with ks.iter_ingestion_workflows(session, status=status) as iterator:
            async for item in iterator:
                given.append(item.workflow_id)
                if len(given) == count:
                    break
        position = json.loads(json.dumps(iterator.position))
        rest = ks.iter_ingestion_workflows(session, status=status, position=position, page_size=40)
        given += [item.workflow_id async for item in rest]
        assert given == box.store.ids(*([] if status is None else [status]))


@GENERATIONS
async def test_uploads_and_deletions_between_the_legs_lose_nothing_in_any_generation(dialect):
    async with sandbox_of(dialect, 400) as (box, session):
        chance = random.Random(3)
        at_first, removed, given, position = list(box.store.ids()), set(), [], None
        while True:
            async with ks.iter_ingestion_workflows(session, limit=47, position=position) as leg:
                given += (found := [item.workflow_id async for item in leg])
            if len(found) < 47:
                break
            position = json.loads(json.dumps(leg.position))
            for _ in range(6):
                box.store.add_ingestion("completed")
                gone = chance.choice(box.store.ids())
                if gone not in given[-3:]:
                    box.store.remove_ingestion(gone)
                    removed.add(gone)
        staying = [id_ for id_ in at_first if id_ not in removed]
        assert [id_ for id_ in given if id_ in set(staying)] == staying
        assert len(given) == len(set(given))


@pytest.mark.parametrize("prefetch", [0, None])
async def test_uploads_and_deletions_lose_nothing_of_a_walk_from_the_oldest(prefetch):
    """Uploads come in at this walk's end, so that the total doesn't tell what was removed."""
    async with sandbox_of("system-jobs", 500) as (box, session):
        chance = random.Random(4)
        at_first = box.store.ids()[::-1]

        def change(_request):
            for _ in range(5):
                box.store.add_ingestion("completed")
                box.store.remove_ingestion(chance.choice(box.store.ids()))

        box.before_request = change
        walk = ks.iter_ingestion_workflows(session, oldest_first=True, prefetch=prefetch)
        given = [item.workflow_id async for item in walk]
        left = set(box.store.ids())
        staying = [id_ for id_ in at_first if id_ in left]
        assert [id_ for id_ in given if id_ in set(staying)] == staying
        assert len(given) == len(set(given))


@pytest.mark.parametrize("prefetch", [0, None])
async def test_statuses_that_change_lose_nothing_of_a_walk_that_the_server_filters(prefetch):
    """The newest leave the list while older ones fail, so that the total doesn't tell what has left."""
    async with sandbox_of("system-jobs", 900) as (box, session):
        chance = random.Random(4)
        at_first = box.store.ids("failed")
        left = set()

        def change(_request):
            newest, oldest = box.store.ids("failed")[:40], box.store.ids("completed")[-80:]
            for leaving, entering in zip(
                chance.sample(newest, 5), chance.sample(oldest, 5), strict=True
            ):
                box.store.set_status(leaving, "cancelled")
                box.store.set_status(entering, "failed")
                left.add(leaving)

        box.before_request = change
        walk = ks.iter_ingestion_workflows(
            session, status="failed", page_size=40, prefetch=prefetch
        )
        given = [item.workflow_id async for item in walk]
        staying = [id_ for id_ in at_first if id_ not in left]
        assert [id_ for id_ in given if id_ in set(staying)] == staying
        assert len(given) == len(set(given))


# Over a socket: servers with a mind of their own


@attrs.define(eq=False)
class ListServer:
    """A server of one generation with a list of rows, newest first.

    Args:
        rows: The items as they are written, each with its exact time of creation.
        style: The generation whose route, query and envelope it has.
        cap: The largest page.
        echoes: Whether it names the size that it used.
        hidden: The ids of rows that it takes out of a page after it was cut.
        envelope: Changes an answer before it is sent.
    """

    rows: list[tuple[datetime, dict]]
    style: str = "documented"
    cap: int = 100
    echoes: bool = True
    hidden: frozenset[str] = frozenset()
    envelope: object = None
    requests: int = 0

    @property
    def path(self):
        root = "system-jobs" if self.style == "system-jobs" else "workflows"
        return f"/v1/{root}/document_versions"

    async def answer(self, request):
        self.requests += 1
        query = request.query
        rows = self.rows
        if self.style == "system-jobs" and "created_before" in query:
            end = datetime.fromisoformat(query["created_before"])
            rows = [row for row in rows if row[0] < end]
        if self.style == "system-jobs" and "status" in query:
            rows = [row for row in rows if row[1]["status"] in query.getall("status")]
        if self.style == "documented":
            asked, page = int(query.get("page_size", "20")), int(query.get("page", "1"))
            used = min(asked, self.cap)
            begin = (page - 1) * used
            places = {"page": page, "page_size": used if self.echoes else asked}
        else:
            asked, begin = int(query.get("limit", "20")), int(query.get("offset", "0"))
            used = min(asked, self.cap)
            places = {"limit": used if self.echoes else asked, "offset": begin}
        items = [row for _, row in rows[begin : begin + used]]
        items = [row for row in items if row["workflow_id"] not in self.hidden]
        answer = {"items": items, "total": len(rows), **places}
        return web.json_response(answer if self.envelope is None else self.envelope(answer))

    @property
    def visible(self):
        ids = [row["workflow_id"] for _, row in self.rows]
        return [id_ for id_ in ids if id_ not in self.hidden]


@asynccontextmanager
async def serving(server):
    app = web.Application()
    app.router.add_get(server.path, server.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with ks.Session(
            KEY, url, clock=FakeClock(), retry=ks.RetryPolicy(tries=1)
        ) as session:
            yield session
    finally:
        await runner.cleanup()


NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def rows(count, *, apart=timedelta(minutes=1), written=datetime.isoformat):
    """Rows, newest first, each so much older than the one before it."""
    moments = [NOON - number * apart for number in range(count)]
    return [
        (
            moment,
            {
                **CURRENT_SUMMARY,
                "workflow_id": f"ingest-{number}",
                "status": "failed",
                "created_at": written(moment),
            },
        )
        for number, moment in enumerate(moments)
    ]


async def ids_of_walk(session, **options):
    return [item.workflow_id async for item in ks.iter_ingestion_workflows(session, **options)]


WIRES = pytest.mark.parametrize("style", ["documented", "offset", "system-jobs"])


@WIRES
@pytest.mark.parametrize(("count", "cap"), [(250, 50), (400, 20), (250, 90)])
async def test_pages_that_are_cut_unsaid_lose_nothing_on_any_wire(style, count, cap):
    server = ListServer(rows(count), style=style, cap=cap, echoes=False)
    async with serving(server) as session:
        assert await ids_of_walk(session) == server.visible
        assert server.requests <= 3 * count // cap + 60


@WIRES
@pytest.mark.parametrize("limit", [30, 130])
async def test_pages_that_are_cut_unsaid_lose_nothing_in_legs_on_any_wire(style, limit):
    server = ListServer(rows(400), style=style, cap=50, echoes=False)
    async with serving(server) as session:
        assert await ids_in_legs(session, limit) == server.visible


@pytest.mark.no_cover
@WIRES
@pytest.mark.parametrize(
    "seen",
    [
        lambda place: place % 5 == 0,
        lambda place: not 60 <= place < 600,
        lambda place: not 100 <= place < 400 or place == 230,
    ],
    ids=["one in five", "540 in a row hidden", "300 in a row hidden but for one"],
)
@pytest.mark.parametrize("page_size", [100, 20])
async def test_rows_that_are_hidden_are_no_end_on_any_wire(style, seen, page_size):
    hidden = frozenset(f"ingest-{place}" for place in range(700) if not seen(place))
    server = ListServer(rows(700), style=style, hidden=hidden)
    async with serving(server) as session:
        assert await ids_of_walk(session, page_size=page_size) == server.visible
        assert server.requests <= 3 * 700 // page_size + 60


@WIRES
async def test_a_small_limit_passes_hidden_rows_in_few_requests(style):
    hidden = frozenset(f"ingest-{place}" for place in range(600))
    server = ListServer(rows(700), style=style, hidden=hidden)
    async with serving(server) as session:
        assert await ids_of_walk(session, limit=2) == ["ingest-600", "ingest-601"]
        assert server.requests <= 3 * 7 + 60


@WIRES
@pytest.mark.parametrize("total", [0, 3, 99, 150])
async def test_a_total_that_is_too_small_loses_nothing_in_silence_on_any_wire(style, total):
    server = ListServer(rows(250), style=style, envelope=lambda answer: answer | {"total": total})
    async with serving(server) as session:
        outcome = Outcome()
        try:
            async for item in ks.iter_ingestion_workflows(session):
                outcome.given.append(item.workflow_id)
        except ks.WalkError as error:
            outcome.error = error
        outcome.must_be_all_or_explained(server.visible)


@WIRES
async def test_an_endless_list_is_an_error_on_any_wire(style):
    server = ListServer(rows(120), style=style)
    async with serving(server) as session:
        async with ks.iter_ingestion_workflows(session, limit=50) as iterator:
            first = await iterator
        server.envelope = lambda answer: answer | {"total": HUGE}
        for position, left in ((None, 120), (iterator.position, 70)):
            given = []
            server.requests = 0
            with pytest.raises(ks.WalkError, match=r"1[ ,]?000[ ,]?000[ ,]?000"):
                async for item in ks.iter_ingestion_workflows(session, position=position):
                    given.append(item.workflow_id)
            assert len(given) == left
            assert server.requests <= MOST_FOR_HUGE
        assert len(first) == 50


@pytest.mark.no_cover
@WIRES
@pytest.mark.parametrize("name", ["total", "items", "a place", "a size"])
@pytest.mark.parametrize("how", ["null", "absent", "negative", "text"])
@pytest.mark.parametrize("only_later", [False, True], ids=["at once", "later"])
async def test_an_envelope_that_lacks_something_loses_nothing_in_silence(
    style, name, how, only_later
):
    names = {"a place": ("page", "offset"), "a size": ("page_size", "limit")}
    if name in names:
        name = names[name][style != "documented"]

    def spoil(answer):
        if only_later and server.requests < 3:
            return answer
        if how == "absent":
            return {key: value for key, value in answer.items() if key != name}
        return answer | {name: {"null": None, "negative": -1, "text": "250"}[how]}

    server = ListServer(rows(250), style=style, envelope=spoil)
    given = []
    async with serving(server) as session:
        try:
            given = await ids_of_walk(session, prefetch=0)
        except ks.KnowledgeStackError as error:
            given = None
            assert str(error)
    assert given is None or given == server.visible
    assert server.requests <= 70


# The fence that keeps later uploads out


@pytest.mark.parametrize("first", [None, 30, 150])
@pytest.mark.parametrize("status", ["failed", None])
async def test_times_that_are_written_coarser_than_they_are_compared_lose_nothing(first, status):
    """A bulk upload within one second, whose times are written without their fraction."""

    def in_seconds(moment):
        return moment.replace(microsecond=0).isoformat()

    server = ListServer(
        rows(500, apart=timedelta(microseconds=1_700), written=in_seconds), style="system-jobs"
    )
    server.rows = [(moment + timedelta(milliseconds=950), row) for moment, row in server.rows]
    for moment, row in server.rows:
        row["created_at"] = in_seconds(moment)
    async with serving(server) as session:
        if first is None:
            assert await ids_of_walk(session, status=status) == server.visible
        else:
            assert await ids_in_legs(session, first, status=status) == server.visible


@pytest.mark.parametrize("behind", [timedelta(seconds=2), timedelta(hours=1)])
@pytest.mark.parametrize("written", ["as compared", "in milliseconds"])
async def test_a_newest_item_whose_time_is_behind_the_others_loses_nothing(behind, written):
    """Uploads keep their order, while their times come from several clocks."""
    server = ListServer(rows(500, apart=timedelta(milliseconds=3)), style="system-jobs")
    moment, row = server.rows[0]
    late = moment - behind
    text = late.isoformat() if written == "as compared" else late.isoformat(timespec="milliseconds")
    server.rows[0] = (late, row | {"created_at": text})
    async with serving(server) as session:
        assert await ids_of_walk(session, status="failed") == server.visible
        assert await ids_in_legs(session, 130, status="failed") == server.visible


async def test_the_server_whose_times_are_in_order_is_walked_to_the_end():
    server = ListServer(rows(500), style="system-jobs")
    async with serving(server) as session:
        assert await ids_of_walk(session, status="failed") == server.visible
