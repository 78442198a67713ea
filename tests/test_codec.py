"""Bytes to models: the fast way and the long one agree, nothing is coerced, and errors say where."""

import json
from datetime import UTC, datetime, timedelta, timezone

import attrs
import cattrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire_examples import (
    CURRENT_DETAIL,
    CURRENT_RUN,
    CURRENT_STATUS,
    CURRENT_SUMMARY,
    DETAIL,
    NUMBERED,
    OFFSET,
    RUN,
    STATUS,
    SUMMARY,
)

import knowledgestack_async as ks
from knowledgestack_async import _codec, _structuring
from knowledgestack_async._codec import (
    DecodeError,
    decode_json,
    decode_model,
    decode_summary_page,
    encode_json,
)

EVERY_MODEL = [
    (ks.WorkflowRunResponse, RUN),
    (ks.WorkflowRunResponse, CURRENT_RUN),
    (ks.WorkflowSummaryResponse, SUMMARY),
    (ks.WorkflowSummaryResponse, CURRENT_SUMMARY),
    (ks.WorkflowDetailResponse, DETAIL),
    (ks.WorkflowDetailResponse, CURRENT_DETAIL),
    (ks.WorkflowStatusResponse, STATUS),
    (ks.WorkflowStatusResponse, CURRENT_STATUS),
    (ks.WorkflowCallbackResponse, {"status": "ok"}),
    (ks.WorkflowActionResponse, {"workflow_id": "w", "action": "rerun", "message": "started"}),
    (ks.WorkflowCancelResponse, {"workflow_id": "w", "message": "cancelled"}),
]


def read(wire, model):
    return decode_model(json.dumps(wire).encode(), model)


def page_of(*items, **envelope):
    return json.dumps({"items": items, **NUMBERED, **envelope}).encode()


def read_the_long_way(body):
    return _codec._structure(decode_json(body), ks.PaginatedResponse[ks.WorkflowSummaryResponse])


def outcome(way, body):
    """What comes of reading: every value, or what is wrong and where."""
    try:
        page = way(body)
    except DecodeError as error:
        return error.reason, error.path
    return page, page.to_dict(), page.raw, [(item.raw, item.extra) for item in page.items]


# Pages as no server should send them, but one day will.

ZONES = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(timezones=st.just(UTC) | st.none() | ZONES)
TIMES = (
    MOMENTS.map(datetime.isoformat)
    | MOMENTS.map(lambda moment: f"{moment:%Y-%m-%d %H:%M:%S}.1234567Z")
    | st.sampled_from(
        [
            "2026-05-01",
            "2026-05-01T10:00:00.123456789Z",
            "2026-05-01T10:00:00.99999951Z",
            "2026-05-01t10:00:00z",
            "20260501T100000Z",
            "2026-05-01T10:00:60Z",
            "2026-05-01T10:00:00+02",
            "yesterday",
            "",
        ]
    )
)
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
STATUSES = st.sampled_from(["pending", "failed", "quota_limit", "brand_new", "", "FAILED"])
RIGHT = {
    "workflow_id": st.text(),
    "document_id": st.uuids().map(str),
    "document_version_id": st.uuids().map(str),
    "status": STATUSES,
    "last_activity": st.none() | st.text(),
    "error": st.none() | st.text(),
    "last_run_timestamp": TIMES,
    "last_state_update_timestamp": st.none() | TIMES,
    "created_at": TIMES,
}
LATER = {
    "document_name": st.none() | st.text(),
    "is_active_version": st.none() | st.booleans(),
    "uploader": st.none()
    | st.fixed_dictionaries({"user_id": st.text()}, optional={"first_name": st.text()}),
    "a_later_field": JSON_VALUES,
}
ITEMS = st.fixed_dictionaries(RIGHT, optional=LATER)


@st.composite
def spoiled_items(draw):
    """An item with one value that may be of any type, or one that is missing."""
    item = draw(ITEMS)
    name = draw(st.sampled_from(sorted(item)))
    if draw(st.booleans()):
        return {**item, name: draw(JSON_VALUES)}
    del item[name]
    return item


