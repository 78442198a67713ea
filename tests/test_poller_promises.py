"""One poller for everybody who waits: what one of them waits for is no trouble of the others'.

Time is virtual: it passes while nothing else happens, for the session and the sandbox alike.
"""

from __future__ import annotations

import asyncio
import gc
import json
import pickle
import random
import time
import traceback
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import pytest
from aiohttp import web
from virtual_time import VirtualTime, in_virtual_time

import knowledgestack_async as ks
from knowledgestack_async.sandbox import Fault, Sandbox
from support import KEY

FOREVER = (1e6, 1e6 + 1)
ACTIVE = {"statuses": {"processing": 1.0}, "superseded": 0, "pipeline_seconds": FOREVER}
LIST, GET = "list_ingestion_workflows", "get_ingestion_workflow"


class Drawn:
    """Chance that always draws the same."""

    def random(self) -> float:
        return 0.9


class BoxClock:
    """The sandbox's time, which is the session's."""

    def __init__(self, virtual: VirtualTime) -> None:
        self.virtual = virtual

    def now(self) -> float:
        return 1_780_000_000 + self.virtual.now()


def box_of(virtual: VirtualTime, count: int, **options) -> Sandbox:
    return Sandbox(ingestions=count, clock=BoxClock(virtual), **(ACTIVE | options))


@asynccontextmanager
async def session_of(box: Sandbox, virtual: VirtualTime, **options) -> AsyncIterator[ks.Session]:
    given = {"clock": virtual, "chance": random.Random(7), "dialect": box.dialect} | options
    async with box.session(**given) as session:
        yield session


def kinds(results) -> Counter[str]:
    return Counter(type(one).__name__ for one in results)


async def timed(virtual: VirtualTime, call) -> float:
    """At what time a call ended well."""
    await call
    return virtual.now()


async def until(condition: Callable[[], object], virtual: VirtualTime, most: float = 1e5) -> None:
    end = virtual.now() + most
    while not condition():
        assert virtual.now() < end
        await virtual.sleep(0.1)


# One that hangs


HANGS = {
    "silence": {"kind": "silence"},
    "stalled body": {"kind": "stall_body"},
    "500": {"kind": "status", "status": 500},
    "503": {"kind": "status", "status": 503},
}


@pytest.mark.parametrize("fault", HANGS)
@pytest.mark.parametrize("what", ["runs", "ingestions", "statuses"])
@in_virtual_time
async def test_one_id_that_hangs_delays_nobody_elses_wait(virtual, what, fault):
    async with box_of(virtual, 6, runs=0) as box:
        ids = [box.store.add_run("RUNNING").id for _ in range(6)]
        ids = ids if what == "runs" else box.store.ids()

        def end(one: str) -> None:
            if what == "runs":
                box.store.callback(one, "COMPLETED")
            else:
                box.store.set_status(one, "completed")

        async with session_of(box, virtual, timeout=3.0, chance=Drawn()) as session:
            box.faults.add(Fault(**HANGS[fault], id=ids[0]))
            waits = {
                "runs": lambda one: ks.wait_for_workflow_run(session, one, deadline=60),
                "ingestions": lambda one: ks.wait_for_ingestion(session, one, deadline=60),
                "statuses": lambda one: closed(session, one),
            }[what]
            hanging = asyncio.create_task(waits(ids[0]))
            others = [asyncio.create_task(timed(virtual, waits(one))) for one in ids[1:]]
            ended_at = virtual.now() + 1.0
            virtual.call_later(1.0, lambda: [end(one) for one in ids[1:]])
            done = await asyncio.gather(*others)
            hanging.cancel()
            await asyncio.gather(hanging, return_exceptions=True)
    assert max(done) - ended_at < 2.0, "the pace of a wait that just began, and no more"


async def closed(session: ks.Session, one: str) -> None:
    async with ks.poll_workflow_statuses(session, [one], until_closed=True, deadline=100) as poll:
        [result] = [result async for result in poll]
    if result.error is not None:
        raise result.error


@in_virtual_time
async def test_one_id_that_hangs_delays_no_other_of_its_watch(virtual):
    async with box_of(virtual, 6) as box:
        hanging, *ids = box.store.ids()
        async with session_of(box, virtual, timeout=3.0) as session:
            box.faults.add(Fault("silence", id=hanging))
            told: dict[str, float] = {}
            began = virtual.now()
            for turn, one in enumerate(ids):
                at = 2.0 * (turn + 1)
                virtual.call_later(at, lambda one=one: box.store.set_status(one, "failed"))
            async with ks.watch_ingestions(session, [hanging, *ids], deadline=60) as watch:
                async for change in watch:
                    if change.is_final:
                        told[change.workflow_id] = virtual.now() - began
                    if len(told) == len(ids):
                        break
    for turn, one in enumerate(ids):
        at = 2.0 * (turn + 1)
        assert at <= told[one] <= at + 2.0 + at  # looks grow apart


