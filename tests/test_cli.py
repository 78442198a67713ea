"""Every command, in this process, over a sandbox."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import sys
from email.utils import formatdate

import click
import pytest
from test_cli_support import KEY, interrupt_at, make_cli, served

import knowledgestack_async as ks
from knowledgestack_async import cli as package
from knowledgestack_async.cli import app, checkup, screen, statuses
from knowledgestack_async.cli import sandbox as sandbox_command
from knowledgestack_async.cli.checkup import finding_of
from knowledgestack_async.cli.screen import Screen
from knowledgestack_async.cli.story import Story
from knowledgestack_async.sandbox import Fault, Store
from support import run_module

BOTH = ("stdin", "stdout", "stderr")


@pytest.fixture(scope="module")
def shared():
    """A sandbox that tests only read."""
    with served(dialect="system-jobs", ingestions=120) as sandbox:
        yield sandbox


@pytest.fixture
def server():
    """A sandbox of this test's own."""
    with served(dialect="system-jobs", pipeline_seconds=(0.05, 0.1)) as sandbox:
        yield sandbox


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path, request):
    names = [name for name in ("server", "shared") if name in request.fixturenames]
    sandbox = request.getfixturevalue(names[0]) if names else None
    return make_cli(monkeypatch, capsys, tmp_path, sandbox)


# --- the whole ---


def walk(command, path=("ks-async",)):
    yield " ".join(path[1:]), command
    if isinstance(command, click.Group):
        ctx = click.Context(command)
        for name in command.list_commands(ctx):
            yield from walk(command.get_command(ctx, name), (*path, name))


COMMANDS = [path for path, _ in walk(app.app)]


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_has_help_with_an_example(cli, path):
    result = cli(*path.split(), "--help")
    assert result.code == 0
    assert re.search(r"\nExamples?:\n  \S", result.out)
    assert "ks-async" in result.out.partition("\nExample")[2]
    assert all(len(line) <= 80 for line in result.out.splitlines())
    listed = result.out.partition("\nCommands:\n")[2].partition("\n\n")[0]
    assert "..." not in listed


def test_the_version_is_told(cli):
    assert cli("--version").out == f"ks-async {ks.__version__}\n"


@pytest.mark.parametrize("args", [(), ("runs",)])
def test_a_group_alone_shows_its_help(cli, args):
    result = cli(*args)
    assert result.code == 2
    assert result.err.startswith("Usage: ks-async")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("ingestions", "lst"), "No such command 'lst'. Did you mean list?"),
        (("ingestion",), "Did you mean ingestions?"),
        (("xyz",), "No such command 'xyz'.\n"),
        (("--nope",), "--nope"),
        (("ingestions", "list", "--limit", "0"), "--limit"),
        (("ingestions", "list", "--created-after", "soon"), "ISO time"),
        (("ingestions", "list", "--fields", " , "), "at least one field"),
        (("ingestions", "list", "--fields", "nope"), "no field 'nope'"),
        (("ingestions", "list", "--fields", "uploader.nope"), "there are uploader.user_id, upl"),
        (("ingestions", "list", "--fields", "status.x"), "it has no fields inside"),
        (("runs", "get", "x", "--fields", "run_snapshot.nope"), "no field 'run_snapshot.nope'"),
        (("jobs", "list", "--fields", "nope.x"), "no field 'nope.x'"),
        (("ingestions", "list", "--fields", "error", "--output", "ids"), "doesn't go with"),
        (("ingestions", "get"), "Missing argument"),
        (("ingestions", "get", "a/b"), "a/b"),
        (("--timeout", "0", "doctor"), "--timeout"),
        (("--dialect", "latin", "doctor"), "latin"),
        (("ingestions", "list", "--base-url", "http://example.com"), "--allow-plain-http"),
        (
            ("runs", "callback", "x", "--status", "COMPLETED", "--error", "a", "--error-file", "-"),
            "not both",
        ),
        (("runs", "callback", "x", "--status", "FAILED", "--token-env", "KS_NONE"), "KS_NONE"),
        (("runs", "callback", "x", "--status", "COMPLETED", "--error", "a"), "FAILED only"),
        (("runs", "delete", "x"), "--yes"),
        (("workflows", "cancel", "x"), "--yes"),
        (("ingestions", "rerun", "-"), "--yes"),
    ],
)
def test_wrong_usage_is_told_in_two_lines(cli, shared, args, said):
    result = cli(*args)
    assert result.code == 2
    assert said in result.err
    assert result.err.startswith("Error: ")
    assert len(result.err.splitlines()) <= 2
    assert not result.out


