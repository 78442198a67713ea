"""What the limiter promises: who gets a slot, when, and what nobody's slot or key may hold up.

Time is virtual where nothing hangs in the sockets: it passes while nothing else happens.
"""

from __future__ import annotations

import asyncio
import gc
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from itertools import count, islice

import aiohttp
import pytest
from aiohttp import web
from virtual_time import VirtualTime, in_virtual_time

import knowledgestack_async as ks
from knowledgestack_async.sandbox import Fault, Sandbox
from support import KEY, http, raw_server

SOON = 1.5
"""In seconds: what is answered at once comes by then, on a busy machine, too."""


async def settle(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def kinds(results: list) -> Counter[str]:
    return Counter(type(one).__name__ for one in results)


# An outcome has a slot, even when everything hangs


@asynccontextmanager
async def hanging_reads(box: Sandbox, polls: int, **options) -> AsyncIterator[ks.Session]:
    """A session all of whose slots are taken by polls that hang, and more wait for one."""
    box.faults.add(Fault("silence", route="get_workflow_status"))
    async with box.session(**options) as session:
        ids = box.store.ids()
        reads = [
            asyncio.create_task(ks.get_workflow_status(session, one))
            for one in islice((one for _ in count() for one in ids), polls)
        ]
        most = min(polls, session.stats.limit)
        try:
            # One of them may be kept free.
            await settle(lambda: box.request_counts["get_workflow_status"] >= max(1, most - 2))
            await asyncio.sleep(0.05)
            yield session
        finally:
            for read in reads:
                read.cancel()
            await asyncio.gather(*reads, return_exceptions=True)


HANGING = [(20, {}), (100, {}), (3, {"max_in_flight": 1}), (10, {"max_in_flight": 5})]


@pytest.mark.parametrize(("polls", "options"), HANGING, ids=str)
async def test_a_callback_goes_out_at_once_although_all_reads_hang(polls, options):
    async with Sandbox(ingestions=20, runs=0) as box:
        run_ids = [box.store.add_run("RUNNING").id for _ in range(5)]
        async with hanging_reads(box, polls, **options) as session:
            async with asyncio.timeout(SOON):
                await ks.send_workflow_run_callback(session, run_ids[0], "COMPLETED")
                calls = (ks.send_workflow_run_callback(session, i, "FAILED") for i in run_ids[1:])
                await asyncio.gather(*calls)
        assert {box.store.get_run(one).status for one in run_ids} == {"COMPLETED", "FAILED"}


async def test_nor_do_hanging_cancels_keep_it():
    """They go before reads, too."""
    async with Sandbox(ingestions=60, statuses={"processing": 1.0}, superseded=0) as box:
        run_id = box.store.add_run("RUNNING").id
        box.faults.add(Fault("silence", route="cancel_workflow"))
        async with box.session(dialect="documented") as session:
            cancels = [
                asyncio.create_task(ks.cancel_workflow(session, one)) for one in box.store.ids()
            ]
            await settle(lambda: box.request_counts["cancel_workflow"] >= 18)
            await asyncio.sleep(0.05)
            try:
                async with asyncio.timeout(SOON):
                    await ks.send_workflow_run_callback(session, run_id, "COMPLETED")
            finally:
                for one in cancels:
                    one.cancel()
                await asyncio.gather(*cancels, return_exceptions=True)


async def test_nor_does_a_users_pool_whose_connections_all_hang():
    async with Sandbox(ingestions=20) as box:
        run_id = box.store.add_run("RUNNING").id
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=5)) as client:
            async with hanging_reads(box, 20, client_session=client) as session:
                async with asyncio.timeout(SOON):
                    await ks.send_workflow_run_callback(session, run_id, "COMPLETED")


@pytest.mark.parametrize("how", ["cancelled", "ends", "raises"])
async def test_the_report_of_a_run_goes_out_at_once_although_all_reads_hang(how):
    async with Sandbox(ingestions=20) as box:
        run_id = box.store.add_run("RUNNING").id

        async def work(session: ks.Session) -> ks.runner.Outcome:
            async with ks.report_outcome(session, run_id) as outcome:
                told.append(outcome)
                if how == "cancelled":
                    await asyncio.Event().wait()
                if how == "raises":
                    raise LookupError

        told = []
        async with hanging_reads(box, 30) as session:
            running = asyncio.create_task(work(session))
            await settle(lambda: told)
            if how == "cancelled":
                running.cancel()
            done, _ = await asyncio.wait({running}, timeout=SOON)
        await asyncio.gather(running, return_exceptions=True)
        assert done
        assert (told[0].delivered, told[0].problem) == (True, None)
        assert box.store.get_run(run_id).status == ("COMPLETED" if how == "ends" else "FAILED")


