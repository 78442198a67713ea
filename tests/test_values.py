"""What users give means its value, or is refused; what they get hashes, compares and reads the same."""

from __future__ import annotations

import copy
import json
import pickle
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from http import HTTPMethod
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
import pytest
from test_secrets import shown
from wire_examples import (
    CURRENT_DETAIL,
    CURRENT_RUN,
    CURRENT_STATUS,
    CURRENT_SUMMARY,
    DETAIL,
    NUMBERED,
    OFFSET,
    RUN,
    SNAPSHOT,
    STATUS,
    SUMMARY,
)

import knowledgestack_async as ks
from knowledgestack_async import _codec
from knowledgestack_async._codec import DecodeError, decode_model, decode_summary_page
from knowledgestack_async.models import WorkflowRunSnapshot
from knowledgestack_async.sandbox import Fault, Sandbox
from support import KEY, FakeClock, answering, http, ids_of, raw_server, run_id_of

USER = "8d5a8dd2-6ac7-4b9c-9d0f-6a3a5a3f1a10"


@pytest.fixture
def takes_all(sandbox):
    """A server that has every route."""
    sandbox.faults.add(Fault("status", status=200, body={}))


# Texts of other types


class Lying(str):
    """A text that shows itself as another one, as a masked or a translated one does."""

    __slots__ = ()

    def __str__(self) -> str:
        return "shown, not meant"

    def __repr__(self) -> str:
        return "Lying()"

    def __format__(self, spec: str) -> str:
        return "shown, not meant"


def str_enum(text):
    """A member as the official client's own PipelineStatus has them."""
    return Enum("Word", {"MEMBER": text}, type=str).MEMBER


def open_str_enum(text):
    return StrEnum("Word", {"MEMBER": text}).MEMBER


class Shown(str, Enum):  # noqa: UP042 - it's this sort that is tried
    """A base for members that are shown in a way of their own."""

    def __str__(self) -> str:
        return f"«{self.name}»"


def shown_enum(text):
    return Shown("Word", {"MEMBER": text}).MEMBER


def plain_subclass(text):
    return type("Text", (str,), {})(text)


KINDS = {
    "(str, Enum)": str_enum,
    "(str, Enum) with a __str__": shown_enum,
    "StrEnum": open_str_enum,
    "a subclass": plain_subclass,
    "a subclass with another __str__": Lying,
}
of_every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
in_every_dialect = pytest.mark.parametrize("dialect", ["documented", "offset", "system-jobs"])


@of_every_kind
@in_every_dialect
async def test_a_status_filter_means_its_value(kind, dialect):
    statuses = {"failed": 0.4, "pending": 0.2, "completed": 0.4}
    box = Sandbox(ingestions=50, statuses=statuses, superseded=0, dialect=dialect, api_key=KEY)
    async with box as sandbox:
        async with sandbox.session(dialect=dialect) as session:

            async def walk(status):
                found = await ks.iter_ingestion_workflows(session, status=status)
                return Counter(str(item.status) for item in found)

            assert await walk(kind("failed")) == {"failed": 20}
            assert await walk([kind("failed")]) == {"failed": 20}
            assert await walk({kind("failed"), "pending"}) == {"failed": 20, "pending": 10}
            assert await walk((kind("failed"), ks.IngestionStatus.PENDING)) == {
                "failed": 20,
                "pending": 10,
            }
            assert await walk(word for word in (kind("pending"),)) == {"pending": 10}


async def test_a_whole_enum_filters_by_each_of_its_values(sandbox, session):
    class Word(str, Enum):  # noqa: UP042
        FAILED = "failed"
        GONE = "cancelled"

    found = await ks.iter_ingestion_workflows(session, status=Word)
    assert {str(item.status) for item in found} == {"failed", "cancelled"}


@pytest.mark.parametrize(
    "wrong",
    [
        Enum("Plain", {"FAILED": "failed"}).FAILED,
        IntEnum("Number", {"ONE": 1}).ONE,
        [1],
        [b"failed"],
        ["failed", None],
        {"failed": 1, 2: 3},
    ],
    ids=repr,
)
async def test_what_is_no_text_is_no_status(session, sandbox, wrong):
    with pytest.raises(ks.ConfigurationError, match="status"):
        ks.iter_ingestion_workflows(session, status=wrong)


