"""The sandbox's service over real sockets: routes, refusals, generations, what is recorded."""

import asyncio
import contextlib
import gc
import hashlib
import hmac
import json
import socket
import ssl
import uuid
import warnings

import aiohttp
import pytest
from aiohttp import web

from knowledgestack_async.sandbox import Fault, NotFoundError, RunningClock, Sandbox, SteppedClock

DIALECTS = ("documented", "offset", "system-jobs-unfiltered", "system-jobs")
SYSTEM_JOBS = ("system-jobs-unfiltered", "system-jobs")


class Caller:
    """A plain client that knows where its sandbox's routes are."""

    def __init__(self, sandbox, session):
        self.sandbox = sandbox
        self.session = session

    async def __call__(self, method, path, *, key=None, **options):
        path = path.replace("~", self.sandbox.settings.dialect.prefix)
        headers = {"Authorization": f"Bearer {key or self.sandbox.api_key}"}
        headers |= options.pop("headers", {})
        url = aiohttp.client.URL(self.sandbox.base_url + path, encoded=True)
        async with self.session.request(method, url, headers=headers, **options) as response:
            text = await response.text()
            return response, json.loads(text) if text else None


@pytest.fixture
async def serve():
    """Starts sandboxes, and gives a caller for each."""
    opened = []

    async def start(**options):
        options.setdefault("clock", SteppedClock())
        sandbox = await Sandbox(**options).__aenter__()
        session = aiohttp.ClientSession()
        opened.append((sandbox, session))
        return Caller(sandbox, session)

    yield start
    for sandbox, session in opened:
        await session.close()
        await sandbox.__aexit__(None, None, None)


