"""Watching on the command line: live, as events, from a journal, for Prometheus."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import click
import pytest
from rich.console import Console
from test_cli_support import interrupt_at, make_cli, served

import knowledgestack_async as ks
from knowledgestack_async.cli import canvas, metrics
from knowledgestack_async.cli import monitor as monitor_command
from knowledgestack_async.cli.observed import Observed, event_of
from knowledgestack_async.cli.watch_view import draw_watch
from knowledgestack_async.sandbox import Fault

BOTH = ("stdin", "stdout", "stderr")
LIST = "list_ingestion_workflows"
NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)


@pytest.fixture
def server():
    """A sandbox of this test's own."""
    with served(dialect="offset", pipeline_seconds=(0.02, 0.05), ingestions=30) as sandbox:
        yield sandbox


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path, server):
    return make_cli(monkeypatch, capsys, tmp_path, server)


def lines_of(result):
    return [json.loads(line) for line in result.out.splitlines()]


def end_later(server, outcome, looks=6):
    """Some that are processing end one after the other, once they have been looked at so many times."""
    ids = list(server.store.ids("failed"))[:3]
    for id_ in ids:
        server.store.set_status(id_, "processing")
    left, seen = [*ids], []

    def end(_request):
        seen.append(_request)
        if len(seen) > looks and left:
            server.store.set_status(left.pop(), outcome)

    server.before_request = end
    return ids


# --- watch ---


@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("outcome", "options", "code"),
    [("completed", ("--exit-status",), 0), ("failed", ("--exit-status",), 1), ("failed", (), 0)],
)
def test_ids_are_watched_until_all_are_over(cli, server, outcome, options, code):
    ids = end_later(server, outcome)
    result = cli("watch", *ids, "--interval", "0.1", *options)
    assert result.code == code
    events = [event for event in lines_of(result) if event["is_final"]]
    assert {event["workflow_id"]: event["current"] for event in events} == dict.fromkeys(
        ids, outcome
    )
    assert f": 3 {outcome}." in result.err


def test_a_screen_is_drawn_and_taken_away(cli, server, monkeypatch):
    monkeypatch.setattr(canvas, "INTERVAL", 0.02)
    ids = end_later(server, "failed")
    result = cli("watch", *ids, "--interval", "0.1", tty=BOTH, width=100)
    assert result.code == 0
    assert "\x1b[?1049h" in result.out
    assert result.out.endswith("\x1b[?25h\x1b[?1049l")
    shown = click.unstyle(result.out)
    assert "Watching 3 ingestions at http://127.0.0.1" in shown
    assert "processing → failed" in shown
    assert re.search(r"After \d s: 3 failed\.\n +\d  \w", result.err)


def test_all_there_are_are_watched_until_the_deadline(cli, server):
    server.faults.add(Fault("status", status=400, route=LIST, after=2, times=1))
    result = cli("watch", "--deadline", "1.5", "--interval", "0.1", "--exit-status")
    assert result.code == 0
    events = lines_of(result)
    assert {event["workflow_id"] for event in events} - {""} == set(server.store.ids())
    assert [event["kind"] for event in events if not event["workflow_id"]] == [
        "trouble",
        "recovered",
    ]


def test_a_deadline_leaves_what_is_not_over(cli, server):
    server.store.set_status(id_ := server.store.ids()[0], "processing")
    result = cli("watch", id_, "nope", "--deadline", "1", "-o", "ids")
    assert (result.code, result.out) == (1, "nope\n")
    assert result.err.endswith("not found: nope\nThe deadline is over, and 1 ingestion is not.\n")
    server.store.set_status(other := server.store.ids()[1], "pending")
    late = cli("watch", id_, other, "--deadline", "0.1")
    assert "The deadline is over, and 2 ingestions are not." in late.err


def test_ids_that_do_not_exist_are_not_found(cli, server):
    id_ = server.store.ids("failed")[0]
    result = cli("watch", "nope", id_)
    assert result.code == 3
    assert result.err.endswith("\nnot found: nope\n")
    assert re.fullmatch(r"After 0 s: 1 missing\.\nnot found: nope\n", cli("watch", "nope").err)
    assert cli("watch", "nope", id_, "--exit-status").code == 1


def test_what_vanishes_while_everything_is_watched_is_no_failure():
    seen = Observed("", Watch(), is_everything=True)
    seen.note(change("x", "processing", None, kind=ks.ChangeKind.MISSING))
    assert (list(seen.missing), seen.has_failed, seen.causes) == (["x"], False, {})
    seen.note(change("x", None, "processing"))
    assert not seen.missing


def test_the_causes_of_failures_are_those_of_the_failed_ones():
    seen = Observed("", Watch(), is_everything=False)
    for number, status in enumerate(["failed", "failed", "cancelled", "quota_limit", "completed"]):
        seen.note(change(f"ingest-{number}", None, status))
    assert seen.causes == {"failed": 2}
    assert seen.has_failed


