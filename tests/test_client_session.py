"""An aiohttp session of the user's: each of its settings works as with a pool of ours, or is refused.

Refused means when the session is opened, before anything is sent, by a sentence that names the setting.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import warnings
from contextlib import asynccontextmanager

import aiohttp
import pytest
import trustme
from wire_examples import NUMBERED, STATUS
from yarl import URL

import knowledgestack_async as ks
from knowledgestack_async.sandbox import Fault, Sandbox
from support import KEY, FakeClock, answering, http, ids_of, raw_server, run_id_of

ACCEPTED = http(json.dumps({"workflow_id": "w", "action": "rerun", "message": "m"}).encode())
FOUND = http(json.dumps({**STATUS, "workflow_id": "w"}).encode())
PAGE = http(json.dumps({"items": [], **NUMBERED, "total": 0}).encode())


@asynccontextmanager
async def theirs(sandbox, mine=None, **options):
    """A session on an aiohttp session of the user's, which is closed afterwards."""
    async with mine or aiohttp.ClientSession() as opened:
        async with sandbox.session(client_session=opened, **options) as session:
            yield session


@asynccontextmanager
async def working_or_refused(url, mine, setting, **options):
    """A session that works; or None where it was refused by the setting's name (one of several)."""
    options = {"dialect": "documented", "clock": FakeClock()} | options
    async with mine:
        try:
            session = ks.Session(KEY, url, client_session=mine, **options)
            await session.__aenter__()
        except ks.ConfigurationError as refusal:
            assert any(name in str(refusal) for name in setting.split(" or ")), refusal
            yield None
            return
        try:
            yield session
        finally:
            await session.__aexit__(None, None, None)


# raise_for_status


async def raise_always(response):
    response.raise_for_status()


async def raise_something_else(response):
    if response.status >= 400:
        raise LookupError(f"no good: {response.status}")


RAISING = pytest.mark.parametrize(
    "raising", [True, raise_always, raise_something_else], ids=["True", "a coroutine", "another"]
)
REFUSALS = {
    400: ks.BadRequest,
    401: ks.Unauthorized,
    403: ks.Forbidden,
    404: ks.NotFound,
    409: ks.Conflict,
    422: ks.UnprocessableEntity,
    500: ks.ServerError,
}


@RAISING
@pytest.mark.parametrize("status", REFUSALS)
async def test_where_it_raises_for_a_status_a_read_has_the_error_that_it_would_have(
    sandbox, raising, status
):
    sandbox.faults.add(Fault("status", status=status, body={"detail": "said so"}))
    mine = aiohttp.ClientSession(raise_for_status=raising)
    async with theirs(sandbox, mine, clock=FakeClock(), dialect="documented") as session:
        with pytest.raises(REFUSALS[status], match="said so") as caught:
            await ks.get_workflow_run(session, run_id_of(sandbox))
    assert caught.value.status == status
    assert len(sandbox.requests) == (5 if status == 500 else 1)


@RAISING
@pytest.mark.parametrize("status", [401, 404, 409, 422])
async def test_where_it_raises_for_a_status_a_rerun_that_was_refused_is_not_in_doubt(
    sandbox, raising, status
):
    sandbox.faults.add(Fault("status", status=status))
    mine = aiohttp.ClientSession(raise_for_status=raising)
    async with theirs(sandbox, mine, clock=FakeClock(), dialect="documented") as session:
        with pytest.raises(REFUSALS[status]):
            await ks.rerun_ingestion_workflow(session, ids_of(sandbox, "failed")[0])
    assert len(sandbox.requests) == 1


@RAISING
@pytest.mark.parametrize("status", [429, 503])
async def test_where_it_raises_for_a_status_a_pause_is_kept_and_the_rerun_sent_again(
    sandbox, raising, status
):
    clock = FakeClock()
    sandbox.faults.add(Fault("status", status=status, retry_after=7, times=1))
    mine = aiohttp.ClientSession(raise_for_status=raising)
    async with theirs(sandbox, mine, clock=clock) as session:
        await ks.rerun_ingestion_workflow(session, ids_of(sandbox, "failed")[0])
    assert clock.time - 1000 >= 7
    assert len(sandbox.effects) == 1