def test_without_a_key_it_says_what_to_do(cli):
    result = cli("ingestions", "list")
    assert result.code == 2
    assert "KS_API_KEY" in result.err
    assert "--api-key-file" in result.err


def test_the_key_may_come_from_a_file(cli, shared, tmp_path, monkeypatch):
    monkeypatch.delenv("KS_API_KEY")
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    assert cli("--api-key-file", str(file), "ingestions", "list", "-n", "1").code == 0
    assert cli("ingestions", "list", "-n", "1", "--api-key-file", str(file)).code == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), (b" \n", "is empty"), (b"\xff\xfe\xfd", "no text")],
)
def test_a_bad_key_file_is_named(cli, tmp_path, content, said):
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    result = cli("--api-key-file", str(file), "doctor", "--output", "json")
    assert result.code == 2
    assert said in result.out
    assert cli("--api-key-file", str(file), "ingestions", "list").code == 2


def test_without_the_extra_one_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(package, "find_spec", lambda name: None if name == "rich" else object())
    assert package.main() == 2
    assert capsys.readouterr().err == (
        "ks-async needs its extra: pip install 'knowledgestack-async[cli]'\n"
    )


def test_it_runs_as_a_module(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ks-async", "--version"])
    with pytest.raises(SystemExit) as ended:
        run_module("knowledgestack_async.cli", monkeypatch)
    assert ended.value.code == 0
    importlib.import_module("knowledgestack_async.cli.__main__")


def test_what_nobody_foresaw_is_said_without_a_traceback(cli, monkeypatch):
    def fail(*_args, **_settings):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(app.app, "main", fail)
    result = cli("doctor")
    assert result.code == 1
    assert "ZeroDivisionError: oh" in result.err
    assert "Traceback" not in result.err


def test_debug_logs_requests_and_shows_tracebacks(cli, shared):
    result = cli("--debug", "ingestions", "get", "nope", "--allow-plain-http")
    assert result.code == 3
    assert "GET /v1/system-jobs/document_versions/nope" in result.err
    assert KEY not in result.err
    result = cli("ingestions", "list", "--status", "nope", "--debug")
    assert "Traceback" in result.err


def test_an_interrupted_question_is_130(cli, shared, monkeypatch):
    def interrupted(*_args, **_settings):
        raise click.Abort

    monkeypatch.setattr(click, "confirm", interrupted)
    result = cli("ingestions", "rerun", "x", tty=BOTH)
    assert (result.code, result.err) == (130, "Interrupted.\n")


def test_a_closed_pipe_is_no_error(cli, shared, monkeypatch):
    ends = [os.pipe(), os.pipe()]
    os.close(ends[0][0])
    with (
        os.fdopen(ends[0][1], "w") as out,
        os.fdopen(ends[1][1], "w") as err,
        monkeypatch.context() as patch,
    ):
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        code = app.run(["ingestions", "list", "--output", "ndjson"])
    with os.fdopen(ends[1][0]) as said:
        assert (code, said.read()) == (0, "")


# --- ingestions ---


def test_a_list_in_a_pipe_has_tabs_and_nothing_cut(cli, shared):
    result = cli("ingestions", "list", "--limit", "7")
    header, *rows = result.out.splitlines()
    assert header.split("\t")[:2] == ["workflow_id", "status"]
    assert [row.split("\t")[0] for row in rows] == list(shared.store.ids())[:7]
    assert not result.err


@pytest.mark.parametrize("width", [60, 80, 140])
def test_a_list_on_a_terminal_fits_and_keeps_ids_whole(cli, shared, width):
    result = cli("ingestions", "list", tty=BOTH, width=width)
    plain = click.unstyle(result.out).splitlines()
    assert all(len(line) <= width for line in plain)
    assert [line.split()[0] for line in plain[1:]] == list(shared.store.ids())
    assert plain[0].startswith("WORKFLOW ")
    assert ("DOCUMENT" in plain[0]) is (width == 140)
    assert "\x1b[31mfailed" in result.out
    for plainly in (("--no-color",), ()):
        with cli.monkeypatch.context() as patch:
            patch.setenv("NO_COLOR" if not plainly else "IGNORED", "1")
            assert "\x1b" not in cli("ingestions", "list", *plainly, tty=BOTH, width=width).out


def test_fields_are_the_columns(cli, shared):
    result = cli(
        "ingestions",
        "list",
        "-n",
        "2",
        "--fields",
        "workflow_id,uploader.user_id,created_at",
        tty=BOTH,
    )
    header, first, _ = click.unstyle(result.out).splitlines()
    assert header.split() == ["WORKFLOW_ID", "UPLOADER.USER_ID"]
    assert len(first.split()) == 2
    assert cli("ingestions", "list", "-n", "1", "--fields", "status,error").out.startswith(
        "status\terror\n"
    )


def test_lists_as_json_ndjson_and_ids(cli, shared):
    ids = list(shared.store.ids("failed"))
    listed = ("ingestions", "list", "--status", "failed")
    assert [item["workflow_id"] for item in json.loads(cli(*listed, "--output", "json").out)] == ids
    lines = cli("--output", "ndjson", *listed, "--fields", "workflow_id,status").out.splitlines()
    assert [json.loads(line) for line in lines] == [
        {"workflow_id": id_, "status": "failed"} for id_ in ids
    ]
    assert cli(*listed, "--output", "ids").out.split() == ids


def test_an_empty_list_says_so(cli, shared):
    listed = ("ingestions", "list", "--created-before", "2001-01-01")
    assert cli(*listed, "--output", "json").out == "[]\n"
    result = cli(*listed)
    assert (result.code, result.out, result.err) == (0, "", "No ingestions found.\n")
    assert cli(*listed, tty=BOTH).out == ""


def test_a_list_that_is_cut_short_is_no_whole_json(cli, server):
    server.faults.add(Fault("status", status=400, after=1, route="list_ingestion_workflows"))
    result = cli(
        "ingestions", "list", "--page-size", "20", "--output", "json", "--dialect", "system-jobs"
    )
    assert result.code == 1
    with pytest.raises(ValueError):
        json.loads(result.out)


def test_filters_are_passed_on(cli, shared):
    newest = shared.store.get(shared.store.ids()[0])
    result = cli(
        *("ingestions", "list", "--output", "ids", "--name-like", newest.document_name),
        *("--latest-version-only", "--uploader", newest.uploader.user_id, "--oldest-first"),
        *("--created-after", "2001-01-01", "--updated-after", "2001-01-01T00:00Z"),
        *("--updated-before", "2101-01-01"),
    )
    assert result.out.split() == [newest.workflow_id]


def test_a_filter_that_the_server_lacks_is_named_as_the_option(cli):
    result = cli("--sandbox", "--dialect", "documented", "ingestions", "list", "--name-like", "x")
    assert result.code == 2
    assert "--name-like can't be honoured" in result.err


def test_one_id_gives_one_object_and_several_a_list(cli, shared):
    first, second = shared.store.ids()[:2]
    assert (
        json.loads(cli("ingestions", "get", first, "--output", "json").out)["workflow_id"] == first
    )
    both = cli(
        "ingestions", "get", "-", first, "--output", "json", stdin=f"{second}\n\n {second}\n"
    )
    assert [item["workflow_id"] for item in json.loads(both.out)] == [second, first]


def test_ids_from_standard_input_give_a_list_however_many_they_are(cli, shared):
    first, second = shared.store.ids("completed")[:2]
    for command in ("get", "wait"):
        for ids in ([], [first], [first, second]):
            given = ("ingestions", command, "-", "--output", "json")
            told = json.loads(cli(*given, stdin="\n".join(ids)).out)
            assert sorted(item["workflow_id"] for item in told) == sorted(ids)
    assert [len(json.loads(cli("ingestions", "get", first, second, "-o", "json").out))] == [2]
    assert json.loads(cli("ingestions", "wait", first, "-o", "json").out)["workflow_id"] == first


def test_ids_are_taken_out_of_what_a_list_prints(cli, shared):
    listed = cli("ingestions", "list", "-n", "2", "-o", "ndjson")
    ids = list(shared.store.ids())[:2]
    given = ("ingestions", "get", "-", "-o", "ids")
    assert cli(*given, stdin=f"# two\n{listed.out}\n").out.split() == ids
    run_id = shared.store.runs.newest("FAILED").id
    run = cli("runs", "get", run_id, "-o", "ndjson").out
    assert cli("runs", "get", "-", "-o", "ids", stdin=run).out.split() == [run_id]


@pytest.mark.parametrize(
    "line", ["a b", "workflow_id\tstatus", "[", '{"id": "x"}', "{", '["x"]', '{"workflow_id": 3}']
)
def test_a_line_that_is_no_id_is_told(cli, shared, line):
    result = cli("ingestions", "get", "-", stdin=f"x\n{line}\n")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("Error: line 2 is no id (")
    assert "ids are one a line; use -o ids." in result.err


def test_statuses_are_taken_in_any_case_and_unknown_ones_are_named(cli, shared):
    ids = list(shared.store.ids("failed"))
    assert cli("ingestions", "list", "-s", "FAILED", "-o", "ids").out.split() == ids
    for command in (("ingestions", "list"), ("watch",), ("ingestions", "rerun", "--yes")):
        result = cli(*command, "--status", "faild")
        assert result.code == 2
        assert "--status faild: the server knows no such status; known are pending, " in result.err
    shared.faults.add(Fault("status", status=400, times=1))
    assert cli("ingestions", "list", "-s", "failed", "--dialect", "system-jobs").code == 1


def test_a_command_that_there_is_not_has_nothing_to_complete(cli):
    for words in ("ks-async nope ", "ks-async ingestions nope "):
        env = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()))}
        for name, value in (env | {"_KS_ASYNC_COMPLETE": "bash_complete"}).items():
            cli.monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit):
            cli()


