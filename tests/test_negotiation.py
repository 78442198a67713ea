"""Which generation is talking: learned from pages and missing routes, with one probe for all."""

import asyncio
import json
import logging
from collections import Counter
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

import knowledgestack_async as ks
from knowledgestack_async._dialects import GENERATIONS, Route
from knowledgestack_async._negotiation import Negotiation
from knowledgestack_async.sandbox import Sandbox
from support import KEY, FakeClock, http, raw_server

DOCUMENTED, OFFSET, UNFILTERED, SYSTEM_JOBS = GENERATIONS
HOLDS_FOR, MIXED_FOR = Negotiation.HOLDS_FOR, Negotiation.MIXED_FOR
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.reading = 1_000.0

    def now(self):
        return self.reading


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def negotiation(clock):
    return Negotiation("auto", clock)


def page_of(generation, *, count=1):
    """A page of the list, as a server of that generation gives it."""
    named = {"document_name": "a.pdf", "is_active_version": True}
    item = ks.WorkflowSummaryResponse(
        workflow_id="w",
        document_id="d",
        document_version_id="v",
        status=ks.IngestionStatus.FAILED,
        last_run_timestamp=NOON,
        created_at=NOON,
        **(named if generation.names_documents else {}),
    )
    numbered, placed = {"page": 1, "page_size": 1}, {"offset": 0, "limit": 1}
    envelope = numbered if generation.paging.by_number else placed
    return ks.PaginatedResponse(items=(item,) * count, total=count, **envelope)


class Server:
    """Answers probes as a server of one generation would, and notes them.

    Attributes:
        speaks: Its generation; None for one that has none of the lists.
        may_read: Whether the key may read the list.
        count: How many items a page holds.
        troubles: What comes instead of the next answers; None for the answer itself.
        asked: The generations whose lists were asked for.
    """

    def __init__(self, negotiation, speaks=None, *, may_read=True, count=1, troubles=()):
        self.negotiation = negotiation
        self.speaks = speaks
        self.may_read = may_read
        self.count = count
        self.troubles = [*troubles]
        self.asked = []

    async def probe(self, generation):
        self.asked.append(generation.name)
        await asyncio.sleep(0)
        trouble = self.troubles.pop(0) if self.troubles else None
        if trouble is not None:
            raise trouble
        if self.speaks is None or generation.paths[Route.WORKFLOW] != self.speaks.paths["workflow"]:
            return False
        return page_of(self.speaks, count=self.count) if self.may_read else True

    async def find(self, asked, *, list_is_missing=False):
        """The generation that is known after a 404, and the probes that it took."""
        before = len(self.asked)
        await self.negotiation.find(asked, self.probe, list_is_missing=list_is_missing)
        return self.negotiation.dialect, self.asked[before:]


def lost():
    return ks.ConnectionLost("the connection was lost", "GET", "/v1/x")


# What was set, and what is guessed


def test_auto_begins_with_the_documented_one(negotiation):
    assert negotiation.dialect is DOCUMENTED
    assert not negotiation.is_fixed
    assert not negotiation.is_confirmed
    assert not negotiation.is_mixed


@pytest.mark.parametrize("dialect", GENERATIONS)
@pytest.mark.parametrize("count", [0, 1])
def test_a_dialect_may_be_set_by_name(dialect, count, clock, caplog):
    fixed = Negotiation(dialect.name, clock)
    assert fixed.dialect is dialect
    assert fixed.is_fixed
    assert fixed.is_confirmed
    with caplog.at_level(logging.INFO, "knowledgestack_async"):
        assert fixed.observe(dialect, page_of(dialect, count=count)) is dialect
    assert fixed.dialect is dialect
    assert caplog.messages == []


def test_an_unknown_name_is_refused(clock):
    with pytest.raises(ks.ConfigurationError, match="dialect must be"):
        Negotiation("latest", clock)


@pytest.mark.parametrize(
    ("dialect", "speaks"), [(DOCUMENTED, OFFSET), (OFFSET, DOCUMENTED), (SYSTEM_JOBS, UNFILTERED)]
)
def test_a_dialect_set_by_name_that_answers_otherwise_is_an_error(dialect, speaks, clock):
    fixed = Negotiation(dialect.name, clock)
    told = f"answers as '{speaks.name}', not as '{dialect.name}'"
    with pytest.raises(ks.InvalidResponse, match=told) as caught:
        fixed.observe(dialect, page_of(speaks))
    assert (caught.value.method, caught.value.path) == ("GET", dialect.paths["list_ingestions"])
    assert "dialect='auto'" in caught.value.hint
    assert fixed.dialect is dialect


