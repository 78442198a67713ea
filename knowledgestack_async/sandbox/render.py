"""How each generation writes what the store holds."""

from typing import Any

from knowledgestack_async.sandbox.dialects import Dialect, RunShape
from knowledgestack_async.sandbox.records import Engine, Ingestion, Row, Run, User, to_text

_ROOT = "/shared/workflows"


def render_summary(dialect: Dialect, ingestion: Ingestion, row: Row) -> dict[str, Any]:
    """Write an ingestion as the list has it.

    Args:
        dialect: Whose words.
        ingestion: Which.
        row: Its row, or the older one that is still shown.
    """
    updated = row.last_update
    answer: dict[str, Any] = {
        "workflow_id": ingestion.workflow_id,
        "document_id": ingestion.document_id,
        "document_version_id": ingestion.document_version_id,
        "status": row.status,
        "last_activity": row.last_activity,
        "error": row.error,
        "last_run_timestamp": to_text(row.last_run),
        "last_state_update_timestamp": None if updated is None else to_text(updated),
        "created_at": to_text(ingestion.created),
    }
    if dialect.rich:
        answer["document_name"] = ingestion.document_name
        answer["materialized_path"] = f"/shared/documents/{ingestion.document_name}"
        answer["is_active_version"] = not ingestion.superseded
        answer["uploader"] = render_user(ingestion.uploader)
    return answer


def render_detail(dialect: Dialect, ingestion: Ingestion, row: Row) -> dict[str, Any]:
    """Write an ingestion as its own route has it, the live fields included."""
    return {
        **render_summary(dialect, ingestion, row),
        **_render_engine(dialect, ingestion.engine),
        "chunks_processed": row.chunks,
    }


def render_status(dialect: Dialect, ingestion: Ingestion) -> dict[str, Any]:
    """Write a workflow's live status."""
    live = _render_engine(dialect, ingestion.engine)
    return {"workflow_id": ingestion.workflow_id, **live}


def render_user(user: User) -> dict[str, Any]:
    """Write a user as other objects embed one."""
    return {
        "user_id": user.user_id,
        "first_name": user.first_name,
        "last_name": user.last_name,
    }


def _render_engine(dialect: Dialect, engine: Engine) -> dict[str, Any]:
    answer: dict[str, Any] = {
        dialect.engine_field: engine.status,
        "start_time": to_text(engine.start),
        "close_time": None if engine.close is None else to_text(engine.close),
    }
    if dialect.engine_details:
        answer["workflow_type"] = "IngestDocumentVersion"
        answer["task_queue"] = "ingestion"
        answer["run_id"] = engine.run_id
    return answer


def render_run(shape: RunShape, run: Run, *, owned: bool) -> dict[str, Any]:
    """Write a run.

    Args:
        shape: Which of the shapes that runs have had: ``status`` (until April 2026),
            ``execution_state`` (the first with ``triggered_by``), or ``run_folders`` (today's).
        run: Which run.
        owned: Whether the later shapes name its owner.
    """
    times = {
        "completed_at": None if run.completed is None else to_text(run.completed),
        "error": run.error,
        "created_at": to_text(run.created),
        "updated_at": to_text(run.updated),
    }
    identity = {"id": run.id, "workflow_definition_id": run.workflow_definition_id}
    if shape == "status":
        return {
            **identity,
            "user_id": run.triggered_by.user_id,
            "runner_type": "SELF_HOSTED",
            "status": "PENDING" if run.status == "NOT_STARTED" else run.status,
            "started_at": to_text(run.created if run.started is None else run.started),
            "run_snapshot": _render_old_snapshot(run),
            **times,
        }
    return {
        **identity,
        **_render_place(run),
        **({"owner": render_user(run.triggered_by)} if owned else {}),
        "execution_state": "IN_PROGRESS" if run.status == "RUNNING" else run.status,
        "approval_state": "not_required",
        "started_at": None if run.started is None else to_text(run.started),
        "run_snapshot": None if run.started is None else _render_snapshot(run),
        **times,
        **(_render_folder_ids(run) if shape == "execution_state" else _render_folders(run)),
    }


def render_snapshot(shape: RunShape, run: Run) -> dict[str, Any]:
    """Write the configuration that a run was triggered with."""
    return _render_old_snapshot(run) if shape == "status" else _render_snapshot(run)


def _render_place(run: Run) -> dict[str, Any]:
    return {
        "part_type": "WORKFLOW_RUN",
        "path_part_id": run.parts["run"],
        "parent_path_part_id": run.parts["parent"],
        "materialized_path": f"{_ROOT}/{run.id}",
        "tenant_id": run.parts["tenant"],
        "name": run.id,
        "triggered_by": render_user(run.triggered_by),
        "auto_start": False,
        "auto_start_user_message": None,
        "excluded_common_files": [],
        "run_thread_id": None if run.started is None else run.parts["thread"],
        "permissions": None,
    }


def _render_folder_ids(run: Run) -> dict[str, Any]:
    return {
        "inputs_path_part_id": run.parts["inputs"],
        "outputs_path_part_id": run.parts["outputs"],
        "discussions_path_part_id": run.parts["discussions"],
        "input_path_part_ids": [run.parts["source"]],
        "outputs_path_part_ids": [],
    }


def _render_folders(run: Run) -> dict[str, Any]:
    folders: dict[str, Any] = {
        name: {
            "id": run.parts[f"{name}_folder"],
            "path_part_id": run.parts[name],
            "materialized_path": f"{_ROOT}/{run.id}/{name}",
        }
        for name in ("inputs", "outputs", "discussions")
    }
    for name in ("inputs", "outputs"):
        folders[name]["assets"] = []
    return folders


def _render_old_snapshot(run: Run) -> dict[str, Any]:
    def part(name: str, kind: str) -> dict[str, str]:
        path = f"{_ROOT}/{name}"
        return {"path_part_id": run.parts[name], "materialized_path": path, "part_type": kind}

    return {
        "workflow_definition_id": run.workflow_definition_id,
        "workflow_name": run.workflow_name,
        "runner_type": "SELF_HOSTED",
        "user_id": run.triggered_by.user_id,
        "max_run_duration_seconds": run.max_run_duration_seconds,
        "sources": [part("source", "FOLDER")],
        "instructions": [part("instruction", "DOCUMENT")],
        "outputs": [part("output", "FOLDER")],
        "template": part("template", "DOCUMENT") if run.has_template else None,
    }


def _render_snapshot(run: Run) -> dict[str, Any]:
    return {
        "workflow_name": run.workflow_name,
        "max_run_duration_seconds": run.max_run_duration_seconds,
        "instruction": {
            "path_part_id": run.parts["instruction"],
            "materialized_path": f"{_ROOT}/instruction",
            "part_type": "DOCUMENT_VERSION",
            "source_s3_uri": None,
        },
        "inputs": [
            {
                "path_part_id": run.parts["source"],
                "materialized_path": f"{_ROOT}/source",
                "part_type": "FOLDER",
                "origin": "RUN_REFERENCE",
            }
        ],
        "excluded_common_files": [],
        "user_message": None,
    }