def test_those_with_a_status_are_watched(cli, server):
    failed = set(server.store.ids("failed"))
    events = lines_of(cli("watch", "--status", "failed"))
    assert {event["workflow_id"] for event in events} == failed
    assert all(event["error"] for event in events)
    assert cli("watch", "-", stdin="\n").err == "No ids came: nothing to do.\n"
    assert cli("watch", "x", "--status", "failed").code == 2


def test_a_job_is_watched_by_its_journal(cli, server, tmp_path):
    first, second = server.store.ids("failed")[:2]
    server.faults.add(Fault("status", status=409, id=second, method="POST"))
    journal = str(tmp_path / "own.journal")
    assert cli("ingestions", "rerun", first, second, "--yes", "--journal", journal).code == 1
    result = cli("watch", "--from", journal, "--exit-status")
    assert result.code == 0
    assert lines_of(result)[-1]["current"] == "completed"
    assert "Not watched, for they were not run again: 1 refused." in result.err
    plain = tmp_path / "ids.txt"
    plain.write_text(f"{first}\n")
    assert [event["workflow_id"] for event in lines_of(cli("watch", "--from", str(plain)))] == [
        first
    ]


def test_a_job_that_is_all_good_is_watched_without_a_remark(cli, server, tmp_path):
    journal = str(tmp_path / "own.journal")
    first = server.store.ids("failed")[0]
    assert cli("ingestions", "rerun", first, "--yes", "--journal", journal).code == 0
    assert "Not watched" not in cli("watch", "--from", journal).err


@pytest.mark.parametrize("tty", [(), BOTH])
def test_ctrl_c_says_how_to_go_on(cli, server, tty):
    interrupt_at(server, LIST, 2)
    result = cli("watch", "--interval", "0.1", "--dialect", "offset", tty=tty)
    assert result.code == 130
    assert "Go on with: ks-async --dialect offset watch\n" in result.err
    assert result.err.endswith("Interrupted.\n")
    assert ("\x1b[?1049l" in result.out) is bool(tty)


def test_ctrl_c_says_to_give_the_ids_again(cli, server):
    interrupt_at(server, "get_ingestion_workflow", 2)
    server.store.set_status(id_ := server.store.ids()[0], "processing")
    result = cli("watch", "-", "--interval", "0.1", stdin=id_)
    assert result.code == 130
    assert "give the same ids again" in result.err
    interrupt_at(server, "get_ingestion_workflow", 2)
    assert "ks-async" not in cli("watch", "nope", id_, "--sandbox", "--deadline", "0.1").err


def test_a_sandboxs_watch_has_nothing_to_go_on_with(cli, monkeypatch):
    def press(_self, _line):
        monkeypatch.undo()
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("knowledgestack_async.cli.screen.Screen.out", press)
    result = cli("--sandbox", "watch", "--interval", "0.1")
    assert result.code == 130
    assert "Go on" not in result.err


@pytest.mark.parametrize("command", [("watch",), ("ingestions", "wait", "x"), ("watch", "x")])
def test_a_key_that_is_refused_ends_it(cli, server, monkeypatch, command):
    monkeypatch.setenv("KS_API_KEY", "sk-user-other")
    result = cli(*command, "--dialect", "offset")
    assert result.code == 4
    assert "--api-key-file" in result.err


@pytest.mark.parametrize("command", [("watch",), ("ingestions", "wait")])
def test_a_key_that_is_refused_later_ends_it_too(cli, server, command):
    server.faults.add(Fault("status", status=401, route="get_ingestion_workflow"))
    result = cli(*command, server.store.ids()[0])
    assert result.code == 4
    assert "--api-key-file" in result.err