@RAISING
@pytest.mark.parametrize("dialect", ["offset", "system-jobs"])
async def test_where_it_raises_for_a_status_the_generation_is_still_found_out(raising, dialect):
    async with Sandbox(dialect=dialect, api_key=KEY) as sandbox:
        mine = aiohttp.ClientSession(raise_for_status=raising)
        async with theirs(sandbox, mine, clock=FakeClock()) as session:
            id_ = ids_of(sandbox, "failed")[0]
            assert (await ks.get_ingestion_workflow(session, id_)).workflow_id == id_
            assert (await ks.rerun_ingestion_workflow(session, id_)).workflow_id == id_


@RAISING
async def test_where_it_raises_for_a_status_a_job_counts_as_with_our_own_pool(raising, tmp_path):
    async with Sandbox(ingestions=20, statuses={"failed": 1.0}, superseded=0, api_key=KEY) as box:
        ids = ids_of(box, "failed")
        for id_ in ids[:3]:
            box.faults.add(Fault("status", status=409, method="POST", id=id_))
        box.faults.add(Fault("status", status=503, method="POST", id=ids[5], times=2))
        mine = aiohttp.ClientSession(raise_for_status=raising)
        async with theirs(box, mine, clock=FakeClock()) as session:
            async with ks.rerun_ingestions(session, ids, journal=tmp_path / "j") as job:
                report = await job.finish()
    assert report.counts == {"accepted": 17, "refused": 3}


# Middlewares


def marking(seen, name="X-Mine"):
    async def mark(request, handler):
        seen.append(request.method)
        request.headers[name] = "1"
        return await handler(request)

    return mark


EVERY_WAY = {
    "GET": lambda session, _: ks.list_ingestion_workflows(session),
    "rerun": lambda session, box: ks.rerun_ingestion_workflow(session, ids_of(box, "failed")[0]),
    "cancel": lambda session, box: ks.cancel_workflow(session, ids_of(box, "processing")[0]),
    "callback": lambda session, box: ks.send_workflow_run_callback(
        session, run_id_of(box), "COMPLETED"
    ),
    "delete": lambda session, box: ks.delete_workflow_run(session, run_id_of(box, "PENDING")),
    "request": lambda session, box: session.request(
        "POST", f"/v1/workflow-runs/{run_id_of(box)}/callback", json={"status": "COMPLETED"}
    ),
}


@pytest.mark.parametrize("way", EVERY_WAY)
async def test_its_middlewares_see_every_request_those_that_go_once_too(sandbox, way):
    seen = []
    mine = aiohttp.ClientSession(middlewares=[marking(seen), marking(seen, "X-Second")])
    async with theirs(sandbox, mine) as session:
        await EVERY_WAY[way](session, sandbox)
    [request] = sandbox.requests
    assert seen == [request.method] * 2
    assert (request.headers["X-Mine"], request.headers["X-Second"]) == ("1", "1")


async def test_its_middlewares_see_a_job_in_bulk(tmp_path):
    box = Sandbox(
        ingestions=5, statuses={"failed": 1.0}, superseded=0, dialect="system-jobs", api_key=KEY
    )
    async with box as sandbox:
        mine = aiohttp.ClientSession(middlewares=(marking([]),))
        async with theirs(sandbox, mine) as session:
            walk = ks.iter_ingestion_workflows(session)
            async with ks.rerun_ingestions(session, walk, journal=tmp_path / "j") as job:
                await job.finish()
        assert all(request.headers.get("X-Mine") == "1" for request in sandbox.requests)
        assert len(sandbox.effects) == 5


