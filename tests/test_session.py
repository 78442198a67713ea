"""The session: its life, its settings, its views, its counters and its log."""

from __future__ import annotations

import asyncio
import logging
import ssl

import aiohttp
import pytest
import trustme

import knowledgestack_async as ks
from knowledgestack_async.sandbox import Fault, Sandbox
from support import KEY, FakeClock, answering, http, ids_of, raw_server, run_id_of


async def test_no_key_is_said_before_any_io():
    with pytest.raises(ks.ConfigurationError, match="KS_API_KEY"):
        ks.Session()


async def test_settings_come_from_the_environment(monkeypatch, sandbox):
    monkeypatch.setenv("KS_API_KEY", KEY)
    monkeypatch.setenv("KS_BASE_URL", sandbox.base_url)
    async with ks.Session() as session:
        assert (await ks.list_ingestion_workflows(session)).total == 50


async def test_the_documented_host_is_the_default():
    assert ks.Session(KEY).base_url == "https://api-staging.knowledgestack.ai"


async def test_used_outside_async_with_it_says_so(sandbox):
    with pytest.raises(ks.SessionError, match="not open"):
        await ks.list_ingestion_workflows(sandbox.session())


async def test_used_after_closing_it_says_so(sandbox):
    async with sandbox.session() as session:
        pass
    with pytest.raises(ks.SessionError, match="closed"):
        await ks.list_ingestion_workflows(session)
    with pytest.raises(ks.SessionError, match="closed"):
        async with session:
            pass


async def test_opened_twice_it_says_so(session):
    with pytest.raises(ks.SessionError, match="open already"):
        async with session:
            pass


async def test_used_on_another_event_loop_it_says_so(session):
    def elsewhere() -> None:
        asyncio.run(ks.list_ingestion_workflows(session))

    with pytest.raises(ks.SessionError, match="another event loop"):
        await asyncio.to_thread(elsewhere)


async def test_a_view_is_not_opened_by_itself(session):
    with pytest.raises(ks.SessionError, match="view"):
        async with session.with_options(timeout=1):
            pass


async def test_views_share_the_counters_and_change_only_what_they_say(sandbox, session):
    view = session.with_options(headers={"X-Team": "blue"})
    await ks.list_ingestion_workflows(view)
    assert sandbox.requests[-1].headers["X-Team"] == "blue"
    await ks.list_ingestion_workflows(session)
    assert "X-Team" not in sandbox.requests[-1].headers
    assert session.stats == view.stats
    assert session.stats.requests == 2


async def test_a_view_can_have_another_key(sandbox, session):
    with pytest.raises(ks.Unauthorized) as caught:
        await ks.list_ingestion_workflows(session.with_options(api_key="sk-user-wrong"))
    assert caught.value.status == 401


async def test_a_key_function_is_asked_for_each_request(sandbox):
    keys = iter([KEY, "sk-user-rotated"])

    async def rotate() -> str:
        return next(keys)

    async with sandbox.session(api_key=rotate) as session:
        await ks.list_ingestion_workflows(session)
        sandbox.api_key = "sk-user-rotated"
        await ks.list_ingestion_workflows(session)
    assert [r.headers["Authorization"] for r in sandbox.requests] == [
        f"Bearer {KEY}",
        "Bearer sk-user-rotated",
    ]


async def test_a_key_function_that_gives_none_is_a_clear_error(sandbox):
    async with sandbox.session(api_key=lambda: "") as session:
        with pytest.raises(ks.ConfigurationError, match="api_key"):
            await ks.list_ingestion_workflows(session)
    assert sandbox.requests == []


async def test_an_aiohttp_session_of_the_users_is_used_and_not_closed(sandbox):
    async with aiohttp.ClientSession(headers={"X-Mine": "1"}) as mine:
        async with sandbox.session(client_session=mine) as session:
            await ks.list_ingestion_workflows(session)
            await ks.cancel_workflow(session, ids_of(sandbox, "processing")[0])
            await ks.delete_workflow_run(session, run_id_of(sandbox, "PENDING"))
        assert not mine.closed
    assert sandbox.requests[0].headers["X-Mine"] == "1"
    assert sandbox.requests[-1].headers["Connection"] == "close"


async def test_the_sessions_timeout_counts_and_not_the_users_aiohttp_sessions(sandbox):
    sandbox.faults.add(Fault("latency", seconds=0.05, times=1))
    sandbox.faults.add(Fault("silence", after=1))
    hurried = aiohttp.ClientTimeout(total=0.01)
    async with aiohttp.ClientSession(timeout=hurried) as mine:
        retry = ks.RetryPolicy(tries=1)
        async with sandbox.session(client_session=mine, retry=retry, timeout=0.3) as session:
            assert (await ks.list_ingestion_workflows(session)).items
            with pytest.raises(ks.ConnectionLost):
                await ks.list_ingestion_workflows(session)


