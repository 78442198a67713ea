"""Which generation is talking: learned from envelopes and missing routes, with one probe for all."""

import asyncio
import logging

import pytest

import knowledgestack_async as ks
from knowledgestack_async._dialects import GENERATIONS
from knowledgestack_async._negotiation import Negotiation

DOCUMENTED, OFFSET, UNFILTERED, SYSTEM_JOBS = GENERATIONS


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


class Server:
    """Answers probes as a server of one generation would, and counts them."""

    def __init__(self, negotiation, speaks=None, *, undecided=False):
        self.negotiation = negotiation
        self.speaks = speaks
        self.undecided = undecided
        self.asked = []

    async def probe(self, generation):
        self.asked.append(generation.name)
        await asyncio.sleep(0)
        if self.undecided:
            return None
        if self.speaks is None or generation.paths["workflow"] != self.speaks.paths["workflow"]:
            return False
        self.negotiation.found(generation, by_number=self.speaks.paging.by_number)
        return True

    async def has_moved(self, asked, *, list_is_missing=False):
        return await self.negotiation.has_moved(asked, self.probe, list_is_missing=list_is_missing)


def test_auto_begins_with_the_documented_one(negotiation):
    assert negotiation.dialect is DOCUMENTED
    assert not negotiation.is_fixed
    assert not negotiation.is_confirmed


@pytest.mark.parametrize("dialect", GENERATIONS)
def test_a_dialect_may_be_set_by_name(dialect, clock):
    fixed = Negotiation(dialect.name, clock)
    assert fixed.dialect is dialect
    assert fixed.is_confirmed
    assert fixed.learn(dialect, by_number=dialect.paging.by_number)
    assert fixed.dialect is dialect


def test_an_unknown_name_is_refused(clock):
    with pytest.raises(ks.ConfigurationError, match="dialect must be"):
        Negotiation("latest", clock)


@pytest.mark.parametrize(
    ("dialect", "by_number", "spoken"),
    [(DOCUMENTED, False, "offset"), (OFFSET, True, "documented")],
)
def test_a_dialect_set_by_name_that_answers_otherwise_is_an_error(
    dialect, by_number, spoken, clock
):
    fixed = Negotiation(dialect.name, clock)
    with pytest.raises(ks.InvalidResponse, match=f"answers as '{spoken}', not as '{dialect.name}'"):
        fixed.learn(dialect, by_number=by_number)
    assert fixed.dialect is dialect


async def test_a_dialect_set_by_name_is_never_asked_about(clock):
    fixed = Negotiation("documented", clock)
    server = Server(fixed, SYSTEM_JOBS)
    assert not await server.has_moved(DOCUMENTED)
    assert server.asked == []


def test_an_envelope_confirms_the_first_guess(negotiation, caplog):
    with caplog.at_level(logging.INFO, "knowledgestack_async"):
        assert negotiation.learn(DOCUMENTED, by_number=True)
        assert negotiation.learn(DOCUMENTED, by_number=True)
    assert negotiation.is_confirmed
    assert caplog.messages == ["the server speaks the dialect 'documented'"]


def test_an_envelope_tells_offsets_from_numbers_and_the_log_says_it_once(negotiation, caplog):
    with caplog.at_level(logging.INFO, "knowledgestack_async"):
        assert not negotiation.learn(DOCUMENTED, by_number=False)
        assert negotiation.learn(OFFSET, by_number=False)
    assert negotiation.dialect is OFFSET
    assert caplog.messages == ["the server speaks the dialect 'offset'"]


def test_a_late_answer_to_a_question_in_the_old_way_is_told_from_a_good_one(negotiation):
    negotiation.learn(DOCUMENTED, by_number=False)
    assert not negotiation.learn(DOCUMENTED, by_number=False)
    assert negotiation.dialect is OFFSET


def test_a_late_answer_from_a_route_that_was_left_teaches_nothing(negotiation):
    negotiation.found(SYSTEM_JOBS, by_number=False)
    assert not negotiation.learn(DOCUMENTED, by_number=False)
    assert negotiation.dialect is SYSTEM_JOBS


@pytest.mark.parametrize(
    ("list_is_missing", "asked"),
    [(False, ["documented", "system-jobs"]), (True, ["system-jobs"])],
)
async def test_a_route_that_is_not_there_is_looked_for_elsewhere(
    negotiation, list_is_missing, asked
):
    server = Server(negotiation, SYSTEM_JOBS)
    assert await server.has_moved(DOCUMENTED, list_is_missing=list_is_missing)
    assert negotiation.dialect is SYSTEM_JOBS
    assert negotiation.is_confirmed
    assert server.asked == asked


@pytest.mark.parametrize("speaks", [DOCUMENTED, OFFSET])
async def test_a_missing_item_stays_missing_and_the_probe_teaches_the_paging(negotiation, speaks):
    server = Server(negotiation, speaks)
    assert not await server.has_moved(DOCUMENTED)
    assert server.asked == ["documented"]
    assert negotiation.dialect is speaks
    assert negotiation.is_confirmed


