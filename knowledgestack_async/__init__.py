"""The async Python SDK for the Knowledge Stack API."""

from importlib import import_module
from typing import TYPE_CHECKING

from ._retry import RetryPolicy
from ._version import __version__
from .api.ingestion_workflows import (
    get_ingestion_workflow,
    iter_ingestion_workflows,
    list_ingestion_workflows,
    rerun_ingestion_workflow,
    wait_for_ingestion,
    watch_ingestions,
)
from .api.workflow_runs import (
    delete_workflow_run,
    get_workflow_run,
    send_workflow_run_callback,
    wait_for_workflow_run,
    watch_workflow_runs,
)
from .api.workflows import cancel_workflow, get_workflow_status, poll_workflow_statuses
from .errors import (
    AlreadyFinished,
    BadRequest,
    ConfigurationError,
    Conflict,
    ConnectionFailed,
    ConnectionLost,
    CredentialError,
    DeadlineExceeded,
    FieldError,
    Forbidden,
    InvalidResponse,
    JournalError,
    KnowledgeStackError,
    NotFound,
    OutcomeUnknown,
    QuotaExceeded,
    RequestError,
    ResponseError,
    ServerError,
    ServiceUnavailable,
    SessionError,
    TooManyRequests,
    Unauthorized,
    UnprocessableEntity,
    WalkError,
)
from .models import (
    IngestionStatus,
    PaginatedResponse,
    PathSnapshot,
    StatusResult,
    UserInfo,
    WorkflowActionResponse,
    WorkflowCallbackResponse,
    WorkflowCancelResponse,
    WorkflowDetailResponse,
    WorkflowExecutionStatus,
    WorkflowRunnerType,
    WorkflowRunResponse,
    WorkflowRunSnapshot,
    WorkflowRunStatus,
    WorkflowStatusResponse,
    WorkflowSummaryResponse,
)
from .monitor import ClosingPoll, StatusPoll
from .pages import PageIterator
from .session import RawResponse, Session, SessionStats
from .watching import ChangeKind, StatusChange, Watch, WatchSummary

if TYPE_CHECKING:
    from ._journal import ItemState
    from ._spool import SpoolReport
    from ._webhooks import verify_webhook
    from .api.reporting import deliver_spooled, report_outcome, run_with_limit
    from .api.reruns import rerun_ingestions
    from .bulk import RerunJob
    from .rerun_report import RerunOutcome, RerunProgress, RerunReport
    from .runner import Outcome

__all__ = [
    "AlreadyFinished",
    "BadRequest",
    "ChangeKind",
    "ClosingPoll",
    "ConfigurationError",
    "Conflict",
    "ConnectionFailed",
    "ConnectionLost",
    "CredentialError",
    "DeadlineExceeded",
    "FieldError",
    "Forbidden",
    "IngestionStatus",
    "InvalidResponse",
    "ItemState",
    "JournalError",
    "KnowledgeStackError",
    "NotFound",
    "Outcome",
    "OutcomeUnknown",
    "PageIterator",
    "PaginatedResponse",
    "PathSnapshot",
    "QuotaExceeded",
    "RawResponse",
    "RequestError",
    "RerunJob",
    "RerunOutcome",
    "RerunProgress",
    "RerunReport",
    "ResponseError",
    "RetryPolicy",
    "ServerError",
    "ServiceUnavailable",
    "Session",
    "SessionError",
    "SessionStats",
    "SpoolReport",
    "StatusChange",
    "StatusPoll",
    "StatusResult",
    "TooManyRequests",
    "Unauthorized",
    "UnprocessableEntity",
    "UserInfo",
    "WalkError",
    "Watch",
    "WatchSummary",
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
    "__version__",
    "cancel_workflow",
    "delete_workflow_run",
    "deliver_spooled",
    "get_ingestion_workflow",
    "get_workflow_run",
    "get_workflow_status",
    "iter_ingestion_workflows",
    "list_ingestion_workflows",
    "poll_workflow_statuses",
    "report_outcome",
    "rerun_ingestion_workflow",
    "rerun_ingestions",
    "run_with_limit",
    "send_workflow_run_callback",
    "verify_webhook",
    "wait_for_ingestion",
    "wait_for_workflow_run",
    "watch_ingestions",
    "watch_workflow_runs",
]

# Bulk reruns and runners bring SQLite along; who uses neither doesn't load them.
_LOADED_WHEN_USED = {
    "ItemState": "._journal",
    "SpoolReport": "._spool",
    "verify_webhook": "._webhooks",
    "deliver_spooled": ".api.reporting",
    "report_outcome": ".api.reporting",
    "run_with_limit": ".api.reporting",
    "rerun_ingestions": ".api.reruns",
    "RerunJob": ".bulk",
    "RerunOutcome": ".rerun_report",
    "RerunProgress": ".rerun_report",
    "RerunReport": ".rerun_report",
    "Outcome": ".runner",
}


def __getattr__(name: str) -> object:
    home = _LOADED_WHEN_USED.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(home, __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
