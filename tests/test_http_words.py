"""The words of HTTP as RFC 9110 has them: dates, numbers, names, codings, statuses, pages, proxies."""

from __future__ import annotations

import asyncio
import gzip
import json
import pickle
import re
import time
import zlib
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
from test_secrets import shown
from wire_examples import NUMBERED, RUN, STATUS, SUMMARY

import knowledgestack_async as ks
from knowledgestack_async._responses import read_retry_after
from knowledgestack_async.sandbox import Fault, Sandbox
from support import KEY, FakeClock, answering, http, ids_of, raw_server, run_id_of

FOUND = json.dumps({**STATUS, "workflow_id": "w"}).encode()
ACTION = json.dumps({"workflow_id": "w", "action": "rerun", "message": "m"}).encode()
CANCELLED = json.dumps({"workflow_id": "w", "message": "m"}).encode()
RUN_ID = RUN["id"]
HTML = b"<!doctype html><title>Log in</title><form>...</form>"


def session_to(server, **options):
    options = {"dialect": "documented", "clock": FakeClock()} | options
    return ks.Session(KEY, server.base_url, **options)


def answer(body=b"", *lines, status="200 OK", length=None, content_type="application/json"):
    """An answer with just these headers."""
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}"]
    if content_type is not None:
        head.append(f"Content-Type: {content_type}")
    return "\r\n".join([*head, *lines, "", ""]).encode() + body


@pytest.fixture(params=["UTC", "America/New_York", "Asia/Tokyo", "Asia/Kolkata"])
def zone(request, monkeypatch):
    """The machine's own time zone, which no date of HTTP is in."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


# Dates

NOON = datetime(2026, 7, 3, 12, 0, 0, tzinfo=UTC)
FORMS = {
    "IMF-fixdate": "%a, %d %b %Y %H:%M:%S GMT",
    "RFC 850": "%A, %d-%b-%y %H:%M:%S GMT",
    "asctime": "%a %b %e %H:%M:%S %Y",
    "no zone": "%a, %d %b %Y %H:%M:%S",
    "-0000": "%a, %d %b %Y %H:%M:%S -0000",
    "+0000": "%a, %d %b %Y %H:%M:%S +0000",
    "UTC": "%a, %d %b %Y %H:%M:%S UTC",
    "lower case": "%a, %d %b %Y %H:%M:%S gmt",
}


@pytest.mark.parametrize("form", FORMS)
def test_a_date_is_in_utc_whatever_its_form_and_the_machines_zone(zone, form):
    until = (NOON + timedelta(seconds=90)).strftime(FORMS[form])
    assert read_retry_after({"Retry-After": until}, NOON.timestamp()) == 90
    headers = {"Retry-After": until, "Date": NOON.strftime(FORMS["IMF-fixdate"])}
    assert read_retry_after(headers, 0.0) == 90
    other_way = {
        "Retry-After": (NOON + timedelta(seconds=90)).strftime(FORMS["IMF-fixdate"]),
        "Date": NOON.strftime(FORMS[form]),
    }
    assert read_retry_after(other_way, 0.0) == 90


def test_another_zone_than_utc_is_heeded_where_it_is_said(zone):
    headers = {"Retry-After": "Fri, 03 Jul 2026 14:01:30 +0200"}
    assert read_retry_after(headers, NOON.timestamp()) == 90


@pytest.mark.parametrize("form", ["-0000", "asctime", "no zone", "RFC 850"])
async def test_a_pause_until_a_date_is_as_long_as_the_server_said(zone, form):
    headers = (
        f"Retry-After: {(NOON + timedelta(seconds=20)).strftime(FORMS[form])}",
        f"Date: {NOON.strftime(FORMS['IMF-fixdate'])}",
    )
    clock = FakeClock()
    refusal = answer(b"{}", *headers, status="429 Slow Down")
    async with raw_server(answering(refusal, http(FOUND))) as server:
        async with session_to(server, clock=clock) as session:
            await ks.get_workflow_status(session, "w")
            assert 20 <= clock.time - 1000 < 30
            await ks.get_workflow_status(session, "w")
            assert clock.time - 1000 < 30
    assert len(server.heads) == 3


@pytest.mark.parametrize("form", ["-0000", "asctime", "no zone", "RFC 850"])
async def test_the_age_of_a_run_is_told_by_a_date_in_utc(zone, form):
    run = {
        **RUN,
        "started_at": (NOON - timedelta(seconds=10)).isoformat(),
        "run_snapshot": {**RUN["run_snapshot"], "max_run_duration_seconds": 60},
    }
    read = answer(json.dumps(run).encode(), f"Date: {NOON.strftime(FORMS[form])}")
    clock, spans = FakeClock(), []
    timeout = clock.timeout
    clock.timeout = lambda seconds: spans.append(seconds) or timeout(seconds)
    async with raw_server(answering(read, http(b'{"status": "accepted"}'))) as server:
        async with session_to(server, clock=clock) as session:
            assert await ks.run_with_limit(session, RUN_ID, lambda _: asyncio.sleep(0, "done"))
    assert 45 in spans  # 60 s, less 10 that are over and 5 of margin


# Numbers


@pytest.mark.parametrize(
    "text", ["1_000", "1_0", "١٢", "\uff11\uff12", "٣", "1_000.5", "²", "0x10", "1 000", "1,000"]
)
def test_only_ascii_digits_are_a_number(text):
    assert read_retry_after({"Retry-After": text}, NOON.timestamp()) is None


@pytest.mark.parametrize("text", ["1_000", "١٢٠٠"])
async def test_what_is_no_number_is_no_pause(text):
    clock = FakeClock()
    refusal = answer(b"{}", status="503 No").replace(
        b"\r\n\r\n", f"\r\nRetry-After: {text}\r\n\r\n".encode(), 1
    )
    async with raw_server(answering(refusal, http(FOUND))) as server:
        async with session_to(server, clock=clock) as session:
            await ks.get_workflow_status(session, "w")
    assert clock.time - 1000 < 100


# Names of headers


@pytest.mark.parametrize("name", ["retry-after", "RETRY-AFTER", "Retry-after", "rEtRy-aFtEr"])
async def test_a_pause_is_read_whatever_case_its_name_is_in(name):
    clock = FakeClock()
    refusal = answer(b"{}", f"{name}: 9", status="503 No")
    async with raw_server(answering(refusal, http(FOUND))) as server:
        async with session_to(server, clock=clock) as session:
            await ks.get_workflow_status(session, "w")
    assert clock.time - 1000 >= 9


@pytest.mark.parametrize(
    ("lines", "least", "most"),
    [
        (["Retry-After: 9", "Retry-After: 9"], 9, 12),
        (["Retry-After: 9", "retry-after: 20"], 9, 26),
        (["Retry-After: 9, 9"], 9, 12),
        (["Retry-After:", "Retry-After: 9"], 9, 12),
        (["Retry-After: soon", "Retry-After: 9"], 9, 12),
    ],
)
async def test_a_pause_that_is_said_twice_is_kept(lines, least, most):
    clock = FakeClock()
    refusal = answer(b"{}", *lines, status="429 No")
    async with raw_server(answering(refusal, http(FOUND))) as server:
        async with session_to(server, clock=clock) as session:
            await ks.get_workflow_status(session, "w")
    assert least <= clock.time - 1000 <= most


@pytest.mark.parametrize(
    "lines",
    [
        ["x-request-id: r-1"],
        ["X-REQUEST-ID: r-1"],
        ["X-Request-ID: r-1", "X-Request-ID: r-1"],
        ["X-Request-ID: r-1", "x-request-id: r-2"],
    ],
)
async def test_the_request_id_is_read_in_any_case_and_if_it_comes_twice(lines):
    async with raw_server(answering(answer(b"{}", *lines, status="404 No"))) as server:
        async with session_to(server) as session:
            with pytest.raises(ks.NotFound) as caught:
                await ks.get_workflow_status(session, "w")
    assert caught.value.request_id.startswith("r-1")


@pytest.mark.parametrize("name", ["content-encoding", "CONTENT-ENCODING"])
async def test_the_coding_is_read_whatever_case_its_name_is_in(name):
    body = gzip.compress(FOUND)
    async with raw_server(answering(answer(body, f"{name}: gzip"))) as server:
        async with session_to(server) as session:
            assert (await ks.get_workflow_status(session, "w")).workflow_id == "w"


# Content codings


def raw_deflate(body):
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


def with_name(body):
    """gzip as the command makes it, with a file's name and a comment in its head."""
    packed = bytearray(gzip.compress(body))
    packed[3] |= 0x08 | 0x10
    return bytes(packed[:10]) + b"page.json\0a comment\0" + bytes(packed[10:])


