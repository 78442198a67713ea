"""What the API answers, as frozen classes named as the reference page names them.

Three rules hold for all of them. A field that a generation of the API doesn't have is None. A field
that this version of the SDK doesn't know is in ``extra``, and the object just as it was sent in
``raw``. A word that an enum doesn't know becomes a member of its own, equal to its text, so that a
newer server doesn't break an older client.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Generic, TypeVar, cast

import attrs
import msgspec

__all__ = [
    "IngestionStatus",
    "PaginatedResponse",
    "PathSnapshot",
    "StatusResult",
    "UserInfo",
    "WorkflowActionResponse",
    "WorkflowCallbackResponse",
    "WorkflowCancelResponse",
    "WorkflowDetailResponse",
    "WorkflowExecutionStatus",
    "WorkflowRunResponse",
    "WorkflowRunSnapshot",
    "WorkflowRunStatus",
    "WorkflowRunnerType",
    "WorkflowStatusResponse",
    "WorkflowSummaryResponse",
]

T_co = TypeVar("T_co", covariant=True)

# A time with its zone: without the mark, the fast decoder would let one through that has none.
AwareTime = Annotated[datetime, msgspec.Meta(tz=True)]


class OpenEnum(StrEnum):
    """A set of words that may grow: an unknown one is a member of its own, equal to its text."""

    @classmethod
    def _missing_(cls, value: object) -> OpenEnum | None:
        if not isinstance(value, str):
            return None
        member = str.__new__(cls, value)
        member._name_ = value
        member._value_ = value
        return member

    @property
    def is_known(self) -> bool:
        """Whether this version of the SDK knows the word."""
        return type(self).__members__.get(self._name_) is self


class IngestionStatus(OpenEnum):
    """Where an ingestion's pipeline is (reference page: List document version ingestion workflows)."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    QUOTA_LIMIT = "quota_limit"

    @property
    def is_terminal(self) -> bool:
        """Whether the pipeline is done; anything but pending and processing is, unknown words too."""
        return self not in {IngestionStatus.PENDING, IngestionStatus.PROCESSING}


class WorkflowRunStatus(OpenEnum):
    """Where a workflow run is (reference page: WorkflowRunStatus values).

    Later generations say IN_PROGRESS for RUNNING, which reads as RUNNING, and have NOT_STARTED.
    """

    PENDING = "PENDING"
    NOT_STARTED = "NOT_STARTED"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"

    @classmethod
    def _missing_(cls, value: object) -> OpenEnum | None:
        return cls.RUNNING if value == "IN_PROGRESS" else super()._missing_(value)

    @property
    def is_terminal(self) -> bool:
        """Whether the run is over, COMPLETED or FAILED. An unknown word is not."""
        return self in {WorkflowRunStatus.COMPLETED, WorkflowRunStatus.FAILED}


class WorkflowRunnerType(OpenEnum):
    """Who executes a run (reference page: WorkflowRunnerType values)."""

    SELF_HOSTED = "SELF_HOSTED"


class WorkflowExecutionStatus(OpenEnum):
    """The workflow engine's own word for where an execution is."""

    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    TERMINATED = "TERMINATED"
    TIMED_OUT = "TIMED_OUT"
    CONTINUED_AS_NEW = "CONTINUED_AS_NEW"


class WireObject:
    """What all models share: the way back to what the server sent.

    Where an object was read from is kept as a function to give the object to, so that nobody pays
    for ``raw`` and ``extra`` who doesn't ask for them.
    """

    __slots__ = ("__weakref__", "_read_raw")

    _read_raw: Callable[[WireObject], Mapping[str, Any]]

    @property
    def raw(self) -> Mapping[str, Any]:
        """The object just as the server sent it; empty for one that was made by hand."""
        read = getattr(self, "_read_raw", None)
        return {} if read is None else read(self)

    @property
    def extra(self) -> Mapping[str, Any]:
        """The fields that the server sent and this class doesn't have."""
        known = set(_field_names(self)) | WIRE_ONLY_NAMES
        return {name: value for name, value in self.raw.items() if name not in known}

    def to_dict(self) -> dict[str, Any]:
        """The object in the SDK's names, ready for JSON: times as ISO 8601, enums as their text."""
        return {name: _to_json_value(getattr(self, name)) for name in _field_names(self)}

    def pass_raw_to(self, other: WireObject) -> None:
        """Let an object that was made from this one keep the way back to what the server sent."""
        remember_raw(other, lambda: self.raw)

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {name: getattr(self, name) for name in _field_names(self)}
        return _rebuild, (type(self), fields, json.dumps(self.raw))


def _field_names(made: WireObject) -> list[str]:
    kind: Any = type(made)
    return [field.name for field in attrs.fields(kind)]


