"""What the servers of the benchmarks answer: made here, so that every contender gets the same bytes."""

from __future__ import annotations

import json
from typing import Any

EARLIER = "earlier"
CURRENT = "current"

_SUMMARY: dict[str, Any] = {
    "workflow_id": "ingest-%026d",
    "document_id": "5f0f5c1e-0000-4000-8000-%012d",
    "document_version_id": "9b7a4c2d-0000-4000-8000-%012d",
    "status": "%s",
    "last_activity": "Stored the chunks in the index",
    "error": None,
    "last_run_timestamp": "2026-07-01T12:00:00.123456Z",
    "last_state_update_timestamp": "2026-07-01T12:00:10.654321Z",
    "created_at": "2026-07-01T11:59:00.123456Z",
}
_LATER: dict[str, Any] = {
    "document_name": "annual-report-2026.pdf",
    "materialized_path": "/shared/documents/annual-report-2026.pdf",
    "is_active_version": True,
    "uploader": {
        "user_id": "2f6f9a54-0000-4000-8000-000000000007",
        "first_name": "Ada",
        "last_name": "Lovelace",
    },
}
_SUMMARIES = {
    EARLIER: json.dumps(_SUMMARY, separators=(",", ":")).encode(),
    CURRENT: json.dumps(_SUMMARY | _LATER, separators=(",", ":")).encode(),
}


def make_page(shape: str, offset: int, limit: int, total: int, status: str = "completed") -> bytes:
    """A page of summaries in an envelope with offsets, each item with its number in its ids.

    Args:
        shape: ``earlier`` (the reference page's fields) or ``current`` (today's, which are more).
        offset: How many items come before it.
        limit: How many it may hold.
        total: How many there are.
        status: The status of each.
    """
    numbers = range(offset, max(offset, min(offset + limit, total)))
    template = b",".join([_SUMMARIES[shape]] * len(numbers))
    word = status.encode()
    items = template % tuple(part for n in numbers for part in (n, n, n, word))
    return b'{"items":[%b],"total":%d,"limit":%d,"offset":%d}' % (items, total, limit, offset)


STATUS = (
    '{"workflow_id":"%s","temporal_status":"RUNNING","workflow_type":"IngestDocumentVersion",'
    '"task_queue":"ingestion","start_time":"2026-07-01T12:00:00.123456Z","close_time":null,'
    '"run_id":"0a9a4c2d-0000-4000-8000-000000000001"}'
)
"""A workflow's live status, with a place for its id."""

ACTION = '{"workflow_id":"%s","action":"rerun","message":"The ingestion was started again"}'
"""What a rerun answers, with a place for its id."""