def problems(body):
    return [(".".join(map(str, problem["loc"])), problem["type"]) for problem in body["detail"]]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_pages_follow_each_other(serve, dialect):
    call = await serve(dialect=dialect)
    paged = dialect == "documented"
    ids = call.sandbox.store.ids()
    _, first = await call("GET", "~/document_versions")
    assert [item["workflow_id"] for item in first["items"]] == ids
    query = "?page=3&page_size=6" if paged else "?offset=12&limit=6"
    response, third = await call("GET", "~/document_versions" + query)
    assert response.status == 200
    assert [item["workflow_id"] for item in third.pop("items")] == ids[12:18]
    expected = {"page": 3, "page_size": 6} if paged else {"limit": 6, "offset": 12}
    assert third == {"total": 20, **expected}
    foreign = "?limit=2&offset=9" if paged else "?page=3&page_size=2"
    assert (await call("GET", "~/document_versions" + foreign))[1] == first


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_each_generation_has_its_own_fields(serve, dialect):
    call = await serve(dialect=dialect)
    workflow_id = call.sandbox.store.ids("failed")[0]
    _, summary = await call("GET", "~/document_versions?limit=20&page_size=20")
    _, detail = await call("GET", f"~/document_versions/{workflow_id}")
    _, status = await call("GET", f"~/{workflow_id}")
    plain = {
        "workflow_id",
        "document_id",
        "document_version_id",
        "status",
        "last_activity",
        "error",
        "last_run_timestamp",
        "last_state_update_timestamp",
        "created_at",
    }
    if dialect == "system-jobs":
        plain |= {"document_name", "materialized_path", "is_active_version", "uploader"}
    live = {"start_time", "close_time"}
    if dialect == "documented":
        live |= {"execution_status"}
    else:
        live |= {"temporal_status", "workflow_type", "task_queue", "run_id"}
    assert set(summary["items"][0]) == plain
    assert set(detail) == plain | live | {"chunks_processed"}
    assert set(status) == {"workflow_id"} | live
    assert detail["status"] == "failed"
    for time in (detail["created_at"], detail["start_time"], detail["close_time"]):
        assert time.endswith("Z")


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_the_routes_of_other_generations_are_not_there(serve, dialect):
    call = await serve(dialect=dialect)
    other = "/v1/workflows" if dialect in SYSTEM_JOBS else "/v1/system-jobs"
    response, body = await call("GET", f"{other}/document_versions")
    assert (response.status, body["detail"]) == (404, "Not Found")
    response, body = await call("PUT", "~/document_versions")
    assert (response.status, body["detail"]) == (405, "Method Not Allowed")
    assert ("x-request-id" in response.headers) == (dialect in SYSTEM_JOBS)
    if dialect in SYSTEM_JOBS:
        assert body["code"] == "error"
        assert body["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_without_the_key_nobody_gets_in(serve, dialect):
    call = await serve(dialect=dialect)
    for header in ("", "Basic abc", "Bearer wrong", "Bearer"):
        response, body = await call("GET", "~/document_versions", headers={"Authorization": header})
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert body.get("code") == ("unauthorized" if dialect in SYSTEM_JOBS else None)
    call.sandbox.api_key = "sk-user-rotated"
    assert (await call("GET", "~/document_versions", key="sk-user-sandbox"))[0].status == 401
    lower = {"Authorization": "bearer sk-user-rotated"}
    assert (await call("GET", "~/document_versions", headers=lower))[0].status == 200


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_bad_numbers_are_refused_with_their_place(serve, dialect):
    call = await serve(dialect=dialect)
    size, place = ("page_size", "page") if dialect == "documented" else ("limit", "offset")
    response, body = await call("GET", f"~/document_versions?{size}=101&{place}=x")
    assert response.status == 422
    assert (
        sorted(problems(body))
        == [
            (f"query.{size}", "less_than_equal"),
            (f"query.{place}", "int_parsing"),
        ][:: 1 if size < place else -1]
    )
    response, body = await call("GET", f"~/document_versions?{size}=0")
    assert problems(body) == [(f"query.{size}", "greater_than_equal")]
    response, body = await call("GET", f"~/document_versions?{size}=7&{size}=3")
    assert len(body["items"]) == 3


async def test_a_page_size_that_is_not_honoured_shows_in_the_envelope(serve):
    call = await serve(honoured_page_size=7, max_page_size=1000)
    _, body = await call("GET", "~/document_versions?page_size=500")
    assert (body["page_size"], len(body["items"])) == (7, 7)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_an_ingestion_is_rerun_once_at_a_time(serve, dialect):
    call = await serve(dialect=dialect)
    workflow_id = call.sandbox.store.ids("failed")[0]
    response, body = await call("POST", f"~/document_versions/{workflow_id}")
    assert response.status == 200
    assert set(body) == {"workflow_id", "action", "message"}
    response, body = await call("POST", f"~/document_versions/{workflow_id}")
    assert response.status == 409
    assert body.get("code") == ("conflict" if dialect in SYSTEM_JOBS else None)
    response, body = await call("POST", "~/document_versions/none")
    assert (response.status, body["detail"]) == (404, "Workflow none not found")
    [effect] = call.sandbox.effects
    assert (effect.kind, effect.id, effect.request_number) == ("rerun", workflow_id, 1)


async def test_only_the_list_is_stale_unless_told_otherwise(serve):
    for stale_detail, expected in ((False, "pending"), (True, "failed")):
        call = await serve(stale_after_rerun=5, stale_detail=stale_detail, statuses={"failed": 1})
        workflow_id = call.sandbox.store.ids()[0]
        await call("POST", f"~/document_versions/{workflow_id}")
        _, page = await call("GET", "~/document_versions?page_size=1")
        _, detail = await call("GET", f"~/document_versions/{workflow_id}")
        assert page["items"][0]["status"] == "failed"
        assert (detail["status"], detail["execution_status"]) == (expected, "RUNNING")


async def test_open_workflows_are_cancelled_and_finished_ones_are_not(serve):
    call = await serve()
    pending, failed = (call.sandbox.store.ids(word)[0] for word in ("pending", "failed"))
    response, body = await call("DELETE", f"~/{pending}")
    assert (response.status, body["workflow_id"]) == (200, pending)
    assert (await call("GET", f"~/{pending}"))[1]["execution_status"] == "CANCELED"
    assert (await call("DELETE", f"~/{failed}"))[0].status == 409
    call.sandbox.settings.cancel_finished = "ignore"
    assert (await call("DELETE", f"~/{failed}"))[0].status == 200
    assert (await call("DELETE", "~/none"))[0].status == 404
    assert [effect.kind for effect in call.sandbox.effects] == ["cancel"]


async def test_a_closed_workflow_is_forgotten_after_a_while(serve):
    call = await serve(forget_closed_after=10.0)
    workflow_id = call.sandbox.store.ids("processing")[0]
    assert (await call("GET", f"~/{workflow_id}"))[0].status == 200
    call.sandbox.store.set_status(workflow_id, "completed")
    call.sandbox.clock.advance(9)
    assert (await call("GET", f"~/{workflow_id}"))[0].status == 200
    call.sandbox.clock.advance(1)
    response, body = await call("GET", f"~/{workflow_id}")
    assert (response.status, body["detail"]) == (404, f"Workflow {workflow_id} is not active")


async def test_quoted_slashes_reach_other_routes(serve):
    call = await serve()
    workflow_id = call.sandbox.store.ids()[0]
    _, body = await call("GET", f"/v1/workflows/document_versions%2F{workflow_id}")
    assert "chunks_processed" in body
    _, body = await call("GET", "/v1/workflows/document_versions")
    assert "items" in body
    call.sandbox.store.add_ingestion("failed", workflow_id="a b?c")
    response, body = await call("GET", "~/document_versions/a%20b%3Fc?x=1&x=")
    assert (response.status, body["workflow_id"]) == (200, "a b?c")
    request = call.sandbox.requests[-1]
    assert request.path.endswith("/a%20b%3Fc")
    assert (request.id, request.query) == ("a b?c", (("x", "1"), ("x", "")))


@pytest.mark.parametrize(
    ("options", "state", "user"),
    [
        ({}, "status", "user_id"),
        ({"dialect": "offset"}, "status", "user_id"),
        ({"dialect": "offset", "run_shape": "execution_state"}, "execution_state", "triggered_by"),
        ({"dialect": "system-jobs-unfiltered"}, "execution_state", "triggered_by"),
        ({"dialect": "system-jobs"}, "execution_state", "owner"),
    ],
)
async def test_runs_have_the_shape_of_their_time(serve, options, state, user):
    call = await serve(runs=4, **options)
    call.sandbox.store.add_run("NOT_STARTED")
    bodies = [
        (await call("GET", f"/v1/workflow-runs/{run_id}"))[1]
        for run_id in call.sandbox.store.runs.ids()
    ]
    old = state == "status"
    states = ["RUNNING", "PENDING", "COMPLETED", "FAILED", "PENDING"]
    later = ["IN_PROGRESS", "PENDING", "COMPLETED", "FAILED", "NOT_STARTED"]
    assert [body[state] for body in bodies] == (states if old else later)
    assert all(user in body for body in bodies)
    assert [body["started_at"] is None for body in bodies] == [
        not old and n in {1, 4} for n in range(5)
    ]
    assert [body["run_snapshot"] is None for body in bodies] == [
        not old and n in {1, 4} for n in range(5)
    ]
    assert (bodies[3]["error"] is None, bodies[0]["error"]) == (False, None)


async def test_a_template_may_be_missing(serve):
    call = await serve()
    run = call.sandbox.store.runs.add(has_template=False)
    _, body = await call("GET", f"/v1/workflow-runs/{run.id}")
    assert body["run_snapshot"]["template"] is None


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_runs_are_deleted_unless_they_run(serve, dialect):
    call = await serve(dialect=dialect)
    running, pending, _ = call.sandbox.store.runs.ids()
    response, body = await call("DELETE", f"/v1/workflow-runs/{running}")
    assert response.status == 409
    assert body.get("code") == ("run_busy" if dialect in SYSTEM_JOBS else None)
    response, body = await call("DELETE", f"/v1/workflow-runs/{pending}")
    assert (response.status, body) == (204, None)
    assert "Content-Type" not in response.headers
    assert (await call("DELETE", f"/v1/workflow-runs/{pending}"))[0].status == 404
    call.sandbox.settings.delete_running = "allow"
    assert (await call("DELETE", f"/v1/workflow-runs/{running}"))[0].status == 204
    response, body = await call("GET", "/v1/workflow-runs/run-7")
    assert (response.status, problems(body)) == (422, [("path.run_id", "uuid_parsing")])


async def test_a_callback_takes_three_credentials_and_acts_once(serve):
    call = await serve(webhook_secret="whsec_mine")
    sandbox = call.sandbox
    for secret in (sandbox.api_key, sandbox.webhook_secret, None):
        run = sandbox.store.add_run("RUNNING")
        key = secret or sandbox.run_token(run.id)
        path, error = f"/v1/workflow-runs/{run.id}/callback", "x" * 8192
        wrong = sandbox.run_token(sandbox.store.add_run().id)
        assert (await call("POST", path, key=wrong, json={}))[0].status == 401
        response, body = await call(
            "POST", path, key=key, json={"status": "FAILED", "error": error}
        )
        assert (response.status, body) == (200, {"status": "accepted"})
        _, body = await call("POST", path, key=key, json={"status": "COMPLETED"})
        assert body == {"status": "already_terminal"}
        assert (run.status, run.error) == ("FAILED", error)
    assert [(effect.kind, effect.detail) for effect in sandbox.effects] == [
        ("callback", "FAILED")
    ] * 3
    assert (await call("POST", f"/v1/workflow-runs/{uuid.uuid4()}/callback"))[0].status == 422
    missing = f"/v1/workflow-runs/{uuid.uuid4()}/callback"
    assert (await call("POST", missing, json={"status": "FAILED"}))[0].status == 404
    assert (await call("POST", missing, key="x", json={"status": "FAILED"}))[0].status == 401
    assert (await call("POST", "/v1/workflow-runs/7/callback", key="x"))[0].status == 401
    with pytest.raises(NotFoundError):
        sandbox.run_token("none")


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        (b"", "application/json", [("body", "missing")]),
        (b"{", "application/json", [("body.0", "json_invalid")]),
        (b"[1]", "application/json", [("body", "model_attributes_type")]),
        (b"{}", "text/plain", [("body", "model_attributes_type")]),
        (b"{}", "application/json; charset=utf-8", [("body.status", "missing")]),
        (b'{"status": "PENDING"}', "application/json", [("body.status", "literal_error")]),
        (b'{"status": "FAILED", "error": 7}', "application/json", [("body.error", "string_type")]),
        (
            b'{"status": "FAILED", "error": "%b"}' % (b"x" * 8193),
            "application/json",
            [("body.error", "string_too_long")],
        ),
    ],
)
async def test_a_callback_with_a_bad_body_is_refused(serve, body, kind, expected):
    call = await serve()
    path = f"/v1/workflow-runs/{call.sandbox.store.runs.ids()[0]}/callback"
    response, answer = await call("POST", path, data=body, headers={"Content-Type": kind})
    assert (response.status, problems(answer)) == (422, expected)
    assert call.sandbox.effects == []


