"""Bulk reruns on the command line: asked, shown, interrupted, resumed, looked into."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import re
import signal
import sqlite3
from pathlib import Path

import click
import pytest
from test_cli_support import interrupt_at, make_cli, served

import knowledgestack_async as ks
from knowledgestack_async._journal import SqliteJournal
from knowledgestack_async.cli import ids as ids_module
from knowledgestack_async.cli import jobfiles, running
from knowledgestack_async.cli.again import command_line
from knowledgestack_async.cli.folders import state_folder
from knowledgestack_async.cli.job_view import draw_job
from knowledgestack_async.cli.jobfiles import JobFile
from knowledgestack_async.cli.options import Options
from knowledgestack_async.cli.pace import How
from knowledgestack_async.sandbox import Fault

BOTH = ("stdin", "stdout", "stderr")
RERUN = "rerun_ingestion_workflow"


@pytest.fixture
def server():
    """A sandbox of this test's own, which has no bulk reruns."""
    with served(dialect="offset", pipeline_seconds=(0.02, 0.05), ingestions=40) as sandbox:
        yield sandbox


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path, server):
    return make_cli(monkeypatch, capsys, tmp_path, server)


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "own.journal"


def lines_of(result):
    return [json.loads(line) for line in result.out.splitlines()]


def reruns(server):
    return server.request_counts[RERUN]


# --- rerun ---


def test_reruns_are_sent_once_each(cli, server):
    ids = list(server.store.ids("failed"))
    piped = "\n".join([*ids, *ids])
    result = cli("ingestions", "rerun", "-", "--yes", "--concurrency", "4", stdin=piped)
    assert result.code == 0
    assert {item["workflow_id"]: item["state"] for item in lines_of(result)} == dict.fromkeys(
        ids, "accepted"
    )
    assert f"Of {len(ids)}: {len(ids)} accepted." in result.err
    assert "The job's journal: " in result.err
    assert reruns(server) == len(ids)


@pytest.mark.parametrize("answer", ["y", "n"])
def test_a_rerun_asks_first(cli, server, answer):
    id_ = server.store.ids("failed")[0]
    result = cli("ingestions", "rerun", id_, tty=BOTH, stdin=f"{answer}\n")
    assert f"Run 1 ingestion again at {server.base_url}? [y/N]" in result.err
    assert result.code == (0 if answer == "y" else 1)
    assert ("Nothing was done." in result.err) is (answer == "n")
    assert reruns(server) == (answer == "y")
    assert (f"{id_}  accepted" in click.unstyle(result.out)) is (answer == "y")


def test_all_that_failed_are_run_again_and_followed(cli, server, journal):
    failed = len(server.store.ids("failed"))
    result = cli(
        *("ingestions", "rerun", "--status", "failed", "--wait", "--canary", "2"),
        *("--journal", str(journal), "--rate", "500", "--max-in-flight", "20"),
        tty=BOTH,
        stdin="y\n",
    )
    assert result.code == 0
    assert f"Run {failed} ingestions again at {server.base_url}?" in result.err
    assert f"The new runs: {failed} completed." in result.err
    assert "Taking down what they are like" in click.unstyle(result.err)
    assert result.out == ""
    assert journal.exists()


def test_a_status_that_none_has_is_nothing_to_do(cli, server):
    for command in (("ingestions", "rerun", "--yes"), ("watch",)):
        result = cli(*command, "-s", "quota_limit", "-s", "odd")
        assert (result.code, result.out) == (0, "")
        assert result.err == (
            "--status odd: nothing has it, and known are pending, processing, completed, failed, "
            "cancelled, quota_limit.\n"
            "No ingestions are quota_limit or odd now: nothing to do.\n"
        )


def test_a_list_of_a_misspelt_status_says_which_there_are(cli, server):
    result = cli("ingestions", "list", "-s", "faild", "-s", "failed", "-o", "ids")
    assert (result.code, bool(result.out)) == (0, True)
    assert result.err.startswith("--status faild: nothing has it, and known are pending, ")


