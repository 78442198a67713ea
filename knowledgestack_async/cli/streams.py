"""The three standard streams, as they may be: closed, without a reader, of a poor encoding."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

__all__ = ["forget_output", "standard_streams"]

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


@contextmanager
def standard_streams() -> Generator[None]:
    """All three are there while this block runs, and write what their encoding lacks in another way.

    One that the shell has closed (``>&-``) is none in Python. In its place is then a file that holds
    nothing: it takes the number of the one that is closed, so that no other file gets that.
    """
    with ExitStack() as stack:
        for name, mode in _STREAMS:
            if getattr(sys, name) is None:
                setattr(sys, name, stack.enter_context(Path(os.devnull).open(mode)))
                stack.callback(setattr, sys, name, None)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        yield


def forget_output() -> None:
    """The reader has gone: let what is still buffered go nowhere, without a complaint at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
