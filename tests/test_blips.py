"""A server that is away for a moment fails no call; one that stays away is hardly asked more often.

Time is virtual where a case has no word about it: it passes while nothing else happens, so each blip
meets every try that a session makes in that time. Settings are the defaults.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from virtual_time import VirtualTime, in_virtual_time

import knowledgestack_async as ks
from knowledgestack_async.sandbox import Fault, Sandbox
from support import KEY, answering, http, ids_of, raw_server, run_id_of

LONGEST = 7.5
"""The seconds that the waits between the five tries of the default policy take at most."""
MARGIN = 1.5
KINDS = {
    "429": {"kind": "status", "status": 429},
    "500": {"kind": "status", "status": 500},
    "502": {"kind": "status", "status": 502},
    "503": {"kind": "status", "status": 503},
    "503 with Retry-After": {"kind": "status", "status": 503, "retry_after": 1},
    "504": {"kind": "status", "status": 504},
    "reset": {"kind": "reset"},
    "close": {"kind": "close"},
}
ERRORS = {
    "429": ks.TooManyRequests,
    "500": ks.ServerError,
    "502": ks.ServerError,
    "503": ks.ServiceUnavailable,
    "503 with Retry-After": ks.ServiceUnavailable,
    "504": ks.ServerError,
    "reset": ks.ConnectionLost,
    "close": ks.ConnectionLost,
    "refused": ks.ConnectionFailed,
    "silence": ks.ConnectionLost,
}
"""What a call alone fails with, if that lasts for ever."""


def seeded(*case: object) -> random.Random:
    return random.Random("-".join(map(str, case)))


def begin_blip(box: Sandbox, virtual: VirtualTime, kind: str, lasting: float, **where) -> None:
    handle = box.faults.add(Fault(**KINDS[kind], **where))
    virtual.call_later(lasting, handle.remove)


async def outcomes(calls) -> Counter:
    """How many calls ended well, and how many with which error."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    return Counter(type(one) if isinstance(one, BaseException) else "fine" for one in results)


def reads(session: ks.Session, ids, count: int):
    return (ks.get_ingestion_workflow(session, ids[turn % len(ids)]) for turn in range(count))


async def until(condition: Callable[[], object], virtual: VirtualTime) -> None:
    while not condition():
        await virtual.sleep(0.05)


# A blip


@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("kind", "lasting", "count"),
    [
        (kind, lasting, (20, 100, 200)[(place + turn) % 3])
        for place, kind in enumerate(("503", "502", "reset"))
        for turn, lasting in enumerate((0.1, 0.3, 1.0, 2.0))
    ],
)
@in_virtual_time
async def test_a_blip_fails_no_gathered_read(virtual, kind, lasting, count):
    async with Sandbox(ingestions=20) as box:
        async with box.session(clock=virtual, chance=seeded(kind, lasting, count)) as session:
            begin_blip(box, virtual, kind, lasting)
            began = virtual.now()
            assert await outcomes(reads(session, box.store.ids(), count)) == {"fine": count}
            assert virtual.now() - began <= LONGEST + MARGIN


@pytest.mark.no_cover
@pytest.mark.parametrize("kind", ["429", "500", "504", "close", "503 with Retry-After"])
@in_virtual_time
async def test_nor_does_one_of_another_kind(virtual, kind):
    async with Sandbox(ingestions=20) as box:
        async with box.session(clock=virtual, chance=seeded(kind)) as session:
            begin_blip(box, virtual, kind, 1.0)
            assert await outcomes(reads(session, box.store.ids(), 100)) == {"fine": 100}


@pytest.mark.no_cover
@pytest.mark.parametrize("dialect", ["offset", "system-jobs"])
@in_virtual_time
async def test_nor_does_one_while_the_generation_is_not_known_yet(virtual, dialect):
    async with Sandbox(ingestions=20, dialect=dialect) as box:
        async with box.session(clock=virtual, chance=seeded(dialect)) as session:
            begin_blip(box, virtual, "503", 1.0)
            assert await outcomes(reads(session, box.store.ids(), 100)) == {"fine": 100}