def test_a_rerun_of_nothing_is_an_empty_list(cli, server):
    for command in (("-s", "quota_limit"), ("-",)):
        result = cli("ingestions", "rerun", "--yes", "-o", "json", *command, stdin="")
        assert (result.code, result.out) == (0, "[]\n")


def test_a_dry_run_of_nothing_says_so(cli, server):
    result = cli("ingestions", "rerun", "-s", "quota_limit", "--dry-run", "-o", "json")
    assert (result.code, json.loads(result.out)["targets"]) == (0, 0)
    result = cli("ingestions", "rerun", "-s", "quota_limit", "--dry-run")
    assert "Would run again:  0" in result.out


def test_a_job_that_is_not_there_is_told_before_anything_is_asked(cli):
    result = cli("jobs", "retry-failed", "nosuch")
    assert result.code == 2
    assert "there is no job 'nosuch'" in result.err


def test_no_ids_are_nothing_to_do(cli, server):
    result = cli("ingestions", "rerun", "-", "--yes", stdin="\n")
    assert (result.code, result.out, result.err) == (0, "", "No ids came: nothing to do.\n")


def test_ids_come_from_a_file(cli, server, tmp_path):
    *ids, other = list(server.store.ids("failed"))[:4]
    file = tmp_path / "ids.txt"
    file.write_text("\ufeff" + "\n\n".join(ids) + "\n-\n", encoding="utf-8")
    rerun = ("ingestions", "rerun", "--yes", "-o", "ids", "--from")
    assert sorted(cli(*rerun, str(file)).out.split()) == sorted(ids)
    file.write_bytes(b"\xff\xff\xff")
    assert "can't be read as a list of ids" in cli(*rerun, str(file)).err
    assert cli(*rerun, "-", stdin=other).code == 0


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--yes",), "say which"),
        (("x", "--status", "failed", "--yes"), "one of them"),
        (("-",), "--yes"),
        (("--from", "-"), "--yes"),
        (("x",), "--yes"),
        (("x", "--yes", "--abort-over", "2"), "--abort-over"),
        (("a/b", "--yes"), "a/b"),
        (("--yes", "--from", "/nowhere"), "/nowhere"),
    ],
)
def test_wrong_usage_sends_nothing(cli, server, args, said):
    result = cli("ingestions", "rerun", *args)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert not server.effects


def test_a_journal_is_no_list_of_ids(cli, server, journal):
    rerun = ("ingestions", "rerun", "--yes")
    assert cli(*rerun, server.store.ids("failed")[0], "--journal", str(journal)).code == 0
    result = cli(*rerun, "--from", str(journal))
    assert result.code == 2
    assert "retry-failed" in result.err


def test_a_job_that_is_finished_is_not_taken_for_a_new_one(cli, server, journal):
    rerun = ("ingestions", "rerun", "--journal", str(journal))
    first, second = server.store.ids("failed")[:2]
    assert cli(*rerun, first, "--yes").code == 0
    for result in (cli(*rerun, second, "--yes"), cli(*rerun, second, tty=BOTH, stdin="y\n")):
        assert (result.code, result.out) == (2, "")
        said = " ".join(click.unstyle(result.err).split())
        assert said.startswith(
            f"Error: {journal} holds a job that is finished; take another --journal, or "
            f"'ks-async jobs retry-failed {journal}'."
        )
    assert reruns(server) == 1


def test_a_job_of_which_only_unknown_ones_are_left_goes_on(cli, server, journal):
    id_ = server.store.ids("failed")[0]
    server.faults.add(Fault("close", when="after", id=id_, method="POST", times=1))
    rerun = ("ingestions", "rerun", id_, "--journal", str(journal))
    assert cli(*rerun, "--yes").code == 5
    again = cli(*rerun, tty=BOTH, stdin="y\n")
    assert f"Go on with the 1 that is left, at {server.base_url}?" in again.err
    assert (again.code, reruns(server)) == (0, 1)


