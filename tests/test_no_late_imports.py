"""What goes wrong once a session is open is told, and got over, without importing anything.

Descriptors may be used up by then, or the package may be gone from the disk: an upgrade in place, a
frozen program's folder, rights that were dropped. Each case is a program of its own, for in this one
nearly every module is there already.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
import sys
import zlib
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trustme
from wire_examples import CURRENT_RUN, DETAIL, NUMBERED, RUN, STATUS, SUMMARY

from knowledgestack_async.sandbox import Fault, Sandbox
from support import answering, http, raw_server

KEY = "sk-user-imports"
CHILD = Path(__file__).with_name("imports_child.py")
FOUND = json.dumps({**STATUS, "workflow_id": "w-1"}).encode()


async def run_child(*cases):
    """What the program makes of some cases, and what it tried to import in each."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", CHILD, json.dumps(cases)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), 45)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode == 0, err.decode()
    return json.loads(out)


# What the server does, and what the program should make of it


def by_route(answers, *, fails=None, times=1):
    """A script that answers by method and path; the first times with something else."""
    left = [times]

    async def script(_reader, writer, head):
        if fails is not None and left[0] > 0:
            left[0] -= 1
            writer.write(fails)
            return
        method, path = head.decode().split(" ")[:2]
        for start, body in answers.items():
            if f"{method} {path}".startswith(start):
                writer.write(body if body.startswith(b"HTTP") else http(body))
                return
        writer.write(http(b'{"detail": "Not Found"}', status="404 Not Found"))

    return script


SUMMARY_1 = {**SUMMARY, "workflow_id": "w-1", "created_at": "2026-05-01T10:00:00"}
KINDS = by_route(
    {
        "GET /v1/workflows/document_versions?": json.dumps(
            {"items": [SUMMARY_1, {**SUMMARY_1, "later": 1}], **NUMBERED, "total": 2}
        ).encode(),
        "GET /v1/workflows/document_versions/": json.dumps(
            {**DETAIL, **SUMMARY_1, "start_time": "2026-05-01T10:00:00.1234567"}
        ).encode(),
        "GET /v1/workflows/": FOUND.replace(b"Z", b""),
        "GET /v1/workflow-runs/": json.dumps({**RUN, "further": [1]}).encode(),
    }
)
READ = {"GET /v1/workflows/": FOUND}
ACTED = by_route(
    {
        "POST /v1/workflows/": b'{"workflow_id": "w-1", "action": "rerun", "message": "m"}',
        "DELETE /v1/workflows/": b'{"workflow_id": "w-1", "message": "m"}',
        "POST /v1/workflow-runs/": b'{"status": "accepted"}',
        "DELETE /v1/workflow-runs/": b"HTTP/1.1 204 No Content\r\n\r\n",
        "POST /v1/x": b"",
        "GET /v1/x": b"{}",
    }
)
ACTIONS = [
    *("WorkflowActionResponse", "WorkflowCancelResponse", "WorkflowCallbackResponse", "NoneType"),
    *("RawResponse", "RawResponse"),
]


def packed(body, coding):
    return http(body, headers=f"Content-Encoding: {coding}\r\n")


def dated(form):
    """Come again at once: a date, and the server's own, in one of the three forms."""
    headers = f"Retry-After: {form}\r\nDate: {form}\r\n"
    return http(b"{}", status="503 No", headers=headers)