@pytest.mark.parametrize("kind", ["reset", "close"])
@pytest.mark.parametrize("way", ["rerun", "cancel"])
async def test_with_middlewares_of_its_own_nothing_is_sent_again_unasked(sandbox, way, kind):
    mine = aiohttp.ClientSession(middlewares=[marking([])])
    async with theirs(sandbox, mine, dialect="documented") as session:
        await ks.list_ingestion_workflows(session)  # so that there is a connection to reuse
        sandbox.forget_requests()
        sandbox.faults.add(Fault(kind, when="after"))
        with pytest.raises(ks.OutcomeUnknown):
            await EVERY_WAY[way](session, sandbox)
    assert len(sandbox.requests) == len(sandbox.effects) == 1


async def test_a_middleware_that_gives_the_key_anew_after_a_401_is_heeded(sandbox):
    async def refresh(request, handler):
        response = await handler(request)
        if response.status == 401:
            response.release()
            request.headers["Authorization"] = f"Bearer {KEY}"
            response = await handler(request)
        return response

    mine = aiohttp.ClientSession(middlewares=[refresh])
    async with theirs(sandbox, mine, api_key="sk-user-expired") as session:
        await ks.rerun_ingestion_workflow(session, ids_of(sandbox, "failed")[0])
    assert len(sandbox.effects) == 1


async def test_a_middleware_that_raises_is_named_as_the_cause_and_not_tried_again(sandbox):
    calls = []

    async def broken(_request, _handler):
        calls.append(1)
        raise ZeroDivisionError("mine")

    mine = aiohttp.ClientSession(middlewares=[broken])
    async with theirs(sandbox, mine, clock=FakeClock()) as session:
        with pytest.raises(ks.KnowledgeStackError) as caught:
            await ks.list_ingestion_workflows(session)
    told = f"{caught.value!s} {caught.value.__cause__!r}"
    assert "ZeroDivisionError" in told
    assert "connection was lost" not in told
    assert len(calls) == 1


# The pool's bounds


async def hold_up(sandbox, session, count):
    return await asyncio.gather(
        *(ks.get_workflow_run(session, run_id_of(sandbox)) for _ in range(count)),
        return_exceptions=True,
    )


BOUNDS = [
    {"limit": 2},
    {"limit_per_host": 2},
    {"limit": 0, "limit_per_host": 2},
    {"limit": 50, "limit_per_host": 2},
    {"limit": 2, "limit_per_host": 50},
    {"limit_per_host": 2, "force_close": True},
]


@pytest.mark.no_cover
@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
async def test_calls_beyond_its_connections_wait_for_a_slot_and_run_into_no_timeout(
    sandbox, bounds
):
    sandbox.faults.add(Fault("latency", seconds=0.1))
    mine = aiohttp.ClientSession(connector=aiohttp.TCPConnector(**bounds))
    options = {"timeout": 0.4, "retry": ks.RetryPolicy(tries=1)}
    async with theirs(sandbox, mine, **options) as session:
        found = await hold_up(sandbox, session, 12)
        assert [error for error in found if isinstance(error, Exception)] == []
        assert session.stats.limit <= 2
    assert sandbox.max_in_flight == 2


async def test_reruns_beyond_its_connections_per_host_are_not_in_doubt(sandbox):
    sandbox.faults.add(Fault("latency", seconds=0.1))
    mine = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit_per_host=2))
    async with theirs(sandbox, mine, timeout=0.4, dialect="documented") as session:
        done = await asyncio.gather(
            *(ks.rerun_ingestion_workflow(session, id_) for id_ in ids_of(sandbox, "failed")[:12]),
            return_exceptions=True,
        )
    assert {type(one).__name__ for one in done} == {"WorkflowActionResponse"}
    assert len(sandbox.effects) == 12


async def test_a_deadline_that_ends_while_its_connections_are_taken_says_that_nothing_was_sent(
    sandbox,
):
    sandbox.faults.add(Fault("silence"))
    mine = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit_per_host=1))
    async with theirs(sandbox, mine, dialect="documented") as session:
        first = asyncio.create_task(ks.list_ingestion_workflows(session))
        await asyncio.sleep(0.02)
        with pytest.raises(ks.DeadlineExceeded, match="no slot") as caught:
            await ks.rerun_ingestion_workflow(session.with_options(deadline=0.05), "w")
        first.cancel()
        await asyncio.wait({first})
    assert caught.value.tries == 0
    assert len(sandbox.requests) == 1


