"""Whether a bulk rerun may send: paused while the server is away, stopped by what waiting can't help."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ._clock import Clock
from ._retry import Chance
from ._upstream import Upstream
from .errors import Forbidden, KnowledgeStackError, QuotaExceeded, SessionError, Unauthorized

__all__ = ["Breaker"]


def _tell_nobody(*_: object) -> None:
    """For what nobody wants to be told."""


class Breaker:
    """Holds a job back until the server answers again; one asks, the others wait.

    Args:
        upstream: What to ask.
        clock: Where time comes from.
        chance: Where jitter comes from.

    Attributes:
        is_open: Whether it is neither held back nor stopped.
        holds_all: Whether what was begun already is held back, too, for it would hardly be answered. A
            server that only refuses does no harm to it, and may take some.
        paused_by: Why it is held back now; None if it isn't.
        stopped_by: Why nothing more is sent; None while it may.
        on_stop: Called when it is stopped.
        on_back: Called when the server is back.
        on_lost: Called when a silent server is back: what is on its way since before that time will
            hardly be answered. Told with how many others may go in its place: all of them (None), but
            only one at a time until something that was sent since succeeds, lest a slow server is
            flooded.
    """

    SHORTEST_WAIT, LONGEST_WAIT = 0.25, 1.5
    LISTEN_FOR = 1.5
    """A question that is not answered by then is asked again, beside the first."""
    LOOK_EVERY = 0.5

    def __init__(self, upstream: Upstream, clock: Clock, chance: Chance) -> None:
        self._upstream = upstream
        self._hearing = upstream.hearing
        self._clock = clock
        self._chance = chance
        self._pauses = 0
        self._is_asking = False
        self._go = asyncio.Event()
        self._go.set()
        self._stopped = asyncio.Event()
        self._lost_before = float("-inf")
        self._has_succeeded = True
        self.is_open = True
        self.holds_all = False
        self.paused_by: str | None = None
        self.stopped_by: str | None = None
        self.on_stop: Callable[[], None] = _tell_nobody
        self.on_back: Callable[[], None] = _tell_nobody
        self.on_lost: Callable[[float, int | None], None] = _tell_nobody

    def stop(self, why: str) -> None:
        """Send nothing more."""
        self.is_open, self.holds_all = False, True
        self.stopped_by = self.stopped_by or why
        self._stopped.set()
        self._go.set()
        self.on_stop()

    async def sleep(self, seconds: float) -> None:
        """Wait, but no longer than until it is stopped."""
        sleeping = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await self._first_of(sleeping)
        finally:
            sleeping.cancel()

    async def _first_of(self, *others: asyncio.Future[Any]) -> None:
        """Wait for one of these, or for a stop."""
        stopped = asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait([stopped, *others], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()

    async def may_go(self) -> bool:
        """Wait while it is paused; whether to go on then, False if it is stopped."""
        if self.paused_by is not None and not self._is_asking:
            self._is_asking = True
            try:
                await self.wait_until_back()
                self._pauses += 1
            finally:
                self.paused_by, self.is_open = None, self.stopped_by is None
                self.holds_all = not self.is_open
                self._is_asking = False
                self._go.set()
        await self._go.wait()
        return self.stopped_by is None

    def succeeded(self, since: float) -> None:
        """The server took something that was sent then."""
        self._pauses = 0
        if not self._has_succeeded and since >= self._lost_before:
            self._has_succeeded = True
            self._write_off(None)

    def failed(self, why: str, *, since: float, in_bulk: bool, is_away: bool) -> None:
        """What was sent then failed in a way that may pass: pause, if the server looks away."""
        if since >= self._lost_before:
            is_failing = in_bulk or self._upstream.is_failing
            if is_away or is_failing:
                self._hold_back(why, everything=is_failing)

    async def pause(self, why: str) -> bool:
        """Hold everybody back until the server answers.

        Returns:
            Whether to go on: False if it is stopped.
        """
        self._hold_back(why, everything=True)
        return await self.may_go()

    def _hold_back(self, why: str, *, everything: bool) -> None:
        """From this moment on; whoever waits first is the one who asks."""
        if self.is_open:
            self.paused_by, self.is_open = why, False
            self._go.clear()
        self.holds_all |= everything

    async def look_out(self) -> None:
        """Notice when the server goes silent: what hangs then would be waited for until it times out."""
        while self.stopped_by is None:
            looked_at = self._clock.now()
            with suppress(TimeoutError):
                async with self._clock.timeout(self.LOOK_EVERY):
                    await self._stopped.wait()
            if self._clock.now() - looked_at > 2 * self.LOOK_EVERY:
                self._hearing.resumed()
            self._note_lost()
            if self._hearing.is_silent:
                await self.pause("the server has gone silent")

    async def wait_until_back(self) -> None:
        """Ask the server until it answers, or the job is stopped; nobody is held back for that."""
        was_silent = False
        wait = self.SHORTEST_WAIT * 2 ** min(self._pauses, 3)
        questions: set[asyncio.Task[bool]] = set()
        try:
            while self.stopped_by is None:
                longest = min(wait, self.LONGEST_WAIT)
                await self.sleep(longest * (0.75 + self._chance.random() / 2))
                wait *= 2
                was_silent |= self._hearing.is_silent
                asked_at = self._clock.now()
                questions.add(asyncio.ensure_future(self._is_back()))
                if await self._listen(questions):
                    if was_silent:
                        self._hearing.hang_up(asked_at)
                    self._note_lost()
                    self.on_back()
                    return
        finally:
            for question in questions:
                question.cancel()
            await asyncio.gather(*questions, return_exceptions=True)

    async def _listen(self, questions: set[asyncio.Task[bool]]) -> bool:
        """Whether one of them is answered well, soon; those that are answered are taken out."""
        with suppress(TimeoutError):
            async with self._clock.timeout(self.LISTEN_FOR):
                await self._first_of(*questions)
        done = {question for question in questions if question.done()}
        questions.difference_update(done)
        return any(question.result() for question in done)

    async def _is_back(self) -> bool:
        try:
            await self._upstream.count()
        except (Unauthorized, QuotaExceeded, SessionError) as error:
            self.stop(str(error))
        except Forbidden:
            return True  # it answers: this key may do other things
        except KnowledgeStackError:
            return False
        return True

    def _note_lost(self) -> None:
        """What the session takes for lost, for this job's sake or another's."""
        before = self._hearing.lost_before
        if before > self._lost_before:
            self._lost_before = before
            self._write_off(None if self._has_succeeded else 1)
            self._has_succeeded = False

    def _write_off(self, most: int | None) -> None:
        self._hearing.write_off(self._lost_before, most)
        self.on_lost(self._lost_before, most)