def test_statuses_are_named_and_completed(cli):
    for command in (("ingestions", "list"), ("watch",), ("ingestions", "rerun")):
        shown = " ".join(cli(*command, "--help").out.split())
        assert "pending, processing, completed, failed, cancelled, quota_limit." in shown
    found = statuses.Status().shell_complete(None, None, "C")
    assert [item.value for item in found] == ["completed", "cancelled"]


def test_details_are_sheets(cli, shared):
    first, second = shared.store.ids("failed")[:2]
    piped = cli("ingestions", "get", first, second).out
    assert f"workflow_id:                 {first}\n" in piped
    assert f"\n\nworkflow_id:                 {second}\n" in piped
    shown = cli("ingestions", "get", first, "--fields", "status,error", tty=BOTH, width=70).out
    assert shown.startswith("status: failed\nerror:  ")
    assert all(len(line) <= 70 for line in shown.splitlines())


def test_the_worst_of_several_ids_decides(cli, shared):
    first = shared.store.ids()[0]
    result = cli("ingestions", "get", first, "nope", "--output", "ids")
    assert (result.code, result.out) == (3, f"{first}\n")
    assert "Of 2: 1 done, 1 not found." in result.err


def test_a_wrong_key_is_told_once(cli, shared, monkeypatch):
    monkeypatch.setenv("KS_API_KEY", "sk-user-other")
    result = cli("ingestions", "list", "--dialect", "system-jobs")
    assert result.code == 4
    assert "--api-key-file" in result.err
    many = cli(
        "workflows", "status", "-", "--dialect", "system-jobs", stdin="\n".join(shared.store.ids())
    )
    assert many.code == 4
    assert "not tried" in many.err


