"""The two streams: what goes to which, in what width and colors, and a line that says what is going on."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import IO

import click

from .text import wrap

__all__ = ["Screen"]

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_CLEAR_LINE = "\r\x1b[2K"


class Screen:
    """Standard output and standard error, as this run uses them.

    Args:
        allow_color: Whether colors may be used where the stream is a terminal.

    Attributes:
        can_draw: Whether standard output is a terminal on which a picture can change.
        can_draw_on_err: Whether standard error is one.
        is_drawn_on: Whether such a picture is there now, so that no line moves beside it.
    """

    SHOW_AFTER = 0.5
    TICK = 0.1

    def __init__(self, *, allow_color: bool = True) -> None:
        plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        self.is_terminal: bool = sys.stdout.isatty()
        self.has_color: bool = self.is_terminal and allow_color and not plain
        self._err_is_terminal = sys.stderr.isatty()
        self.err_has_color: bool = self._err_is_terminal and allow_color and not plain
        is_dumb = os.environ.get("TERM") == "dumb"
        self.can_draw: bool = self.is_terminal and not is_dumb
        self.can_draw_on_err: bool = self._err_is_terminal and not is_dumb
        self.is_drawn_on = False
        self._status_is_shown = False
        self.activity: Callable[[], str] = lambda: "waiting"

    @property
    def width(self) -> int:
        """How many columns a line may take."""
        return shutil.get_terminal_size().columns

    def style(self, text: str, color: str | None = None, *, bold: bool = False) -> str:
        """The text as it is to look on standard output."""
        return click.style(text, fg=color, bold=bold or None) if self.has_color else text

    def out(self, line: str) -> None:
        """Print a line of the result."""
        self.clear_status()
        _write(sys.stdout, f"{line}\n")

    def say(self, line: str) -> None:
        """Print a sentence of the result, in lines that fit a terminal."""
        for part in wrap(line, self.width, "") if self.is_terminal else [line]:
            self.out(part)

    def note(self, line: str) -> None:
        """Say something besides the result."""
        self.clear_status()
        _write(sys.stderr, f"{line}\n")

    def complain(self, lines: list[str]) -> None:
        """Say what went wrong, and what to do."""
        for number, line in enumerate(lines):
            if self._err_is_terminal:
                line = "\n".join(wrap(line, self.width, "  "))  # noqa: PLW2901
            is_first = self.err_has_color and not number
            self.note(click.style(line, fg="red") if is_first else line)

    @asynccontextmanager
    async def ticking(self) -> AsyncGenerator[None]:
        """While this block takes its time, a person at a terminal is told what is going on."""
        if not self.can_draw_on_err:
            yield
            return
        ticker = asyncio.create_task(self._tick())
        try:
            yield
        finally:
            ticker.cancel()
            with suppress(asyncio.CancelledError):
                await ticker
            self.clear_status()

    async def _tick(self) -> None:
        began = time.monotonic()
        while True:
            await asyncio.sleep(self.TICK)
            passed = time.monotonic() - began
            if passed > self.SHOW_AFTER and not self.is_drawn_on:
                self._show_status(passed)

    def _show_status(self, passed: float) -> None:
        frame = _FRAMES[int(passed / self.TICK) % len(_FRAMES)]
        text = f"{frame} {self.activity()} … {passed:.0f} s"
        _write(sys.stderr, f"{_CLEAR_LINE}{text[: self.width - 1]}")
        self._status_is_shown = True

    def clear_status(self) -> None:
        """Take away the line that says what is going on, until it is written again."""
        if self._status_is_shown:
            _write(sys.stderr, _CLEAR_LINE)
            self._status_is_shown = False


def _write(stream: IO[str], text: str) -> None:
    stream.write(text)
    stream.flush()
