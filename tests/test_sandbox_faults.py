"""What the sandbox makes go wrong, seen byte by byte on real sockets."""

import asyncio
import gzip
import json
import time
import zlib

import pytest

from knowledgestack_async.sandbox import Fault, Faults, RecordedRequest, Sandbox, SteppedClock
from knowledgestack_async.sandbox.garbage import GARBAGE, make_bomb
from support import assert_within


@pytest.fixture
async def sandbox():
    async with Sandbox(clock=SteppedClock()) as running:
        yield running


class Wire:
    """A connection on which requests are written, and bytes are read, as they are."""

    def __init__(self, sandbox):
        self.sandbox = sandbox

    async def __aenter__(self):
        port = int(self.sandbox.base_url.rpartition(":")[2])
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        return self

    async def __aexit__(self, *_):
        self.writer.close()

    def send(self, method="GET", path="/v1/workflows/document_versions"):
        key = self.sandbox.api_key
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n"
        self.writer.write(head.encode())

    async def ask(self, method="GET", path="/v1/workflows/document_versions"):
        """Returns one whole answer: its status, its headers, its body."""
        self.send(method, path)
        return await self.answer()

    async def answer(self):
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(head[0].split()[1]), headers, body

    async def rest(self):
        return await self.reader.read()


async def until(true):
    """Returns once something has become true."""
    while not true():
        await asyncio.sleep(0.001)


def rerun_path(sandbox):
    return f"/v1/workflows/document_versions/{sandbox.store.ids('failed')[0]}"


def request(route="get_workflow_run", method="GET", resource_id=None):
    return RecordedRequest(
        number=1,
        at=0.0,
        method=method,
        path="/",
        route=route,
        id=resource_id,
        query=(),
        headers={},
        body=b"",
    )


def test_a_fault_matches_by_route_method_and_id():
    fault = Fault("close", route="*_workflow*", method="GET", id="7")
    assert fault.matches(request(resource_id="7"))
    assert not fault.matches(request(resource_id="8"))
    assert not fault.matches(request(method="POST", resource_id="7"))
    assert not fault.matches(request(route="no_route", resource_id="7"))


def test_a_fault_spares_some_and_ends_in_time():
    faults = Faults()
    handle = faults.add(Fault("close", after=2, times=3))
    fired = [faults.draw(request())[0] is not None for _ in range(8)]
    assert fired == [False, False, True, True, True, False, False, False]
    assert (handle.matched, handle.fired) == (8, 3)


def test_draws_are_seeded():
    def draws(seed):
        faults = Faults(seed)
        handle = faults.add(Fault("close", probability=0.3))
        drawn = [faults.draw(request())[0] is not None for _ in range(500)]
        assert 100 < handle.fired == sum(drawn) < 200
        return drawn

    assert draws(1) == draws(1) != draws(2)


def test_the_first_fault_wins_and_latencies_add_up():
    faults = Faults()
    assert not faults
    faults.add(Fault("latency", seconds=1.0))
    first = Fault("status", status=503, times=1)
    faults.add(first)
    second = faults.add(Fault("close", route="get_*"))
    faults.add(Fault("latency", seconds=0.5, route="get_*"))
    assert faults.draw(request()) == (first, 1.5)
    assert faults.draw(request("no_route")) == (None, 1.0)
    assert faults.draw(request()) == (second.fault, 1.5)
    second.remove()
    second.remove()
    assert faults.draw(request()) == (None, 1.5)
    faults.clear()
    assert faults.draw(request()) == (None, 0.0)


