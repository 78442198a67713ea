"""The installed script: interrupted before it has begun, and with streams that are closed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from test_cli_support import environment, served

from knowledgestack_async import cli as package
from knowledgestack_async.cli import app
from knowledgestack_async.cli.streams import standard_streams
from support import SCRIPT

script = import_module(SCRIPT)

START = "import sys; from _knowledgestack_async_script import main; sys.exit(main())"


@pytest.fixture
def handler():
    """Ctrl-C is what it was, after the test."""
    before = signal.getsignal(signal.SIGINT)
    yield before
    signal.signal(signal.SIGINT, before)


def test_the_script_is_the_one_that_needs_no_package():
    [found] = entry_points(group="console_scripts", name="ks-async")
    assert found.value == "_knowledgestack_async_script:main"
    installed = Path(sys.modules[found.load().__module__].__file__)
    assert installed.read_text() == Path(script.__file__).read_text()


@pytest.mark.parametrize(
    "moment", ["asyncio", "aiohttp", "knowledgestack_async", "click", "sqlite3"]
)
def test_ctrl_c_at_the_start_ends_quietly(moment):
    """The interpreter tells each module that it has imported."""
    line = [sys.executable, "-X", "importtime", "-c", START, "--sandbox", "watch"]
    with subprocess.Popen(
        line,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as starting:
        for told in starting.stderr:
            if told.rpartition("|")[2].strip() == moment:
                break
        os.killpg(starting.pid, signal.SIGINT)
        said = "".join(one for one in starting.stderr if not one.startswith("import time:"))
        code = starting.wait(20)
    assert code == 130
    assert "Traceback" not in said
    assert said in {"", "\nInterrupted.\n"} or "Left after" in said


def test_the_script_hands_ctrl_c_to_the_command_and_takes_it_back(monkeypatch, handler):
    seen = []

    def run():
        seen.append(signal.getsignal(signal.SIGINT))
        return 3

    monkeypatch.setattr(package, "prepare", lambda: run)
    assert script.main() == 3
    assert seen == [handler]
    assert signal.getsignal(signal.SIGINT) is script._leave


def test_ctrl_c_in_the_moment_between_is_130(monkeypatch, handler):
    def run():
        raise KeyboardInterrupt

    monkeypatch.setattr(package, "prepare", lambda: run)
    assert script.main() == 130


def test_ctrl_c_stays_ignored_in_the_background(monkeypatch, handler):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    monkeypatch.setattr(package, "prepare", lambda: lambda: 0)
    assert script.main() == 0
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_leaving_is_at_once(monkeypatch):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    script._leave(signal.SIGINT, None)
    assert codes == [130]


# --- closed streams ---


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    ("args", "code"),
    [
        ("--version", 0),
        ("ingestions list -n 1", 0),
        ("ingestions get -", 0),
        ("ingestions get nope", 3),
        ("ingestions rerun nope", 2),
        ("ingestions rerun -s failed -y --journal $JOURNAL", 0),
        ("watch -s failed", 0),
        ("nope", 2),
    ],
)
def test_closed_streams_are_no_traceback(tmp_path, closed, args, code):
    journal = tmp_path / "own.journal"
    env = environment(JOURNAL=str(journal), XDG_STATE_HOME=str(tmp_path), PYTHON=sys.executable)
    line = f'"$PYTHON" -m knowledgestack_async.cli --sandbox {args} {closed}'
    ended = subprocess.run(
        ["/bin/sh", "-c", line], env=env, capture_output=True, text=True, timeout=50, check=False
    )
    assert (ended.returncode, "Traceback" in ended.stderr) == (code, False)
    if journal.exists():
        assert journal.read_bytes().startswith(b"SQLite format 3")


def test_streams_that_are_none_are_there_while_it_runs(monkeypatch, capfd):
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert app.run(["completion", "bash"]) == 0
    assert app.run(["ingestions", "rerun", "x"]) == 2
    assert sys.stdin is sys.stdout is sys.stderr is None
    with standard_streams():
        assert sys.stdin.read() == ""
    monkeypatch.setattr(package, "find_spec", lambda _name: None)
    assert package.main() == 2


def test_what_a_closed_stream_leaves_out_does_not_change_the_rest(tmp_path):
    with served(ingestions=20) as sandbox:
        env = environment(sandbox, PYTHON=sys.executable)
        line = '"$PYTHON" -m knowledgestack_async.cli ingestions list -o json 2>&- <&-'
        told = subprocess.check_output(["/bin/sh", "-c", line], env=env, timeout=50)
    assert len(json.loads(told)) == 20