@in_virtual_time
async def test_one_page_that_hangs_delays_only_what_is_on_it(virtual):
    async with box_of(virtual, 400) as box:
        async with session_of(box, virtual) as session:
            ids = box.store.ids()
            told: dict[str, float] = {}
            async with ks.watch_ingestions(session, ids, deadline=200) as watch:
                for _ in ids:
                    await anext(watch)
                hung = box.faults.add(Fault("silence", route=LIST, times=1, after=1))
                await until(lambda: hung.fired, virtual)
                began = virtual.now()
                for one in ids:
                    box.store.set_status(one, "completed")
                async for change in watch:
                    told[change.workflow_id] = virtual.now() - began
    assert len(told) == 400
    assert sum(at < 10 for at in told.values()) >= 300
    assert max(told.values()) < 45, "a time-out of thirty seconds, and a look"


@in_virtual_time
async def test_a_single_wait_is_not_held_up_by_a_look_at_very_many(virtual):
    """The list goes silent, singles don't."""
    async with box_of(virtual, 300) as box:
        async with session_of(box, virtual) as session:
            box.faults.add(Fault("silence", route=LIST, after=3))
            run = box.store.add_run("RUNNING").id
            one, *many = box.store.ids()
            async with ks.watch_ingestions(session, many) as watch:
                for _ in many:
                    await anext(watch)
                await virtual.sleep(2)  # so that the next look hangs
                began = virtual.now()
                box.store.set_status(one, "completed")
                box.store.callback(run, "COMPLETED")
                await asyncio.gather(
                    ks.wait_for_ingestion(session, one), ks.wait_for_workflow_run(session, run)
                )
                assert virtual.now() - began < 2


# One that can't be read


def spoil(box: Sandbox, spoilt: str, where: str, **values) -> None:
    """Answer with other values for one ingestion: in the list, singly, or both."""

    def rewrite(request, payload):
        if "list" in where and request.route == LIST:
            items = [
                values.get("item", one | values) if one["workflow_id"] == spoilt else one
                for one in payload["items"]
            ]
            return payload | {"items": items}
        if "single" in where and request.route == GET and request.id == spoilt:
            return payload | values
        return payload

    box.rewrite_answer = rewrite


SPOILT = {
    "null where none may be": {"last_run_timestamp": None},
    "no status": {"status": None},
    "no id": {"workflow_id": None},
    "no time": {"created_at": "yesterday"},
    "a number": {"error": 5},
    "no object": {"item": "gone"},
    "null": {"item": None},
}


@pytest.mark.no_cover
@pytest.mark.parametrize("count", [10, 12])
@pytest.mark.parametrize("spoilt", SPOILT)
@in_virtual_time
async def test_a_foreign_item_that_cant_be_read_ends_no_wait(virtual, spoilt, count):
    async with box_of(virtual, 30) as box:
        async with session_of(box, virtual) as session:
            foreign, *ids = box.store.ids()
            spoil(box, foreign, "list", **SPOILT[spoilt])
            waits = [
                asyncio.create_task(ks.wait_for_ingestion(session, one, deadline=60))
                for one in ids[:count]
            ]
            await virtual.sleep(2)
            for one in ids:
                box.store.set_status(one, "completed")
            results = await asyncio.gather(*waits, return_exceptions=True)
    assert kinds(results) == {"WorkflowDetailResponse": count}


@pytest.mark.parametrize("dialect", ["documented", "offset", "system-jobs"])
@in_virtual_time
async def test_nor_does_it_keep_a_watch_from_its_end(virtual, dialect):
    async with box_of(virtual, 150, dialect=dialect) as box:
        async with session_of(box, virtual) as session:
            foreign, *ids = box.store.ids()
            spoil(box, foreign, "list", last_run_timestamp=None)
            final = Counter()
            virtual.call_later(2, lambda: [box.store.set_status(one, "failed") for one in ids])
            async with ks.watch_ingestions(session, ids[:20], deadline=60) as watch:
                async for change in watch:
                    final[change.workflow_id] += change.is_final
            assert not watch.timed_out
    assert {one: final[one] for one in ids[:20]} == dict.fromkeys(ids[:20], 1)


