"""What the tests of the command line share: a sandbox on a thread of its own, and calls over it."""

from __future__ import annotations

import asyncio
import io
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from knowledgestack_async.cli.app import run
from knowledgestack_async.sandbox import RecordedRequest, Sandbox

ROOT = Path(__file__).parent.parent
PROGRAM = (sys.executable, "-m", "knowledgestack_async.cli")
KEY = "sk-user-cli-canary"


@attrs.frozen
class Result:
    """How a run ended, and what it printed."""

    code: int
    out: str
    err: str = ""


@contextmanager
def served(**settings: Any) -> Iterator[Sandbox]:
    """A sandbox that serves from a thread, so that commands can run loops of their own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    sandbox = Sandbox(**({"ingestions": 60, "api_key": KEY, "runs": 8} | settings))
    try:
        asyncio.run_coroutine_threadsafe(sandbox.__aenter__(), loop).result()
        yield sandbox
    finally:
        asyncio.run_coroutine_threadsafe(sandbox.__aexit__(None, None, None), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@attrs.define
class Cli:
    """Runs ``ks-async`` in this process."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def aim_at(self, sandbox: Sandbox) -> None:
        """Let the environment point at a sandbox."""
        self.monkeypatch.setenv("KS_BASE_URL", sandbox.base_url)
        self.monkeypatch.setenv("KS_API_KEY", sandbox.api_key)

    def __call__(
        self, *args: str, stdin: str | None = None, tty: Sequence[str] = (), width: int = 80
    ) -> Result:
        """Run a command line; ``tty`` names the streams that are a terminal."""
        with self.monkeypatch.context() as patch:
            patch.setenv("COLUMNS", str(width))
            patch.setenv("LINES", "24")
            patch.setattr(sys, "stdin", io.StringIO(stdin or ""))
            for name in tty:
                patch.setattr(getattr(sys, name), "isatty", lambda: True)
            code = run(list(args))
        out, err = self.capsys.readouterr()
        return Result(code, out, err)


def make_cli(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    sandbox: Sandbox | None = None,
) -> Cli:
    """What runs ``ks-async`` here, aimed at a sandbox, with a state folder of its own."""
    made = Cli(monkeypatch, capsys)
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    if sandbox is not None:
        made.aim_at(sandbox)
    return made


def interrupt_at(sandbox: Sandbox, route: str, number: int = 1) -> None:
    """Press Ctrl-C, so to speak, when a route is asked for the so-manieth time."""
    left = [number]

    def count(request: RecordedRequest) -> None:
        if request.route == route:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGINT)

    sandbox.before_request = count


@contextmanager
def held_at(sandbox: Sandbox, route: str, number: int) -> Iterator[threading.Event]:
    """Hold all that a sandbox answers from a route's so-manieth request on, until the event is set."""
    go_on = threading.Event()
    left = [number]

    def hold(request: RecordedRequest) -> None:
        if request.route == route:
            left[0] -= 1
            if left[0] == 0:
                go_on.wait(60)

    sandbox.before_request = hold
    try:
        yield go_on
    finally:
        go_on.set()
        sandbox.before_request = None


@contextmanager
def nothing_left_running(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """End the processes that a test began and, as it failed, didn't see to the end."""
    begun: list[subprocess.Popen[Any]] = []

    class Begun(subprocess.Popen[Any]):
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings)
            begun.append(self)

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", Begun)
        yield
    for process in begun:
        if process.poll() is None:
            process.kill()
            process.wait()


def environment(sandbox: Sandbox | None = None, **extra: str) -> dict[str, str]:
    """What a process of ``ks-async`` is told."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("KS_")}
    known |= {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"} | extra
    known.pop("NO_COLOR", None)
    known.pop(
        "PYTHONDEVMODE", None
    )  # in which asyncio tells of each step that a busy machine slows
    if sandbox is None:
        return known
    return known | {"KS_BASE_URL": sandbox.base_url, "KS_API_KEY": sandbox.api_key}


def in_pipe(args: Sequence[str], env: dict[str, str], stdin: str = "") -> Result:
    """Run ``ks-async`` as a process between pipes."""
    ended = subprocess.run(
        [*PROGRAM, *args],
        env=env,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    return Result(ended.returncode, ended.stdout, ended.stderr)


class Terminal:
    """``ks-async`` as a process on a terminal of its own; what it prints, both streams together."""

    def __init__(self, args: Sequence[str], env: dict[str, str], width: int = 80) -> None:
        self._master, slave = pty.openpty()
        sized = env | {"COLUMNS": str(width), "LINES": "24"}
        self.process = subprocess.Popen(
            [*PROGRAM, *args],
            env=sized,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.text = ""

    def read_until(self, wanted: str, seconds: float = 30.0) -> str:
        """Read on until a text comes, or the end."""
        ends_at = time.monotonic() + seconds
        while (not wanted or wanted not in self.text) and time.monotonic() < ends_at:
            if not select.select([self._master], [], [], 0.2)[0]:
                continue
            try:
                piece = os.read(self._master, 65536)
            except OSError:  # what Linux says when nobody holds the other end any more
                break
            if not piece:
                break
            self.text += piece.decode(errors="replace")
        return self.text

    def type(self, text: str) -> None:
        """Type something."""
        os.write(self._master, text.encode())

    def end(self) -> Result:
        """Read to the end."""
        self.read_until("")
        code = self.process.wait(30)
        os.close(self._master)
        return Result(code, self.text.replace("\r\n", "\n"))


class Piped:
    """``ks-async`` as a process between pipes that is interrupted; what it says on standard error."""

    def __init__(self, args: Sequence[str], env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [*PROGRAM, *args],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.text = ""

    def read_until(self, wanted: str) -> None:
        """Read lines until one holds a text."""
        assert self.process.stderr is not None
        while wanted not in self.text and (line := self.process.stderr.readline()):
            self.text += line

    def end(self) -> Result:
        """Read to the end."""
        said = self.process.communicate(timeout=30)[1]
        return Result(self.process.returncode, self.text + said)


def on_terminal(args: Sequence[str], env: dict[str, str], width: int = 80) -> Result:
    """Run ``ks-async`` as a process on a terminal, to its end."""
    return Terminal(args, env, width).end()