def test_a_dumb_terminal_gets_lines(cli, server, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    id_ = server.store.ids("failed")[0]
    result = cli("watch", id_, tty=BOTH)
    assert result.out.startswith(f"{id_}  ")
    assert "\x1b[?1049h" not in result.out


# --- wait ---


def test_one_watch_serves_all_who_wait(cli, server):
    ids = end_later(server, "completed")
    result = cli("ingestions", "wait", *ids, "nope", "-o", "ids")
    assert result.code == 3
    assert set(result.out.split()) == set(ids)
    assert "Of 4: 3 done, 1 not found." in result.err
    assert cli("ingestions", "wait", "-", stdin="").err == "No ids came: nothing to do.\n"


def test_trouble_while_waiting_is_told_and_the_wait_goes_on(cli, server):
    ids = end_later(server, "completed", looks=1)
    server.faults.add(Fault("status", status=400, id=ids[0], times=1))
    result = cli("ingestions", "wait", ids[0])
    assert result.code == 0
    assert "Error: " in result.err


def test_the_late_ones_are_counted(cli, server):
    for id_ in (ids := list(server.store.ids())[:2]):
        server.store.set_status(id_, "pending")
    result = cli("ingestions", "wait", *ids, "--deadline", "1")
    assert "2 are not over yet: 2 pending" in result.err
    server.faults.add(Fault("latency", seconds=1))
    assert "none was seen" in cli("ingestions", "wait", ids[0], "--deadline", "0.1").err


# --- the screen ---


class Watch:
    """A watch whose summary is made up."""

    def __init__(self, **changes):
        known = {
            "counts": {"completed": 6120, "processing": 3000, "failed": 879, "odd": 1},
            "total": 10_000,
            "finished": 7000,
            "missing": 0,
            "rate": None,
            "eta": None,
            "stalled": (),
            "last_error": None,
            "elapsed": 75.0,
        }
        self.summary = ks.WatchSummary(**(known | changes))


def summary(id_, status, error=None):
    return ks.WorkflowSummaryResponse(
        workflow_id=id_,
        document_id="d",
        document_version_id="v",
        status=ks.IngestionStatus(status),
        error=error,
        last_run_timestamp=NOW,
        created_at=NOW,
        last_state_update_timestamp=None,
    )


def change(id_, previous, current, error=None, kind=ks.ChangeKind.STATUS):
    state = None if current is None else summary(id_, current, error)
    return ks.StatusChange(
        kind=kind,
        workflow_id=id_,
        previous=previous,
        current=current,
        is_final=state is None or state.is_terminal,
        seen_at=NOW,
        state=state,
    )


def observed(failures=300, causes=7, **changes):
    seen = Observed("Watching 10,000 ingestions at http://127.0.0.1:8000", Watch(**changes))
    for number in range(failures):
        id_ = f"ingest-{number:026}"
        seen.note(change(id_, None, "processing"))
        seen.note(change(id_, "processing", "failed", "abcdefgh"[number % causes] * 60 + " broke"))
    seen.note(change("ingest-new", None, "completed", kind=ks.ChangeKind.NEW_RUN))
    return seen


def shown(seen, width, height, trouble=None):
    console = Console(file=io.StringIO(), width=width, height=height)
    console.print(draw_watch(seen, width, height, trouble))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("size", [(80, 24), (140, 40), (40, 12), (60, 6)])
def test_ten_thousand_fit_the_terminal(size):
    width, height = size
    lines = shown(observed(stalled=("x",)), width, height)
    assert len(lines) < height
    assert all(len(line) <= width for line in lines)
    assert lines[0].endswith("1m 15s")
    assert "7,000 of 10,000 over" in lines[2]
    if height >= 24:
        assert "odd                 1   <1%  ▇" in lines
        assert any("without a change for long" in line for line in lines)
        assert lines.index("Failures by cause") < lines.index("Last changes")
        assert any("→ failed" in line for line in lines)
    assert any("other causes" in line for line in lines) is (size == (80, 24))


def test_the_screen_tells_how_it_is_going():
    nothing = {"counts": {}, "total": 0, "finished": 0, "is_complete": False}
    early = shown(observed(0, **nothing), 80, 24)
    assert any("looking for the first time" in line for line in early)
    over = {"counts": {"completed": 3}, "total": 3, "finished": 3}
    assert any("all are over" in line for line in shown(observed(0, **over), 80, 24))
    seen = observed(0)
    assert any("none has ended lately" in line for line in shown(seen, 80, 24))
    trouble = ks.StatusChange(
        kind=ks.ChangeKind.TROUBLE, seen_at=NOW, error=ks.ConnectionFailed("no way")
    )
    seen.note(trouble)
    assert any("Can't look now" in line for line in shown(seen, 80, 24))
    seen.note(ks.StatusChange(kind=ks.ChangeKind.RECOVERED, seen_at=NOW))
    assert not any("Can't look now" in line for line in shown(seen, 80, 24))
    assert any("look now: gone" in line for line in shown(seen, 80, 24, "gone"))
    seen.note(change("gone", "processing", None, kind=ks.ChangeKind.MISSING))
    assert any("processing → missing" in line for line in shown(seen, 80, 24))


def test_what_ends_lately_makes_the_rate(monkeypatch):
    seen = observed(20)
    assert seen.rate == 20
    assert sum(seen.causes.values()) == 20
    seen.note(change(f"ingest-{0:026}", "failed", "pending"))
    assert sum(seen.causes.values()) == 19
    later = time.monotonic() + 100
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert seen.rate == 0
    assert event_of(change("x", None, "failed", "why")).error == "why"


def test_what_had_failed_before_is_no_failure_of_this_watch():
    for everything in (True, False):
        seen = Observed("", Watch(), is_everything=everything)
        seen.note(change("x", None, "failed"))
        assert seen.has_failed is not everything
        seen.note(change("x", "processing", "failed"))
        assert seen.has_failed


# --- monitor ---


@contextmanager
def monitored(server, found):
    """Ask for the metrics while the monitor runs, then press Ctrl-C."""

    def ask():
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for _ in range(100):
            try:
                with opener.open("http://127.0.0.1:" + str(found["port"]), timeout=2) as answer:
                    found["text"] = answer.read().decode()
            except (KeyError, OSError):
                found["text"] = ""
            if "ks_watch_up 1.0" in found["text"]:
                break
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=ask)
    thread.start()
    yield
    thread.join()