def test_errors_are_wrapped_and_red_on_a_terminal(cli, shared):
    result = cli("ingestions", "get", "nope", tty=BOTH, width=50)
    assert result.err.startswith("\x1b[31mError: ")
    assert all(len(line) <= 50 for line in click.unstyle(result.err).splitlines())


@pytest.mark.parametrize(("outcome", "code"), [("completed", 0), ("failed", 1), ("cancelled", 1)])
def test_waiting_ends_with_the_outcome(cli, server, outcome, code):
    server.store.set_status(id_ := server.store.ids()[0], outcome)
    result = cli("ingestions", "wait", id_, "--output", "ndjson")
    assert result.code == code
    assert json.loads(result.out)["status"] == outcome


def test_waiting_for_many_ends_at_the_deadline(cli, server):
    done, stuck = server.store.ids()[:2]
    server.store.set_status(done, "completed")
    server.store.set_status(stuck, "processing")
    result = cli("ingestions", "wait", done, stuck, "--deadline", "1", tty=BOTH)
    assert result.code == 1
    assert f"{done}  " in click.unstyle(result.out)
    assert "1 is not over yet: 1 processing" in click.unstyle(result.err)
    assert "--deadline" in result.err


# --- workflows ---


def test_statuses_of_workflows(cli, shared):
    ids = list(shared.store.ids())[:3]
    result = cli("workflows", "status", *ids, "--output", "ndjson", "--fields", "workflow_id")
    assert [json.loads(line)["workflow_id"] for line in result.out.splitlines()] == ids
    assert "EXECUTION" not in cli("workflows", "status", *ids, tty=BOTH).out