def test_a_server_that_can_more_than_was_named_is_taken_for_what_was_named(clock):
    fixed = Negotiation("system-jobs-unfiltered", clock)
    assert fixed.observe(UNFILTERED, page_of(SYSTEM_JOBS)) is UNFILTERED
    assert fixed.dialect is UNFILTERED


# What pages tell


def test_an_envelope_confirms_the_first_guess(negotiation, caplog):
    with caplog.at_level(logging.INFO, "knowledgestack_async"):
        assert negotiation.observe(DOCUMENTED, page_of(DOCUMENTED)) is DOCUMENTED
        assert negotiation.observe(DOCUMENTED, page_of(DOCUMENTED)) is DOCUMENTED
    assert negotiation.is_confirmed
    assert caplog.messages == ["the server speaks the dialect 'documented'"]


def test_an_envelope_tells_offsets_from_numbers_and_the_log_says_it_once(negotiation, caplog):
    with caplog.at_level(logging.INFO, "knowledgestack_async"):
        assert negotiation.observe(DOCUMENTED, page_of(OFFSET)) is OFFSET
        assert negotiation.observe(OFFSET, page_of(OFFSET)) is OFFSET
    assert negotiation.dialect is OFFSET
    assert negotiation.is_confirmed
    assert caplog.messages == ["the server speaks the dialect 'offset'"]


def test_a_late_answer_to_a_question_in_the_old_way_is_told_from_a_good_one(negotiation):
    negotiation.observe(DOCUMENTED, page_of(OFFSET))
    assert negotiation.observe(DOCUMENTED, page_of(OFFSET)) is OFFSET
    assert negotiation.dialect is OFFSET


async def know(negotiation, generation):
    """Let a session know that this is the generation that speaks."""
    if generation.paths[Route.WORKFLOW] != negotiation.dialect.paths[Route.WORKFLOW]:
        await Server(negotiation, generation).find(negotiation.dialect, list_is_missing=True)
    negotiation.observe(negotiation.dialect, page_of(generation))
    assert negotiation.dialect is generation
    assert negotiation.is_confirmed


@pytest.mark.parametrize("known", [UNFILTERED, SYSTEM_JOBS])
@pytest.mark.parametrize("speaks", [DOCUMENTED, OFFSET])
async def test_a_late_answer_from_a_route_that_was_left_teaches_nothing(negotiation, known, speaks):
    await know(negotiation, known)
    assert negotiation.observe(DOCUMENTED, page_of(speaks)) is speaks
    assert negotiation.dialect is known


@pytest.mark.parametrize("speaks", [UNFILTERED, SYSTEM_JOBS])
async def test_so_does_one_from_the_later_routes_after_a_rollback(negotiation, speaks):
    await know(negotiation, OFFSET)
    assert negotiation.observe(SYSTEM_JOBS, page_of(speaks)) is speaks
    assert negotiation.dialect is OFFSET


@pytest.mark.parametrize("asked", [UNFILTERED, SYSTEM_JOBS])
async def test_an_upgrade_and_a_rollback_of_the_same_routes_are_noticed_by_items(
    negotiation, asked, caplog
):
    await know(negotiation, UNFILTERED)
    with caplog.at_level(logging.INFO, "knowledgestack_async"):
        for speaks in (UNFILTERED, SYSTEM_JOBS, SYSTEM_JOBS, UNFILTERED):
            assert negotiation.observe(asked, page_of(speaks)) is speaks
            assert negotiation.dialect is speaks
    assert caplog.messages == [
        "the server speaks the dialect 'system-jobs'",
        "the server speaks the dialect 'system-jobs-unfiltered'",
    ]
    assert not negotiation.is_mixed


@pytest.mark.parametrize("known", [UNFILTERED, SYSTEM_JOBS])
@pytest.mark.parametrize("asked", [UNFILTERED, SYSTEM_JOBS])
async def test_a_page_without_items_leaves_what_is_known(negotiation, asked, known):
    await know(negotiation, known)
    assert negotiation.observe(asked, page_of(SYSTEM_JOBS, count=0)) is known
    assert negotiation.dialect is known


# Where the routes are


