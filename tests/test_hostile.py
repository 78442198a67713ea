"""Servers that mean no good, or that nobody foresaw: each call ends soon, small, and with no secret told."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import tracemalloc
from collections import Counter

import pytest
from test_secrets import shown

import knowledgestack_async as ks
from knowledgestack_async._responses import ERROR_LIMIT
from knowledgestack_async._wire import Secret
from knowledgestack_async.models import WorkflowStatusResponse
from knowledgestack_async.sandbox import Fault
from support import KEY, FakeClock, answering, http, ids_of, raw_server

STATUS = {
    "workflow_id": "w",
    "execution_status": "RUNNING",
    "start_time": "2026-07-01T12:00:00Z",
    "close_time": None,
}


def session_to(url, **options):
    options = {
        "dialect": "documented",
        "clock": FakeClock(),
        "retry": ks.RetryPolicy(tries=1),
    } | options
    return ks.Session(KEY, url, **options)


def packed(body):
    return http(body, headers="Content-Encoding: gzip\r\n")


# Bodies


async def test_a_body_in_several_compressed_pieces_is_read_whole():
    text = json.dumps(STATUS).encode()
    body = gzip.compress(text[:20]) + gzip.compress(text[20:])
    async with (
        raw_server(answering(packed(body))) as server,
        session_to(server.base_url) as session,
    ):
        assert (await ks.get_workflow_status(session, "w")).execution_status == "RUNNING"


@pytest.mark.parametrize(
    ("body", "error", "requests"),
    [
        (gzip.compress(json.dumps(STATUS).encode()) + b"x" * 9, ks.InvalidResponse, 1),
        (gzip.compress(json.dumps(STATUS).encode())[:-9], ks.ConnectionLost, 5),
        (gzip.compress(b"")[:-1], ks.ConnectionLost, 5),
    ],
    ids=["bytes behind it", "cut", "cut and empty"],
)
async def test_a_compressed_body_that_is_not_whole_or_not_alone_is_refused(body, error, requests):
    async with (
        raw_server(answering(packed(body))) as server,
        session_to(server.base_url, retry=ks.RetryPolicy()) as session,
    ):
        with pytest.raises(error, match=r"compressed|decompressed"):
            await ks.get_workflow_status(session, "w")
    assert len(server.heads) == requests


async def test_bytes_without_end_behind_a_compressed_body_are_not_taken_in(monkeypatch):
    limit = 2**16
    monkeypatch.setattr("knowledgestack_async._body.BODY_LIMIT", limit)
    empty = gzip.compress(b"")
    pieces = gzip.compress(json.dumps(STATUS).encode()) + empty * (limit // len(empty) + 1)
    async with (
        raw_server(answering(packed(pieces))) as server,
        session_to(server.base_url) as session,
    ):
        with pytest.raises(ks.InvalidResponse, match="the body is larger than"):
            await ks.get_workflow_status(session, "w")


async def test_the_body_of_an_error_is_not_parsed_beyond_reason():
    body = b'{"detail": [' + b"[]," * 2_000_000 + b"[]]}"
    assert len(body) > ERROR_LIMIT
    answer = http(body, status="403 No")
    async with raw_server(answering(answer)) as server, session_to(server.base_url) as session:
        tracemalloc.start()
        try:
            with pytest.raises(ks.Forbidden, match="detail"):
                await ks.get_workflow_status(session, "w")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 40 * 2**20


@pytest.mark.parametrize("extra", ["1" + "0" * 5_000, "1e999"])
async def test_an_odd_number_in_a_field_that_nobody_knows_harms_nothing(extra):
    body = json.dumps(STATUS)[:-1].encode() + b', "further": ' + extra.encode() + b"}"
    async with raw_server(answering(http(body))) as server, session_to(server.base_url) as session:
        status = await ks.get_workflow_status(session, "w")
    assert isinstance(status, WorkflowStatusResponse)
    assert set(status.extra) == {"further"}
    assert status.raw["workflow_id"] == "w"


# A key that the server repeats


def answers_with_the_key():
    spelt = KEY.replace("-", "\\u002d")
    with_key = json.dumps(STATUS | {"workflow_id": KEY})
    return {
        "request id, 404": http(
            b'{"detail": "no"}', status="404 Not Found", headers=f"x-request-id: {KEY}\r\n"
        ),
        "request id, 500": http(b"{}", status="500 Failed", headers=f"x-request-id: a-{KEY}-b\r\n"),
        "request id, 200": http(b"[]", headers=f"x-request-id: {KEY}\r\n"),
        "another id": http(with_key.encode()),
        "no time": http(json.dumps(STATUS | {"start_time": KEY}).encode()),
        "escaped": http(f'{{"detail": "{spelt}", "code": "{spelt}"}}'.encode(), status="403 No"),
        "no JSON": http(f"\\ {KEY}".encode(), status="403 No"),
        "fields": http(
            f'{{"detail": [{{"loc": ["{spelt}", 3], "msg": "{spelt}", "type": "{spelt}"}}]}}'.encode(),
            status="422 No",
        ),
    }


@pytest.mark.parametrize("kind", answers_with_the_key())
async def test_a_key_that_the_server_repeats_is_not_repeated(kind, caplog):
    caplog.set_level(logging.DEBUG)
    answer = answers_with_the_key()[kind]
    async with raw_server(answering(answer)) as server, session_to(server.base_url) as session:
        with pytest.raises(ks.RequestError) as caught:
            await ks.get_workflow_status(session, "w")
    assert KEY not in shown(caught.value)
    assert KEY not in caplog.text


async def test_a_key_of_a_function_that_the_server_repeats_is_not_repeated():
    answer = http(f'{{"detail": "{KEY} \\u00e9"}}'.encode(), status="403 No")
    async with raw_server(answering(answer)) as server:
        options = {"dialect": "documented", "clock": FakeClock()}
        async with ks.Session(lambda: KEY, server.base_url, **options) as session:
            with pytest.raises(ks.Forbidden, match=r"\[secret\] é") as caught:
                await ks.get_workflow_status(session, "w")
    assert KEY not in shown(caught.value)


async def test_a_key_among_the_headers_is_refused_and_not_shown():
    with pytest.raises(ks.ConfigurationError, match="give api_key instead") as caught:
        ks.Session("sk-user-other-key", headers={"Authorization": f"Bearer {KEY}"})
    assert KEY not in shown(caught.value)
    made = ks.Session("sk-user-other-key")
    with pytest.raises(ks.ConfigurationError) as caught:
        made.with_options(headers={"authorization": KEY})
    assert KEY not in shown(caught.value)


def test_a_short_key_cuts_no_word_of_ours_up():
    assert Secret("no").hide_in_text("no connection") == "no connection"
    assert Secret("sk-user-1").hide_in_text("a sk-user-1 b") == "a [secret] b"


# Servers that contradict themselves


async def test_a_server_whose_routes_come_and_go_is_not_asked_for_ever(sandbox):
    asked = Counter()

    missed = b""

    async def flip(_reader, writer, head):
        nonlocal missed
        method, path = head.split(b" ")[:2]
        prefix = path.split(b"/")[2]
        asked[method] += 1
        if b"document_versions?" in path and prefix != missed:
            # The list is always where the last call was not.
            place = {"limit": 1, "offset": 0} if b"limit" in path else {"page": 1, "page_size": 1}
            writer.write(http(json.dumps({"items": [], "total": 0} | place).encode()))
        else:
            missed = missed if b"document_versions?" in path else prefix
            writer.write(http(b'{"detail": "Not Found"}', status="404 Not Found"))

    async with raw_server(flip) as server, session_to(server.base_url, dialect="auto") as session:
        for call in (ks.get_ingestion_workflow, ks.rerun_ingestion_workflow):
            with pytest.raises(ks.RequestError):
                async with asyncio.timeout(5):
                    await call(session, "w")
    assert asked[b"POST"] <= 13  # each time the server said that it has no such route
    assert asked.total() < 40


async def test_a_small_retry_after_is_no_reason_to_use_up_all_tries_at_once(sandbox):
    clock = FakeClock()
    sandbox.faults.add(Fault("status", status=503, retry_after=0, times=4))
    async with sandbox.session(clock=clock) as session:
        await ks.get_workflow_status(session, ids_of(sandbox, "processing")[0])
    assert sum(clock.slept) > 0.5


async def test_one_endless_retry_after_is_no_end_of_the_session(sandbox):
    clock = FakeClock()
    id_ = ids_of(sandbox, "processing")[0]
    sandbox.faults.add(Fault("status", status=429, retry_after=10**12, times=1))
    async with sandbox.session(clock=clock) as session:
        with pytest.raises(ks.TooManyRequests) as caught:
            await ks.get_workflow_status(session, id_)
        assert caught.value.retry_after == 10**12
        with pytest.raises(ks.DeadlineExceeded, match="asked all callers to pause") as caught:
            await ks.get_workflow_status(session, id_)
        assert "Wait that long" in caught.value.hint
        clock.time += 3_601
        assert (await ks.get_workflow_status(session, id_)).workflow_id == id_


async def test_a_target_that_cant_be_made_costs_no_slot(session, monkeypatch):
    def broken(*_):
        raise OverflowError("date value out of range")

    monkeypatch.setattr("knowledgestack_async._dialects.Dialect.list_target", broken)
    for _ in range(30):
        with pytest.raises(OverflowError):
            await ks.list_ingestion_workflows(session)
    assert session.stats.in_flight == 0
