"""Objects as each generation of the API sends them, for tests of what reads them."""

SUMMARY = {
    "workflow_id": "ingest-01J",
    "document_id": "8d5a8dd2-6ac7-4b9c-9d0f-6a3a5a3f1a10",
    "document_version_id": "5e0f2c9e-3a68-4f2b-8a5e-0e1d2f3a4b5c",
    "status": "failed",
    "last_activity": "chunking",
    "error": "unreadable page 3",
    "last_run_timestamp": "2026-05-01T10:00:00Z",
    "last_state_update_timestamp": "2026-05-01T10:05:00+02:00",
    "created_at": "2026-04-30T09:00:00.123456Z",
}
CURRENT_SUMMARY = {
    **SUMMARY,
    "document_name": "report.pdf",
    "materialized_path": "/team/report.pdf",
    "is_active_version": True,
    "uploader": {"user_id": "u-1", "first_name": "Ada", "last_name": None},
}
EXECUTION = {
    "start_time": "2026-05-01T10:00:01Z",
    "close_time": None,
}
STATUS = {"workflow_id": "ingest-01J", "execution_status": "RUNNING", **EXECUTION}
CURRENT_STATUS = {
    "workflow_id": "ingest-01J",
    "temporal_status": "RUNNING",
    "workflow_type": "IngestDocument",
    "task_queue": "ingest",
    "run_id": "r-9",
    **EXECUTION,
}
DETAIL = {**SUMMARY, **STATUS, "chunks_processed": 12}
CURRENT_DETAIL = {**CURRENT_SUMMARY, **CURRENT_STATUS, "chunks_processed": 12}
SNAPSHOT = {
    "workflow_definition_id": "d-1",
    "workflow_name": "Weekly report",
    "runner_type": "SELF_HOSTED",
    "user_id": "u-1",
    "max_run_duration_seconds": 3600,
    "sources": [{"path_part_id": "p-1", "materialized_path": "/in", "part_type": "FOLDER"}],
    "instructions": [],
    "outputs": [{"path_part_id": "p-2", "materialized_path": "/out", "part_type": "FOLDER"}],
    "template": None,
}
RUN = {
    "id": "0f4a2c1e-8f4a-4f0e-9f60-0a5f3c1d2e3f",
    "workflow_definition_id": "d-1",
    "user_id": "u-1",
    "runner_type": "SELF_HOSTED",
    "status": "RUNNING",
    "started_at": "2026-05-01T10:00:00Z",
    "completed_at": None,
    "run_snapshot": SNAPSHOT,
    "error": None,
    "created_at": "2026-05-01T09:59:00Z",
    "updated_at": "2026-05-01T10:00:00Z",
}
CURRENT_RUN = {
    "id": "0f4a2c1e-8f4a-4f0e-9f60-0a5f3c1d2e3f",
    "workflow_definition_id": "d-1",
    "execution_state": "IN_PROGRESS",
    "triggered_by": {"user_id": "u-1", "first_name": "Ada", "last_name": "Lovelace"},
    "name": "Weekly report 7",
    "materialized_path": "/runs/7",
    "approval_state": "PENDING",
    "started_at": None,
    "completed_at": None,
    "run_snapshot": None,
    "error": None,
    "created_at": "2026-05-01T09:59:00Z",
    "updated_at": "2026-05-01T10:00:00Z",
}
NUMBERED = {"total": 1, "page": 1, "page_size": 20}
OFFSET = {"total": 1, "limit": 20, "offset": 0}