@pytest.mark.no_cover
@pytest.mark.parametrize("where", ["list", "list and single"])
@pytest.mark.parametrize("count", [5, 12, 40])
@in_virtual_time
async def test_one_that_cant_be_read_is_the_trouble_of_its_own_wait_only(virtual, count, where):
    async with box_of(virtual, 60) as box:
        async with session_of(box, virtual) as session:
            bad, *ids = box.store.ids()[:count]
            spoil(box, bad, where, last_run_timestamp=None)
            waits = [
                asyncio.create_task(ks.wait_for_ingestion(session, one, deadline=60))
                for one in (bad, *ids)
            ]
            await virtual.sleep(2)
            for one in (bad, *ids):
                box.store.set_status(one, "completed")
            of_bad, *others = await asyncio.gather(*waits, return_exceptions=True)
    assert kinds(others) == {"WorkflowDetailResponse": count - 1}
    if where == "list":
        assert of_bad.status == "completed"
    else:
        assert type(of_bad) is ks.InvalidResponse
        assert "last_run_timestamp" in str(of_bad)


LISTS = {
    "500": {"kind": "status", "status": 500},
    "403": {"kind": "status", "status": 403},
    "404": {"kind": "status", "status": 404},
    "html": {"kind": "garbage"},
    "not UTF-8": {"kind": "garbage", "body": "not-utf-8"},
    "empty": {"kind": "garbage", "body": "empty"},
}


@pytest.mark.parametrize("fault", LISTS)
@in_virtual_time
async def test_a_list_that_cant_be_read_ends_no_wait_for_what_can_be_read_singly(virtual, fault):
    async with box_of(virtual, 40) as box:
        async with session_of(box, virtual) as session:
            box.faults.add(Fault(**LISTS[fault], route=LIST))
            ids = box.store.ids()[:20]
            waits = [
                asyncio.create_task(ks.wait_for_ingestion(session, one, deadline=100))
                for one in ids
            ]
            await virtual.sleep(2)
            for one in ids:
                box.store.set_status(one, "completed")
            results = await asyncio.gather(*waits, return_exceptions=True)
    assert kinds(results) == {"WorkflowDetailResponse": 20}


@pytest.mark.parametrize("everything", [False, True])
@in_virtual_time
async def test_one_page_that_cant_be_read_blocks_only_what_is_on_it(virtual, everything):
    async with box_of(virtual, 400, dialect="system-jobs") as box:
        async with session_of(box, virtual, retry=ks.RetryPolicy(tries=1)) as session:
            ids = box.store.ids()

            def rewrite(request, payload):
                broken = request.route == LIST and any(
                    one["workflow_id"] == ids[150] for one in payload["items"]
                )
                return payload | {"items": "?"} if broken else payload

            box.rewrite_answer = rewrite
            virtual.call_later(3, lambda: [box.store.set_status(one, "failed") for one in ids])
            final = Counter()
            trouble = []
            watched = None if everything else ids
            async with ks.watch_ingestions(session, watched, deadline=60) as watch:
                async for change in watch:
                    final[change.workflow_id] += change.is_final
                    trouble += [change] if change.kind == "trouble" else []
    seen = {one for one in ids if final[one]}
    if everything:
        assert len(seen) >= 300
        assert trouble
        assert isinstance(trouble[0].error, ks.RequestError)
    else:  # those on that page are had singly
        assert seen == set(ids)
    assert set(final.values()) <= {0, 1}


@pytest.mark.parametrize("spoilt", SPOILT)
@pytest.mark.parametrize("place", [0, 149])
@in_virtual_time
async def test_one_item_that_cant_be_read_is_trouble_in_a_watch_of_everything(
    virtual, spoilt, place
):
    async with box_of(virtual, 150) as box:
        async with session_of(box, virtual) as session:
            ids = [*box.store.ids()]
            bad = ids.pop(place)
            spoil(box, bad, "list", **SPOILT[spoilt])
            virtual.call_later(3, lambda: [box.store.set_status(one, "failed") for one in ids])
            final = Counter()
            trouble = []
            async with ks.watch_ingestions(session, deadline=30) as watch:
                async for change in watch:
                    final[change.workflow_id] += change.is_final
                    trouble += [change] if change.kind == "trouble" else []
    assert {one: final[one] for one in ids} == dict.fromkeys(ids, 1)
    assert len(trouble) == 1
    assert isinstance(trouble[0].error, ks.RequestError)


TIMES = ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00"]