def pages(items):
    return st.fixed_dictionaries(
        {"items": st.lists(items, max_size=4), "total": st.integers(0, 2**40)},
        optional={
            "page": st.integers(),
            "page_size": st.none() | st.integers(),
            "limit": JSON_VALUES,
            "offset": st.integers(),
            "a_later_field": JSON_VALUES,
        },
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pages(ITEMS) | pages(ITEMS | spoiled_items()), st.booleans())
def test_the_fast_way_and_the_long_one_read_the_same(page, is_ascii):
    body = json.dumps(page, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
    assert outcome(decode_summary_page, body) == outcome(read_the_long_way, body)


def test_a_good_page_is_read_the_fast_way(monkeypatch):
    monkeypatch.setattr(_codec, "_structure", lambda *_: pytest.fail("the long way"))
    page = decode_summary_page(page_of(SUMMARY, {**CURRENT_SUMMARY, "status": "brand_new"}))
    assert [item.status for item in page.items] == ["failed", "brand_new"]


def test_the_same_time_reads_the_same_in_a_page_and_in_a_detail():
    wire = {**DETAIL, "last_run_timestamp": "2026-05-01T10:00:00.123456789Z"}
    [item] = decode_summary_page(page_of(wire)).items
    assert item.last_run_timestamp == read(wire, ks.WorkflowDetailResponse).last_run_timestamp


def test_a_page_keeps_the_way_back_to_the_wire():
    items = [
        {**SUMMARY, "shard": 1},
        {**CURRENT_SUMMARY, "uploader": {"user_id": "u-1", "badge": 7}},
    ]
    page = decode_summary_page(page_of(*items, next_cursor="c"))
    assert [item.raw for item in page.items] == items
    assert page.items[0].extra == {"shard": 1}
    assert page.items[1].uploader.raw == {"user_id": "u-1", "badge": 7}
    assert page.items[1].uploader.extra == {"badge": 7}
    assert page.raw == {"items": items, **NUMBERED, "next_cursor": "c"}
    assert page.extra == {"next_cursor": "c"}


@pytest.mark.parametrize("number", ["9" * 5_000, "1e999", "-" + "9" * 5_000])
def test_a_number_beyond_all_bounds_in_an_unknown_field_loses_nothing_else(number):
    body = page_of({**SUMMARY, "size": "HERE"}).replace(b'"HERE"', number.encode())
    page = decode_summary_page(body)
    assert page.items[0].raw == {**SUMMARY, "size": float(number)}
    assert page.raw["total"] == 1
    assert type(page.raw["total"]) is int


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "truncated"),
        (b"   ", "truncated"),
        (b"<html><body>503</body></html>", "malformed"),
        (b'\xef\xbb\xbf{"items": []}', "malformed"),
        (b'{"total": NaN}', "malformed"),
        (b'{"total": Infinity}', "malformed"),
        (b'{"items": []', "truncated"),
        (b'{"items": []}x', "trailing"),
        (b'{"text": "\xff"}', "not UTF-8"),
        ('{"items": []}'.encode("utf-16"), "not UTF-8"),
        (b'{"total": ' + b"9" * 5_000 + b"}", "out of range"),
        (b"[" * 200_000 + b"]" * 200_000, "nested too deeply"),
        (b'{"items": ' + b"[" * 200_000, "nested too deeply"),
    ],
)
def test_what_is_not_json_is_refused(body, reason):
    for way in (decode_json, decode_summary_page, lambda b: decode_model(b, ks.UserInfo)):
        with pytest.raises(DecodeError, match="the body is not JSON") as caught:
            way(body)
        assert reason in caught.value.reason
        assert caught.value.path is None


def test_bad_utf8_is_refused_also_where_no_field_is_read():
    body = page_of({**SUMMARY, "later": "HERE"}).replace(b"HERE", b"\xff")
    with pytest.raises(DecodeError, match="not UTF-8"):
        decode_summary_page(body)


@pytest.mark.parametrize("value", [None, True, 5, 5.9, "false", [1], {"a": 1}])
def test_plain_json_is_read_and_written(value):
    assert decode_json(encode_json(value)) == value


def test_a_name_that_is_a_number_is_written_as_json_has_it():
    assert encode_json({1: {-2: "a"}}) == b'{"1":{"-2":"a"}}'


