"""Filters: checked first, honoured by the server or here, never silently ignored."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import attrs
import pytest

import knowledgestack_async as ks
from knowledgestack_async._dialects import GENERATIONS
from knowledgestack_async._filters import ListFilters

DOCUMENTED, OFFSET, UNFILTERED, SYSTEM_JOBS = GENERATIONS
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def item(status="failed", created=NOON, updated=None):
    return ks.WorkflowSummaryResponse(
        workflow_id="w",
        document_id="d",
        document_version_id="v",
        status=ks.IngestionStatus(status),
        last_run_timestamp=NOON,
        last_state_update_timestamp=updated,
        created_at=created,
    )


@pytest.mark.parametrize(
    ("status", "statuses"),
    [
        (None, set()),
        ("failed", {"failed"}),
        (ks.IngestionStatus.FAILED, {"failed"}),
        (["failed", ks.IngestionStatus.CANCELLED, "failed"], {"failed", "cancelled"}),
        ((word for word in ["brand_new"]), {"brand_new"}),
    ],
)
def test_a_status_is_a_text_or_a_member_or_several(status, statuses):
    assert ListFilters.checked(status=status).statuses == statuses


@pytest.mark.parametrize("status", ["", [], [""], ["failed", ""], iter(())])
def test_a_status_that_names_nothing_is_refused(status):
    with pytest.raises(ks.ConfigurationError, match="at least one status"):
        ListFilters.checked(status=status)


TIMES = ["created_after", "created_before", "updated_after", "updated_before"]


@pytest.mark.parametrize("name", TIMES)
def test_a_time_needs_a_zone(name):
    with pytest.raises(ks.ConfigurationError, match=f"{name} must have a time zone"):
        ListFilters.checked(**{name: datetime(2026, 5, 1)})


@pytest.mark.parametrize(
    ("name", "value"), [("name_like", 7), ("latest_version_only", "no"), ("oldest_first", "ASC")]
)
def test_what_is_no_text_or_no_flag_is_not_taken_for_one(name, value):
    with pytest.raises(ks.ConfigurationError, match=f"{name} must be a (str|bool), not"):
        ListFilters.checked(**{name: value})


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("value", ["2026-05-01T00:00:00Z", 1_777_777_777, NOON.date()])
def test_a_time_is_a_datetime(name, value):
    with pytest.raises(ks.ConfigurationError, match=f"{name} must be a datetime, not"):
        ListFilters.checked(**{name: value})


def test_no_filter_is_false_and_any_filter_true():
    assert not ListFilters.checked()
    assert not ListFilters.checked(status=None, name_like=None, oldest_first=False)
    assert ListFilters.checked(status="failed")
    assert ListFilters.checked(oldest_first=True)
    assert ListFilters.checked(created_after=NOON)


def test_the_wire_names_only_what_was_asked_for():
    assert ListFilters.checked().wire() == {}
    user = UUID(int=7)
    filters = ListFilters.checked(
        status=["failed"],
        uploader_user_id=user,
        name_like="x",
        latest_version_only=True,
        created_after=NOON,
        oldest_first=True,
    )
    assert filters.wire() == {
        "status": {"failed"},
        "uploader_user_id": str(user),
        "name_like": "x",
        "latest_version_only": True,
        "created_after": NOON,
        "oldest_first": True,
    }


@pytest.mark.parametrize(
    "asked",
    [
        {"name_like": "x"},
        {"latest_version_only": True},
        {"uploader_user_id": "u-1"},
        {"uploader_user_id": ""},
        {"oldest_first": True},
    ],
)
def test_what_a_server_cannot_do_is_a_clear_error(asked):
    filters = ListFilters.checked(**asked)
    filters.check_honoured(SYSTEM_JOBS)
    for dialect in (DOCUMENTED, OFFSET, UNFILTERED):
        told = f"{next(iter(asked))} can't be honoured: a server of the generation '{dialect.name}'"
        with pytest.raises(ks.ConfigurationError, match=told):
            filters.check_honoured(dialect)


@pytest.mark.parametrize("dialect", GENERATIONS)
def test_what_the_items_tell_is_honoured_by_all(dialect):
    filters = ListFilters.checked(
        status="failed",
        latest_version_only=False,
        **dict.fromkeys(TIMES, NOON),
    )
    filters.check_honoured(dialect)


@pytest.mark.parametrize(
    ("asked", "shown", "kept"),
    [
        ({}, item(), True),
        ({"status": "failed"}, item("failed"), True),
        ({"status": "failed"}, item("completed"), False),
        ({"status": ["completed", "failed"]}, item("completed"), True),
        ({"status": "brand_new"}, item("brand_new"), True),
        ({"created_after": NOON}, item(created=NOON), True),
        ({"created_after": NOON}, item(created=NOON - MINUTE), False),
        ({"created_before": NOON}, item(created=NOON), False),
        ({"created_before": NOON}, item(created=NOON - MINUTE), True),
        ({"updated_after": NOON}, item(updated=NOON), True),
        ({"updated_after": NOON}, item(updated=NOON - MINUTE), False),
        ({"updated_before": NOON}, item(updated=NOON), False),
        ({"updated_before": NOON}, item(updated=NOON - MINUTE), True),
        ({"updated_after": NOON}, item(created=NOON), True),
        ({"updated_after": NOON}, item(created=NOON - MINUTE), False),
        ({"status": "failed", "created_before": NOON}, item("failed", NOON), False),
        ({"name_like": "zzz"}, item(), True),
    ],
)
def test_an_items_own_fields_decide_here_whatever_the_server_can(asked, shown, kept):
    assert ListFilters.checked(**asked).keeps(shown) is kept


def test_what_items_dont_tell_keeps_them_all():
    filters = ListFilters.checked(
        name_like="x", latest_version_only=True, uploader_user_id="u-1", oldest_first=True
    )
    assert filters.keeps(attrs.evolve(item(), document_name="y", is_active_version=False))
