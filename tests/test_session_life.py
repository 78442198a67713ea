"""How sessions, walks, polls and watches end, where they can't be used, and what users hook into them."""

from __future__ import annotations

import asyncio
import functools
import gc
import io
import json
import os
import sys
import time
import traceback
import warnings
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import anyio
import pytest
from test_secrets import shown

import knowledgestack_async as ks
from knowledgestack_async._clock import shielded
from knowledgestack_async._transport import _is_readable
from knowledgestack_async.sandbox import Fault, Sandbox
from support import KEY, FakeClock, answering, http, ids_of, raw_server, run_id_of

HERE = Path(__file__).parent


# close() and aclose(), where people try them

ITERATORS = {
    "a walk": lambda session, _ids: ks.iter_ingestion_workflows(session, page_size=5),
    "a poll": ks.poll_workflow_statuses,
    "a poll until they close": lambda session, ids: ks.poll_workflow_statuses(
        session, ids, until_closed=True
    ),
    "a watch": ks.watch_ingestions,
}


@pytest.mark.parametrize("name", ITERATORS)
async def test_what_is_iterated_can_be_closed_with_aclosing(sandbox, session, name):
    ids = ids_of(sandbox, "completed")
    made = ITERATORS[name](session, ids)
    if name == "a watch":
        await made.__aenter__()
    async with aclosing(made) as iterated:
        assert await anext(iterated)
    requests = len(sandbox.requests)
    await asyncio.sleep(0.05)
    in_flight = 20 if name == "a poll until they close" else 1
    assert len(sandbox.requests) <= requests + in_flight
    await made.aclose()


async def test_a_session_can_be_closed_with_aclosing(sandbox):
    session = sandbox.session()
    async with aclosing(session):
        await session.__aenter__()
        await ks.list_ingestion_workflows(session)
    with pytest.raises(ks.SessionError, match="closed"):
        await ks.list_ingestion_workflows(session)


@pytest.mark.parametrize("name", ["close", "aclose"])
async def test_a_session_can_be_closed_by_hand_more_than_once(sandbox, name):
    async with sandbox.session() as session:
        await ks.list_ingestion_workflows(session)
        await getattr(session, name)()
        with pytest.raises(ks.SessionError, match="closed"):
            await ks.list_ingestion_workflows(session)
        await getattr(session, name)()
    await getattr(session, name)()


@pytest.mark.parametrize("name", ["close", "aclose"])
async def test_closing_one_that_was_never_opened_is_no_error(name):
    await getattr(ks.Session(KEY), name)()


@pytest.mark.parametrize("name", ["close", "aclose"])
async def test_closing_a_view_is_refused_or_leaves_its_session_open(sandbox, session, name):
    with suppress(ks.SessionError):
        await getattr(session.with_options(timeout=1), name)()
    await ks.list_ingestion_workflows(session)


async def test_closing_ends_what_is_going_on_as_leaving_the_block_does(sandbox):
    sandbox.faults.add(Fault("silence"))
    session = await sandbox.session().__aenter__()
    call = asyncio.create_task(ks.list_ingestion_workflows(session))
    await asyncio.sleep(0.02)
    await session.close()
    with pytest.raises(ks.SessionError):
        await call


# A session that was never closed

FORGOTTEN = """
import asyncio, gc, sys
import knowledgestack_async as ks

async def forget():
    global kept
    session = await ks.Session("sk-user-1", sys.argv[1]).__aenter__()
    if sys.argv[2] == "used":
        await ks.list_ingestion_workflows(session)
    elif sys.argv[2] == "viewed":
        await ks.list_ingestion_workflows(session.with_options(timeout=5))
    elif sys.argv[2] == "walked":
        async for _ in ks.iter_ingestion_workflows(session, page_size=5):
            break
    elif sys.argv[2] == "kept":
        kept = session

async def main():
    kind = sys.argv[2]
    if kind == "never opened":
        ks.Session("sk-user-1", sys.argv[1])
    elif kind == "closed":
        async with ks.Session("sk-user-1", sys.argv[1]) as session:
            await ks.list_ingestion_workflows(session)
    else:
        await forget()
    gc.collect()
    await asyncio.sleep(0.01)
    if sys.argv[3] == "at once":
        gc.collect()
        print("on", file=sys.stderr)

asyncio.run(main())
gc.collect()
"""