def test_metrics_are_served(cli, server, monkeypatch):
    monkeypatch.setattr(metrics, "REFRESH", 0.02)
    server.store.set_status(server.store.ids()[0], "processing")
    found = {}
    real = metrics.start_http_server

    def start(*args, **settings):
        started = real(*args, **settings)
        found["port"] = started[0].server_port
        return started

    monkeypatch.setattr(metrics, "start_http_server", start)
    with monitored(server, found):
        result = cli("monitor", "--prometheus", "0", "--interval", "0.1", tty=BOTH)
    assert result.code == 0
    assert re.search(r"Metrics at http://127\.0\.0\.1:\d+/metrics\nCtrl-C ends it\.", result.err)
    assert result.err.endswith("Ended.\n")
    failed = len(server.store.ids("failed"))
    assert f'ks_ingestions{{status="failed"}} {failed}.0' in found["text"]
    assert re.search(r"^ks_ingestions_oldest_active_age_seconds \d", found["text"], re.MULTILINE)
    assert re.search(r"^ks_requests_total [1-9]", found["text"], re.MULTILINE)
    assert "ks_request_retries_total 0.0" in found["text"]
    with pytest.raises(urllib.error.URLError):
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            f"http://127.0.0.1:{found['port']}", timeout=1
        )


def test_ctrl_c_is_no_error_of_a_monitor(cli, server, monkeypatch):
    def pressed(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(monitor_command, "run_with_session", pressed)
    result = cli("monitor", "--prometheus", "0")
    assert (result.code, result.err) == (0, "Ended.\n")


def test_a_port_that_is_taken_is_told(cli, server):
    port = server.base_url.rpartition(":")[2]
    result = cli("monitor", "--prometheus", port)
    assert result.code == 2
    assert f"can't listen on 127.0.0.1:{port}: " in result.err


def test_without_the_extra_one_line_says_what_to_install(cli, monkeypatch):
    monkeypatch.setattr(monitor_command, "find_spec", lambda _name: None)
    result = cli("monitor", "--prometheus", "0")
    assert (result.code, len(result.err.splitlines())) == (2, 1)
    assert "metrics]" in result.err


def test_a_monitor_ends_with_a_key_that_is_refused(cli, server, monkeypatch):
    monkeypatch.setenv("KS_API_KEY", "sk-user-other")
    assert cli("monitor", "--prometheus", "0", "--dialect", "offset").code == 4


class Session:
    """A session that has counted nothing."""

    stats = ks.SessionStats(
        requests=1, retries=2, bytes_in=0, cool_downs=3, in_flight=0, waiting=0, limit=1
    )


def samples(gauges):
    gauges.read()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for metric in gauges.collect()
        for sample in metric.samples
    }


def test_the_oldest_active_one_has_an_age():
    gauges = metrics.Gauges(Session(), Watch(counts={"missing": 1, "failed": 2}))
    age = ("ks_ingestions_oldest_active_age_seconds",)
    known = samples(gauges)
    assert (known[age], known["ks_watch_up",], known["ks_cool_downs_total",]) == (0, 0, 3)
    assert [name for name in known if name[0] == "ks_ingestions"] == [("ks_ingestions", "failed")]
    gauges.note(change("x", None, "pending"))
    gauges.note(change("y", None, "processing"))
    assert samples(gauges)[age] == pytest.approx(
        (datetime.now(UTC) - NOW) / timedelta(seconds=1), 1
    )
    gauges.note(change("x", "pending", "failed"))
    gauges.note(change("y", "processing", None, kind=ks.ChangeKind.MISSING))
    assert samples(gauges)[age] == 0
    trouble = ks.StatusChange(kind=ks.ChangeKind.TROUBLE, workflow_id="x", seen_at=NOW)
    gauges.note(trouble)
    assert samples(gauges)["ks_watch_up",] == 1
    gauges.note(ks.StatusChange(kind=ks.ChangeKind.TROUBLE, seen_at=NOW))
    assert samples(gauges)["ks_watch_up",] == 0
    gauges.note(ks.StatusChange(kind=ks.ChangeKind.RECOVERED, seen_at=NOW))
    assert samples(gauges)["ks_watch_up",] == 1