@pytest.mark.parametrize("moment", TIMES)
@pytest.mark.parametrize("everything", [False, True])
@in_virtual_time
async def test_a_time_at_the_end_of_all_times_ends_no_watch(virtual, moment, everything):
    async with box_of(virtual, 30, dialect="system-jobs") as box:
        async with session_of(box, virtual) as session:
            ids = box.store.ids()

            def rewrite(request, payload):
                items = payload.get("items", [payload])
                for one in items:
                    one["last_state_update_timestamp"] = moment
                return payload

            box.rewrite_answer = rewrite
            virtual.call_later(3, lambda: [box.store.set_status(one, "failed") for one in ids])
            watched = None if everything else ids
            final = Counter()
            async with ks.watch_ingestions(session, watched, deadline=60) as watch:
                async for change in watch:
                    final[change.workflow_id] += change.is_final
                    if final.total() == 30:
                        break
    assert final == Counter(ids)


# Totals that make no sense


TOTALS = {
    "empty pages for ever": (10**7, False),
    "the same page for ever": (10**7, True),
    "a billion": (10**9, False),
}


@pytest.mark.parametrize("dialect", ["documented", "system-jobs"])
@pytest.mark.parametrize("case", TOTALS)
@in_virtual_time
async def test_an_endless_list_is_trouble_after_a_bounded_number_of_requests(
    virtual, case, dialect
):
    total, is_full = TOTALS[case]
    async with box_of(virtual, 100, dialect=dialect) as box:
        async with session_of(box, virtual) as session:
            shown: list = []

            def rewrite(request, payload):
                if request.route != LIST:
                    return payload
                shown[:] = shown or payload["items"]
                return payload | {"total": total, "items": shown if is_full else payload["items"]}

            box.rewrite_answer = rewrite
            told = []
            async with asyncio.timeout(15):  # of real time, lest it hangs
                async with ks.watch_ingestions(session, deadline=20) as watch:
                    async for change in watch:
                        told.append(change.kind)
            ticks = 10
            assert len(box.requests) <= 200 * ticks
    assert told.count("status") == 100, "what can be read is told"
    assert "trouble" in told


@pytest.mark.parametrize("total", [0, 3, None, -1, "many", 1.5])
@in_virtual_time
async def test_other_totals_that_make_no_sense_hide_nothing_without_a_word(virtual, total):
    async with box_of(virtual, 250) as box:
        async with session_of(box, virtual) as session:
            box.rewrite_answer = lambda request, payload: (
                payload | {"total": total} if request.route == LIST else payload
            )
            told = []
            async with ks.watch_ingestions(session, deadline=20) as watch:
                async for change in watch:
                    told.append(change.kind)
            assert len(box.requests) <= 200
    assert told.count("status") == 250 or "trouble" in told


# Those who leave


@in_virtual_time
async def test_one_who_leaves_during_a_look_takes_nothing_from_the_others(virtual):
    async with box_of(virtual, 3, statuses={"completed": 1.0}) as box:
        [one, *_] = box.store.ids()
        async with session_of(box, virtual) as session:
            waits = [asyncio.create_task(ks.wait_for_ingestion(session, one)) for _ in range(3)]
            box.before_request = lambda _: waits[1].cancel()
            done = await asyncio.gather(*waits, return_exceptions=True)
    assert [type(result).__name__ for result in done] == [
        "WorkflowDetailResponse",
        "CancelledError",
        "WorkflowDetailResponse",
    ]
    assert box.request_counts[GET] == 1


# Errors


@pytest.mark.parametrize("what", ["run", "ingestion", "many ingestions", "missing", "closed"])
@in_virtual_time
async def test_each_waiter_raises_an_error_of_its_own(virtual, what):
    count = 300
    async with box_of(virtual, 20) as box:
        run_id = box.store.add_run("RUNNING").id
        ids = box.store.ids()
        async with session_of(box, virtual, retry=ks.RetryPolicy(tries=1)) as session:
            if what not in {"missing", "closed"}:
                box.faults.add(Fault("status", status=500, code="internal_error"))
            one_of = {
                "run": lambda _: ks.wait_for_workflow_run(session, run_id),
                "ingestion": lambda _: ks.wait_for_ingestion(session, ids[0]),
                "many ingestions": lambda turn: ks.wait_for_ingestion(session, ids[turn % 20]),
                "missing": lambda _: ks.wait_for_ingestion(session, "nobody"),
                "closed": lambda _: ks.wait_for_workflow_run(session, run_id),
            }[what]
            waits = [asyncio.create_task(one_of(turn)) for turn in range(count)]
            await virtual.sleep(1)
        errors = await asyncio.gather(*waits, return_exceptions=True)
    kind = {"missing": ks.NotFound, "closed": ks.SessionError}.get(what, ks.ServerError)
    assert {type(one) for one in errors} == {kind}
    assert len({id(one) for one in errors}) == count
    for one in errors:
        assert len(traceback.extract_tb(one.__traceback__)) < 30
        assert len("".join(traceback.format_exception(one))) < 20_000
    if kind is not ks.SessionError:
        assert len({str(one) for one in errors}) <= 20
        again = pickle.loads(pickle.dumps(errors[-1]))
        assert (again.status, again.request_id, again.path, again.tries) == (
            (errors[0].status, errors[-1].request_id, errors[-1].path, 1)
        )