async def test_reruns_in_bulk(serve):
    call = await serve(dialect="system-jobs", superseded=0.1)
    store, path = call.sandbox.store, "~/document_versions/bulk-rerun"
    versions = {
        word: [store.get(workflow_id).document_version_id for workflow_id in store.ids(word)]
        for word in ("failed", "completed", "pending")
    }
    failed, pending = versions["failed"], versions["pending"][0]
    superseded = next(v for v in versions["completed"] if store.get_version(v).superseded)
    done = next(v for v in versions["completed"] if v != superseded)
    store.set_bulk_refusal(store.get_version(failed[0]).workflow_id, "forbidden")
    wanted = [failed[1], str(uuid.UUID(int=1)), failed[0], pending, superseded, done]
    response, body = await call("POST", path, json={"document_version_ids": wanted})
    assert response.status == 200
    assert body["succeeded"] == [failed[1]]
    assert [failure["reason"] for failure in body["failed"]] == [
        "not_found",
        "forbidden",
        "in_progress_workflow",
        "superseded",
        "already_ingested",
    ]
    [effect] = call.sandbox.effects
    assert (effect.kind, effect.detail) == ("rerun", "bulk")
    too_many = [str(uuid.uuid4())] * 200 + [failed[2]]
    response, body = await call("POST", path, json={"document_version_ids": too_many})
    assert (response.status, body["code"]) == (400, "bad_request")
    _, body = await call("POST", path, json={"document_version_ids": "all"})
    assert problems(body) == [("body.document_version_ids", "list_type")]
    _, body = await call("POST", path, json={"document_version_ids": ["x", failed[2], 3]})
    assert [where for where, _ in problems(body)] == [
        "body.document_version_ids.0",
        "body.document_version_ids.2",
    ]
    assert (await call("POST", path, json={}))[1] == {"succeeded": [], "failed": []}
    assert len(call.sandbox.effects) == 1