@of_every_kind
@pytest.mark.parametrize("name", ["name_like", "uploader_user_id"])
async def test_a_texts_filter_means_its_value(kind, name):
    async with Sandbox(dialect="system-jobs", api_key=KEY) as sandbox:
        async with sandbox.session(dialect="system-jobs") as session:
            await ks.iter_ingestion_workflows(session, limit=1, **{name: kind(USER)})
        assert dict(sandbox.requests[0].query)[name] == USER


async def test_an_uploader_may_be_a_uuid():
    async with Sandbox(dialect="system-jobs", api_key=KEY) as sandbox:
        async with sandbox.session(dialect="system-jobs") as session:
            await ks.iter_ingestion_workflows(session, limit=1, uploader_user_id=UUID(USER))
        assert dict(sandbox.requests[0].query)["uploader_user_id"] == USER


@of_every_kind
@pytest.mark.parametrize("status", ["COMPLETED", "FAILED"])
async def test_a_callbacks_status_means_its_value(sandbox, session, kind, status):
    await ks.send_workflow_run_callback(session, run_id_of(sandbox), kind(status))
    assert json.loads(sandbox.requests[0].body) == {"status": status}


@of_every_kind
async def test_a_callbacks_error_means_its_value(sandbox, session, kind):
    run = run_id_of(sandbox)
    await ks.send_workflow_run_callback(session, run, "FAILED", error=kind("é: no good"))
    assert json.loads(sandbox.requests[0].body)["error"] == "é: no good"


@of_every_kind
async def test_the_reason_of_a_failure_means_its_value(sandbox, session, kind):
    async with ks.report_outcome(session, run_id_of(sandbox)) as outcome:
        outcome.fail(kind("no good"))
    assert json.loads(sandbox.requests[0].body) == {"status": "FAILED", "error": "no good"}


@of_every_kind
async def test_what_is_to_be_hidden_means_its_value(sandbox, session, kind):
    run, secret = run_id_of(sandbox), kind("whsec-canary-1")
    async with ks.report_outcome(session, run, hide=[secret]) as outcome:
        outcome.fail("the secret is whsec-canary-1, and that is that")
    assert "whsec-canary-1" not in sandbox.requests[0].body.decode()
    assert "that is that" in sandbox.requests[0].body.decode()


@of_every_kind
async def test_params_mean_their_values(sandbox, session, kind):
    params = {"status": kind("failed"), kind("name"): kind("x&y")}
    await session.request("GET", "/v1/workflows/document_versions", params=params)
    assert sandbox.requests[0].query == (("status", "failed"), ("name", "x&y"))


class Number(int, Enum):
    """Numbers of the kind that show themselves by name."""

    TEN = 10


class Share(float, Enum):
    """The same of fractions."""

    HALF = 0.5


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (IntEnum("Number", {"TEN": 10}).TEN, "10"),
        (Number.TEN, "10"),
        (Share.HALF, "0.5"),
        (True, "true"),
        (7, "7"),
        (2.5, "2.5"),
        (type("Count", (int,), {"__str__": lambda _: "lies"})(7), "7"),
    ],
    ids=repr,
)
async def test_numbers_of_every_kind_mean_their_values_in_params(sandbox, session, value, text):
    await session.request("GET", "/v1/workflows/document_versions", params={"n": value})
    assert sandbox.requests[0].query == (("n", text),)


async def test_a_uuid_in_params_is_its_text_or_refused(sandbox, session):
    try:
        await session.request("GET", "/v1/workflows/document_versions", params={"u": UUID(USER)})
    except ks.ConfigurationError:
        assert sandbox.requests == []
    else:
        assert sandbox.requests[0].query == (("u", USER),)


@of_every_kind
@pytest.mark.parametrize("method", ["GET", "get"])
async def test_a_method_and_a_path_mean_their_values(sandbox, session, kind, method):
    await session.request(kind(method), kind("/v1/workflows/document_versions"))
    assert sandbox.requests[0].method == "GET"
    assert sandbox.requests[0].path == "/v1/workflows/document_versions"


async def test_a_method_may_be_pythons_own(sandbox, session):
    await session.request(HTTPMethod.GET, "/v1/workflows/document_versions")
    assert sandbox.requests[0].method == "GET"


@of_every_kind
async def test_what_is_in_a_body_means_its_value(sandbox, session, takes_all, kind):
    body = {kind("status"): [kind("FAILED")], "n": {"deep": kind("é")}}
    await session.request("POST", "/v1/x", json=body, idempotent=False)
    assert json.loads(sandbox.requests[0].body) == {"status": ["FAILED"], "n": {"deep": "é"}}