def test_no_ids_are_nothing_to_do(cli, shared):
    result = cli("workflows", "status", "-", stdin="\n")
    assert (result.code, result.out, result.err) == (0, "", "No ids came: nothing to do.\n")


@pytest.mark.parametrize(("option", "said"), [((), "is over"), (("--no-check",), "409")])
def test_what_is_over_is_not_cancelled(cli, server, option, said):
    open_, over = server.store.ids()[:2]
    server.store.set_status(open_, "processing")
    server.store.set_status(over, "completed")
    result = cli("workflows", "cancel", open_, over, "--yes", "--output", "ids", *option)
    assert (result.code, result.out) == (1, f"{open_}\n")
    assert said in result.err
    assert str(server.store.get(open_).shown.status) == "cancelled"


def test_cancelling_asks_first(cli, server):
    result = cli("workflows", "cancel", "a", "b", tty=BOTH, stdin="\n")
    assert f"Cancel 2 workflows at {server.base_url}?" in result.err
    assert result.code == 1
    assert not server.requests


# --- runs ---


def test_runs_are_shown(cli, shared):
    run_id = shared.store.runs.newest("FAILED").id
    assert json.loads(cli("runs", "get", run_id, "--output", "json").out)["status"] == "FAILED"
    assert f"id:                     {run_id}\n" in cli("runs", "get", run_id).out


def test_waiting_for_runs(cli, shared):
    good, bad = (shared.store.runs.newest(word).id for word in ("COMPLETED", "FAILED"))
    assert cli("runs", "wait", good).code == 0
    result = cli("runs", "wait", good, bad, "--output", "ids")
    assert result.code == 1
    assert set(result.out.split()) == {good, bad}


def test_no_answer_is_a_no(cli, server):
    result = cli("workflows", "cancel", "a", tty=BOTH, stdin="")
    assert result.code == 1
    assert result.err.endswith("? [y/N]: \nNothing was done.\n")
    assert not server.requests


def test_a_question_names_the_server_that_it_is_about(cli, server):
    assert "Delete 1 run at a sandbox?" in cli("runs", "delete", "x", "--sandbox", tty=BOTH).err
    asked = cli("runs", "delete", "x", "--base-url", "https://k.example/", tty=BOTH)
    assert "Delete 1 run at https://k.example?" in asked.err
    cli.monkeypatch.delenv("KS_BASE_URL")
    assert "at https://api" in cli("runs", "delete", "x", tty=BOTH).err
    bad = cli("runs", "delete", "x", "--base-url", "https://me:secret@k.example", tty=BOTH)
    assert (bad.code, "secret" in bad.err) == (2, False)
    assert "comes from KS_API_KEY or --api-key-file" in bad.err
    nothing = cli("runs", "delete", "-", "--yes", stdin="\n")
    assert (nothing.code, nothing.err) == (0, "No ids came: nothing to do.\n")