CODED = {
    "gzip": (gzip.compress, ["gzip"]),
    "x-gzip": (gzip.compress, ["x-gzip"]),
    "upper case": (gzip.compress, ["GZIP"]),
    "mixed case": (gzip.compress, ["X-GZip"]),
    "spaces": (gzip.compress, ["  gzip\t"]),
    "gzip with a name": (with_name, ["gzip"]),
    "gzip in two members": (lambda b: gzip.compress(b[:9]) + gzip.compress(b[9:]), ["gzip"]),
    "gzip with zero padding": (lambda b: gzip.compress(b) + bytes(16), ["gzip"]),
    "gzip padded to a block": (lambda b: gzip.compress(b).ljust(512, b"\0"), ["gzip"]),
    "gzip with an empty member": (lambda b: gzip.compress(b) + gzip.compress(b""), ["gzip"]),
    "deflate": (zlib.compress, ["deflate"]),
    "deflate without its head": (raw_deflate, ["deflate"]),
    "upper case deflate without its head": (raw_deflate, ["DEFLATE"]),
    "identity": (bytes, ["identity"]),
    "upper case identity": (bytes, ["IDENTITY"]),
    "empty": (bytes, [""]),
    "utf-8": (bytes, ["utf-8"]),
    "UTF-8": (bytes, ["UTF-8"]),
    "none": (bytes, ["none"]),
    "binary": (bytes, ["binary"]),
    "8bit": (bytes, ["8bit"]),
    "null": (bytes, ["null"]),
    "br, which it is not": (bytes, ["br"]),
    "aws-chunked": (bytes, ["aws-chunked"]),
    "gzip, identity": (gzip.compress, ["gzip, identity"]),
    "identity, gzip": (gzip.compress, ["identity, gzip"]),
    "gzip, utf-8": (gzip.compress, ["gzip, utf-8"]),
    "utf-8, gzip": (gzip.compress, ["utf-8, gzip"]),
    "gzip, gzip": (lambda b: gzip.compress(gzip.compress(b)), ["gzip, gzip"]),
    "gzip,gzip": (lambda b: gzip.compress(gzip.compress(b)), ["gzip,gzip"]),
    "deflate, gzip": (lambda b: gzip.compress(zlib.compress(b)), ["deflate, gzip"]),
    "gzip, deflate": (lambda b: zlib.compress(gzip.compress(b)), ["gzip, deflate"]),
    "gzip, deflate without its head": (
        lambda b: raw_deflate(gzip.compress(b)),
        ["gzip, deflate"],
    ),
    "empty elements of a list": (gzip.compress, [", gzip, ,"]),
    "gzip, then identity in a second header": (gzip.compress, ["gzip", "identity"]),
    "gzip twice, in two headers": (lambda b: gzip.compress(gzip.compress(b)), ["gzip", "gzip"]),
    "deflate, then gzip in a second header": (
        lambda b: gzip.compress(zlib.compress(b)),
        ["deflate", "gzip"],
    ),
    "identity in two headers": (bytes, ["identity", "identity"]),
}