@in_virtual_time
async def test_an_error_that_was_raised_by_one_is_not_in_anothers_change(virtual):
    async with box_of(virtual, 3) as box:
        run_id = box.store.add_run("RUNNING").id
        async with session_of(box, virtual, retry=ks.RetryPolicy(tries=1)) as session:
            box.faults.add(Fault("status", status=500))
            async with ks.watch_workflow_runs(session, [run_id], deadline=5) as watch:
                wait = asyncio.create_task(ks.wait_for_workflow_run(session, run_id))
                trouble = await anext(watch)
                [raised] = await asyncio.gather(wait, return_exceptions=True)
    assert trouble.kind == "trouble"
    assert type(trouble.error) is type(raised) is ks.ServerError
    assert trouble.error is not raised
    assert trouble.error.__traceback__ is None or not any(
        frame.name == "wait_for_end" for frame in traceback.extract_tb(trouble.error.__traceback__)
    )


# What many cost


@asynccontextmanager
async def canned(count: int) -> AsyncIterator[tuple[str, list[str], Counter[str]]]:
    """A server of the documented generation whose pages cost it next to nothing."""
    ids = [f"w-{number:05}" for number in range(count)]
    moment = "2026-07-01T12:00:00Z"
    items = [
        {
            "workflow_id": one,
            "document_id": "00000000-0000-4000-8000-000000000001",
            "document_version_id": "00000000-0000-4000-8000-000000000002",
            "status": "processing",
            "last_activity": None,
            "error": None,
            "last_run_timestamp": moment,
            "last_state_update_timestamp": moment,
            "created_at": moment,
        }
        for one in ids
    ]
    bodies = [
        json.dumps(
            {
                "items": items[start : start + 100],
                "total": count,
                "page": start // 100 + 1,
                "page_size": 100,
            }
        ).encode()
        for start in range(0, count, 100)
    ]
    asked: Counter[str] = Counter()

    async def answer(request: web.BaseRequest) -> web.Response:
        asked["list" if "page" in request.query else "single"] += 1
        if "page" not in request.query:
            return web.json_response({"detail": "?"}, status=404)
        body = bodies[int(request.query["page"]) - 1]
        return web.Response(body=body, content_type="application/json")

    server = web.Server(answer, access_log=None)
    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", ids, asked
    finally:
        listening.close()
        await server.shutdown(0)


@in_virtual_time
async def test_very_many_waits_cost_little_more_than_one_watch_of_as_many(virtual):
    """In processor time as in requests, while nothing changes."""
    count = 2_000
    costs: dict[str, float] = {}
    requests: dict[str, int] = {}
    async with canned(count) as (base_url, ids, asked):
        for how in ("one watch", "many waits"):
            session = ks.Session(KEY, base_url, clock=virtual, dialect="documented")
            async with session:
                if how == "one watch":
                    tasks = [asyncio.create_task(follow(ks.watch_ingestions(session, ids)))]
                else:
                    waits = (ks.wait_for_ingestion(session, one) for one in ids)
                    tasks = [asyncio.create_task(wait) for wait in waits]
                await until(lambda: asked["list"] >= count / 100, virtual)
                asked.clear()
                began = time.process_time()
                await virtual.sleep(8)
                costs[how] = time.process_time() - began
                requests[how] = asked["list"]
                assert asked["single"] == 0
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            asked.clear()
    assert requests["many waits"] <= 2.5 * requests["one watch"], requests
    each = {how: costs[how] / requests[how] for how in costs}
    assert each["many waits"] <= 2.5 * each["one watch"], each
    assert costs["many waits"] <= 4 * costs["one watch"], costs


async def follow(watch) -> None:
    async with watch:
        await take_all(watch)


