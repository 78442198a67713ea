"""The service's routes: each takes a request, acts on the store, and gives an answer."""

from collections.abc import Callable, Mapping
from typing import Any

from knowledgestack_async.sandbox.answers import UNAUTHORIZED, Answer, make_problem, sign
from knowledgestack_async.sandbox.material import SECOND
from knowledgestack_async.sandbox.recording import RecordedRequest, Recorder
from knowledgestack_async.sandbox.records import ConflictError, Filters, NotFoundError, StoreError
from knowledgestack_async.sandbox.render import (
    render_detail,
    render_run,
    render_status,
    render_summary,
)
from knowledgestack_async.sandbox.routing import RouteName, find_route
from knowledgestack_async.sandbox.settings import Settings
from knowledgestack_async.sandbox.store import Store
from knowledgestack_async.sandbox.validation import (
    InvalidRequestError,
    Query,
    read_callback,
    read_filters,
    read_run_id,
    read_version_ids,
)

MAX_BULK = 200
_DEFAULT_PAGE_SIZE = 20


class Endpoints:
    """All routes of the service."""

    def __init__(self, store: Store, settings: Settings, recorder: Recorder) -> None:
        """Put the routes together.

        Args:
            store: What they act on.
            settings: How they behave.
            recorder: Where effects are noted.
        """
        self._store = store
        self._settings = settings
        self._recorder = recorder
        self._handlers: Mapping[RouteName, Callable[[RecordedRequest, str], Answer]] = {
            "list_ingestion_workflows": self._list,
            "get_ingestion_workflow": self._get,
            "rerun_ingestion_workflow": self._rerun,
            "bulk_rerun_ingestions": self._bulk_rerun,
            "get_workflow_status": self._get_status,
            "cancel_workflow": self._cancel,
            "get_workflow_run": self._get_run,
            "delete_workflow_run": self._delete_run,
            "send_workflow_run_callback": self._callback,
        }

    def find(self, method: str, path: str) -> tuple[RouteName, str | None]:
        """Tell which route a request reaches, and the id in its path."""
        return find_route(self._settings.dialect, method, path)

    def handle(self, request: RecordedRequest) -> Answer:
        """Answer a request, and do what it asks for."""
        route, found = self.find(request.method, request.path)
        resource_id = found or ""
        if route == "no_route":
            return self.problem(request, 404, "Not Found")
        if route == "wrong_method":
            return self.problem(request, 405, "Method Not Allowed")
        if not self._is_allowed(request, route, resource_id):
            return self.problem(request, UNAUTHORIZED, "The API key is missing or wrong")
        try:
            answer = self._handlers[route](request, resource_id)
        except InvalidRequestError as error:
            return self.problem(request, 422, error.problems)
        except StoreError as error:
            return self._refuse(request, error)
        return sign(self._settings.dialect, request.number, answer)

    def problem(
        self, request: RecordedRequest, status: int, detail: Any, code: str | None = None
    ) -> Answer:
        """Write an error in the words of the generation that is spoken; see `make_problem`."""
        return make_problem(self._settings.dialect, request.number, status, detail, code)

    def _refuse(self, request: RecordedRequest, error: StoreError) -> Answer:
        if not isinstance(error, ConflictError):
            return self.problem(request, 404, str(error))
        busy = error.reason == "run_busy" and self._settings.dialect.coded
        return self.problem(request, 409, str(error), "run_busy" if busy else None)

    def _is_allowed(self, request: RecordedRequest, route: RouteName, resource_id: str) -> bool:
        scheme, _, credential = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return False
        taken = {self._settings.api_key}
        if route == "send_workflow_run_callback":
            taken.add(self._settings.webhook_secret)
            taken |= self._find_token(resource_id)
        return credential.strip() in taken

    def _find_token(self, run_id: str) -> set[str]:
        try:
            return {self._store.get_run(read_run_id(run_id)).token}
        except (NotFoundError, InvalidRequestError):
            return set()

    def _list(self, request: RecordedRequest, _: str) -> Answer:
        settings, dialect, query = self._settings, self._settings.dialect, Query(request.query)
        if dialect.paged:
            names = ("page", "page_size")
            place = query.integer("page", 1, low=1)
            size, named = self._read_size(query, "page_size")
            start = (place - 1) * size
        else:
            names = ("offset", "limit")
            size, named = self._read_size(query, "limit")
            start = place = query.integer("offset", 0, low=0)
        filters, oldest_first = Filters(), False
        if dialect.rich:
            filters, oldest_first = read_filters(query, settings.dialect.statuses)
        query.check()
        found, total = self._store.list(start, size, filters, oldest_first=oldest_first)
        items = [
            render_summary(dialect, ingestion, ingestion.shown)
            for ingestion in found
            if not settings.hides(ingestion)
        ]
        return Answer(200, {"items": items, "total": total, names[0]: place, names[1]: named})

    def _read_size(self, query: Query, name: str) -> tuple[int, int]:
        settings = self._settings
        default = min(_DEFAULT_PAGE_SIZE, settings.max_page_size)
        asked = query.integer(name, default, low=1, high=settings.max_page_size)
        return settings.fit_page(asked)

    def _get(self, _: RecordedRequest, workflow_id: str) -> Answer:
        ingestion = self._store.get(workflow_id)
        row = ingestion.shown if self._settings.stale_detail else ingestion.row
        return Answer(200, render_detail(self._settings.dialect, ingestion, row))

    def _rerun(self, request: RecordedRequest, workflow_id: str) -> Answer:
        self._store.rerun(workflow_id, superseded=self._settings.dialect.takes_superseded)
        self._recorder.effect("rerun", workflow_id, request.number)
        message = "The ingestion has been queued again"
        return Answer(200, {"workflow_id": workflow_id, "action": "rerun", "message": message})

    def _bulk_rerun(self, request: RecordedRequest, _: str) -> Answer:
        wanted = read_version_ids(request.body, request.headers.get("Content-Type", ""))
        if len(wanted) > MAX_BULK:
            return self.problem(request, 400, f"At most {MAX_BULK} document versions at a time")
        succeeded: list[str] = []
        failed: list[Mapping[str, str]] = []
        for version_id in wanted:
            reason = self._rerun_version(request, version_id)
            if reason is None:
                succeeded.append(version_id)
            else:
                failed.append({"id": version_id, "reason": reason})
        return Answer(200, {"succeeded": succeeded, "failed": failed})

    def _rerun_version(self, request: RecordedRequest, version_id: str) -> str | None:
        try:
            ingestion = self._store.get_version(version_id)
            if ingestion.bulk_refusal is not None:
                return ingestion.bulk_refusal
            if ingestion.row.status == "completed" and not ingestion.superseded:
                return "already_ingested"
            self._store.rerun(ingestion.workflow_id)
        except NotFoundError:
            return "not_found"
        except ConflictError as error:
            return error.reason
        self._recorder.effect("rerun", ingestion.workflow_id, request.number, "bulk")
        return None

    def _get_status(self, _: RecordedRequest, workflow_id: str) -> Answer:
        ingestion = self._store.get(workflow_id)
        closed, forget_after = ingestion.engine.close, self._settings.forget_closed_after
        if closed is not None and forget_after is not None:
            age = self._store.clock.now() - closed / SECOND
            if age >= forget_after:
                raise NotFoundError(f"Workflow {workflow_id} is not active")
        return Answer(200, render_status(self._settings.dialect, ingestion))

    def _cancel(self, request: RecordedRequest, workflow_id: str) -> Answer:
        message = "The workflow is being cancelled"
        try:
            self._store.cancel(workflow_id)
        except ConflictError:
            if self._settings.refuses_finished:
                raise
        else:
            self._recorder.effect("cancel", workflow_id, request.number)
        return Answer(200, {"workflow_id": workflow_id, "message": message})

    def _get_run(self, _: RecordedRequest, run_id: str) -> Answer:
        run = self._store.get_run(read_run_id(run_id))
        settings = self._settings
        return Answer(200, render_run(settings.shape, run, owned=settings.dialect.owned))

    def _delete_run(self, request: RecordedRequest, run_id: str) -> Answer:
        known_id = read_run_id(run_id)
        self._store.delete_run(known_id, running=self._settings.delete_running == "allow")
        self._recorder.effect("delete_run", known_id, request.number)
        return Answer(204)

    def _callback(self, request: RecordedRequest, run_id: str) -> Answer:
        known_id = read_run_id(run_id)
        status, error = read_callback(request.body, request.headers.get("Content-Type", ""))
        if not self._store.callback(known_id, status, error):
            return Answer(200, {"status": "already_terminal"})
        self._recorder.effect("callback", known_id, request.number, status)
        return Answer(200, {"status": "accepted"})