SECRETS = [
    "sk-user-abc",
    "sk-wf-01J9",
    "ks_live_f00",
    "eyJhbGciOi.x.y",
    "a9F3kd82Jd72hdk29dk2Kd9a7",
    "0123456789abcdef0123456789abcdef",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_credential_that_is_given_as_a_name_is_not_repeated(cli, secret):
    report = ("runs", "callback", "x", "--status", "COMPLETED", "--token-env", secret)
    for args in (report, ("--api-key-file", secret, "ingestions", "list")):
        result = cli(*args)
        assert (result.code, secret in result.err) == (2, False)
        assert "takes the name of a" in result.err
    assert secret not in cli("doctor", "--api-key-file", secret).out


@pytest.mark.parametrize("name", ["KS_RUN_TOKEN_2", "RUNNER_SECRET_OF_PRODUCTION_2026", "token"])
def test_a_name_that_is_one_is_repeated(cli, name):
    report = ("runs", "callback", "x", "--status", "COMPLETED", "--token-env", name)
    assert f"--token-env {name}: there is no such variable" in cli(*report).err
    path = f"keys/{name}"
    assert f"--api-key-file {path} can't" in cli("ingestions", "list", "--api-key-file", path).err


def test_a_key_that_can_be_none_is_told_by_where_it_came_from(cli, tmp_path):
    cli.monkeypatch.setenv("KS_API_KEY", "sk-user-x y")
    result = cli("ingestions", "list")
    assert result.code == 2
    assert result.err.startswith("Error: KS_API_KEY is no key: it must be one word")
    file = tmp_path / "key"
    file.write_text("sk-user-x\ny")
    result = cli("ingestions", "list", "--api-key-file", str(file))
    assert result.err.startswith(f"Error: what the file {file} holds is no key")
    cli.monkeypatch.setenv("TOKEN", "a b")
    report = ("runs", "callback", "x", "--status", "COMPLETED", "--token-env", "TOKEN")
    assert cli(*report).err.startswith("Error: --token-env is no key")
    assert "→ it must be one word" in cli("doctor").out


def test_deleting_says_that_it_does_not_cancel(cli, server):
    run_id = server.store.runs.newest("FAILED").id
    kept = cli("runs", "delete", run_id, tty=BOTH, stdin="n\n")
    assert kept.code == 1
    assert "is not cancelled by that" in kept.err
    result = cli("runs", "delete", run_id, tty=BOTH, stdin="y\n")
    assert (result.code, result.out) == (0, f"{run_id}  deleted\n")
    assert cli("runs", "delete", run_id, "--yes").code == 3


def test_a_run_that_is_running_may_be_kept(cli, server):
    run_id = server.store.runs.newest("RUNNING").id
    assert cli("runs", "delete", run_id, "--yes").code == 1


def test_outcomes_are_reported(cli, server, tmp_path):
    run_id = server.store.runs.newest("RUNNING").id
    log = tmp_path / "log"
    log.write_bytes(b"it broke: \xff")
    cli.monkeypatch.setenv("RUN_TOKEN", server.run_token(run_id))
    cli.monkeypatch.setenv("KS_API_KEY", "sk-user-not-for-callbacks")
    report = ("runs", "callback", run_id, "--token-env", "RUN_TOKEN", "--output", "json")
    result = cli(*report, "--status", "failed", "--error-file", str(log))
    assert result.code == 0
    assert json.loads(result.out)["id"] == run_id
    assert server.store.get_run(run_id).error == "it broke: \ufffd"
    again = cli(*report, "--status", "COMPLETED")
    assert json.loads(again.out) == {"id": run_id, "status": "already_terminal"}


def test_a_runner_needs_its_token_only_and_the_last_lines_of_its_log_are_kept(
    cli, server, tmp_path
):
    run_id = server.store.runs.newest("RUNNING").id
    log = tmp_path / "log"
    log.write_text("starting 😀\n" * 3000 + "the reason\n")
    cli.monkeypatch.setenv("RUN_TOKEN", server.run_token(run_id))
    cli.monkeypatch.delenv("KS_API_KEY")
    report = ("runs", "callback", run_id, "--token-env", "RUN_TOKEN", "--status", "FAILED")
    assert cli(*report, "--error-file", str(log)).code == 0
    error = server.store.get_run(run_id).error
    assert len(error) <= 8192
    assert error.startswith("starting 😀\n")
    assert error.endswith("starting 😀\nthe reason\n")


def test_a_report_takes_its_error_from_the_command_line(cli, server):
    run_id = server.store.runs.newest("RUNNING").id
    assert cli("runs", "callback", run_id, "--status", "FAILED", "--error", "no disk").code == 0
    assert server.store.get_run(run_id).error == "no disk"


# --- doctor ---


def test_a_healthy_way_is_all_ok(cli, shared):
    result = cli("doctor", "--timeout", "5")
    assert result.code == 0
    assert "✓ base URL" in result.out
    assert "from KS_BASE_URL" in result.out
    assert "✓ dialect   system-jobs" in result.out
    assert "from KS_API_KEY" in result.out
    assert KEY not in result.out
    assert cli("doctor", "--base-url", shared.base_url).out.count("from --base-url") == 1
    assert cli("doctor", "--sandbox").out.count("sandbox") == 2
    verdicts = {item["verdict"] for item in json.loads(cli("doctor", "--output", "json").out)}
    assert verdicts == {"ok"}
    assert cli("doctor", "--fields", "check,verdict").out.startswith("check:   versions\n")


def test_no_key_is_wrong(cli):
    result = cli("doctor")
    assert result.code == 2
    assert "✗ API key   there is no API key" in result.out
    assert "→ set KS_API_KEY" in result.out


def test_a_wrong_key_is_wrong(cli, shared, monkeypatch):
    monkeypatch.setenv("KS_API_KEY", "sk-user-other")
    result = cli("doctor", "--dialect", "system-jobs", tty=BOTH)
    assert result.code == 4
    assert "✗ API key" in click.unstyle(result.out)


def test_no_server_is_wrong(cli, monkeypatch):
    monkeypatch.setenv("KS_API_KEY", KEY)
    result = cli("doctor", "--base-url", "http://127.0.0.1:9")
    assert result.code == 1
    assert "✗ server" in result.out
    plain = cli("doctor", "--base-url", "http://example.com")
    assert plain.code == 2
    assert "✗ settings" in plain.out


def test_an_address_without_the_api_is_wrong(cli, shared):
    result = cli("doctor", "--base-url", f"{shared.base_url}/elsewhere")
    assert result.code == 3
    assert "There is no Knowledge Stack API at this address" in result.out


def test_the_default_url_is_named(monkeypatch, cli):
    monkeypatch.setenv("KS_API_KEY", KEY)

    async def nothing(_session):
        raise ks.ConnectionFailed("no network")
        yield

    monkeypatch.setattr("knowledgestack_async.cli.doctor.look_at_server", nothing)
    assert "from the default" in cli("doctor").out


def test_slow_servers_and_wrong_clocks_are_told(cli, shared, monkeypatch):
    monkeypatch.setattr(checkup, "SLOW", 0.0)
    monkeypatch.setattr(checkup, "_date_of", lambda _headers: 0.0)
    result = cli("doctor")
    assert result.code == 1
    assert "! latency" in result.out
    assert "ahead of the server's" in result.out
    monkeypatch.setattr(checkup, "_date_of", lambda _headers: 1e12)
    assert "behind the server's" in cli("doctor").out
    monkeypatch.setattr(checkup, "_date_of", lambda _headers: None)
    assert "doesn't tell its time" in cli("doctor").out


def test_the_servers_time_is_read():
    assert checkup._date_of({"Date": formatdate(1000, usegmt=True)}) == 1000.5
    assert checkup._date_of({}) is None


def test_an_error_without_a_hint_still_says_what_to_do():
    assert finding_of(ks.ConfigurationError("no")).advice


# --- sandbox, demo, completion ---


@pytest.fixture
def served_for_a_moment(monkeypatch):
    async def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(sandbox_command, "until_interrupted", interrupted)


def test_a_sandbox_tells_how_to_reach_it(cli, served_for_a_moment):
    result = cli("sandbox", "--ingestions", "3", "--runs", "1", "--dialect", "offset")
    assert result.code == 0
    assert re.search(r"^export KS_BASE_URL=http://127\.0\.0\.1:\d+$", result.out, re.MULTILINE)
    assert "export KS_API_KEY=sk-user-sandbox" in result.out
    assert "Speaks   offset" in result.out
    told = json.loads(cli("-o", "json", "sandbox").out)
    assert json.loads(cli("sandbox", "-o", "json").out).keys() == told.keys()
    assert told["api_key"] == "sk-user-sandbox"


def test_a_sandbox_tells_the_tokens_of_its_runs(cli, served_for_a_moment):
    told = json.loads(cli("sandbox", "-o", "json", "--runs", "6").out)["runs"]
    assert [run["status"] for run in told] == ["RUNNING", "PENDING", "COMPLETED", "FAILED"]
    shown = cli("sandbox", "--runs", "6").out
    for run in told:
        line = rf"^Run      {run['id']}  {run['status']}\n  token  {run['token']}$"
        assert re.search(line, shown, re.MULTILINE)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ([], 2.0),
        (["--speed", "4"], 0.5),
        (["--speed", "4", "--trickle", "1"], 0.25),
        (["--trickle", "0"], None),
    ],
)
def test_ingestions_arrive_as_the_sandboxs_seconds_pass(cli, monkeypatch, options, wanted):
    pauses = []

    async def let_arrive(_store, pause):
        pauses.append(pause)

    monkeypatch.setattr(sandbox_command, "let_arrive", let_arrive)

    async def interrupted():
        await asyncio.sleep(0)
        raise KeyboardInterrupt

    monkeypatch.setattr(sandbox_command, "until_interrupted", interrupted)
    assert cli("sandbox", *options).code == 0
    assert pauses == ([] if wanted is None else [wanted])


