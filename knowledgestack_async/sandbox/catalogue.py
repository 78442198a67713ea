"""All ingestions in order, with the indexes that make a page of 100,000 cheap."""

from bisect import bisect_left
from collections.abc import Callable, Sequence

from knowledgestack_async.sandbox.history import History
from knowledgestack_async.sandbox.index import SequenceIndex, select
from knowledgestack_async.sandbox.records import Filters, Ingestion, NotFoundError, Row


class Catalogue:
    """The ingestions by id, by document version, by age and by status.

    Whoever changes what an ingestion shows does it through `write`, so that the indexes follow.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self.created: list[int] = []
        self._by_id: dict[str, int] = {}
        self._by_version: dict[str, int] = {}
        self._made: dict[int, Ingestion] = {}
        self._make: Callable[[int], Ingestion] = self._made.__getitem__
        self._everything = SequenceIndex()
        self._by_status: dict[str, SequenceIndex] = {}
        self._scanned: tuple[Filters, Sequence[int]] | None = None

    def __len__(self) -> int:
        return len(self._everything)

    def __contains__(self, workflow_id: object) -> bool:
        return workflow_id in self._by_id

    def get(self, workflow_id: str) -> Ingestion:
        """Return the ingestion with this id.

        Raises:
            NotFoundError: There is none.
        """
        try:
            sequence = self._by_id[workflow_id]
        except KeyError:
            raise NotFoundError(f"Workflow {workflow_id} not found") from None
        return self._at(sequence)

    def get_version(self, document_version_id: str) -> Ingestion:
        """Return the ingestion of a document version.

        Raises:
            NotFoundError: There is none.
        """
        try:
            sequence = self._by_version[document_version_id]
        except KeyError:
            raise NotFoundError(f"Document version {document_version_id} not found") from None
        return self._at(sequence)

    def holds(self, ingestion: Ingestion) -> bool:
        """Tell whether an ingestion is still in here."""
        return self._by_id.get(ingestion.workflow_id) == ingestion.sequence

    def load(self, history: History) -> None:
        """Begin with a past, whose ingestions are made when they are first looked at."""
        self.created.extend(history.created)
        self._by_id = dict(zip(history.workflow_ids, range(len(self.created)), strict=True))
        self._by_version = dict(zip(history.version_ids, range(len(self.created)), strict=True))
        self._everything = SequenceIndex(range(len(self.created)))
        for sequence, status in enumerate(history.statuses):
            self._index(status).add(sequence)
        self._make = history.make

    def enter(self, ingestion: Ingestion) -> None:
        """Put a new ingestion at the front; its sequence number is the next."""
        self.created.append(ingestion.created)
        self._by_id[ingestion.workflow_id] = ingestion.sequence
        self._by_version[ingestion.document_version_id] = ingestion.sequence
        self._made[ingestion.sequence] = ingestion
        self._everything.add(ingestion.sequence)
        self._index(ingestion.shown.status).add(ingestion.sequence)
        self._scanned = None

    def leave(self, ingestion: Ingestion) -> None:
        """Take an ingestion out."""
        del self._by_id[ingestion.workflow_id]
        del self._by_version[ingestion.document_version_id]
        del self._made[ingestion.sequence]
        self._everything.remove(ingestion.sequence)
        self._index(ingestion.shown.status).remove(ingestion.sequence)
        self._scanned = None

    def write(self, ingestion: Ingestion, row: Row, listed: Row | None) -> None:
        """Give an ingestion a row, and the older one, if any, that the list still shows."""
        before = ingestion.shown.status
        ingestion.row, ingestion.listed = row, listed
        after = ingestion.shown.status
        if before != after:
            self._index(before).remove(ingestion.sequence)
            self._index(after).add(ingestion.sequence)
        self._scanned = None

    def supersede(self, ingestion: Ingestion, superseded: bool) -> None:
        """Say whether a newer version has taken an ingestion's place."""
        ingestion.superseded = superseded
        self._scanned = None

    def page(
        self, filters: Filters, start: int, size: int, *, oldest_first: bool
    ) -> tuple[list[Ingestion], int]:
        """Return some of the ingestions that pass the filters, and how many pass in all."""
        if filters.needs_scan:
            matches = self._scan(filters)
            ordered = matches[::-1] if oldest_first else matches
            page, total = ordered[start : start + size], len(matches)
        else:
            page, total = self._select(filters, start, size, oldest_first=oldest_first)
        return [self._at(sequence) for sequence in page], total

    def _at(self, sequence: int) -> Ingestion:
        made = self._made.get(sequence)
        if made is None:
            made = self._made[sequence] = self._make(sequence)
        return made

    def _select(
        self, filters: Filters, start: int, size: int, *, oldest_first: bool
    ) -> tuple[Sequence[int], int]:
        indexes = [self._everything]
        if filters.statuses:
            indexes = [self._index(status) for status in sorted(filters.statuses)]
        after, before = filters.created_after, filters.created_before
        low = 0 if after is None else bisect_left(self.created, after)
        high = len(self.created) if before is None else bisect_left(self.created, before)
        return select(indexes, range(low, high), start, size, oldest_first=oldest_first)

    def _scan(self, filters: Filters) -> Sequence[int]:
        if self._scanned is None or self._scanned[0] != filters:
            candidates, _ = self._select(filters, 0, len(self), oldest_first=False)
            matches = [sequence for sequence in candidates if filters.admits(self._at(sequence))]
            self._scanned = (filters, matches)
        return self._scanned[1]

    def _index(self, status: str) -> SequenceIndex:
        index = self._by_status.get(status)
        if index is None:
            index = self._by_status[status] = SequenceIndex()
        return index