@pytest.mark.parametrize("list_is_missing", [False, True])
@pytest.mark.parametrize("speaks", [UNFILTERED, SYSTEM_JOBS])
async def test_a_route_that_is_not_there_is_looked_for_elsewhere_first(
    negotiation, list_is_missing, speaks
):
    server = Server(negotiation, speaks)
    found, asked = await server.find(DOCUMENTED, list_is_missing=list_is_missing)
    assert found is speaks
    assert negotiation.is_confirmed
    assert asked == ["system-jobs-unfiltered"]


@pytest.mark.parametrize("speaks", [UNFILTERED, SYSTEM_JOBS])
async def test_a_list_without_items_is_taken_for_that_of_the_one_that_can_less(negotiation, speaks):
    found, _ = await Server(negotiation, speaks, count=0).find(DOCUMENTED)
    assert found is UNFILTERED
    assert negotiation.observe(UNFILTERED, page_of(speaks)) is speaks


async def test_a_list_that_this_key_may_not_read_is_there_all_the_same(negotiation):
    server = Server(negotiation, SYSTEM_JOBS, may_read=False)
    assert await server.find(DOCUMENTED) == (UNFILTERED, ["system-jobs-unfiltered"])
    assert negotiation.is_confirmed


@pytest.mark.parametrize("known", [DOCUMENTED, SYSTEM_JOBS])
async def test_a_list_that_this_key_may_not_read_changes_nothing_where_it_is_known(
    negotiation, known
):
    await know(negotiation, known)
    other = UNFILTERED if known is DOCUMENTED else DOCUMENTED
    server = Server(negotiation, known, may_read=False)
    assert await server.find(known) == (known, [other.name, known.name])


@pytest.mark.parametrize("speaks", [DOCUMENTED, OFFSET])
async def test_a_missing_item_stays_missing_and_the_probe_teaches_the_paging(negotiation, speaks):
    found, asked = await Server(negotiation, speaks).find(DOCUMENTED)
    assert asked == ["system-jobs-unfiltered", "documented"]
    assert found is speaks
    assert negotiation.is_confirmed


async def test_a_probe_of_the_route_that_was_asked_notices_an_upgrade_by_items(negotiation):
    await know(negotiation, UNFILTERED)
    server = Server(negotiation, SYSTEM_JOBS)
    assert await server.find(UNFILTERED) == (
        SYSTEM_JOBS,
        ["documented", "system-jobs-unfiltered"],
    )


@pytest.mark.parametrize("known", [UNFILTERED, SYSTEM_JOBS])
@pytest.mark.parametrize("speaks", [DOCUMENTED, OFFSET])
async def test_the_way_back_leads_to_the_documented_path(negotiation, known, speaks):
    await know(negotiation, known)
    assert await Server(negotiation, speaks).find(known) == (speaks, ["documented"])


async def test_a_server_that_has_none_of_the_routes_has_not_moved(negotiation):
    server = Server(negotiation, None)
    asked = ["system-jobs-unfiltered", "documented"]
    assert await server.find(DOCUMENTED) == (DOCUMENTED, asked)
    assert not negotiation.is_confirmed


async def test_a_list_that_is_missing_is_not_asked_for_again(negotiation):
    server = Server(negotiation, None)
    found = await server.find(DOCUMENTED, list_is_missing=True)
    assert found == (DOCUMENTED, ["system-jobs-unfiltered"])
    assert not negotiation.is_confirmed


@pytest.mark.parametrize("known", [DOCUMENTED, OFFSET, UNFILTERED, SYSTEM_JOBS])
async def test_where_the_routes_are_is_asked_about_at_most_four_times_a_second(
    negotiation, clock, known
):
    await know(negotiation, known)
    clock.reading += MIXED_FOR
    server = Server(negotiation, known)
    assert HOLDS_FOR == 0.25
    for seconds, probes in ((0, 2), (0, 0), (HOLDS_FOR - 0.01, 0), (0.02, 2), (0, 0)):
        clock.reading += seconds
        found, asked = await server.find(known)
        assert found is known
        assert len(asked) == probes


async def test_a_list_that_is_missing_asks_at_once(negotiation):
    server = Server(negotiation, DOCUMENTED)
    assert await server.find(DOCUMENTED) == (DOCUMENTED, ["system-jobs-unfiltered", "documented"])
    server.speaks = SYSTEM_JOBS
    assert await server.find(DOCUMENTED) == (DOCUMENTED, [])
    assert await server.find(DOCUMENTED, list_is_missing=True) == (
        SYSTEM_JOBS,
        ["system-jobs-unfiltered"],
    )


