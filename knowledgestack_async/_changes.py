"""What a watch tells, and what waits to be told: merged by id, small where very much of it waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Generic, TypeAlias, TypeVar, cast

import attrs
import msgspec

from .errors import KnowledgeStackError

__all__ = ["Backlog", "ChangeKind", "Packing", "StatusChange"]

StateT = TypeVar("StateT")

Packing: TypeAlias = tuple[Callable[[StateT], bytes], Callable[[bytes], StateT]]
"""What makes a state small, and what makes it whole again."""


class ChangeKind(StrEnum):
    """What a ``StatusChange`` tells."""

    STATUS = "status"
    """Its status is another one, or is seen for the first time."""
    NEW_RUN = "new_run"
    """It was started again; the states from here on are of another run."""
    MISSING = "missing"
    """There is no such thing, or not any more."""
    TROUBLE = "trouble"
    """It, or everything if there is no id, can't be looked up now; the watch goes on."""
    RECOVERED = "recovered"
    """It, or everything if there is no id, can be looked up again."""


@attrs.frozen(kw_only=True)
class StatusChange(Generic[StateT]):
    """One change that was seen.

    Attributes:
        kind: What it tells.
        workflow_id: Whose; empty where all are meant.
        previous: The status before; None at first sight.
        current: The status now; None where it is missing or unknown.
        is_final: Whether it is over with this.
        seen_at: When it was seen, by this machine's clock.
        state: What was read.
        error: What went wrong, for ``missing`` and ``trouble``.
        merged: How many changes in between were left out because nobody was looking.
    """

    kind: ChangeKind
    workflow_id: str = ""
    previous: str | None = None
    current: str | None = None
    is_final: bool = False
    seen_at: datetime
    state: StateT | None = None
    error: KnowledgeStackError | None = None
    merged: int = 0


class _News(msgspec.Struct):
    """A change that nobody has looked at yet; its state is packed where very many wait."""

    previous: str | None
    current: str | None
    is_final: bool
    seen_at: float
    merged: int
    state: Any
    error: KnowledgeStackError | None


class Backlog(Generic[StateT]):
    """The changes that wait for whoever looks: those of one id and kind are merged into one.

    Args:
        packing: How states are made small, where that can be done.
    """

    PACK_AFTER = 1_000
    """So many changes wait as they are; the states of further ones are packed."""

    def __init__(self, packing: Packing[StateT] | None) -> None:
        self._packing = packing
        self._news: dict[tuple[str, ChangeKind], _News] = {}

    def __len__(self) -> int:
        return len(self._news)

    def add(
        self,
        kind: ChangeKind,
        id_: str,
        *,
        previous: str | None,
        current: str | None,
        final: bool,
        state: StateT | None,
        error: KnowledgeStackError | None,
    ) -> None:
        """One more; the first and the last of several are kept."""
        waiting = self._news.pop((id_, kind), None)
        kept: Any = state
        if state is not None and self._packing and len(self._news) >= self.PACK_AFTER:
            kept = self._packing[0](state)
        self._news[id_, kind] = _News(
            previous=previous if waiting is None else waiting.previous,
            current=current,
            is_final=final,
            seen_at=time.time(),
            merged=0 if waiting is None else waiting.merged + 1,
            state=kept,
            error=error,
        )

    def take(self) -> StatusChange[StateT]:
        """The one that waits longest."""
        id_, kind = key = next(iter(self._news))
        news = self._news.pop(key)
        state = news.state
        if self._packing and isinstance(state, bytes):
            state = self._packing[1](state)
        return StatusChange(
            kind=kind,
            workflow_id=id_,
            previous=news.previous,
            current=news.current,
            is_final=news.is_final,
            seen_at=datetime.fromtimestamp(news.seen_at, UTC),
            state=cast("StateT | None", state),
            error=news.error,
            merged=news.merged,
        )
