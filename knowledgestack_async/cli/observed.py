"""What a watch has shown so far: how many have which status, what changed last, and what is wrong."""

from __future__ import annotations

import time
from collections import Counter, deque

import attrs

import knowledgestack_async as ks

from ..rerun_report import cause_of
from .output import Shape
from .table import Column, show_time

__all__ = ["EVENT", "Event", "Observed", "event_of", "raise_if_hopeless"]

Change = ks.StatusChange[ks.WorkflowSummaryResponse]

GOOD = "completed"
FAILED = "failed"


@attrs.frozen(kw_only=True)
class Event:
    """A change as it is printed."""

    kind: str
    workflow_id: str
    previous: str | None
    current: str | None
    is_final: bool
    seen_at: str
    error: str | None
    merged: int


EVENT = Shape.of(
    Event,
    Column(title="WORKFLOW", fields=("workflow_id", "kind")),
    Column(title="STATUS", fields=("current", "kind"), typical=10, is_status=True),
    Column(title="SEEN", fields=("seen_at",), show=show_time, rank=2, typical=7),
    Column(title="ERROR", fields=("error",), least=20, rank=1, typical=40),
)


def event_of(change: Change) -> Event:
    """A change, ready to be printed."""
    error = None if change.error is None else str(change.error)
    if error is None and change.state is not None and change.is_final:
        error = change.state.error
    return Event(
        kind=str(change.kind),
        workflow_id=change.workflow_id,
        previous=change.previous,
        current=change.current,
        is_final=change.is_final,
        seen_at=change.seen_at.isoformat(),
        error=error,
        merged=change.merged,
    )


def raise_if_hopeless(change: Change) -> None:
    """A watch goes on whatever happens; a key that is refused is no reason to.

    Raises:
        Unauthorized: It was refused.
        Forbidden: It may not see this.
    """
    if isinstance(change.error, ks.Unauthorized | ks.Forbidden):
        raise change.error


class Observed:
    """What a watch has shown.

    Args:
        title: What is watched.
        watch: Where it comes from.
        is_everything: Whether that is all there is, so that what was over before doesn't count.

    Attributes:
        is_everything: Whether that is all there is.
        recent: The last changes, the newest first.
        has_failed: Whether anything ended badly.
        missing: What was found not to exist, or not any more.
        trouble: What keeps the watch from seeing now.
    """

    RECENT = 100
    WINDOW = 60.0

    def __init__(
        self,
        title: str,
        watch: ks.Watch[ks.WorkflowSummaryResponse],
        *,
        is_everything: bool = False,
    ) -> None:
        self.title = title
        self._watch = watch
        self.is_everything = is_everything
        self.recent: deque[Event] = deque(maxlen=self.RECENT)
        self.has_failed: bool = False
        self.missing: dict[str, None] = {}
        self.trouble: str | None = None
        self._failed: dict[str, str] = {}
        self._endings: deque[float] = deque()
        self._began = time.monotonic()

    @property
    def summary(self) -> ks.WatchSummary:
        """Where the watch is."""
        return self._watch.summary

    @property
    def causes(self) -> Counter[str]:
        """Why those failed that are failed now: how many of each cause."""
        return Counter(self._failed.values())

    @property
    def rate(self) -> float:
        """How many ended a second, lately; what was over at first sight is no part of it."""
        now = time.monotonic()
        while self._endings and self._endings[0] < now - self.WINDOW:
            self._endings.popleft()
        return len(self._endings) / max(1.0, min(self.WINDOW, now - self._began))

    def note(self, change: Change) -> None:
        """Take a change down."""
        event = event_of(change)
        if change.kind is ks.ChangeKind.TROUBLE and not change.workflow_id:
            self.trouble = event.error
        elif change.kind is ks.ChangeKind.RECOVERED:
            self.trouble = None
        if change.kind in {ks.ChangeKind.STATUS, ks.ChangeKind.MISSING}:
            self._note_status(event)
        elif change.workflow_id:
            self.recent.appendleft(event)

    def _note_status(self, event: Event) -> None:
        is_news = event.previous is not None
        if is_news:
            self.recent.appendleft(event)
        if event.is_final and is_news:
            self._endings.append(time.monotonic())
        self._failed.pop(event.workflow_id, None)
        self.missing.pop(event.workflow_id, None)
        if event.current is None:
            self.missing[event.workflow_id] = None
        elif event.is_final and event.current != GOOD:
            self.has_failed = self.has_failed or is_news or not self.is_everything
        if event.current == FAILED:
            self._failed[event.workflow_id] = cause_of(event.error or FAILED)