# auth, .netrc, Authorization


async def test_auth_is_refused_by_name_or_gives_way_to_the_key():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # aiohttp means to drop it
        auth = aiohttp.BasicAuth("me", "canary-password")
        mine = aiohttp.ClientSession(auth=auth)
    async with raw_server(answering(FOUND)) as server:
        async with working_or_refused(server.base_url, mine, "auth") as session:
            if session is not None:
                await ks.get_workflow_status(session, "w")
                assert f"Bearer {KEY}".encode() in server.heads[0]
                assert base64.b64encode(b"me:canary-password") not in server.heads[0]


async def test_its_netrc_does_not_take_the_place_of_the_key(sandbox, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password from-netrc\n")
    monkeypatch.setenv("NETRC", str(netrc))
    mine = aiohttp.ClientSession(trust_env=True)
    options = {"clock": FakeClock(), "dialect": "documented"}
    async with working_or_refused(
        sandbox.base_url, mine, "trust_env or netrc", **options
    ) as session:
        if session is not None:
            await ks.list_ingestion_workflows(session)
            assert sandbox.requests[0].headers["Authorization"] == f"Bearer {KEY}"
            await ks.rerun_ingestion_workflow(session, ids_of(sandbox, "failed")[0])
            assert len(sandbox.requests) == 2


async def test_the_environments_proxy_is_gone_through_where_it_trusts_the_environment(
    sandbox, monkeypatch
):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with raw_server(answering(PAGE)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.base_url)
        async with theirs(sandbox, aiohttp.ClientSession(trust_env=True)) as session:
            assert (await ks.list_ingestion_workflows(session)).total == 0
    assert proxy.heads[0].startswith(b"GET http://")
    assert sandbox.requests == []


@pytest.mark.parametrize("name", ["Authorization", "authorization"])
async def test_a_key_among_its_headers_gives_way_to_ours(sandbox, name):
    mine = aiohttp.ClientSession(headers={name: "Bearer another"})
    async with theirs(sandbox, mine) as session:
        await ks.list_ingestion_workflows(session)
    assert sandbox.requests[0].headers.getall("Authorization") == [f"Bearer {KEY}"]


# Timeouts

HURRIED = [
    {"total": 0.1},
    {"sock_read": 0.1},
    {"total": 0.1, "sock_read": 0.1, "sock_connect": 0.1, "connect": 0.1},
    {"total": 0.1, "ceil_threshold": 0.01},
]


@pytest.mark.no_cover
@pytest.mark.parametrize("limits", HURRIED, ids=str)
@pytest.mark.parametrize("way", ["GET", "rerun"])
async def test_its_own_time_limit_is_refused_by_name_or_ends_no_try_before_ours(
    sandbox, limits, way
):
    sandbox.faults.add(Fault("latency", seconds=0.25))
    mine = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(**limits))
    options = {"timeout": 3, "clock": None, "retry": ks.RetryPolicy(tries=1)}
    async with working_or_refused(sandbox.base_url, mine, "timeout", **options) as session:
        if session is not None:
            await EVERY_WAY[way](session, sandbox)


async def test_a_wait_for_its_connections_is_refused_by_name_or_ends_no_try_before_ours(sandbox):
    sandbox.faults.add(Fault("latency", seconds=0.05))
    mine = aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(connect=0.1), connector=aiohttp.TCPConnector(limit=1)
    )
    options = {"timeout": 3, "clock": None, "retry": ks.RetryPolicy(tries=1)}
    async with working_or_refused(sandbox.base_url, mine, "timeout", **options) as session:
        if session is not None:
            found = await hold_up(sandbox, session, 6)
            assert [error for error in found if isinstance(error, Exception)] == []


async def test_aiohttps_usual_time_limit_is_not_refused(sandbox):
    async with theirs(sandbox) as session:
        await ks.list_ingestion_workflows(session)


