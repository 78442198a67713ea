"""Where this command keeps the journals of its jobs."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory

__all__ = ["SUFFIX", "job_name", "jobs_folder", "journal_for", "new_journal", "state_folder"]

SUFFIX = ".journal"


def state_folder(system: str = sys.platform, env: Mapping[str, str] = os.environ) -> Path:
    """The folder in which programs keep a user's state, as each system has it."""
    home = Path.home()
    if system == "win32":
        return Path(env.get("LOCALAPPDATA") or home / "AppData" / "Local")
    if system == "darwin":
        return home / "Library" / "Application Support"
    named = Path(env.get("XDG_STATE_HOME") or "")
    return named if named.is_absolute() else home / ".local" / "state"


def jobs_folder() -> Path:
    """The folder of the journals that were given no place of their own."""
    return state_folder() / "ks-async" / "jobs"


def job_name(path: Path) -> str:
    """What to call a job on a command line: its name where that finds it, else its journal's path."""
    is_usual = path.parent == jobs_folder() and path.name.endswith(SUFFIX)
    return path.name.removesuffix(SUFFIX) if is_usual else str(path)


@contextmanager
def journal_for(*, sandbox: bool) -> Generator[Path]:
    """A place for a new job's journal; a sandbox's goes when it does, for nobody can go on with it."""
    if not sandbox:
        yield new_journal()
        return
    with TemporaryDirectory(prefix="ks-async-") as folder:
        yield Path(folder) / f"sandbox{SUFFIX}"


def new_journal() -> Path:
    """A place for a new job's journal; its folder is made, for this user only."""
    folder = jobs_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder / f"rerun-{datetime.now(UTC):%Y%m%d-%H%M%S}-{token_hex(2)}{SUFFIX}"