def test_ids_that_do_not_exist_are_not_found(cli, server, journal):
    first, second = server.store.ids("failed")[:2]
    result = cli("ingestions", "rerun", "nope", first, "--yes", "--journal", str(journal))
    assert result.code == 3
    assert result.err == "Of 2: 1 refused, 1 accepted.\nnot found: nope\n"
    assert cli("jobs", "resume", str(journal)).code == 3
    gone = {"detail": "No such ingestion"}  # one that names nothing may be a proxy's
    server.faults.add(Fault("status", status=404, body=gone, id=second, method="POST"))
    assert cli("ingestions", "rerun", second, "--yes").code == 3
    server.faults.clear()
    server.faults.add(Fault("status", status=409, id=second, method="POST"))
    worse = cli("ingestions", "rerun", "nope", second, "--yes")
    assert worse.code == 1
    assert re.search(r"Of 2: 2 refused.\n +1  .*\nnot found: nope\nTry those", worse.err)


def test_an_unknown_outcome_is_5_and_settled_later(cli, server, journal):
    first, second = server.store.ids("failed")[:2]
    server.faults.add(Fault("close", when="after", id=first, method="POST", times=1))
    result = cli(
        *("ingestions", "rerun", first, second, "--yes", "-o", "json", "--journal", str(journal))
    )
    assert result.code == 5
    states = {item["workflow_id"]: item["state"] for item in json.loads(result.out)}
    assert states == {first: "unknown", second: "accepted"}
    assert f"Nobody can tell whether these ran:\n  {first}\n" in result.err
    assert f"Look again with: ks-async jobs resume {journal}" in result.err
    shown = json.loads(cli("jobs", "show", str(journal), "-o", "json").out)
    assert shown["unknown"] == [first]
    resumed = cli("jobs", "resume", str(journal))
    assert (resumed.code, resumed.err) == (0, "Of 2: 2 accepted.\n")
    assert len(server.effects) == 2


def test_what_is_unknown_is_sent_again_only_if_told(cli, server, journal):
    id_ = server.store.ids("failed")[0]
    server.faults.add(Fault("close", when="before", id=id_, method="POST", times=1))
    assert cli("ingestions", "rerun", id_, "--yes", "--journal", str(journal)).code == 5
    assert cli("jobs", "resume", str(journal)).code == 5
    assert not server.effects
    with sqlite3.connect(journal) as file:
        file.execute("UPDATE item SET changed_at = '2020-01-01T00:00:00+00:00'")
    file.close()
    assert cli("jobs", "resume", str(journal), "--resend-unknown").code == 0
    assert len(server.effects) == 1


def test_a_canary_that_fails_stops_the_job(cli, journal):
    rerun = ("ingestions", "rerun", "--status", "failed", "--yes", "--journal", str(journal))
    settings = {"rerun_outcomes": {"failed": 1.0}, "pipeline_seconds": (0.01, 0.02)}
    with served(dialect="offset", **settings) as server:
        cli.aim_at(server)
        result = cli(*rerun, "--canary", "3", "--abort-over", "0.5")
        assert reruns(server) == 3
    assert result.code == 1
    assert "Stopped: 3 of the first 3 failed again." in result.err
    assert f"Go on with: ks-async jobs resume {journal}" in result.err
    assert lines_of(cli("jobs", "list", str(journal), "-o", "ndjson"))[0]["state"] == "unfinished"


def test_many_causes_and_many_ids_are_cut_short(cli, server):
    ids = list(server.store.ids("failed"))[:6]
    screen = Options().screen
    running.print_causes(screen, {"one": 3, "two\x1b": 2, "three": 1}, most=2)
    running.print_ids(screen, ids, most=2)
    said = cli("completion", "fish").err
    assert said.splitlines() == [
        "      3  one",
        "      2  two ",
        "         and 1 other causes",
        f"  {ids[0]}",
        f"  {ids[1]}",
        "  and 4 more",
    ]