async def test_outcomes_that_were_spooled_are_delivered_although_all_reads_hang(tmp_path):
    async with Sandbox(ingestions=20) as box:
        run_ids = [box.store.add_run("RUNNING").id for _ in range(10)]
        refused = box.faults.add(Fault("status", status=401, route="*callback"))
        async with box.session() as session:
            for one in run_ids:
                async with ks.report_outcome(session, one, spool=tmp_path / "spool"):
                    pass
        refused.remove()
        async with hanging_reads(box, 30) as session:
            async with asyncio.timeout(SOON):
                report = await ks.deliver_spooled(session, tmp_path / "spool")
        assert set(report.delivered) == set(run_ids)


# No priority starves, measured in slots


ROUTES = {
    "urgent": "cancel_workflow",
    "normal": "get_ingestion_workflow",
    "background": "get_workflow_status",
}


@pytest.mark.no_cover
@pytest.mark.parametrize("most", [1, 4])
@in_virtual_time
async def test_while_all_wait_each_priority_has_a_share_of_the_slots(virtual, most):
    running = {"statuses": {"processing": 1.0}, "pipeline_seconds": (1000.0, 1001.0)}
    async with Sandbox(ingestions=400, superseded=0, **running) as box:
        async with box.session(clock=virtual, max_in_flight=most, dialect="documented") as session:
            ids = box.store.ids()
            poll = ks.poll_workflow_statuses(session, ids[:80], concurrency=80)
            async with poll:
                polling = asyncio.create_task(take_all(poll))
                calls = [ks.get_ingestion_workflow(session, one) for one in ids[:80]]
                calls += [ks.cancel_workflow(session, one) for one in ids]
                await asyncio.gather(*calls)
                await polling
    order = [request.route for request in box.requests]
    lasts = {route: len(order) - 1 - order[::-1].index(route) for route in ROUTES.values()}
    # The first few went at once; from then on all three wait, until one has had its last turn.
    contended = order[most : min(lasts.values())]
    assert len(contended) > 100
    for start in range(len(contended) - 16):
        turns = Counter(contended[start : start + 16])
        assert set(turns) == set(ROUTES.values()), (start, turns)


async def take_all(poll) -> None:
    async for _ in poll:
        pass


@pytest.mark.parametrize("with_poll", [True, False])
@in_virtual_time
async def test_a_lasting_burst_of_urgent_calls_holds_no_call_up_for_long(virtual, with_poll):
    async with Sandbox(ingestions=300, statuses={"processing": 1.0}, superseded=0) as box:
        async with box.session(clock=virtual, max_in_flight=4, dialect="documented") as session:
            ids = box.store.ids()
            left = iter(ids)

            async def cancel_on() -> None:
                for one in left:
                    await ks.cancel_workflow(session, one)

            burst = [asyncio.create_task(cancel_on()) for _ in range(30)]
            poll = ks.poll_workflow_statuses(session, ids if with_poll else [], concurrency=30)
            async with poll:
                polling = asyncio.create_task(take_all(poll))
                while len(box.requests) < 40:
                    await asyncio.sleep(0)
                begun = len(box.requests)
                await ks.get_ingestion_workflow(session, ids[0])
                order = [request.route for request in box.requests]
                assert order.index("get_ingestion_workflow") - begun <= 16 + 4
                assert next(left, None) is not None, "the burst lasts still"
                for one in burst:
                    one.cancel()
                await asyncio.gather(*burst, return_exceptions=True)
                await polling


# A pause that comes while calls queue


@pytest.mark.parametrize("status", [429, 503])
@in_virtual_time
async def test_a_long_pause_is_met_by_those_that_queue_as_by_those_that_come_later(virtual, status):
    async with Sandbox(ingestions=50) as box:
        box.faults.add(Fault("status", status=status, retry_after=3000))
        async with box.session(clock=virtual) as session:
            began = virtual.now()
            calls = (ks.get_ingestion_workflow(session, one) for one in box.store.ids())
            results = await asyncio.gather(*calls, return_exceptions=True)
            with pytest.raises(ks.DeadlineExceeded) as caught:
                await ks.get_ingestion_workflow(session, box.store.ids()[0])
            assert virtual.now() - began < 1
            assert session.stats.waiting == 0
    refused = {429: ks.TooManyRequests, 503: ks.ServiceUnavailable}[status]
    later = [one for one in results if not isinstance(one, refused)]
    assert len(later) >= 20
    assert kinds(later) == {"DeadlineExceeded": len(later)}
    assert {one.tries for one in later} == {0}
    for one in (*later, caught.value):
        assert one.retry_after == pytest.approx(3000, abs=1)


