"""What came of a bulk rerun: one by one, and in sum."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from ._journal import ItemState, JournalItem

__all__ = ["RerunOutcome", "RerunProgress", "RerunReport", "Tally", "cause_of"]

_UUID = re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b")
_ID = re.compile(r"\b(?=[\w-]*\d)(?=[\w-]*[A-Za-z])[\w-]{6,}\b")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*(?!\d*://)")


def cause_of(text: str) -> str:
    """An error's text with its ids and numbers taken out, so that those of one cause are the same.

    Example:
        >>> cause_of("Table on page 27 of ingest-01J9 has 349 columns")
        'Table on page # of … has # columns'
    """
    return _NUMBER.sub("#", _ID.sub("…", _UUID.sub("…", text))).strip()[:200]


@attrs.frozen(kw_only=True)
class RerunOutcome:
    """What came of one ingestion.

    Attributes:
        workflow_id: Which.
        state: ``accepted``, ``refused``, ``failed`` or ``unknown``.
        outcome: With ``wait``: the status that the new run ended with.
        code: The code or status of a refusal.
        error: Why it was refused, failed or is unknown; or why the new run failed.
        request_id: The server's id of the request.
        tries: How often it was sent.
    """

    workflow_id: str
    state: ItemState
    outcome: str | None = None
    code: str | None = None
    error: str | None = None
    request_id: str | None = None
    tries: int = 0

    @classmethod
    def of(cls, item: JournalItem) -> RerunOutcome:
        """The outcome that an item of the journal tells."""
        return cls(
            workflow_id=item.workflow_id,
            state=item.state,
            outcome=item.outcome,
            code=item.code,
            error=item.error,
            request_id=item.request_id,
            tries=item.tries,
        )

    @property
    def is_good(self) -> bool:
        """Whether it was accepted, and its new run completed where that was waited for."""
        return self.state is ItemState.ACCEPTED and self.outcome in {None, "completed"}


@attrs.frozen(kw_only=True)
class RerunProgress:
    """Where a job is.

    Attributes:
        counts: How many items are in which state.
        total: How many there are.
        done: How many have their outcome.
        in_flight: How many workflows that the job started are running, as far as it follows them.
        rate: How many got their outcome a second, lately.
        eta: Seconds until all have it at that rate; None if that can't be told.
        paused: Why the job waits, if it does.
        elapsed: Seconds since it began.
    """

    counts: Mapping[str, int]
    total: int
    done: int
    in_flight: int
    rate: float
    eta: float | None
    paused: str | None
    elapsed: float


@attrs.frozen(kw_only=True)
class RerunReport:
    """What came of a job, as the journal has it.

    Attributes:
        counts: How many items are in which state.
        outcomes: With ``wait``: how many new runs ended with which status.
        causes: Why items were refused, failed or are unknown, and why new runs failed: how many of
            each cause, ids and numbers taken out.
        unknown: The ids of which nobody can tell whether they ran.
        stopped_by: Why the job stopped before its end, if it did.
        items: What came of each.
    """

    counts: Mapping[str, int]
    outcomes: Mapping[str, int]
    causes: Mapping[str, int]
    unknown: tuple[str, ...]
    stopped_by: str | None = None
    items: tuple[RerunOutcome, ...] = attrs.field(default=(), repr=False)

    @classmethod
    def of(cls, items: Iterable[JournalItem], *, stopped_by: str | None = None) -> RerunReport:
        """The report on these items."""
        tally = Tally()
        for item in items:
            tally.add(item)
        return tally.report(stopped_by)

    @property
    def is_good(self) -> bool:
        """Whether everything was accepted, and every new run that was waited for completed."""
        return (
            self.stopped_by is None
            and set(self.counts) <= {ItemState.ACCEPTED}
            and set(self.outcomes) <= {"completed"}
        )

    def to_dict(self) -> dict[str, Any]:
        """The report, ready for JSON."""
        return json.loads(self.to_json())  # type: ignore[no-any-return]

    def to_json(self) -> str:
        """The report as JSON."""
        return json.dumps(attrs.asdict(self), indent=2)

    def to_csv(self) -> str:
        """The items as CSV, one a line, with a line of names above."""
        text = io.StringIO()
        names = [field.name for field in attrs.fields(RerunOutcome)]
        table = csv.writer(text)
        table.writerow(names)
        for item in self.items:
            table.writerow([_as_cell(getattr(item, name)) for name in names])
        return text.getvalue()


def _as_cell(value: object) -> object:
    """A value that no spreadsheet takes for a formula."""
    text = "" if value is None else str(value)
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text


class Tally:
    """Adds a report up, item by item, without keeping what it isn't going to tell."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._outcomes: Counter[str] = Counter()
        self._causes: Counter[str] = Counter()
        self._items: list[RerunOutcome] = []

    def add(self, item: JournalItem) -> None:
        """Count one more."""
        self._counts[str(item.state)] += 1
        if item.outcome:
            self._outcomes[item.outcome] += 1
        cause = item.error or item.code or item.outcome
        if cause and cause != "completed":
            self._causes[cause_of(cause)] += 1
        self._items.append(RerunOutcome.of(item))

    def report(self, stopped_by: str | None) -> RerunReport:
        """The sum."""
        return RerunReport(
            counts=dict(self._counts),
            outcomes=dict(self._outcomes),
            causes=dict(self._causes.most_common()),
            unknown=tuple(
                item.workflow_id for item in self._items if item.state is ItemState.UNKNOWN
            ),
            stopped_by=stopped_by,
            items=tuple(self._items),
        )
