"""Time in which we did not run is not the server's silence.

The server runs elsewhere, so it goes on while the loop is blocked or the process is stopped, and its
answers lie in the sockets when we run again.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

import knowledgestack_async as ks
from knowledgestack_async.sandbox import Fault, Sandbox
from support import KEY, QuickClock, http

LATENCY, TIMEOUT, BLOCKED = 0.2, 0.4, 0.8
CHILD = Path(__file__).with_name("stopped_child.py")


@asynccontextmanager
async def elsewhere(**options) -> AsyncIterator[Sandbox]:
    """A sandbox on a thread's own loop."""
    box = Sandbox(**({"superseded": 0, "statuses": {"failed": 1.0}, "api_key": KEY} | options))
    begun, over = threading.Event(), threading.Event()

    async def serve() -> None:
        async with box:
            begun.set()
            while not over.is_set():
                await asyncio.sleep(0.01)

    # Debug mode would log each step of this thread that has to wait for the other one.
    thread = threading.Thread(target=lambda: asyncio.run(serve(), debug=False))
    thread.start()
    try:
        await asyncio.to_thread(begun.wait)
        yield box
    finally:
        over.set()
        await asyncio.to_thread(thread.join)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


async def block_once(box: Sandbox, count: int, seconds: float = BLOCKED) -> None:
    """Block the loop as soon as so many requests have arrived."""
    await until(lambda: len(box.requests) >= count)
    time.sleep(seconds)  # noqa: ASYNC251 - that is what a user's code does


def kinds(results: list) -> Counter[str]:
    return Counter(type(one).__name__ for one in results)


# A loop that was blocked


@pytest.mark.no_cover
@pytest.mark.parametrize("count", [10, 60])
async def test_reruns_that_were_answered_while_the_loop_was_blocked_are_accepted(count):
    async with elsewhere(ingestions=count, latency=LATENCY) as box:
        async with box.session(timeout=TIMEOUT, dialect="documented") as session:
            ids = box.store.ids()
            # More than the twenty that go first would wait for a slot, so they are tried out first.
            first = min(count, 20)
            calls = [asyncio.ensure_future(ks.rerun_ingestion_workflow(session, i)) for i in ids]
            await block_once(box, first)
            results = await asyncio.gather(*calls, return_exceptions=True)
    assert kinds(results) == {"WorkflowActionResponse": count}
    assert Counter(effect.id for effect in box.effects) == dict.fromkeys(ids, 1)


READS = {
    "get": ks.get_ingestion_workflow,
    "status": ks.get_workflow_status,
    "list": lambda session, _: ks.list_ingestion_workflows(session, page_size=100),
}


@pytest.mark.no_cover
@pytest.mark.parametrize("read", READS)
async def test_reads_that_were_answered_meanwhile_are_not_sent_again(read):
    async with elsewhere(ingestions=100, latency=LATENCY) as box:
        async with box.session(timeout=TIMEOUT, dialect="documented") as session:
            ids = box.store.ids()[:10]
            calls = [asyncio.ensure_future(READS[read](session, one)) for one in ids]
            await block_once(box, 10)
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert not any(isinstance(one, Exception) for one in results)
            assert session.stats.requests == 10
    assert len(box.requests) == 10


async def test_nor_is_a_report_or_a_deletion():
    async with elsewhere(ingestions=1, runs=0, latency=LATENCY) as box:
        runs = [box.store.add_run("RUNNING").id for _ in range(10)]
        over = [box.store.add_run("FAILED").id for _ in range(10)]
        async with box.session(timeout=TIMEOUT, dialect="documented") as session:
            calls = [ks.send_workflow_run_callback(session, one, "COMPLETED") for one in runs]
            calls += [ks.delete_workflow_run(session, one) for one in over]
            calls = [asyncio.ensure_future(call) for call in calls]
            await block_once(box, 20)
            results = await asyncio.gather(*calls)
            assert session.stats.requests == 20
        assert [one.already_terminal for one in results[:10]] == [False] * 10