def coded(body, case, **options):
    encode, headers = CODED[case]
    return answer(encode(body), *(f"Content-Encoding: {one}" for one in headers), **options)


@pytest.mark.parametrize("case", CODED)
async def test_a_body_is_read_in_any_legal_coding(case):
    async with raw_server(answering(coded(FOUND, case), coded(ACTION, case))) as server:
        async with session_to(server, retry=ks.RetryPolicy(tries=1)) as session:
            assert (await ks.get_workflow_status(session, "w")).execution_status == "RUNNING"
            assert (await ks.rerun_ingestion_workflow(session, "w")).action == "rerun"


@pytest.mark.parametrize("case", ["deflate without its head", "gzip, gzip", "none", "x-gzip"])
async def test_a_large_body_is_read_in_any_coding_piece_by_piece(case):
    items = [{**SUMMARY, "workflow_id": f"w-{n}", "error": "é" * 2_000} for n in range(90)]
    page = json.dumps({"items": items, **NUMBERED, "total": 90, "page_size": 100}).encode()
    async with raw_server(answering(coded(page, case))) as server:
        async with session_to(server, retry=ks.RetryPolicy(tries=1)) as session:
            assert len(await ks.iter_ingestion_workflows(session)) == 90


@pytest.mark.parametrize("case", ["gzip", "deflate without its head", "gzip, gzip", "none"])
async def test_the_body_of_an_error_is_read_in_any_coding(case):
    refusal = coded(b'{"detail": "no such thing"}', case, status="404 No")
    async with raw_server(answering(refusal)) as server:
        async with session_to(server) as session:
            with pytest.raises(ks.NotFound, match="no such thing"):
                await ks.get_workflow_status(session, "w")


UNREADABLE = {
    "no gzip": (FOUND, "gzip"),
    "broken gzip": (gzip.compress(FOUND)[:10] + b"\xff" * 20, "gzip"),
    "a wrong checksum": (gzip.compress(FOUND)[:-8] + b"\0" * 8, "gzip"),
    "no deflate": (FOUND, "deflate"),
    "gzip only once": (gzip.compress(FOUND), "gzip, gzip"),
    "real br": (b'\x0b\x02\x80{"a": 1}\x03' * 9, "br"),
    "real zstd": (b"\x28\xb5\x2f\xfd\x04\x00\x99", "zstd"),
    "bytes behind it": (gzip.compress(FOUND) + b"xx" * 9, "gzip"),
    "bytes behind deflate": (zlib.compress(FOUND) + b"xx" * 9, "deflate"),
    "codings without end": (FOUND, ", ".join(["gzip"] * 1_000)),
}


@pytest.mark.parametrize("case", UNREADABLE)
async def test_a_body_that_cant_be_decoded_is_no_lost_connection(case):
    body, coding = UNREADABLE[case]
    async with raw_server(answering(answer(body, f"Content-Encoding: {coding}"))) as server:
        async with session_to(server) as session:
            with pytest.raises(ks.InvalidResponse) as caught:
                await ks.get_workflow_status(session, "w")
    assert caught.value.status == 200


@pytest.mark.parametrize("case", UNREADABLE)
async def test_a_rerun_whose_answer_cant_be_decoded_is_accepted(case):
    body, coding = UNREADABLE[case]
    async with raw_server(answering(answer(body, f"Content-Encoding: {coding}"))) as server:
        async with session_to(server) as session:
            assert (await ks.rerun_ingestion_workflow(session, "w")).action is None
    assert len(server.heads) == 1