def test_a_script_decides_alone_until_it_ends():
    faults = Faults()
    added = faults.add(Fault("silence"))
    closing = Fault("close")
    faults.script("get_workflow_run", [closing, None])
    faults.script("get_workflow_run", [Fault("latency", seconds=2.0)])
    assert faults.draw(request("no_route")) == (added.fault, 0.0)
    drawn = [faults.draw(request()) for _ in range(4)]
    assert drawn == [(closing, 0.0), (None, 0.0), (None, 2.0), (added.fault, 0.0)]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("flood", {}, "kind must be one of"),
        ("reset", {"status": 503, "seconds": 1.0}, "a reset fault takes no seconds, status"),
        ("status", {}, "needs status"),
        ("latency", {}, "needs seconds"),
        ("raw", {}, "needs body"),
        ("garbage", {"body": "rubbish"}, "garbage is bytes"),
        ("rate-limit", {}, "needs per_second"),
        ("rate-limit", {"per_second": 0}, "per_second must be positive"),
        ("rate-limit", {"per_second": -1.0}, "per_second must be positive"),
        ("rate-limit", {"per_second": float("inf")}, "positive and finite, not inf"),
        ("rate-limit", {"per_second": float("nan")}, "positive and finite, not nan"),
        ("rate-limit", {"per_second": 5, "effect": True}, "a rate-limit fault takes no effect"),
        ("page", {"body": {"detail": "no"}}, "a page is text or bytes"),
        ("page", {"code": "not_found"}, "a page fault takes no code"),
        ("status", {"status": 429, "per_second": 5}, "a status fault takes no per_second"),
    ],
)
def test_faults_that_make_no_sense_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        Fault(kind, **options)


async def test_latency(sandbox):
    sandbox.faults.add(Fault("latency", seconds=0.02))
    async with Wire(sandbox) as wire:
        began = time.monotonic()
        assert (await wire.ask())[0] == 200
        assert time.monotonic() - began >= 0.02
    assert sandbox.requests[0].fault == "latency"


@pytest.mark.parametrize(
    ("options", "status", "headers", "body"),
    [
        ({"status": 503}, 503, {}, b'{"detail":"Service Unavailable"}'),
        ({"status": 599}, 599, {}, b'{"detail":"Unknown"}'),
        (
            {"status": 429, "retry_after": 2, "code": "quota_exceeded"},
            429,
            {"retry-after": "2"},
            b'{"detail":"Too Many Requests","code":"quota_exceeded"}',
        ),
        (
            {"status": 429, "retry_after": "Wed, 21 Oct 2026 07:28:00 GMT"},
            429,
            {"retry-after": "wed, 21 oct 2026 07:28:00 gmt"},
            b'{"detail":"Too Many Requests"}',
        ),
        ({"status": 500, "body": {"a": 1}}, 500, {}, b'{"a":1}'),
        ({"status": 500, "body": "é"}, 500, {}, "é".encode()),
        ({"status": 206, "body": b"\xff", "headers": {"X-A": "b"}}, 206, {"x-a": "b"}, b"\xff"),
        ({"status": 500, "body": ""}, 500, {}, b""),
    ],
)
async def test_another_status(sandbox, options, status, headers, body):
    sandbox.faults.add(Fault("status", **options))
    async with Wire(sandbox) as wire:
        got = await wire.ask("POST", rerun_path(sandbox))
    assert (got[0], got[2]) == (status, body)
    assert got[1].items() >= headers.items()
    assert sandbox.effects == []
    assert (sandbox.requests[0].status, sandbox.requests[0].fault) == (status, "status")


async def test_an_error_of_todays_generation_has_a_code():
    async with Sandbox(dialect="system-jobs") as sandbox, Wire(sandbox) as wire:
        sandbox.faults.add(Fault("status", status=503))
        _, headers, body = await wire.ask()
        assert json.loads(body) == {
            "detail": "Service Unavailable",
            "code": "service_unavailable",
            "request_id": headers["x-request-id"],
        }


async def ask_often(wire, times):
    return [(await wire.ask())[0] for _ in range(times)]


async def test_of_each_second_so_many_are_taken(sandbox):
    handle = sandbox.faults.add(Fault("rate-limit", per_second=3))
    async with Wire(sandbox) as wire:
        assert await ask_often(wire, 5) == [200, 200, 200, 429, 429]
        sandbox.clock.advance(0.5)
        assert await ask_often(wire, 1) == [429]
        sandbox.clock.advance(0.5)
        assert await ask_often(wire, 5) == [200, 200, 200, 429, 429]
        status, headers, body = await wire.ask()
    assert (status, json.loads(body)) == (429, {"detail": "Too Many Requests"})
    assert "retry-after" not in headers
    assert (handle.matched, handle.fired) == (12, 6)
    told = [(request.status, request.fault) for request in sandbox.requests]
    assert told[2:4] == [(200, None), (429, "rate-limit")]