async def test_a_server_that_changes_its_generation_is_noticed_and_followed(negotiation, clock):
    await know(negotiation, DOCUMENTED)
    server = Server(negotiation, DOCUMENTED)
    assert (await server.find(DOCUMENTED))[0] is DOCUMENTED
    server.speaks = SYSTEM_JOBS
    assert (await server.find(DOCUMENTED))[0] is DOCUMENTED
    clock.reading += HOLDS_FOR
    assert (await server.find(DOCUMENTED))[0] is SYSTEM_JOBS


async def test_a_server_that_moves_on_at_once_is_followed_at_once(negotiation):
    server = Server(negotiation, SYSTEM_JOBS)
    assert (await server.find(DOCUMENTED))[0] is SYSTEM_JOBS
    server.speaks = OFFSET
    assert (await server.find(SYSTEM_JOBS))[0] is OFFSET


async def test_a_task_that_comes_late_with_an_old_question_asks_nothing(negotiation):
    await know(negotiation, SYSTEM_JOBS)
    server = Server(negotiation, OFFSET)
    assert await server.find(DOCUMENTED, list_is_missing=True) == (SYSTEM_JOBS, [])
    assert await server.find(OFFSET) == (SYSTEM_JOBS, [])


@pytest.mark.parametrize("is_confirmed", [True, False])
@pytest.mark.parametrize("troubles", [[lost()], [None, lost()]], ids=["first", "second"])
async def test_the_error_of_a_probe_comes_up_and_nothing_is_decided(
    negotiation, is_confirmed, troubles
):
    if is_confirmed:
        await know(negotiation, DOCUMENTED)
    server = Server(negotiation, DOCUMENTED, troubles=troubles)
    with pytest.raises(ks.ConnectionLost) as caught:
        await server.find(DOCUMENTED)
    assert caught.value is troubles[-1]
    assert negotiation.dialect is DOCUMENTED
    assert negotiation.is_confirmed is is_confirmed
    # It is made good at once.
    server.speaks = SYSTEM_JOBS
    assert await server.find(DOCUMENTED) == (SYSTEM_JOBS, ["system-jobs-unfiltered"])


async def test_a_cancelled_probe_leaves_the_way_free(negotiation):
    async def stuck(_generation):
        await asyncio.Event().wait()

    task = asyncio.create_task(negotiation.find(DOCUMENTED, stuck, list_is_missing=False))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert negotiation.dialect is DOCUMENTED
    assert (await Server(negotiation, SYSTEM_JOBS).find(DOCUMENTED))[0] is SYSTEM_JOBS


# Two generations by turns


@pytest.mark.parametrize(("seconds", "is_mixed"), [(MIXED_FOR - 0.1, True), (MIXED_FOR, False)])
async def test_who_comes_back_to_a_generation_that_was_just_left_has_met_both(
    negotiation, clock, seconds, is_mixed
):
    await know(negotiation, DOCUMENTED)
    server = Server(negotiation, SYSTEM_JOBS)
    assert (await server.find(DOCUMENTED))[0] is SYSTEM_JOBS
    assert not negotiation.is_mixed
    server.speaks = DOCUMENTED
    clock.reading += seconds
    assert (await server.find(SYSTEM_JOBS))[0] is DOCUMENTED
    assert negotiation.is_mixed is is_mixed


async def test_a_server_is_both_for_a_minute(negotiation, clock):
    await know(negotiation, DOCUMENTED)
    await know(negotiation, UNFILTERED)
    await know(negotiation, DOCUMENTED)
    assert negotiation.is_mixed
    clock.reading += MIXED_FOR - 0.1
    assert negotiation.is_mixed
    clock.reading += 0.1
    assert not negotiation.is_mixed


@pytest.mark.parametrize("list_is_missing", [False, True])
async def test_of_two_that_answer_by_turns_the_other_one_is_taken_unasked(
    negotiation, clock, list_is_missing
):
    await know(negotiation, DOCUMENTED)
    await know(negotiation, SYSTEM_JOBS)
    await know(negotiation, OFFSET)
    server = Server(negotiation, troubles=[lost()] * 4)
    for asked, other in ((OFFSET, UNFILTERED), (UNFILTERED, DOCUMENTED), (DOCUMENTED, UNFILTERED)):
        found = await server.find(asked, list_is_missing=list_is_missing)
        assert found == (other, [])
        assert await server.find(asked, list_is_missing=list_is_missing) == (other, [])
    clock.reading += MIXED_FOR
    with pytest.raises(ks.ConnectionLost):
        await server.find(UNFILTERED)


