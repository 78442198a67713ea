"""Models: open words, rules of what is over, the way back to the wire, and the reference page."""

import copy
import json
import pickle
from datetime import UTC, datetime, timedelta

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wire_examples import CURRENT_RUN, CURRENT_SUMMARY, DETAIL, NUMBERED, RUN, STATUS, SUMMARY

import knowledgestack_async as ks
from knowledgestack_async import _codec, models
from knowledgestack_async.models import (
    IngestionStatus,
    WorkflowExecutionStatus,
    WorkflowRunnerType,
    WorkflowRunStatus,
)

ENUMS = [IngestionStatus, WorkflowRunStatus, WorkflowRunnerType, WorkflowExecutionStatus]
MODELS = [
    kind
    for kind in map(models.__dict__.get, models.__all__)
    if isinstance(kind, type) and issubclass(kind, models.WireObject)
]
MORNING = datetime(2026, 5, 1, 10, tzinfo=UTC)


def decode(wire, model):
    return _codec.decode_model(json.dumps(wire).encode(), model)


# What the reference page says: each response's fields, and the words of each enum.
REFERENCE = {
    "WorkflowRunResponse": (
        "id workflow_definition_id user_id runner_type status started_at completed_at "
        "run_snapshot error created_at updated_at"
    ),
    "WorkflowSummaryResponse": (
        "workflow_id document_id document_version_id status last_activity error "
        "last_run_timestamp last_state_update_timestamp created_at"
    ),
    "WorkflowDetailResponse": (
        "workflow_id document_id document_version_id status last_activity error "
        "last_run_timestamp last_state_update_timestamp created_at "
        "execution_status start_time close_time chunks_processed"
    ),
    "WorkflowStatusResponse": "workflow_id execution_status start_time close_time",
    "WorkflowRunSnapshot": "sources instructions outputs template",
    "PaginatedResponse": "page page_size items total",
    "WorkflowCallbackResponse": "",
    "WorkflowActionResponse": "",
    "WorkflowCancelResponse": "",
}
REFERENCE_WORDS = {
    WorkflowRunStatus: "PENDING RUNNING COMPLETED FAILED",
    WorkflowRunnerType: "SELF_HOSTED",
    IngestionStatus: "pending processing completed failed cancelled",
}


@pytest.mark.parametrize("name", REFERENCE)
def test_every_field_of_the_reference_page_is_on_its_model(name):
    fields = {field.name for field in attrs.fields(getattr(ks, name))}
    assert set(REFERENCE[name].split()) <= fields


@pytest.mark.parametrize("kind", REFERENCE_WORDS)
def test_every_word_of_the_reference_page_is_known(kind):
    for word in REFERENCE_WORDS[kind].split():
        assert kind(word).is_known
        assert kind(word) is kind[word.upper()]


@pytest.mark.parametrize("kind", ENUMS)
@settings(deadline=None)
@given(word=st.text())
@example(word="COMPLETED")
@example(word="completed")
@example(word="")
def test_any_word_is_a_member_equal_to_its_text(kind, word):
    member = kind(word)
    if word == "IN_PROGRESS" and kind is WorkflowRunStatus:
        return
    assert member == word
    assert str(member) == word
    assert hash(member) == hash(word)
    assert isinstance(member, kind)
    assert member.is_known == (word in [known.value for known in kind])
    assert kind(member) == member


@pytest.mark.parametrize("kind", ENUMS)
@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy])
def test_an_unknown_word_is_copied_and_pickled_as_what_it_is(kind, again):
    member = kind("brand_new")
    for made in (again(member), pickle.loads(pickle.dumps(member))):
        assert type(made) is kind
        assert made == "brand_new"
        assert made.name == made.value == "brand_new"
        assert not made.is_known
    assert pickle.loads(pickle.dumps(next(iter(kind)))) is next(iter(kind))


@pytest.mark.parametrize("kind", ENUMS)
def test_an_unknown_word_does_not_join_the_known_ones(kind):
    before = list(kind)
    kind("brand_new")
    assert list(kind) == before
    with pytest.raises(ValueError, match="7"):
        kind(7)


def test_in_progress_reads_as_running():
    assert WorkflowRunStatus("IN_PROGRESS") is WorkflowRunStatus.RUNNING
    assert WorkflowRunStatus("NOT_STARTED") is WorkflowRunStatus.NOT_STARTED


@pytest.mark.parametrize(
    ("word", "over"),
    [
        ("pending", False),
        ("processing", False),
        ("completed", True),
        ("failed", True),
        ("cancelled", True),
        ("quota_limit", True),
        ("never_heard_of", True),
    ],
)
def test_a_pipeline_is_over_in_any_word_but_pending_and_processing(word, over):
    assert IngestionStatus(word).is_terminal is over
    assert decode({**SUMMARY, "status": word}, ks.WorkflowSummaryResponse).is_terminal is over


@pytest.mark.parametrize(
    ("word", "over"),
    [
        ("PENDING", False),
        ("NOT_STARTED", False),
        ("RUNNING", False),
        ("IN_PROGRESS", False),
        ("COMPLETED", True),
        ("FAILED", True),
        ("NEVER_HEARD_OF", False),
    ],
)
def test_a_run_is_over_when_completed_or_failed_only(word, over):
    assert WorkflowRunStatus(word).is_terminal is over
    assert decode({**RUN, "status": word}, ks.WorkflowRunResponse).is_terminal is over


