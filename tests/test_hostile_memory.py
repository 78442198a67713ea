"""Small bodies that become large objects: each call is bounded in memory, and leaves the loop to others."""

from __future__ import annotations

import asyncio
import copy
import functools
import gzip
import json
import os
import pickle
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from wire_examples import (
    CURRENT_DETAIL,
    CURRENT_RUN,
    CURRENT_SUMMARY,
    DETAIL,
    NUMBERED,
    OFFSET,
    RUN,
    STATUS,
    SUMMARY,
)

import knowledgestack_async as ks
from knowledgestack_async._body import BODY_LIMIT
from knowledgestack_async.sandbox import Sandbox
from support import KEY, FakeClock, answering, http, ids_of, raw_server

CHILD = Path(__file__).with_name("hostile_child.py")
MIB = 2**20
MOST = 60 * MIB
LONGEST = 0.1
"""Seconds of this thread's own work between two turns of the loop."""
FULL = BODY_LIMIT - MIB // 4

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
ID, RUN_ID = "w-1", RUN["id"]


@functools.cache
def repeated(piece, *, head=b"[", tail=b"]", size=FULL):
    """A body of a size that is one piece again and again, packed."""
    count = size // (len(piece) + 1)
    return gzip.compress(head + (piece + b",") * (count - 1) + piece + tail, 1)


def beside(wire, piece, name="further", size=FULL):
    """A sound object, and beside its fields one that nobody knows."""
    head = json.dumps(wire).encode()[:-1] + f', "{name}": ['.encode()
    return repeated(piece, head=head, tail=b"]}", size=size)


PIECES = {
    "objects": b"{}",
    "numbers": b"0",
    "fractions": b"1.5",
    "texts": b'"aa"',
    "objects with a field": b'{"a":0}',
    "nested lists": b"[[[[]]]]",
}
WITHIN = {"objects": 99_000, "objects with a field": 99_000, "nested lists": 24_000}


def within(name):
    """As many pieces as a body may hold."""
    count = WITHIN.get(name, 495_000)
    return repeated(PIECES[name], size=count * (len(PIECES[name]) + 1))


_SOUND = json.dumps(SUMMARY).encode()
PAGE = {"total": 10**6, "page": 1, "page_size": 100}
STATUS_1 = {**STATUS, "workflow_id": ID}
DETAIL_1 = {**DETAIL, "workflow_id": ID}
ACTION_1 = {"workflow_id": ID, "action": "rerun", "message": "m"}
WITHOUT = {key: value for key, value in CURRENT_RUN.items() if key != "run_snapshot"}
INPUTS = json.dumps(WITHOUT).encode()[:-1] + b', "run_snapshot": {"inputs": ['
ITEMS = json.dumps(PAGE).encode()[:-1] + b', "items": ['