MISTAKES = [
    ("workflow_id", None, "expected a text, got null"),
    ("workflow_id", 5, "expected a text, got a number"),
    ("workflow_id", 5.9, "expected a text, got a number"),
    ("workflow_id", ["a"], "expected a text, got a list"),
    ("workflow_id", {"a": 1}, "expected a text, got an object"),
    ("error", True, "expected a text, got a boolean"),
    ("status", None, "expected a text, got null"),
    ("status", 3, "expected a text, got a number"),
    ("created_at", None, "expected a time, got null"),
    ("created_at", 1_777_777_777, "expected a time, got a number"),
    ("created_at", "soon", "expected an ISO 8601 time, got 'soon'"),
    ("created_at", "x" * 500, f"expected an ISO 8601 time, got {'x' * 40!r}"),
    ("is_active_version", "false", "expected a boolean, got a text"),
    ("is_active_version", 1, "expected a boolean, got a number"),
    ("uploader", "Ada", "expected an object, got a text"),
    ("uploader", [], "expected an object, got a list"),
]


@pytest.mark.parametrize(("name", "value", "reason"), MISTAKES)
def test_a_wrong_value_in_a_page_is_an_error_that_says_where(name, value, reason):
    spoiled = {**CURRENT_SUMMARY, name: value}
    with pytest.raises(DecodeError) as caught:
        decode_summary_page(page_of(SUMMARY, SUMMARY, SUMMARY, spoiled, SUMMARY))
    assert (caught.value.path, caught.value.reason) == (f"$.items[3].{name}", reason)
    with pytest.raises(DecodeError) as caught:
        read(spoiled, ks.WorkflowSummaryResponse)
    assert (caught.value.path, caught.value.reason) == (f"$.{name}", reason)


@pytest.mark.parametrize(
    ("envelope", "path", "reason"),
    [
        ({"total": "1"}, "$.total", "expected a whole number, got a text"),
        ({"total": True}, "$.total", "expected a whole number, got a boolean"),
        ({"total": 5.9}, "$.total", "expected a whole number, got a number"),
        ({"total": 5.0}, "$.total", "expected a whole number, got a number"),
        ({"total": None}, "$.total", "expected a whole number, got null"),
        ({"page": "1"}, "$.page", "expected a whole number, got a text"),
        ({"items": None}, "$.items", "expected a list, got null"),
        ({"items": {}}, "$.items", "expected a list, got an object"),
        ({"items": [SUMMARY, 5]}, "$.items[1]", "expected an object, got a number"),
        (
            {"items": [{**SUMMARY, "uploader": {}}]},
            "$.items[0].uploader.user_id",
            "the field is missing",
        ),
    ],
)
def test_a_wrong_envelope_is_an_error_that_says_where(envelope, path, reason):
    with pytest.raises(DecodeError) as caught:
        decode_summary_page(page_of(**{"items": [], **envelope}))
    assert (caught.value.path, caught.value.reason) == (path, reason)


@pytest.mark.parametrize(
    ("change", "path", "reason"),
    [
        ({"chunks_processed": 5.9}, "$.chunks_processed", "whole number"),
        ({"chunks_processed": True}, "$.chunks_processed", "whole number"),
        ({"chunks_processed": "5"}, "$.chunks_processed", "whole number"),
        ({"start_time": 5}, "$.start_time", "a time"),
        ({"execution_status": None}, "$.execution_status", "got null"),
    ],
)
def test_a_wrong_value_in_a_detail_is_never_coerced(change, path, reason):
    with pytest.raises(DecodeError, match=reason) as caught:
        read({**DETAIL, **change}, ks.WorkflowDetailResponse)
    assert caught.value.path == path


def test_a_wrong_value_deep_in_a_run_is_an_error_that_says_where():
    snapshot = {**RUN["run_snapshot"], "outputs": [{"part_type": "x"}, {"part_type": 7}]}
    with pytest.raises(DecodeError) as caught:
        read({**RUN, "run_snapshot": snapshot}, ks.WorkflowRunResponse)
    assert caught.value.path == "$.run_snapshot.outputs[1].part_type"


