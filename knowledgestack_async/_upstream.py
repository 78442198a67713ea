"""What a bulk rerun asks of the world: which calls there are, and what they tell."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

import attrs

from ._wire import Permit
from .models import WorkflowSummaryResponse
from .watching import Watch

__all__ = ["Accepted", "BulkAnswer", "Hearing", "Upstream"]


@attrs.frozen
class Accepted:
    """A rerun that the server took."""

    request_id: str | None
    tries: int


@attrs.frozen
class BulkAnswer:
    """What a bulk rerun answered: what it took, and why it didn't take the rest."""

    succeeded: frozenset[str]
    failed: Mapping[str, str]
    request_id: str | None


class Hearing(Protocol):
    """Whether the server still speaks, and what is done about what it won't answer any more."""

    @property
    def is_silent(self) -> bool:
        """Whether an answer of the server's is overdue."""
        ...

    @property
    def lost_before(self) -> float:
        """What was sent before then and still waits will hardly be answered."""
        ...

    def resumed(self) -> None:
        """We didn't run for a while, so nothing was heard."""
        ...

    def hang_up(self, before: float) -> None:
        """Send again what waits since before then, where that does no harm."""
        ...

    def write_off(self, before: float, most: int | None) -> None:
        """Let others go in the place of what is on its way since before then, the oldest first."""
        ...


class Upstream(Protocol):
    """What a job calls."""

    @property
    def server(self) -> str:
        """The server, by its address."""
        ...

    def check(self, target: object) -> str:
        """An id that can be sent."""
        ...

    async def rerun(self, workflow_id: str, permit: Permit) -> Accepted:
        """Rerun one. Raises Withdrawn if its permit says no before a try."""
        ...

    @property
    def bulk_limit(self) -> int | None:
        """How many document versions one bulk rerun takes; None where the server has none."""
        ...

    def lacks_bulk(self) -> None:
        """The server has no bulk rerun after all, for as long as the session lasts."""
        ...

    @property
    def is_exhausted(self) -> bool:
        """Whether the session's circuit breaker is open."""
        ...

    @property
    def is_failing(self) -> bool:
        """Whether the session gave up the last reruns that it sent, one by one."""
        ...

    async def rerun_many(self, version_ids: Sequence[str], permit: Permit) -> BulkAnswer:
        """Rerun many. Raises Withdrawn if its permit says no before a try."""
        ...

    async def read(self, workflow_id: str) -> WorkflowSummaryResponse:
        """Read one."""
        ...

    def walk(self) -> AsyncIterator[WorkflowSummaryResponse]:
        """Walk all."""
        ...

    async def count(self) -> int:
        """How many there are, asked once: a way to see whether the server answers."""
        ...

    async def make_contact(self) -> None:
        """Make sure that there is a server, before it is waited for as long as it takes."""
        ...

    @property
    def hearing(self) -> Hearing:
        """Whether the server still speaks."""
        ...

    def follow(self) -> Watch[WorkflowSummaryResponse]:
        """A watch that ids can be added to."""
        ...