@in_virtual_time
async def test_where_very_many_were_active_once_a_few_are_not_asked_singly_for_ever(virtual):
    async with box_of(virtual, 1_500, dialect="system-jobs") as box:
        async with session_of(box, virtual) as session:
            ids = box.store.ids()
            async with ks.watch_ingestions(session, ids, deadline=3) as watch:
                async for _ in watch:
                    pass
            few = ids[:12]
            for one in ids[12:]:
                box.store.set_status(one, "completed")
            box.forget_requests()
            async with ks.watch_ingestions(session, few, deadline=600) as watch:
                looking = asyncio.create_task(take_all(watch))
                await virtual.sleep(300)
                before = box.request_counts.copy()
                await virtual.sleep(200)
                later = box.request_counts - before
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)
    assert later[LIST] > 5
    assert later[GET] <= 12, "by the list that is one request a look"


async def take_all(watch) -> None:
    async for _ in watch:
        pass


# What is kept


@pytest.mark.no_cover
@pytest.mark.parametrize(("how", "each"), [("walk", 100), ("walk", 50), ("watch", 50)])
@in_virtual_time
async def test_a_few_that_are_kept_do_not_keep_their_pages(virtual, how, each):
    """One or two of a hundred are kept, and a page's bytes are a hundred times an item's."""
    async with box_of(virtual, 2_000, record=False, statuses={"completed": 1.0}) as box:
        ids = box.store.ids()
        few = ids[20::each]
        for one in few:
            box.store.set_status(one, "failed")
        async with session_of(box, virtual) as session:

            async def gather_few() -> list:
                if how == "walk":
                    found = ks.iter_ingestion_workflows(session, status="failed")
                    return [item async for item in found]
                async with ks.watch_ingestions(session, few) as watch:
                    return [change.state async for change in watch]

            await gather_few()
            gc.collect()
            tracemalloc.start()
            try:
                kept = await gather_few()
                gc.collect()
                size = tracemalloc.get_traced_memory()[0]
                assert len(kept) == len(few) == 2_000 / each
                assert {item.workflow_id for item in kept} == set(few)
                for item in kept:
                    assert item.raw["workflow_id"] == item.workflow_id
                    assert item.raw["status"] == "failed"
                kept.clear()
                gc.collect()
                size -= tracemalloc.get_traced_memory()[0]  # what the server keeps is not ours
            finally:
                tracemalloc.stop()
    assert size / len(few) < 12_000, "with its page it would be twice to five times that"


@pytest.mark.no_cover
@in_virtual_time
async def test_all_that_are_kept_share_their_pages(virtual):
    async with box_of(virtual, 1_000, record=False) as box:
        async with session_of(box, virtual) as session:
            _ = [item async for item in ks.iter_ingestion_workflows(session)]
            gc.collect()
            tracemalloc.start()
            try:
                kept = [item async for item in ks.iter_ingestion_workflows(session)]
                gc.collect()
                size = tracemalloc.get_traced_memory()[0]
            finally:
                tracemalloc.stop()
    assert len(kept) == 1_000
    assert size / len(kept) < 3_000


# Whose key


@asynccontextmanager
async def tenants() -> AsyncIterator[tuple[str, dict[str, set[str]]]]:
    """A server that takes any key, and tells which keys each thing was asked for with."""
    keys: dict[str, set[str]] = {}
    asked: Counter[str] = Counter()
    moment = "2026-07-01T12:00:00Z"

    async def answer(request: web.BaseRequest) -> web.Response:
        one = request.path.rpartition("/")[2]
        keys.setdefault(one, set()).add(request.headers["Authorization"].removeprefix("Bearer "))
        asked[one] += 1
        is_over = asked[one] > 3
        body = {
            "workflow_id": one,
            "id": one,
            "workflow_definition_id": "00000000-0000-4000-8000-000000000001",
            "document_id": "00000000-0000-4000-8000-000000000001",
            "document_version_id": "00000000-0000-4000-8000-000000000002",
            "status": ("COMPLETED" if "workflow-runs" in request.path else "completed")
            if is_over
            else ("RUNNING" if "workflow-runs" in request.path else "processing"),
            "last_activity": None,
            "error": None,
            "last_run_timestamp": moment,
            "last_state_update_timestamp": None,
            "created_at": moment,
            "updated_at": moment,
            "started_at": moment,
            "completed_at": None,
            "run_snapshot": None,
            "user_id": "00000000-0000-4000-8000-000000000003",
            "runner_type": "SELF_HOSTED",
            "execution_status": "COMPLETED" if is_over else "RUNNING",
            "start_time": moment,
            "close_time": moment if is_over else None,
            "chunks_processed": None,
        }
        return web.json_response(body)

    server = web.Server(answer, access_log=None)
    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", keys
    finally:
        listening.close()
        await server.shutdown(0)


