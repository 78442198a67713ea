"""The command as a process of its own, beside the first tests of that: the other kind of output each,
what ends up on which stream, and colors."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys

import click
import pytest
from test_cli_support import KEY, PROGRAM, Terminal, environment, in_pipe, on_terminal, served

import knowledgestack_async as ks

SANDBOX_RUN = "3f72926f-985d-4b9a-a98f-e67602ea8ff9"
"""One that has failed in the sandbox of ``--sandbox``."""


@pytest.fixture(scope="module")
def server():
    """A sandbox for all of this; what a test changes is its own."""
    with served(dialect="system-jobs", pipeline_seconds=(0.05, 0.1), ingestions=120) as sandbox:
        yield sandbox


@pytest.fixture(autouse=True)
def _own_state(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def env(server):
    return environment(server)


@pytest.fixture
def journal(server, env, tmp_path):
    """A job of two, one of which the server refuses to run again."""
    path = tmp_path / "night.journal"
    known, running = server.store.ids("completed")[0], server.store.ids("cancelled")[0]
    server.store.set_status(running, "processing")
    ended = in_pipe(["ingestions", "rerun", known, running, "-y", "--journal", str(path)], env)
    assert (ended.code, len(ended.out.splitlines())) == (1, 2)
    assert "Of 2: " in ended.err
    return path


def with_stderr_on_terminal(args, env):
    """Run the command with its results in a pipe, and the rest on a terminal."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [*PROGRAM, *args], env=env, stdin=slave, stdout=subprocess.PIPE, stderr=slave, text=True
    ) as process:
        os.close(slave)
        out = process.communicate(timeout=50)[0]
    said = os.read(master, 65536).decode() if process.returncode else ""
    os.close(master)
    return process.returncode, out, said


# --- the other kind of output ---


@pytest.mark.no_cover
def test_a_list_in_a_pipe(server, env):
    table = in_pipe(["ingestions", "list", "--limit", "3"], env)
    assert (table.code, table.err) == (0, "")
    header, *rows = [line.split("\t") for line in table.out.splitlines()]
    assert header[:2] == ["workflow_id", "status"]
    assert [row[0] for row in rows] == list(server.store.ids())[:3]
    ids = in_pipe(["ingestions", "list", "-n", "3", "-o", "ids"], env)
    assert ids.out.split() == list(server.store.ids())[:3]
    whole = in_pipe(["ingestions", "list", "-n", "2", "-o", "json", "--fields", "status"], env)
    assert [set(item) for item in json.loads(whole.out)] == [{"status"}] * 2


def test_waiting_on_a_terminal(server, env):
    good, bad = server.store.ids("completed")[1], server.store.ids("failed")[0]
    ended = on_terminal(["ingestions", "wait", good, bad], env)
    assert ended.code == 1
    assert "\x1b[32mcompleted" in ended.out
    assert "\x1b[31mfailed" in ended.out
    assert ended.out.rstrip().endswith("Of 2: 1 done, 1 failed.")


@pytest.mark.no_cover
def test_runs_in_a_pipe_and_on_a_terminal(server, env):
    book = server.store.runs
    failed, running = book.newest("FAILED").id, book.newest("RUNNING").id
    shown = in_pipe(["runs", "get", failed, "-o", "json"], env)
    assert (shown.code, shown.err) == (0, "")
    assert json.loads(shown.out)["status"] == "FAILED"
    waited = on_terminal(["runs", "wait", failed], env)
    assert waited.code == 1
    assert re.match(rf"{failed}  \x1b\[31mFAILED", waited.out)
    reported = on_terminal(["runs", "callback", running, "--status", "completed"], env)
    assert (reported.code, click.unstyle(reported.out)) == (0, f"{running}  accepted\n")
    again = in_pipe(["runs", "callback", running, "--status", "COMPLETED"], env)
    assert (again.code, again.out.splitlines()[1]) == (0, f"{running}\talready_terminal")