async def test_arriving_ingestions_run_through_the_pipeline():
    store = Store()
    arriving = asyncio.create_task(sandbox_command.let_arrive(store, 0.001))
    while len(store) < 10:
        await asyncio.sleep(0.001)
    arriving.cancel()
    first_ones = store.ids()[-10:]
    assert [not store.get(one).is_open for one in first_ones] == [True, *[False] * 4] * 2
    assert store.get(first_ones[0]).shown.status == "failed"


@pytest.mark.parametrize("tty", [(), BOTH])
def test_the_demo_reruns_what_failed(cli, tty):
    result = cli("demo", "--ingestions", "40", "--seconds", "0.4", tty=tty)
    assert result.code == 0
    shown = click.unstyle(result.out)
    assert re.search(r"1\d of 40 ingestions had failed and were run again", shown)
    assert "Watching them until they are done" in shown
    assert ("━" in shown) is bool(tty)
    picture = re.split(r"\r?\n|\r", shown.partition("\n\n1")[0])
    assert max(map(len, picture)) <= 80 - len("^C")


def test_the_demo_counts_what_can_not_be_run_again(cli, monkeypatch):
    async def refuse(_session, _id):
        raise ks.Conflict("superseded")

    monkeypatch.setattr(ks, "rerun_ingestion_workflow", refuse)
    assert re.search(r"1\d could not", cli("demo", "--ingestions", "40").out)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_one_line(cli, shell):
    assert f"_KS_ASYNC_COMPLETE={shell}_source ks-async" in cli("completion", shell).out


