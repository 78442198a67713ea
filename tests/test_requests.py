"""The exact request of every endpoint function: method, URL, query, headers and body."""

import json
import re
from uuid import UUID

import pytest
from aioresponses import CallbackResult
from aioresponses_fixture import MockedResponse, mocked
from wire_examples import CURRENT_SUMMARY, DETAIL, NUMBERED, OFFSET, RUN, STATUS, SUMMARY
from yarl import URL

import knowledgestack_async as ks
from knowledgestack_async.api.workflow_runs import CALLBACK_ERROR_LENGTH
from support import ids_of, run_id_of

__all__ = ["mocked"]

HOST = "https://ks.example.com"
RUN_ID = RUN["id"]
ANY = re.compile(r".*")
HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "gzip, deflate",
    "User-Agent": f"knowledgestack-async/{ks.__version__}",
    "Authorization": "Bearer sk-user-1",
}


@pytest.fixture
async def session():
    async with ks.Session("sk-user-1", HOST) as made:
        yield made


def open_session(*, key="sk-user-1", base_url=HOST, **options):
    return ks.Session(key, base_url, **options)


ACTION = {"workflow_id": "ingest-01J", "action": "rerun", "message": "started"}
CANCELLED = {"workflow_id": "ingest-01J", "message": "cancelled"}

# Each endpoint: what is called, and what that sends; {v} is the generation's own prefix.
ENDPOINTS = {
    "get run": (
        lambda session: ks.get_workflow_run(session, RUN_ID),
        ("GET", f"/v1/workflow-runs/{RUN_ID}", None),
        {"status": 200, "payload": RUN},
    ),
    "delete run": (
        lambda session: ks.delete_workflow_run(session, RUN_ID),
        ("DELETE", f"/v1/workflow-runs/{RUN_ID}", None),
        {"status": 204},
    ),
    "callback": (
        lambda session: ks.send_workflow_run_callback(session, RUN_ID, "FAILED", error="é"),
        ("POST", f"/v1/workflow-runs/{RUN_ID}/callback", {"status": "FAILED", "error": "é"}),
        {"status": 200, "payload": {"status": "ok"}},
    ),
    "get ingestion": (
        lambda session: ks.get_ingestion_workflow(session, "ingest-01J"),
        ("GET", "{v}/document_versions/ingest-01J", None),
        {"status": 200, "payload": DETAIL},
    ),
    "rerun": (
        lambda session: ks.rerun_ingestion_workflow(session, "ingest-01J"),
        ("POST", "{v}/document_versions/ingest-01J", None),
        {"status": 200, "payload": ACTION},
    ),
    "get status": (
        lambda session: ks.get_workflow_status(session, "ingest-01J"),
        ("GET", "{v}/ingest-01J", None),
        {"status": 200, "payload": STATUS},
    ),
    "cancel": (
        lambda session: ks.cancel_workflow(session, "ingest-01J"),
        ("DELETE", "{v}/ingest-01J", None),
        {"status": 200, "payload": CANCELLED},
    ),
}
PREFIXES = {
    "auto": "/v1/workflows",
    "documented": "/v1/workflows",
    "offset": "/v1/workflows",
    "system-jobs-unfiltered": "/v1/system-jobs",
    "system-jobs": "/v1/system-jobs",
}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("dialect", PREFIXES)
async def test_each_endpoint_sends_exactly_its_request(mocked, endpoint, dialect):
    call, (method, path, body), answer = ENDPOINTS[endpoint]
    mocked.add(ANY, method, **answer)
    async with open_session(dialect=dialect) as session:
        found = await call(session)
    [sent] = mocked.sent
    assert (sent.method, sent.url) == (method, HOST + path.format(v=PREFIXES[dialect]))
    assert sent.headers == HEADERS | ({"Content-Type": "application/json"} if body else {})
    assert (None if sent.body is None else json.loads(sent.body)) == body
    assert found is None if endpoint == "delete run" else found.raw == answer["payload"]


