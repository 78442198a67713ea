"""The demo's story: how far it has come, and who tells it on which kind of output."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import attrs

import knowledgestack_async as ks

from ..monitor import is_newer_run
from .screen import Screen
from .text import count_words

__all__ = ["PlainTeller", "Step", "Story", "Teller", "teller_for"]


@attrs.define
class Step:
    """A step of the story.

    Attributes:
        title: What is done.
        began: When, in seconds from the story's beginning.
        ended: When it was over; None while it isn't.
    """

    title: str
    began: float
    ended: float | None = None


class Story:
    """How far the demo has come.

    Args:
        session: The session that it is played on.
        total: How many ingestions there are.

    Attributes:
        steps: The steps so far.
        failed: The failed ingestions, as they were found.
        now: The status of each that was run again.
        refused: How many could not be run again.
    """

    def __init__(self, session: ks.Session, total: int) -> None:
        self.session = session
        self.total = total
        self.steps: list[Step] = []
        self.failed: dict[str, ks.WorkflowSummaryResponse] = {}
        self.now: dict[str, ks.IngestionStatus] = {}
        self.refused: int = 0
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long it has been going on."""
        return time.monotonic() - self._began

    @property
    def done(self) -> int:
        """How many that were run again are done."""
        return sum(status.is_terminal for status in self.now.values())

    @property
    def is_going_on(self) -> bool:
        """Whether there is still something to watch."""
        return self.done < len(self.now)

    @property
    def counts(self) -> Counter[str]:
        """How many that were run again have which status."""
        return Counter(map(str, self.now.values()))

    def begin(self, title: str) -> None:
        """Go on to the next step."""
        self.end()
        self.steps.append(Step(title, self.seconds))

    def end(self) -> None:
        """The last step is over."""
        if self.steps:
            self.steps[-1].ended = self.seconds

    def note_rerun(self, workflow_id: str, error: Exception | None) -> None:
        """One was run again, or could not be."""
        if error is None:
            self.now[workflow_id] = ks.IngestionStatus.PENDING
        else:
            self.refused += 1

    def note_state(self, summary: ks.WorkflowSummaryResponse) -> None:
        """The list shows where one is; the outcome of the run before the rerun doesn't count."""
        if summary.workflow_id not in self.now:
            return
        before = self.failed[summary.workflow_id]
        if not summary.is_terminal or is_newer_run(summary, before):
            self.now[summary.workflow_id] = summary.status


class Teller(ABC):
    """Tells a story while its block is played.

    Args:
        screen: Where to.
        story: What is told.
    """

    interval: float = 1.0

    def __init__(self, screen: Screen, story: Story) -> None:
        self.screen = screen
        self.story = story

    @abstractmethod
    def tell(self) -> None:
        """Tell how far it has come."""

    @asynccontextmanager
    async def telling(self) -> AsyncGenerator[None]:
        """Tell it while this block is played, and how it ended unless it was cut short."""
        task = asyncio.create_task(self._go_on())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self.tell()

    async def _go_on(self) -> None:
        while True:
            self.tell()
            await asyncio.sleep(self.interval)


class PlainTeller(Teller):
    """Line by line, for a pipe."""

    interval: float = 0.5
    _told = 0

    def tell(self) -> None:
        """Print the steps that are over, and how many are done."""
        steps = self.story.steps
        for step in steps[self._told :]:
            self.screen.out(f"{step.began:5.1f} s  {step.title}")
        self._told = len(steps)
        if self.story.counts:
            counts = count_words(map(str, self.story.now.values()))
            self.screen.out(f"{self.story.seconds:5.1f} s    {counts}")


def teller_for(screen: Screen, story: Story) -> Teller:
    """Who tells a story on this screen."""
    if not screen.is_terminal:
        return PlainTeller(screen, story)
    from .live import LiveTeller  # noqa: PLC0415 - rich is slow to import

    return LiveTeller(screen, story)