@pytest.mark.no_cover
async def test_a_loop_that_is_blocked_again_and_again_loses_nothing():
    async with elsewhere(ingestions=10, latency=LATENCY) as box:
        async with box.session(timeout=TIMEOUT, dialect="documented") as session:
            ids = box.store.ids()
            calls = [asyncio.ensure_future(ks.rerun_ingestion_workflow(session, i)) for i in ids]
            await until(lambda: len(box.requests) >= 10)
            for _ in range(3):
                time.sleep(TIMEOUT / 2)  # noqa: ASYNC251
                await asyncio.sleep(0)
            time.sleep(BLOCKED)  # noqa: ASYNC251
            results = await asyncio.gather(*calls, return_exceptions=True)
    assert kinds(results) == {"WorkflowActionResponse": 10}


Script = Callable[[socket.socket, bytes], None]


def talk(connection: socket.socket, script: Script) -> None:
    """Answer the requests of a connection; none of them has a body."""
    with connection, suppress(OSError):
        while True:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                piece = connection.recv(2**16)
                if not piece:
                    return
                head += piece
            script(connection, head)


@contextmanager
def blocking_server(script: Script) -> Iterator[str]:
    """A server on threads, one for each connection; its base URL."""
    listening = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []
    connections: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            connections.append(connection)
            threads.append(threading.Thread(target=talk, args=(connection, script)))
            threads[-1].start()

    accepting = threading.Thread(target=serve)
    accepting.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        accepting.join()
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


DETAIL = {
    "workflow_id": "w-1",
    "document_id": "00000000-0000-4000-8000-000000000001",
    "document_version_id": "00000000-0000-4000-8000-000000000002",
    "status": "failed",
    "last_activity": None,
    "error": None,
    "last_run_timestamp": "2026-07-01T12:00:00Z",
    "last_state_update_timestamp": None,
    "created_at": "2026-07-01T12:00:00Z",
    "execution_status": "FAILED",
    "start_time": "2026-07-01T12:00:00Z",
    "close_time": "2026-07-01T12:00:01Z",
    "chunks_processed": 1,
}
ACTION = {"workflow_id": "w-1", "action": "rerun", "message": "started"}


@pytest.mark.no_cover
@pytest.mark.parametrize("size", [1_000, 3_000_000])
async def test_an_answer_of_any_size_is_read_to_its_end(size):
    """A large one doesn't fit into the socket: the rest comes when we read again."""
    asked = threading.Event()

    def answer(connection: socket.socket, _head: bytes) -> None:
        asked.set()
        time.sleep(LATENCY)
        connection.sendall(http(json.dumps(ACTION | {"message": "x" * size}).encode()))

    with blocking_server(answer) as base_url:
        async with ks.Session(KEY, base_url, timeout=TIMEOUT, dialect="documented") as session:
            call = asyncio.ensure_future(ks.rerun_ingestion_workflow(session, "w-1"))
            await until(asked.is_set)
            time.sleep(BLOCKED)  # noqa: ASYNC251
            accepted = await call
    assert accepted.message == "x" * size


async def test_a_connection_that_was_closed_meanwhile_is_not_used_for_a_rerun():
    """Its end lies in the socket, too."""
    acted = []

    def answer(connection: socket.socket, head: bytes) -> None:
        is_rerun = head.startswith(b"POST")
        acted.append(is_rerun)
        connection.sendall(http(json.dumps(ACTION if is_rerun else DETAIL).encode()))
        time.sleep(0.1)
        connection.shutdown(socket.SHUT_RDWR)

    with blocking_server(answer) as base_url:
        async with ks.Session(KEY, base_url, dialect="documented") as session:
            await ks.get_ingestion_workflow(session, "w-1")
            time.sleep(BLOCKED)  # noqa: ASYNC251
            accepted = await ks.rerun_ingestion_workflow(session, "w-1")
    assert accepted.action == "rerun"
    assert acted == [False, True]