async def test_system_jobs_lists_take_filters(serve):
    call = await serve(dialect="system-jobs", superseded=0.1)
    items = (await call("GET", "~/document_versions"))[1]["items"]

    async def ids(query):
        _, body = await call("GET", f"~/document_versions?{query}")
        return [item["workflow_id"] for item in body["items"]]

    def where(test):
        return [item["workflow_id"] for item in items if test(item)]

    assert await ids("sort_dir=ASC") == where(lambda _: True)[::-1]
    assert await ids("sort_dir=DESC") == where(lambda _: True)
    assert await ids("status=failed&status=pending") == where(
        lambda item: item["status"] in {"failed", "pending"}
    )
    for word in ("true", "Yes", "1"):
        assert await ids(f"latest_version_only={word}") == where(lambda i: i["is_active_version"])
    assert len(await ids("latest_version_only=false")) == 20
    user, fence = items[3]["uploader"]["user_id"], items[5]["created_at"]
    assert await ids(f"uploader_user_id={user.upper()}") == where(
        lambda item: item["uploader"]["user_id"] == user
    )
    assert await ids(f"created_before={fence}") == where(lambda item: item["created_at"] < fence)
    assert await ids(f"created_after={fence[:-1]}") == where(lambda i: i["created_at"] >= fence)
    name = items[2]["document_name"]
    assert await ids(f"name_like={name}&updated_after=2020-01-01T00:00:00Z") == [
        items[2]["workflow_id"]
    ]
    assert await ids("updated_before=2020-01-01T00:00:00Z") == []
    _, body = await call(
        "GET",
        "~/document_versions?status=done&latest_version_only=maybe&uploader_user_id=7"
        "&created_after=then&sort_dir=UP",
    )
    assert problems(body) == [
        ("query.status.0", "enum"),
        ("query.latest_version_only", "bool_parsing"),
        ("query.uploader_user_id", "uuid_parsing"),
        ("query.created_after", "datetime_from_date_parsing"),
        ("query.sort_dir.0", "enum"),
    ]
    assert body["code"] == "unprocessable_entity"


