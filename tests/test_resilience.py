"""What a call does when something goes wrong, each fault injected over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import pickle
import random
import ssl
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import attrs
import pytest
import trustme

import knowledgestack_async as ks
from knowledgestack_async.sandbox import Fault, Sandbox
from support import (
    KEY,
    FakeClock,
    answering,
    assert_within,
    http,
    ids_of,
    raw_server,
    run_id_of,
)


@attrs.frozen
class Endpoint:
    """A call to try faults on."""

    route: str
    call: Callable[[ks.Session, Sandbox], Awaitable[Any]]
    repeats: bool
    acts: bool


ENDPOINTS = {
    endpoint.route: endpoint
    for endpoint in (
        Endpoint(
            "list_ingestion_workflows",
            lambda session, _: ks.list_ingestion_workflows(session),
            repeats=True,
            acts=False,
        ),
        Endpoint(
            "get_ingestion_workflow",
            lambda session, box: ks.get_ingestion_workflow(session, ids_of(box, "failed")[0]),
            repeats=True,
            acts=False,
        ),
        Endpoint(
            "rerun_ingestion_workflow",
            lambda session, box: ks.rerun_ingestion_workflow(session, ids_of(box, "failed")[0]),
            repeats=False,
            acts=True,
        ),
        Endpoint(
            "get_workflow_status",
            lambda session, box: ks.get_workflow_status(session, ids_of(box, "processing")[0]),
            repeats=True,
            acts=False,
        ),
        Endpoint(
            "cancel_workflow",
            lambda session, box: ks.cancel_workflow(session, ids_of(box, "processing")[0]),
            repeats=False,
            acts=True,
        ),
        Endpoint(
            "get_workflow_run",
            lambda session, box: ks.get_workflow_run(session, run_id_of(box)),
            repeats=True,
            acts=False,
        ),
        Endpoint(
            "delete_workflow_run",
            lambda session, box: ks.delete_workflow_run(session, run_id_of(box, "PENDING")),
            repeats=True,
            acts=True,
        ),
        Endpoint(
            "send_workflow_run_callback",
            lambda session, box: ks.send_workflow_run_callback(session, run_id_of(box), "FAILED"),
            repeats=True,
            acts=True,
        ),
    )
}

every_endpoint = pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=ENDPOINTS)

UNCERTAIN = [
    Fault("status", status=408, effect=True),
    Fault("status", status=500, effect=True),
    Fault("status", status=502, effect=True),
    Fault("status", status=504),
    Fault("reset", when="before"),
    Fault("reset", when="after"),
    Fault("close", when="before"),
    Fault("close", when="after"),
    Fault("banner", effect=True),
    Fault("raw", body=b"HTTP/1.1 2"),
    Fault("silence", effect=True),
    Fault("slow"),
    Fault("informational"),
]


def title(fault: Fault) -> str:
    return "-".join(str(part) for part in (fault.kind, fault.status, fault.when, fault.how) if part)


@every_endpoint
@pytest.mark.parametrize("fault", UNCERTAIN, ids=title)
async def test_what_may_have_acted_is_repeated_only_where_that_does_no_harm(
    sandbox, endpoint, fault
):
    sandbox.faults.add(attrs.evolve(fault, route=endpoint.route, times=1))
    hangs = fault.kind in {"silence", "slow", "informational"}
    options = {"patience": 0.1 if hangs else 5, "once": True}
    clock = FakeClock(**options, has_come=lambda: sandbox.requests)
    async with sandbox.session(clock=clock) as session:
        if endpoint.repeats:
            await endpoint.call(session, sandbox)
            assert len(sandbox.requests) == 2
        else:
            with pytest.raises(ks.OutcomeUnknown) as caught:
                await endpoint.call(session, sandbox)
            assert not caught.value.safe_to_retry
            assert caught.value.tries == len(sandbox.requests) == 1
    assert len(sandbox.effects) <= 1


@pytest.mark.no_cover
@every_endpoint
@pytest.mark.parametrize("fault", UNCERTAIN, ids=title)
async def test_a_call_that_never_comes_through_says_what_is_known(sandbox, endpoint, fault):
    sandbox.faults.add(attrs.evolve(fault, route=endpoint.route))
    hangs = fault.kind in {"silence", "slow", "informational"}
    async with sandbox.session(clock=FakeClock(patience=0.03 if hangs else 5)) as session:
        with pytest.raises(ks.RequestError) as caught:
            await endpoint.call(session, sandbox)
    error = caught.value
    if endpoint.acts:
        assert type(error) is ks.OutcomeUnknown
        assert error.safe_to_retry is endpoint.repeats
    elif fault.status in {500, 502, 504}:
        assert type(error) is ks.ServerError
    elif fault.status == 408:
        assert type(error) is ks.ResponseError
    else:
        assert type(error) is ks.ConnectionLost
    # Four tries of 30 s are all that two minutes have room for.
    assert error.tries == (1 if not endpoint.repeats else 4 if hangs else 5)
    assert pickle.loads(pickle.dumps(error)).tries == error.tries
    assert len(sandbox.effects) <= 1


@every_endpoint
@pytest.mark.parametrize("status", [429, 503])
async def test_what_the_server_refused_is_sent_again_by_all(sandbox, session, endpoint, status):
    sandbox.faults.add(Fault("status", status=status, route=endpoint.route, times=2))
    await endpoint.call(session, sandbox)
    assert len(sandbox.requests) == 3
    assert len(sandbox.effects) == endpoint.acts


@every_endpoint
async def test_a_quota_that_is_used_up_is_not_waited_for(sandbox, session, endpoint):
    sandbox.faults.add(
        Fault("status", status=429, code="quota_exceeded", retry_after=1, route=endpoint.route)
    )
    with pytest.raises(ks.QuotaExceeded) as caught:
        await endpoint.call(session, sandbox)
    assert caught.value.retry_after == 1
    assert len(sandbox.requests) == 1


@pytest.mark.no_cover
@every_endpoint
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ks.BadRequest),
        (401, ks.Unauthorized),
        (403, ks.Forbidden),
        (404, ks.NotFound),
        (409, ks.Conflict),
        (418, ks.ResponseError),
        (422, ks.UnprocessableEntity),
    ],
)
async def test_a_4xx_is_that_error_and_final(sandbox, session, endpoint, status, kind):
    sandbox.faults.add(
        Fault("status", status=status, body={"detail": "No such thing"}, route=endpoint.route)
    )
    with pytest.raises(ks.ResponseError) as caught:
        await endpoint.call(session, sandbox)
    assert type(caught.value) is kind
    assert caught.value.message == "No such thing"
    assert [request.route for request in sandbox.requests] == [endpoint.route]
    assert sandbox.effects == []
    assert caught.value.tries == 1


@every_endpoint
@pytest.mark.parametrize(
    ("body", "moves"),
    [({"detail": "Not Found"}, 6), (b"<h1>404</h1>", 1), (b"default backend - 404", 1)],
    ids=["no route", "html", "text"],
)
async def test_a_404_that_names_nothing_is_sent_a_few_times_where_its_route_may_have_moved(
    sandbox, session, endpoint, body, moves
):
    sandbox.faults.add(Fault("status", status=404, body=body, route=endpoint.route))
    with pytest.raises(ks.NotFound) as caught:
        await endpoint.call(session, sandbox)
    moves = 0 if "workflow_run" in endpoint.route else moves
    assert sandbox.request_counts[endpoint.route] == caught.value.tries == 1 + moves
    assert not caught.value.names_it
    assert sandbox.effects == []


@every_endpoint
@pytest.mark.parametrize("how", ["length", "chunk"])
async def test_a_success_that_is_cut_is_accepted_where_it_must_not_be_repeated(
    sandbox, session, endpoint, how
):
    sandbox.faults.add(Fault("truncate", how=how, route=endpoint.route, times=1))
    await endpoint.call(session, sandbox)
    assert len(sandbox.effects) == endpoint.acts
    assert len(sandbox.requests) <= (2 if endpoint.repeats else 1)


@every_endpoint
@pytest.mark.parametrize(
    "body",
    [
        "html",
        "empty",
        "bom",
        "charset",
        "nan",
        "digits",
        "nesting",
        "not-utf-8",
        "gzip-bomb",
        "not-gzip",
    ],
)
async def test_a_success_that_is_garbage_is_accepted_or_invalid(sandbox, endpoint, body):
    sandbox.faults.add(Fault("garbage", body=body, route=endpoint.route))
    async with sandbox.session(clock=FakeClock(patience=2)) as session:
        if endpoint.acts and body == "html":
            with pytest.raises(ks.OutcomeUnknown, match="another server's page") as unknown:
                await endpoint.call(session, sandbox)
            assert unknown.value.safe_to_retry is endpoint.repeats
            assert unknown.value.tries == len(sandbox.requests) == (5 if endpoint.repeats else 1)
            assert len(sandbox.effects) == 1
        elif endpoint.acts:
            await endpoint.call(session, sandbox)
            assert len(sandbox.requests) == len(sandbox.effects) == 1
        else:
            with pytest.raises((ks.InvalidResponse, ks.ConnectionLost)) as caught:
                await endpoint.call(session, sandbox)
            assert len(str(caught.value)) < 800
            assert str(caught.value).isprintable()


async def test_a_gzip_bomb_is_not_unpacked(sandbox):
    sandbox.faults.add(Fault("garbage", body="gzip-bomb"))
    retry = ks.RetryPolicy(tries=1)
    async with sandbox.session(clock=FakeClock(patience=5), retry=retry) as session:
        gc.collect()
        tracemalloc.start()
        try:
            with pytest.raises(ks.InvalidResponse, match="larger than 8 MiB"):
                await ks.list_ingestion_workflows(session)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 20 * 2**20  # the sandbox's own megabyte or so included


async def test_gzip_and_deflate_are_read():
    import gzip
    import zlib

    page = b'{"items":[],"total":0,"page":1,"page_size":100}'
    bodies = (
        http(gzip.compress(page), headers="Content-Encoding: gzip\r\n"),
        http(zlib.compress(page), headers="Content-Encoding: deflate\r\n"),
        http(page, headers="Content-Encoding: identity\r\n"),
        http(page, headers="Content-Encoding: br\r\n"),  # nobody asked for it: taken as it is
        *[http(b"\x0b\x02\x80" + page, headers="Content-Encoding: br\r\n")] * 2,
        http(gzip.compress(page)[:-9], headers="Content-Encoding: gzip\r\n"),
    )
    async with raw_server(answering(*bodies)) as server:
        retry = ks.RetryPolicy(tries=1)
        async with ks.Session(KEY, server.base_url, retry=retry) as session:
            for _ in range(4):
                assert (await ks.list_ingestion_workflows(session)).total == 0
            again = session.with_options(retry=ks.RetryPolicy(tries=2, base_delay=0.001))
            with pytest.raises(ks.InvalidResponse, match="JSON"):
                await ks.list_ingestion_workflows(again)
            with pytest.raises(ks.ConnectionLost, match="ends too soon"):
                await ks.list_ingestion_workflows(session)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(sandbox, session, status):
    async with raw_server(answering(http(b"{}"))) as elsewhere:
        sandbox.faults.add(Fault("redirect", status=status, location=elsewhere.base_url + "/x"))
        with pytest.raises(ks.InvalidResponse, match="redirects are not followed") as caught:
            await ks.list_ingestion_workflows(session)
        assert caught.value.status == status
        with pytest.raises(ks.OutcomeUnknown):
            await ks.rerun_ingestion_workflow(session, ids_of(sandbox, "failed")[0])
    assert elsewhere.heads == []


@pytest.mark.parametrize("status", [206, 304])
async def test_answers_nobody_asked_for_are_invalid(sandbox, session, status):
    sandbox.faults.add(Fault("status", status=status, body=b""))
    with pytest.raises(ks.InvalidResponse):
        await ks.list_ingestion_workflows(session)


async def test_a_wrong_type_says_where(sandbox, session):
    def spoil(_request: object, body: Any) -> Any:
        body["items"][3]["status"] = 7
        return body

    sandbox.rewrite_answer = spoil
    with pytest.raises(ks.InvalidResponse) as caught:
        await ks.list_ingestion_workflows(session)
    assert caught.value.json_path == "$.items[3].status"


async def test_an_envelope_that_says_nothing_is_invalid(sandbox, session):
    sandbox.rewrite_answer = lambda _request, body: {"items": body["items"], "total": 3}
    with pytest.raises(ks.InvalidResponse, match="which page"):
        await ks.list_ingestion_workflows(session)


async def test_the_servers_words_are_cut_and_escaped(sandbox, session):
    sandbox.faults.add(Fault("status", status=400, body={"detail": "\x1b[31m" + "x" * 5000}))
    with pytest.raises(ks.BadRequest) as caught:
        await ks.list_ingestion_workflows(session)
    assert len(caught.value.message) <= 200
    assert "\x1b" not in str(caught.value)
    assert "\\x1b[31m" in str(caught.value)


async def test_retry_after_is_never_undercut_and_shared_by_all(sandbox, clock):
    sandbox.faults.add(Fault("status", status=503, retry_after=7, times=1))
    async with sandbox.session(clock=clock, chance=random.Random(1)) as session:
        began = clock.now()
        await ks.list_ingestion_workflows(session)
        assert clock.now() - began >= 7
    assert session.stats.cool_downs == 1


async def test_a_retry_after_beyond_the_deadline_fails_at_once(sandbox, clock):
    sandbox.faults.add(Fault("status", status=429, retry_after=60))
    async with sandbox.session(clock=clock, deadline=5) as session:
        with pytest.raises(ks.TooManyRequests) as caught:
            await ks.list_ingestion_workflows(session)
        assert caught.value.retry_after == 60
        assert clock.slept == []
        with pytest.raises(ks.DeadlineExceeded, match="pause") as waiting:
            await ks.list_ingestion_workflows(session)
        assert waiting.value.retry_after == pytest.approx(60, abs=1)
    assert len(sandbox.requests) == 1


async def test_without_a_deadline_nobody_waits_for_more_than_two_minutes(sandbox, clock):
    sandbox.faults.add(Fault("status", status=503, retry_after=121))
    async with sandbox.session(clock=clock) as session:
        with pytest.raises(ks.ServiceUnavailable) as caught:
            await ks.list_ingestion_workflows(session)
    assert caught.value.retry_after == 121
    assert clock.slept == []


async def test_a_retry_after_date_is_read_against_the_servers_own_clock(sandbox, clock):
    headers = {
        "Date": "Mon, 01 Jan 2001 00:00:00 GMT",
        "Retry-After": "Mon, 01 Jan 2001 00:00:09 GMT",
    }
    sandbox.faults.add(Fault("status", status=503, headers=headers, times=1))
    async with sandbox.session(clock=clock) as session:
        began = clock.now()
        await ks.list_ingestion_workflows(session)
        assert 9 <= clock.now() - began < 20


async def test_an_empty_budget_holds_retries_but_not_those_of_callbacks(sandbox, session, clock):
    sandbox.faults.add(Fault("status", status=502))
    run_id = run_id_of(sandbox)
    tries, took = [], []
    for _ in range(20):
        began = clock.now()
        with pytest.raises(ks.ServerError) as caught:
            await ks.list_ingestion_workflows(session)
        tries.append(caught.value.tries)
        took.append(clock.now() - began)
    assert tries[:5] == [5] * 5  # 20 retries are the budget
    assert sum(tries[10:]) <= 25  # then a probe now and then
    assert tries[-1] <= 2
    # The waits of a call whose retries are held are those of a call whose retries are sent.
    assert min(took) > 0.25 + 0.5 + 1 + 2
    assert max(took) < 0.5 * 2 + 1 * 2 + 2 * 2 + 4
    assert len(sandbox.requests) == sum(tries)
    with pytest.raises(ks.OutcomeUnknown) as of_callback:
        await ks.send_workflow_run_callback(session, run_id, "COMPLETED")
    assert of_callback.value.tries == 5
    sandbox.faults.clear()
    assert (await ks.list_ingestion_workflows(session)).total == 50
    sandbox.faults.add(Fault("status", status=502))
    with pytest.raises(ks.ServerError) as caught:
        await ks.list_ingestion_workflows(session)
    assert caught.value.tries == 5  # the first success gave the budget back


@pytest.mark.no_cover
@pytest.mark.parametrize(("calls", "most"), [(10_000, 1.01), (1_000, 1.04)])
async def test_in_an_outage_retries_hardly_add_to_the_load(calls, most):
    busy = http(b"{}", status="502 Bad Gateway")
    async with raw_server(answering(busy)) as server:
        clock = FakeClock(patience=30)
        async with ks.Session(KEY, server.base_url, clock=clock) as session:
            ids = [f"w-{number}" for number in range(calls)]
            async with ks.poll_workflow_statuses(session, ids, concurrency=100) as poll:
                results = [result async for result in poll]
            assert session.stats.requests <= most * calls
    assert len(results) == calls
    assert all(isinstance(result.error, ks.ServerError) for result in results)


@pytest.mark.no_cover
async def test_in_noise_nearly_all_come_through_at_little_cost():
    async with Sandbox(ingestions=100, seed=3, record=False) as sandbox:
        sandbox.faults.add(Fault("status", status=503, probability=0.1))
        ids = [item.workflow_id for item in sandbox.store.list(0, 100)[0]] * 20
        clock = FakeClock(patience=30)
        async with sandbox.session(clock=clock, chance=random.Random(5)) as session:
            async with ks.poll_workflow_statuses(session, ids) as poll:
                failed = [result async for result in poll if result.error]
            assert len(failed) <= 0.002 * len(ids)
            assert session.stats.requests <= 1.12 * len(ids)


@pytest.mark.no_cover
async def test_a_queue_is_not_a_timeout():
    async with Sandbox(ingestions=1, latency=0.05, record=False) as sandbox:
        workflow_id = sandbox.store.list(0, 1)[0][0].workflow_id
        async with sandbox.session(timeout=1, max_in_flight=25) as session:
            began = time.monotonic()
            calls = (ks.get_workflow_status(session, workflow_id) for _ in range(1000))
            await asyncio.gather(*calls)
            assert session.stats.requests == 1000
            assert time.monotonic() - began > 1.5


async def test_an_unreachable_server_is_a_connection_that_failed(clock):
    async with raw_server(answering(b"")) as server:
        pass
    async with ks.Session(KEY, server.base_url, clock=clock) as session:
        with pytest.raises(ks.ConnectionFailed) as caught:
            await ks.rerun_ingestion_workflow(session, "w-1")
    assert caught.value.tries == 5
    assert caught.value.safe_to_retry


def certificate(kind: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority, other = trustme.CA(), trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    host = "elsewhere.example" if kind == "of another host" else "127.0.0.1"
    expiry = {"not_after": trustme_past()} if kind == "expired" else {}
    authority.issue_cert(host, **expiry).configure_cert(server)
    (other if kind == "self-signed" else authority).configure_trust(client)
    return server, client


def trustme_past() -> Any:
    from datetime import UTC, datetime

    return datetime.now(UTC) - timedelta(days=1)


@pytest.mark.parametrize("kind", ["self-signed", "expired", "of another host"])
async def test_a_server_that_cant_prove_who_it_is_gets_nothing(kind):
    server_side, client_side = certificate(kind)
    async with Sandbox(ssl_context=server_side) as sandbox:
        async with sandbox.session(ssl=client_side) as session:
            with pytest.raises(ks.ConnectionFailed, match="TLS") as caught:
                await ks.list_ingestion_workflows(session)
        assert sandbox.requests == []
    assert caught.value.tries == 1
    assert "certificate" in caught.value.hint


async def test_a_late_answer_is_not_taken_for_the_next_ones(sandbox):
    first, second = ids_of(sandbox, "failed")[:2]
    late = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    for seconds in (None, 0.001):
        sandbox.faults.add(Fault("unsolicited", body=late, seconds=seconds, times=1))
    async with sandbox.session(clock=FakeClock(patience=2)) as session:
        for workflow_id in (first, second, first, second):
            assert (
                await ks.get_ingestion_workflow(session, workflow_id)
            ).workflow_id == workflow_id
            await asyncio.sleep(0.005)


async def test_an_idle_connection_on_which_something_came_is_not_used_again(clock):
    page = http(b'{"items": [], "total": 0, "page": 1, "page_size": 100}')
    writers = []

    async def answer(_reader: object, writer: asyncio.StreamWriter, _head: bytes) -> None:
        writers.append(writer)
        writer.write(page)

    async with raw_server(answer) as server:
        async with ks.Session(KEY, server.base_url, clock=clock) as session:
            await ks.list_ingestion_workflows(session)
            writers[0].write(page)
            pool = session._core.transport._pooled.connector._conns
            [(idle, _)] = next(iter(pool.values()))
            while not idle.should_close:
                await asyncio.sleep(0.001)
            await ks.list_ingestion_workflows(session)
        assert server.connections == 2


async def test_an_answer_about_something_else_is_asked_for_again_on_another_connection(sandbox):
    mine, other = ids_of(sandbox, "failed")[:2]
    mix_ups = [other, other]

    def mix_up(_request: object, body: Any) -> Any:
        return body | {"workflow_id": mix_ups.pop()} if mix_ups else body

    sandbox.rewrite_answer = mix_up
    async with sandbox.session(clock=FakeClock(patience=2)) as session:
        assert (await ks.get_ingestion_workflow(session, mine)).workflow_id == mine
        assert sandbox.connections == 3
        mix_ups.append(other)
        with pytest.raises(ks.OutcomeUnknown, match="not to this request"):
            await ks.rerun_ingestion_workflow(session, mine)


async def test_a_page_that_was_not_asked_for_is_asked_for_again(sandbox, session):
    wrong = [5]
    sandbox.rewrite_answer = lambda _r, body: body | {"page": wrong.pop()} if wrong else body
    assert (await ks.list_ingestion_workflows(session)).page == 1
    assert len(sandbox.requests) == 2


async def test_what_echoes_nothing_goes_on_a_connection_of_its_own(sandbox, session):
    await ks.list_ingestion_workflows(session)
    await ks.list_ingestion_workflows(session)
    assert sandbox.connections == 1
    await ks.send_workflow_run_callback(session, run_id_of(sandbox), "COMPLETED")
    await ks.delete_workflow_run(session, run_id_of(sandbox, "PENDING"))
    assert sandbox.connections == 3


async def test_a_404_after_a_delete_that_may_have_acted_counts_as_deleted(sandbox, session):
    run_id = run_id_of(sandbox, "PENDING")
    sandbox.faults.add(Fault("reset", when="after", times=1))
    await ks.delete_workflow_run(session, run_id)
    assert [request.status for request in sandbox.requests] == [None, 404]
    with pytest.raises(ks.NotFound):
        await ks.delete_workflow_run(session, run_id)


async def test_cookies_are_not_kept():
    page = http(b'{"items":[],"total":0,"page":1,"page_size":100}', headers="Set-Cookie: a=b\r\n")
    async with raw_server(answering(page)) as server:
        async with ks.Session(KEY, server.base_url.replace("127.0.0.1", "localhost")) as session:
            await ks.list_ingestion_workflows(session)
            await ks.list_ingestion_workflows(session)
    assert all(b"cookie" not in head.lower() for head in server.heads)


FAULTS_THAT_LAST = [
    Fault("silence"),
    Fault("slow"),
    Fault("stall_body"),
    Fault("informational"),
    Fault("status", status=503),
    Fault("status", status=503, retry_after=0.02),
    Fault("reset", when="before"),
    Fault("truncate", how="length"),
    Fault("latency", seconds=5),
    Fault("banner"),
]


@every_endpoint
@pytest.mark.parametrize("fault", FAULTS_THAT_LAST, ids=title)
async def test_a_call_with_a_deadline_ends_by_it_under_every_fault(endpoint, fault):
    async with Sandbox(ingestions=50) as sandbox:
        sandbox.faults.add(attrs.evolve(fault, route=endpoint.route))
        async with sandbox.session(deadline=0.05) as session:

            async def measure() -> float:
                began = time.monotonic()
                try:
                    await endpoint.call(session, sandbox)
                except ks.KnowledgeStackError as error:
                    assert isinstance(error, ks.RequestError)
                return time.monotonic() - began

            await assert_within(0.3, measure)


async def test_a_silent_server_ends_a_call_without_a_deadline_too(sandbox):
    sandbox.faults.add(Fault("silence"))
    async with sandbox.session(clock=FakeClock(patience=0.03)) as session:
        with pytest.raises(ks.ConnectionLost) as caught:
            await ks.list_ingestion_workflows(session)
    assert "no answer within 30 s" in caught.value.message
    assert caught.value.tries == 4


async def test_a_deadline_that_ends_the_try_of_a_rerun_leaves_it_unknown(sandbox):
    sandbox.faults.add(Fault("silence", effect=True))
    async with sandbox.session(deadline=0.03) as session:
        with pytest.raises(ks.OutcomeUnknown):
            await ks.rerun_ingestion_workflow(session, ids_of(sandbox, "failed")[0])
        with pytest.raises(ks.DeadlineExceeded):
            await ks.list_ingestion_workflows(session)


async def test_a_deadline_in_the_queue_says_that_nothing_was_sent(sandbox):
    sandbox.faults.add(Fault("silence"))
    async with sandbox.session(max_in_flight=1) as session:
        first = asyncio.create_task(ks.list_ingestion_workflows(session))
        await asyncio.sleep(0.005)
        with pytest.raises(ks.DeadlineExceeded, match="no slot") as caught:
            await ks.rerun_ingestion_workflow(session.with_options(deadline=0.02), "w-1")
        assert caught.value.tries == 0
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first


@pytest.mark.no_cover
async def test_cancelling_thousands_of_calls_brings_all_of_them_back():
    async with Sandbox(ingestions=1, record=False) as sandbox:
        for kind in ("silence", "stall_body", "slow"):
            sandbox.faults.add(Fault(kind, probability=0.3))
        sandbox.faults.add(Fault("status", status=503))
        async with sandbox.session(max_in_flight=60) as session:
            await ks_ignore(ks.list_ingestion_workflows(session.with_options(deadline=0.01)))
            level = len(asyncio.all_tasks())

            async def measure() -> float:
                status = ks.get_workflow_status
                calls = [asyncio.create_task(status(session, "w")) for _ in range(5000)]
                await asyncio.sleep(0.3)
                began = time.monotonic()
                for call in calls:
                    call.cancel()
                await asyncio.wait(calls)
                return time.monotonic() - began

            await assert_within(1, measure)
            await asyncio.sleep(0.02)
            assert session.stats.in_flight == 0
            assert session.stats.waiting == 0
            assert len(asyncio.all_tasks()) <= level + sandbox.max_in_flight


async def ks_ignore(work: Awaitable[Any]) -> None:
    with contextlib.suppress(ks.KnowledgeStackError):
        await work


async def test_a_retry_that_finds_no_slot_in_time_ends_with_what_was_known(sandbox):
    class Half:
        def random(self) -> float:
            return 0.1

    sandbox.faults.add(Fault("status", status=503, route="get_workflow_run", times=1))
    sandbox.faults.add(Fault("silence", route="list_ingestion_workflows"))
    async with sandbox.session(max_in_flight=1, chance=Half()) as session:
        hurried = session.with_options(deadline=0.2)
        mine = asyncio.create_task(ks.get_workflow_run(hurried, run_id_of(sandbox)))
        while not sandbox.requests:
            await asyncio.sleep(0.001)
        other = asyncio.create_task(ks.list_ingestion_workflows(session))
        with pytest.raises(ks.ServiceUnavailable, match="no slot came free"):
            await mine
        other.cancel()
        await asyncio.gather(other, return_exceptions=True)


async def test_garbage_on_a_connection_that_served_before_is_asked_about_again(sandbox, session):
    await ks.list_ingestion_workflows(session)
    sandbox.faults.add(Fault("garbage", body=b"{}", times=1))
    assert (await ks.list_ingestion_workflows(session)).total == 50
    assert sandbox.connections == 2
    sandbox.faults.add(Fault("garbage", body=b"{}"))
    with pytest.raises(ks.InvalidResponse):
        await ks.list_ingestion_workflows(session)


async def test_an_error_text_that_is_none_is_refused(session, sandbox):
    with pytest.raises(ks.ConfigurationError, match="error must be a str"):
        await ks.send_workflow_run_callback(session, run_id_of(sandbox), "FAILED", error=5)


async def test_a_session_tells_its_deadline(session):
    assert session.deadline is None
    assert session.with_options(deadline=2).deadline == 2


@pytest.mark.parametrize(
    "options", [{"status": 5}, {"position": [1]}, {"position": {"reach": "x"}}]
)
async def test_arguments_of_a_walk_that_make_no_sense_are_refused(session, options):
    with pytest.raises(ks.ConfigurationError):
        ks.iter_ingestion_workflows(session, **options)


async def test_the_first_error_of_many_works_ends_them_all():
    from knowledgestack_async._poller import run_bounded

    began = []

    async def work(number: int) -> None:
        began.append(number)
        await asyncio.sleep(0)
        raise LookupError(number)

    with pytest.raises(LookupError):
        await run_bounded((work(number) for number in range(9)), most=2)
    assert len(began) <= 3


async def test_a_refusal_that_is_cut_is_still_that_refusal():
    cut = b"HTTP/1.1 409 Conflict\r\nContent-Length: 90\r\nConnection: close\r\n\r\n{"

    async def answer(_reader, writer, _head) -> None:
        writer.write(cut)
        writer.close()

    async with raw_server(answer) as server, ks.Session(KEY, server.base_url) as session:
        with pytest.raises(ks.Conflict):
            await ks.rerun_ingestion_workflow(session, "w-1")
    assert len(server.heads) == 1