BY_ID = {
    "get_ingestion_workflow": ks.get_ingestion_workflow,
    "get_workflow_status": ks.get_workflow_status,
    "rerun_ingestion_workflow": ks.rerun_ingestion_workflow,
    "cancel_workflow": ks.cancel_workflow,
    "wait_for_ingestion": ks.wait_for_ingestion,
}


@of_every_kind
@pytest.mark.parametrize("call", BY_ID)
async def test_an_id_means_its_value(sandbox, session, kind, call):
    status = {"cancel_workflow": "processing", "wait_for_ingestion": "completed"}
    id_ = ids_of(sandbox, status.get(call, "failed"))[0]
    done = await BY_ID[call](session, kind(id_))
    assert done.workflow_id == id_
    assert {request.id for request in sandbox.requests} <= {id_, None}


@of_every_kind
async def test_an_id_of_a_run_means_its_value(sandbox, session, kind):
    run = run_id_of(sandbox)
    assert (await ks.get_workflow_run(session, kind(run))).id == run
    async with ks.report_outcome(session, kind(run)) as outcome:
        pass
    assert str(outcome.run_id) == run
    await ks.delete_workflow_run(session, kind(run))
    assert {request.id for request in sandbox.requests} == {run}


@of_every_kind
async def test_the_ids_of_a_poll_and_of_a_watch_mean_their_values(sandbox, session, kind):
    ids = ids_of(sandbox, "completed")[:3]
    given = [kind(id_) for id_ in ids]
    polled = [result async for result in ks.poll_workflow_statuses(session, given)]
    assert {str(result.workflow_id) for result in polled} == set(ids)
    assert all(result.status is not None for result in polled)
    async with ks.watch_ingestions(session, given) as watch:
        told = [change async for change in watch]
    assert {str(change.workflow_id) for change in told} == set(ids)


@of_every_kind
async def test_the_ids_of_a_job_mean_their_values(kind, tmp_path):
    box = Sandbox(ingestions=4, statuses={"failed": 1.0}, superseded=0, api_key=KEY)
    async with box as sandbox, sandbox.session() as session:
        ids = ids_of(sandbox, "failed")
        given = [kind(id_) for id_ in ids]
        async with ks.rerun_ingestions(session, given, journal=tmp_path / "j") as job:
            told = [outcome async for outcome in job]
        assert job.report.counts == {"accepted": 4}
        assert {str(outcome.workflow_id) for outcome in told} == set(ids)
        assert {effect.id for effect in sandbox.effects} == set(ids)


@of_every_kind
async def test_the_settings_of_a_session_mean_their_values(kind):
    async with Sandbox(dialect="system-jobs", api_key=KEY) as sandbox:
        options = {
            "dialect": kind("system-jobs"),
            "headers": {kind("X-Team"): kind("blue"), "X-Two": kind("2")},
        }
        async with ks.Session(kind(KEY), kind(sandbox.base_url), **options) as session:
            await ks.list_ingestion_workflows(session)
            view = session.with_options(headers={"X-Two": kind("3")}, api_key=kind(KEY))
            await ks.list_ingestion_workflows(view)
        assert str(session.base_url) == sandbox.base_url
        assert session.dialect == "system-jobs"
        first, second = (request.headers for request in sandbox.requests)
    assert (first["Authorization"], first["X-Team"], first["X-Two"]) == (
        f"Bearer {KEY}",
        "blue",
        "2",
    )
    assert (second["Authorization"], second["X-Two"]) == (f"Bearer {KEY}", "3")


@of_every_kind
async def test_a_key_or_token_from_a_function_means_its_value(sandbox, kind):
    async with ks.Session(lambda: kind(KEY), sandbox.base_url) as session:
        await ks.list_ingestion_workflows(session)
        run = run_id_of(sandbox)
        token = sandbox.run_token(run)
        await ks.send_workflow_run_callback(session, run, "COMPLETED", token=kind(token))
    assert [request.headers["Authorization"] for request in sandbox.requests] == [
        f"Bearer {KEY}",
        f"Bearer {token}",
    ]


@of_every_kind
async def test_a_proxy_means_its_value(kind):
    page = http(json.dumps({"items": [], **NUMBERED, "total": 0}).encode())
    async with raw_server(answering(page)) as proxy:
        options = {"proxy": kind(proxy.base_url), "dialect": "documented", "clock": FakeClock()}
        async with ks.Session(KEY, "http://127.0.0.1:9", **options) as session:
            assert (await ks.list_ingestion_workflows(session)).total == 0


# What JSON has no word for