# What another generation calls a field of ours; those fields hold it, so it is nothing extra.
WIRE_ONLY_NAMES = frozenset({"temporal_status", "execution_state"})


def _to_json_value(value: Any) -> Any:
    if isinstance(value, WireObject):
        return value.to_dict()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, OpenEnum):
        return str(value)
    items = cast("Sequence[object]", value if isinstance(value, list | tuple) else ())
    if any(isinstance(one, WireObject) for one in items):
        return [*map(_to_json_value, items)]
    if isinstance(value, Mapping | list | tuple):
        return json.loads(json.dumps(value))  # a copy, however deeply it is nested
    return value


def _rebuild(cls: type[WireObject], fields: dict[str, Any], raw: str) -> WireObject:
    made = cls(**fields)
    remember_raw(made, lambda: json.loads(raw))
    return made


def remember_raw(made: WireObject, read: Callable[[], Mapping[str, Any]]) -> None:
    """Tell a model how to get at what it was read from (models are frozen, so not by assignment)."""

    def read_it(_made: WireObject) -> Mapping[str, Any]:
        return read()

    object.__setattr__(made, "_read_raw", read_it)


@attrs.frozen
class UserInfo(WireObject):
    """A user, as the later generations name one."""

    user_id: str
    first_name: str | None = None
    last_name: str | None = None


@attrs.frozen
class PathSnapshot(WireObject):
    """A document or folder that a run's configuration named when it was triggered."""

    path_part_id: str | None = None
    materialized_path: str | None = None
    part_type: str | None = None


@attrs.frozen
class WorkflowRunSnapshot(WireObject):
    """A frozen copy of the workflow's configuration, taken when the run was triggered.

    ``sources``, ``instructions``, ``outputs`` and ``template`` are the reference page's; later
    generations have ``instruction``, ``inputs`` and ``user_message`` instead.
    """

    workflow_definition_id: str | None = None
    workflow_name: str | None = None
    runner_type: WorkflowRunnerType | None = None
    user_id: str | None = None
    max_run_duration_seconds: int | None = None
    sources: tuple[PathSnapshot, ...] | None = None
    instructions: tuple[PathSnapshot, ...] | None = None
    outputs: tuple[PathSnapshot, ...] | None = None
    template: PathSnapshot | None = None
    instruction: Any = attrs.field(default=None, hash=False)
    inputs: Any = attrs.field(default=None, hash=False)
    user_message: str | None = None


@attrs.frozen(kw_only=True)
class WorkflowRunResponse(WireObject):
    """One execution of a workflow definition (reference page: Get run).

    Attributes:
        id: UUID of the run.
        workflow_definition_id: UUID of the definition that produced it.
        user_id: UUID of the user who triggered it.
        runner_type: The runner that executed it; currently always SELF_HOSTED.
        status: Where it is in its life.
        started_at: When execution began; None while it has not.
        completed_at: When execution finished; None while it has not.
        run_snapshot: The configuration at trigger time, so that the record explains itself.
        error: Why the run failed; None if it didn't.
        created_at: When the record was made.
        updated_at: When the status last changed.
        triggered_by: Who triggered it, in the later generations.
        name: The run's name, in the later generations.
        materialized_path: Where the run lives, in the later generations.
        approval_state: Whether its outputs were approved, in the later generations.
    """

    id: str
    workflow_definition_id: str
    user_id: str | None = None
    runner_type: WorkflowRunnerType | None = None
    status: WorkflowRunStatus
    started_at: AwareTime | None = None
    completed_at: AwareTime | None = None
    run_snapshot: WorkflowRunSnapshot | None = None
    error: str | None = None
    created_at: AwareTime
    updated_at: AwareTime
    triggered_by: UserInfo | None = None
    name: str | None = None
    materialized_path: str | None = None
    approval_state: str | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether the run is over."""
        return self.status.is_terminal

    @property
    def duration(self) -> timedelta | None:
        """From start to finish; None until both are known."""
        return _between(self.started_at, self.completed_at)


@attrs.frozen
class WorkflowCallbackResponse(WireObject):
    """What the callback answers (reference page: Run callback).

    ``status`` is ``already_terminal`` where the run had its outcome before and nothing changed.
    """

    status: str | None = None

    @property
    def already_terminal(self) -> bool:
        """Whether the run was over before, so that this callback changed nothing."""
        return self.status == "already_terminal"


@attrs.frozen(kw_only=True)
class WorkflowSummaryResponse(WireObject):
    """How a document version was ingested (reference page: List document version ingestion workflows).

    Attributes:
        workflow_id: The ingestion's id.
        document_id: UUID of the document.
        document_version_id: UUID of the document version that is ingested.
        status: Where its pipeline is.
        last_activity: What the pipeline did last, in words.
        error: Why the ingestion failed, if it did.
        last_run_timestamp: When the last run started. A rerun that is queued shows the run before it.
        last_state_update_timestamp: When the state last changed.
        created_at: When the record was made.
        document_name: The document's name, in the current generation.
        materialized_path: The document's path, in the current generation.
        is_active_version: Whether this version is the document's active one, in the current generation.
        uploader: Who uploaded it, in the current generation.
    """

    workflow_id: str
    document_id: str
    document_version_id: str
    status: IngestionStatus
    last_activity: str | None = None
    error: str | None = None
    last_run_timestamp: AwareTime
    last_state_update_timestamp: AwareTime | None = None
    created_at: AwareTime
    document_name: str | None = None
    materialized_path: str | None = None
    is_active_version: bool | None = None
    uploader: UserInfo | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether the pipeline is done, for better or worse."""
        return self.status.is_terminal


