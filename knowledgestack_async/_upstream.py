"""What a bulk rerun asks of the world: which calls there are, and what they tell."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

import attrs

from .models import WorkflowSummaryResponse
from .watching import Watch

__all__ = ["Accepted", "BulkAnswer", "Upstream"]


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


class Upstream(Protocol):
    """What a job calls."""

    @property
    def server(self) -> str:
        """The server, by its address."""
        ...

    def check(self, target: object) -> str:
        """An id that can be sent."""
        ...

    async def rerun(self, workflow_id: str) -> Accepted:
        """Rerun one."""
        ...

    @property
    def bulk_limit(self) -> int | None:
        """How many document versions one bulk rerun takes; None where the server has none."""
        ...

    @property
    def is_exhausted(self) -> bool:
        """Whether the session's retry budget is used up."""
        ...

    async def rerun_many(self, version_ids: Sequence[str]) -> BulkAnswer:
        """Rerun many."""
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
    def is_silent(self) -> bool:
        """Whether an answer of the server's is overdue."""
        ...

    def presume_lost(self, before: float) -> None:
        """Don't count on answers to what is on its way since before then."""
        ...

    def follow(self) -> Watch[WorkflowSummaryResponse]:
        """A watch that ids can be added to."""
        ...