# --- the screen ---


def test_a_line_moves_while_it_takes_long(cli, server, monkeypatch):
    monkeypatch.setattr(Screen, "SHOW_AFTER", 0.0)
    monkeypatch.setattr(Screen, "TICK", 0.01)
    server.faults.add(Fault("latency", seconds=0.04))
    result = cli("ingestions", "get", *server.store.ids()[:2], tty=BOTH)
    assert "0 of 2 …" in result.err
    assert result.err.endswith("\r\x1b[2K")
    listed = cli("ingestions", "list", tty=BOTH, width=140)
    assert re.search(r"\d+ found", listed.err)
    server.store.set_status(id_ := server.store.ids()[0], "processing")
    interrupt_at(server, "get_ingestion_workflow", 2)
    assert "waiting: 1 processing …" in cli("ingestions", "wait", id_, tty=BOTH).err
    interrupt_at(server, "get_workflow_run", 2)
    run_id = server.store.runs.newest("RUNNING").id
    assert "waiting: 1 RUNNING …" in cli("runs", "wait", run_id, tty=BOTH).err
    server.before_request = None
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in cli("ingestions", "get", *server.store.ids()[:2], tty=BOTH).err


def test_a_stream_that_is_no_file_is_left_as_it_is(monkeypatch):
    class Stream:
        encoding = None
        text = ""

        def write(self, text):
            self.text += text

        def flush(self): ...

        def isatty(self):
            return False

    monkeypatch.setattr(sys, "stdout", stream := Stream())
    assert app.run(["completion", "fish"]) == 0
    assert stream.text
    assert screen.Screen().has_color is False


def test_an_error_of_clicks_without_a_command_has_one_line(cli, monkeypatch):
    def fail(*_args, **_settings):
        raise click.FileError("x", "gone")

    monkeypatch.setattr(app.app, "main", fail)
    result = cli("doctor")
    assert (result.code, len(result.err.splitlines())) == (1, 1)


async def test_a_sandbox_waits_as_long_as_it_takes():
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(sandbox_command.until_interrupted(), 0.01)


async def test_the_outcome_before_a_rerun_does_not_count(server):
    async with server.session() as session:
        id_, other = server.store.ids("failed")[:2]
        before = await ks.get_ingestion_workflow(session, id_)
        story = Story(session, 2)
        story.failed[id_] = before
        story.note_rerun(id_, None)
        story.note_state(before)
        assert story.now == {id_: "pending"}
        story.note_state(await ks.get_ingestion_workflow(session, other))
        assert list(story.now) == [id_]