@pytest.mark.parametrize("status", ["404 No", "409 No", "422 No"])
async def test_a_refusal_whose_body_cant_be_decoded_is_still_that_refusal(status):
    refusal = answer(b"no gzip", "Content-Encoding: gzip", status=status)
    async with raw_server(answering(refusal)) as server:
        async with session_to(server) as session:
            with pytest.raises(ks.ResponseError) as caught:
                await ks.rerun_ingestion_workflow(session, "w")
    assert caught.value.status == int(status[:3])


# Statuses that nobody knows

LIKE_500 = [
    500,
    506,
    507,
    508,
    510,
    520,
    521,
    522,
    523,
    524,
    525,
    526,
    527,
    529,
    530,
    561,
    598,
    599,
]
NEVER = [501, 505, 511]


@pytest.mark.parametrize("status", LIKE_500)
async def test_a_read_is_sent_again_after_any_5xx_that_may_pass(sandbox, session, status):
    sandbox.faults.add(Fault("status", status=status, times=2))
    id_ = ids_of(sandbox, "processing")[0]
    assert (await ks.get_workflow_status(session, id_)).workflow_id == id_
    assert len(sandbox.requests) == 3


@pytest.mark.parametrize("status", [*LIKE_500, *NEVER])
async def test_a_5xx_that_does_not_pass_is_the_servers_error(sandbox, session, status):
    sandbox.faults.add(Fault("status", status=status, body={"detail": "said so"}))
    with pytest.raises(ks.ServerError, match="said so") as caught:
        await ks.get_workflow_status(session, "w")
    assert caught.value.status == status
    assert caught.value.tries == len(sandbox.requests) == (1 if status in NEVER else 5)


@pytest.mark.no_cover
@pytest.mark.parametrize("status", [*LIKE_500, *NEVER])
@pytest.mark.parametrize("way", ["rerun", "cancel"])
async def test_after_any_5xx_what_must_go_once_is_in_doubt(sandbox, session, status, way):
    sandbox.faults.add(Fault("status", status=status))
    with pytest.raises(ks.OutcomeUnknown) as caught:
        await ONCE[way](session, sandbox)
    assert (caught.value.status, caught.value.safe_to_retry) == (status, False)
    assert len(sandbox.requests) == 1


@pytest.mark.parametrize("status", [507, 520, 524, 529, 599])
@pytest.mark.parametrize("way", ["callback", "delete"])
async def test_after_any_5xx_what_may_go_twice_goes_again(sandbox, session, status, way):
    sandbox.faults.add(Fault("status", status=status, effect=True, times=1))
    await TWICE[way](session, sandbox)
    assert len(sandbox.requests) == 2


@pytest.mark.parametrize("status", [507, 520, 529])
async def test_walks_polls_and_waits_get_over_any_5xx(status):
    async with Sandbox(ingestions=300, api_key=KEY) as sandbox:
        sandbox.faults.add(Fault("status", status=status, probability=0.1))
        async with sandbox.session(clock=FakeClock(), retry=ks.RetryPolicy(tries=9)) as session:
            found = await ks.iter_ingestion_workflows(session, page_size=20)
            assert len(found) == 300
            ids = [item.workflow_id for item in found[:60]]
            polled = [result async for result in ks.poll_workflow_statuses(session, ids)]
            assert {result.error for result in polled} == {None}
            done = next(item.workflow_id for item in found if item.is_terminal)
            assert (await ks.wait_for_ingestion(session, done)).workflow_id == done


# Another server's page at 2xx

ONCE = {
    "rerun": lambda session, box: ks.rerun_ingestion_workflow(session, ids_of(box, "failed")[0]),
    "cancel": lambda session, box: ks.cancel_workflow(session, ids_of(box, "processing")[0]),
}
TWICE = {
    "callback": lambda session, box: ks.send_workflow_run_callback(
        session, run_id_of(box), "COMPLETED"
    ),
    "delete": lambda session, box: ks.delete_workflow_run(session, run_id_of(box, "PENDING")),
}
RAW_CALLS = {
    "rerun": lambda session: ks.rerun_ingestion_workflow(session, "w"),
    "cancel": lambda session: ks.cancel_workflow(session, "w"),
    "callback": lambda session: ks.send_workflow_run_callback(session, RUN_ID, "COMPLETED"),
    "delete": lambda session: ks.delete_workflow_run(session, RUN_ID),
    "request": lambda session: session.request("POST", "/v1/x", json={}),
    "request that may go twice": lambda session: session.request(
        "POST", "/v1/x", json={}, idempotent=True
    ),
}
GO_ONCE = ("rerun", "cancel", "request")
PAGES = {
    "HTML": answer(HTML, content_type="text/html"),
    "HTML with a charset": answer(HTML, content_type="text/html; charset=utf-8"),
    "HTML in upper case": answer(HTML, content_type="Text/HTML;Charset=UTF-8"),
    "XHTML": answer(b"<?xml version='1.0'?><html/>", content_type="application/xhtml+xml"),
    "XML": answer(b"<error/>", content_type="application/xml"),
    "text": answer(b"Service under maintenance", content_type="text/plain"),
    "HTML of no type": answer(HTML, content_type=None),
    "HTML of no type after a blank line": answer(b"\r\n  " + HTML, content_type=None),
    "packed HTML": answer(gzip.compress(HTML), "Content-Encoding: gzip", content_type="text/html"),
    "HTML at 201": answer(HTML, content_type="text/html", status="201 Created"),
    "HTML at 202": answer(HTML, content_type="text/html", status="202 Accepted"),
    "HTML at 203": answer(HTML, content_type="text/html", status="203 Non-Authoritative"),
    "HTML in chunks": (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"6\r\n<html>\r\n0\r\n\r\n"
    ),
    "an image": answer(b"GIF89a" + bytes(20), content_type="image/gif"),
}


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("way", GO_ONCE)
async def test_another_servers_page_is_no_acceptance(page, way):
    async with raw_server(answering(PAGES[page])) as server:
        async with session_to(server) as session:
            with pytest.raises(ks.OutcomeUnknown) as caught:
                await RAW_CALLS[way](session)
    assert not caught.value.safe_to_retry
    assert len(server.heads) == 1