async def test_no_second_holds_more_than_there_may_be_wherever_it_begins(sandbox):
    sandbox.faults.add(Fault("rate-limit", per_second=4))
    taken = []
    async with Wire(sandbox) as wire:
        for step in range(60):
            taken += [step / 10] * (await ask_often(wire, 2)).count(200)
            sandbox.clock.advance(0.1)
    for start in taken:
        assert sum(start <= moment < start + 0.95 for moment in taken) <= 4
    assert len(taken) == 24


@pytest.mark.parametrize(("per_second", "waits"), [(0.5, 2.0), (2.5, 0.8), (1, 1.0)])
async def test_a_rate_need_not_be_whole(sandbox, per_second, waits):
    sandbox.faults.add(Fault("rate-limit", per_second=per_second))
    async with Wire(sandbox) as wire:
        at_once = (await ask_often(wire, 4)).count(200)
        sandbox.clock.advance(waits - 0.01)
        assert await ask_often(wire, 1) == [429]
        sandbox.clock.advance(0.01)
        assert (await ask_often(wire, 4)).count(200) == at_once == max(1, int(per_second))


@pytest.mark.parametrize("retry_after", [2, "Wed, 21 Oct 2026 07:28:00 GMT"])
async def test_a_rate_limit_can_say_when_to_come_back(sandbox, retry_after):
    sandbox.faults.add(Fault("rate-limit", per_second=1, retry_after=retry_after))
    async with Wire(sandbox) as wire:
        await wire.ask()
        status, headers, _ = await wire.ask()
    assert (status, headers["retry-after"]) == (429, str(retry_after).lower())


async def test_a_rate_limit_is_for_the_requests_that_match_and_changes_nothing(sandbox):
    sandbox.faults.add(Fault("rate-limit", per_second=1, route="rerun_*"))
    paths = [f"/v1/workflows/document_versions/{one}" for one in sandbox.store.ids("failed")[:3]]
    async with Wire(sandbox) as wire:
        assert [(await wire.ask("POST", path))[0] for path in paths] == [200, 429, 429]
        assert await ask_often(wire, 3) == [200, 200, 200]
    assert len(sandbox.effects) == 1


async def test_each_limit_counts_for_itself_and_one_can_be_lifted(sandbox):
    loose = sandbox.faults.add(Fault("rate-limit", per_second=2))
    tight = sandbox.faults.add(Fault("rate-limit", per_second=1))
    async with Wire(sandbox) as wire:
        assert await ask_often(wire, 3) == [200, 429, 429]
        tight.remove()
        sandbox.clock.advance(1)
        assert await ask_often(wire, 3) == [200, 200, 429]
    assert loose.fired == 2


async def test_a_limited_rate_goes_by_a_clock_that_runs_by_itself():
    async with Sandbox(speed=100.0) as sandbox, Wire(sandbox) as wire:
        sandbox.faults.add(Fault("rate-limit", per_second=1))
        assert (await wire.ask())[0] == 200
        await asyncio.sleep(0.02)
        assert (await wire.ask())[0] == 200


def test_a_rate_in_a_script_refuses():
    faults = Faults()
    refusing = Fault("rate-limit", per_second=100)
    faults.script("get_workflow_run", [refusing])
    assert faults.draw(request()) == (refusing, 0.0)
    faults.add(refusing)
    assert faults.draw(request()) == (None, 0.0)


HTML = "text/html; charset=utf-8"