async def run_forgetful(sandbox, kind, when="at once", *flags):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *flags, "-c", FORGOTTEN, sandbox.base_url, kind, when),
        env={k: v for k, v in os.environ.items() if k not in {"PYTHONWARNINGS", "PYTHONDEVMODE"}},
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode, err.decode()


@pytest.fixture
async def forgiving():
    async with Sandbox(api_key="sk-user-1") as box:
        yield box


@pytest.mark.no_cover
@pytest.mark.parametrize("flags", [("-X", "dev"), ("-W", "always")], ids=" ".join)
@pytest.mark.parametrize("kind", ["opened", "used", "viewed", "walked"])
async def test_a_session_that_is_never_closed_says_so_in_our_words(forgiving, kind, flags):
    code, told = await run_forgetful(forgiving, kind, "at once", *flags)
    assert code == 0
    asyncios = ("unclosed transport", "unclosed <socket", "Enable tracemalloc")
    lines = [line for line in told.splitlines() if not any(word in line for word in asyncios)]
    warnings = [line for line in lines if "ResourceWarning" in line]
    assert len(warnings) == 1, told
    [warned] = warnings
    assert "Session" in warned
    assert "ClientSession" not in told
    assert "async with" in warned or "close" in warned
    assert "Unclosed" not in told
    assert "sk-user-1" not in told
    assert "Traceback" not in told


async def test_usually_it_says_nothing_as_pythons_own_does(forgiving):
    code, told = await run_forgetful(forgiving, "used")
    assert code == 0
    assert "ClientSession" not in told
    assert "Unclosed" not in told


async def test_one_that_is_kept_until_the_program_ends_is_not_told_of_in_aiohttps_words(forgiving):
    code, told = await run_forgetful(forgiving, "kept", "at once", "-X", "dev")
    assert code == 0
    assert "ClientSession" not in told
    assert "Unclosed" not in told


@pytest.mark.no_cover
@pytest.mark.parametrize("kind", ["never opened", "closed"])
async def test_nothing_is_said_of_one_that_was_closed_or_never_opened(forgiving, kind):
    code, told = await run_forgetful(forgiving, kind, "at once", "-X", "dev", "-W", "always")
    # asyncio's debug mode tells of steps that took long, which a busy machine's do.
    lines = [line for line in told.splitlines() if not line.startswith("Executing <")]
    assert (code, lines) == (0, ["on"])


async def test_an_aiohttp_session_of_the_users_is_not_closed_by_one_that_is_forgotten(sandbox):
    async with aiohttp.ClientSession() as mine:

        async def forget():
            session = await sandbox.session(client_session=mine).__aenter__()
            await ks.list_ingestion_workflows(session)

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            await forget()
            gc.collect()
            await asyncio.sleep(0)
        assert not mine.closed
        assert all("ClientSession" not in str(one.message) for one in caught)


# Outside of asyncio


def step(coroutine):
    """Run a coroutine by hand, with no event loop of asyncio's about."""
    try:
        while True:
            coroutine.send(None)
    except StopIteration as done:
        return done.value
    finally:
        coroutine.close()


async def first_of(iterable):
    async for item in iterable:
        return item
    return None


async def enter(manager):
    async with manager:
        pass