@pytest.mark.parametrize(
    ("dialect", "query", "envelope"),
    [
        ("auto", "page=3&page_size=20", {**NUMBERED, "page": 3}),
        ("documented", "page=3&page_size=20", {**NUMBERED, "page": 3}),
        ("offset", "offset=40&limit=20", {**OFFSET, "offset": 40}),
        ("system-jobs-unfiltered", "offset=40&limit=20", {**OFFSET, "offset": 40}),
        ("system-jobs", "offset=40&limit=20", {**OFFSET, "offset": 40}),
    ],
)
async def test_the_list_sends_exactly_its_request(mocked, dialect, query, envelope):
    item = CURRENT_SUMMARY if dialect == "system-jobs" else SUMMARY
    mocked.get(ANY, payload={"items": [item], **envelope})
    async with open_session(dialect=dialect) as session:
        page = await ks.list_ingestion_workflows(session, page=3, page_size=20)
    [sent] = mocked.sent
    assert (sent.method, sent.body) == ("GET", None)
    assert sent.url == f"{HOST}{PREFIXES[dialect]}/document_versions?{query}"
    assert sent.headers == HEADERS
    assert (page.page, page.page_size, page.total) == (3, 20, 1)
    assert page.raw == {"items": [item], **envelope}


async def test_a_server_that_can_less_than_was_named_is_an_error(mocked):
    mocked.get(ANY, payload={"items": [SUMMARY], **OFFSET})
    async with open_session(dialect="system-jobs") as session:
        with pytest.raises(
            ks.InvalidResponse, match="'system-jobs-unfiltered', not as 'system-jobs'"
        ):
            await ks.list_ingestion_workflows(session, page_size=20)
    assert len(mocked.sent) == 1


async def test_a_server_that_can_more_than_was_named_is_taken(mocked):
    mocked.get(ANY, payload={"items": [CURRENT_SUMMARY], **OFFSET})
    async with open_session(dialect="system-jobs-unfiltered") as session:
        page = await ks.list_ingestion_workflows(session, page_size=20)
        assert session.dialect == "system-jobs-unfiltered"
    assert page.items[0].raw == CURRENT_SUMMARY


async def test_the_list_asks_for_the_first_hundred_by_default(mocked, session):
    mocked.get(ANY, payload={"items": [], **NUMBERED})
    await ks.list_ingestion_workflows(session)
    assert mocked.sent[0].url.endswith("/document_versions?page=1&page_size=100")


async def test_a_page_number_is_told_only_where_the_offset_is_on_a_pages_start(mocked):
    mocked.get(ANY, payload={"items": [], "total": 90, "limit": 30, "offset": 40})
    async with open_session(dialect="offset") as session:
        page = await ks.list_ingestion_workflows(session, page=3, page_size=20)
    assert (page.page, page.page_size, page.limit, page.offset) == (None, None, 30, 40)


async def test_a_server_that_ignored_the_page_is_asked_again_in_its_own_way(mocked, session):
    mocked.get(ANY, payload={"items": [SUMMARY], **OFFSET})
    mocked.get(ANY, payload={"items": [SUMMARY], **OFFSET, "offset": 40})
    page = await ks.list_ingestion_workflows(session, page=3, page_size=20)
    assert [URL(sent.url).query_string for sent in mocked.sent] == [
        "page=3&page_size=20",
        "offset=40&limit=20",
    ]
    assert (page.page, session.dialect) == (3, "offset")


@pytest.mark.parametrize(
    "wrong",
    [{"page": 0}, {"page": "1"}, {"page_size": 0}, {"page_size": 101}, {"page_size": True}],
)
async def test_a_page_that_makes_no_sense_is_refused_before_anything_is_sent(
    mocked, session, wrong
):
    with pytest.raises(ks.ConfigurationError, match=rf"^{next(iter(wrong))} must be"):
        await ks.list_ingestion_workflows(session, **wrong)
    assert mocked.sent == []


async def test_a_walk_sends_its_filters_where_the_server_has_them(mocked):
    mocked.get(ANY, payload={"items": [CURRENT_SUMMARY], **OFFSET})
    async with open_session(dialect="system-jobs") as session:
        walk = ks.iter_ingestion_workflows(
            session, status=["failed", ks.IngestionStatus.CANCELLED], name_like="a&b", limit=1
        )
        [found] = await walk
    assert found.raw == CURRENT_SUMMARY
    [sent] = mocked.sent
    assert sent.url == (
        f"{HOST}/v1/system-jobs/document_versions"
        "?offset=0&limit=100&name_like=a%26b&status=cancelled&status=failed"
    )


