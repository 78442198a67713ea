"""The demo's story on a terminal: a screen that is drawn anew ten times a second."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from .canvas import bar
from .screen import Screen
from .story import Step, Story, Teller
from .text import status_color

__all__ = ["LiveTeller"]

_ORDER = ("completed", "processing", "pending", "failed")


class LiveTeller(Teller):
    """Steps, a bar, and the counts by status."""

    interval: float = 0.1

    def __init__(self, screen: Screen, story: Story) -> None:
        super().__init__(screen, story)
        # The terminal's echo of Ctrl-C must not wrap: the picture would move, and its top stay.
        self._width = screen.width - len("^C")
        console = Console(
            width=self._width, no_color=not screen.has_color, highlight=False, force_terminal=True
        )
        self._spinner = Spinner("dots", style="cyan")
        self._live = Live(console=console, auto_refresh=False, transient=False)

    def tell(self) -> None:
        """Draw it."""
        self._live.update(self.draw(), refresh=True)

    @asynccontextmanager
    async def telling(self) -> AsyncGenerator[None]:
        """Tell it while this block is played; what was drawn last stays."""
        with self._live:
            async with super().telling():
                yield

    def draw(self) -> RenderableType:
        """The screen as it is now."""
        story = self.story
        parts: list[RenderableType] = [self._title(), *map(self._step, story.steps)]
        if story.now:
            parts += [Padding(self._bar(), (1, 0, 1, 2)), Padding(self._counts(), (0, 0, 0, 2))]
        return Group(*parts)

    def _title(self) -> RenderableType:
        session = self.story.session
        text = Text.assemble(
            ("Knowledge Stack", "bold"),
            f"  a sandbox of {self.story.total:,} ingestions at ",
            session.base_url,
        )
        return Padding(text, (0, 0, 1, 0))

    def _step(self, step: Step) -> RenderableType:
        line = Table.grid(padding=(0, 1))
        line.add_column(width=1)
        line.add_column(width=36)
        line.add_column()
        mark = self._spinner if step.ended is None else Text("✓", style="green")
        line.add_row(mark, step.title, Text(self._result_of(step), style="dim"))
        return line

    def _result_of(self, step: Step) -> str:
        ended = self.story.seconds if step.ended is None else step.ended
        return f"{ended - step.began:4.1f} s"

    def _bar(self) -> RenderableType:
        story = self.story
        return bar(story.done, len(story.failed), "done", self._width - 4)

    def _counts(self) -> RenderableType:
        counts = self.story.counts
        words = [*_ORDER, *(word for word in counts if word not in _ORDER)]
        room = max(10, self._width - 30)
        table = Table.grid(padding=(0, 1))
        table.add_column(min_width=10)
        table.add_column(justify="right", min_width=5)
        table.add_column()
        for word in words:
            count = counts[word]
            color = status_color(word) or ""
            length = -(-room * count // max(1, len(self.story.failed)))
            table.add_row(Text(word, style=color), f"{count:,}", Text("▇" * length, style=color))
        return table
