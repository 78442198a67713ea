"""Which generation of the API is talking: what a session has learned, and how it finds out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from ._clock import Clock
from ._dialects import GENERATIONS, Dialect, Route, dialect_named, spoken_dialect
from ._wire import Answer, Call, Priority, list_reader
from .errors import InvalidResponse

__all__ = ["Negotiation", "probe_call"]

logger = logging.getLogger("knowledgestack_async")

Probe = Callable[[Dialect], Awaitable[bool | None]]
"""Asks a generation's list route: is it there? None: the answer decides nothing."""


class Negotiation:
    """What a session knows of the server's generation; shared by all of its tasks.

    It starts with the documented one, and moves when an answer shows that another one is speaking:
    an envelope, or a list route that is not there.
    """

    ASK_AGAIN_AFTER = 30.0

    def __init__(self, name: str, clock: Clock) -> None:
        self.is_fixed = name != "auto"
        self.dialect = dialect_named(name) if self.is_fixed else GENERATIONS[0]
        self.is_confirmed = self.is_fixed
        self._clock = clock
        self._asked_at = float("-inf")
        self._probes = 0
        self._probing = asyncio.Lock()

    def learn(self, asked: Dialect, *, by_number: bool) -> bool:
        """An answer of a list came, in numbered pages or in offsets.

        Returns:
            Whether that is what it was asked for; if not, it ignored which page that was.

        Raises:
            InvalidResponse: The dialect was set by name, and this is not how it answers.
        """
        spoken = spoken_dialect(asked, by_number=by_number)
        if self.is_fixed:
            if spoken is not self.dialect:
                raise InvalidResponse(
                    f"the server answers as {spoken.name!r}, not as {self.dialect.name!r}",
                    "GET",
                    asked.paths[Route.LIST_INGESTIONS],
                    hint="Open the session with dialect='auto', or with the name of the right one.",
                )
        elif asked.paths[Route.LIST_INGESTIONS] == self.dialect.paths[Route.LIST_INGESTIONS]:
            self._settle(spoken)
        return spoken is asked

    async def has_moved(self, asked: Dialect, probe: Probe, *, list_is_missing: bool) -> bool:
        """Whether a 404 means that the route is not there, and another generation's is.

        However many tasks ask at a time, the server is asked once.

        Args:
            asked: The generation whose route answered 404.
            probe: Asks for a generation's list.
            list_is_missing: Whether it was the list's route: that never is a 404 where it exists.
        """
        if self.is_fixed:
            return False
        probes = self._probes
        async with self._probing:
            if asked is not self.dialect or probes != self._probes:
                return asked.paths != self.dialect.paths
            if self.is_confirmed and self._clock.now() - self._asked_at < self.ASK_AGAIN_AFTER:
                return False
            others = [
                generation
                for generation in GENERATIONS
                if generation.paths[Route.LIST_INGESTIONS] != asked.paths[Route.LIST_INGESTIONS]
            ]
            is_there: bool | None = False
            for generation in (*([] if list_is_missing else [asked]), *_one_a_path(others)):
                is_there = await probe(generation)
                if is_there is not False:
                    break
            self._probes += 1
            moved = self.dialect.paths != asked.paths
            settled = is_there is not None and not moved
            self._asked_at = self._clock.now() if settled else float("-inf")
            return moved

    def found(self, asked: Dialect, *, by_number: bool) -> None:
        """A probe found a list route, and heard how it pages."""
        self._settle(spoken_dialect(asked, by_number=by_number))

    def _settle(self, spoken: Dialect) -> None:
        if spoken is not self.dialect or not self.is_confirmed:
            self.dialect = spoken
            self.is_confirmed = True
            logger.info("the server speaks the dialect %r", spoken.name)


def _one_a_path(generations: list[Dialect]) -> list[Dialect]:
    return list({one.paths[Route.LIST_INGESTIONS]: one for one in reversed(generations)}.values())


def probe_call(generation: Dialect) -> Call[bool]:
    """Asks whether a generation's list route is there, and how it pages."""
    read_page = list_reader(0, 1)

    def read(answer: Answer, _dialect: Dialect) -> bool:
        return read_page(answer, generation).offset is None

    return Call(
        method="GET",
        target=lambda _: generation.list_target(0, 1, {}),
        read=read,
        priority=Priority.URGENT,
    )