@pytest.mark.parametrize(
    ("options", "status", "kind", "text"),
    [
        ({}, 200, HTML, "<h1>Sign in</h1>"),
        ({"status": 404}, 404, HTML, "<h1>404 Not Found</h1>"),
        ({"status": 502}, 502, HTML, "<center>nginx</center>"),
        ({"status": 599}, 599, HTML, "<title>599 Unknown</title>"),
        (
            {"status": 404, "body": "default backend - 404"},
            404,
            "text/plain; charset=utf-8",
            "default backend - 404",
        ),
        ({"body": "\n<p>é</p>"}, 200, HTML, "\n<p>é</p>"),
        ({"body": b"<p>", "content_type": "text/html"}, 200, "text/html", "<p>"),
        ({"body": "", "status": 503}, 503, "text/plain; charset=utf-8", ""),
    ],
)
async def test_another_servers_page(options, status, kind, text):
    async with Sandbox(dialect="system-jobs") as sandbox, Wire(sandbox) as wire:
        sandbox.faults.add(Fault("page", **options))
        one = sandbox.store.ids("failed")[0]
        got = await wire.ask("POST", f"/v1/system-jobs/document_versions/{one}")
        assert got[0] == status
        assert got[1]["content-type"] == kind
        assert text in got[2].decode()
        assert (got[1]["server"], "x-request-id" in got[1]) == ("nginx", False)
        assert sandbox.effects == []
        assert (sandbox.requests[0].status, sandbox.requests[0].fault) == (status, "page")


async def test_a_pages_headers_are_as_told(sandbox):
    headers = {"server": "envoy", "X-A": "b"}
    sandbox.faults.add(Fault("page", status=503, headers=headers))
    async with Wire(sandbox) as wire:
        wire.send()
        head = (await wire.reader.readuntil(b"\r\n\r\n")).lower()
    assert (head.count(b"server:"), head.count(b"server: envoy"), head.count(b"x-a: b")) == (
        1,
        1,
        1,
    )


@pytest.mark.parametrize("kind", ["status", "page", "silence", "banner", "raw", "redirect"])
async def test_what_hides_the_answer_can_still_take_effect(sandbox, kind):
    needed = {"status": {"status": 500}, "raw": {"body": b"?"}}.get(kind, {})
    sandbox.faults.script("rerun_ingestion_workflow", [Fault(kind, effect=True, **needed)])
    async with Wire(sandbox) as wire:
        wire.send("POST", rerun_path(sandbox))
        await until(lambda: sandbox.effects)
    assert [effect.kind for effect in sandbox.effects] == ["rerun"]


@pytest.mark.parametrize("kind", ["reset", "close"])
@pytest.mark.parametrize(("when", "effects"), [(None, 0), ("before", 0), ("after", 1)])
async def test_a_connection_breaks_before_or_after_the_effect(sandbox, kind, when, effects):
    sandbox.faults.add(Fault(kind, when=when))
    async with Wire(sandbox) as wire:
        wire.send("POST", rerun_path(sandbox))
        if kind == "reset":
            with pytest.raises(ConnectionResetError):
                await wire.rest()
        else:
            assert await wire.rest() == b""
    assert len(sandbox.effects) == effects
    assert sandbox.requests[0].status is None


async def test_an_effect_can_come_late(sandbox):
    sandbox.faults.add(Fault("reset", effect_delay=0.03, times=1))
    async with Wire(sandbox) as wire:
        wire.send("POST", rerun_path(sandbox))
        with pytest.raises(ConnectionResetError):
            await wire.rest()
    assert sandbox.effects == []
    await until(lambda: sandbox.effects)
    assert sandbox.effects[0].at - sandbox.requests[0].at >= 0.03


async def test_a_late_effect_does_not_outlive_the_sandbox():
    async with Sandbox() as sandbox, Wire(sandbox) as wire:
        sandbox.faults.add(Fault("close", effect_delay=60.0))
        wire.send("POST", rerun_path(sandbox))
        assert await wire.rest() == b""
    assert sandbox.effects == []


