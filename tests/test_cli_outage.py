"""A server that isn't there: at the beginning that is an error, later it is told and waited out."""

from __future__ import annotations

import asyncio
import json

import click
import pytest
from test_cli_support import KEY, make_cli, served

import knowledgestack_async as ks
from knowledgestack_async.cli import canvas
from knowledgestack_async.cli.outage import Outage, is_outage
from knowledgestack_async.sandbox import Fault

BOTH = ("stdin", "stdout", "stderr")
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch):
    monkeypatch.setattr(ks.RetryPolicy, "ceiling", lambda _self, _tries: 0.0)
    monkeypatch.setattr(Outage, "LOOK_AFTER", 0.02)


@pytest.fixture
def server():
    with served(dialect="offset", pipeline_seconds=(0.02, 0.05), ingestions=40) as sandbox:
        yield sandbox


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path):
    return make_cli(monkeypatch, capsys, tmp_path)


def away(server, *, after, at_the_end=lambda: None, length=40):
    """From a request on, so many get no answer; after that something happens."""
    count = [0]
    faults = []

    def look(request):
        if faults:
            count[0] += 1
        elif after(request):
            faults.append(server.faults.add(Fault("close", when="before")))
        if count[0] == length:
            faults[0].remove()
            at_the_end()

    server.before_request = look


@pytest.mark.parametrize(
    "args",
    [
        ("ingestions", "wait", "x"),
        ("ingestions", "rerun", "x", "--yes"),
        ("watch", "x"),
        ("watch",),
    ],
)
def test_the_first_contact_fails_fast(cli, monkeypatch, tmp_path, args):
    monkeypatch.setenv("KS_API_KEY", KEY)
    result = cli(*args, "--base-url", NOWHERE)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("Error: ")
    assert "5 tries" in result.err
    assert not list(tmp_path.rglob("*.journal"))


def test_going_on_with_a_job_fails_fast_too(cli, server, monkeypatch, tmp_path):
    journal = str(tmp_path / "own.journal")
    cli.aim_at(server)
    id_ = server.store.ids("failed")[0]
    server.faults.add(Fault("close", when="before", id=id_, method="POST", times=1))
    rerun = ("ingestions", "rerun", id_, "--yes", "--journal", journal)
    assert cli(*rerun).code == 5
    server.faults.add(Fault("status", status=502, method="GET"))
    for args in (("jobs", "resume", journal), rerun):
        assert cli(*args).code == 1


@pytest.mark.parametrize("args", [("ingestions", "wait"), ("watch", "--interval", "0.1")])
@pytest.mark.parametrize("count", [1, 12])
def test_an_outage_while_waiting_is_told_once(cli, server, args, count):
    cli.aim_at(server)
    ids = list(server.store.ids("completed"))[:count]
    for id_ in ids:
        server.store.set_status(id_, "processing")

    def complete():
        for id_ in ids:
            server.store.set_status(id_, "completed")

    looks = iter(range(10))
    away(server, after=lambda _: next(looks) == 1, at_the_end=complete)
    result = cli(*args, *ids, "--dialect", "offset")
    assert result.code == 0
    assert result.err.count("Can't reach the server (") == 1
    assert result.err.count("; still trying.\n") == 1
    assert result.err.count("The server answers again.\n") == 1


def test_an_outage_of_a_rerun_is_told_in_a_pipe(cli, server):
    cli.aim_at(server)
    id_ = server.store.ids("failed")[0]
    looks = iter(range(10))
    away(server, after=lambda _: next(looks) == 1)
    result = cli("ingestions", "rerun", id_, "--yes", "--wait", "--dialect", "offset")
    assert result.code == 0
    assert json.loads(result.out)["outcome"] == "completed"
    told = result.err.splitlines()
    assert told[1].startswith("Can't reach the server (")
    assert told[2] == "The server answers again."


def test_an_outage_while_runs_are_followed_is_in_the_picture(cli, server, monkeypatch):
    monkeypatch.setattr(canvas, "INTERVAL", 0.01)
    cli.aim_at(server)
    id_ = server.store.ids("failed")[0]
    away(server, after=lambda request: request.method == "POST")
    result = cli("ingestions", "rerun", id_, "--yes", "--wait", tty=BOTH)
    assert result.code == 0
    shown = click.unstyle(result.err)
    assert "paused: " in shown
    assert "still trying" not in shown


class Screen:
    is_drawn_on = False

    def __init__(self):
        self.told = []

    def note(self, line):
        self.told.append(line)


async def test_tries_in_vain_are_a_reason_to_ask(session, sandbox):
    screen = Screen()
    outage = Outage(screen, session)
    sandbox.faults.add(Fault("close", when="before"))
    async with outage.noticing():
        with pytest.raises(ks.ConnectionLost):
            await ks.list_ingestion_workflows(session)
        while outage.reason is None:
            await asyncio.sleep(0.01)
        sandbox.faults.clear()
        while outage.reason is not None:
            await asyncio.sleep(0.01)
    assert len(screen.told) == 2


def test_what_the_server_answers_is_no_outage():
    facts = {"method": "GET", "path": "/x"}
    assert is_outage(ks.ServerError("oh", status=502, **facts))
    assert is_outage(ks.ServiceUnavailable("oh", status=503, **facts))
    assert is_outage(ks.DeadlineExceeded("oh", **facts))
    assert not is_outage(ks.ServerError("oh", status=500, **facts))
    assert not is_outage(ks.NotFound("oh", status=404, **facts))


async def test_a_probe_that_is_refused_is_an_answer(session, sandbox):
    outage = Outage(screen := Screen(), session)
    outage.note(ks.WalkError("it changes too fast"))
    sandbox.faults.add(Fault("status", status=401))
    async with outage.noticing():
        while outage.reason is not None:
            await asyncio.sleep(0.01)
    assert screen.told == [
        "Can't reach the server (it changes too fast); still trying.",
        "The server answers again.",
    ]
