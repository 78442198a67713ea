"""What the sandbox's store holds, in no generation's words but its own."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from attrs import Factory, define, field, frozen

OPEN_STATUSES = frozenset({"pending", "processing"})
FINISHED_RUN_STATUSES = frozenset({"COMPLETED", "FAILED"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_moment(time: datetime) -> int:
    """Return a time as whole microseconds since 1970; one without a zone is UTC."""
    aware = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    return (aware - _EPOCH) // _MICROSECOND


def to_text(moment: int) -> str:
    """Return a moment (microseconds since 1970) as ISO 8601 text in UTC."""
    text = (_EPOCH + moment * _MICROSECOND).replace(tzinfo=None).isoformat(timespec="microseconds")
    return text + "Z"


class StoreError(Exception):
    """The store refuses: the base of its errors."""


class NotFoundError(StoreError):
    """There is no such thing in the store."""


@define
class ConflictError(StoreError):
    """The thing's state forbids it.

    Args:
        reason: A word such as ``superseded``.
        detail: A sentence for the reader.
    """

    reason: str
    detail: str

    def __str__(self) -> str:
        return self.detail


@frozen
class User:
    """Someone who uploads documents or triggers runs."""

    user_id: str
    first_name: str | None
    last_name: str | None


@frozen
class Row:
    """What the database says about an ingestion; moments are microseconds since 1970."""

    status: str
    last_activity: str | None
    error: str | None
    last_run: int
    last_update: int | None
    chunks: int | None


@frozen
class Engine:
    """What the workflow engine says about an ingestion's latest run, live."""

    status: str
    start: int
    close: int | None
    run_id: str


@frozen
class Stage:
    """One step of a planned pipeline run, due `after` microseconds from its start."""

    after: int
    status: str
    last_activity: str
    chunks: int | None = None
    error: str | None = None


@define(eq=False)
class Ingestion:
    """One ingestion workflow.

    Read it as you like; change it through the store, which keeps its indexes by it.
    """

    sequence: int
    workflow_id: str
    document_id: str
    document_version_id: str
    document_name: str
    uploader: User
    created: int
    row: Row
    engine: Engine
    superseded: bool = False
    bulk_refusal: str | None = None
    listed: Row | None = None
    attempt: int = 0
    plan: tuple[Stage, ...] = ()

    @property
    def shown(self) -> Row:
        """What the list shows; after a rerun this can be the previous run's outcome for a while."""
        return self.listed or self.row

    @property
    def is_open(self) -> bool:
        """Whether a run is under way."""
        return self.row.status in OPEN_STATUSES


@frozen
class Filters:
    """What a list is narrowed to; the times are microseconds since 1970.

    Args:
        statuses: Only these pipeline statuses; none means all.
        name_like: Text that the document's name contains, in any case.
        latest_version_only: Leave superseded versions out.
        uploader_user_id: Only this user's.
        created_after: Created then or later.
        created_before: Created earlier.
        updated_after: Updated then or later.
        updated_before: Updated earlier.
    """

    statuses: frozenset[str] = frozenset()
    name_like: str | None = None
    latest_version_only: bool = False
    uploader_user_id: str | None = None
    created_after: int | None = None
    created_before: int | None = None
    updated_after: int | None = None
    updated_before: int | None = None

    @property
    def needs_scan(self) -> bool:
        """Whether something is asked for that no index answers."""
        return self.latest_version_only or any(
            wanted is not None
            for wanted in (
                self.name_like,
                self.uploader_user_id,
                self.updated_after,
                self.updated_before,
            )
        )

    def admits(self, ingestion: Ingestion) -> bool:
        """Tell whether an ingestion passes what no index answers."""
        if self.latest_version_only and ingestion.superseded:
            return False
        if self.uploader_user_id not in {None, ingestion.uploader.user_id}:
            return False
        if self.name_like is not None and (
            self.name_like.casefold() not in ingestion.document_name.casefold()
        ):
            return False
        row = ingestion.shown
        updated = row.last_run if row.last_update is None else row.last_update
        if self.updated_after is not None and updated < self.updated_after:
            return False
        return self.updated_before is None or updated < self.updated_before


@define(eq=False)
class Run:
    """One workflow run; its status is PENDING, NOT_STARTED, RUNNING, COMPLETED or FAILED."""

    id: str
    workflow_definition_id: str
    workflow_name: str
    triggered_by: User
    status: str
    created: int
    updated: int
    started: int | None
    completed: int | None
    error: str | None
    token: str = field(repr=False)
    max_run_duration_seconds: int = 3600
    has_template: bool = True
    parts: Mapping[str, str] = Factory(dict[str, str])

    @property
    def is_finished(self) -> bool:
        """Whether its outcome is settled."""
        return self.status in FINISHED_RUN_STATUSES
