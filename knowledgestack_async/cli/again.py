"""The command line that goes on where one stopped."""

from __future__ import annotations

import shlex
from pathlib import Path

from .options import Options

__all__ = ["command_line"]


def command_line(options: Options, *words: str | Path) -> str:
    """A command as it can be typed, with the options of this run that say where the server is."""
    given = {
        "--base-url": options.base_url,
        "--api-key-file": options.api_key_file,
        "--dialect": options.dialect,
    }
    known = [word for name, value in given.items() if value for word in (name, str(value))]
    plain = ["--allow-plain-http"] if options.allow_plain_http else []
    return shlex.join(["ks-async", *known, *plain, *map(str, words)])