@pytest.mark.no_cover
@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("way", ["callback", "delete", "request that may go twice"])
async def test_after_another_servers_page_what_may_go_twice_goes_again(page, way):
    good = answer(b"", status="204 No Content") if way == "delete" else http(b"{}")
    async with raw_server(answering(PAGES[page], good)) as server:
        async with session_to(server) as session:
            await RAW_CALLS[way](session)
    assert len(server.heads) == 2
    async with raw_server(answering(PAGES[page])) as server:
        async with session_to(server, retry=ks.RetryPolicy(tries=3)) as session:
            with pytest.raises(ks.OutcomeUnknown) as caught:
                await RAW_CALLS[way](session)
    assert caught.value.safe_to_retry
    assert caught.value.tries == len(server.heads) == 3


@pytest.mark.parametrize("page", PAGES)
async def test_another_servers_page_is_an_invalid_answer_to_a_read(page):
    async with raw_server(answering(PAGES[page])) as server:
        async with session_to(server) as session:
            for call in (
                ks.get_workflow_status(session, "w"),
                ks.list_ingestion_workflows(session),
                session.request("GET", "/v1/x"),
            ):
                with pytest.raises(ks.InvalidResponse):
                    await call


@pytest.mark.parametrize(
    ("error", "says"),
    [("text/html", "text/html"), ("text/plain", "text/plain")],
)
async def test_the_error_tells_what_came_in_place_of_an_answer(error, says):
    async with raw_server(answering(answer(HTML, content_type=error))) as server:
        async with session_to(server) as session:
            with pytest.raises(ks.OutcomeUnknown) as caught:
                await ks.rerun_ingestion_workflow(session, "w")
    assert says in str(caught.value) or "doctype" in str(caught.value)


@pytest.mark.parametrize(
    "cut",
    [
        answer(HTML, content_type="text/html", length=len(HTML) + 9),
        answer(HTML[:20], content_type="text/html", length=500),
    ],
    ids=["nearly whole", "cut"],
)
@pytest.mark.parametrize("ends", [True, False], ids=["closed", "silent"])
async def test_another_servers_page_that_is_cut_is_no_acceptance_either(cut, ends):
    async def script(_reader, writer, _head):
        writer.write(cut)
        if ends:
            writer.close()

    async with raw_server(script) as server:
        async with session_to(server, clock=FakeClock(patience=0.05)) as session:
            with pytest.raises(ks.OutcomeUnknown):
                await ks.rerun_ingestion_workflow(session, "w")
    assert len(server.heads) == 1


ACCEPTANCES = {
    "cut JSON": answer(ACTION[:20], length=20),
    "cut JSON, and closed": answer(ACTION[:20], "Connection: close", length=200),
    "empty": answer(b""),
    "empty, of no type": answer(b"", content_type=None),
    "empty, and called HTML": answer(b"", content_type="text/html"),
    "202": answer(b"", status="202 Accepted", content_type=None),
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "205": answer(b"", status="205 Reset Content", content_type=None),
    "JSON of another shape": answer(b'{"ok": true}'),
    "a JSON list": answer(b"[]"),
    "JSON that isn't UTF-8": answer(b'{"message": "\xff"}'),
    "JSON of another subtype": answer(b'{"cut', content_type="application/problem+json"),
    "JSON of a vendor's": answer(b'{"cut', content_type="application/vnd.ks.v2+json; v=2"),
    "cut JSON in upper case": answer(b'{"cut', content_type="APPLICATION/JSON; CHARSET=UTF-8"),
    "cut JSON of no type": answer(b'{"cut', content_type=None),
}


@pytest.mark.parametrize("acceptance", ACCEPTANCES)
@pytest.mark.parametrize("way", ["rerun", "cancel", "callback"])
async def test_a_success_of_the_apis_own_that_cant_be_read_is_accepted(acceptance, way):
    async def script(_reader, writer, _head):
        writer.write(ACCEPTANCES[acceptance])
        if b"close" in ACCEPTANCES[acceptance]:
            writer.close()

    async with raw_server(script) as server:
        async with session_to(server) as session:
            await RAW_CALLS[way](session)
    assert len(server.heads) == 1


