"""Compares what an official client read with what we read, field by field."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import attrs

from knowledgestack_async.models import WorkflowRunResponse

# What we call it, where the reference page says otherwise than the later generations.
FIELDS = {"temporal_status": "execution_status", "execution_state": "status"}
WORDS = {"execution_state": {"IN_PROGRESS": "RUNNING"}}


class Comparison:
    """Counts what was compared, and keeps what differs, as lines to print."""

    def __init__(self) -> None:
        self.compared = 0
        self.differences: list[str] = []

    def compare(self, path: str, theirs: Any, ours: Any) -> None:
        """Find all that they read in what we read."""
        if isinstance(theirs, Mapping) and ours is not None:
            self._compare_fields(path, theirs, ours)
        elif isinstance(theirs, list) and ours is not None:
            self._equal(f"{path} (how many)", len(theirs), len(ours))
            for place, (their, our) in enumerate(zip(theirs, ours, strict=False)):
                self.compare(f"{path}[{place}]", their, our)
        else:
            self._equal(path, theirs, ours)

    def _compare_fields(self, path: str, theirs: Mapping[str, Any], ours: Any) -> None:
        for name, value in theirs.items():
            word = WORDS.get(name, {}).get(value, value) if isinstance(value, str) else value
            self.compare(f"{path}.{name}", word, _find(ours, FIELDS.get(name, name)))
        if isinstance(ours, WorkflowRunResponse) and "triggered_by" in theirs:
            self._equal(f"{path}.user_id", theirs["triggered_by"]["user_id"], ours.user_id)

    def _equal(self, path: str, theirs: Any, ours: Any) -> None:
        self.compared += 1
        if _plain(theirs) != _plain(ours):
            self.differences.append(f"{path}: theirs {theirs!r}, ours {ours!r}")


def _find(ours: Any, name: str) -> Any:
    """A field of ours, from ``extra`` if we have no name for it; what is in neither is None."""
    if isinstance(ours, Mapping):
        return ours.get(name)
    if name in {field.name for field in attrs.fields(type(ours))}:
        return getattr(ours, name)
    return ours.extra.get(name)


def _plain(value: Any) -> Any:
    """Times as instants, all else as it is; an open enum is equal to its text."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return value
    if isinstance(value, datetime):
        return value.replace(tzinfo=value.tzinfo or UTC)
    return value


def lines(differences: list[str]) -> Iterator[str]:
    """What to print: a line each, not more than can be read."""
    yield from differences[:50]
    if len(differences) > 50:
        yield f"... and {len(differences) - 50} more"