@asynccontextmanager
async def door() -> AsyncIterator[web.Server]:
    """A server that can stop listening, and listen again, at its ``base_url``."""

    async def answer(request: web.BaseRequest) -> web.Response:
        workflow_id = request.path.rpartition("/")[2]
        return web.json_response(
            {
                "workflow_id": workflow_id,
                "execution_status": "RUNNING",
                "start_time": "2026-07-01T12:00:00Z",
                "close_time": None,
            }
        )

    server = web.Server(answer, access_log=None)
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(server, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]

    def shut() -> None:
        listening.close()
        for connection in server.connections:
            if connection.transport is not None:
                connection.transport.abort()

    async def reopen() -> None:
        nonlocal listening
        listening = await loop.create_server(server, "127.0.0.1", port)

    server.base_url, server.shut, server.reopen = f"http://127.0.0.1:{port}", shut, reopen
    try:
        yield server
    finally:
        shut()
        await server.shutdown(0)


@pytest.mark.parametrize("lasting", [0.3, 2.0])
@in_virtual_time
async def test_nor_does_a_restart_that_refuses_connections(virtual, lasting):
    async with door() as server:
        async with ks.Session(
            KEY, server.base_url, clock=virtual, chance=seeded(lasting)
        ) as session:
            await ks.get_workflow_status(session, "w-0")
            server.shut()
            calls = asyncio.gather(
                *(ks.get_workflow_status(session, f"w-{number}") for number in range(100)),
                return_exceptions=True,
            )
            await virtual.sleep(lasting)
            await server.reopen()
            results = await calls
    assert [type(one).__name__ for one in results] == ["WorkflowStatusResponse"] * 100


@pytest.mark.no_cover
@pytest.mark.parametrize("lasting", [1.0, 2.0])
@in_virtual_time
async def test_nor_does_a_moment_of_silence(virtual, lasting):
    """What hangs then is sent again when its time-out is over."""
    async with Sandbox(ingestions=20) as box:
        async with box.session(clock=virtual, chance=seeded(lasting)) as session:
            ids = box.store.ids()
            await outcomes(reads(session, ids, 400))  # so that a hundred may be in flight
            handle = box.faults.add(Fault("silence"))
            virtual.call_later(lasting, handle.remove)
            assert await outcomes(reads(session, ids, 200)) == {"fine": 200}