async def test_the_way_back_leads_to_the_documented_path(negotiation):
    negotiation.found(SYSTEM_JOBS, by_number=False)
    server = Server(negotiation, OFFSET)
    assert await server.has_moved(SYSTEM_JOBS)
    assert server.asked == ["system-jobs", "documented"]
    assert negotiation.dialect is OFFSET


async def test_a_server_that_has_none_of_the_routes_has_not_moved(negotiation):
    server = Server(negotiation, None)
    assert not await server.has_moved(DOCUMENTED)
    assert server.asked == ["documented", "system-jobs"]
    assert negotiation.dialect is DOCUMENTED
    assert not negotiation.is_confirmed


async def test_a_thousand_tasks_ask_once(negotiation):
    server = Server(negotiation, SYSTEM_JOBS)
    found = await asyncio.gather(*(server.has_moved(DOCUMENTED) for _ in range(1_000)))
    assert found == [True] * 1_000
    assert server.asked == ["documented", "system-jobs"]


async def test_a_thousand_missing_items_are_asked_about_once(negotiation):
    server = Server(negotiation, DOCUMENTED)
    found = await asyncio.gather(*(server.has_moved(DOCUMENTED) for _ in range(1_000)))
    assert found == [False] * 1_000
    assert server.asked == ["documented"]


@pytest.mark.parametrize("is_confirmed", [True, False])
async def test_a_thousand_tasks_share_a_probe_that_decides_nothing(negotiation, is_confirmed):
    if is_confirmed:
        negotiation.learn(DOCUMENTED, by_number=True)
    server = Server(negotiation, undecided=True)
    found = await asyncio.gather(*(server.has_moved(DOCUMENTED) for _ in range(1_000)))
    assert found == [False] * 1_000
    assert server.asked == ["documented"]


async def test_a_confirmed_dialect_is_asked_about_at_most_once_in_thirty_seconds(
    negotiation, clock
):
    negotiation.learn(DOCUMENTED, by_number=True)
    server = Server(negotiation, DOCUMENTED)
    for _ in range(3):
        assert not await server.has_moved(DOCUMENTED)
    clock.reading += 29.9
    assert not await server.has_moved(DOCUMENTED)
    assert len(server.asked) == 1
    clock.reading += 0.2
    assert not await server.has_moved(DOCUMENTED)
    assert len(server.asked) == 2


async def test_a_server_that_changes_its_generation_is_noticed_and_followed(negotiation, clock):
    negotiation.learn(DOCUMENTED, by_number=True)
    server = Server(negotiation, DOCUMENTED)
    assert not await server.has_moved(DOCUMENTED)
    server.speaks = SYSTEM_JOBS
    assert not await server.has_moved(DOCUMENTED)
    clock.reading += 30.0
    assert await server.has_moved(DOCUMENTED)
    assert negotiation.dialect is SYSTEM_JOBS


async def test_a_probe_that_meets_a_closed_door_decides_nothing(negotiation):
    server = Server(negotiation, SYSTEM_JOBS, undecided=True)
    assert not await server.has_moved(DOCUMENTED)
    assert negotiation.dialect is DOCUMENTED
    assert not negotiation.is_confirmed
    assert server.asked == ["documented"]
    server.undecided = False
    assert await server.has_moved(DOCUMENTED)


async def test_an_undecided_probe_of_a_confirmed_dialect_is_made_good_at_once(negotiation):
    negotiation.learn(DOCUMENTED, by_number=True)
    server = Server(negotiation, SYSTEM_JOBS, undecided=True)
    assert not await server.has_moved(DOCUMENTED)
    server.undecided = False
    assert await server.has_moved(DOCUMENTED)


async def test_a_task_that_comes_late_with_an_old_question_asks_nothing(negotiation):
    negotiation.learn(DOCUMENTED, by_number=False)
    server = Server(negotiation, OFFSET)
    assert not await server.has_moved(DOCUMENTED)
    negotiation.found(SYSTEM_JOBS, by_number=False)
    assert await server.has_moved(DOCUMENTED)
    assert server.asked == []


async def test_a_cancelled_probe_leaves_the_way_free(negotiation):
    async def stuck(_generation):
        await asyncio.Event().wait()

    task = asyncio.create_task(negotiation.has_moved(DOCUMENTED, stuck, list_is_missing=False))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await Server(negotiation, SYSTEM_JOBS).has_moved(DOCUMENTED)


async def test_a_server_that_moves_on_at_once_is_followed_at_once(negotiation):
    server = Server(negotiation, SYSTEM_JOBS)
    assert await server.has_moved(DOCUMENTED)
    server.speaks = OFFSET
    assert await server.has_moved(SYSTEM_JOBS)
    assert negotiation.dialect is OFFSET