FIELDS = b'{"detail": [{"loc": ["query", "page"], "msg": "no", "type": "t"}]}'
OK, LOST = ["WorkflowStatusResponse"], ["ConnectionLost"]
RAW = {
    "503": ("read", by_route(READ, fails=http(b"{}", status="503 No")), OK),
    "429": ("read", by_route(READ, fails=http(b"{}", status="429 No")), OK),
    "500 for ever": ("read", answering(http(b"{}", status="500 No")), ["ServerError"]),
    "503 for ever": ("read", answering(http(b"{}", status="503 No")), ["ServiceUnavailable"]),
    "520": ("read", answering(http(b"{}", status="520 No")), ["ServerError"]),
    "400": ("read", answering(http(b'{"detail": "\xc3\xa9"}', status="400 No")), ["BadRequest"]),
    "404": ("read", answering(http(b'{"detail": "gone"}', status="404 No")), ["NotFound"]),
    "422": ("read", answering(http(FIELDS, status="422 No")), ["UnprocessableEntity"]),
    "429 quota": (
        "read",
        answering(http(b'{"code": "quota_exceeded"}', status="429 No")),
        ["QuotaExceeded"],
    ),
    "Retry-After, fixdate": (
        "read",
        by_route(READ, fails=dated("Fri, 01 May 2026 10:00:00 GMT"), times=2),
        OK,
    ),
    "Retry-After, RFC 850": (
        "read",
        by_route(READ, fails=dated("Friday, 01-May-26 10:00:00 GMT"), times=2),
        OK,
    ),
    "Retry-After, asctime": (
        "read",
        by_route(READ, fails=dated("Fri May  1 10:00:00 2026"), times=2),
        OK,
    ),
    "redirect": (
        "read",
        answering(http(b"", status="302 Found", headers="Location: /x\r\n")),
        ["InvalidResponse"],
    ),
    "HTML": (
        "read",
        answering(http(b"<html>").replace(b"application/json", b"text/html")),
        ["InvalidResponse"],
    ),
    "a wrong type": (
        "read",
        answering(http(FOUND.replace(b'"RUNNING"', b"7"))),
        ["InvalidResponse"],
    ),
    "a number of 5,000 digits": (
        "read",
        answering(http(FOUND[:-1] + b', "n": ' + b"9" * 5_000 + b"}")),
        OK,
    ),
    "not UTF-8": ("read", answering(http(b'"\xff"')), ["InvalidResponse"]),
    "another's answer": ("read", answering(http(FOUND.replace(b"w-1", b"w-2"))), None),
    "gzip": ("read", answering(packed(gzip.compress(FOUND), "gzip")), OK),
    "deflate": ("read", answering(packed(zlib.compress(FOUND), "deflate")), OK),
    "no gzip": ("read", answering(packed(FOUND, "gzip")), None),
    "br": ("read", answering(packed(b"\x8b\x01\x80{}\x03", "br")), None),
    "a cut body": ("read", answering(http(FOUND)[:-5]), None),
    "no HTTP": ("read", answering(b"SSH-2.0-OpenSSH_9.6\r\n"), None),
    "a large header": (
        "read",
        answering(http(FOUND, headers=f"X-Large: {'x' * 20_000}\r\n")),
        None,
    ),
    "chunks": (
        "read",
        answering(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(FOUND), FOUND)
        ),
        OK,
    ),
    "all kinds": (
        "read_all_kinds",
        KINDS,
        [
            *("WorkflowStatusResponse", "WorkflowDetailResponse", "WorkflowRunResponse"),
            "PaginatedResponse",
        ],
    ),
    "actions": ("act", ACTED, ACTIONS),
    "actions that get HTML": (
        "act",
        answering(http(b"<html>").replace(b"application/json", b"text/html")),
        None,
    ),
    "actions that fail": ("act", answering(http(b"{}", status="502 No")), None),
    "wrong arguments": ("be_wrong", answering(b""), ["ConfigurationError"]),
    "a later generation's run": (
        "work",
        by_route(
            {
                "GET /v1/workflow-runs/": json.dumps(CURRENT_RUN).encode(),
                "POST /v1/workflow-runs/": b'{"status": "accepted"}',
            },
            fails=http(b"{}", status="503 No"),
        ),
        ["ValueError"],
    ),
    "a report that fails first": (
        "report",
        by_route(
            {"POST /v1/workflow-runs/": b'{"status": "accepted"}'},
            fails=http(b"{}", status="503 No"),
        ),
        [["COMPLETED", True, False], ["COMPLETED", True, False], 0],
    ),
    "a report that is refused": (
        "report",
        answering(http(b'{"detail": "no"}', status="403 No")),
        [["COMPLETED", False, True], ["COMPLETED", False, True], 1],
    ),
}


def must_be(done, expected):
    """Each case came to what is expected, if something is (else to no bare error), and imported nothing."""
    assert done.keys() == expected.keys()
    assert {name: late for name, (_, late) in done.items() if late} == {}
    assert {name: found for name, (found, _) in done.items() if "bare" in str(found)} == {}
    known = {name: found for name, found in expected.items() if found is not None}
    assert {name: done[name][0] for name in known} == known


async def test_what_a_server_answers_needs_no_further_module(tmp_path):
    async with AsyncExitStack() as stack:
        cases = []
        for number, (name, (scenario, script, _)) in enumerate(RAW.items()):
            server = await stack.enter_async_context(raw_server(script))
            cases.append((name, scenario, server.base_url, place_in(tmp_path, number), None))
        done = await run_child(*cases)
    must_be(done, {name: expected for name, (_, _, expected) in RAW.items()})


def place_in(folder, number):
    """A folder of a case's own."""
    place = folder / str(number)
    place.mkdir()
    return str(place)