def test_a_note_that_is_not_cattrs_own_is_no_part_of_the_path():
    wrong = ValueError("wrong")
    wrong.add_note("a note of somebody else's")
    error = cattrs.ClassValidationError("x", [wrong], ks.UserInfo)
    assert _structuring._first_fault(error) == ("$", "wrong")


@pytest.mark.parametrize("body", [b"[]", b"null", b'"x"', b"5", b"true"])
def test_what_is_no_object_is_an_error_at_the_root(body):
    for way in (decode_summary_page, lambda b: decode_model(b, ks.WorkflowRunResponse)):
        with pytest.raises(DecodeError, match="expected an object, got") as caught:
            way(body)
        assert caught.value.path == "$"


@pytest.mark.parametrize(("model", "wire"), EVERY_MODEL)
def test_a_missing_field_is_an_error_exactly_where_it_is_needed(model, wire):
    fields = {field.name: field for field in attrs.fields(model)}
    for name in set(wire) & set(fields):
        less = {key: value for key, value in wire.items() if key != name}
        if fields[name].default is attrs.NOTHING:
            with pytest.raises(DecodeError, match="the field is missing") as caught:
                read(less, model)
            assert caught.value.path == f"$.{name}"
        elif name != "user_id":
            assert getattr(read(less, model), name) == fields[name].default


@pytest.mark.parametrize(("model", "wire"), EVERY_MODEL)
def test_null_for_what_is_optional_is_none(model, wire):
    optional = {field.name for field in attrs.fields(model) if field.default is None}
    nulls = dict.fromkeys(optional)
    made = read({**wire, **nulls, "later": {"a": [None]}}, model)
    assert {name: getattr(made, name) for name in optional} == nulls
    assert made.extra["later"] == {"a": [None]}


@pytest.mark.parametrize(("model", "wire"), EVERY_MODEL)
def test_what_is_written_is_read_again_as_the_same(model, wire):
    made = read(wire, model)
    assert read(made.to_dict(), model) == made
    assert made.raw == wire


@pytest.mark.parametrize(
    ("model", "plain"),
    [(ks.WorkflowDetailResponse, DETAIL), (ks.WorkflowStatusResponse, STATUS)],
)
def test_the_temporal_status_is_the_execution_status(model, plain):
    wire = {name: value for name, value in plain.items() if name != "execution_status"}
    made = read({**wire, "temporal_status": "TIMED_OUT"}, model)
    assert made.execution_status == "TIMED_OUT"
    assert made.raw["temporal_status"] == "TIMED_OUT"
    assert made.extra == {}
    both = read({**plain, "temporal_status": "OTHER"}, model)
    assert both.execution_status == "RUNNING"


def test_the_later_details_fields_are_typed():
    made = read(CURRENT_DETAIL, ks.WorkflowDetailResponse)
    assert (made.workflow_type, made.task_queue, made.run_id) == ("IngestDocument", "ingest", "r-9")
    assert made.uploader == ks.UserInfo("u-1", "Ada")
    assert (made.document_name, made.materialized_path) == ("report.pdf", "/team/report.pdf")
    assert made.is_active_version is True


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("PENDING", "PENDING"),
        ("NOT_STARTED", "NOT_STARTED"),
        ("IN_PROGRESS", "RUNNING"),
        ("COMPLETED", "COMPLETED"),
        ("FAILED", "FAILED"),
        ("BRAND_NEW", "BRAND_NEW"),
    ],
)
def test_the_execution_state_is_the_runs_status(word, status):
    made = read({**CURRENT_RUN, "execution_state": word}, ks.WorkflowRunResponse)
    assert made.status == status
    assert made.raw["execution_state"] == word
    assert "execution_state" not in made.extra


def test_who_triggered_a_run_is_its_user():
    made = read(CURRENT_RUN, ks.WorkflowRunResponse)
    assert made.user_id == "u-1"
    assert made.triggered_by == ks.UserInfo("u-1", "Ada", "Lovelace")
    assert made.triggered_by.raw == CURRENT_RUN["triggered_by"]
    assert made.raw == CURRENT_RUN


def test_a_runs_own_user_is_kept_and_may_be_absent():
    assert read({**CURRENT_RUN, "user_id": "u-2"}, ks.WorkflowRunResponse).user_id == "u-2"
    assert read({**CURRENT_RUN, "triggered_by": None}, ks.WorkflowRunResponse).user_id is None
    with pytest.raises(DecodeError) as caught:
        read({**CURRENT_RUN, "triggered_by": "Ada"}, ks.WorkflowRunResponse)
    assert caught.value.path == "$.triggered_by"