@pytest.mark.no_cover
def test_jobs_in_a_pipe(env, journal):
    listed = in_pipe(["jobs", "list", str(journal), "-o", "ndjson"], env)
    assert (listed.code, listed.err) == (0, "")
    assert json.loads(listed.out)["state"] == "finished"
    table = in_pipe(["jobs", "list", str(journal)], env)
    assert "1 accepted, 1 refused" in table.out
    shown = in_pipe(["jobs", "show", str(journal)], env)
    assert (shown.code, shown.err) == (0, "")
    assert re.search(r"counts:\n  accepted: 1\n  refused:  1\n", shown.out)
    retried = in_pipe(["jobs", "retry-failed", str(journal), "-y"], env)
    assert retried.code == 1
    assert json.loads(retried.out)["state"] == "refused"
    assert "The job's journal: " in retried.err


@pytest.mark.no_cover
def test_jobs_on_a_terminal(env, journal):
    shown = on_terminal(["jobs", "show", str(journal)], env)
    assert shown.code == 0
    assert re.search(r"created_at: .* \((now|\d+\w ago)\)", shown.out)
    exported = on_terminal(["jobs", "export", str(journal)], env)
    assert (exported.code, json.loads(exported.out)["counts"]["accepted"]) == (0, 1)
    resumed = on_terminal(["jobs", "resume", str(journal)], env)
    assert resumed.code == 1
    assert "Of 2: 1 accepted, 1 refused." in resumed.out
    assert f"jobs retry-failed {journal}" in resumed.out.replace("\n", "")
    asked = Terminal(["jobs", "retry-failed", str(journal)], env)
    asked.read_until("Run 1 ingestion again at ")
    asked.type("n\n")
    kept = asked.end()
    assert kept.code == 1
    assert kept.out.endswith("Nothing was done.\n")


@pytest.mark.no_cover
def test_deleting_a_job_in_a_pipe_and_on_a_terminal(env, journal):
    unasked = in_pipe(["jobs", "delete", str(journal)], env)
    assert (unasked.code, unasked.out) == (2, "")
    assert "--yes" in unasked.err
    asked = Terminal(["jobs", "delete", str(journal)], env)
    asked.read_until("[y/N]")
    asked.type("n\n")
    kept = asked.end()
    assert (kept.code, journal.exists()) == (1, True)
    gone = in_pipe(["jobs", "delete", str(journal), "--yes"], env)
    assert (gone.code, journal.exists()) == (0, False)
    again = on_terminal(["jobs", "delete", str(journal), "--yes"], env)
    assert again.code == 2
    assert "Error: " in again.out


@pytest.mark.no_cover
def test_a_dry_run_in_a_pipe_and_on_a_terminal(server, env):
    args = ["ingestions", "rerun", "--status", "failed", "--dry-run"]
    failed = len(server.store.ids("failed"))
    piped, shown = in_pipe(args, env), on_terminal(args, env)
    for result in (piped, shown):
        assert result.code == 0
        assert f"Would run again:  {failed}" in result.out
        assert "Nothing was changed." in result.out
    assert piped.err == ""
    report = json.loads(in_pipe([*args, "-o", "json"], env).out)
    assert report["by_status"] == {"failed": failed}
    assert server.request_counts["bulk_rerun_ingestions"] == 0


# --- streams, colors, endings ---


def test_results_stay_apart_from_progress(server, env):
    slow = ["ingestions", "list", "-o", "ids"]
    code, out, _ = with_stderr_on_terminal(slow, env)
    assert (code, out.split()) == (0, list(server.store.ids()))
    code, out, said = with_stderr_on_terminal(["ingestions", "get", "nope"], env)
    assert (code, out) == (3, "")
    assert said.startswith("\x1b[31mError: ")


@pytest.mark.no_cover
@pytest.mark.parametrize("how", ["NO_COLOR", "--no-color", "TERM"])
def test_colors_can_be_turned_off(env, how):
    more = {"NO_COLOR": {"NO_COLOR": "1"}, "TERM": {"TERM": "dumb"}}.get(how, {})
    options = [how] if how.startswith("--") else []
    shown = on_terminal(["ingestions", "list", "-n", "3", *options], env | more)
    assert shown.code == 0
    assert not re.search(r"\x1b\[\d*m", shown.out)
    missing = on_terminal([*options, "ingestions", "get", "nope"], env | more)
    assert missing.code == 3
    assert not re.search(r"\x1b\[\d*m", missing.out)