BOXES = {
    "reset": ("read", Fault("reset", times=1), ["NotFound"]),
    "close": ("read", Fault("close", times=1), ["NotFound"]),
    "reset for ever": ("read", Fault("reset"), LOST),
    "silence": ("read", Fault("silence"), LOST),
    "a body that stalls": ("read", Fault("stall_body"), None),
    "a cancellation, and closing": (
        "be_cancelled",
        Fault("silence"),
        ["OutcomeUnknown", "SessionError"],
    ),
    "a walk": ("walk", Fault("status", status=503, times=3, after=2), [True, 30, True]),
    "a poll": (
        "poll",
        Fault("status", status=502, times=3, after=2),
        ["NotFound", "WorkflowStatusResponse"],
    ),
    "a watch": (
        "watch",
        Fault("reset", times=2, after=1),
        ["MISSING", "STATUS", "WorkflowDetailResponse", "NotFound"],
    ),
    "a job": ("rerun_many", Fault("status", status=503, probability=0.2), [60, ["accepted"]]),
}


@pytest.mark.no_cover
async def test_what_goes_wrong_on_the_way_needs_no_further_module(tmp_path):
    async with AsyncExitStack() as stack:
        cases = []
        for number, (name, (scenario, fault, _)) in enumerate(BOXES.items()):
            box = await stack.enter_async_context(Sandbox(ingestions=200, api_key=KEY))
            box.faults.add(fault)
            cases.append((name, scenario, box.base_url, place_in(tmp_path, number), None))
        done = await run_child(*cases)
    must_be(done, {name: expected for name, (_, _, expected) in BOXES.items()})


async def test_finding_out_the_generation_needs_no_further_module(tmp_path):
    async with Sandbox(dialect="documented", api_key=KEY) as sandbox:
        sandbox.before_request = lambda _request: (
            len(sandbox.requests) > 1 and sandbox.switch_dialect("system-jobs")
        )
        done = await run_child(("moved", "follow_route", sandbox.base_url, str(tmp_path), None))
    assert done == {"moved": [["WorkflowDetailResponse", "system-jobs", "NotFound"], []]}


@asynccontextmanager
async def a_proxy(kind):
    if kind == "down":
        async with raw_server(answering(b"")) as server:
            pass
        yield server.base_url
    else:
        async with raw_server(answering(http(b"{}", status=f"{kind} No"))) as server:
            yield server.base_url


UNREACHED = ["127.0.0.1", "localhost", "no-such-host.invalid", "untrusted", "no TLS"]
PROXIES = ["down", "407", "502", "no HTTP"]


async def test_a_server_that_cant_be_reached_needs_no_further_module():
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(server_side)

    async with AsyncExitStack() as stack:
        async with raw_server(answering(b"")) as gone:
            port = gone.base_url.rpartition(":")[2]
        untrusted = Sandbox(ssl_context=server_side, api_key=KEY)
        plain = await stack.enter_async_context(Sandbox(api_key=KEY))
        urls = [
            f"http://127.0.0.1:{port}",
            f"http://localhost:{port}",
            f"https://no-such-host.invalid:{port}",
            (await stack.enter_async_context(untrusted)).base_url,
            plain.base_url.replace("http:", "https:"),
        ]
        cases = [(name, "read", url, "", None) for name, url in zip(UNREACHED, urls, strict=True)]
        for kind in PROXIES:
            proxy = await stack.enter_async_context(a_proxy(kind))
            cases.append((f"proxy: {kind}", "read", "https://ks.example.com", "", proxy))
        done = await run_child(*cases)
    must_be(done, {name: ["ConnectionFailed"] for name, *_ in cases})


# No descriptors left

SOUND = {"WorkflowStatusResponse", "list", "ConnectionFailed", "ConnectionLost"}
needs_limits = pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")


@pytest.mark.no_cover
@needs_limits
async def test_where_descriptors_are_used_up_all_that_comes_is_a_result_or_one_of_our_errors():
    async with Sandbox(ingestions=100, api_key=KEY) as sandbox:
        sandbox.faults.add(Fault("latency", seconds=0.02))
        done = await run_child(("short", "shortage", sandbox.base_url, "", None))
    found, _ = done["short"]
    assert "bare" not in str(found)
    assert found[0] == 100
    assert {"WorkflowStatusResponse"} <= set(found[1]) <= SOUND


@pytest.mark.no_cover
@needs_limits
async def test_where_descriptors_are_used_up_a_job_ends_with_an_outcome_for_each(tmp_path):
    async with Sandbox(
        ingestions=40, statuses={"failed": 1.0}, superseded=0, api_key=KEY
    ) as sandbox:
        sandbox.faults.add(Fault("latency", seconds=0.02, method="POST"))
        case = ("short", "shortage_in_a_job", sandbox.base_url, str(tmp_path), None)
        done = await run_child(case)
    assert done["short"][0] == [True, ["ACCEPTED"]]