@pytest.mark.parametrize("content_type", ["text/html", "text/plain", "application/octet-stream"])
async def test_an_answer_that_is_json_is_read_whatever_it_is_called(content_type):
    async with raw_server(
        answering(
            answer(FOUND, content_type=content_type), answer(ACTION, content_type=content_type)
        )
    ) as server:
        async with session_to(server) as session:
            assert (await ks.get_workflow_status(session, "w")).workflow_id == "w"
            assert (await ks.rerun_ingestion_workflow(session, "w")).action == "rerun"


def login_page(**options):
    """A page in place of an answer, from a server that the request never got past."""
    return Fault("status", status=200, body=HTML, headers={"Content-Type": "text/html"}, **options)


async def test_a_report_that_gets_a_page_is_not_delivered_and_stays_in_the_spool(
    sandbox, session, tmp_path
):
    page = sandbox.faults.add(login_page(method="POST"))
    run, spool = run_id_of(sandbox), tmp_path / "spool"
    async with ks.report_outcome(session, run, spool=spool) as outcome:
        pass
    assert (outcome.delivered, outcome.spooled) == (False, True)
    assert isinstance(outcome.problem, ks.OutcomeUnknown)
    left = await ks.deliver_spooled(session, spool)
    assert (left.delivered, left.gone, set(left.left)) == ((), (), {run})
    page.remove()
    assert (await ks.deliver_spooled(session, spool)).delivered == (run,)
    assert [effect.id for effect in sandbox.effects] == [run]


async def test_a_report_without_a_spool_that_gets_a_page_says_so(sandbox, session):
    sandbox.faults.add(login_page(method="POST"))
    with pytest.raises(ks.OutcomeUnknown) as caught:
        async with ks.report_outcome(session, run_id_of(sandbox)) as outcome:
            pass
    assert caught.value.safe_to_retry
    assert not outcome.delivered


@pytest.mark.parametrize("dialect", ["documented", "offset", "system-jobs"])
@pytest.mark.parametrize("wait", [False, True])
async def test_a_job_whose_reruns_get_a_page_counts_none_as_accepted(dialect, wait, tmp_path):
    box = Sandbox(
        ingestions=5, statuses={"failed": 1.0}, superseded=0, dialect=dialect, api_key=KEY
    )
    async with box as sandbox:
        sandbox.faults.add(login_page(method="POST"))
        retry = ks.RetryPolicy(tries=2)
        async with sandbox.session(clock=FakeClock(), dialect=dialect, retry=retry) as session:
            walk = ks.iter_ingestion_workflows(session)
            told = Counter()
            job = ks.rerun_ingestions(session, walk, journal=tmp_path / "j", wait=wait)
            try:
                async with asyncio.timeout(1), job:
                    async for outcome in job:
                        told[outcome.state] += 1
            except (TimeoutError, ks.KnowledgeStackError):
                pass
            assert job.progress.counts.get("accepted", 0) == 0
            assert told["accepted"] == 0
        assert sandbox.effects == []


# Answers whose body stalls


def stalling(head):
    async def script(_reader, writer, _head):
        writer.write(head)

    return script


def stalled(status, *lines, body=b"", length=100):
    return answer(body, *lines, status=status, length=length)


@pytest.mark.parametrize("body", [b"", ACTION[:9]], ids=["none of it", "some of it"])
@pytest.mark.parametrize("way", ["rerun", "cancel", "callback", "request"])
async def test_a_success_whose_body_stalls_is_accepted(way, body):
    async with raw_server(stalling(stalled("200 OK", body=body))) as server:
        async with session_to(server, clock=FakeClock(patience=0.05)) as session:
            done = await RAW_CALLS[way](session)
    assert len(server.heads) == 1
    assert getattr(done, "action", None) is None


async def test_a_success_in_chunks_that_never_end_is_accepted():
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    async with raw_server(stalling(head)) as server:
        async with session_to(server, clock=FakeClock(patience=0.05)) as session:
            assert (await ks.rerun_ingestion_workflow(session, "w")).workflow_id == "w"


async def test_a_deadline_that_ends_while_a_success_is_read_leaves_no_doubt():
    async with raw_server(stalling(stalled("200 OK"))) as server:
        async with session_to(server, clock=None, deadline=0.1) as session:
            assert (await ks.rerun_ingestion_workflow(session, "w")).workflow_id == "w"


STALLED_REFUSALS = {
    400: ks.BadRequest,
    401: ks.Unauthorized,
    403: ks.Forbidden,
    404: ks.NotFound,
    409: ks.Conflict,
    422: ks.UnprocessableEntity,
}


@pytest.mark.no_cover
@pytest.mark.parametrize("status", STALLED_REFUSALS)
@pytest.mark.parametrize("way", ["rerun", "cancel", "callback", "delete", "request"])
async def test_a_refusal_whose_body_stalls_is_that_refusal(way, status):
    async with raw_server(stalling(stalled(f"{status} No", body=b'{"det'))) as server:
        async with session_to(server, clock=FakeClock(patience=0.05)) as session:
            with pytest.raises(STALLED_REFUSALS[status]) as caught:
                await RAW_CALLS[way](session)
    assert caught.value.status == status
    assert len(server.heads) == 1