@pytest.mark.parametrize(
    ("dialect", "queries"),
    [
        ("documented", ["page=1&page_size=2", "page=2&page_size=2"]),
        # The last page is full: that nothing follows it costs one more request.
        *(
            (dialect, ["offset=0&limit=2", "offset=1&limit=2", "offset=3&limit=2"])
            for dialect in ("offset", "system-jobs-unfiltered", "system-jobs")
        ),
    ],
)
async def test_a_walk_asks_page_after_page_with_an_item_in_common(mocked, dialect, queries):
    item = CURRENT_SUMMARY if dialect == "system-jobs" else SUMMARY
    items = [{**item, "workflow_id": f"w-{number}"} for number in range(3)]

    def answer(url, **_):
        asked = {name: int(value) for name, value in URL(url).query.items() if value.isdigit()}
        if "page" in asked:
            start, size = (asked["page"] - 1) * asked["page_size"], asked["page_size"]
        else:
            start, size = asked["offset"], asked["limit"]
        found = {"items": items[start : start + size], "total": 3, **asked}
        return CallbackResult(payload=found, response_class=MockedResponse)

    mocked.get(ANY, callback=answer, repeat=True)
    async with open_session(dialect=dialect) as session:
        walk = ks.iter_ingestion_workflows(session, page_size=2, prefetch=0)
        assert [item.workflow_id async for item in walk] == ["w-0", "w-1", "w-2"]
    sent = [URL(request.url).query_string for request in mocked.sent]
    assert sent == queries


async def test_a_walk_filters_here_where_the_server_cannot(mocked, session):
    done = {**SUMMARY, "workflow_id": "w-2", "status": "completed"}
    mocked.get(ANY, payload={"items": [SUMMARY, done], **NUMBERED, "total": 2, "page_size": 100})
    walk = ks.iter_ingestion_workflows(session, status="completed")
    assert [item.workflow_id async for item in walk] == ["w-2"]
    assert (walk.total, walk.matched) == (2, 1)
    assert mocked.sent[0].url.endswith("?page=1&page_size=100")


async def test_a_walk_with_a_limit_asks_for_little_more_than_that(mocked, session):
    mocked.get(ANY, payload={"items": [SUMMARY], **NUMBERED, "page_size": 4})
    await ks.iter_ingestion_workflows(session, limit=3)
    # With room for the item that a walk that is taken up again has in common with the one before.
    assert [URL(sent.url).query_string for sent in mocked.sent] == ["page=1&page_size=4"]


async def test_a_filter_that_cannot_be_honoured_is_a_clear_error(mocked, session):
    mocked.get(ANY, payload={"items": [SUMMARY], **NUMBERED})
    with pytest.raises(ks.ConfigurationError, match="name_like can't be honoured"):
        await ks.iter_ingestion_workflows(session, name_like="x")


@pytest.mark.parametrize(
    "wrong",
    [
        {"page_size": 0},
        {"page_size": 101},
        {"limit": 0},
        {"prefetch": -1},
        {"prefetch": 1.5},
        {"status": []},
        {"created_after": "2026-05-01"},
        {"position": {"reach": -1}},
    ],
)
async def test_an_argument_of_a_walk_that_makes_no_sense_is_refused_at_once(mocked, session, wrong):
    with pytest.raises(ks.ConfigurationError, match=next(iter(wrong))):
        ks.iter_ingestion_workflows(session, **wrong)
    assert mocked.sent == []


# Ids