def test_what_is_refused_is_1_and_can_be_tried_again(cli, server, journal, tmp_path):
    first, second = server.store.ids("failed")[:2]
    refused = server.faults.add(Fault("status", status=409, id=first, method="POST"))
    rerun = ("ingestions", "rerun", first, second, "--yes", "--journal", str(journal))
    result = cli(*rerun)
    assert result.code == 1
    assert "1 refused" in result.err
    assert f"retry-failed {journal}" in result.err
    again = ("jobs", "retry-failed", str(journal))
    assert cli(*again).code == 2
    assert cli(*again, "--yes", "--journal", str(journal)).code == 2
    refused.remove()
    kept = cli(*again, tty=BOTH, stdin="n\n")
    assert (kept.code, reruns(server)) == (1, 2)
    assert "Run 1 ingestion again at" in kept.err
    other = tmp_path / "second.journal"
    done = cli(*again, "--yes", "--wait", "--journal", str(other))
    assert [(item["workflow_id"], item["outcome"]) for item in lines_of(done)] == [
        (first, "completed")
    ]
    assert cli("jobs", "retry-failed", str(other), "--yes").err.startswith("Nothing went wrong")


def test_a_job_of_another_server_is_left_alone(cli, server, journal):
    rerun = ("ingestions", "rerun", server.store.ids("failed")[0], "--yes")
    assert cli(*rerun, "--journal", str(journal)).code == 0
    for command in ("resume", "retry-failed"):
        result = cli("jobs", command, str(journal), *["--yes"][: command != "resume"], "--sandbox")
        assert result.code == 2
        assert server.base_url in result.err


def test_unknown_ones_are_not_retried(cli, server, journal):
    first, second = server.store.ids("failed")[:2]
    server.faults.add(Fault("close", when="before", id=first, method="POST"))
    server.faults.add(Fault("status", status=409, id=second, method="POST"))
    assert cli("ingestions", "rerun", first, second, "--yes", "--journal", str(journal)).code == 5
    result = cli("jobs", "retry-failed", str(journal), "--yes")
    assert "1 are unknown, and left as they are." in result.err
    assert [item["workflow_id"] for item in lines_of(result)] == [second]


def test_a_wrong_key_is_4(cli, server, monkeypatch):
    monkeypatch.setenv("KS_API_KEY", "sk-user-other")
    rerun = ("ingestions", "rerun", "x", "--yes", "--dialect", "offset")
    assert cli(*rerun).code == 4
    assert cli(*rerun, "--wait").code == 4


def test_what_tasks_ended_with_is_told_in_a_line(cli, server, journal, monkeypatch):
    async def full(*_args):
        raise ks.JournalError("the disk is full")

    monkeypatch.setattr(SqliteJournal, "claim", full)
    rerun = ("ingestions", "rerun", server.store.ids("failed")[0], "--yes")
    result = cli(*rerun, "--journal", str(journal))
    assert (result.code, "Error: the disk is full" in result.err) == (2, True)

    async def broken(*_args):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(SqliteJournal, "claim", broken)
    assert "ZeroDivisionError: oh" in cli(*rerun).err


# --- interrupted and resumed ---


def test_ctrl_c_stops_cleanly_and_the_job_goes_on_later(cli, server, journal):
    interrupt_at(server, RERUN, 3)
    failed = len(server.store.ids("failed"))
    rerun = ("ingestions", "rerun", "--status", "failed", "--yes", "--journal", str(journal))
    result = cli(*rerun, "--concurrency", "1", tty=BOTH)
    assert result.code == 130
    assert "Stopped: " in result.err
    assert f"Go on with: ks-async jobs resume {journal} --concurrency 1\n" in result.err
    sent = reruns(server)
    assert 3 <= sent < failed
    again = cli("ingestions", "rerun", "x", "--journal", str(journal), tty=BOTH, stdin="n\n")
    assert (again.code, reruns(server)) == (1, sent)
    assert f"Go on with the {failed - sent} that are left, at {server.base_url}?" in again.err
    done = cli(*rerun, "--concurrency", "1")
    assert done.code == 0
    assert f"has a job of {failed} already" in done.err
    assert reruns(server) == failed
    assert cli("jobs", "resume", str(journal)).code == 0
    assert reruns(server) == failed