async def test_an_aiohttp_session_of_the_users_sends_no_cancel_twice_by_itself(sandbox):
    id_ = sandbox.store.ids("processing")[0]
    sandbox.faults.add(Fault("close", route="cancel_workflow"))
    async with aiohttp.ClientSession() as theirs:
        async with sandbox.session(client_session=theirs) as session:
            with pytest.raises(ks.OutcomeUnknown):
                await ks.cancel_workflow(session, id_)
    assert sandbox.request_counts["cancel_workflow"] == 1
    async with aiohttp.ClientSession() as theirs:
        nowhere = {"client_session": theirs, "retry": ks.RetryPolicy(tries=1)}
        async with ks.Session(KEY, "http://127.0.0.1:9", **nowhere) as session:
            with pytest.raises(ks.ConnectionFailed):
                await ks.cancel_workflow(session, id_)


async def test_a_closed_aiohttp_session_is_refused(sandbox):
    mine = aiohttp.ClientSession()
    await mine.close()
    with pytest.raises(ks.ConfigurationError, match="client_session is closed"):
        async with sandbox.session(client_session=mine):
            pass


async def test_the_pool_of_the_users_aiohttp_session_bounds_what_is_in_flight(sandbox):
    sandbox.faults.add(Fault("latency", seconds=0.01))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=3)) as mine:
        async with sandbox.session(client_session=mine) as session:
            await asyncio.gather(*(ks.list_ingestion_workflows(session) for _ in range(12)))
    assert sandbox.max_in_flight == 3


async def test_trace_configs_see_the_requests(sandbox):
    seen = []
    trace = aiohttp.TraceConfig()

    async def note(_session, _context, params) -> None:
        seen.append(params.url.path)

    trace.on_request_start.append(note)
    async with sandbox.session(trace_configs=[trace]) as session:
        await ks.list_ingestion_workflows(session)
    assert seen == ["/v1/workflows/document_versions"]


async def test_a_proxy_is_gone_through_when_it_is_given(sandbox):
    page = b'{"items":[],"total":0,"page":1,"page_size":100}'
    async with raw_server(answering(http(page))) as proxy:
        async with sandbox.session(proxy=proxy.base_url) as session:
            assert (await ks.list_ingestion_workflows(session)).total == 0
    assert proxy.heads[0].startswith(b"GET " + sandbox.base_url.encode())
    assert sandbox.requests == []


async def test_an_ssl_context_is_used_when_it_is_given():
    authority = trustme.CA()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server_side)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with (
        Sandbox(ssl_context=server_side) as sandbox,
        sandbox.session(ssl=trusting) as session,
    ):
        assert (await ks.list_ingestion_workflows(session)).total == 20


async def test_each_try_is_one_line_in_the_log(sandbox, session, caplog):
    sandbox.faults.add(Fault("status", status=503, times=1))
    with caplog.at_level(logging.DEBUG, logger="knowledgestack_async"):
        await ks.get_workflow_run(session, run_id := run_id_of(sandbox))
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(" in ")[0] for line in lines] == [
        f"GET /v1/workflow-runs/{run_id} -> 503",
        f"GET /v1/workflow-runs/{run_id} -> 200",
    ]
    assert "try 1" in lines[0]
    assert "try 2" in lines[1]


async def test_counters_tell_what_happened(sandbox, session):
    sandbox.faults.add(Fault("status", status=429, retry_after=3, times=1))
    await ks.list_ingestion_workflows(session)
    stats = session.stats
    assert (stats.requests, stats.retries, stats.cool_downs, stats.in_flight) == (2, 1, 1, 0)
    assert stats.bytes_in > 1000
    assert stats.waiting == 0
    assert stats.limit > 1


async def test_request_reaches_endpoints_that_are_not_modelled(sandbox, session):
    answer = await session.request(
        "get", "/v1/workflows/document_versions", params={"page": 1, "page_size": 5, "deep": True}
    )
    assert answer.status == 200
    assert len(answer.json["items"]) == 5
    assert dict(sandbox.requests[0].query)["deep"] == "true"


async def test_request_sends_json_and_gives_none_for_an_empty_body(sandbox, session):
    run_id = run_id_of(sandbox)
    answer = await session.request(
        "POST", f"/v1/workflow-runs/{run_id}/callback", json={"status": "COMPLETED"}
    )
    assert answer.json == {"status": "accepted"}
    answer = await session.request("DELETE", f"/v1/workflow-runs/{run_id}")
    assert (answer.status, answer.json) == (204, None)


