"""The floor: plain msgspec Structs with our models' fields, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from enum import Enum

import msgspec


class Status(Enum):
    """A pipeline's status."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    QUOTA_LIMIT = "quota_limit"


class User(msgspec.Struct):
    """Who uploaded something."""

    user_id: str
    first_name: str | None = None
    last_name: str | None = None


class Summary(msgspec.Struct, kw_only=True):
    """An item of the list."""

    workflow_id: str
    document_id: str
    document_version_id: str
    status: Status
    last_activity: str | None = None
    error: str | None = None
    last_run_timestamp: datetime
    last_state_update_timestamp: datetime | None = None
    created_at: datetime
    document_name: str | None = None
    materialized_path: str | None = None
    is_active_version: bool | None = None
    uploader: User | None = None


class Page(msgspec.Struct):
    """A page of the list."""

    items: list[Summary]
    total: int
    page: int | None = None
    page_size: int | None = None
    limit: int | None = None
    offset: int | None = None


class WorkflowStatus(msgspec.Struct):
    """A workflow's live status."""

    workflow_id: str
    temporal_status: str
    start_time: datetime
    close_time: datetime | None = None
    workflow_type: str | None = None
    task_queue: str | None = None
    run_id: str | None = None


def make_page_decoder() -> Callable[[bytes], Page]:
    return msgspec.json.Decoder(Page).decode


def make_status_decoder() -> Callable[[bytes], WorkflowStatus]:
    return msgspec.json.Decoder(WorkflowStatus).decode