TENANT: ContextVar[str] = ContextVar("tenant")


def key_of_tenant() -> str:
    return f"sk-user-{TENANT.get()}"


async def later_key_of_tenant() -> str:
    await asyncio.sleep(0)
    return f"sk-user-{TENANT.get()}"


async def watched(session: ks.Session, one: str) -> None:
    async with ks.watch_ingestions(session, [one], deadline=100) as watch:
        changes = [change async for change in watch]
    assert [change.kind for change in changes] == ["status", "status"]
    assert changes[-1].is_final


RUNS = ["00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"]
WAITS = {
    "ingestions": (ks.wait_for_ingestion, ["w-a", "w-b"]),
    "runs": (ks.wait_for_workflow_run, RUNS),
    "statuses": (closed, ["w-a", "w-b"]),
    "a watch": (watched, ["w-a", "w-b"]),
}


@pytest.mark.parametrize("key", [key_of_tenant, later_key_of_tenant])
@pytest.mark.parametrize("what", WAITS)
@in_virtual_time
async def test_a_key_that_is_in_a_context_variable_is_that_of_who_waits(virtual, what, key):
    wait, ids = WAITS[what]

    async def as_tenant(tenant: str, one: str) -> None:
        TENANT.set(tenant)
        await wait(session, one)

    async with tenants() as (base_url, keys):
        options = {"clock": virtual, "dialect": "documented"}
        async with ks.Session(key, base_url, **options) as session:
            calls = (as_tenant(f"tenant-{one}", one) for one in ids)
            results = await asyncio.gather(*calls, return_exceptions=True)
    assert not any(isinstance(one, Exception) for one in results), results
    assert keys == {one: {f"sk-user-tenant-{one}"} for one in ids}


@in_virtual_time
async def test_two_who_wait_for_the_same_ask_each_with_its_own_key(virtual):
    async def as_tenant(tenant: str) -> None:
        TENANT.set(tenant)
        await ks.wait_for_ingestion(session, "w-a")

    async with tenants() as (base_url, keys):
        options = {"clock": virtual, "dialect": "documented"}
        async with ks.Session(key_of_tenant, base_url, **options) as session:
            await asyncio.gather(as_tenant("red-00000"), as_tenant("blue-0000"))
    assert keys == {"w-a": {"sk-user-red-00000", "sk-user-blue-0000"}}


@in_virtual_time
async def test_those_who_come_after_the_first_has_left_ask_with_their_own_key(virtual):
    async with tenants() as (base_url, keys):
        options = {"clock": virtual, "dialect": "documented"}
        async with ks.Session(key_of_tenant, base_url, **options) as session:
            for tenant in ("red-00000", "blue-0000"):

                async def as_tenant(tenant: str = tenant) -> None:
                    TENANT.set(tenant)
                    await ks.wait_for_ingestion(session, f"w-{tenant}")

                await asyncio.create_task(as_tenant())
    assert keys == {f"w-{one}": {f"sk-user-{one}"} for one in ("red-00000", "blue-0000")}


@dataclass
class PlainKey:
    """A key function that can't be hashed, as a dataclass can't."""

    key: str

    def __call__(self) -> str:
        return self.key


@pytest.mark.parametrize("what", WAITS)
@in_virtual_time
async def test_a_key_function_that_cant_be_hashed_does_in_waits(virtual, what):
    wait, ids = WAITS[what]
    async with tenants() as (base_url, keys):
        options = {"clock": virtual, "dialect": "documented"}
        async with ks.Session(PlainKey("sk-user-plain-1"), base_url, **options) as session:
            other = session.with_options(api_key=PlainKey("sk-user-plain-2"))
            await asyncio.gather(wait(session, ids[0]), wait(other, ids[1]))
    assert keys == {ids[0]: {"sk-user-plain-1"}, ids[1]: {"sk-user-plain-2"}}


@in_virtual_time
async def test_waits_with_the_same_key_function_share_what_they_ask(virtual):
    async with tenants() as (base_url, keys):
        options = {"clock": virtual, "dialect": "documented"}
        async with ks.Session(PlainKey(KEY), base_url, **options) as session:
            await asyncio.gather(*(ks.wait_for_ingestion(session, "w-a") for _ in range(50)))
            assert session.stats.requests <= 10
    assert keys == {"w-a": {KEY}}


# What is added, and what is hidden