def test_a_snapshots_lists_and_loose_fields_are_read():
    snapshot = {
        "workflow_name": "w",
        "max_run_duration_seconds": 60,
        "instruction": {"any": ["thing"]},
        "inputs": [1, "two"],
        "user_message": "go",
    }
    made = read({**CURRENT_RUN, "run_snapshot": snapshot}, ks.WorkflowRunResponse).run_snapshot
    assert made.instruction == {"any": ["thing"]}
    assert made.inputs == [1, "two"]
    assert made.sources is None
    documented = read(RUN, ks.WorkflowRunResponse).run_snapshot
    assert documented.sources == (ks.PathSnapshot("p-1", "/in", "FOLDER"),)
    assert documented.instructions == ()


def test_times_without_a_zone_are_utc_and_others_keep_theirs():
    made = read(
        {
            **SUMMARY,
            "created_at": "2026-05-01T10:00:00",
            "last_run_timestamp": "2026-05-01T10:00:00+02:00",
        },
        ks.WorkflowSummaryResponse,
    )
    assert made.created_at == datetime(2026, 5, 1, 10, tzinfo=UTC)
    assert made.last_run_timestamp.utcoffset() == timedelta(hours=2)
    [item] = decode_summary_page(page_of({**SUMMARY, "created_at": "2026-05-01T10:00:00"})).items
    assert item.created_at == datetime(2026, 5, 1, 10, tzinfo=UTC)


@pytest.mark.parametrize("envelope", [NUMBERED, OFFSET])
def test_either_envelope_is_read(envelope):
    page = decode_summary_page(json.dumps({"items": [SUMMARY], **envelope}).encode())
    assert {name: getattr(page, name) for name in envelope} == envelope
    assert len(page.items) == page.total == 1


@settings(max_examples=60, deadline=None)
@given(
    st.builds(
        ks.WorkflowDetailResponse,
        workflow_id=st.text(),
        document_id=st.text(),
        document_version_id=st.text(),
        status=st.text().map(ks.IngestionStatus),
        last_activity=st.none() | st.text(),
        error=st.none() | st.text(),
        last_run_timestamp=st.datetimes(timezones=ZONES),
        last_state_update_timestamp=st.none() | st.datetimes(timezones=st.just(UTC)),
        created_at=st.datetimes(timezones=st.just(UTC)),
        uploader=st.none() | st.builds(ks.UserInfo, st.text(), st.none() | st.text()),
        is_active_version=st.none() | st.booleans(),
        execution_status=st.text().map(ks.WorkflowExecutionStatus),
        start_time=st.datetimes(timezones=st.just(UTC)),
        close_time=st.none() | st.datetimes(timezones=st.just(UTC)),
        chunks_processed=st.none() | st.integers(0, 2**63),
    )
)
def test_any_detail_survives_the_way_to_json_and_back(detail):
    assert decode_model(encode_json(detail.to_dict()), ks.WorkflowDetailResponse) == detail


@settings(max_examples=60, deadline=None)
@given(
    st.builds(
        ks.WorkflowRunResponse,
        id=st.text(),
        workflow_definition_id=st.text(),
        user_id=st.none() | st.text(),
        status=st.text().map(ks.WorkflowRunStatus),
        runner_type=st.none() | st.text().map(ks.WorkflowRunnerType),
        created_at=st.datetimes(timezones=st.just(UTC)),
        updated_at=st.datetimes(timezones=st.just(UTC)),
        run_snapshot=st.none()
        | st.builds(
            ks.WorkflowRunSnapshot,
            sources=st.none()
            | st.lists(st.builds(ks.PathSnapshot, st.text()), max_size=3).map(tuple),
            template=st.none() | st.builds(ks.PathSnapshot, st.text()),
            inputs=JSON_VALUES,
        ),
    )
)
def test_any_run_survives_the_way_to_json_and_back(run):
    assert decode_model(json.dumps(run.to_dict()).encode(), ks.WorkflowRunResponse) == run