@pytest.mark.parametrize(
    ("given", "segment"),
    [
        ("a b", "a%20b"),
        ("a%2Fb", "a%252Fb"),
        ("a?b#c", "a%3Fb%23c"),
        ("50%", "50%25"),
        ("é", "%C3%A9"),
        ("%2e%2e", "%252e%252e"),
        ("w:1;v=2,@", "w%3A1%3Bv%3D2%2C%40"),
        (UUID(RUN_ID), RUN_ID),
    ],
)
async def test_an_id_is_one_encoded_segment_of_the_path(mocked, session, given, segment):
    mocked.get(ANY, payload={**DETAIL, "workflow_id": str(given)})
    found = await ks.get_ingestion_workflow(session, given)
    [sent] = mocked.sent
    assert sent.url == f"{HOST}/v1/workflows/document_versions/{segment}"
    assert URL(sent.url).parts[-1] == str(given)
    assert found.workflow_id == str(given)


TAKING_AN_ID = {
    "get_workflow_run": ks.get_workflow_run,
    "delete_workflow_run": ks.delete_workflow_run,
    "callback": lambda session, id_: ks.send_workflow_run_callback(session, id_, "COMPLETED"),
    "get_ingestion_workflow": ks.get_ingestion_workflow,
    "rerun_ingestion_workflow": ks.rerun_ingestion_workflow,
    "get_workflow_status": ks.get_workflow_status,
    "cancel_workflow": ks.cancel_workflow,
    "cancel_checked": lambda session, id_: ks.cancel_workflow(session, id_, check=True),
    "wait_for_ingestion": ks.wait_for_ingestion,
    "wait_for_workflow_run": ks.wait_for_workflow_run,
}


@pytest.mark.parametrize("name", TAKING_AN_ID)
@pytest.mark.parametrize("wrong", ["", ".", "..", "a/b", "a\\b", "a\n", "\x00", None, 7])
async def test_an_id_that_is_none_is_refused_before_anything_is_sent(mocked, session, name, wrong):
    with pytest.raises(ks.ConfigurationError, match=r"^(workflow|run)_id "):
        await TAKING_AN_ID[name](session, wrong)
    assert mocked.sent == []


@pytest.mark.parametrize("name", ["get_workflow_status", "cancel_workflow", "cancel_checked"])
async def test_the_id_that_would_reach_the_list_is_refused(mocked, session, name):
    with pytest.raises(ks.ConfigurationError, match="list of ingestions"):
        await TAKING_AN_ID[name](session, "document_versions")
    assert mocked.sent == []


# The callback's arguments


@pytest.mark.parametrize("status", ["COMPLETED", ks.WorkflowRunStatus.COMPLETED])
async def test_a_completed_run_has_a_status_and_nothing_else(mocked, session, status):
    mocked.post(ANY, payload={"status": "already_terminal"})
    done = await ks.send_workflow_run_callback(session, RUN_ID, status)
    assert json.loads(mocked.sent[0].body) == {"status": "COMPLETED"}
    assert done.already_terminal


async def test_a_failed_run_needs_no_error(mocked, session):
    mocked.post(ANY, payload={"status": "ok"})
    await ks.send_workflow_run_callback(session, RUN_ID, ks.WorkflowRunStatus.FAILED)
    assert json.loads(mocked.sent[0].body) == {"status": "FAILED"}


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        ("RUNNING", None, "status must be COMPLETED or FAILED, not 'RUNNING'"),
        ("completed", None, "status must be COMPLETED or FAILED, not 'completed'"),
        (ks.WorkflowRunStatus.PENDING, None, "status must be"),
        (None, None, "status must be"),
        ("COMPLETED", "but", "error goes with FAILED only"),
        ("COMPLETED", "", "error goes with FAILED only"),
    ],
)
async def test_a_callback_that_makes_no_sense_is_refused_before_anything_is_sent(
    mocked, session, status, error, message
):
    with pytest.raises(ks.ConfigurationError, match=message):
        await ks.send_workflow_run_callback(session, RUN_ID, status, error=error)
    assert mocked.sent == []


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("", ""),
        ("x" * 8_192, "x" * 8_192),
        ("x" * 8_193, "x" * 8_191 + "…"),
        ("é\U0001f600" * 10_000, "é\U0001f600" * 4_095 + "é…"),
        ("half \ud800 a \udfff character", "half ? a ? character"),
        ("\x00\n", "\x00\n"),
    ],
)
async def test_an_error_is_cut_to_its_length_and_never_refused(mocked, session, given, sent):
    mocked.post(ANY, payload={"status": "ok"})
    await ks.send_workflow_run_callback(session, RUN_ID, "FAILED", error=given)
    body = json.loads(mocked.sent[0].body)
    assert body == {"status": "FAILED", "error": sent}
    assert len(body["error"]) <= CALLBACK_ERROR_LENGTH == 8_192


