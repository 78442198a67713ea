"""The first contact with a server, which fails fast, and outages after it, which are told and waited out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import knowledgestack_async as ks

from .screen import Screen

__all__ = ["Outage", "is_outage", "make_contact"]

_NO_SERVER = frozenset({502, 503, 504})


async def make_contact(session: ks.Session) -> None:
    """Make sure that there is a server, before it is waited for as long as it takes.

    Raises:
        KnowledgeStackError: It can't be asked, after the usual tries.
    """
    if not session.hearing.was_heard:
        await ks.list_ingestion_workflows(session, page_size=1)


def is_outage(error: ks.KnowledgeStackError) -> bool:
    """Whether an error is the server's being away, and not its answer."""
    if isinstance(error, ks.ServerError):
        return error.status in _NO_SERVER
    return isinstance(error, ks.ConnectionFailed | ks.ConnectionLost | ks.DeadlineExceeded)


class Outage:
    """Notices that a server can't be reached any more; says so once, and when it is back.

    Args:
        screen: Where to say it.
        session: An open session.
        is_doubtful: Whether there is a reason to ask the server if it is there.

    Attributes:
        reason: Why it can't be reached; None while it can.
    """

    LOOK_AFTER = 0.25
    PATIENCE = 10.0
    LOST = 2
    """So many tries in vain, with no answer between them, are a reason to ask."""

    def __init__(
        self,
        screen: Screen,
        session: ks.Session,
        *,
        is_doubtful: Callable[[], bool] = lambda: False,
    ) -> None:
        self._screen = screen
        self._session = session
        self._once = session.with_options(timeout=self.PATIENCE, retry=ks.RetryPolicy(tries=1))
        self._is_doubtful = is_doubtful
        self._at_answer = session.stats
        self.reason: str | None = None

    def judge(self, change: ks.StatusChange[ks.WorkflowSummaryResponse]) -> None:
        """Take down what a change says of the server."""
        if change.error is not None and is_outage(change.error):
            self.note(change.error)
        elif change.state is not None:
            self._end()

    def note(self, error: ks.KnowledgeStackError) -> None:
        """Take down what came of a request that had all its tries."""
        is_new = self.reason is None
        self.reason = error.message if isinstance(error, ks.RequestError) else str(error)
        if is_new:
            self._say(f"Can't reach the server ({self.reason}); still trying.")

    @asynccontextmanager
    async def noticing(self) -> AsyncGenerator[None]:
        """Look out for it while this block runs."""
        task = asyncio.create_task(self._look_out())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _look_out(self) -> None:
        while True:
            await asyncio.sleep(self.LOOK_AFTER)
            if self.reason is not None or self._is_doubtful() or self._is_silent():
                await self._ask()

    def _is_silent(self) -> bool:
        now = self._session.stats
        if now.bytes_in != self._at_answer.bytes_in:
            self._at_answer = now
        return now.retries - self._at_answer.retries >= self.LOST

    async def _ask(self) -> None:
        try:
            await ks.list_ingestion_workflows(self._once, page_size=1)
        except ks.KnowledgeStackError as error:
            if is_outage(error):
                self.note(error)
                return
        self._end()

    def _end(self) -> None:
        if self.reason is not None:
            self.reason = None
            self._say("The server answers again.")

    def _say(self, line: str) -> None:
        if not self._screen.is_drawn_on:
            self._screen.note(line)