@pytest.mark.parametrize(
    ("word", "close_time", "over"),
    [
        ("RUNNING", None, False),
        ("COMPLETED", None, False),
        ("COMPLETED", "2026-05-01T11:00:00Z", True),
        ("NEVER_HEARD_OF", "2026-05-01T11:00:00Z", True),
        ("CONTINUED_AS_NEW", "2026-05-01T11:00:00Z", False),
        ("CONTINUED_AS_NEW", None, False),
    ],
)
def test_a_live_workflow_is_over_when_closed_and_not_continued(word, close_time, over):
    wire = {**STATUS, "execution_status": word, "close_time": close_time}
    assert decode(wire, ks.WorkflowStatusResponse).is_terminal is over


@pytest.mark.parametrize(
    ("model", "wire", "end"),
    [
        (ks.WorkflowDetailResponse, {**DETAIL, "start_time": "2026-05-01T10:00:00Z"}, "close_time"),
        (ks.WorkflowStatusResponse, {**STATUS, "start_time": "2026-05-01T10:00:00Z"}, "close_time"),
        (ks.WorkflowRunResponse, RUN, "completed_at"),
    ],
)
def test_a_duration_is_known_once_both_ends_are(model, wire, end):
    assert decode({**wire, end: None}, model).duration is None
    done = decode({**wire, end: "2026-05-01T12:00:00+01:00"}, model)
    assert done.duration == timedelta(hours=1)


def test_a_run_that_has_not_started_has_no_duration():
    wire = {**RUN, "started_at": None, "completed_at": "2026-05-01T12:00:00Z"}
    assert decode(wire, ks.WorkflowRunResponse).duration is None


def test_raw_is_what_was_sent_and_extra_what_has_no_field():
    wire = {**SUMMARY, "shard": 7, "nested": {"a": [1]}}
    made = decode(wire, ks.WorkflowSummaryResponse)
    assert made.raw == wire
    assert made.extra == {"shard": 7, "nested": {"a": [1]}}


def test_the_names_of_another_generation_are_nothing_extra():
    made = decode({**CURRENT_RUN, "shard": 7}, ks.WorkflowRunResponse)
    assert made.raw["execution_state"] == "IN_PROGRESS"
    assert made.extra == {"shard": 7}


def test_what_is_made_by_hand_has_no_raw():
    made = ks.WorkflowCancelResponse("w-1", "done")
    assert made.raw == {}
    assert made.extra == {}
    assert made == ks.WorkflowCancelResponse(workflow_id="w-1", message="done")


def test_raw_can_be_passed_on_to_what_is_made_from_an_object():
    made = decode({**STATUS, "shard": 7}, ks.WorkflowStatusResponse)
    other = attrs.evolve(made, workflow_id="w-2")
    assert other.raw == {}
    made.pass_raw_to(other)
    assert other.raw == made.raw
    ks.UserInfo("u-1").pass_raw_to(other)
    assert other.raw == {}


def test_to_dict_is_ready_for_json_in_our_names():
    page = _codec.decode_summary_page(
        json.dumps({"items": [{**CURRENT_SUMMARY, "status": "brand_new"}], **NUMBERED}).encode()
    )
    shown = page.to_dict()
    assert json.loads(json.dumps(shown)) == shown | {"items": list(shown["items"])}
    assert shown["total"] == 1
    assert type(shown["items"][0]["status"]) is str
    assert shown["items"][0]["status"] == "brand_new"
    assert shown["items"][0]["created_at"] == "2026-04-30T09:00:00.123456+00:00"
    assert shown["items"][0]["uploader"] == {
        "user_id": "u-1",
        "first_name": "Ada",
        "last_name": None,
    }
    run = decode(CURRENT_RUN, ks.WorkflowRunResponse).to_dict()
    assert (run["status"], run["started_at"]) == ("RUNNING", None)


def test_to_dict_takes_a_plain_value_as_it_is():
    run = decode(RUN, ks.WorkflowRunResponse).to_dict()
    assert run["run_snapshot"]["max_run_duration_seconds"] == 3600
    assert run["run_snapshot"]["sources"][0]["materialized_path"] == "/in"


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, "pickle"])
def test_a_copy_keeps_fields_and_raw(again):
    made = decode({**RUN, "shard": 7, "status": "BRAND_NEW"}, ks.WorkflowRunResponse)
    other = pickle.loads(pickle.dumps(made)) if again == "pickle" else again(made)
    assert other == made
    assert type(other) is ks.WorkflowRunResponse
    assert other.raw == made.raw
    assert other.extra == {"shard": 7}
    assert other.run_snapshot.raw == made.run_snapshot.raw == RUN["run_snapshot"]


def test_an_object_made_by_hand_can_be_pickled():
    made = ks.UserInfo("u-1", "Ada")
    assert pickle.loads(pickle.dumps(made)) == made


@pytest.mark.parametrize("model", MODELS)
def test_models_are_frozen_and_slotted(model):
    needed = {field.name: "x" for field in attrs.fields(model) if field.default is attrs.NOTHING}
    made = model(**needed)
    for name in [field.name for field in attrs.fields(model)]:
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(made, name, "y")
    assert not hasattr(made, "__dict__")


def test_equal_objects_hash_alike():
    assert ks.UserInfo("u-1") == ks.UserInfo("u-1")
    assert len({ks.UserInfo("u-1"), ks.UserInfo("u-1"), ks.UserInfo("u-2")}) == 2


def test_the_callback_says_when_nothing_changed():
    assert ks.WorkflowCallbackResponse("already_terminal").already_terminal
    assert not ks.WorkflowCallbackResponse("ok").already_terminal
    assert not ks.WorkflowCallbackResponse().already_terminal


def test_a_status_result_holds_a_status_or_an_error():
    error = ks.NotFound("x")
    assert ks.StatusResult("w-1", error=error).error is error
    assert ks.StatusResult("w-1").status is None
