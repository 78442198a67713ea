"""Every command as a process of its own: between pipes, and on a terminal."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import urllib.request

import click
import pytest
from test_cli_support import (
    KEY,
    PROGRAM,
    Piped,
    Terminal,
    environment,
    held_at,
    in_pipe,
    nothing_left_running,
    on_terminal,
    served,
)


@pytest.fixture(scope="module")
def server():
    """A sandbox for all of this; each test takes ids that no other one changes."""
    with served(dialect="system-jobs", pipeline_seconds=(0.05, 0.1), ingestions=200) as sandbox:
        yield sandbox


@pytest.fixture(autouse=True)
def _by_itself(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with nothing_left_running(monkeypatch):
        yield


def run_id(server, status, place=0):
    book = server.store.runs
    return [id_ for id_ in book.ids() if book.get(id_).status == status][place]


@pytest.mark.no_cover
def test_list(server):
    env = environment(server)
    ids = list(server.store.ids())
    piped = in_pipe(["ingestions", "list", "--output", "ndjson"], env)
    assert (piped.code, piped.err) == (0, "")
    assert [json.loads(line)["workflow_id"] for line in piped.out.splitlines()] == ids
    started = [
        (width, Terminal(["ingestions", "list", "--limit", "30"], env, width))
        for width in (80, 140)
    ]
    for width, terminal in started:
        shown = terminal.end()
        assert shown.code == 0
        assert "\x1b[32mcompleted" in shown.out
        lines = re.sub(r"\r?\x1b\[2K[^\n]*\r\x1b\[2K", "", shown.out)
        plain = click.unstyle(lines).splitlines()
        assert all(len(line) <= width for line in plain)
        assert [line.split()[0] for line in plain[1:]] == ids[:30]


def test_a_reader_that_leaves_is_no_error(server):
    line = [*PROGRAM, "ingestions", "list", "--output", "ndjson"]
    with subprocess.Popen(
        line, env=environment(server), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as listing:
        assert json.loads(listing.stdout.readline())
        listing.stdout.close()
        assert (listing.wait(20), listing.stderr.read()) == (0, "")


def test_get(server):
    id_ = server.store.ids("failed")[0]
    piped = in_pipe(
        ["ingestions", "get", "-", "nope", "--output", "json"], environment(server), id_
    )
    assert piped.code == 3
    assert json.loads(piped.out)[0]["workflow_id"] == id_
    assert "nope not found" in piped.err
    shown = on_terminal(["ingestions", "get", id_], environment(server))
    assert shown.code == 0
    assert f"workflow_id:                 {id_}" in shown.out


@pytest.mark.no_cover
def test_rerun_and_wait(server, tmp_path):
    first, second, third = server.store.ids("failed")[3:6]
    journal = str(tmp_path / "own.journal")
    refused = in_pipe(["ingestions", "rerun", first], environment(server))
    assert (refused.code, refused.out) == (2, "")
    assert "--yes" in refused.err
    rerun = ["ingestions", "rerun", first, second, "--yes", "--journal", journal]
    piped = in_pipe(rerun, environment(server))
    assert piped.code == 0
    assert {json.loads(line)["workflow_id"] for line in piped.out.splitlines()} == {first, second}
    assert piped.err == "Of 2: 2 accepted.\n"
    asked = Terminal(["ingestions", "rerun", third, "--wait"], environment(server))
    asked.read_until("Run 1 ingestion again at ")
    asked.type("y\n")
    result = asked.end()
    assert result.code == 0
    assert "Taking down what they are like" in result.out
    assert f"{third}  accepted  completed" in click.unstyle(result.out)
    waited = in_pipe(["ingestions", "wait", first, "--output", "ids"], environment(server))
    assert (waited.code, waited.out) == (0, f"{first}\n")


@pytest.mark.no_cover
def test_jobs(tmp_path):
    journal = tmp_path / "own.journal"
    with served(dialect="offset", ingestions=24, pipeline_seconds=(0.02, 0.05)) as slow:
        env = environment(slow)
        failed = len(slow.store.ids("failed"))
        rerun = ["ingestions", "rerun", "-s", "failed", "--yes", "--journal", str(journal)]
        with held_at(slow, "rerun_ingestion_workflow", 3) as go_on:
            started = Terminal([*rerun, "--concurrency", "2"], env)
            started.read_until("accepted")
            used = in_pipe(["jobs", "show", str(journal)], env)
            assert (used.code, "in use" in used.out) == (0, True)
            os.killpg(started.process.pid, signal.SIGINT)
            started.read_until("topping")
            go_on.set()
            stopped = started.end()
        assert stopped.code == 130
        assert f"jobs resume {journal} --concurrency 2" in stopped.out
        assert stopped.out.rstrip().endswith("Interrupted.")
        assert "Traceback" not in stopped.out
        shown = on_terminal(["jobs", "list", str(journal)], env)
        assert (shown.code, "unfinished" in shown.out) == (0, True)
        resumed = in_pipe(["jobs", "resume", str(journal)], env)
        assert resumed.code == 0
        assert f"Of {failed}: {failed} accepted." in resumed.err
        assert slow.request_counts["rerun_ingestion_workflow"] == failed
        exported = in_pipe(["jobs", "export", str(journal), "-o", "csv"], env)
        assert len(exported.out.splitlines()) == failed + 1
        retried = in_pipe(["jobs", "retry-failed", str(journal), "--yes"], env)
        assert (retried.code, retried.out) == (0, "")


@pytest.mark.no_cover
def test_watch(server):
    ids = list(server.store.ids("failed")[12:14])
    piped = in_pipe(["watch", *ids, "--exit-status"], environment(server))
    assert piped.code == 1
    assert {json.loads(line)["current"] for line in piped.out.splitlines()} == {"failed"}
    watching = Terminal(["watch"], environment(server), 140)
    watching.read_until("of 200 over")
    os.killpg(watching.process.pid, signal.SIGINT)
    left = watching.end()
    assert left.code == 130
    assert "\x1b[?1049l" in left.out
    assert left.out.endswith("Go on with: ks-async watch\n\nInterrupted.\n")


@pytest.mark.no_cover
def test_monitor(server):
    env = environment(server)
    started = [made(["monitor", "--prometheus", "0"], env) for made in (Terminal, Piped)]
    for watching in started:
        watching.read_until("Ctrl-C ends it.")
        [url] = re.findall(r"http://\S+/metrics", watching.text)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=5) as answer:
            assert b"ks_ingestions" in answer.read()
        os.killpg(watching.process.pid, signal.SIGINT)
    for watching in started:
        ended = watching.end()
        assert ended.code == 0
        assert ended.out.endswith("Ended.\n")


def test_an_interruption_is_130_without_a_traceback(server):
    server.store.set_status(id_ := server.store.ids("failed")[8], "processing")
    waiting = Terminal(["ingestions", "wait", id_], environment(server))
    waiting.read_until("waiting: 1 processing")
    os.killpg(waiting.process.pid, signal.SIGINT)
    result = waiting.end()
    assert result.code == 130
    assert "Interrupted." in result.out
    assert "Traceback" not in result.out


@pytest.mark.no_cover
def test_status_and_cancel(server):
    open_, over = server.store.ids("failed")[9:11]
    server.store.set_status(open_, "processing")
    piped = in_pipe(["workflows", "status", open_, over], environment(server))
    assert piped.code == 0
    assert [line.split("\t")[1] for line in piped.out.splitlines()[1:]] == ["RUNNING", "FAILED"]
    shown = on_terminal(["workflows", "status", open_], environment(server))
    assert "\x1b[36mRUNNING" in shown.out
    cancelled = in_pipe(["workflows", "cancel", open_, over, "--yes"], environment(server))
    assert cancelled.code == 1
    assert open_ in cancelled.out
    assert "is over" in cancelled.err
    kept = Terminal(["workflows", "cancel", over], environment(server))
    kept.read_until("Cancel 1 workflow at ")
    kept.type("n\n")
    assert kept.end().code == 1


@pytest.mark.no_cover
def test_runs(server):
    env = environment(server)
    running, failed = run_id(server, "RUNNING", 1), run_id(server, "FAILED", 1)
    shown = on_terminal(["runs", "get", failed], env)
    assert (shown.code, f"id:                     {failed}" in shown.out) == (0, True)
    waited = in_pipe(["runs", "wait", failed, "--output", "ndjson"], env)
    assert (waited.code, json.loads(waited.out)["status"]) == (1, "FAILED")
    report = ["runs", "callback", running, "--status", "FAILED", "--error-file", "-"]
    reported = in_pipe(
        [*report, "--token-env", "TOKEN"], env | {"TOKEN": server.run_token(running)}, "why"
    )
    assert (reported.code, reported.err) == (0, "")
    assert server.store.get_run(running).error == "why"
    asked = Terminal(["runs", "delete", failed], env)
    asked.read_until("is not cancelled by that. [y/N]")
    asked.type("y\n")
    assert asked.end().code == 0
    gone = in_pipe(["runs", "delete", failed, "--yes"], env)
    assert (gone.code, gone.out) == (3, "")
    assert "Error: " in gone.err


@pytest.mark.no_cover
def test_doctor(server):
    shown = Terminal(["--sandbox", "doctor"], environment())
    piped = in_pipe(["doctor"], environment(server))
    assert (piped.code, piped.err) == (0, "")
    assert piped.out.count("✓") == 7
    alone = in_pipe(["doctor"], environment())
    assert (alone.code, alone.err) == (2, "")
    shown = shown.end()
    assert shown.code == 0
    assert "\x1b[32m✓" in shown.out


def test_wrong_keys_and_usage(server):
    env = environment(server, KS_API_KEY="sk-user-other")
    wrong = in_pipe(["ingestions", "list", "--dialect", "system-jobs"], env | {"KS_API_KEY": "x"})
    assert (wrong.code, wrong.out) == (4, "")
    assert len(wrong.err.splitlines()) == 2
    usage = on_terminal(["ingestions", "list", "--limit", "x"], env)
    assert usage.code == 2
    assert KEY not in usage.out


def test_sandbox(server):
    serving = Terminal(["sandbox", "--ingestions", "5", "--trickle", "0"], environment())
    serving.read_until("Ctrl-C ends it.")
    exports = dict(re.findall(r"export (\w+)=(\S+)", serving.text))
    listed = in_pipe(["ingestions", "list", "--output", "ids"], environment() | exports)
    assert (listed.code, len(listed.out.split())) == (0, 5)
    os.killpg(serving.process.pid, signal.SIGINT)
    assert serving.end().code == 0
    with subprocess.Popen(
        [*PROGRAM, "sandbox", "--output", "json"],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as piped:
        assert json.loads(piped.stdout.readline())["base_url"].startswith("http://127.0.0.1:")
        piped.send_signal(signal.SIGINT)
        assert piped.wait(20) == 0


def test_demo():
    args = ["demo", "--ingestions", "50", "--seconds", "0.3"]
    shown = Terminal(args, environment())
    piped = in_pipe(args, environment())
    assert (piped.code, piped.err) == (0, "")
    assert "\x1b" not in piped.out
    assert re.search(r"1\d of 50 ingestions had failed and were run again", piped.out)
    shown = shown.end()
    assert shown.code == 0
    assert "━" in shown.out
    assert re.search(r"(1\d) of \1 done", click.unstyle(shown.out))


def test_completion():
    piped = in_pipe(["completion", "bash"], environment())
    assert (piped.code, piped.err) == (0, "")
    assert piped.out.startswith("eval ")
    words = {"COMP_WORDS": "ks-async ing", "COMP_CWORD": "1", "_KS_ASYNC_COMPLETE": "bash_complete"}
    assert in_pipe([], environment() | words).out == "plain,ingestions\n"
    assert on_terminal(["completion", "fish"], environment()).code == 0