async def test_a_callback_may_have_a_credential_of_its_own(mocked, session):
    mocked.post(ANY, payload={"status": "ok"}, repeat=True)
    await ks.send_workflow_run_callback(session, RUN_ID, "COMPLETED", token="run-token")
    await ks.send_workflow_run_callback(session, RUN_ID, "COMPLETED")
    assert [sent.headers["Authorization"] for sent in mocked.sent] == [
        "Bearer run-token",
        "Bearer sk-user-1",
    ]


@pytest.mark.parametrize("token", ["", "a b", "a\n", 7])
async def test_a_token_that_no_header_takes_is_refused_before_anything_is_sent(
    mocked, session, token
):
    with pytest.raises(ks.ConfigurationError, match=r"^token must be"):
        await ks.send_workflow_run_callback(session, RUN_ID, "COMPLETED", token=token)
    assert mocked.sent == []


# Cancelling what may be over


async def test_a_checked_cancel_reads_first(mocked, session):
    mocked.get(ANY, payload=STATUS)
    mocked.delete(ANY, payload=CANCELLED)
    done = await ks.cancel_workflow(session, "ingest-01J", check=True)
    assert done.message == "cancelled"
    assert [sent.method for sent in mocked.sent] == ["GET", "DELETE"]
    assert mocked.sent[0].url == mocked.sent[1].url


async def test_what_is_over_is_not_cancelled(mocked, session):
    over = {**STATUS, "execution_status": "COMPLETED", "close_time": "2026-05-01T11:00:00Z"}
    mocked.get(ANY, payload=over)
    with pytest.raises(ks.AlreadyFinished, match="the workflow is over: COMPLETED") as caught:
        await ks.cancel_workflow(session, "ingest-01J", check=True)
    assert [sent.method for sent in mocked.sent] == ["GET"]
    assert caught.value.last.raw == over
    assert (caught.value.method, caught.value.path) == ("DELETE", "/v1/workflows/ingest-01J")


# What was accepted, though it can't be read


@pytest.mark.parametrize("body", ["", "ok", "{", '{"workflow_id": 7}'])
async def test_a_rerun_that_was_accepted_is_accepted_though_it_cant_be_read(mocked, session, body):
    mocked.post(ANY, body=body)
    done = await ks.rerun_ingestion_workflow(session, "w-1")
    assert done == ks.WorkflowActionResponse("w-1")
    assert len(mocked.sent) == 1


@pytest.mark.parametrize("body", ["<html>ok</html>", " \n<!doctype html><title>Log in</title>"])
async def test_another_servers_page_is_no_rerun(mocked, session, body):
    mocked.post(ANY, body=body)
    with pytest.raises(ks.OutcomeUnknown, match="another server's page") as caught:
        await ks.rerun_ingestion_workflow(session, "w-1")
    assert (caught.value.tries, caught.value.safe_to_retry) == (1, False)
    assert len(mocked.sent) == 1


async def test_a_cancel_and_a_callback_that_were_accepted_are_accepted(mocked, session):
    mocked.delete(ANY, body="")
    mocked.post(ANY, body="ok")
    assert await ks.cancel_workflow(session, "w-1") == ks.WorkflowCancelResponse("w-1")
    done = await ks.send_workflow_run_callback(session, RUN_ID, "COMPLETED")
    assert done == ks.WorkflowCallbackResponse()


# Options


async def test_a_prefix_in_the_base_url_is_kept(mocked):
    mocked.get(ANY, payload=RUN)
    async with open_session(base_url=f"{HOST}/ks/eu/") as session:
        await ks.get_workflow_run(session, RUN_ID)
    assert mocked.sent[0].url == f"{HOST}/ks/eu/v1/workflow-runs/{RUN_ID}"