def test_ctrl_c_before_anything_is_sent(cli, server, journal):
    interrupt_at(server, "list_ingestion_workflows", 2)
    server.faults.add(Fault("status", status=400, route="list_ingestion_workflows", after=1))
    rerun = ("ingestions", "rerun", server.store.ids("failed")[0], "--yes", "--dialect", "offset")
    result = cli(*rerun, "--journal", str(journal))
    assert result.code == 130
    assert "Stopped before anything was sent." in result.err
    assert not server.effects
    server.before_request = None
    server.faults.clear()
    resumed = cli("jobs", "resume", str(journal))
    assert resumed.code == 2
    assert f"--journal {journal}" in resumed.err
    assert lines_of(cli("jobs", "list", str(journal), "-o", "ndjson"))[0]["state"] == "not planned"
    assert cli(*rerun, "--journal", str(journal)).code == 0


def test_a_sandboxs_job_has_no_command_that_resumes_it(cli, server, monkeypatch):
    monkeypatch.setattr("knowledgestack_async.cli.running.is_missing", lambda _outcome: False)
    result = cli("--sandbox", "ingestions", "rerun", "nope", "--yes")
    assert "Of 1: 1 refused." in result.err
    assert "ks-async" not in result.err
    assert "No jobs in" in cli("jobs", "list").err
    options = Options(sandbox=True)

    class Run:
        how = How()

    Run.options, Run.screen = options, options.screen
    running._tell_how_to_go_on(Run, "Go on with")


def test_ctrl_c_ends_a_question(cli, server, monkeypatch):
    def pressed(*_args, **_settings):
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise click.Abort from None

    monkeypatch.setattr(ids_module.click, "confirm", pressed)
    result = cli("ingestions", "rerun", "x", tty=BOTH)
    assert (result.code, result.err) == (130, "Interrupted.\n")


def test_a_reader_that_leaves_stops_the_job(cli, server, journal, monkeypatch):
    def gone(_self, _line):
        raise BrokenPipeError

    monkeypatch.setattr("knowledgestack_async.cli.screen.Screen.out", gone)
    monkeypatch.setattr("knowledgestack_async.cli.app.forget_output", lambda: None)
    rerun = ("ingestions", "rerun", "--status", "failed", "--yes", "--journal", str(journal))
    result = cli(*rerun, "--concurrency", "1")
    assert result.code == 0
    assert "Go on with: ks-async jobs resume" in result.err


# --- dry runs ---


def test_a_table_that_is_asked_for_is_one_in_a_pipe_too(cli, server):
    first, second = server.store.ids("failed")[:2]
    told = cli("ingestions", "rerun", first, "--yes", "-o", "table").out
    assert told.startswith(f"workflow_id\tstate\toutcome\terror\tcode\n{first}\taccepted\t")
    watched = cli("-o", "table", "watch", second).out
    assert watched.startswith("workflow_id\tkind\tcurrent\t")
    for command in (("ingestions", "rerun"), ("watch",), ("jobs", "resume")):
        shown = " ".join(cli(*command, "--help").out.split())
        assert "[default: table, ndjson in a pipe]" in shown
    assert "[default: table]" in " ".join(cli("jobs", "list", "--help").out.split())


def test_a_dry_run_changes_nothing(cli, server, journal):
    failed = len(server.store.ids("failed"))
    rerun = ("ingestions", "rerun", "--dry-run", "--journal", str(journal))
    told = cli(*rerun, "-s", "failed", "--wait", "--canary", "1", "--rate", "2")
    assert told.code == 0
    assert f"Would run again:  {failed}\nBy status:        {failed} failed\n" in told.out
    assert re.search(rf"Requests: +{failed}, and \d lookups, and those that follow", told.out)
    assert f"Time to send:     {failed / 2:.0f} s at least" in told.out
    assert "what the pipelines take" in told.out
    assert not server.effects
    assert not journal.exists()