async def test_requests_are_recorded_and_counted(serve):
    call = await serve()
    await call("GET", "~/document_versions?page=1", headers={"X-Mine": "7"})
    await call("POST", "/nowhere", data=b"body")
    first, second = call.sandbox.requests
    assert (first.number, first.route, first.status, first.fault) == (
        1,
        "list_ingestion_workflows",
        200,
        None,
    )
    assert (first.headers["x-mine"], first.query) == ("7", (("page", "1"),))
    assert (second.route, second.body, second.status) == ("no_route", b"body", 404)
    assert second.at >= first.at
    assert call.sandbox.request_counts == {"list_ingestion_workflows": 1, "no_route": 1}
    assert call.sandbox.connections == call.sandbox.max_in_flight == 1
    call.sandbox.forget_requests()
    assert call.sandbox.requests == call.sandbox.effects == []


async def test_without_recording_requests_are_still_counted(serve):
    call = await serve(record=False)
    await call("GET", "~/document_versions")
    assert call.sandbox.requests == []
    assert call.sandbox.request_counts["list_ingestion_workflows"] == 1


async def test_requests_in_flight_are_counted(serve):
    call = await serve(latency=0.02)
    await asyncio.gather(*(call("GET", "~/document_versions") for _ in range(5)))
    assert call.sandbox.max_in_flight == call.sandbox.connections == 5