NAN, INF = float("nan"), float("inf")
NO_JSON = {
    "nan": NAN,
    "inf": INF,
    "-inf": -INF,
    "Decimal": Decimal("1.10"),
    "Decimal nan": Decimal("nan"),
    "Fraction": Fraction(1, 3),
    "bytes": b"bytes",
    "bytearray": bytearray(b"bytes"),
    "memoryview": memoryview(b"bytes"),
    "an object": object(),
    "a complex number": 1j,
}
PLACES = {
    "alone": lambda value: value,
    "in an object": lambda value: {"x": value},
    "deep": lambda value: {"x": [{"y": (1, [value])}]},
    "in a tuple": lambda value: (1, value),
    "in a Struct": msgspec.defstruct("Body", [("x", object)]),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", NO_JSON)
async def test_what_json_has_no_word_for_is_refused_before_anything_is_sent(
    sandbox, session, takes_all, value, place
):
    with pytest.raises(ks.ConfigurationError, match="json"):
        await session.request("POST", "/v1/x", json=PLACES[place](NO_JSON[value]))
    assert sandbox.requests == []


@pytest.mark.parametrize("key", [NAN, INF, b"x", Decimal(1)], ids=repr)
async def test_nor_may_it_be_the_name_of_a_field(sandbox, session, takes_all, key):
    with pytest.raises(ks.ConfigurationError, match="json"):
        await session.request("POST", "/v1/x", json={key: 1})
    assert sandbox.requests == []


@pytest.mark.parametrize("value", [NAN, INF, -INF], ids=repr)
async def test_a_number_that_is_none_is_no_value_of_a_query(sandbox, session, takes_all, value):
    with pytest.raises(ks.ConfigurationError, match="params"):
        await session.request("GET", "/v1/x", params={"x": value})
    assert sandbox.requests == []


async def test_what_json_has_a_word_for_is_sent_as_it_is(sandbox, session, takes_all):
    body = {
        "text": "é\U0001f600",
        "numbers": [0, -1, 1.5, 1e300, 2**63, 10**30],
        "none": None,
        "truth": [True, False],
        "nested": {"a": {"b": [[], {}]}},
        "tuple": (1, 2),
        "the word": "NaN Infinity",
    }
    await session.request("POST", "/v1/x", json=body)
    assert json.loads(sandbox.requests[0].body) == body | {"tuple": [1, 2]}


# Models


def read(wire, model):
    return decode_model(json.dumps(wire).encode(), model)


def read_page(wire):
    return decode_summary_page(json.dumps(wire).encode())


LATER_SNAPSHOT = {
    "workflow_name": "Weekly report",
    "max_run_duration_seconds": 60,
    "instruction": {"text": "do it", "parts": [1, {"a": [None]}]},
    "inputs": [{"id": "i-1", "assets": [{"id": "a", "size": 1.5}]}, {"id": "i-2", "assets": []}],
    "user_message": "please",
}
FULL_RUN = {**CURRENT_RUN, "run_snapshot": LATER_SNAPSHOT}
MODELS = {
    "run": lambda: read(RUN, ks.WorkflowRunResponse),
    "later run": lambda: read(CURRENT_RUN, ks.WorkflowRunResponse),
    "later run with inputs": lambda: read(FULL_RUN, ks.WorkflowRunResponse),
    "snapshot": lambda: read(SNAPSHOT, WorkflowRunSnapshot),
    "later snapshot": lambda: read(LATER_SNAPSHOT, WorkflowRunSnapshot),
    "path": lambda: read(SNAPSHOT["sources"][0], ks.PathSnapshot),
    "summary": lambda: read(SUMMARY, ks.WorkflowSummaryResponse),
    "later summary": lambda: read(CURRENT_SUMMARY, ks.WorkflowSummaryResponse),
    "detail": lambda: read(DETAIL, ks.WorkflowDetailResponse),
    "later detail": lambda: read(CURRENT_DETAIL, ks.WorkflowDetailResponse),
    "status": lambda: read(STATUS, ks.WorkflowStatusResponse),
    "later status": lambda: read(CURRENT_STATUS, ks.WorkflowStatusResponse),
    "callback": lambda: read({"status": "ok"}, ks.WorkflowCallbackResponse),
    "action": lambda: read({"workflow_id": "w", "action": "a"}, ks.WorkflowActionResponse),
    "cancel": lambda: read({"workflow_id": "w", "message": "m"}, ks.WorkflowCancelResponse),
    "user": lambda: read({"user_id": "u", "first_name": "Ada"}, ks.UserInfo),
    "page": lambda: read_page({"items": [SUMMARY, SUMMARY], **NUMBERED}),
    "later page": lambda: read_page({"items": [CURRENT_SUMMARY], **OFFSET}),
    "empty page": lambda: read_page({"items": [], **OFFSET}),
}


@pytest.mark.parametrize("model", MODELS)
def test_a_model_hashes_and_equals_what_was_read_from_the_same(model):
    one, other = MODELS[model](), MODELS[model]()
    assert one == other
    assert hash(one) == hash(other)
    assert {one, other} == {one}
    assert {one: "there"}[other] == "there"
    for again in (pickle.loads(pickle.dumps(one)), copy.copy(one), copy.deepcopy(one)):
        assert again == one
        assert hash(again) == hash(one)
    assert one != "something else"
    assert one != MODELS["user" if model != "user" else "action"]()


def test_what_differs_only_deep_inside_is_not_equal():
    changed = json.loads(json.dumps(FULL_RUN))
    changed["run_snapshot"]["inputs"][0]["assets"][0]["size"] = 2
    one, other = MODELS["later run with inputs"](), read(changed, ks.WorkflowRunResponse)
    assert one != other
    assert len({one, other}) == 2


def test_what_a_run_was_given_is_still_plain_json():
    run = MODELS["later run with inputs"]()
    assert json.loads(json.dumps(run.raw)) == FULL_RUN
    told = json.loads(json.dumps(run.to_dict()))
    assert told["run_snapshot"]["inputs"] == LATER_SNAPSHOT["inputs"]
    assert told["run_snapshot"]["instruction"] == LATER_SNAPSHOT["instruction"]
    assert run.run_snapshot.inputs[0]["assets"][0]["size"] == 1.5


@in_every_dialect
async def test_everything_that_a_server_gives_hashes_and_compares(dialect):
    async with Sandbox(dialect=dialect, runs=8, api_key=KEY) as sandbox:
        async with sandbox.session(dialect=dialect) as session:
            page = await ks.list_ingestion_workflows(session)
            again = await ks.list_ingestion_workflows(session)
            assert (page, hash(page)) == (again, hash(again))
            assert set(page.items) == set(again.items)
            for item in page.items[:5]:
                detail = await ks.get_ingestion_workflow(session, item.workflow_id)
                status = await ks.get_workflow_status(session, item.workflow_id)
                assert len({detail, status, item}) == 3
            for run in _runs_of(sandbox):
                found = [await ks.get_workflow_run(session, run.id) for _ in range(2)]
                assert len(set(found)) == 1
            polled = [
                result
                async for result in ks.poll_workflow_statuses(
                    session, [page.items[0].workflow_id, "none"]
                )
            ]
            assert len(set(polled)) == 2


def _runs_of(sandbox):
    words = ("PENDING", "RUNNING", "COMPLETED", "FAILED")
    return [run for run in map(sandbox.store.runs.newest, words) if run is not None]


# Times


MOMENTS = [
    "2026-05-01T10:00:00.123456789",
    "2026-05-01T10:00:00.1234565",
    "2026-05-01T10:00:00.1234575",
    "2026-05-01T10:00:00.9999995",
    "2026-05-01T23:59:59.9999999",
    "2026-12-31T23:59:59.99999951",
    "2026-05-01T10:00:00.1234564999",
    "2026-05-01T10:00:00.12",
    "2026-05-01T10:00:00",
    "2026-05-01 10:00:00.1234567",
    "2026-05-01T10:00:00.123456499999999999",
]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("zone", ["Z", "+00:00", "-00:00"])
def test_a_time_rounds_the_same_with_and_without_its_zone(moment, zone):
    def all_of(text):
        summary = {**SUMMARY, "created_at": text, "last_run_timestamp": text}
        return [
            read_page({"items": [summary], **NUMBERED}).items[0].created_at,
            read(summary, ks.WorkflowSummaryResponse).last_run_timestamp,
            read({**DETAIL, "start_time": text}, ks.WorkflowDetailResponse).start_time,
            read({**STATUS, "start_time": text}, ks.WorkflowStatusResponse).start_time,
            read({**RUN, "updated_at": text}, ks.WorkflowRunResponse).updated_at,
        ]

    moments = all_of(moment) + all_of(moment + zone)
    assert len(set(moments)) == 1
    assert all(one.utcoffset() == timedelta(0) for one in moments)


async def test_over_a_socket_a_time_rounds_the_same_with_and_without_its_zone():
    bodies = [
        json.dumps({**STATUS, "start_time": "2026-05-01T10:00:00.123456789" + zone}).encode()
        for zone in ("", "Z")
    ]
    async with raw_server(answering(*map(http, bodies))) as server:
        async with ks.Session(KEY, server.base_url, dialect="documented") as session:
            one = await ks.get_workflow_status(session, "ingest-01J")
            other = await ks.get_workflow_status(session, "ingest-01J")
    assert one == other
    assert one.start_time == datetime(2026, 5, 1, 10, 0, 0, 123457, UTC)


# One field by two names

WITH_ZONE, WITHOUT = "2026-05-01T10:00:01Z", "2026-05-01T10:00:01"
BOTH_NAMES = [
    {"execution_status": None, "temporal_status": "RUNNING"},
    {"temporal_status": "RUNNING", "execution_status": None},
    {"execution_status": "RUNNING", "temporal_status": None},
    {"execution_status": "RUNNING", "temporal_status": "FAILED"},
    {"execution_status": "RUNNING"},
    {"temporal_status": "RUNNING"},
]


@pytest.mark.parametrize("names", BOTH_NAMES, ids=str)
@pytest.mark.parametrize("model", ["status", "detail"])
def test_a_status_by_two_names_is_read_the_same_whatever_its_times_are_like(names, model):
    kind = ks.WorkflowStatusResponse if model == "status" else ks.WorkflowDetailResponse
    base = STATUS if model == "status" else DETAIL
    wire = {k: v for k, v in base.items() if k != "execution_status"} | names
    fast = read({**wire, "start_time": WITH_ZONE}, kind)
    slow = read({**wire, "start_time": WITHOUT}, kind)
    assert fast == slow
    assert fast.execution_status == "RUNNING"


@pytest.mark.parametrize("model", ["status", "detail"])
@pytest.mark.parametrize(
    "names", [{}, {"execution_status": None}, {"execution_status": None, "temporal_status": None}]
)
def test_a_status_that_is_missing_by_both_names_is_an_error_in_both_ways(names, model):
    kind = ks.WorkflowStatusResponse if model == "status" else ks.WorkflowDetailResponse
    base = STATUS if model == "status" else DETAIL
    wire = {k: v for k, v in base.items() if k != "execution_status"} | names
    for moment in (WITH_ZONE, WITHOUT):
        with pytest.raises(DecodeError):
            read({**wire, "start_time": moment}, kind)


def test_a_run_that_has_both_names_is_read_by_the_one_that_says_something():
    wire = {**CURRENT_RUN, "status": None, "user_id": None}
    run = read(wire, ks.WorkflowRunResponse)
    assert (run.status, run.user_id) == ("RUNNING", "u-1")


# Times at the ends of the calendar

FIRST = ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00", "0001-01-01T00:00:00+05:00"]
LAST = [
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59.999999Z",
    "9999-12-31T23:59:59-05:00",
    "9999-12-31T23:59:59.9999999",
]
NOT_IN_UTC = {FIRST[2], *LAST[2:]}
"""These there are not once they are told in UTC, or rounded."""
FIELDS = ["created_at", "last_run_timestamp", "last_state_update_timestamp"]


@pytest.fixture(params=["documented", "offset", "system-jobs"])
async def odd_box(request):
    box = Sandbox(
        ingestions=30,
        statuses={"completed": 0.5, "failed": 0.5},
        superseded=0,
        dialect=request.param,
        api_key=KEY,
    )
    async with box as running:
        yield running


def rewrite(box, field, moment, *, only_first):
    """Let the items of every answer have that time."""

    def change(_request, payload):
        items = payload.get("items", [payload]) if isinstance(payload, dict) else []
        for item in items[: 1 if only_first else None]:
            if field in item:
                item[field] = moment
        return payload

    box.rewrite_answer = change


@pytest.mark.no_cover
@pytest.mark.parametrize("only_first", [True, False], ids=["one", "all"])
@pytest.mark.parametrize("moment", FIRST + LAST)
async def test_a_walk_gets_over_times_at_the_ends_of_the_calendar(odd_box, moment, only_first):
    for field in FIELDS:
        rewrite(odd_box, field, moment, only_first=only_first)
        async with odd_box.session(clock=FakeClock(), dialect=odd_box.dialect) as session:
            try:
                found = await ks.iter_ingestion_workflows(session, page_size=10)
                # Where the server filters by a time that it doesn't show, what it gives is its own.
                if (field, odd_box.dialect) != ("created_at", "system-jobs"):
                    assert len({item.workflow_id for item in found}) == 30
                after = datetime(2000, 1, 1, tzinfo=UTC)
                await ks.iter_ingestion_workflows(
                    session, page_size=10, created_after=after, updated_before=after
                )
            except ks.InvalidResponse as error:
                assert moment in NOT_IN_UTC
                assert field in str(error)


@pytest.mark.parametrize(
    ("moment", "only_first"),
    [(moment, place % 2 == 0) for place, moment in enumerate(FIRST + LAST)],
)
async def test_a_watch_gets_over_times_at_the_ends_of_the_calendar(odd_box, moment, only_first):
    for field in FIELDS:
        rewrite(odd_box, field, moment, only_first=only_first)
        ids = odd_box.store.ids()
        async with odd_box.session(clock=FakeClock(), dialect=odd_box.dialect) as session:
            async with ks.watch_ingestions(session, ids, deadline=600) as watch:
                ends = {change.workflow_id async for change in watch if change.is_final}
            assert len(ends) >= 29
            seen = set()
            async with ks.watch_ingestions(session, deadline=60) as watch:
                async for change in watch:
                    seen.add(change.workflow_id)
            assert len(seen - {""}) >= 29
            await ks.wait_for_ingestion(session, ids[0])


# Where the server is


@pytest.mark.parametrize(
    "url",
    [
        "http://evil.com\\.localhost",
        "http://[::1]evil.com",
        "http://[::1]evil.com:80",
        "https://[::1]evil.com/x",
        "http://evil.com\\@localhost",
        "https://a\\b",
        "http://[localhost]",
        "https://[::1",
        "https://::1]",
        "https://host:80:80",
        "https://host:x",
        "https://host:-1",
        "https://host:\u0663",
        "https://.",
        "https://..",
        "https://a..b.example",
        "https://.a.example",
        f"https://{'a' * 64}.example",
        f"https://{'ü' * 64}.example",
        f"https://{'a.' * 200}example",
        "https://xn--\u00fc.example",
        "https://a%2fb",
        "https://a%00b",
        "https://a<b>",
        "https://a|b",
        "https://a^b",
        "https://a`b",
        'https://a"b',
        "https://a{b}",
        "https://a,b;c",
        "https://\u2100.example",
        "https://\uff0e\uff0e",
        "https://[v1.x]",
        "https://[fe80::1%eth0]",
        "https://[fe80::1%25eth0]",
        "http://127.0.0.1\u3002example.com",
        "https://host/%zz",
        "https://host/%",
        "https:///x",
        "https:host",
        "https://\u00ad",
    ],
)
async def test_a_base_url_is_refused_as_a_setting_or_can_be_opened(url):
    """None of them is asked anything: a name of a host would be looked up."""
    try:
        session = ks.Session(KEY, url, timeout=0.1)
    except ks.ConfigurationError as error:
        assert "base_url" in str(error)
        return
    async with session:
        pass
    parts = urlsplit(str(session.base_url))
    assert parts.hostname
    assert "\\" not in url
    assert "]evil" not in url


@pytest.mark.parametrize(
    "url", ["http://evil.com\\.localhost", "http://[::1]evil.com", "https://a\\b"]
)
async def test_a_base_url_whose_host_can_be_read_in_two_ways_is_refused(url):
    with pytest.raises(ks.ConfigurationError, match="base_url"):
        ks.Session(KEY, url)


MISTAKEN = [
    "sk-user-canary-7f3a9",
    "ks_live_4fcanary9a8b7c6d5e4f3a2b1c0d9e8f",
    "Bearer sk-user-canary-7f3a9",
    "sk-user-canary-7f3a9/",
    " sk-user-canary-7f3a9",
    f"eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJjYW5hcnkifQ{'x' * 80}.SflKxwRJSMeKKF2QT4fwp",
]


@pytest.mark.parametrize("key", MISTAKEN)
def test_a_key_that_is_given_in_place_of_the_base_url_is_not_shown(key, monkeypatch):
    word = max(key.replace("Bearer", "").split(), key=len).strip("/")
    with pytest.raises(ks.ConfigurationError, match="base_url") as caught:
        ks.Session("https://api.example.com", key)
    assert word not in f"{caught.value} {caught.value!r} {caught.value.args}"
    monkeypatch.setenv("KS_BASE_URL", key)
    with pytest.raises(ks.ConfigurationError, match="base_url") as caught:
        ks.Session("sk-user-other-one")
    assert word not in f"{caught.value} {caught.value!r} {caught.value.args}"


@pytest.mark.parametrize("key", MISTAKEN)
def test_nor_do_the_frames_of_the_error_show_it(key):
    word = max(key.replace("Bearer", "").split(), key=len).strip("/")
    with pytest.raises(ks.ConfigurationError) as caught:
        ks.Session("https://api.example.com", key)
    assert word not in shown(caught.value)


HOSTS = [
    ("http://b\u00fccher.example", b"xn--bcher-kva.example", b"/"),
    ("http://B\u00dcCHER.example", b"xn--bcher-kva.example", b"/"),
    ("http://xn--bcher-kva.example", b"xn--bcher-kva.example", b"/"),
    ("http://\u4f8b\u3048.jp:8080", b"xn--r8jz45g.jp:8080", b"/"),
    ("http://ks.example/pr\u00e4fix", b"ks.example", b"/pr%C3%A4fix/"),
    ("http://ks.example/pr%C3%A4fix/", b"ks.example", b"/pr%C3%A4fix/"),
    ("http://ks.example/a%20b/\U0001f600", b"ks.example", b"/a%20b/%F0%9F%98%80/"),
    ("http://b\u00fccher.example/pr\u00e4fix", b"xn--bcher-kva.example", b"/pr%C3%A4fix/"),
]


@pytest.mark.parametrize(("url", "host", "prefix"), HOSTS)
async def test_hosts_and_prefixes_beyond_ascii_go_out_as_ascii(url, host, prefix):
    page = http(json.dumps({"items": [], **NUMBERED, "total": 0}).encode())
    async with raw_server(answering(page)) as proxy:
        options = {"proxy": proxy.base_url, "allow_plain_http": True, "dialect": "documented"}
        async with ks.Session(KEY, url, **options) as session:
            await ks.list_ingestion_workflows(session)
    head = proxy.heads[0]
    assert head.isascii()
    assert head.lower().startswith(b"get http://" + host + prefix.lower() + b"v1/workflows/")
    assert b"\r\nhost: " + host + b"\r\n" in head.lower()


async def test_a_host_beyond_ascii_is_asked_for_by_its_ascii_name_over_tls_too():
    async with raw_server(answering(http(b"", status="403 No"))) as proxy:
        options = {"proxy": proxy.base_url, "retry": ks.RetryPolicy(tries=1)}
        async with ks.Session(KEY, "https://b\u00fccher.example", **options) as session:
            with pytest.raises(ks.ConnectionFailed):
                await ks.list_ingestion_workflows(session)
    assert proxy.heads[0].startswith(b"CONNECT xn--bcher-kva.example:443 ")
    assert proxy.heads[0].isascii()


# A deadline that is taken off


async def test_a_deadline_can_be_taken_off_and_stays_where_nothing_is_said():
    session = ks.Session(KEY, deadline=5)
    assert session.with_options().deadline == 5
    assert session.with_options(timeout=1, headers={"X-A": "b"}).deadline == 5
    assert session.with_options(deadline=2).deadline == 2
    assert session.with_options(deadline=None).deadline is None
    assert session.with_options(deadline=None).with_options(timeout=1).deadline is None
    assert session.with_options(deadline=None).with_options(deadline=3).deadline == 3
    assert session.deadline == 5


async def test_a_call_whose_deadline_was_taken_off_is_tried_for_longer(sandbox):
    sandbox.faults.add(Fault("status", status=503, retry_after=30, times=1))
    clock = FakeClock()
    async with sandbox.session(clock=clock, deadline=5) as session:
        view = session.with_options(deadline=None)
        assert (await ks.list_ingestion_workflows(view)).total == 50
    assert clock.time - 1000 >= 30


async def test_what_else_is_none_stays_as_it_is(sandbox):
    async with sandbox.session(headers={"X-A": "b"}) as session:
        view = session.with_options(timeout=None, headers=None, api_key=None, retry=None)
        await ks.list_ingestion_workflows(view)
    assert sandbox.requests[0].headers["X-A"] == "b"
    assert sandbox.requests[0].headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("name", [None, True, (1, 2), b"a", 1.5])
async def test_a_name_in_a_body_that_is_no_text_is_an_error(sandbox, name):
    async with sandbox.session() as session:
        with pytest.raises((ks.ConfigurationError, TypeError)):
            await session.request("POST", "/v1/x", json={name: 1})
    assert not sandbox.requests


def test_a_name_of_another_kind_is_an_error_of_its_own():
    with pytest.raises(TypeError, match="no text"):
        _codec._as_name(b"a")