@attrs.frozen(kw_only=True)
class WorkflowDetailResponse(WorkflowSummaryResponse):
    """One ingestion with its live execution (reference page: Get document version ingestion workflow).

    All of the summary's fields, and:

    Attributes:
        execution_status: The live execution's status, in the workflow engine's own word.
        start_time: When the pipeline started.
        close_time: When the pipeline completed; None while it runs.
        chunks_processed: How many content chunks were processed.
        workflow_type: The engine's name for the pipeline, in the later generations.
        task_queue: The queue that it runs on, in the later generations.
        run_id: The engine's id of this run, which tells one run from the next, in the later generations.
    """

    execution_status: WorkflowExecutionStatus
    start_time: AwareTime
    close_time: AwareTime | None = None
    chunks_processed: int | None = None
    workflow_type: str | None = None
    task_queue: str | None = None
    run_id: str | None = None

    @property
    def duration(self) -> timedelta | None:
        """From start to close; None until both are known."""
        return _between(self.start_time, self.close_time)


@attrs.frozen
class WorkflowActionResponse(WireObject):
    """What a rerun answers (reference page: Rerun document version ingestion).

    ``action`` and ``message`` are None where the server accepted the rerun and the rest of its
    answer could not be read.
    """

    workflow_id: str
    action: str | None = None
    message: str | None = None


@attrs.frozen(kw_only=True)
class WorkflowStatusResponse(WireObject):
    """Where the execution of any workflow is (reference page: Get workflow status).

    Attributes:
        workflow_id: The workflow's id.
        execution_status: The workflow engine's own word.
        start_time: When the workflow started.
        close_time: When it completed; None while it runs.
        workflow_type: The engine's name for the workflow, in the later generations.
        task_queue: The queue that it runs on, in the later generations.
        run_id: The engine's id of this run, in the later generations.
    """

    workflow_id: str
    execution_status: WorkflowExecutionStatus
    start_time: AwareTime
    close_time: AwareTime | None = None
    workflow_type: str | None = None
    task_queue: str | None = None
    run_id: str | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether it is closed; ``close_time`` is set, and it was not continued as a new run."""
        continued = self.execution_status == WorkflowExecutionStatus.CONTINUED_AS_NEW
        return self.close_time is not None and not continued

    @property
    def duration(self) -> timedelta | None:
        """From start to close; None until both are known."""
        return _between(self.start_time, self.close_time)


@attrs.frozen
class WorkflowCancelResponse(WireObject):
    """What cancelling answers (reference page: Cancel workflow). Cancelling is best effort.

    ``message`` is None where the server accepted it and the rest of its answer could not be read.
    """

    workflow_id: str
    message: str | None = None


@attrs.frozen(kw_only=True)
class PaginatedResponse(WireObject, Generic[T_co]):
    """One page of a list (reference page: PaginatedResponse).

    A server that pages by offsets sends ``limit`` and ``offset``; ``page`` and ``page_size`` are
    worked out from them where the offset falls on a page's start.

    Attributes:
        items: The page's items, newest first.
        total: How many items the list has in all.
        page: The page's number, from 1.
        page_size: How many items a page holds at most.
        limit: How many items were asked for, where the server pages by offsets.
        offset: How many items come before the page's, where the server pages by offsets.
    """

    items: tuple[T_co, ...]
    total: int
    page: int | None = None
    page_size: int | None = None
    limit: int | None = None
    offset: int | None = None


@attrs.frozen
class StatusResult:
    """What a poll found out about one workflow: its status, or the error that took its place."""

    workflow_id: str
    status: WorkflowStatusResponse | None = None
    error: Exception | None = None


def _between(start: datetime | None, end: datetime | None) -> timedelta | None:
    return None if start is None or end is None else end - start