@in_virtual_time
async def test_so_is_one_by_the_calls_of_a_poll_of_a_walk_and_by_callbacks(virtual):
    async with Sandbox(ingestions=400) as box:
        run_id = box.store.add_run("RUNNING").id
        box.faults.add(Fault("status", status=429, retry_after=3000, after=30))
        async with box.session(clock=virtual) as session:
            began = virtual.now()

            async def walk() -> None:
                async for _ in ks.iter_ingestion_workflows(session, page_size=2):
                    pass

            poll = ks.poll_workflow_statuses(session, box.store.ids(), concurrency=100)
            async with poll:
                polling = asyncio.create_task(take_all(poll))
                calls = [walk(), ks.send_workflow_run_callback(session, run_id, "COMPLETED")]
                await asyncio.gather(polling, *calls, return_exceptions=True)
            assert virtual.now() - began < 1


@pytest.mark.parametrize(("deadline", "pause"), [(10, 30), (None, 119)])
@in_virtual_time
async def test_a_pause_ends_just_those_that_have_no_time_for_it(virtual, deadline, pause):
    async with Sandbox(ingestions=50) as box:
        box.faults.add(Fault("status", status=429, retry_after=pause, times=20))
        async with box.session(clock=virtual, deadline=deadline) as session:
            began = virtual.now()
            calls = (ks.get_ingestion_workflow(session, one) for one in box.store.ids())
            results = await asyncio.gather(*calls, return_exceptions=True)
            took = virtual.now() - began
    if deadline is None:
        # Those that were refused have no time for jitter on top, but all that queued have.
        assert kinds(results[20:]) == {"WorkflowDetailResponse": 30}
        assert took >= pause
    else:
        assert set(kinds(results)) == {"TooManyRequests", "DeadlineExceeded"}
        assert took < 1


# A server that limits the rate


class RateLimit:
    """Takes so many requests in each second of the session's time, and answers 429 to the rest."""

    def __init__(self, virtual: VirtualTime, rate: int, retry_after: str | None) -> None:
        self.virtual, self.rate, self.retry_after = virtual, rate, retry_after
        self.taken: Counter[int] = Counter()
        self.asked = 0
        self.acted: Counter[str] = Counter()

    async def answer(self, request: web.BaseRequest) -> web.Response:
        self.asked += 1
        now = int(self.virtual.now())
        if self.taken[now] >= self.rate:
            headers = {} if self.retry_after is None else {"Retry-After": self.retry_after}
            return web.json_response({"detail": "slow down"}, status=429, headers=headers)
        self.taken[now] += 1
        workflow_id = request.path.rpartition("/")[2]
        self.acted[workflow_id] += 1
        if request.method == "POST":
            return web.json_response({"workflow_id": workflow_id, "action": "rerun"})
        return web.json_response(
            {
                "workflow_id": workflow_id,
                "execution_status": "RUNNING",
                "start_time": "2026-07-01T12:00:00Z",
                "close_time": None,
            }
        )


@asynccontextmanager
async def limited(
    virtual: VirtualTime, rate: int, retry_after: str | None
) -> AsyncIterator[tuple[ks.Session, RateLimit]]:
    limit = RateLimit(virtual, rate, retry_after)
    server = web.Server(limit.answer, access_log=None)
    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    base_url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        async with ks.Session(KEY, base_url, clock=virtual, dialect="documented") as session:
            yield session, limit
    finally:
        listening.close()
        await server.shutdown(0)


CALLS = {"reads": ks.get_workflow_status, "reruns": ks.rerun_ingestion_workflow}


@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("what", "number", "rate", "retry_after"),
    [
        ("reads", 600, 20, "1"),
        ("reads", 300, 20, None),
        ("reads", 200, 10, "1"),
        ("reads", 200, 10, None),
        ("reads", 300, 100, None),
        ("reruns", 600, 20, "1"),
        ("reruns", 300, 20, None),
    ],
)
@in_virtual_time
async def test_a_server_that_limits_the_rate_fails_no_gathered_call(
    virtual, what, number, rate, retry_after
):
    async with limited(virtual, rate, retry_after) as (session, limit):
        began = virtual.now()
        ids = [f"w-{turn}" for turn in range(number)]
        calls = (CALLS[what](session, one) for one in ids)
        results = await asyncio.gather(*calls, return_exceptions=True)
        took = virtual.now() - began
    assert len(kinds(results)) == 1
    assert not isinstance(results[0], Exception), kinds(results)
    assert limit.acted == dict.fromkeys(ids, 1)
    assert took <= 120, "the policy gives up after that"
    assert limit.asked <= 4 * number


