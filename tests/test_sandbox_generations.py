"""The sandbox's generations: the one between row by row, and servers that change while they run."""

import json
from typing import get_args

import aiohttp
import pytest

from knowledgestack_async.sandbox import Sandbox, SteppedClock
from knowledgestack_async.sandbox.__main__ import make_parser
from knowledgestack_async.sandbox.dialects import DIALECTS, DialectName

BETWEEN = "system-jobs-unfiltered"
VERSIONS = "/v1/system-jobs/document_versions"


@pytest.fixture
async def http():
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def box():
    """A server of the generation between."""
    options = {"clock": SteppedClock(), "superseded": 0.2, "runs": 4}
    async with Sandbox(dialect=BETWEEN, **options) as running:
        yield running


@pytest.fixture
def ask(http, box):
    async def send(method, path, **options):
        return await call(http, box, method, path, **options)

    return send


async def call(http, box, method, path, *, key=None, **options):
    """Ask a sandbox; returns the status, the headers and the body."""
    headers = {"Authorization": f"Bearer {key or box.api_key}"}
    async with http.request(method, box.base_url + path, headers=headers, **options) as response:
        text = await response.text()
        return response.status, response.headers, json.loads(text) if text else None


def superseded_in(box):
    return next(item for item in box.store.list(0, 100)[0] if item.superseded)


async def test_its_routes_are_where_system_jobs_are(box, ask):
    one, [run, *_] = box.store.ids("processing")[0], box.store.runs.ids()
    for method, path, status in (
        ("GET", VERSIONS, 200),
        ("GET", f"{VERSIONS}/{one}", 200),
        ("GET", f"/v1/system-jobs/{one}", 200),
        ("DELETE", f"/v1/system-jobs/{one}", 200),
        ("POST", f"{VERSIONS}/{one}", 200),
        ("GET", f"/v1/workflow-runs/{run}", 200),
        ("GET", "/v1/workflows/document_versions", 404),
        ("GET", f"/v1/workflows/document_versions/{one}", 404),
        ("GET", f"/v1/workflows/{one}", 404),
    ):
        assert (await ask(method, path))[0] == status, (method, path)


@pytest.mark.parametrize(
    "query",
    [
        "status=failed",
        "status=no-such-status",
        "name_like=zzz",
        "latest_version_only=true",
        "latest_version_only=perhaps",
        "uploader_user_id=7",
        "created_after=2030-01-01T00:00:00Z",
        "created_before=then",
        "updated_after=2030-01-01T00:00:00Z",
        "updated_before=2000-01-01T00:00:00Z",
        "sort_dir=ASC",
        "sort_dir=sideways",
        "page=2&page_size=3",
        "q=1",
    ],
)
async def test_its_list_takes_limit_and_offset_and_ignores_the_rest(box, ask, query):
    status, _, page = await ask("GET", f"{VERSIONS}?limit=5&offset=4&{query}")
    ids = [item["workflow_id"] for item in page.pop("items")]
    assert (status, ids) == (200, box.store.ids()[4:9])
    assert page == {"total": 20, "limit": 5, "offset": 4}


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "offset=-1"])
async def test_its_list_checks_the_two_that_it_takes(ask, query):
    status, headers, body = await ask("GET", f"{VERSIONS}?{query}")
    assert (status, body["code"]) == (422, "unprocessable_entity")
    assert body["detail"][0]["loc"] == ["query", query.partition("=")[0]]
    assert body["request_id"] == headers["x-request-id"]