def bodies():
    """Packed answers of success, and the calls that they are for; made where they are used, for it takes long."""
    return {
        "list: items that are none": (repeated(b"{}", head=ITEMS, tail=b"]}"), "list"),
        "list: beside its fields": (beside({**PAGE, "items": []}, b"{}"), "list"),
        "walk: items that are none": (repeated(b"{}", head=ITEMS, tail=b"]}"), "walk"),
        "get ingestion": (beside(DETAIL_1, b"{}"), "get ingestion"),
        "get status": (beside(STATUS_1, b"{}"), "get status"),
        "get run": (beside(CURRENT_RUN, b"{}"), "get run"),
        "get run: inputs": (repeated(b"{}", head=INPUTS, tail=b"]}}"), "get run"),
        "get run: another thing": (repeated(b"{}"), "get run"),
        "rerun": (beside(ACTION_1, b"{}"), "rerun"),
        "cancel": (beside({"workflow_id": ID, "message": "m"}, b"{}"), "cancel"),
        "callback": (beside({"status": "accepted"}, b"{}"), "callback"),
        "poll": (beside(STATUS_1, b"{}"), "poll"),
        "wait": (beside({**CURRENT_RUN, "execution_state": "COMPLETED"}, b"{}"), "wait"),
        "rerun in bulk": (beside({"failed": []}, b"{}", "succeeded"), "rerun in bulk"),
        **{f"request: {name}": (repeated(piece), "request") for name, piece in PIECES.items()},
        **{f"within: {name}": (within(name), "request") for name in PIECES},
        "request that acts": (repeated(b"{}"), "request that acts"),
        "request: one object of many fields": (
            gzip.compress(b"{" + b",".join(b'"%d":0' % n for n in range(190_000)) + b"}", 1),
            "request",
        ),
        "request: one text": (gzip.compress(b'"' + b"a" * FULL + b'"', 1), "request"),
        "request: escapes": (gzip.compress(b'"' + b"\\u0041" * (FULL // 6) + b'"', 1), "request"),
        "request: digits": (gzip.compress(b"[" + b"9" * FULL + b"]", 1), "request"),
        "request: blanks": (gzip.compress(b" " * FULL + b"{}", 1), "request"),
        "request: open lists": (gzip.compress(b"[" * FULL, 1), "request"),
        "list: sound items": (
            repeated(_SOUND, head=ITEMS, tail=b"]}", size=7 * MIB),
            "list",
        ),
        "list: more sound items than were asked for": (
            repeated(
                _SOUND, head=ITEMS, tail=b"]}", size=195_000 // _SOUND.count(b":") * len(_SOUND)
            ),
            "list",
        ),
    }


def errors():
    """Packed answers of errors, and their statuses."""
    return {
        "404": (beside({"detail": "gone"}, b"{}"), "404 No"),
        "422": (beside({"code": "x"}, b'{"loc":[],"msg":"","type":""}', "detail"), "422 No"),
        "500": (repeated(b"{}"), "500 No"),
        "429": (beside({"code": "quota_exceeded"}, b"{}"), "429 No"),
    }


async def run_child(cases, place):
    as_users_have_it = {key: os.environ[key] for key in os.environ if key != "PYTHONDEVMODE"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, CHILD, json.dumps(cases), place),
        stdout=asyncio.subprocess.PIPE,
        env=as_users_have_it,
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), 300)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode == 0
    return json.loads(out)


def measured(answers, place):
    """What each call costs whose answer is the one given."""

    async def run_all():
        async with AsyncExitStack() as stack:
            cases = []
            for name, (answer, call) in answers.items():
                script = in_a_job(answer) if call == "rerun in bulk" else answering(answer)
                server = await stack.enter_async_context(raw_server(script))
                cases.append((name, server.base_url, call))
            return await run_child(cases, str(place))

    return asyncio.run(run_all())


def in_a_job(answer):
    """A script that is hostile to what reruns only, so that a job gets that far."""
    item = {**CURRENT_DETAIL, "workflow_id": ID}
    page = json.dumps({"items": [{**CURRENT_SUMMARY, "workflow_id": ID}], **OFFSET, "limit": 100})

    async def script(_reader, writer, head):
        if head.startswith(b"POST"):
            writer.write(answer)
        else:
            writer.write(http((json.dumps(item) if ID.encode() in head else page).encode()))

    return script


def packed(body, status="200 OK"):
    return http(body, status=status, headers="Content-Encoding: gzip\r\n")


@pytest.mark.timeout(400)
def test_small_bodies_of_many_objects_take_little_memory_and_leave_the_loop_to_others(tmp_path):
    answers = {name: (packed(body), call) for name, (body, call) in bodies().items()}
    for name, (body, status) in errors().items():
        answers[f"an error of {name}"] = packed(body, status), "get status"
    twice = gzip.compress(repeated(b"{}"), 9)
    headers = "Content-Encoding: gzip, gzip\r\n"
    answers["packed twice"] = http(twice, headers=headers), "get run"
    costs = measured(answers, tmp_path)
    assert costs.keys() == answers.keys()
    wrong = []
    for name, (came, gap, peak, peak_afterwards) in costs.items():
        if "bare" in came:
            wrong.append(f"{name}: {came}")
        if peak >= MOST:
            wrong.append(f"{name}: {peak / MIB:.0f} MiB for the call, which gave {came}")
        # Of sound items each one is what a user asked for.
        if peak_afterwards >= MOST and "sound items" not in name:
            wrong.append(f"{name}: {peak_afterwards / MIB:.0f} MiB for what came of it")
        if gap >= LONGEST:
            wrong.append(f"{name}: the loop stood still for {gap:.2f} s; the call gave {came}")
    assert wrong == []


# The limits of the interpreter


def session_to(server, **options):
    options = {"dialect": "documented", "clock": FakeClock()} | options
    return ks.Session(KEY, server.base_url, retry=ks.RetryPolicy(tries=1), **options)


def nested(depth, opened="[", closed="]", innermost="1"):
    return opened * depth + innermost + closed * depth


def with_field(wire, name, text):
    return (json.dumps(wire)[:-1] + f', "{name}": {text}}}').encode()


DEPTHS = [50, 200, 400, 900, 990, 1_010, 5_000, 200_000]
FORMS = {"lists": ("[", "]"), "objects": ('{"a":', "}"), "both": ('[{"a":', "}]")}


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("form", FORMS)
async def test_nesting_of_any_depth_is_read_or_is_an_invalid_answer(depth, form):
    text = nested(depth, *FORMS[form])
    answers = {
        "run": with_field(WITHOUT, "run_snapshot", f'{{"inputs": {text}, "instruction": {text}}}'),
        "run, unknown": with_field(RUN, "further", text),
        "status, unknown": with_field(STATUS_1, "further", text),
        "detail, unknown": with_field(DETAIL_1, "further", text),
        "page, unknown": with_field({**NUMBERED, "items": []}, "further", text),
        "anything": text.encode(),
    }
    calls = {
        "run": lambda session: ks.get_workflow_run(session, RUN_ID),
        "run, unknown": lambda session: ks.get_workflow_run(session, RUN_ID),
        "status, unknown": lambda session: ks.get_workflow_status(session, ID),
        "detail, unknown": lambda session: ks.get_ingestion_workflow(session, ID),
        "page, unknown": lambda session: ks.list_ingestion_workflows(session, page_size=20),
        "anything": lambda session: session.request("GET", "/v1/x"),
    }
    for name, body in answers.items():
        async with raw_server(answering(http(body))) as server, session_to(server) as session:
            try:
                found = await calls[name](session)
            except ks.InvalidResponse:
                continue
        if name == "anything":
            continue
        # Deeper than that the standard library copies and pickles nothing.
        fresh = copy.deepcopy(found) if depth < 300 else found
        again = pickle.loads(pickle.dumps(found)) if depth < 300 else found
        assert (again == found, fresh == found, hash(again) == hash(found)) == (True,) * 3
        assert found.to_dict()
        assert repr(found)
        assert found.raw["further" if "unknown" in name else "run_snapshot"]
        assert isinstance(found.extra, dict)


@pytest.mark.parametrize("depth", [400, 990, 5_000, 200_000])
async def test_a_rerun_with_nesting_of_any_depth_is_accepted(depth):
    body = with_field(ACTION_1, "further", nested(depth))
    async with raw_server(answering(http(body))) as server, session_to(server) as session:
        assert (await ks.rerun_ingestion_workflow(session, ID)).workflow_id == ID


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("status", ["404 No", "422 No", "500 No"])
async def test_an_error_with_nesting_of_any_depth_is_that_error(depth, status):
    body = f'{{"detail": {nested(depth)}, "\\u0061": "\\u0062"}}'.encode()
    async with raw_server(answering(http(body, status=status))) as server:
        async with session_to(server) as session:
            with pytest.raises(ks.ResponseError) as caught:
                await ks.get_workflow_status(session, ID)
    assert caught.value.status == int(status[:3])


HUGE = {
    "5,000 digits": "9" * 5_000,
    "a million digits": "9" * 1_000_000,
    "401 digits": "9" * 401,
    "31 digits": "9" * 31,
    "below zero": "-" + "9" * 401,
    "an exponent": "1e999",
    "a small one": "1e-99999",
    "a large exponent": "1e99999999999",
    "many digits after the point": "1." + "3" * 100_000,
}


@pytest.mark.parametrize("number", HUGE)
@pytest.mark.parametrize("field", ["further", "chunks_processed"])
async def test_a_huge_number_is_read_or_is_an_invalid_answer_soon(number, field):
    wire = {key: value for key, value in DETAIL_1.items() if key != field}
    body = with_field(wire, field, HUGE[number])
    began = time.process_time()
    async with raw_server(answering(http(body))) as server, session_to(server) as session:
        try:
            found = await ks.get_ingestion_workflow(session, ID)
        except ks.InvalidResponse as error:
            assert len(str(error)) < 800
        else:
            assert field in found.raw
            assert repr(found)
            assert json.dumps(found.to_dict())
            assert pickle.loads(pickle.dumps(found)) == found
            assert hash(found)
    assert time.process_time() - began < 1.5


@pytest.mark.parametrize("number", ["31 digits", "401 digits", "an exponent", "below zero"])
@pytest.mark.parametrize("field", ["total", "page", "page_size"])
async def test_an_envelope_of_huge_numbers_ends_a_list_and_a_walk_with_an_error_or_its_items(
    number, field
):
    wire = {**NUMBERED, "items": [SUMMARY], "page_size": 100}
    del wire[field]
    body = with_field(wire, field, HUGE[number])
    async with raw_server(answering(http(body))) as server, session_to(server) as session:
        for call in (
            lambda: ks.list_ingestion_workflows(session),
            lambda: _all_of(ks.iter_ingestion_workflows(session, limit=3)),
        ):
            try:
                await call()
            except ks.KnowledgeStackError as error:
                assert len(str(error)) < 2_000
    assert len(server.heads) < 40


async def _all_of(walk):
    return [item async for item in walk]


@pytest.mark.timeout(10)
@pytest.mark.parametrize("total", [10**6, 10**30, 10**400], ids=["10**6", "10**30", "10**400"])
@pytest.mark.parametrize("everything", [True, False])
async def test_a_watch_of_a_list_with_a_huge_total_tells_trouble_or_what_it_sees(total, everything):
    async with Sandbox(ingestions=30, statuses={"completed": 1.0}, api_key=KEY) as sandbox:
        ids = ids_of(sandbox, "completed")

        def lie(_request, payload):
            return payload | {"total": total} if "total" in payload else payload

        sandbox.rewrite_answer = lie
        told, began = set(), time.monotonic()
        async with sandbox.session(clock=FakeClock(), dialect="documented") as session:
            given = None if everything else ids
            async with ks.watch_ingestions(session, given, deadline=5) as watch:
                try:
                    async with asyncio.timeout(1.5):
                        async for change in watch:
                            told.add(change.workflow_id)
                            if set(ids) <= told or len(sandbox.requests) > 200:
                                break
                except TimeoutError:
                    pass
        assert time.monotonic() - began < 5  # leaving it, too
        assert told
        assert len(sandbox.requests) < 500


@pytest.mark.parametrize("limit", [10**12, 10**30, 10**400], ids=["10**12", "10**30", "10**400"])
async def test_a_run_that_may_take_for_ever_is_worked_on(limit):
    run = {**RUN, "run_snapshot": {**RUN["run_snapshot"], "max_run_duration_seconds": limit}}
    answers = answering(http(json.dumps(run).encode()), http(b'{"status": "accepted"}'))
    async with raw_server(answers) as server, session_to(server, clock=None) as session:
        done = await ks.run_with_limit(session, RUN_ID, lambda _: asyncio.sleep(0, "done"))
    assert done == "done"