@pytest.mark.no_cover
@pytest.mark.parametrize(
    "args",
    [
        ["ingestions", "list"],
        ["ingestions", "list", "-o", "json"],
        ["watch", "-o", "ndjson"],
        ["ingestions", "get", "--help"],
    ],
)
def test_a_reader_that_is_gone_is_no_error(env, args):
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen(
        [*PROGRAM, *args], env=env, stdout=writer, stderr=subprocess.PIPE, text=True
    ) as process:
        os.close(writer)
        assert process.communicate(timeout=50)[1] == ""
    assert process.returncode == 0


def test_a_watch_in_a_pipe_that_is_interrupted(server, env):
    server.store.set_status(id_ := server.store.ids("failed")[5], "processing")
    with subprocess.Popen(
        [*PROGRAM, "watch", id_],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as watching:
        assert json.loads(watching.stdout.readline())["current"] == "processing"
        os.killpg(watching.pid, signal.SIGINT)
        out, err = watching.communicate(timeout=50)
    assert (watching.returncode, out) == (130, "")
    assert f"Go on with: ks-async watch {id_}" in err
    assert "Traceback" not in err


@pytest.mark.no_cover
def test_a_traceback_comes_only_with_debug(env):
    plain = in_pipe(["ingestions", "get", "nope"], env)
    assert (plain.code, len(plain.err.splitlines())) == (3, 2)
    told = in_pipe(["ingestions", "get", "nope", "--debug"], env)
    assert told.code == 3
    assert "GET /v1/system-jobs/document_versions/nope -> 404" in told.err
    assert KEY not in told.err


@pytest.mark.no_cover
def test_the_key_is_no_argument(env):
    for option in ("--api-key", "--key", "--token"):
        refused = in_pipe(["ingestions", "list", option, "sk-user-x"], env)
        assert (refused.code, refused.out) == (2, "")
        assert len(refused.err.splitlines()) == 2


def test_version_and_help():
    told = in_pipe(["--version"], environment())
    assert (told.code, told.out, told.err) == (0, f"ks-async {ks.__version__}\n", "")
    shown = on_terminal(["watch", "--help"], environment())
    assert shown.code == 0
    assert "Examples:\n  ks-async watch\n" in shown.out
    bare = in_pipe([], environment())
    assert (bare.code, bare.out) == (2, "")


@pytest.mark.parametrize(
    "args", [["--help"], ["watch", "--help"], ["ingestions", "list", "--help"]]
)
def test_what_only_some_commands_need_is_not_imported_at_the_start(args):
    line = [sys.executable, "-X", "importtime", *PROGRAM[1:], *args]
    told = subprocess.run(line, env=environment(), capture_output=True, text=True, check=True)
    imported = {entry.rpartition("|")[2].strip() for entry in told.stderr.splitlines()}
    assert "knowledgestack_async.cli.app" in imported
    assert not imported & {"rich", "knowledgestack_async.sandbox", "prometheus_client"}


@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["ingestions", "list", "-n", "1", "-o", "ids"], 0, "ingest-"),
        (["runs", "get", SANDBOX_RUN, "-o", "ndjson"], 0, SANDBOX_RUN),
        (["runs", "wait", SANDBOX_RUN], 1, "FAILED"),
        (["ingestions", "rerun", "-s", "failed", "-y"], 0, "accepted"),
        (["watch", "-s", "failed", "--exit-status"], 1, "failed"),
        (["workflows", "status", "nope"], 3, ""),
    ],
)
def test_a_sandbox_serves_any_command(args, code, said):
    ended = in_pipe([*args, "--sandbox"], environment())
    assert ended.code == code
    assert said in ended.out
    first = in_pipe(["--sandbox", *args], environment())
    assert (first.code, first.out[:20]) == (code, ended.out[:20])


def test_a_screen_gives_the_terminal_back(server, env):
    server.store.set_status(id_ := server.store.ids("failed")[7], "processing")
    watching = Terminal(["watch", id_], env, 140)
    watching.read_until("of 1 over")
    server.store.set_status(id_, "completed")
    ended = watching.end()
    assert ended.code == 0
    assert ended.out.count("\x1b[?1049h") == ended.out.count("\x1b[?1049l") == 1
    assert ended.out.count("\x1b[?25l") == ended.out.count("\x1b[?25h")
    after = click.unstyle(ended.out.rpartition("\x1b[?1049l")[2])
    assert re.search(r"After \d+ s: 1 completed\.\n$", after)