@pytest.mark.parametrize("was_rerun", [False, True])
@in_virtual_time
async def test_one_that_was_over_in_a_watch_and_is_added_again_is_followed_to_its_end(
    virtual, was_rerun
):
    options = {"statuses": {"failed": 1.0}, "pipeline_seconds": (5.0, 6.0)}
    async with box_of(virtual, 3, **options) as box:
        async with session_of(box, virtual) as session:
            one = box.store.ids()[0]
            async with ks.watch_ingestions(session, [one], stays_open=True, deadline=120) as watch:
                first = await anext(watch)
                assert (first.current, first.is_final) == ("failed", True)
                if was_rerun:
                    before = await ks.get_ingestion_workflow(session, one)
                    await ks.rerun_ingestion_workflow(session, one)
                    watch.add(one, before)
                else:
                    watch.add(one)
                await virtual.sleep(30)
                assert watch.unfinished == []
                assert watch.summary.total == watch.summary.finished == 1
                asked = len(box.requests)
                await virtual.sleep(60)
                assert len(box.requests) == asked, "nothing is left to ask about"
                told = [change async for change in watch if change.is_final]
    assert len(told) <= 1
    assert {change.current for change in told} == {"completed" if was_rerun else "failed"}


@in_virtual_time
async def test_one_that_was_missing_and_is_added_again_is_told_again(virtual):
    async with box_of(virtual, 3) as box:
        async with session_of(box, virtual) as session:
            async with ks.watch_ingestions(
                session, ["later"], stays_open=True, deadline=60
            ) as watch:
                assert (await anext(watch)).kind == "missing"
                box.store.add_ingestion("completed", workflow_id="later")
                watch.add("later")
                change = await anext(watch)
                assert (change.current, change.is_final) == ("completed", True)
                assert watch.summary.missing == 0


def hide(box: Sandbox, hidden: str) -> None:
    """A key that may not see one item: it is counted, and not shown."""

    def rewrite(request, payload):
        if request.route != LIST:
            return payload
        items = [one for one in payload["items"] if one["workflow_id"] != hidden]
        return payload | {"items": items}

    box.rewrite_answer = rewrite


class Looks:
    """How many requests each look at the list took; looks are seconds apart."""

    def __init__(self, box: Sandbox, virtual: VirtualTime) -> None:
        self.virtual = virtual
        self.sizes: list[int] = []
        self._last_at = float("-inf")
        box.before_request = self.note

    def note(self, _request: object) -> None:
        now = self.virtual.now()
        if now - self._last_at > 2:
            self.sizes.append(0)
        self.sizes[-1] += 1
        self._last_at = now


@pytest.mark.no_cover
@in_virtual_time
async def test_a_hidden_item_makes_not_every_look_one_at_everything(virtual):
    options = {"dialect": "system-jobs", "statuses": {"completed": 1.0}}
    async with box_of(virtual, 800, **options) as box:
        async with session_of(box, virtual) as session:
            ids = box.store.ids()
            hide(box, ids[400])
            looks = Looks(box, virtual)
            missing = []
            async with ks.watch_ingestions(session, interval=5) as watch:
                for _ in range(799):
                    await anext(watch)
                following = asyncio.create_task(note_missing(watch, missing))
                await until(lambda: len(looks.sizes) >= 5, virtual)
                box.store.remove_ingestion(ids[100])
                await until(lambda: len(looks.sizes) >= 30, virtual)
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
    spent = looks.sizes[5:29]
    assert sum(spent) / len(spent) <= 3.5, "one in twenty at all there is"
    assert missing == [ids[100]], "what was over and vanished is told within twenty looks or so"


async def note_missing(watch, missing: list[str]) -> None:
    async for change in watch:
        if change.kind == "missing":
            missing.append(change.workflow_id)


@in_virtual_time
async def test_nor_do_uploads_that_arrive_during_each_look(virtual):
    options = {"dialect": "system-jobs", "statuses": {"completed": 1.0}}
    async with box_of(virtual, 800, **options) as box:
        async with session_of(box, virtual) as session:
            looks = Looks(box, virtual)
            note = box.before_request

            def upload(request) -> None:
                note(request)
                if looks.sizes[-1] == 2:
                    box.store.add_ingestion("completed")

            box.before_request = upload
            final = Counter()
            async with ks.watch_ingestions(session, interval=5) as watch:
                async for change in watch:
                    final[change.workflow_id] += change.is_final
                    if len(looks.sizes) >= 41:
                        break
            ids = box.store.ids()
    spent = looks.sizes[5:40]
    assert sum(spent) / len(spent) <= 4
    assert len([one for one in ids if final[one] == 1]) >= len(ids) - 2