async def test_a_read_that_is_refused_with_a_body_that_stalls_has_that_error():
    async with raw_server(stalling(stalled("404 No"))) as server:
        async with session_to(server, clock=FakeClock(patience=0.05)) as session:
            with pytest.raises(ks.NotFound) as caught:
                await ks.get_workflow_status(session, "w")
    assert not caught.value.names_it
    assert len(server.heads) == 1


@pytest.mark.parametrize("status", [429, 503])
async def test_a_pause_is_kept_though_the_body_that_asks_for_it_stalls(status):
    clock = FakeClock(patience=0.05, once=True)
    left = [stalled(f"{status} No", "Retry-After: 40"), http(ACTION)]

    async def script(_reader, writer, _head):
        writer.write(left.pop(0))

    async with raw_server(script) as server:
        async with session_to(server, clock=clock) as session:
            assert (await ks.rerun_ingestion_workflow(session, "w")).action == "rerun"
    assert any(slept >= 40 for slept in clock.slept)


@pytest.mark.parametrize("status", [500, 502, 520])
async def test_a_failure_whose_body_stalls_leaves_a_rerun_in_doubt(status):
    async with raw_server(stalling(stalled(f"{status} No"))) as server:
        async with session_to(server, clock=FakeClock(patience=0.05)) as session:
            with pytest.raises(ks.OutcomeUnknown) as caught:
                await ks.rerun_ingestion_workflow(session, "w")
    assert caught.value.status == status


async def test_a_read_whose_body_stalls_is_sent_again():
    clock = FakeClock(patience=0.05, once=True)
    left = [stalled("200 OK"), http(FOUND)]

    async def script(_reader, writer, _head):
        writer.write(left.pop(0))

    async with raw_server(script) as server:
        async with session_to(server, clock=clock) as session:
            assert (await ks.get_workflow_status(session, "w")).workflow_id == "w"


# Proxies

SECRET = "proxy-canary-0b1"


def proxied(proxy, **options):
    host = proxy.base_url.removeprefix("http://")
    options = {"proxy": f"http://agent:{SECRET}@{host}", "clock": FakeClock()} | options
    return host, ks.Session(KEY, "https://ks.example.com", dialect="documented", **options)