async def test_a_key_that_is_there_when_we_run_again_is_taken():
    async def key() -> str:
        await asyncio.sleep(0.05)
        return KEY

    async with elsewhere(ingestions=1) as box:
        async with box.session(timeout=TIMEOUT, api_key=key, dialect="documented") as session:
            call = asyncio.ensure_future(ks.rerun_ingestion_workflow(session, box.store.ids()[0]))
            await asyncio.sleep(0.01)
            time.sleep(BLOCKED)  # noqa: ASYNC251
            assert (await call).action
    assert len(box.effects) == 1


# The user's deadlines, and a server that is silent indeed


async def test_a_deadline_ends_a_call_whose_answer_did_not_come():
    async with elsewhere(ingestions=2) as box:
        box.faults.add(Fault("silence"))
        async with box.session(deadline=TIMEOUT, dialect="documented") as session:
            one, other = box.store.ids()
            calls = [
                asyncio.ensure_future(ks.get_ingestion_workflow(session, one)),
                asyncio.ensure_future(ks.rerun_ingestion_workflow(session, other)),
            ]
            await block_once(box, 2)
            began = time.monotonic()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert time.monotonic() - began < 0.3
    assert list(kinds(results)) == ["DeadlineExceeded", "OutcomeUnknown"]


async def test_a_time_out_of_the_users_own_ends_a_call_at_once():
    async with elsewhere(ingestions=1) as box:
        box.faults.add(Fault("silence"))
        async with box.session(dialect="documented") as session:
            blocking = asyncio.create_task(block_once(box, 1))
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(TIMEOUT):
                    await ks.get_ingestion_workflow(session, box.store.ids()[0])
            assert not isinstance(caught.value, ks.KnowledgeStackError)
            await blocking
            assert session.stats.in_flight == 0


async def test_the_deadline_of_a_wait_ends_it_with_what_was_seen_last():
    async with elsewhere(ingestions=1, runs=1) as box:
        run_id = box.store.runs.newest("RUNNING").id
        async with box.session() as session:
            wait = asyncio.ensure_future(
                ks.wait_for_workflow_run(session, run_id, deadline=TIMEOUT)
            )
            await block_once(box, 1)
            with pytest.raises(ks.DeadlineExceeded):
                await wait


async def test_a_server_that_is_silent_all_the_while_is_given_up_soon_after():
    async with elsewhere(ingestions=1) as box:
        box.faults.add(Fault("silence"))
        retry = ks.RetryPolicy(tries=1)
        async with box.session(timeout=TIMEOUT, retry=retry, dialect="documented") as session:
            [one] = box.store.ids()
            calls = [
                asyncio.ensure_future(ks.get_ingestion_workflow(session, one)),
                asyncio.ensure_future(ks.rerun_ingestion_workflow(session, one)),
            ]
            await block_once(box, 2)
            began = time.monotonic()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert time.monotonic() - began < 2 * TIMEOUT
    assert list(kinds(results)) == ["ConnectionLost", "OutcomeUnknown"]


# Jobs


@pytest.mark.no_cover
@pytest.mark.parametrize("count", [16, 100])
async def test_a_job_loses_nothing_to_a_loop_that_was_blocked(tmp_path, count):
    async with elsewhere(ingestions=count, latency=LATENCY) as box:
        async with box.session(timeout=TIMEOUT, dialect="documented") as session:
            targets = [item async for item in ks.iter_ingestion_workflows(session)]
            before = len(box.requests)
            async with ks.rerun_ingestions(
                session, targets, journal=tmp_path / "job", concurrency=16
            ) as job:
                for after in range(before + 10, before + count, 60):
                    await block_once(box, after)
                report = await job.finish()
    assert report.counts == {"accepted": count}
    assert len(box.requests) == before + count
    assert Counter(effect.id for effect in box.effects) == dict.fromkeys(box.store.ids(), 1)


@pytest.mark.no_cover
async def test_a_loop_that_was_blocked_is_no_silence_to_a_job(tmp_path):
    """Time passes twenty times as fast: it was blocked for sixteen seconds."""
    async with elsewhere(ingestions=60, latency=0.05) as box:
        clock = QuickClock(20)
        async with box.session(clock=clock, timeout=60.0, dialect="documented") as session:
            targets = [item async for item in ks.iter_ingestion_workflows(session)]
            box.forget_requests()
            paused = set()
            async with ks.rerun_ingestions(
                session, targets, journal=tmp_path / "job", concurrency=8
            ) as job:
                for after in (10, 35):
                    await block_once(box, after)
                    for _ in range(50):
                        await asyncio.sleep(0.001)
                        paused.add(job.progress.paused)
                report = await job.finish()
    assert paused == {None}
    assert report.counts == {"accepted": 60}
    assert Counter(request.route for request in box.requests) == {"rerun_ingestion_workflow": 60}