# Headers, cookies, bodies


async def test_its_headers_go_along_and_ours_stand(sandbox):
    headers = {
        "X-Corp": "1",
        "Accept": "text/html",
        "accept-encoding": "br",
        "User-Agent": "mine",
        "Content-Type": "text/plain",
    }
    async with theirs(sandbox, aiohttp.ClientSession(headers=headers)) as session:
        await ks.send_workflow_run_callback(session, run_id_of(sandbox), "COMPLETED")
    [request] = sandbox.requests
    assert request.headers["X-Corp"] == "1"
    assert request.headers.getall("Accept") == ["application/json"]
    assert request.headers.getall("Accept-Encoding") == ["gzip, deflate"]
    assert request.headers.getall("Content-Type") == ["application/json"]
    assert request.headers["User-Agent"].startswith("knowledgestack-async/")


@pytest.mark.parametrize(
    "header",
    [
        {"Content-Length": "5"},
        {"Transfer-Encoding": "chunked"},
        {"Host": "elsewhere.example"},
        {"Expect": "100-continue"},
        {"Content-Encoding": "deflate"},
        {"Upgrade": "h2c", "Connection": "upgrade"},
    ],
    ids=lambda header: next(iter(header)),
)
async def test_a_header_of_its_own_that_would_change_the_message_is_refused_by_name_or_does_not(
    header,
):
    async def echo(reader, writer, head):
        fields = dict(
            line.split(": ", 1) for line in head.decode().lower().splitlines() if ": " in line
        )
        bodies.append(await reader.readexactly(int(fields.get("content-length", 0))))
        writer.write(http(b'{"status": "accepted"}'))

    bodies = []
    name = next(iter(header))
    mine = aiohttp.ClientSession(headers=header)
    async with raw_server(echo) as server:
        options = {"clock": FakeClock(patience=0.2), "retry": ks.RetryPolicy(tries=1)}
        async with working_or_refused(server.base_url, mine, name, **options) as session:
            if session is None:
                return
            await ks.send_workflow_run_callback(session, "r", "COMPLETED")
            await ks.send_workflow_run_callback(session, "r", "COMPLETED")
        host = server.base_url.removeprefix("http://")
    assert bodies == [b'{"status":"COMPLETED"}'] * 2
    assert all(f"host: {host}" in head.decode().lower() for head in server.heads)
    assert all(name.encode() + b": " + header[name].encode() not in h for h in server.heads)


async def test_its_cookies_are_sent_and_kept(sandbox):
    sandbox.faults.add(Fault("cookie", cookie="seen=1; Path=/", times=1))
    jar = aiohttp.CookieJar(unsafe=True)
    jar.update_cookies({"team": "blue"}, URL(sandbox.base_url))
    async with theirs(sandbox, aiohttp.ClientSession(cookie_jar=jar)) as session:
        await ks.list_ingestion_workflows(session)
        await ks.rerun_ingestion_workflow(session, ids_of(sandbox, "failed")[0])
    assert sandbox.requests[0].headers["Cookie"] == "team=blue"
    assert {"team=blue", "seen=1"} == set(sandbox.requests[1].headers["Cookie"].split("; "))


async def test_its_json_serializer_changes_no_body_of_ours(sandbox):
    mine = aiohttp.ClientSession(json_serialize=lambda _: "mine")
    async with theirs(sandbox, mine) as session:
        await ks.send_workflow_run_callback(session, run_id_of(sandbox), "COMPLETED")
    assert json.loads(sandbox.requests[0].body) == {"status": "COMPLETED"}


OTHERS = {
    "auto_decompress": {"auto_decompress": False},
    "skip_auto_headers": {"skip_auto_headers": ["User-Agent", "Accept-Encoding", "Content-Type"]},
    "version": {"version": aiohttp.HttpVersion10},
    "read_bufsize": {"read_bufsize": 1},
    "requote_redirect_url": {"requote_redirect_url": False},
    "cookies": {"cookies": {"a": "b"}},
    "base_url": {"base_url": "http://elsewhere.example/v9/"},
}