OUTSIDE = {
    "get": lambda session: ks.get_workflow_run(session, "r"),
    "rerun": lambda session: ks.rerun_ingestion_workflow(session, "w"),
    "callback": lambda session: ks.send_workflow_run_callback(session, "r", "FAILED"),
    "request": lambda session: session.request("GET", "/v1/x"),
    "walk": lambda session: first_of(ks.iter_ingestion_workflows(session)),
    "poll": lambda session: first_of(ks.poll_workflow_statuses(session, ["w"])),
    "watch": lambda session: enter(ks.watch_ingestions(session, ["w"])),
    "wait": lambda session: ks.wait_for_workflow_run(session, "r"),
    "open": enter,
}


def open_session(url="http://127.0.0.1:9"):
    """A session that was opened on a loop that is over."""
    made = ks.Session(KEY, url)

    async def use():
        await made.__aenter__()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(use())
    return made, loop


@pytest.mark.parametrize("call", OUTSIDE)
def test_outside_of_an_event_loop_the_error_says_asyncio(call):
    session, loop = open_session()
    other = ks.Session(KEY) if call == "open" else session
    try:
        with pytest.raises(ks.SessionError, match="asyncio"):
            step(OUTSIDE[call](other))
    finally:
        loop.run_until_complete(session.__aexit__(None, None, None))
        loop.close()


def test_outside_of_an_event_loop_a_report_says_asyncio_before_the_block_begins():
    session, loop = open_session()
    began = []

    async def report():
        async with ks.report_outcome(session, "r"):
            began.append(1)

    try:
        with pytest.raises(ks.SessionError, match="asyncio"):
            step(report())
    finally:
        loop.run_until_complete(session.__aexit__(None, None, None))
        loop.close()
    assert began == []


@pytest.mark.parametrize("call", OUTSIDE)
def test_under_trio_the_error_says_asyncio(call):
    trio = pytest.importorskip("trio")
    session, loop = open_session()
    other = ks.Session(KEY) if call == "open" else session
    try:
        with pytest.raises(ks.SessionError, match="asyncio"):
            trio.run(OUTSIDE[call], other)
    finally:
        loop.run_until_complete(session.__aexit__(None, None, None))
        loop.close()


# Cancelled again and again, as anyio does


@asynccontextmanager
async def cancelled_at_every_step():
    """Cancel a task of the block's, and once more at each step of the loop for as long as it runs.

    Yields a function that is told the task, and a list that the cancellations are counted in.
    """
    loop, counted = asyncio.get_running_loop(), []

    def cancel(task):
        if not task.done():
            counted.append(1)
            task.cancel()
            loop.call_soon(cancel, task)

    yield cancel, counted


async def test_a_report_is_delivered_though_its_task_is_cancelled_at_every_step(sandbox, session):
    sandbox.faults.add(Fault("latency", seconds=0.05))
    run = run_id_of(sandbox)

    async def work():
        async with ks.report_outcome(session, run):
            await asyncio.sleep(60)

    async with cancelled_at_every_step() as (cancel, counted):
        task = asyncio.create_task(work())
        await asyncio.sleep(0.01)
        cancel(task)
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(counted) > 3
    assert [effect.id for effect in sandbox.effects] == [run]


async def spent(work):
    """The seconds of the processor's time that something takes."""
    began = time.process_time()
    await work
    return time.process_time() - began


async def report_under_anyio(anyio, session, run, *, through=None):
    with anyio.move_on_after(0.05):
        if through is None:
            async with ks.report_outcome(session, run):
                await anyio.sleep(60)
        else:
            await ks.run_with_limit(session, run, through)


async def clean_up_slowly(_run):
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.2)


@pytest.mark.no_cover
@pytest.mark.parametrize("through", [None, lambda _run: asyncio.sleep(60)], ids=["block", "limit"])
async def test_under_anyio_a_report_that_is_waited_for_costs_no_processor(
    sandbox, session, through
):
    anyio = pytest.importorskip("anyio")
    sandbox.faults.add(Fault("latency", seconds=0.7, method="POST"))
    run = run_id_of(sandbox)
    took = await spent(report_under_anyio(anyio, session, run, through=through))
    assert [effect.id for effect in sandbox.effects] == [run]
    assert took < 0.25