async def test_request_is_sent_again_only_where_that_is_safe(sandbox, session):
    sandbox.faults.add(Fault("reset", when="after", times=1))
    with pytest.raises(ks.OutcomeUnknown) as caught:
        await session.request("DELETE", f"/v1/workflow-runs/{run_id_of(sandbox, 'PENDING')}")
    assert not caught.value.safe_to_retry
    assert len(sandbox.requests) == 1
    sandbox.faults.add(Fault("reset", when="after", times=1))
    path = f"/v1/workflow-runs/{run_id_of(sandbox)}/callback"
    answer = await session.request("POST", path, json={"status": "FAILED"}, idempotent=True)
    assert answer.json == {"status": "already_terminal"}


async def test_a_success_that_cant_be_read_is_accepted_and_not_sent_again(sandbox, session):
    sandbox.faults.add(Fault("garbage", body="digits", status=201))
    path = f"/v1/workflow-runs/{run_id_of(sandbox)}/callback"
    answer = await session.request("POST", path, json={"status": "FAILED"})
    assert (answer.status, answer.json) == (201, None)
    assert len(sandbox.requests) == len(sandbox.effects) == 1


async def test_a_success_that_is_another_servers_page_is_none_and_not_sent_again(sandbox, session):
    sandbox.faults.add(Fault("garbage", body="html", status=201))
    path = f"/v1/workflow-runs/{run_id_of(sandbox)}/callback"
    with pytest.raises(ks.OutcomeUnknown, match="another server's page") as caught:
        await session.request("POST", path, json={"status": "FAILED"})
    assert (caught.value.status, caught.value.tries) == (201, 1)
    assert not caught.value.safe_to_retry
    assert len(sandbox.requests) == 1


@pytest.mark.parametrize(
    "path",
    [
        "v1/x", "//evil.example/v1", "https://evil.example/v1", "/a/../b", "/a/%2e%2E/b", "/a?b=1",
        "/a#b", "/a b", "/a\\b", "/a\nb", "",
    ],
)  # fmt: skip
async def test_request_refuses_paths_that_could_leave_the_server(sandbox, session, path):
    with pytest.raises(ks.ConfigurationError, match="path"):
        await session.request("GET", path)
    assert sandbox.requests == []


async def test_request_refuses_methods_that_are_none(session):
    with pytest.raises(ks.ConfigurationError, match="method"):
        await session.request("STEAL", "/v1/x")


async def test_a_path_prefix_of_the_base_url_is_kept():
    page = b'{"items":[],"total":0,"page":1,"page_size":100}'
    async with raw_server(answering(http(page))) as server:
        async with ks.Session(KEY, server.base_url + "/tenant/a/") as session:
            await ks.list_ingestion_workflows(session)
            await session.request("GET", "/v1/x")
    assert server.heads[0].startswith(b"GET /tenant/a/v1/workflows/document_versions?page=1")
    assert server.heads[1].startswith(b"GET /tenant/a/v1/x ")


async def test_closing_ends_what_is_still_going_on(sandbox):
    sandbox.faults.add(Fault("silence"))
    async with sandbox.session(max_in_flight=1) as session:
        calls = [asyncio.create_task(ks.list_ingestion_workflows(session)) for _ in range(3)]
        poll = ks.poll_workflow_statuses(session, ["a", "b"])
        asking = asyncio.create_task(anext(poll))
        await asyncio.sleep(0.02)
    results = await asyncio.gather(*calls, asking, return_exceptions=True)
    assert all(isinstance(result, ks.KnowledgeStackError) for result in results), results


async def test_what_lives_as_long_as_the_session_is_made_once_and_closed_with_it(sandbox):
    class Kept:
        closed = 0

        async def close(self) -> None:
            self.closed += 1

    async with sandbox.session() as session:
        kept = session.keep("kept", Kept)
        assert session.with_options(timeout=1).keep("kept", Kept) is kept
    assert kept.closed == 1


async def test_its_repr_shows_the_server_and_no_key(session):
    assert KEY not in repr(session)
    assert session.base_url in repr(session)


async def test_answers_are_not_mixed_up_among_many_tasks(sandbox):
    ids = [item.workflow_id for item in sandbox.store.list(0, 50)[0]]
    async with sandbox.session(clock=FakeClock(patience=5)) as session:
        found = await asyncio.gather(*(ks.get_ingestion_workflow(session, i) for i in ids * 4))
    assert [detail.workflow_id for detail in found] == ids * 4


async def test_a_key_function_that_hangs_ends_with_the_call(sandbox, clock):
    async with sandbox.session(clock=clock, api_key=asyncio.Event().wait) as session:
        clock.patience = 0.02
        with pytest.raises(ks.DeadlineExceeded, match="api_key or token took too long"):
            await ks.list_ingestion_workflows(session)
        with pytest.raises(ks.DeadlineExceeded) as caught:
            await ks.list_ingestion_workflows(session.with_options(deadline=2))
        assert session.stats.in_flight == 0
    assert caught.value.tries == 0
    assert clock.time == 1000 + 30 + 2
    assert sandbox.requests == []