@pytest.mark.no_cover
@pytest.mark.parametrize("setting", OTHERS)
@pytest.mark.parametrize("way", EVERY_WAY)
async def test_its_other_settings_are_refused_by_name_or_harm_no_call(sandbox, setting, way):
    mine = aiohttp.ClientSession(**OTHERS[setting])
    async with working_or_refused(sandbox.base_url, mine, setting, clock=None) as session:
        if session is not None:
            await EVERY_WAY[way](session, sandbox)
            [request] = sandbox.requests
            assert request.headers["Host"] == sandbox.base_url.removeprefix("http://")


async def test_a_base_url_of_its_own_with_the_same_server_changes_no_path(sandbox):
    mine = aiohttp.ClientSession(base_url=f"{sandbox.base_url}/v9/")
    async with theirs(sandbox, mine) as session:
        await ks.list_ingestion_workflows(session)
    assert sandbox.requests[0].path == "/v1/workflows/document_versions"


async def test_its_trace_configs_see_every_request(sandbox):
    seen = []
    trace = aiohttp.TraceConfig()

    async def note(_session, _context, params):
        seen.append(params.method)

    trace.on_request_end.append(note)
    async with theirs(sandbox, aiohttp.ClientSession(trace_configs=[trace])) as session:
        await ks.list_ingestion_workflows(session)
        await ks.rerun_ingestion_workflow(session, ids_of(sandbox, "failed")[0])
    assert seen == ["GET", "POST"]


async def test_its_proxy_is_gone_through_by_calls_that_go_once_too(sandbox):
    async with raw_server(answering(ACCEPTED)) as proxy:
        mine = aiohttp.ClientSession(proxy=proxy.base_url)
        async with theirs(sandbox, mine, dialect="documented") as session:
            assert (await ks.rerun_ingestion_workflow(session, "w")).action == "rerun"
    assert proxy.heads[0].startswith(b"POST " + sandbox.base_url.encode())
    assert sandbox.requests == []


# Connectors


async def test_a_unix_socket_works_for_every_call(tmp_path):
    place = str(tmp_path / "socket")
    answers = {
        b"GET": FOUND,
        b"POST": ACCEPTED,
        b"DELETE": http(b'{"workflow_id": "w", "message": "m"}'),
    }
    heads = []

    async def serve(reader, writer):
        while head := await reader.readuntil(b"\r\n\r\n"):
            heads.append(head)
            writer.write(answers[head.split(b" ")[0]])
            await writer.drain()

    async def serve_quietly(reader, writer):
        try:
            await serve(reader, writer)
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_unix_server(serve_quietly, place)
    mine = aiohttp.ClientSession(connector=aiohttp.UnixConnector(place))
    async with server, working_or_refused("http://localhost", mine, "connector") as session:
        if session is not None:
            await ks.get_workflow_status(session, "w")
            await ks.rerun_ingestion_workflow(session, "w")
            await ks.cancel_workflow(session, "w")
            assert [head.split(b" ")[0] for head in heads] == [b"GET", b"POST", b"DELETE"]


class CountingConnector(aiohttp.TCPConnector):
    """A user's own, which sees each request come by."""

    seen = 0

    async def connect(self, req, traces, timeout):
        self.seen += 1
        return await super().connect(req, traces, timeout)


class OddConnector(CountingConnector):
    """Another one, with bounds that are none."""

    @property
    def limit(self):
        return None

    @property
    def limit_per_host(self):
        return None


class PoolWithoutBounds(aiohttp.BaseConnector):
    """A connector that isn't aiohttp's TCP one."""

    def __init__(self):
        super().__init__(limit=100)
        self._inner = aiohttp.TCPConnector(limit=0)

    async def _create_connection(self, req, traces, timeout):
        return await self._inner._create_connection(req, traces, timeout)

    def _close(self, **options):
        return [*self._inner._close(**options), *super()._close(**options)]