async def test_under_anyio_a_report_that_never_ends_costs_no_processor_for_its_deadline(sandbox):
    anyio = pytest.importorskip("anyio")
    sandbox.faults.add(Fault("silence", method="POST"))
    async with sandbox.session() as session:

        async def work():
            with anyio.move_on_after(0.05):
                async with ks.report_outcome(session, run_id_of(sandbox), cancel_deadline=0.7):
                    await anyio.sleep(60)

        assert await spent(work()) < 0.25


async def test_under_anyio_a_cancellation_while_the_report_is_on_its_way_costs_no_processor(
    sandbox, session
):
    anyio = pytest.importorskip("anyio")
    sandbox.faults.add(Fault("latency", seconds=0.7))
    run = run_id_of(sandbox)

    async def work():
        with anyio.move_on_after(0.05):
            async with ks.report_outcome(session, run):
                pass

    assert await spent(work()) < 0.25
    assert [effect.id for effect in sandbox.effects] == [run]


async def test_under_anyio_work_that_cleans_up_is_let_clean_up(sandbox, session):
    anyio = pytest.importorskip("anyio")
    run = run_id_of(sandbox)
    took = await spent(report_under_anyio(anyio, session, run, through=clean_up_slowly))
    assert took < 0.25
    assert sandbox.effects[0].detail == "FAILED"


async def test_under_anyio_leaving_a_scope_leaves_no_call_behind(sandbox, session):
    anyio = pytest.importorskip("anyio")
    sandbox.faults.add(Fault("silence"))
    with anyio.move_on_after(0.05) as scope:
        await ks.list_ingestion_workflows(session)
    assert scope.cancelled_caught
    assert session.stats.in_flight == 0


# What is in flight as a session closes

IN_FLIGHT = {
    "callback": (
        lambda session, box: ks.send_workflow_run_callback(session, run_id_of(box), "FAILED"),
        True,
    ),
    "delete": (
        lambda session, box: ks.delete_workflow_run(session, run_id_of(box, "PENDING")),
        True,
    ),
    "rerun": (
        lambda session, box: ks.rerun_ingestion_workflow(session, ids_of(box, "failed")[0]),
        False,
    ),
    "cancel": (
        lambda session, box: ks.cancel_workflow(session, ids_of(box, "processing")[0]),
        False,
    ),
    "request": (lambda session, _box: session.request("POST", "/v1/x"), False),
    "request that may go twice": (
        lambda session, _box: session.request("PUT", "/v1/x", idempotent=True),
        True,
    ),
}


async def close_meanwhile(sandbox, make, **options):
    """What comes of a call that has been sent once as its session closes."""
    async with sandbox.session(**options) as session:
        task = asyncio.create_task(make(session, sandbox))
        while not sandbox.requests:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)
    async with asyncio.timeout(2):
        await task


@pytest.mark.parametrize("call", IN_FLIGHT)
async def test_what_may_have_acted_as_the_session_closes_is_in_doubt(sandbox, call):
    sandbox.faults.add(Fault("silence"))
    make, is_safe = IN_FLIGHT[call]
    with pytest.raises(ks.OutcomeUnknown) as caught:
        await close_meanwhile(sandbox, make)
    assert caught.value.safe_to_retry is is_safe
    assert caught.value.tries == 1


@pytest.mark.parametrize("call", [call for call, (_, is_safe) in IN_FLIGHT.items() if is_safe])
async def test_what_waits_to_be_sent_again_ends_in_doubt_at_once_as_the_session_closes(
    sandbox, call
):
    sandbox.faults.add(Fault("status", status=502, retry_after=30))
    with pytest.raises(ks.OutcomeUnknown) as caught:
        await close_meanwhile(sandbox, IN_FLIGHT[call][0])
    assert caught.value.safe_to_retry


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_read_that_waits_to_be_sent_again_ends_at_once_as_the_session_closes(
    sandbox, status
):
    sandbox.faults.add(Fault("status", status=status, retry_after=30))
    with pytest.raises(ks.KnowledgeStackError):
        await close_meanwhile(sandbox, lambda session, _: ks.list_ingestion_workflows(session))