def test_a_dry_run_looks_bare_ids_up(cli, server):
    ids = list(server.store.ids("failed"))[:4]
    rerun = ("ingestions", "rerun", "--dry-run", *ids, "nope")
    told = cli(*rerun, tty=BOTH)
    assert "Would run again:  4\nDon't exist:      1\n" in told.out
    assert "less than 1 s" in told.out
    assert cli(*rerun, "-o", "ids").out.split() == ids
    estimate = json.loads(cli(*rerun, "-o", "json").out)
    assert (estimate["targets"], estimate["missing"], estimate["reruns"]) == (5, 1, 4)
    done = server.store.ids("completed")[0]
    assert "By cause" not in cli("ingestions", "rerun", "--dry-run", done).out


def test_a_dry_run_counts_bulk_reruns(cli, server, monkeypatch):
    server.switch_dialect("system-jobs")
    monkeypatch.setattr("knowledgestack_async.cli.dry_run._MOST_CAUSES", 1)
    told = cli("ingestions", "rerun", "--dry-run", "-s", "failed", "-s", "completed")
    [alone] = re.findall(r"(\d+) completed", told.out)
    assert f"Requests:         {int(alone) + 1}, and" in told.out
    assert "other causes" in told.out


def test_a_dry_run_fails_where_nothing_can_be_looked_up(cli, server):
    server.faults.add(Fault("status", status=400, method="GET"))
    assert cli("ingestions", "rerun", "--dry-run", "x", "--dialect", "offset").code == 1


# --- jobs ---


def test_jobs_are_listed_shown_and_exported(cli, server, tmp_path):
    empty = cli("jobs", "list")
    assert (empty.code, empty.out) == (0, "")
    assert "No jobs in" in empty.err
    first, second = server.store.ids("failed")[:2]
    server.faults.add(Fault("status", status=409, id=second, method="POST"))
    assert cli("ingestions", "rerun", first, second, "--wait", "--yes").code == 1
    [job] = lines_of(cli("jobs", "list", "-o", "ndjson"))
    assert job["counts"] == {"accepted": 1, "refused": 1}
    assert (job["state"], job["total"], job["left"]) == ("finished", 2, 0)
    listed = click.unstyle(cli("jobs", "list", tty=BOTH, width=140).out)
    assert "1 accepted, 1 refused" in listed
    assert server.base_url in listed
    shown = json.loads(cli("jobs", "show", job["name"], "-o", "json").out)
    assert shown["outcomes"] == {"completed": 1}
    assert list(shown["causes"].values()) == [1]
    waits = cli("jobs", "show", job["name"], "-o", "json", "--fields", "settings.wait")
    assert json.loads(waits.out) == {"settings.wait": True}
    sheet = cli("jobs", "show", job["path"], tty=BOTH, width=70).out
    assert "settings:" in sheet
    exported = json.loads(cli("jobs", "export", job["name"]).out)
    assert {item["workflow_id"] for item in exported["items"]} == {first, second}
    rows = list(csv.DictReader(io.StringIO(cli("jobs", "export", job["name"], "-o", "csv").out)))
    assert [row["workflow_id"] for row in rows] == [first, second]


def test_journals_that_can_not_be_read_are_told(cli, server, tmp_path):
    foreign = tmp_path / "foreign.journal"
    foreign.write_text("no database at all, not even nearly one")
    [job] = lines_of(cli("jobs", "list", str(tmp_path), "-o", "ndjson"))
    assert job["state"] == "unreadable"
    assert "is not a journal" in cli("jobs", "list", str(tmp_path)).out
    for command in (("show",), ("resume",), ("export",), ("retry-failed", "--yes")):
        result = cli("jobs", *command, str(foreign))
        assert result.code == 2
        assert "is not a journal" in result.err
    missing = cli("jobs", "show", "nope")
    assert missing.code == 2
    assert "no job 'nope'" in missing.err


@pytest.fixture
def in_use(server, journal):
    """A journal that is in use, though by this process."""
    held = SqliteJournal(journal)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(held.open(server.base_url, {"wait": False}))
    yield held, loop
    loop.run_until_complete(held.close())
    loop.close()


