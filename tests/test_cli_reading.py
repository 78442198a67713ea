"""What a person reads of the command: screens, sheets, and lines that say what to do."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import attrs
import pytest
from rich.console import Console
from test_cli_support import make_cli, served

import knowledgestack_async as ks
from knowledgestack_async.cli import app, demo
from knowledgestack_async.cli.canvas import bar
from knowledgestack_async.cli.exits import NO_API_HERE, explain
from knowledgestack_async.cli.folders import SUFFIX, job_name, jobs_folder
from knowledgestack_async.cli.job_view import draw_job
from knowledgestack_async.cli.observed import Observed
from knowledgestack_async.cli.output import readable
from knowledgestack_async.cli.text import flat
from knowledgestack_async.cli.watch_view import draw_watch
from knowledgestack_async.rerun_report import cause_of

BOTH = ("stdin", "stdout", "stderr")

PROGRESS = ks.RerunProgress(
    counts={"accepted": 1200},
    total=3000,
    done=1200,
    in_flight=400,
    rate=12.5,
    eta=64.0,
    paused=None,
    elapsed=96.0,
)
SUMMARY = ks.WatchSummary(
    counts={"completed": 3200},
    total=3200,
    finished=3200,
    missing=0,
    rate=None,
    eta=None,
    stalled=(),
    last_error=None,
    elapsed=1.0,
    is_complete=False,
)


@attrs.frozen
class Watch:
    """A watch whose summary is made up."""

    summary: ks.WatchSummary


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path):
    return make_cli(monkeypatch, capsys, tmp_path)


def lines_of(renderable, width=80):
    console = Console(file=io.StringIO(), width=width, height=24)
    console.print(renderable)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


# --- screens ---


def screen_of(summary, *, is_everything=True):
    seen = Observed("Watching all", Watch(summary), is_everything=is_everything)
    return lines_of(draw_watch(seen, 80, 24))


def test_a_first_look_that_is_not_over_doesnt_claim_that_all_are_over():
    lines = screen_of(SUMMARY)
    assert lines[2].endswith("3,200 so far")
    assert any("looking for the first time" in line for line in lines)
    assert not any("all are over" in line for line in lines)
    named = screen_of(attrs.evolve(SUMMARY, total=10_000), is_everything=False)
    assert named[2].endswith("3,200 of 10,000 over")


def test_a_tenant_without_ingestions_is_told():
    nothing = attrs.evolve(SUMMARY, counts={}, total=0, finished=0, is_complete=True)
    assert any("there are none yet" in line for line in screen_of(nothing))


@pytest.mark.parametrize("total", [1, 10_000, 1_000_000])
@pytest.mark.parametrize("width", [40, 80, 140])
def test_a_bar_fills_its_line_whatever_the_numbers(total, width):
    for done in (0, total // 2, total):
        [line] = lines_of(bar(done, total, "done", width), width)
        assert len(line) == width
        assert line.endswith(f" {done:,} of {total:,} done")


def test_a_job_that_is_stopping_says_so_in_eighty_columns():
    line = lines_of(draw_job(PROGRESS, stopping=True, width=80))[2]
    assert line == "1m 36s  ·  400 in flight  ·  stopping: what is on its way is waited for"


# --- sheets ---


def test_a_text_that_looks_like_a_time_stays_a_text():
    told = readable({"document_name": "20240101", "error": "2024-01-01", "start_time": "soon"})
    assert told == {"document_name": "20240101", "error": "2024-01-01", "start_time": "soon"}
    assert readable({"created_at": "20240101"}) == {"created_at": "20240101"}  # it has no zone


def test_times_and_numbers_inside_a_record_are_readable():
    told = readable({"published": {"at": "2026-01-01T00:00:00+00:00", "rate": 134.7277, "n": 3}})
    assert told["published"]["at"].endswith(" ago)")
    assert told["published"] | {"at": ""} == {"at": "", "rate": "134.7", "n": 3}


def test_counts_on_one_line_keep_their_words():
    assert flat({"accepted": 2900, "planned": 100}) == "2900 accepted, 100 planned"
    assert flat({"first_name": "Lea", "is_new": True}) == "Lea yes"
    assert flat({}) == ""


def test_the_scheme_of_an_address_is_no_number():
    assert cause_of("converting s3://docs/4155c8eb/part 27") == "converting s3://docs/…/part #"
    assert cause_of("at port 80 of http2://x") == "at port # of http2://x"


# --- what to do ---


def test_a_list_that_is_not_there_means_that_the_api_is_not():
    facts = {"method": "GET", "status": 404, "hint": "Check the id."}
    missing = ks.NotFound("Not Found", path="/v1/workflows/document_versions", **facts)
    assert explain(missing)[1].strip() == NO_API_HERE
    one = ks.NotFound("Not Found", path="/v1/workflows/document_versions/x", **facts)
    assert explain(one)[1].strip() == "Check the id."


def test_a_job_in_the_usual_folder_is_called_by_its_name(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert job_name(jobs_folder() / f"night{SUFFIX}") == "night"
    assert job_name(Path(f"other/night{SUFFIX}")) == str(Path("other", f"night{SUFFIX}"))


@pytest.mark.parametrize(
    ("file", "said"), [("x.db", "Error: No space left on device: x.db"), (None, "device\n")]
)
def test_what_the_system_refuses_is_foreseen(cli, monkeypatch, file, said):
    def refuse(*_args, **_settings):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file)

    monkeypatch.setattr(app.app, "main", refuse)
    result = cli("ingestions", "list")
    assert result.code == 1
    assert said in result.err
    assert "may not be whole" in result.err
    assert len(result.err.splitlines()) == 2


def test_a_port_that_is_taken_is_told(cli):
    with served() as sandbox:
        port = sandbox.base_url.rpartition(":")[2]
        result = cli("sandbox", "--port", port)
    assert result.code == 2
    assert result.err.startswith(f"Error: can't listen on 127.0.0.1:{port}: ")
    assert "another port" in result.err


@pytest.mark.parametrize(
    "args",
    [
        ("sandbox", "--speed", "0"),
        ("sandbox", "--latency", "-1"),
        ("sandbox", "--trickle", "-1"),
        ("demo", "--seconds", "0"),
        ("demo", "--ingestions", "9"),
    ],
)
def test_a_sandbox_with_impossible_numbers_is_wrong_usage(cli, args):
    result = cli(*args)
    assert result.code == 2
    assert "is not in the range" in result.err


def test_the_demo_ends_in_whole_words(cli, monkeypatch):
    monkeypatch.setattr(demo, "LOOK_AGAIN_AFTER", 0.01)
    result = cli("demo", "--ingestions", "30", "--seconds", "0.1", tty=BOTH, width=40)
    assert result.code == 0
    told = result.out.partition(" done")[2]
    sums = told[told.index(" of 30 ingestions") - 2 :].partition("\n\n")[0].splitlines()
    assert all(len(line) <= 40 for line in sums)
    assert " ".join(sums).endswith("were sent again.")
    assert result.out.endswith(
        "KS_BASE_URL set:\n  ks-async ingestions rerun --status failed --wait --yes\n"
    )


def test_a_dry_run_knows_that_a_rate_makes_bulk_reruns_smaller(cli):
    with served(dialect="system-jobs") as sandbox:
        cli.aim_at(sandbox)
        failed = len(sandbox.store.ids("failed"))
        args = ("ingestions", "rerun", "-s", "failed", "--dry-run", "-o", "json")
        plain, slow = (
            cli(*args, "--fields", "reruns", *more).out for more in ((), ("--rate", "1"))
        )
    assert '"reruns": 1\n' in plain
    assert f'"reruns": {failed}\n' in slow