@pytest.mark.parametrize("call", sorted({*IN_FLIGHT} - {"callback"}))  # which has a slot of its own
async def test_what_was_never_sent_as_the_session_closes_is_not_in_doubt(sandbox, call):
    sandbox.faults.add(Fault("silence"))
    make, _ = IN_FLIGHT[call]
    async with sandbox.session(max_in_flight=1) as session:
        first = asyncio.create_task(ks.list_ingestion_workflows(session))
        while not sandbox.requests:
            await asyncio.sleep(0.005)
        queued = asyncio.create_task(make(session, sandbox))
        await asyncio.sleep(0.02)
    for task in (first, queued):
        with pytest.raises(ks.SessionError):
            await task
    assert len(sandbox.requests) <= 2


async def test_a_report_that_is_in_flight_as_the_session_closes_stays_in_the_spool(
    sandbox, tmp_path
):
    sandbox.faults.add(Fault("silence"))
    outcomes = []

    async def report(session):
        async with ks.report_outcome(session, run_id_of(sandbox), spool=tmp_path / "s") as outcome:
            outcomes.append(outcome)

    async with sandbox.session() as session:
        task = asyncio.create_task(report(session))
        while not sandbox.requests:
            await asyncio.sleep(0.005)
    await asyncio.wait({task})
    [outcome] = outcomes
    assert (outcome.delivered, outcome.spooled) == (False, True)
    assert isinstance(outcome.problem, ks.OutcomeUnknown)


# Functions that are told of changes


class Told:
    """Takes changes, as a coroutine function of one form or the other."""

    def __init__(self):
        self.seen = []

    async def method(self, state):
        await asyncio.sleep(0)
        self.seen.append(state)

    async def __call__(self, state):
        await self.method(state)


async def note(seen, state):
    await asyncio.sleep(0)
    seen.append(state)