def test_a_journal_in_use_is_said_to_be(cli, server, journal, in_use):
    held, loop = in_use
    bare = json.loads(cli("jobs", "show", str(journal), "-o", "json").out)
    assert (bare["state"], bare["process"], bare["published"]) == ("in use", None, {})

    async def publish():
        held.publish({"counts": {"accepted": 3, "planned": 4}, "is_over": False})
        await held.header()

    loop.run_until_complete(publish())
    shown = json.loads(cli("jobs", "show", str(journal), "-o", "json").out)
    assert (shown["process"], shown["counts"]) == (os.getpid(), {"accepted": 3, "planned": 4})
    watched = cli("watch", "--from", str(journal))
    assert watched.code == 0
    assert f"in use by another process (process {os.getpid()})" in watched.err
    assert "4 planned, 3 accepted" in watched.out
    resumed = cli("jobs", "resume", str(journal))
    assert resumed.code == 2
    assert "in use" in resumed.err


# In Python 3.11 coverage loses its place where an exception comes out of an awaited future, as it
# does above: so the lines that follow are run without one, too.
@pytest.mark.parametrize("published", [None, {"process": 7, "counts": {"planned": 2}}])
def test_what_is_told_of_a_journal_that_can_not_be_opened(cli, server, journal, published):
    journal.write_bytes(b"SQLite format 3\0")
    told = JobFile(path=journal, problem="it is so", published=published, counts={"planned": 2})

    async def look(_path):
        return told

    for module in ("jobs", "watch"):
        cli.monkeypatch.setattr(f"knowledgestack_async.cli.{module}.look_into", look)
    code = 2 if published is None else 0
    shown = cli("jobs", "show", str(journal))
    watched = cli("watch", "--from", str(journal))
    assert (shown.code, watched.code) == (code, code)
    assert ("2 planned" in watched.out) is (published is not None)
    assert "it is so" in watched.err
    resumed = cli("jobs", "resume", str(journal))
    assert (resumed.code, resumed.err) == (2, "Error: it is so\n")


def test_a_few_are_told_one_by_one(cli, server):
    id_ = server.store.ids("failed")[0]
    result = cli("ingestions", "rerun", id_, "--yes", tty=("stdout",))
    assert click.unstyle(result.out) == f"{id_}  accepted\n"


def test_a_job_in_use_is_listed_with_its_process(cli, server, journal, in_use):
    held, loop = in_use

    async def publish():
        held.publish({"counts": {"accepted": 3, "planned": 4}, "is_over": False})
        await held.header()

    loop.run_until_complete(publish())
    header, row = cli("jobs", "list", str(journal)).out.splitlines()
    told = dict(zip(header.split("\t"), row.split("\t"), strict=True))
    assert told["state"] == "in use"
    assert told["process"] == str(os.getpid())
    assert told["counts"] == "3 accepted, 4 planned"
    shown = click.unstyle(cli("jobs", "list", str(journal), tty=BOTH, width=140).out)
    assert re.search(rf"own +in use +{os.getpid()} +4 planned, 3 accepted", shown)
    refused = cli("jobs", "delete", str(journal), "--yes")
    assert (refused.code, journal.exists()) == (2, True)
    assert "in use" in refused.err


def test_jobs_are_deleted_if_that_is_meant(cli, server, journal, tmp_path):
    first, second = server.store.ids("failed")[:2]
    assert cli("ingestions", "rerun", first, "--yes").code == 0
    [job] = lines_of(cli("jobs", "list", "-o", "ndjson"))
    server.faults.add(Fault("close", when="before", id=second, method="POST"))
    assert cli("ingestions", "rerun", second, "--yes", "--journal", str(journal)).code == 5
    both = ("jobs", "delete", job["name"], str(journal), job["path"])
    assert cli(*both).code == 2
    kept = cli(*both, tty=BOTH, stdin="n\n")
    assert kept.code == 1
    assert "Delete 2 jobs, 1 of them not finished? [y/N]" in kept.err
    foreign = tmp_path / "notes.txt"
    foreign.write_text("no database at all, not even nearly one")
    refused = cli(*both, str(foreign), "--yes")
    assert (refused.code, foreign.exists(), journal.exists()) == (2, True, True)
    done = cli(*both, "--yes")
    assert (done.code, done.err) == (0, "Deleted 2 jobs.\n")
    assert "No jobs in" in cli("jobs", "list").err
    assert not list(tmp_path.glob("own.journal*"))
    assert cli("ingestions", "rerun", first, "--yes").code == 0
    [last] = lines_of(cli("jobs", "list", "-o", "ndjson"))
    assert "Delete 1 job?" in cli("jobs", "delete", last["name"], tty=BOTH, stdin="y\n").err


