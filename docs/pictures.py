"""Take the pictures of the command line anew: ``python docs/pictures.py`` (needs tmux and rich)."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent / "_static"
PROGRAM = f"{shlex.quote(sys.executable)} -m knowledgestack_async.cli"
SESSION = "ks-async-pictures"
# Without the fonts of another host: whoever looks at a picture asks nobody else for anything.
FORMAT = re.sub(r"@font-face \{\{.*?\}\}\n|<!--.*?-->\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
FORMAT = FORMAT.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace")


def tmux(*arguments: str) -> str:
    """Run tmux, and give what it prints."""
    command = ["tmux", "-L", SESSION, *arguments]  # a server of our own: others keep theirs
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603


def take(name: str, command: str, *, width: int, height: int, wait: float) -> None:
    """Run a command on a terminal of its own, and keep what that shows after so many seconds."""
    line = f"{command.replace('ks-async', PROGRAM, 1)}; sleep 60"
    size = ("-x", str(width), "-y", str(height))
    tmux("new-session", "-d", "-s", SESSION, *size, line)
    try:
        time.sleep(wait)
        shown = tmux("capture-pane", "-e", "-p", "-t", SESSION).rstrip()
    finally:
        tmux("kill-session", "-t", SESSION)
    with Path("/dev/null").open("w") as nowhere:
        console = Console(record=True, width=width, file=nowhere, force_terminal=True)
        console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
        console.print(Text.from_ansi(shown))
        console.save_svg(str(HERE / name), title=f"{width} columns", code_format=FORMAT)


if __name__ == "__main__":
    take("demo.svg", "ks-async demo", width=100, height=24, wait=6.0)
    listing = "ks-async --sandbox ingestions list --status failed --limit 12"
    take("list-80.svg", listing, width=80, height=24, wait=4.0)
    take("list-140.svg", listing, width=140, height=24, wait=4.0)