FORMS = {
    "async def": lambda told: told.method,
    "a partial one": lambda told: functools.partial(note, told.seen),
    "an object with an async __call__": lambda told: told,
    "a lambda that gives a coroutine": lambda told: lambda state: note(told.seen, state),
}
WAITS = {
    "ingestion": lambda session, box, tell: ks.wait_for_ingestion(
        session, ids_of(box, "completed")[0], on_change=tell
    ),
    "run": lambda session, box, tell: ks.wait_for_workflow_run(
        session, run_id_of(box, "COMPLETED"), on_change=tell
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("what", WAITS)
async def test_a_coroutine_function_that_is_told_of_changes_is_refused_or_awaited(
    sandbox, session, form, what
):
    told, refused = Told(), None
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            await WAITS[what](session, sandbox, FORMS[form](told))
        except ks.ConfigurationError as error:
            refused = error
        gc.collect()
    assert [str(one.message) for one in warned if "never awaited" in str(one.message)] == []
    assert len(told.seen) == (refused is None)
    assert refused is None or "on_change" in str(refused)


@pytest.mark.parametrize("what", WAITS)
async def test_a_plain_function_is_told_of_changes(sandbox, session, what):
    seen = []
    await WAITS[what](session, sandbox, seen.append)
    assert len(seen) == 1


# Trace configs that raise

SIGNALS = [
    "on_request_start",
    "on_connection_create_start",
    "on_request_headers_sent",
    "on_request_end",
]


@pytest.mark.parametrize("signal", SIGNALS)
async def test_a_trace_config_that_raises_is_told_with_its_cause(sandbox, signal):
    calls = []

    async def broken(*_):
        calls.append(1)
        raise ZeroDivisionError("in the trace")

    trace = aiohttp.TraceConfig()
    getattr(trace, signal).append(broken)
    async with sandbox.session(trace_configs=[trace], clock=FakeClock()) as session:
        with pytest.raises(ks.KnowledgeStackError) as caught:
            await ks.list_ingestion_workflows(session)
    causes = {type(error).__name__ for error in _chain(caught.value)}
    assert "ZeroDivisionError" in f"{caught.value} {causes}"
    assert "connection was lost" not in str(caught.value)
    assert len(calls) == 1
    assert KEY not in shown(caught.value)


def _chain(error):
    while error is not None:
        yield error
        error = error.__cause__


@pytest.mark.parametrize("signal", ["on_request_start", "on_connection_create_start"])
async def test_a_rerun_that_a_trace_config_kept_from_going_out_is_not_in_doubt(sandbox, signal):
    async def broken(*_):
        raise ZeroDivisionError("in the trace")

    trace = aiohttp.TraceConfig()
    getattr(trace, signal).append(broken)
    async with sandbox.session(trace_configs=[trace], clock=FakeClock()) as session:
        with pytest.raises(ks.KnowledgeStackError) as caught:
            await ks.rerun_ingestion_workflow(session, ids_of(sandbox, "failed")[0])
    assert not isinstance(caught.value, ks.OutcomeUnknown)
    assert sandbox.requests == []


# Secrets beside the key

CANARY = "header-canary-4c1d"
PASSWORD = "password-canary-9e2f"


def lines_with(secret, told):
    """The lines that tell a secret, for what is shown is long."""
    return [line.strip(" │")[:100] for line in told.splitlines() if secret in line]


def plain_text(error):
    """What Python shows of an error and its causes with their frames' locals, the user's left out."""
    captured = traceback.TracebackException.from_exception(error, capture_locals=True)
    pending = [captured]
    while pending:
        one = pending.pop()
        frames = [frame for frame in one.stack if Path(frame.filename).parent != HERE]
        one.stack = traceback.StackSummary.from_list(frames)
        pending += filter(None, (one.__cause__, one.__context__))
    return "".join(captured.format()) + repr(error) + repr(vars(error))


def rich_text(error):
    """What rich shows of an error with its frames' locals, the user's own frames left out."""
    traces = pytest.importorskip("rich.traceback").Traceback
    extracted = traces.extract(type(error), error, error.__traceback__, show_locals=True)
    told = []
    for stack in extracted.stacks:
        told.append(stack.exc_value)
        for frame in stack.frames:
            if Path(frame.filename).parent != HERE:
                told += [f"{name} = {shown}" for name, shown in (frame.locals or {}).items()]
    return "\n".join(told)


FAILURES = {
    "404": Fault("status", status=404),
    "503": Fault("status", status=503),
    "reset": Fault("reset"),
    "silence": Fault("silence"),
    "HTML": Fault("garbage", body="html"),
    "a wrong type": Fault("garbage", body=b'{"items": 5}'),
}
READS = {
    "read": lambda session, _box: ks.list_ingestion_workflows(session),
    "rerun": lambda session, box: ks.rerun_ingestion_workflow(session, ids_of(box, "failed")[0]),
    "walk": lambda session, _box: first_of(ks.iter_ingestion_workflows(session)),
    "wait": lambda session, _box: ks.wait_for_ingestion(session, "none", deadline=0.1),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("call", READS)
async def test_no_tracebacks_locals_show_the_headers(sandbox, failure, call):
    sandbox.faults.add(FAILURES[failure])
    options = {"headers": {"X-Gateway": CANARY}, "retry": ks.RetryPolicy(tries=1)}
    async with sandbox.session(clock=FakeClock(patience=0.05), **options) as session:
        for one in (session, session.with_options(headers={"X-Second": CANARY + "-2"})):
            try:
                await READS[call](one, sandbox)
            except ks.KnowledgeStackError as error:
                assert lines_with(CANARY, rich_text(error)) == []
                assert lines_with(CANARY, plain_text(error)) == []
                assert lines_with(KEY, rich_text(error)) == []


@pytest.mark.parametrize("status", [None, 407, 502])
async def test_no_tracebacks_locals_show_the_proxys_password(status):
    async with raw_server(answering(http(b"", status=f"{status} No"))) as proxy:
        if status is None:
            await asyncio.sleep(0)
        host = proxy.base_url.removeprefix("http://") if status else "127.0.0.1:9"
        options = {"proxy": f"http://agent:{PASSWORD}@{host}", "retry": ks.RetryPolicy(tries=1)}
        async with ks.Session(KEY, "https://ks.example.com", **options) as session:
            for call in (
                ks.list_ingestion_workflows(session),
                ks.rerun_ingestion_workflow(session, "w"),
            ):
                with pytest.raises(ks.RequestError) as caught:
                    await call
                assert lines_with(PASSWORD, rich_text(caught.value)) == []
                assert lines_with(PASSWORD, plain_text(caught.value)) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"ssl": "yes"},
        {"trace_configs": 5},
        {"timeout": -1},
        {"dialect": "none"},
        {"rate": "fast"},
        {"max_in_flight": 0},
        {"base_url": "ftp://x"},
    ],
    ids=str,
)
async def test_no_error_of_another_setting_shows_headers_or_the_proxys_password(wrong):
    given = {"headers": {"X-Gateway": CANARY}, "proxy": f"http://agent:{PASSWORD}@127.0.0.1:9"}
    with pytest.raises(ks.ConfigurationError) as caught:
        ks.Session(KEY, **(given | wrong))
    for told in (rich_text(caught.value), plain_text(caught.value)):
        assert lines_with(CANARY, told) == []
        assert lines_with(PASSWORD, told) == []
        assert lines_with(KEY, told) == []