async def test_a_view_has_headers_and_a_key_of_its_own(mocked):
    mocked.get(ANY, payload=RUN, repeat=True)
    async with open_session(headers={"X-Tenant": "a", "X-Other": "b"}) as session:
        view = session.with_options(headers={"x-tenant": "c"}, api_key="sk-user-2")
        await ks.get_workflow_run(view, RUN_ID)
        await ks.get_workflow_run(session, RUN_ID)
    assert [sent.headers for sent in mocked.sent] == [
        {**HEADERS, "x-tenant": "c", "X-Other": "b", "Authorization": "Bearer sk-user-2"},
        {**HEADERS, "X-Tenant": "a", "X-Other": "b"},
    ]


@pytest.mark.parametrize("is_coroutine", [True, False])
async def test_a_key_that_is_a_function_is_asked_for_each_request(mocked, is_coroutine):
    keys = iter(["k-1", "k-2", "k-3"])

    async def later():
        return next(keys)

    mocked.get(ANY, payload=RUN, repeat=True)
    async with open_session(key=later if is_coroutine else lambda: next(keys)) as session:
        for _ in range(3):
            await ks.get_workflow_run(session, RUN_ID)
    assert [sent.headers["Authorization"] for sent in mocked.sent] == [
        "Bearer k-1",
        "Bearer k-2",
        "Bearer k-3",
    ]


async def test_a_function_that_gives_no_key_sends_nothing(mocked):
    async with open_session(key=lambda: "") as session:
        with pytest.raises(ks.ConfigurationError, match="api_key or token gave"):
            await ks.get_workflow_run(session, RUN_ID)
        assert session.stats.in_flight == 0
    assert mocked.sent == []


# The way out


@pytest.mark.parametrize(
    ("method", "body", "query"),
    [
        ("get", None, {"a": "x&y", "n": 1, "f": 0.5, "b": True}),
        ("POST", {"k": ["é"]}, None),
        ("PATCH", [], {}),
    ],
)
async def test_a_request_of_the_users_own_goes_out_under_the_same_rules(
    mocked, session, method, body, query
):
    mocked.add(ANY, method.upper(), payload={"ok": True}, headers={"X-Here": "1"})
    found = await session.request(method, "/v2/things/a%20b", params=query, json=body)
    [sent] = mocked.sent
    assert sent.method == method.upper()
    expected = "?a=x%26y&n=1&f=0.5&b=true" if query else ""
    assert sent.url == f"{HOST}/v2/things/a%20b{expected}"
    assert (None if sent.body is None else json.loads(sent.body)) == body
    assert sent.headers["Authorization"] == "Bearer sk-user-1"
    assert (found.status, found.json, found.headers["X-Here"]) == (200, {"ok": True}, "1")


async def test_callbacks_go_first_then_cancels_and_polls_and_sweeps_last(sandbox, monkeypatch):
    seen: dict[str, set[str]] = {}
    async with sandbox.session() as session:
        original = session.execute

        def execute(call):
            seen.setdefault(call.priority.name, set()).add(call.target(session.capabilities).path)
            return original(call)

        monkeypatch.setattr(ks.Session, "execute", lambda _session, call: execute(call))
        run, (busy, *_) = run_id_of(sandbox), ids_of(sandbox, "processing")
        done = ids_of(sandbox, "completed")[0]
        await ks.send_workflow_run_callback(session, run, "COMPLETED")
        await ks.cancel_workflow(session, busy)
        await ks.get_workflow_run(session, run)
        await anext(aiter(ks.poll_workflow_statuses(session, [busy])))
        await ks.wait_for_ingestion(session, done)
        async with ks.watch_ingestions(session) as watch:
            await anext(watch)
    lists = "/v1/workflows/document_versions"
    assert seen == {
        "OUTCOME": {f"/v1/workflow-runs/{run}/callback"},
        "URGENT": {f"/v1/workflows/{busy}"},
        "NORMAL": {f"/v1/workflow-runs/{run}"},
        "BACKGROUND": {f"/v1/workflows/{busy}", f"{lists}/{done}", lists},
    }