@pytest.mark.parametrize("how", [None, "length", "chunk", "header"])
async def test_an_answer_is_cut(sandbox, how):
    sandbox.faults.add(Fault("truncate", how=how))
    async with Wire(sandbox) as wire:
        wire.send("POST", rerun_path(sandbox))
        head, _, body = (await wire.rest()).partition(b"\r\n\r\n")
    assert len(sandbox.effects) == 1
    if how == "header":
        assert head.startswith(b"HTTP/1.1 200")
        assert body == b""
    elif how == "chunk":
        announced, _, cut = body.partition(b"\r\n")
        assert b"Transfer-Encoding: chunked" in head
        assert int(announced, 16) > len(cut)
    else:
        announced = int(head.partition(b"Content-Length: ")[2])
        assert announced // 2 == len(body) > 0


@pytest.mark.parametrize("preset", [*GARBAGE, None])
async def test_garbage(sandbox, preset):
    sandbox.faults.add(Fault("garbage", body=preset, headers={"X-A": "b"}))
    async with Wire(sandbox) as wire:
        status, headers, body = await wire.ask("POST", rerun_path(sandbox))
    assert (status, headers["x-a"], len(sandbox.effects)) == (200, "b", 1)
    with pytest.raises((ValueError, RecursionError)):
        if headers.get("content-encoding") == "gzip" or b"NaN" in body:
            raise ValueError
        json.loads(body.decode(), strict=True)


async def test_garbage_of_ones_own(sandbox):
    sandbox.faults.add(Fault("garbage", body=b"\x00", status=201, content_type="image/png"))
    async with Wire(sandbox) as wire:
        status, headers, body = await wire.ask()
        assert (status, headers["content-type"], body) == (201, "image/png", b"\x00")
        sandbox.faults.clear()
        sandbox.faults.add(Fault("garbage", body={"items": None}))
        assert (await wire.ask())[2] == b'{"items":null}'
        run_id = sandbox.store.runs.ids()[1]
        assert (await wire.ask("DELETE", f"/v1/workflow-runs/{run_id}"))[0] == 200


def test_a_bomb_is_small_and_true():
    bomb = make_bomb()
    assert len(bomb) < 1_100_000
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    assert unpacker.decompress(bomb, 1 << 22) == bytes(1 << 22)
    assert int.from_bytes(bomb[-4:], "little") == 1 << 30
    block = gzip.compress(bytes(1 << 10))
    assert gzip.decompress(block) == bytes(1 << 10)


async def test_silence_lasts_until_the_client_goes(sandbox):
    sandbox.faults.add(Fault("silence", times=1))
    async with Wire(sandbox) as wire:
        wire.send("POST", rerun_path(sandbox))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wire.reader.read(1), 0.02)
        assert sandbox.requests[0].fault == "silence"
    async with Wire(sandbox) as wire:
        assert (await wire.ask())[0] == 200
    assert sandbox.effects == []
    assert sandbox.max_in_flight <= 2


@pytest.mark.parametrize(
    "fault",
    [
        Fault("silence"),
        Fault("slow", seconds=30.0),
        Fault("stall_body"),
        Fault("informational"),
        Fault("unsolicited", body=b"{}", seconds=30.0),
        Fault("latency", seconds=30.0),
    ],
)
async def test_nothing_holds_up_the_end(fault):
    async def measure():
        async with Sandbox() as sandbox:
            sandbox.faults.add(fault)
            wires = [await Wire(sandbox).__aenter__() for _ in range(5)]
            for wire in wires:
                wire.send()
            await until(lambda: sandbox.request_counts.total() == 5)
            began = time.monotonic()
        ended = time.monotonic()
        for wire in wires:
            await wire.__aexit__()
        return ended - began

    await assert_within(0.5, measure)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_slow_head_arrives_in_the_end(sandbox):
    sandbox.faults.add(Fault("slow", seconds=0.0, times=1))
    async with Wire(sandbox) as wire:
        assert (await wire.ask())[0] == 200
        assert (await wire.ask())[0] == 200
    assert sandbox.connections == 1


async def test_a_slow_head_ends_with_its_client(sandbox):
    sandbox.faults.add(Fault("slow", times=1))
    async with Wire(sandbox) as wire:
        wire.send()
        assert await wire.reader.readexactly(1) == b"H"
    await until(lambda: not sandbox._server._in_flight)