async def test_a_proxy_that_is_refused_does_not_show_its_password():
    with pytest.raises(ks.ConfigurationError, match="proxy") as caught:
        ks.Session(KEY, proxy=f"socks5://agent:{PASSWORD}@127.0.0.1:9")
    assert lines_with(PASSWORD, plain_text(caught.value)) == []
    assert lines_with(PASSWORD, rich_text(caught.value)) == []


@pytest.mark.parametrize("kind", ["silence", "stall_body", "latency"])
@pytest.mark.parametrize("own_pool", [True, False])
async def test_a_timeout_or_cancellation_of_the_users_shows_no_headers(sandbox, kind, own_pool):
    sandbox.faults.add(Fault("latency", seconds=1) if kind == "latency" else Fault(kind))
    async with aiohttp.ClientSession() as mine:
        options = {"headers": {"X-Gateway": CANARY}, "max_in_flight": 1}
        options |= {} if own_pool else {"client_session": mine}
        async with sandbox.session(**options) as session:
            for call in READS.values():
                first = asyncio.create_task(call(session, sandbox))
                await asyncio.sleep(0.01)
                with pytest.raises(TimeoutError) as caught:
                    async with asyncio.timeout(0.01):
                        await READS["read"](session, sandbox)
                assert lines_with(CANARY, plain_text(caught.value)) == []
                assert lines_with(CANARY, rich_text(caught.value)) == []
                first.cancel()
                with pytest.raises((asyncio.CancelledError, ks.DeadlineExceeded)) as stopped:
                    await first
                assert lines_with(CANARY, plain_text(stopped.value)) == []
                assert lines_with(CANARY, rich_text(stopped.value)) == []


async def test_no_repr_of_what_a_session_holds_shows_headers_or_a_password(sandbox):
    options = {
        "headers": {"X-Gateway": CANARY},
        "proxy": f"http://agent:{PASSWORD}@127.0.0.1:9",
    }
    async with sandbox.session(**options) as session:
        view = session.with_options(headers={"X-Second": CANARY})
        for one in (session, view):
            told = repr(one) + repr(vars(one)) + str(one.identity)
            assert lines_with(CANARY, told) == []
            assert lines_with(PASSWORD, told) == []
        printed = io.StringIO()
        console = pytest.importorskip("rich.console").Console(file=printed, width=400)
        pretty = pytest.importorskip("rich.pretty").Pretty
        for held in _held(session):
            console.print(pretty(held))
        assert lines_with(CANARY, printed.getvalue()) == []
        assert lines_with(PASSWORD, printed.getvalue()) == []