async def test_hooks_act_between_requests(serve):
    call = await serve(ingestions=0, runs=0)
    sandbox = call.sandbox
    sandbox.before_request = lambda request: sandbox.store.add_ingestion(
        "failed", workflow_id=f"ingest-{request.number}"
    )
    assert sandbox.before_request is not None
    sandbox.rewrite_answer = lambda request, body: body | {"route": request.route}
    assert sandbox.rewrite_answer is not None
    _, body = await call("GET", "~/document_versions")
    assert [item["workflow_id"] for item in body["items"]] == ["ingest-1"]
    assert body["route"] == "list_ingestion_workflows"
    assert (await call("GET", "~/document_versions"))[1]["total"] == 2


async def test_a_server_can_change_its_generation(serve):
    call = await serve()
    await call("GET", "~/document_versions")
    call.sandbox.switch_dialect("system-jobs")
    assert call.sandbox.dialect == "system-jobs"
    assert (await call("GET", "/v1/workflows/document_versions"))[0].status == 404
    assert (await call("GET", "/v1/system-jobs/document_versions"))[0].status == 200
    with pytest.raises(ValueError, match="dialect must be one of"):
        call.sandbox.switch_dialect("graphql")


async def test_the_same_seed_and_requests_get_the_same_answers(serve):
    async def talk(seed):
        call = await serve(
            seed=seed, dialect="system-jobs", rerun_outcomes={"failed": 1, "completed": 1}
        )
        call.sandbox.faults.add(Fault("status", status=503, probability=0.5))
        said = []
        for workflow_id in call.sandbox.store.ids("failed"):
            said.append((await call("POST", f"~/document_versions/{workflow_id}"))[1])
            call.sandbox.clock.advance(3)
            said.append((await call("GET", "~/document_versions"))[1])
        return said

    assert await talk(5) == await talk(5) != await talk(6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dialect": "graphql"}, "dialect"),
        ({"statuses": {"done": 1}}, "no pipeline status in documented: done"),
        ({"statuses": {"quota_limit": 1}}, "quota_limit"),
        ({"rerun_outcomes": {"pending": 1}}, "cannot end"),
        ({"statuses": {"failed": 0}}, "positive"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Sandbox(**options)


def test_later_generations_know_quota_limit_and_nothing_tells_the_key():
    sandbox = Sandbox(dialect="offset", statuses={"quota_limit": 1}, api_key="canary", speed=3.0)
    assert len(sandbox.store.ids("quota_limit")) == 20
    assert "canary" not in repr(sandbox)
    assert isinstance(sandbox.clock, RunningClock)
    assert sandbox.webhook_secret == Sandbox().webhook_secret != Sandbox(seed=1).webhook_secret


async def test_a_run_is_dispatched_to_a_runner_signed(serve):
    received = []

    async def webhook(request):
        received.append((request.headers, await request.read()))
        return web.Response(status=202)

    runner = web.ServerRunner(web.Server(webhook))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    call = await serve(runs=2)
    sandbox = call.sandbox
    assert await sandbox.dispatch_run(url) == 202
    assert await sandbox.dispatch_run(url, secret="other") == 202
    assert await sandbox.dispatch_run(url, sandbox.store.runs.ids()[0]) == 202
    await runner.cleanup()
    (headers, body), (other_headers, other_body), _ = received
    sent = json.loads(body)
    assert sent["run_id"] == sandbox.store.runs.ids()[1]
    assert sandbox.store.get_run(sent["run_id"]).status == "RUNNING"
    assert sent["snapshot"]["max_run_duration_seconds"] == 3600
    expected = hmac.new(sandbox.webhook_secret.encode(), body, hashlib.sha256).hexdigest()
    assert headers["X-KS-Signature"] == f"sha256={expected}"
    expected = hmac.new(b"other", other_body, hashlib.sha256).hexdigest()
    assert other_headers["X-KS-Signature"] == f"sha256={expected}"
    path = sent["callback_url"].removeprefix(sandbox.base_url)
    response, _ = await call("POST", path, key=sent["token"], json={"status": "COMPLETED"})
    assert response.status == 200


async def test_the_snapshot_that_is_sent_has_the_shape_of_its_time(serve):
    call = await serve(dialect="system-jobs", runs=0)
    with pytest.raises(aiohttp.ClientConnectorError):
        await call.sandbox.dispatch_run("http://127.0.0.1:1/")
    assert call.sandbox.store.runs.newest("RUNNING") is not None


async def test_https_and_ipv6_show_in_the_url():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    async with Sandbox(ssl_context=context) as sandbox:
        assert sandbox.base_url.startswith("https://127.0.0.1:")


async def test_ipv6_addresses_are_bracketed():
    try:
        async with Sandbox(host="::1") as sandbox:
            assert sandbox.base_url.startswith("http://[::1]:")
    except OSError:
        pytest.skip("this machine has no IPv6")


async def test_a_taken_port_leaves_nothing_open(tmp_path):
    async with Sandbox() as sandbox:
        port = int(sandbox.base_url.rpartition(":")[2])
        second = Sandbox(port=port, effects_file=str(tmp_path / "effects"))
        with pytest.raises(OSError, match="address already in use"):
            await second.__aenter__()


async def test_requests_and_effects_are_written_down_at_once(serve, tmp_path):
    path = tmp_path / "effects"
    call = await serve(effects_file=str(path))
    run_id = call.sandbox.store.runs.ids()[0]
    await call("POST", f"/v1/workflow-runs/{run_id}/callback", json={"status": "COMPLETED"})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["type"] for line in lines] == ["request", "effect", "answer"]
    assert lines[0]["route"] == "send_workflow_run_callback"
    assert (lines[1]["id"], lines[1]["request_number"]) == (run_id, 1)
    assert lines[2]["status"] == 200


async def test_leaving_ends_what_is_under_way():
    async with asyncio.timeout(1), aiohttp.ClientSession() as session:
        async with Sandbox(latency=60) as sandbox:
            call = Caller(sandbox, session)
            waiting = asyncio.create_task(call("GET", "~/document_versions"))
            _, half = await asyncio.open_connection(
                "127.0.0.1", int(sandbox.base_url.rpartition(":")[2])
            )
            half.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")
            while sandbox.max_in_flight < 2:
                await asyncio.sleep(0.001)
        with pytest.raises(aiohttp.ClientError):
            await waiting
        half.close()


async def test_a_session_of_the_client_talks_to_it(serve, monkeypatch):
    import knowledgestack_async.session

    class FakeSession:
        def __init__(self, **options):
            self.options = options

    monkeypatch.setattr(knowledgestack_async.session, "Session", FakeSession)
    call = await serve()
    session = call.sandbox.session(timeout=3, api_key="other")
    assert session.options == {"base_url": call.sandbox.base_url, "timeout": 3, "api_key": "other"}


@pytest.mark.no_cover
@pytest.mark.parametrize("turns", range(6))
async def test_a_connection_that_is_made_while_it_stops_is_closed(turns):
    """In whichever turn of the event loop it comes: asyncio loses one that it takes as a server closes."""
    async with Sandbox() as sandbox:
        await asyncio.sleep(0.01)
        address = ("127.0.0.1", int(sandbox.base_url.rpartition(":")[2]))
        with socket.create_connection(address, timeout=5) as connection:
            for _ in range(turns):
                await asyncio.sleep(0)
            await sandbox.__aexit__(None, None, None)
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always", ResourceWarning)
                gc.collect()
            assert told == []
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""