@pytest.mark.no_cover
async def test_nor_is_one_that_was_blocked_before_it_could_send(tmp_path):
    """A hook of the user's blocks it for longer than the shortest silence, with one request begun."""
    blocks = iter([0.0] * 8 + [3.3])

    async def block(*_: object) -> None:
        time.sleep(next(blocks, 0.0))  # noqa: ASYNC251

    hook = aiohttp.TraceConfig()
    hook.on_request_start.append(block)
    async with elsewhere(ingestions=20, latency=0.05) as box:
        async with box.session(dialect="documented", trace_configs=[hook]) as session:
            targets = [item async for item in ks.iter_ingestion_workflows(session)]
            box.forget_requests()
            paused = set()
            async with ks.rerun_ingestions(
                session, targets, journal=tmp_path / "job", concurrency=1
            ) as job:
                while len(box.effects) < 20:
                    paused.add(job.progress.paused)
                    await asyncio.sleep(0.002)
                report = await job.finish()
    assert paused == {None}
    assert report.counts == {"accepted": 20}
    assert Counter(request.route for request in box.requests) == {"rerun_ingestion_workflow": 20}


@pytest.mark.no_cover
async def test_a_watch_and_waits_tell_no_trouble_after_a_loop_was_blocked():
    async with elsewhere(ingestions=30, runs=0, latency=LATENCY) as box:
        runs = [box.store.add_run("RUNNING").id for _ in range(10)]
        retry = ks.RetryPolicy(tries=1)
        async with box.session(timeout=TIMEOUT, retry=retry, dialect="documented") as session:
            waits = [
                asyncio.ensure_future(ks.wait_for_workflow_run(session, run, deadline=20))
                for run in runs
            ]
            async with ks.watch_ingestions(session, box.store.ids(), deadline=20) as watch:
                await block_once(box, 11)
                for run in runs:
                    box.store.callback(run, "COMPLETED")
                changes = [change async for change in watch]
            results = await asyncio.gather(*waits, return_exceptions=True)
    assert Counter(change.kind for change in changes) == {"status": 30}
    assert kinds(results) == {"WorkflowRunResponse": 10}


# A process that was stopped


@pytest.mark.no_cover
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="processes can't be stopped here")
@pytest.mark.parametrize(
    ("how", "counts"),
    [
        ("rerun", {"WorkflowActionResponse": 10}),
        ("get", {"WorkflowDetailResponse": 10}),
        ("bulk", {"accepted": 10}),
    ],
)
async def test_a_process_that_was_stopped_reads_what_was_answered(tmp_path, how, counts):
    async with Sandbox(
        ingestions=10, superseded=0, statuses={"failed": 1.0}, api_key=KEY, latency=LATENCY
    ) as box:
        ids = box.store.ids()
        journal = str(tmp_path / "job")
        arguments = [CHILD, box.base_url, KEY, how, str(TIMEOUT), journal, *ids]
        child = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, stdout=asyncio.subprocess.PIPE
        )
        route = "get_ingestion_workflow" if how == "get" else "rerun_ingestion_workflow"
        try:
            await until(lambda: box.request_counts[route] >= 10)
            os.kill(child.pid, signal.SIGSTOP)
            await asyncio.sleep(BLOCKED)
            os.kill(child.pid, signal.SIGCONT)
        except TimeoutError:
            child.kill()
            raise
        finally:
            said, _ = await child.communicate()
    told = json.loads(said)
    assert told["counts"] == counts
    assert box.request_counts[route] == 10
    if how != "get":
        assert Counter(effect.id for effect in box.effects) == dict.fromkeys(ids, 1)