async def test_a_body_stalls(sandbox):
    sandbox.faults.add(Fault("stall_body"))
    async with Wire(sandbox) as wire:
        wire.send()
        head = await wire.reader.readuntil(b"\r\n\r\n")
        length = int(head.partition(b"Content-Length: ")[2])
        assert len(await wire.reader.readexactly(length // 2)) == length // 2
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wire.reader.read(1), 0.01)


async def test_other_protocols_answer(sandbox):
    sandbox.faults.script("list_ingestion_workflows", [Fault("banner"), Fault("raw", body=b"?")])
    for expected in (b"SSH-2.0-OpenSSH_9.6\r\n", b"?"):
        async with Wire(sandbox) as wire:
            wire.send()
            assert await wire.rest() == expected


async def test_informational_answers_come_first(sandbox):
    sandbox.faults.add(Fault("informational", count=3, status=103))
    async with Wire(sandbox) as wire:
        assert [status for status, _, _ in [await wire.ask()]] == [103]
        assert [(await wire.answer())[0] for _ in range(3)] == [103, 103, 200]


async def test_endless_informational_answers_wait_for_their_reader(sandbox, monkeypatch):
    monkeypatch.setattr("knowledgestack_async.sandbox.delivery._MOST_BUFFERED", -1)
    sandbox.faults.add(Fault("informational"))
    async with Wire(sandbox) as wire:
        assert (await wire.ask())[0] == 102
    await until(lambda: not sandbox._server._in_flight)


async def test_redirects(sandbox):
    sandbox.faults.script(
        "list_ingestion_workflows",
        [Fault("redirect", status=307, location="https://elsewhere.example/"), Fault("redirect")],
    )
    async with Wire(sandbox) as wire:
        status, headers, _ = await wire.ask()
        assert (status, headers["location"]) == (307, "https://elsewhere.example/")
        status, headers, _ = await wire.ask()
        assert (status, headers["location"]) == (302, "/v1/workflows/document_versions")


@pytest.mark.parametrize("seconds", [None, 0.005])
async def test_a_second_answer_that_nobody_asked_for(sandbox, seconds):
    sandbox.faults.add(Fault("unsolicited", body={"total": 7}, seconds=seconds, times=1))
    async with Wire(sandbox) as wire:
        assert json.loads((await wire.ask())[2])["total"] == 20
        status, _, body = await wire.answer()
        assert (status, body) == (200, b'{"total":7}')
        assert json.loads((await wire.ask())[2])["total"] == 20


async def test_a_second_answer_for_a_client_that_has_gone(sandbox):
    sandbox.faults.add(Fault("unsolicited", seconds=30.0))
    async with Wire(sandbox) as wire:
        await wire.ask()
    await until(lambda: not sandbox._server._tasks)


async def test_cookies(sandbox):
    faults = [Fault("cookie"), Fault("cookie", cookie="a=b")]
    sandbox.faults.script("list_ingestion_workflows", faults)
    async with Wire(sandbox) as wire:
        assert (await wire.ask())[1]["set-cookie"] == "session=sandbox; path=/"
        status, headers, body = await wire.ask()
        assert (status, headers["set-cookie"], json.loads(body)["total"]) == (200, "a=b", 20)


async def test_a_fault_on_a_connection_that_is_gone_already(sandbox):
    faults = [
        Fault("reset"),
        Fault("silence"),
        Fault("informational", count=1),
        Fault("raw", body=b"?"),
    ]
    sandbox.faults.script("list_ingestion_workflows", faults)
    sandbox.faults.add(Fault("latency", seconds=0.0))
    sandbox._server.latency = 0.02
    for _ in faults:
        async with Wire(sandbox) as wire:
            wire.send()
            await until(lambda: sandbox._server._in_flight)
        await until(lambda: not sandbox._server._in_flight)
    assert sandbox.request_counts["list_ingestion_workflows"] == 4