@pytest.mark.parametrize("status", [400, 403, 404, 407, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("way", ["rerun", "callback"])
async def test_a_proxy_that_lets_nothing_through_is_named_and_nothing_was_sent(status, way):
    async with raw_server(answering(answer(HTML, status=f"{status} No"))) as proxy:
        host, session = proxied(proxy)
        async with session:
            with pytest.raises(ks.ConnectionFailed) as caught:
                await RAW_CALLS[way](session)
    told = str(caught.value)
    assert host in told
    assert "proxy" in told
    assert str(status) in told
    assert SECRET not in told + shown(caught.value)
    assert caught.value.safe_to_retry
    assert all(head.startswith(b"CONNECT ks.example.com:443 ") for head in proxy.heads)


@pytest.mark.parametrize("status", [403, 407])
async def test_a_proxy_that_says_no_is_not_asked_again(status):
    async with raw_server(answering(answer(HTML, status=f"{status} No"))) as proxy:
        _, session = proxied(proxy)
        async with session:
            with pytest.raises(ks.ConnectionFailed) as caught:
                await ks.get_workflow_status(session, "w")
    assert caught.value.tries == len(proxy.heads) == 1


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_proxy_that_cant_now_is_asked_again(status):
    async with raw_server(answering(answer(HTML, status=f"{status} No"))) as proxy:
        _, session = proxied(proxy, retry=ks.RetryPolicy(tries=3))
        async with session:
            with pytest.raises(ks.ConnectionFailed) as caught:
                await ks.rerun_ingestion_workflow(session, "w")
    assert caught.value.tries == len(proxy.heads) == 3


async def test_a_proxy_that_is_down_is_named_and_not_the_server():
    async with raw_server(answering(b"")) as proxy:
        pass
    host, session = proxied(proxy)
    async with session:
        with pytest.raises(ks.ConnectionFailed, match=rf"no connection to .*{host}") as caught:
            await ks.get_workflow_status(session, "w")
    assert "proxy" in str(caught.value)
    assert "no connection to ks.example.com" not in str(caught.value)
    assert SECRET not in str(caught.value) + shown(caught.value)


async def test_a_proxy_that_speaks_no_http_is_named():
    async with raw_server(answering(b"SSH-2.0-OpenSSH_9.6\r\n")) as proxy:
        host, session = proxied(proxy, retry=ks.RetryPolicy(tries=1))
        async with session:
            with pytest.raises(ks.ConnectionFailed, match="proxy") as caught:
                await ks.rerun_ingestion_workflow(session, "w")
    assert host in str(caught.value)


async def test_a_proxy_that_hangs_leaves_no_rerun_in_doubt():
    async with raw_server(stalling(b"")) as proxy:
        _, session = proxied(proxy, clock=FakeClock(patience=0.05), retry=ks.RetryPolicy(tries=1))
        async with session:
            with pytest.raises((ks.ConnectionFailed, ks.DeadlineExceeded)):
                await ks.rerun_ingestion_workflow(session, "w")


async def test_a_proxy_of_a_plain_connection_that_wants_a_password_is_told_as_such():
    async with raw_server(answering(answer(HTML, status="407 No"))) as proxy:
        async with ks.Session(
            KEY, "http://127.0.0.1:9", proxy=proxy.base_url, clock=FakeClock()
        ) as session:
            with pytest.raises(ks.RequestError, match="proxy") as caught:
                await ks.get_workflow_status(session, "w")
    assert caught.value.status == 407
    assert len(proxy.heads) == 1


async def test_a_proxy_of_the_users_own_aiohttp_session_is_told_as_such():
    async with raw_server(answering(answer(HTML, status="407 No"))) as proxy:
        async with aiohttp.ClientSession(proxy=proxy.base_url) as mine:
            async with ks.Session(
                KEY, "https://ks.example.com", client_session=mine, clock=FakeClock()
            ) as session:
                with pytest.raises(ks.ConnectionFailed, match=r"proxy.*407|407.*proxy"):
                    await ks.rerun_ingestion_workflow(session, "w")
    assert len(proxy.heads) == 1


# What can't be understood is said


@pytest.mark.parametrize(
    "lines",
    [
        [f"X-Large: {'x' * 9_000}"],
        [f"Set-Cookie: a={'x' * 100_000}"],
        [f"X-Many-{n}: {n}" for n in range(300)],
    ],
    ids=["a large one", "a huge one", "many"],
)
@pytest.mark.parametrize("way", ["read", "rerun"])
async def test_headers_that_are_too_large_are_said_to_be(lines, way):
    body = ACTION if way == "rerun" else FOUND
    async with raw_server(answering(answer(body, *lines))) as server:
        async with session_to(server, retry=ks.RetryPolicy(tries=1)) as session:
            call = ks.rerun_ingestion_workflow if way == "rerun" else ks.get_workflow_status
            with pytest.raises(ks.RequestError, match="header") as caught:
                await call(session, "w")
    assert re.search(r"large|long|many", str(caught.value))
    assert "not HTTP" not in str(caught.value)


@pytest.mark.parametrize(
    "lines", [[f"X-Large: {'x' * 7_000}"], [f"X-Many-{n}: {n}" for n in range(100)]]
)
async def test_headers_of_a_usual_size_are_read(lines):
    async with raw_server(answering(answer(FOUND, *lines))) as server:
        async with session_to(server) as session:
            await ks.get_workflow_status(session, "w")


@pytest.mark.parametrize("tries", [1, 3])
async def test_https_to_a_port_that_speaks_plain_http_is_said_to_be_that(tries):
    async with Sandbox(api_key=KEY) as sandbox:
        url = sandbox.base_url.replace("http:", "https:")
        options = {"clock": FakeClock(), "retry": ks.RetryPolicy(tries=tries)}
        async with ks.Session(KEY, url, **options) as session:
            with pytest.raises(ks.ConnectionFailed) as caught:
                await ks.list_ingestion_workflows(session)
    told = str(caught.value)
    assert "prove who it is" not in told
    assert "certificate" not in told
    assert re.search(r"plain|doesn't speak TLS|no TLS|not TLS|http://", told)
    assert caught.value.tries == 1


# The headers of an answer to a request of the user's own

LINES = [
    "X-Request-ID: r-1",
    "ETag: abc",
    "x-total-count: 7",
    "Link: </a>; rel=next",
    "Link: </b>; rel=last",
    "LINK: </c>; rel=first",
]


@pytest.fixture
async def raw_response():
    async with raw_server(answering(answer(b"{}", *LINES))) as server:
        async with session_to(server) as session:
            yield await session.request("GET", "/v1/x")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Request-ID", "r-1"),
        ("x-request-id", "r-1"),
        ("ETag", "abc"),
        ("Etag", "abc"),
        ("X-Total-Count", "7"),
        ("content-type", "application/json"),
        ("CONTENT-TYPE", "application/json"),
    ],
)
async def test_headers_are_found_in_any_case(raw_response, name, value):
    assert raw_response.headers[name] == value
    assert raw_response.headers.get(name) == value
    assert name in raw_response.headers
    assert isinstance(raw_response.headers, Mapping)


async def test_headers_that_come_several_times_are_all_kept(raw_response):
    links = ", ".join(v for k, v in raw_response.headers.items() if k.lower() == "link")
    assert [part in links for part in ("</a>", "</b>", "</c>")] == [True] * 3


async def test_a_missing_header_is_a_key_error(raw_response):
    assert raw_response.headers.get("X-None") is None
    with pytest.raises(KeyError):
        raw_response.headers["X-None"]


async def test_an_answer_of_the_users_own_still_pickles_and_compares(raw_response):
    again = pickle.loads(pickle.dumps(raw_response))
    assert again == raw_response
    assert again.headers["x-request-id"] == "r-1"
    assert (again.status, again.json) == (200, {})


async def test_an_empty_answer_of_the_users_own_is_none():
    async with raw_server(answering(answer(b"", "X-A: b"))) as server:
        async with session_to(server) as session:
            done = await session.request("POST", "/v1/x")
    assert (done.status, done.json, done.headers["x-a"]) == (200, None, "b")