@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("kind", "lasting", "count"),
    [("503", 1.0, 3_000), ("502", 0.3, 500), ("502", 2.0, 500), ("reset", 1.0, 500)],
)
@in_virtual_time
async def test_nor_one_of_a_poll(virtual, kind, lasting, count):
    async with Sandbox(ingestions=count, record=False) as box:
        async with box.session(clock=virtual, chance=seeded(kind, lasting)) as session:
            ids = box.store.ids()
            async with ks.poll_workflow_statuses(session, ids) as poll:
                got = [await anext(poll) for _ in range(count // 3)]
                begin_blip(box, virtual, kind, lasting)
                got += [result async for result in poll]
    assert Counter(type(result.error).__name__ for result in got) == {"NoneType": count}


@pytest.mark.no_cover
@pytest.mark.parametrize("lasting", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("kind", ["503", "502", "reset"])
@in_virtual_time
async def test_nor_a_walk(virtual, kind, lasting):
    async with Sandbox(ingestions=1_000, record=False) as box:
        async with box.session(clock=virtual, chance=seeded(kind, lasting)) as session:
            got = []
            async for item in ks.iter_ingestion_workflows(session, page_size=20):
                got.append(item.workflow_id)
                if len(got) == 400:
                    begin_blip(box, virtual, kind, lasting)
    assert got == list(box.store.ids())


@in_virtual_time
async def test_nor_a_walk_of_very_many(virtual):
    async with Sandbox(ingestions=20_000, record=False) as box:
        async with box.session(clock=virtual, chance=seeded("many")) as session:
            got = 0
            async for _ in ks.iter_ingestion_workflows(session):
                got += 1
                if got == 4_000:
                    begin_blip(box, virtual, "503", 1.0)
    assert got == 20_000


@pytest.mark.no_cover
@pytest.mark.parametrize("lasting", [1.0, 2.0])
@pytest.mark.parametrize("kind", ["503", "502", "reset"])
@in_virtual_time
async def test_nor_a_call_of_an_app_that_makes_fifty_a_second(virtual, kind, lasting):
    async with Sandbox(ingestions=20) as box:
        async with box.session(clock=virtual, chance=seeded(kind, lasting)) as session:
            calls = []
            for number, call in enumerate(reads(session, box.store.ids(), 250)):
                if number == 50:
                    begin_blip(box, virtual, kind, lasting)
                calls.append(asyncio.create_task(call))
                await virtual.sleep(0.02)
            assert await outcomes(calls) == {"fine": 250}


@pytest.mark.no_cover
@in_virtual_time
async def test_nor_one_after_the_other_with_calls_in_between(virtual):
    async with Sandbox(ingestions=20) as box:
        async with box.session(clock=virtual, chance=seeded("series")) as session:
            for kind in ("503", "reset", "502", "503"):
                begin_blip(box, virtual, kind, 1.0)
                assert await outcomes(reads(session, box.store.ids(), 100)) == {"fine": 100}


@in_virtual_time
async def test_nor_a_rerun_that_is_refused_for_a_moment_and_each_acts_once(virtual):
    async with Sandbox(ingestions=100, statuses={"failed": 1.0}, superseded=0) as box:
        async with box.session(clock=virtual, chance=seeded("reruns")) as session:
            ids = box.store.ids()
            begin_blip(box, virtual, "503", 1.0)
            calls = (ks.rerun_ingestion_workflow(session, one) for one in ids)
            assert await outcomes(calls) == {"fine": 100}
    assert Counter(effect.id for effect in box.effects) == dict.fromkeys(ids, 1)


@pytest.mark.no_cover
@in_virtual_time
async def test_nor_a_callback_beside_reads(virtual):
    async with Sandbox(ingestions=20, runs=40) as box:
        async with box.session(clock=virtual, chance=seeded("callbacks")) as session:
            runs = [box.store.add_run("RUNNING").id for _ in range(30)]
            begin_blip(box, virtual, "502", 2.0)
            calls = [*reads(session, box.store.ids(), 100)]
            calls += [ks.send_workflow_run_callback(session, run, "COMPLETED") for run in runs]
            assert await outcomes(calls) == {"fine": 130}


@pytest.mark.no_cover
@pytest.mark.parametrize(("kind", "lasting"), [("503", 0.3), ("reset", 0.1), ("502", 0.1)])
async def test_nor_a_read_in_real_time(kind, lasting):
    async with Sandbox(ingestions=20) as box:
        async with box.session(chance=seeded(kind, "real")) as session:
            handle = box.faults.add(Fault(**KINDS[kind]))
            asyncio.get_running_loop().call_later(lasting, handle.remove)
            assert await outcomes(reads(session, box.store.ids(), 100)) == {"fine": 100}


# Jobs, waits and watches


@pytest.mark.no_cover
@pytest.mark.parametrize("lasting", [0.3, 2.0])
@pytest.mark.parametrize("kind", ["503", "502", "reset"])
@in_virtual_time
async def test_waits_come_through_a_blip(virtual, kind, lasting):
    async with Sandbox(ingestions=5) as box:
        async with box.session(clock=virtual, chance=seeded("waits", kind, lasting)) as session:
            runs = [box.store.add_run("RUNNING").id for _ in range(150)]
            waits = [
                asyncio.create_task(ks.wait_for_workflow_run(session, run, deadline=60))
                for run in runs
            ]
            await until(lambda: box.request_counts["get_workflow_run"] >= 150, virtual)
            begin_blip(box, virtual, kind, lasting)
            await virtual.sleep(lasting)
            for run in runs:
                box.store.callback(run, "COMPLETED")
            assert await outcomes(waits) == {"fine": 150}


@pytest.mark.no_cover
@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("kind", ["503", "502", "reset"])
@in_virtual_time
async def test_a_watch_tells_no_trouble_of_a_blip(virtual, kind, everything):
    options = {"statuses": {"processing": 1.0}, "superseded": 0, "clock": BoxClock(virtual)}
    async with Sandbox(ingestions=400, pipeline_seconds=(10.0, 20.0), **options) as box:
        async with box.session(clock=virtual, chance=seeded("watch", kind)) as session:
            ids = box.store.ids()
            final: Counter[str] = Counter()
            kinds = Counter()
            async with ks.watch_ingestions(session, None if everything else ids) as watch:
                virtual.call_later(3, lambda: begin_blip(box, virtual, kind, 2.0))
                async for change in watch:
                    kinds[change.kind] += 1
                    final[change.workflow_id] += change.is_final
                    if final.total() == 400:
                        break
    assert final == Counter(ids)
    assert kinds.keys() == {"status"}


class BoxClock:
    """The sandbox's time, which is the session's."""

    def __init__(self, virtual: VirtualTime) -> None:
        self.virtual = virtual

    def now(self) -> float:
        return 1_780_000_000 + self.virtual.now()


@pytest.mark.no_cover
@pytest.mark.parametrize(("kind", "unknown"), [("503", 0), ("502", 60), ("reset", 60)])
@in_virtual_time
async def test_a_bulk_rerun_beside_reads_comes_through_a_blip(virtual, tmp_path, kind, unknown):
    async with Sandbox(ingestions=300, statuses={"failed": 1.0}, superseded=0) as box:
        async with box.session(clock=virtual, chance=seeded("bulk", kind)) as session:
            ids = box.store.ids()
            targets = [item async for item in ks.iter_ingestion_workflows(session)]
            async with ks.rerun_ingestions(session, targets, journal=tmp_path / "job") as job:
                await until(lambda: len(box.effects) >= 30, virtual)
                begin_blip(box, virtual, kind, 2.0)
                assert await outcomes(reads(session, ids, 100)) == {"fine": 100}
                report = await job.finish()
    assert report.counts.get("accepted", 0) + report.counts.get("unknown", 0) == 300
    assert report.counts.get("unknown", 0) <= unknown
    assert max(Counter(effect.id for effect in box.effects).values()) == 1


# An outage


async def ask(session: ks.Session, number: int) -> tuple[float, type | None, int]:
    """Make a call that fails; how long that took, in the session's time, with what, after how many tries."""
    began = session.clock.now()
    try:
        await ks.get_workflow_status(session, f"w-{number}")
    except ks.RequestError as error:
        return session.clock.now() - began, type(error), error.tries
    return session.clock.now() - began, None, 0


BODIES = {
    "503": http(b'{"detail": "no"}', status="503 Service Unavailable"),
    "502": http(b"<h1>502</h1>", status="502 Bad Gateway"),
    "500": http(b"{}", status="500 Internal Server Error"),
    "429": http(b"{}", status="429 Too Many Requests"),
}


@asynccontextmanager
async def broken_server(kind: str) -> AsyncIterator[object]:
    async def reset(_reader, writer, _head) -> None:
        writer.transport.abort()

    async def hang(_reader, _writer, _head) -> None:
        await asyncio.Event().wait()

    script = {"reset": reset, "silence": hang}.get(kind) or answering(BODIES.get(kind, b""))
    async with raw_server(script) as server:
        if kind != "refused":
            yield server
    if kind == "refused":
        yield server


@pytest.mark.parametrize("kind", ["503", "502", "500", "429", "reset", "refused", "silence"])
@in_virtual_time
async def test_an_outage_is_not_fed_and_each_call_fails_in_its_own_time(virtual, kind):
    count = 1_000
    async with broken_server(kind) as server:
        async with ks.Session(KEY, server.base_url, clock=virtual, chance=seeded(kind)) as session:
            results = await asyncio.gather(*(ask(session, number) for number in range(count)))
            requests = session.stats.requests
    assert {error for _, error, _ in results} == {ERRORS[kind]}
    assert requests <= 1.04 * count
    if kind != "refused":
        assert len(server.heads) <= 1.04 * count
    # In a silence nothing is known before the time-outs, which the queue waits for; where the rate is
    # limited, whoever waits for a turn has the time of the whole policy.
    longest = {"silence": float("inf"), "429": 120.0}.get(kind, LONGEST)
    assert max(took for took, _, _ in results) <= longest + MARGIN


@pytest.mark.no_cover
@in_virtual_time
async def test_a_large_poll_costs_hardly_more_than_a_request_a_call(virtual):
    """Its calls come a hundred at a time, so the outage lasts for as long as a hundred rounds."""
    virtual.GRAIN = 0.5
    count = 10_000
    async with broken_server("503") as server:
        async with ks.Session(KEY, server.base_url, clock=virtual, chance=seeded(1)) as session:
            ids = (f"w-{number}" for number in range(count))
            async with ks.poll_workflow_statuses(session, ids, concurrency=100) as poll:
                errors = Counter([type(result.error) async for result in poll])
            assert session.stats.requests <= 1.01 * count
    assert errors == {ks.ServiceUnavailable: count}


@pytest.mark.no_cover
@pytest.mark.parametrize("kind", ["503", "refused"])
@in_virtual_time
async def test_an_app_that_goes_on_calling_costs_hardly_more_than_its_calls(virtual, kind):
    count = 1_000
    async with broken_server(kind) as server:
        async with ks.Session(KEY, server.base_url, clock=virtual, chance=seeded(kind)) as session:
            calls = []
            for number in range(count):
                calls.append(asyncio.create_task(ask(session, number)))
                await virtual.sleep(0.02)
            results = await asyncio.gather(*calls)
            assert session.stats.requests <= 1.06 * count
    assert {error for _, error, _ in results} == {ERRORS[kind]}
    assert max(took for took, _, _ in results) <= LONGEST + MARGIN


@in_virtual_time
async def test_each_policy_keeps_its_own_time_in_an_outage(virtual):
    async with broken_server("503") as server:
        async with ks.Session(KEY, server.base_url, clock=virtual, chance=seeded("own")) as session:
            others = asyncio.gather(*(ask(session, number) for number in range(200)))
            await virtual.sleep(0.5)
            hurried = session.with_options(deadline=0.5)
            once = session.with_options(retry=ks.RetryPolicy(tries=1))
            short = session.with_options(retry=ks.RetryPolicy(tries=2, base_delay=0.2))
            limits = {once: 0.05, hurried: 0.55, short: 0.2 + 0.1, session: LONGEST + MARGIN}
            for view, most in limits.items():
                took, error, tries = await ask(view, 1)
                assert took <= most
                assert error is ks.ServiceUnavailable
                assert 1 <= tries <= 5
            await others


@in_virtual_time
async def test_who_is_cancelled_or_whose_session_closes_waits_for_no_server(virtual):
    async with broken_server("503") as server:
        async with ks.Session(
            KEY, server.base_url, clock=virtual, chance=seeded("left")
        ) as session:
            calls = [asyncio.create_task(ask(session, number)) for number in range(200)]
            await virtual.sleep(0.3)
            began = virtual.now()
            for call in calls[:100]:
                call.cancel()
            await asyncio.gather(*calls[:100], return_exceptions=True)
            assert virtual.now() - began < 0.05
            assert session.stats.in_flight <= 100
            left = sum(not call.done() for call in calls)
            closed_at = virtual.now()
        results = await asyncio.gather(*calls[100:], return_exceptions=True)
        assert virtual.now() - closed_at < 0.5 or not left
        assert all(isinstance(one, ks.SessionError | tuple) for one in results)
        assert session.stats.in_flight == 0


@pytest.mark.no_cover
@in_virtual_time
async def test_when_the_server_is_back_nobody_waits_any_more(virtual):
    async with Sandbox(ingestions=20) as box:
        async with box.session(clock=virtual, chance=seeded("back")) as session:
            ids = box.store.ids()
            handle = box.faults.add(Fault("status", status=503))
            for _ in range(3):
                await outcomes(reads(session, ids, 100))
                await virtual.sleep(10)
            handle.remove()
            late = asyncio.gather(*reads(session, ids, 50))
            await virtual.sleep(LONGEST)
            assert late.done()
            await late
            began = virtual.now()
            assert await outcomes(reads(session, ids, 100)) == {"fine": 100}
            assert virtual.now() - began < 0.5


@pytest.mark.no_cover
@in_virtual_time
async def test_one_route_that_is_out_of_order_fails_no_call_to_another(virtual):
    async with Sandbox(ingestions=20) as box:
        async with box.session(clock=virtual, chance=seeded("route")) as session:
            ids = box.store.ids()
            handle = box.faults.add(Fault("status", status=503, route="get_workflow_status"))
            broken = asyncio.gather(*(ask(session, number) for number in range(300)))
            good = []
            for call in reads(session, ids, 200):
                good.append(asyncio.create_task(call))
                await virtual.sleep(0.02)
            assert await outcomes(good) == {"fine": 200}
            assert {error for _, error, _ in await broken} == {ks.ServiceUnavailable}
            assert handle.fired <= 1.5 * 300, "what others hear is no word of this route"
            began = virtual.now()
            assert await outcomes(reads(session, ids, 20)) == {"fine": 20}
            assert virtual.now() - began < 2.0


@in_virtual_time
async def test_one_thing_that_is_out_of_order_fails_no_call_for_another(virtual):
    async with Sandbox(ingestions=20) as box:
        async with box.session(clock=virtual, chance=seeded("thing")) as session:
            [bad, *ids] = box.store.ids()
            box.faults.add(Fault("status", status=500, id=bad))
            broken = outcomes(reads(session, [bad], 100))
            both = await asyncio.gather(broken, outcomes(reads(session, ids, 200)))
    assert both == [{ks.ServerError: 100}, {"fine": 200}]


@pytest.mark.no_cover
@in_virtual_time
async def test_all_that_a_session_does_asks_a_server_that_is_away_with_one_voice(virtual, tmp_path):
    """A job, a watch, waits and calls share what they know of the server."""
    clock = BoxClock(virtual)
    statuses = {"statuses": {"failed": 0.5, "processing": 0.5}, "superseded": 0}
    options = {"clock": clock, "pipeline_seconds": (200.0, 201.0), **statuses}
    async with Sandbox(ingestions=400, **options) as box:
        async with box.session(clock=virtual, chance=seeded("voice")) as session:
            failed, active = ids_of(box, "failed"), ids_of(box, "processing")
            runs = [box.store.add_run("RUNNING").id for _ in range(50)]
            waits = [asyncio.create_task(ks.wait_for_workflow_run(session, run)) for run in runs]
            watch = ks.watch_ingestions(session, active)
            job = ks.rerun_ingestions(session, failed, journal=tmp_path / "job", rate=20)
            async with watch, job:
                following = asyncio.create_task(until_over(watch))
                await until(lambda: len(box.effects) >= 20, virtual)
                handle = box.faults.add(Fault("status", status=503))
                calls = asyncio.gather(*(ask(session, number) for number in range(100)))
                await virtual.sleep(10)
                before = handle.fired
                await virtual.sleep(30)
                asked = handle.fired - before
                handle.remove()
                for run in runs:
                    box.store.callback(run, "COMPLETED")
                await calls
                report = await job.finish()
                assert set(await outcomes(waits)) <= {"fine", ks.ServiceUnavailable}
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
    assert report.counts == {"accepted": 200}
    assert asked <= 60, "two a second, where one asks at a time"


async def until_over(watch) -> None:
    async for _ in watch:
        pass


@in_virtual_time
async def test_a_report_goes_out_in_its_own_time_although_the_reads_are_at_an_end(virtual):
    async with Sandbox(ingestions=20) as box:
        async with box.session(clock=virtual, chance=seeded("report")) as session:
            run_id = run_id_of(box)
            handle = box.faults.add(Fault("status", status=503))
            await outcomes(reads(session, box.store.ids(), 200))
            virtual.call_later(1.0, handle.remove)
            began = virtual.now()
            await ks.send_workflow_run_callback(session, run_id, "COMPLETED")
            assert virtual.now() - began <= LONGEST + MARGIN
    assert [effect.kind for effect in box.effects] == ["callback"]
