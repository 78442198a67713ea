"""Which generation of the API is talking: what a session has learned, and how it finds out."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from ._checks import plain
from ._clock import Clock
from ._dialects import GENERATIONS, Dialect, Route, dialect_named, spoken_dialect
from ._wire import Answer, Call, Priority, list_reader
from .errors import InvalidResponse
from .models import PaginatedResponse, WorkflowSummaryResponse

__all__ = ["Negotiation", "Page", "probe_call"]

logger = logging.getLogger("knowledgestack_async")

Page = PaginatedResponse[WorkflowSummaryResponse]

Probe = Callable[[Dialect], Awaitable[Page | bool]]
"""Asks for a generation's list: its first page, True if it is there and this key may not read it, or
False if it isn't. Raises what says neither."""


class Negotiation:
    """What a session knows of the server's generation; shared by all of its tasks.

    It starts with the documented one, and moves when an answer shows that another one is speaking:
    an envelope, the fields of items, or a route that is not there.
    """

    HOLDS_FOR = 0.25
    """Seconds for which it isn't asked again where the routes are."""
    MIXED_FOR = 60.0
    """Seconds for which a server that answered as two generations is taken to be both."""

    def __init__(self, name: object, clock: Clock) -> None:
        name = plain(name) if isinstance(name, str) else name
        self.is_fixed = name != "auto"
        self.dialect = dialect_named(name) if self.is_fixed else GENERATIONS[0]
        self.is_confirmed = self.is_fixed
        self._clock = clock
        self._placed_at = float("-inf")
        self._left_at: dict[str, float] = {}
        self._mixed_until = float("-inf")
        self._settled_until = float("-inf")

    @property
    def is_mixed(self) -> bool:
        """Whether two generations answer by turns, as in a rolling upgrade."""
        return self._clock.now() < self._mixed_until

    def observe(self, asked: Dialect, page: Page) -> Dialect:
        """Learn from a page of the list.

        Returns:
            The generation that gave it.

        Raises:
            InvalidResponse: The dialect was set by name, and this is not how it answers.
        """
        spoken = spoken_dialect(asked, page, self.dialect)
        if self.is_fixed:
            # One that is more than was named can do all that is asked of it.
            is_more = spoken.paging == self.dialect.paging and spoken.names_documents
            if spoken is not self.dialect and not is_more:
                raise InvalidResponse(
                    f"the server answers as {spoken.name!r}, not as {self.dialect.name!r}",
                    "GET",
                    _list_path(asked),
                    hint="Open the session with dialect='auto', or with the name of the right one.",
                )
            return self.dialect
        if _list_path(asked) == _list_path(self.dialect):
            self._settle(spoken)
        return spoken

    async def find(
        self, asked: Dialect, probe: Probe, *, list_is_missing: bool, insists: bool = False
    ) -> None:
        """After a 404 that names nothing: find out where the routes are, and move there.

        Where two generations answer by turns, it moves to the one that was not asked.

        Args:
            asked: The generation whose route answered 404.
            probe: Asks for a generation's list.
            insists: Whether the service itself said that it has no such route.
            list_is_missing: Whether it was the list's route: that never is a 404 where it exists.

        Raises:
            RequestError: The server's answers say neither.
        """
        if _list_path(asked) != _list_path(self.dialect):
            return
        now = self._clock.now()
        others = [one for one in _one_per_path() if _list_path(one) != _list_path(asked)]
        if self.is_mixed:
            self._settle(others[0])
            return
        if now - self._placed_at < self.HOLDS_FOR and not (list_is_missing or insists):
            return
        for other in others:
            if await self._is_there(other, probe):
                left_at = self._left_at.get(_list_path(other), float("-inf"))
                if now - left_at < self.MIXED_FOR:
                    self._mixed_until = self._clock.now() + self.MIXED_FOR
                return
        if not list_is_missing:
            await self._is_there(asked, probe)
        self._placed_at = self._clock.now()

    @property
    def is_settled(self) -> bool:
        """Whether looking for another generation led nowhere a while ago, so that it is not worth it."""
        return self._clock.now() < self._settled_until

    def gave_up(self) -> None:
        """A call whose route is said to be missing was sent often enough, wherever it may be."""
        self._settled_until = self._clock.now() + self.MIXED_FOR

    async def _is_there(self, generation: Dialect, probe: Probe) -> bool:
        """Whether a generation's list is there; if so, it is the one that speaks."""
        found = await probe(generation)
        if isinstance(found, PaginatedResponse):
            self._settle(spoken_dialect(generation, found, self.dialect))
        elif found and _list_path(generation) != _list_path(self.dialect):
            self._settle(generation)
        return found is not False

    def _settle(self, spoken: Dialect) -> None:
        if spoken is not self.dialect or not self.is_confirmed:
            if self.is_confirmed and _list_path(spoken) != _list_path(self.dialect):
                self._left_at[_list_path(self.dialect)] = self._clock.now()
            self.dialect = spoken
            self.is_confirmed = True
            logger.info("the server speaks the dialect %r", spoken.name)


def _list_path(dialect: Dialect) -> str:
    return dialect.paths[Route.LIST_INGESTIONS]


def _one_per_path() -> list[Dialect]:
    """Of those with the same paths, the one that can less."""
    return list({_list_path(one): one for one in reversed(GENERATIONS)}.values())


def probe_call(generation: Dialect) -> Call[Page]:
    """Asks whether a generation's list route is there, and how it pages."""
    read_page = list_reader(0, 1)

    def read(answer: Answer, _dialect: Dialect) -> Page:
        return read_page(answer, generation)

    return Call(
        method="GET",
        target=lambda _: generation.list_target(0, 1, {}),
        read=read,
        priority=Priority.URGENT,
    )