async def test_only_the_fields_of_its_items_tell_it_from_the_next(box, http):
    """Paths and envelope are the same, and so is an empty list."""
    async with Sandbox(
        dialect="system-jobs", clock=SteppedClock(), superseded=0.2, runs=4
    ) as later:
        _, _, ours = await call(http, box, "GET", VERSIONS)
        _, _, theirs = await call(http, later, "GET", VERSIONS)
        empty = [(await call(http, one, "GET", f"{VERSIONS}?offset=20"))[2] for one in (box, later)]
        one = box.store.ids()[0]
        details = [
            (await call(http, server, "GET", f"{VERSIONS}/{one}"))[2] for server in (box, later)
        ]
    added = {"document_name", "materialized_path", "is_active_version", "uploader"}
    for item, later_item in zip(ours["items"], theirs["items"], strict=True):
        assert item == {name: value for name, value in later_item.items() if name not in added}
        assert added <= later_item.keys()
    assert ours.keys() == theirs.keys()
    assert empty[0] == empty[1] == {"items": [], "total": 20, "limit": 20, "offset": 20}
    assert details[1].keys() - details[0].keys() == added


async def test_its_live_status_is_the_engines(box, ask):
    one = box.store.ids("processing")[0]
    for path in (f"/v1/system-jobs/{one}", f"{VERSIONS}/{one}"):
        _, _, body = await ask("GET", path)
        assert body["temporal_status"] == "RUNNING"
        assert {"workflow_type", "task_queue", "run_id", "start_time", "close_time"} <= body.keys()
        assert "execution_status" not in body


async def test_its_runs_have_a_state_and_who_triggered_them(box, ask):
    states = []
    box.store.add_run("NOT_STARTED")
    for run_id in box.store.runs.ids():
        _, _, run = await ask("GET", f"/v1/workflow-runs/{run_id}")
        states.append(run["execution_state"])
        assert run["triggered_by"].keys() == {"user_id", "first_name", "last_name"}
        assert not {"owner", "status", "user_id", "runner_type"} & run.keys()
    assert states == ["IN_PROGRESS", "PENDING", "COMPLETED", "FAILED", "NOT_STARTED"]


async def test_it_knows_quota_limit(http):
    async with Sandbox(dialect=BETWEEN, statuses={"quota_limit": 1.0}) as full:
        _, _, page = await call(http, full, "GET", VERSIONS)
    assert {item["status"] for item in page["items"]} == {"quota_limit"}


@pytest.mark.parametrize(
    ("method", "path", "key", "status", "code"),
    [
        ("GET", VERSIONS, "wrong", 401, "unauthorized"),
        ("GET", f"{VERSIONS}/none", None, 404, "not_found"),
        ("GET", "/v1/system-jobs/none", None, 404, "not_found"),
        ("GET", "/v1/elsewhere", None, 404, "not_found"),
        ("GET", "/v1/workflow-runs/7", None, 422, "unprocessable_entity"),
        ("DELETE", "/v1/workflow-runs/{running}", None, 409, "run_busy"),
        ("POST", f"{VERSIONS}/{{pending}}", None, 409, "conflict"),
    ],
)
async def test_its_errors_have_a_code_and_the_requests_id(
    box, ask, method, path, key, status, code
):
    path = path.replace("{running}", box.store.runs.ids()[0])
    path = path.replace("{pending}", box.store.ids("pending")[0])
    got, headers, body = await ask(method, path, key=key)
    assert (got, body["code"]) == (status, code)
    assert body.keys() == {"detail", "code", "request_id"}
    assert body["request_id"] == headers["x-request-id"]


async def test_it_has_no_rerun_in_bulk(box, ask):
    versions = [box.store.get(one).document_version_id for one in box.store.ids("failed")]
    body = {"document_version_ids": versions}
    status, headers, said = await ask("POST", f"{VERSIONS}/bulk-rerun", json=body)
    assert (status, box.effects) == (404, [])
    assert said == {
        "detail": "Not Found",
        "code": "not_found",
        "request_id": headers["x-request-id"],
    }
    assert said | {"request_id": ""} == (await ask("GET", "/v1/nowhere"))[2] | {"request_id": ""}
    assert [request.route for request in box.requests] == ["no_route", "no_route"]
    assert (await ask("PUT", f"{VERSIONS}/bulk-rerun"))[0] == 405