def _held(thing, depth=5, seen=None):
    """The objects that one holds, as far down as an error's frames may show them."""
    seen = {} if seen is None else seen
    if depth == 0 or id(thing) in seen:
        return seen.values()
    module = type(thing).__module__
    if module.startswith("knowledgestack_async"):
        seen[id(thing)] = thing
        names = [*getattr(thing, "__dict__", {}), *getattr(type(thing), "__struct_fields__", ())]
        for name in names:
            _held(getattr(thing, name, None), depth - 1, seen)
    return seen.values()


def test_the_text_of_an_error_in_a_log_shows_no_header():
    session = ks.Session(KEY, headers={"X-Gateway": CANARY})
    with pytest.raises(ks.ConfigurationError) as caught:
        session.with_options(headers={"X-Second": CANARY, "bad name": "x"})
    assert lines_with(CANARY, "".join(traceback.format_exception(caught.value))) == []
    assert lines_with(CANARY, plain_text(caught.value)) == []
    assert lines_with(CANARY, json.dumps(str(caught.value)) + os.fspath(HERE)) == []


async def test_a_forgotten_session_closes_its_connections_at_once(sandbox):
    async def forget():
        session = await sandbox.session().__aenter__()
        await ks.list_ingestion_workflows(session)
        return session._core.transport._pooled.connector

    with pytest.warns(ResourceWarning, match=r"unclosed knowledgestack_async\.Session"):
        connector = await forget()
    gc.collect()
    assert connector.closed
    assert not connector._conns
    await asyncio.sleep(0)


async def test_a_wait_is_shielded_from_anyio_only_where_there_is_one(monkeypatch):
    monkeypatch.delitem(sys.modules, "anyio", raising=False)
    with shielded():
        await asyncio.sleep(0)
    monkeypatch.setitem(sys.modules, "anyio", anyio)
    with anyio.CancelScope() as scope, shielded():
        scope.cancel()
        await asyncio.sleep(0)


async def test_closing_ends_a_call_that_waits_until_a_route_is_found(sandbox):
    unrouted = Fault(
        "status", status=404, body={"detail": "Not Found"}, route="get_workflow_status"
    )
    sandbox.faults.add(unrouted)
    waiting = sandbox.faults.add(Fault("silence", route="list_ingestion_workflows"))
    async with sandbox.session(dialect="auto") as session:
        call = asyncio.create_task(ks.get_ingestion_workflow(session, "ingest-1"))
        sandbox.faults.add(
            Fault(
                "status", status=404, body={"detail": "Not Found"}, route="get_ingestion_workflow"
            )
        )
        async with asyncio.timeout(5):
            while not waiting.fired:
                await asyncio.sleep(0.01)
    with pytest.raises(ks.SessionError, match="closed"):
        await call


@pytest.mark.parametrize("budget", [-1, 1.5, "many"])
def test_a_retry_budget_is_a_count(budget):
    with pytest.raises(ks.ConfigurationError, match="retry_budget"):
        ks.Session(KEY, "http://127.0.0.1:1", retry_budget=budget)


async def test_without_a_retry_budget_all_retries_are_probes(sandbox):
    handle = sandbox.faults.add(Fault("status", status=503))
    async with sandbox.session(retry_budget=0, clock=FakeClock()) as session:
        ids = sandbox.store.ids()[:20]
        reads = [ks.get_ingestion_workflow(session, one) for one in ids]
        errors = await asyncio.gather(*reads, return_exceptions=True)
    assert {type(error) for error in errors} == {ks.ServiceUnavailable}
    assert 20 <= handle.fired <= 40


def test_nothing_lies_unread_where_there_is_no_socket():
    assert _is_readable(None) is False