async def test_the_first_guess_was_never_a_generation_of_the_servers(negotiation):
    server = Server(negotiation, SYSTEM_JOBS)
    assert (await server.find(DOCUMENTED))[0] is SYSTEM_JOBS
    server.speaks = DOCUMENTED
    assert (await server.find(SYSTEM_JOBS))[0] is DOCUMENTED
    assert not negotiation.is_mixed


# Through a session


class Site:
    """A server of one generation that knows nothing but statuses, and may keep a probe waiting.

    Attributes:
        speaks: Its generation.
        has: Whether there is a workflow of any id.
        is_broken: Whether it answers its lists with 500.
        may_answer: Unset, it answers no list.
        lists: How often each list was asked for.
        ids: How often each id was asked for.
    """

    NO_ROUTE = http(b'{"detail": "Not Found"}', status="404 Not Found")

    def __init__(self, speaks, *, has=True, is_broken=False):
        self.speaks = speaks
        self.has = has
        self.is_broken = is_broken
        self.may_answer = asyncio.Event()
        self.lists = Counter()
        self.ids = Counter()

    async def answer(self, _reader, writer, head):
        path = head.split()[1].decode().partition("?")[0]
        prefix, _, name = path.rpartition("/")
        is_there = path.startswith(self.speaks.paths[Route.LIST_INGESTIONS].rpartition("/")[0])
        if name == "document_versions":
            self.lists[prefix] += 1
            await self.may_answer.wait()
            if self.is_broken:
                writer.write(http(b"{}", status="500 Internal Server Error"))
            elif is_there:
                paging = self.speaks.paging
                place = {paging.place: int(paging.by_number), paging.size: 1}
                writer.write(http(json.dumps({"items": [], "total": 0, **place}).encode()))
            else:
                writer.write(self.NO_ROUTE)
            return
        self.ids[name] += 1
        body = {"workflow_id": name, "execution_status": "RUNNING", "start_time": NOON.isoformat()}
        found = http(json.dumps(body).encode())
        writer.write(found if is_there and self.has else self.NO_ROUTE)

    @asynccontextmanager
    async def session(self, **options):
        """A session to it, for which no time passes."""
        clock = FakeClock(patience=30.0)
        async with raw_server(self.answer) as server:
            async with ks.Session(KEY, server.base_url, clock=clock, **options) as session:
                yield session

    async def until_all_wait(self, session, count):
        """Until so many calls have got their 404 and wait for the probe, which waits for us."""
        while len(self.ids) < count or session.stats.in_flight != 1 or session.stats.waiting:
            await asyncio.sleep(0.005)


MANY = 1_000


async def ask_for_many(site, session):
    """Ask for very many at once: what came of each, all of which wait for what a probe tells."""
    asks = [asyncio.create_task(ks.get_workflow_status(session, f"w-{n}")) for n in range(MANY)]
    await site.until_all_wait(session, MANY)
    site.may_answer.set()
    return await asyncio.gather(*asks, return_exceptions=True)


@pytest.mark.no_cover
async def test_a_thousand_tasks_ask_once():
    site = Site(SYSTEM_JOBS)
    async with site.session() as session:
        found = await ask_for_many(site, session)
        assert session.dialect == "system-jobs-unfiltered"
    assert [one.workflow_id for one in found] == [f"w-{number}" for number in range(MANY)]
    assert site.lists == {"/v1/system-jobs": 1}
    assert set(site.ids.values()) == {2}


@pytest.mark.no_cover
async def test_a_thousand_missing_items_are_asked_about_together():
    site = Site(OFFSET, has=False)
    async with site.session() as session:
        found = await ask_for_many(site, session)
        assert session.dialect == "offset"
    assert Counter(map(type, found)) == {ks.NotFound: MANY}
    # Another pod may have the route: the first ones are sent again a few times, each time after one
    # probe for all; once these gave up, the others are sent again but once.
    assert site.lists == {"/v1/system-jobs": 7, "/v1/workflows": 7}
    assert max(site.ids.values()) == 7
    assert site.ids.total() <= 3 * MANY