@pytest.mark.parametrize("kind", [CountingConnector, OddConnector, PoolWithoutBounds])
@pytest.mark.parametrize("way", EVERY_WAY)
async def test_a_connector_of_any_kind_is_refused_by_name_or_works(sandbox, kind, way):
    mine = aiohttp.ClientSession(connector=kind())
    async with working_or_refused(sandbox.base_url, mine, "connector", clock=None) as session:
        if session is not None:
            await EVERY_WAY[way](session, sandbox)
            assert len(sandbox.requests) == 1


@pytest.mark.parametrize("kind", [aiohttp.TCPConnector, CountingConnector, PoolWithoutBounds])
@pytest.mark.parametrize("way", ["rerun", "cancel"])
async def test_over_a_connector_of_any_kind_nothing_is_sent_again_unasked(sandbox, kind, way):
    mine = aiohttp.ClientSession(connector=kind())
    async with working_or_refused(sandbox.base_url, mine, "connector", clock=None) as session:
        if session is not None:
            await ks.list_ingestion_workflows(session)
            sandbox.forget_requests()
            sandbox.faults.add(Fault("close", when="after"))
            with pytest.raises(ks.OutcomeUnknown):
                await EVERY_WAY[way](session, sandbox)
            assert len(sandbox.requests) == 1


async def test_a_connector_that_outlives_its_session_is_left_open(sandbox):
    connector = aiohttp.TCPConnector()
    try:
        mine = aiohttp.ClientSession(connector=connector, connector_owner=False)
        async with theirs(sandbox, mine) as session:
            await ks.list_ingestion_workflows(session)
        assert not connector.closed
    finally:
        await connector.close()


async def test_the_certificates_that_its_connector_trusts_are_trusted():
    authority = trustme.CA()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server_side)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with Sandbox(ssl_context=server_side, api_key=KEY) as sandbox:
        mine = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting))
        async with theirs(sandbox, mine) as session:
            assert (await ks.list_ingestion_workflows(session)).total == 20


# What is given besides it


async def test_trace_configs_beside_it_are_refused_by_name_or_see_the_requests(sandbox):
    seen = []
    trace = aiohttp.TraceConfig()

    async def note(*_):
        seen.append(1)

    trace.on_request_start.append(note)
    mine = aiohttp.ClientSession()
    options = {"trace_configs": [trace]}
    async with working_or_refused(sandbox.base_url, mine, "trace_configs", **options) as session:
        if session is not None:
            await ks.list_ingestion_workflows(session)
            assert seen == [1]


async def test_a_proxy_beside_it_is_gone_through(sandbox):
    async with raw_server(answering(PAGE)) as proxy:
        async with theirs(sandbox, proxy=proxy.base_url) as session:
            assert (await ks.list_ingestion_workflows(session)).total == 0
    assert sandbox.requests == []


# Its life


async def test_one_of_another_event_loop_is_refused_when_it_is_opened(sandbox):
    opened = []

    async def open_it():
        opened.append(aiohttp.ClientSession())

    async def close_it():
        await opened[0].close()

    loop = asyncio.new_event_loop()
    try:
        await asyncio.to_thread(loop.run_until_complete, open_it())
        with pytest.raises(ks.KnowledgeStackError, match=r"client_session.*loop"):
            async with sandbox.session(client_session=opened[0]):
                pass
    finally:
        await asyncio.to_thread(loop.run_until_complete, close_it())
        loop.close()
    assert sandbox.requests == []


@pytest.mark.parametrize("way", EVERY_WAY)
async def test_one_that_is_closed_while_it_is_used_is_said_to_be_closed_and_leaves_no_doubt(
    sandbox, way
):
    mine = aiohttp.ClientSession()
    async with sandbox.session(client_session=mine, clock=FakeClock()) as session:
        await ks.list_ingestion_workflows(session)
        await mine.close()
        sandbox.forget_requests()
        with pytest.raises(ks.KnowledgeStackError, match="closed") as caught:
            await EVERY_WAY[way](session, sandbox)
    assert not isinstance(caught.value, ks.OutcomeUnknown | ks.ConnectionLost)
    assert sandbox.requests == []