@pytest.mark.no_cover
@pytest.mark.parametrize("retry_after", ["1", None])
@in_virtual_time
async def test_nor_one_of_a_poll(virtual, retry_after):
    async with limited(virtual, 20, retry_after) as (session, limit):
        ids = [f"w-{turn}" for turn in range(500)]
        async with ks.poll_workflow_statuses(session, ids) as poll:
            results = [result async for result in poll]
    assert kinds([result.error for result in results]) == {"NoneType": 500}
    assert limit.acted == dict.fromkeys(ids, 1)


@pytest.mark.no_cover
@pytest.mark.parametrize("retry_after", ["1", None])
@in_virtual_time
async def test_nor_a_call_with_a_deadline_that_is_long_enough(virtual, retry_after):
    async with limited(virtual, 20, retry_after) as (session, _):
        patient = session.with_options(deadline=60)
        calls = (ks.get_workflow_status(patient, f"w-{turn}") for turn in range(200))
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert kinds(results) == {"WorkflowStatusResponse": 200}


# Keys are asked for before the slot is taken


@in_virtual_time
async def test_who_waits_for_a_key_keeps_a_pause_that_comes_meanwhile(virtual):
    async def slow_key() -> str:
        await virtual.sleep(0.5)
        return KEY

    async with Sandbox(ingestions=20, api_key=KEY) as box:
        times: list[float] = []
        box.before_request = lambda _: times.append(virtual.now() - began)
        async with box.session(clock=virtual, api_key=slow_key, dialect="documented") as session:
            began = virtual.now()
            plain = session.with_options(api_key=KEY)
            box.faults.add(Fault("status", status=429, retry_after=3, times=1))
            calls = [
                asyncio.create_task(ks.get_ingestion_workflow(session, one))
                for one in box.store.ids()[1:]
            ]
            await virtual.sleep(0.1)
            await ks.get_ingestion_workflow(plain, box.store.ids()[0])
            await asyncio.gather(*calls)
    assert len(times) == 21
    assert sum(moment < 3.1 for moment in times) == 1


@in_virtual_time
async def test_who_waits_for_a_key_takes_no_place_of_those_who_have_one(virtual):
    async def slow_key() -> str:
        await virtual.sleep(5)
        return KEY

    async with Sandbox(ingestions=20, api_key=KEY) as box:
        options = {"clock": virtual, "max_in_flight": 5, "dialect": "documented"}
        async with box.session(**options) as session:
            slow = session.with_options(api_key=slow_key)
            began = virtual.now()
            calls = [
                asyncio.create_task(ks.get_ingestion_workflow(slow, one)) for one in box.store.ids()
            ]
            await virtual.sleep(0.1)
            await ks.get_ingestion_workflow(session, box.store.ids()[0])
            assert virtual.now() - began < 1
            await asyncio.gather(*calls)


class Keys:
    """Keys that are good for so many seconds, each had by a call to the server itself."""

    def __init__(self, virtual: VirtualTime, lasting: float) -> None:
        self.virtual, self.lasting, self.until = virtual, lasting, virtual.now()
        self.fetch: Callable[[], Awaitable[object]] | None = None
        self.refreshed = 0
        self._lock = asyncio.Lock()
        self._is_refreshing: ContextVar[bool] = ContextVar("is_refreshing", default=False)

    async def give(self) -> str:
        if self._is_refreshing.get():
            return KEY
        async with self._lock:
            if self.virtual.now() >= self.until:
                await self.virtual.sleep(0.05)  # as it is read from somewhere
                within = self._is_refreshing.set(True)
                await self.fetch()
                self._is_refreshing.reset(within)
                self.refreshed += 1
                self.until = self.virtual.now() + self.lasting
        return KEY


