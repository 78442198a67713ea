"""A picture on a terminal that is drawn anew a few times a second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from .screen import Screen

__all__ = ["Draw", "bar", "drawn"]

Draw = Callable[[int, int], RenderableType]
"""Draws into so many columns and lines."""

INTERVAL = 0.2


def bar(done: int, total: int, word: str, width: int, *, is_known: bool = True) -> RenderableType:
    """A bar, and behind it how many are done.

    Args:
        done: How many.
        total: Of how many.
        word: What it is called.
        width: How many columns there are for both.
        is_known: Whether that is the total, and not only what was seen so far.
    """
    told = f"{total:,} so far"
    if is_known:
        told = f"{done:>{len(f'{total:,}')},} of {total:,} {word}"
    line = Table.grid(padding=(0, 1))
    line.add_row(
        ProgressBar(
            total=max(1, total),
            completed=done if is_known else 0,
            width=max(10, width - len(told) - 1),
            complete_style="cyan",
            finished_style="green",
        ),
        told,
    )
    return line


@asynccontextmanager
async def drawn(
    screen: Screen, draw: Draw, *, on_err: bool = False, whole: bool = False
) -> AsyncGenerator[None]:
    """Show a picture while this block runs; afterwards the terminal is as it was.

    Args:
        screen: Whose terminal.
        draw: What draws it.
        on_err: Whether it goes to standard error.
        whole: Whether it takes the whole terminal, and not only the lines below.
    """
    has_color = screen.err_has_color if on_err else screen.has_color
    console = Console(
        stderr=on_err, no_color=not has_color, highlight=False, force_terminal=True, emoji=False
    )
    live = Live(
        console=console,
        screen=whole,
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )

    async def keep_drawing() -> None:
        while True:
            live.update(draw(console.width, console.height), refresh=True)
            await asyncio.sleep(INTERVAL)

    screen.clear_status()
    screen.is_drawn_on = True
    with live:
        task = asyncio.create_task(keep_drawing())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            screen.is_drawn_on = False