@pytest.mark.no_cover
@pytest.mark.parametrize("is_confirmed", [True, False])
async def test_a_thousand_tasks_share_a_probe_that_decides_nothing(is_confirmed):
    site = Site(DOCUMENTED, has=False)
    async with site.session(retry=ks.RetryPolicy(tries=1)) as session:
        if is_confirmed:
            site.may_answer.set()
            await ks.list_ingestion_workflows(session)
            site.may_answer.clear()
            site.lists.clear()
        site.is_broken = True
        found = await ask_for_many(site, session)
        assert Counter(map(type, found)) == {ks.ServerError: MANY}
        assert len(set(map(id, found))) == MANY
        assert site.lists == {"/v1/system-jobs": 1}
        # It is made good at once.
        site.is_broken, site.speaks, site.has = False, SYSTEM_JOBS, True
        assert (await ks.get_workflow_status(session, "w")).workflow_id == "w"
    assert site.lists == {"/v1/system-jobs": 2}


@pytest.mark.parametrize("how", ["cancelled", "too late"])
async def test_a_probe_outlives_the_call_that_it_was_begun_for(how):
    site = Site(SYSTEM_JOBS)
    async with site.session() as session:
        first = session.with_options(deadline=0.3 if how == "too late" else None)
        begun = asyncio.create_task(ks.get_workflow_status(first, "w-first"))
        while not (site.lists or begun.done()):
            await asyncio.sleep(0.005)
        others = [asyncio.create_task(ks.get_workflow_status(session, f"w-{n}")) for n in range(3)]
        await site.until_all_wait(session, 4)
        if how == "cancelled":
            begun.cancel()
        kind = asyncio.CancelledError if how == "cancelled" else ks.DeadlineExceeded
        with pytest.raises(kind):
            await begun
        site.may_answer.set()
        assert [one.workflow_id for one in await asyncio.gather(*others)] == ["w-0", "w-1", "w-2"]
    assert site.lists == {"/v1/system-jobs": 1}


async def test_each_key_asks_for_itself():
    """What one may not read says nothing of what another may."""
    site = Site(SYSTEM_JOBS)
    async with site.session() as session:
        other = session.with_options(api_key="sk-user-another-1")
        views = (session, other, session, other)
        asks = [
            asyncio.create_task(ks.get_workflow_status(view, f"w-{n}"))
            for n, view in enumerate(views)
        ]
        while len(site.ids) < 4 or session.stats.in_flight != 2 or session.stats.waiting:
            await asyncio.sleep(0.005)
        site.may_answer.set()
        await asyncio.gather(*asks)
    assert site.lists == {"/v1/system-jobs": 2}


@pytest.mark.parametrize("dialect", GENERATIONS)
async def test_a_dialect_set_by_name_is_never_asked_about(dialect):
    is_early = dialect.paths[Route.WORKFLOW] == DOCUMENTED.paths[Route.WORKFLOW]
    site = Site(SYSTEM_JOBS if is_early else DOCUMENTED)
    site.may_answer.set()
    async with site.session(dialect=dialect.name) as session:
        with pytest.raises(ks.NotFound):
            await ks.get_workflow_status(session, "w")
        assert session.dialect == dialect.name
    assert site.lists == {}
    assert site.ids == {"w": 1}


async def test_a_server_that_ignores_filters_is_not_one_that_was_named_for_them():
    async with Sandbox(ingestions=5, dialect="system-jobs-unfiltered") as box:
        async with box.session(dialect="system-jobs") as session:
            told = "answers as 'system-jobs-unfiltered', not as 'system-jobs'"
            with pytest.raises(ks.InvalidResponse, match=told):
                await ks.list_ingestion_workflows(session)
            with pytest.raises(ks.InvalidResponse, match=told):
                await ks.iter_ingestion_workflows(session, status="failed")
        async with box.session(dialect="system-jobs-unfiltered") as session:
            assert len(await ks.iter_ingestion_workflows(session)) == 5


async def test_a_richer_server_than_was_named_does_what_was_named():
    async with Sandbox(ingestions=50, dialect="system-jobs") as box:
        async with box.session(dialect="system-jobs-unfiltered") as session:
            assert len(await ks.iter_ingestion_workflows(session)) == 50
            failed = await ks.iter_ingestion_workflows(session, status="failed")
            assert {item.status for item in failed} == {"failed"}
            assert session.dialect == "system-jobs-unfiltered"
        assert {dict(request.query).get("status") for request in box.requests} == {None}