def test_names_of_jobs_are_completed(cli, server):
    assert [item.type for item in jobfiles.names_of_jobs(None, None, "re")] == ["file"]
    assert cli("ingestions", "rerun", server.store.ids("failed")[0], "--yes").code == 0
    [job] = lines_of(cli("jobs", "list", "-o", "ndjson"))
    assert [item.value for item in jobfiles.names_of_jobs(None, None, "re")] == [job["name"]]


# --- small parts ---


def test_each_system_has_a_folder_for_state(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    assert state_folder("linux", {}) == Path("/home/me/.local/state")
    assert state_folder("linux", {"XDG_STATE_HOME": "here"}) == Path("/home/me/.local/state")
    assert state_folder("linux", {"XDG_STATE_HOME": "/x"}) == Path("/x")
    assert state_folder("darwin", {}) == Path("/home/me/Library/Application Support")
    assert state_folder("win32", {}) == Path("/home/me/AppData/Local")
    assert state_folder("win32", {"LOCALAPPDATA": "/l"}) == Path("/l")


def test_a_command_line_can_be_typed_again():
    options = Options(base_url="https://x", api_key_file=Path("a b"), allow_plain_http=True)
    assert command_line(options, "watch", "y") == (
        "ks-async --base-url https://x --api-key-file 'a b' --allow-plain-http watch y"
    )
    assert How(rate=2.5, max_in_flight=3).pace == ["--rate", "2.5", "--max-in-flight", "3"]


def progress(**changes):
    known = {
        "counts": {"accepted": 1200, "refused": 3, "planned": 800, "new": 1},
        "total": 2004,
        "done": 1203,
        "in_flight": 40,
        "rate": 12.5,
        "eta": 64.0,
        "paused": None,
        "elapsed": 96.0,
    }
    return ks.RerunProgress(**(known | changes))


def drawn(renderable, width):
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, height=24)
    console.print(renderable)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 80, 140])
def test_a_job_fits_the_terminal(width):
    lines = drawn(draw_job(progress(), stopping=False, width=width), width)
    assert len(lines) == 3
    assert all(len(line.rstrip()) <= width for line in lines)
    assert "1,203 of 2,004 done" in lines[0]
    assert lines[1].startswith("1,200 accepted  3 refused")
    if width >= 80:
        assert lines[2].rstrip().endswith("about 1m 04s left")


def test_a_job_tells_why_it_waits():
    assert "paused: no connection" in "".join(
        drawn(draw_job(progress(paused="no connection", eta=None), stopping=False, width=80), 80)
    )
    assert "stopping" in "".join(drawn(draw_job(progress(), stopping=True, width=80), 80))
    quiet = draw_job(progress(rate=0, eta=None, in_flight=0), stopping=False, width=80)
    assert drawn(quiet, 80)[2].rstrip() == "1m 36s"


def test_without_a_picture_a_line_moves(cli, server, monkeypatch):
    monkeypatch.setattr("knowledgestack_async.cli.screen.Screen.SHOW_AFTER", 0.0)
    monkeypatch.setattr("knowledgestack_async.cli.screen.Screen.TICK", 0.01)
    server.faults.add(Fault("latency", seconds=0.05))
    rerun = ("ingestions", "rerun", server.store.ids("failed")[0], "--yes", "-o", "ndjson")
    result = cli(*rerun, tty=BOTH)
    assert result.code == 0
    assert " of 1 …" in result.err
