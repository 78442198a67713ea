"""Take the pictures of the command line anew: ``python docs/pictures.py`` (needs tmux and rich)."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent / "_static"
PROGRAM = (sys.executable, "-m", "knowledgestack_async.cli")
SERVER = "ks-async-pictures"
PORT = "8000"
# Without the fonts of another host: whoever looks at a picture asks nobody else for anything.
FORMAT = re.sub(r"@font-face \{\{.*?\}\}\n|<!--.*?-->\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
FORMAT = FORMAT.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace")


def tmux(*arguments: str) -> str:
    """Run tmux, and give what it prints."""
    command = ["tmux", "-L", SERVER, *arguments]  # a server of our own: others keep theirs
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603


@contextmanager
def taking(
    name: str, command: str, *, width: int, height: int = 24, folder: str = "."
) -> Iterator[None]:
    """Run a command on a terminal of its own; what that shows at the end of the block is kept."""
    session = name.partition(".")[0]
    size = ("-x", str(width), "-y", str(height), "-c", folder)
    line = f"{command.replace('ks-async', shlex.join(PROGRAM), 1)}; sleep 60"
    tmux("new-session", "-d", "-s", session, *size, line)
    try:
        yield
        shown = tmux("capture-pane", "-e", "-p", "-t", session).rstrip()
    finally:
        tmux("kill-session", "-t", session)
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=width, file=nowhere, force_terminal=True)
        console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
        console.print(Text.from_ansi(shown))
        console.save_svg(str(HERE / name), title=f"{width} columns", code_format=FORMAT)


@contextmanager
def sandbox(ingestions: int) -> Iterator[None]:
    """A sandbox that the commands in this block talk to."""
    line = [*PROGRAM, "sandbox", "--port", PORT, "-o", "json", "--trickle", "0"]
    line += ["--ingestions", str(ingestions)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as served:  # noqa: S603
        assert served.stdout is not None  # noqa: S101 - for the type checker
        told = json.loads(served.stdout.readline())
        os.environ |= {"KS_BASE_URL": told["base_url"], "KS_API_KEY": told["api_key"]}
        try:
            yield
        finally:
            served.terminate()


def take_list(width: int) -> None:
    """A list at a width."""
    listing = "ks-async ingestions list --status failed --limit 12"
    with sandbox(200), taking(f"list-{width}.svg", listing, width=width):
        time.sleep(3.0)


def take_night(width: int) -> None:
    """A bulk rerun, and a watch beside it, both half-way."""
    rerun = "ks-async ingestions rerun -s failed -y --wait --rate 100 --journal night.db"
    with (
        TemporaryDirectory() as folder,
        sandbox(3000),
        taking(f"watch-{width}.svg", "ks-async watch", width=width),
        taking(f"rerun-{width}.svg", rerun, width=width, folder=folder),
    ):
        time.sleep(9.0)


if __name__ == "__main__":
    with taking("demo.svg", "ks-async demo", width=100):
        time.sleep(6.0)
    for columns in (80, 140):
        take_list(columns)
        take_night(columns)