@pytest.mark.parametrize("dialect", [BETWEEN, "system-jobs"])
async def test_a_superseded_version_is_rerun_here_and_refused_by_the_next(http, dialect):
    async with Sandbox(dialect=dialect, clock=SteppedClock(), superseded=0.2) as server:
        old = superseded_in(server)
        status, _, body = await call(http, server, "POST", f"{VERSIONS}/{old.workflow_id}")
        assert status == (200 if dialect == BETWEEN else 409)
        assert [effect.id for effect in server.effects] == [old.workflow_id] * (dialect == BETWEEN)
        if dialect == BETWEEN:
            assert (body["workflow_id"], old.row.status) == (old.workflow_id, "pending")
            assert (await call(http, server, "POST", f"{VERSIONS}/{old.workflow_id}"))[0] == 409


async def test_cancelling_what_is_finished_does_nothing(box, ask):
    one = box.store.ids("failed")[0]
    status, _, body = await ask("DELETE", f"/v1/system-jobs/{one}")
    assert (status, body.keys()) == (200, {"workflow_id", "message"})
    assert (box.store.get(one).row.status, box.effects) == ("failed", [])
    box.settings.cancel_finished = "conflict"
    assert (await ask("DELETE", f"/v1/system-jobs/{one}"))[0] == 409
    box.settings.cancel_finished = None
    box.dialect = "system-jobs"
    assert (await ask("DELETE", f"/v1/system-jobs/{one}"))[0] == 409


def test_the_type_names_the_generations_that_there_are():
    assert get_args(DialectName) == tuple(DIALECTS) == tuple(one.name for one in DIALECTS.values())


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_command_line_takes_every_generation(dialect):
    assert make_parser().parse_args(["--dialect", dialect]).dialect == dialect


@pytest.mark.knowledge_stack(dialect=BETWEEN)
def test_the_pytest_plugin_takes_it(knowledge_stack_sandbox):
    assert knowledge_stack_sandbox.settings.dialect.name == BETWEEN


# Servers that change


@pytest.mark.parametrize("how", ["set", "call"])
async def test_a_server_is_updated_while_it_runs(box, ask, how):
    ids = box.store.ids()
    said = [(await ask("GET", f"{VERSIONS}?limit=5&status=failed"))[2]]
    if how == "set":
        box.dialect = "system-jobs"
    else:
        box.switch_dialect("system-jobs")
    said.append((await ask("GET", f"{VERSIONS}?limit=5&status=failed"))[2])
    assert [item["workflow_id"] for item in said[0]["items"]] == ids[:5]
    assert [item["workflow_id"] for item in said[1]["items"]] == box.store.ids("failed")[:5]
    assert box.dialect == box.settings.dialect.name == "system-jobs"
    assert box.connections == 1


def test_a_generation_that_there_is_not_changes_nothing():
    box = Sandbox(dialect=BETWEEN)
    for change in (lambda: box.switch_dialect("graphql"), lambda: setattr(box, "dialect", "rest")):
        with pytest.raises(ValueError, match="dialect must be one of documented, offset, system-j"):
            change()
    assert box.dialect == box.settings.dialect.name == BETWEEN


async def test_half_of_the_servers_can_be_updated_already(box, ask):
    box.before_request = lambda request: box.switch_dialect(
        "system-jobs" if request.number % 2 else BETWEEN
    )
    pages = [(await ask("GET", f"{VERSIONS}?limit=1"))[2] for _ in range(4)]
    assert ["uploader" in page["items"][0] for page in pages] == [True, False, True, False]


async def test_every_generation_can_become_every_other(box, ask):
    names = [*DIALECTS, *reversed(DIALECTS)]
    for name in names:
        box.dialect = name
        prefix = box.settings.dialect.prefix
        status, _, page = await ask("GET", f"{prefix}/document_versions")
        assert (status, len(page["items"])) == (200, 20)
        assert ("page" in page) == (name == "documented")