@pytest.mark.no_cover
@pytest.mark.parametrize("most", [1, 2, 20])
@pytest.mark.parametrize("through", ["a view", "the session itself"])
@in_virtual_time
async def test_a_key_function_that_calls_the_server_itself_blocks_nobody(virtual, through, most):
    async with limited(virtual, 10_000, None) as (other, _):
        keys = Keys(virtual, 1.0)
        options = {"clock": virtual, "max_in_flight": most, "dialect": "documented"}
        async with ks.Session(keys.give, other.base_url, **options) as session:
            view = session if through != "a view" else session.with_options(api_key=KEY)
            keys.fetch = lambda: ks.get_workflow_status(view, "the-key")
            began = virtual.now()
            for _ in range(3):
                calls = (ks.get_workflow_status(session, f"w-{turn}") for turn in range(60))
                results = await asyncio.gather(*calls, return_exceptions=True)
                assert kinds(results) == {"WorkflowStatusResponse": 60}
                await virtual.sleep(1.5)
            assert virtual.now() - began < 6
            assert keys.refreshed == 3


@pytest.mark.parametrize("what", ["reruns", "callbacks", "retries"])
@in_virtual_time
async def test_nor_where_calls_go_once_or_first_or_again(virtual, what):
    async with Sandbox(ingestions=60, statuses={"failed": 1.0}, superseded=0, api_key=KEY) as box:
        ids, runs = box.store.ids(), [box.store.add_run("RUNNING").id for _ in range(60)]
        keys = Keys(virtual, 1.0)
        async with box.session(clock=virtual, api_key=keys.give, dialect="documented") as session:
            keys.fetch = lambda: ks.get_workflow_run(session, runs[0])
            began = virtual.now()
            if what == "reruns":
                calls = [ks.rerun_ingestion_workflow(session, one) for one in ids]
            elif what == "callbacks":
                calls = [ks.send_workflow_run_callback(session, one, "FAILED") for one in runs]
            else:
                box.faults.add(Fault("status", status=503, route="get_ing*", times=20))
                keys.lasting = 0.1
                calls = [ks.get_ingestion_workflow(session, one) for one in ids[:20]]
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert virtual.now() - began < 10
    assert not any(isinstance(one, Exception) for one in results), kinds(results)


@in_virtual_time
async def test_a_key_is_fresh_when_it_is_sent_however_long_the_call_had_to_wait(virtual):
    """It may be good for a few seconds only, and the queue, a pause or a retry may take longer."""
    seen: list[float] = []

    def key() -> str:
        return f"sk-user-{virtual.now():012.3f}"

    answers = iter([http(b"{}", status="429 Slow", headers="Retry-After: 10\r\n")])
    body = {"workflow_id": "w", "execution_status": "RUNNING", "start_time": None}
    good = http(json.dumps(body | {"start_time": "2026-07-01T12:00:00Z"}).encode())

    async def script(_reader, writer, head) -> None:
        sent = float(head.split(b"Bearer sk-user-")[1].split(b"\r\n")[0])
        seen.append(virtual.now() - sent)
        writer.write(next(answers, good))

    async with raw_server(script) as server:
        options = {"clock": virtual, "max_in_flight": 4, "dialect": "documented"}
        async with ks.Session(key, server.base_url, **options) as session:
            calls = (ks.get_workflow_status(session, "w") for _ in range(40))
            await asyncio.gather(*calls)
    assert len(seen) == 41
    assert max(seen) < 1.0


# Who is out of time leaves the queue


@pytest.mark.parametrize("how", ["a deadline", "a time-out of the user's own", "cancelled"])
@in_virtual_time
async def test_who_waits_no_more_leaves_nothing_in_the_queue(virtual, how):
    async with Sandbox(ingestions=1, record=False) as box:
        box.faults.add(Fault("silence"))
        [one] = box.store.ids()
        async with box.session(clock=virtual, max_in_flight=1, dialect="documented") as session:
            holding = asyncio.create_task(ks.get_ingestion_workflow(session, one))
            while not session.stats.in_flight:
                await asyncio.sleep(0)

            async def give_up() -> None:
                view = session.with_options(deadline=0.5) if how == "a deadline" else session
                with suppress(TimeoutError, asyncio.CancelledError):
                    async with virtual.timeout(0.5 if how.endswith("own") else None):
                        await ks.get_ingestion_workflow(view, one)

            gc.collect()
            before = count_futures()
            calls = {asyncio.create_task(give_up()) for _ in range(2_000)}
            await virtual.sleep(0.2)
            assert session.stats.waiting == 2_000
            if how == "cancelled":
                for call in calls:
                    call.cancel()
            await asyncio.wait(calls)
            assert session.stats.waiting == 0
            assert not holding.done()
            calls.clear()
            gc.collect()
            assert count_futures() - before < 100
            holding.cancel()
            await asyncio.gather(holding, return_exceptions=True)


def count_futures() -> int:
    return sum(isinstance(one, asyncio.Future) for one in gc.get_objects())
