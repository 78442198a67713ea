"""A canary key shows up nowhere: not in texts, tracebacks, logs, pickles, or the files of a job."""

from __future__ import annotations

import asyncio
import io
import logging
import pickle
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import aiohttp
import attrs
import pytest

import knowledgestack_async as ks
from knowledgestack_async._wire import Secret
from knowledgestack_async.sandbox import Fault
from support import KEY, FakeClock, answering, http, ids_of, raw_server, run_id_of

TOKEN = "run-token-canary-55e1"

FAULTS = [
    Fault("status", status=400),
    Fault("status", status=401),
    Fault("status", status=503),
    Fault("status", status=400, body={"detail": f"bad key {KEY}", "code": KEY}),
    Fault(
        "status", status=422, body={"detail": [{"loc": ["header", KEY], "msg": KEY, "type": KEY}]}
    ),
    Fault("reset", when="before"),
    Fault("banner"),
    Fault("truncate", how="header"),
    Fault("garbage", body="html"),
    Fault("garbage", body=f'{{"id": "{KEY}"}}'.encode()),
    Fault("redirect", location=f"https://elsewhere.example/?key={KEY}"),
    Fault("silence"),
]


def shown(error: BaseException) -> str:
    """All that a program could show of an error, with the locals of every frame."""
    captured = traceback.TracebackException.from_exception(error, capture_locals=True)
    captured.stack = traceback.StackSummary.from_list(
        frame
        for frame in captured.stack
        if Path(frame.filename).parent != Path(__file__).parent  # the user's own frames
    )
    parts = ["".join(captured.format()), str(error), repr(error), repr(error.args)]
    parts += [repr(vars(error)), repr(error.__cause__), repr(error.__context__)]
    if isinstance(error, ks.KnowledgeStackError):
        parts.append(pickle.dumps(error).decode("latin-1"))
    if attrs.has(type(error)):
        parts.append(repr(attrs.asdict(error)))
    return "\n".join(parts)


@pytest.fixture
def logged():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.kind}-{fault.status}")
async def test_no_error_shows_the_key_or_the_token(sandbox, logged, fault):
    sandbox.faults.add(fault)
    run_id = run_id_of(sandbox)
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        async with sandbox.session(clock=FakeClock(patience=0.05)) as session:
            calls = (
                lambda: ks.get_workflow_run(session, run_id),
                lambda: ks.rerun_ingestion_workflow(session, ids_of(sandbox, "failed")[0]),
                lambda: ks.send_workflow_run_callback(session, run_id, "FAILED", token=TOKEN),
                lambda: session.request("GET", "/v1/x"),
            )
            for call in calls:
                try:
                    await call()
                except ks.KnowledgeStackError as error:
                    output.write(shown(error))
            output.write(repr(session) + repr(session.stats) + repr(vars(session)))
    everything = output.getvalue() + logged.getvalue()
    assert KEY not in everything
    assert TOKEN not in everything


async def test_a_token_that_the_server_repeats_is_taken_out(sandbox, session):
    sandbox.faults.add(Fault("status", status=400, body={"detail": f"{TOKEN} is not {KEY}"}))
    with pytest.raises(ks.BadRequest) as caught:
        await ks.send_workflow_run_callback(session, run_id_of(sandbox), "FAILED", token=TOKEN)
    assert caught.value.message == "[secret] is not [secret]"


@pytest.mark.parametrize("kind", ["silence", "stall_body", "latency"])
async def test_a_cancellation_or_timeout_of_the_users_shows_no_key(sandbox, kind):
    sandbox.faults.add(Fault("latency", seconds=1) if kind == "latency" else Fault(kind))
    async with sandbox.session(max_in_flight=1) as session:
        first = asyncio.create_task(ks.list_ingestion_workflows(session))
        await asyncio.sleep(0.01)
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.01):
                await ks.list_ingestion_workflows(session)
        assert KEY not in shown(caught.value)
        first.cancel()
        with pytest.raises(asyncio.CancelledError) as cancelled:
            await first
        assert KEY not in shown(cancelled.value)


async def test_a_server_that_cant_be_reached_is_told_without_the_key():
    async with raw_server(answering(b"")) as server:
        pass
    async with ks.Session(KEY, server.base_url, retry=ks.RetryPolicy(tries=1)) as session:
        with pytest.raises(ks.ConnectionFailed) as caught:
            await ks.list_ingestion_workflows(session)
    assert KEY not in shown(caught.value)


async def test_the_key_goes_to_its_own_server_only(sandbox):
    async with raw_server(answering(http(b"{}"))) as elsewhere:
        for status in (301, 302, 303, 307, 308):
            location = f"{elsewhere.base_url}/v1/x"
            sandbox.faults.add(Fault("redirect", status=status, location=location, times=1))
        async with sandbox.session() as session:
            for _ in range(5):
                with pytest.raises(ks.InvalidResponse):
                    await ks.list_ingestion_workflows(session)
    assert elsewhere.heads == []


async def test_the_environments_proxy_and_netrc_are_not_used(sandbox, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password from-netrc\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with sandbox.session() as session:
        await ks.list_ingestion_workflows(session)
    assert sandbox.requests[0].headers["Authorization"] == f"Bearer {KEY}"


async def test_settings_show_no_key():
    for session in (ks.Session(KEY), ks.Session(lambda: KEY).with_options(api_key=KEY)):
        assert KEY not in repr(session) + repr(vars(session)) + str(session.identity)
    for bad in (f"{KEY} {KEY}", f"{KEY}\n"):
        with pytest.raises(ks.ConfigurationError) as caught:
            ks.Session(bad)
        assert KEY not in shown_without_locals(caught.value)
    with pytest.raises(ks.ConfigurationError) as url:
        ks.Session(KEY, f"https://user:{KEY}@host.example")
    assert KEY not in str(url.value)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(Secret(KEY))


def shown_without_locals(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error)


async def test_a_trace_of_the_users_changes_nothing_about_that(sandbox):
    seen = []
    trace = aiohttp.TraceConfig()

    async def note(_session, context, params) -> None:
        seen.append(repr(vars(context)))

    trace.on_request_end.append(note)
    async with sandbox.session(trace_configs=[trace]) as session:
        await ks.list_ingestion_workflows(session)
    assert KEY not in "".join(seen)
