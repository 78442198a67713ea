"""The four generations as data: where their routes are, how they page, which one spoke."""

from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import parse_qsl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import knowledgestack_async as ks
from knowledgestack_async._dialects import (
    GENERATIONS,
    Route,
    dialect_named,
    spoken_dialect,
    window_of,
)

DOCUMENTED, OFFSET, UNFILTERED, SYSTEM_JOBS = GENERATIONS


WITHOUT_FILTERS = (DOCUMENTED, OFFSET, UNFILTERED)


def item(**named):
    moment = datetime(2026, 5, 1, tzinfo=UTC)
    return ks.WorkflowSummaryResponse(
        workflow_id="w",
        document_id="d",
        document_version_id="v",
        status=ks.IngestionStatus.FAILED,
        last_run_timestamp=moment,
        created_at=moment,
        **named,
    )


def page(*items, **envelope):
    return ks.PaginatedResponse(items=items, total=len(items), **envelope)


@pytest.mark.parametrize(
    ("dialect", "prefix"),
    [
        (DOCUMENTED, "/v1/workflows"),
        (OFFSET, "/v1/workflows"),
        (UNFILTERED, "/v1/system-jobs"),
        (SYSTEM_JOBS, "/v1/system-jobs"),
    ],
)
def test_each_route_is_where_its_generation_has_it(dialect, prefix):
    assert dialect.paths[Route.LIST_INGESTIONS] == f"{prefix}/document_versions"
    assert dialect.paths[Route.INGESTION] == f"{prefix}/document_versions/{{id}}"
    assert dialect.paths[Route.WORKFLOW] == f"{prefix}/{{id}}"
    assert dialect.paths[Route.RUN] == "/v1/workflow-runs/{id}"
    assert dialect.paths[Route.RUN_CALLBACK] == "/v1/workflow-runs/{id}/callback"


def test_only_the_current_generation_reruns_in_bulk():
    assert SYSTEM_JOBS.paths[Route.BULK_RERUN] == "/v1/system-jobs/document_versions/bulk-rerun"
    assert [dialect.bulk_limit for dialect in GENERATIONS] == [None, None, None, 200]
    assert all(Route.BULK_RERUN not in dialect.paths for dialect in WITHOUT_FILTERS)
    assert [dialect.largest_window for dialect in GENERATIONS] == [100] * 4


def test_only_the_current_generation_has_filters_an_order_and_names_of_documents():
    assert [dialect for dialect in GENERATIONS if dialect.filters] == [SYSTEM_JOBS]
    assert [dialect for dialect in GENERATIONS if dialect.newest_last] == [SYSTEM_JOBS]
    assert [dialect for dialect in GENERATIONS if dialect.names_documents] == [SYSTEM_JOBS]


@pytest.mark.parametrize(
    ("dialect", "start", "size", "query"),
    [
        (DOCUMENTED, 0, 20, "page=1&page_size=20"),
        (DOCUMENTED, 40, 20, "page=3&page_size=20"),
        (DOCUMENTED, 45, 20, "page=3&page_size=20"),
        (OFFSET, 0, 20, "offset=0&limit=20"),
        (OFFSET, 45, 100, "offset=45&limit=100"),
        (UNFILTERED, 45, 7, "offset=45&limit=7"),
        (SYSTEM_JOBS, 45, 1, "offset=45&limit=1"),
    ],
)
def test_a_window_is_asked_for_in_the_generations_own_way(dialect, start, size, query):
    target = dialect.list_target(start, size, {})
    assert (target.path, target.query) == (dialect.paths[Route.LIST_INGESTIONS], query)


EVERY_FILTER = {
    "status": frozenset({"failed", "a b", "cancelled"}),
    "name_like": "50% & more",
    "latest_version_only": True,
    "uploader_user_id": "u-1",
    "created_after": datetime(2026, 5, 1, 12, tzinfo=timezone(timedelta(hours=2))),
    "created_before": datetime(2026, 5, 2, tzinfo=UTC),
    "updated_after": datetime(2026, 5, 3, tzinfo=UTC),
    "updated_before": datetime(2026, 5, 4, tzinfo=UTC),
    "oldest_first": True,
}


def test_every_filter_is_sent_to_a_server_that_has_it():
    assert SYSTEM_JOBS.list_target(0, 5, EVERY_FILTER).query == (
        "offset=0&limit=5&status=a+b&status=cancelled&status=failed&name_like=50%25+%26+more"
        "&latest_version_only=true&uploader_user_id=u-1"
        "&created_after=2026-05-01T10%3A00%3A00%2B00%3A00"
        "&created_before=2026-05-02T00%3A00%3A00%2B00%3A00"
        "&updated_after=2026-05-03T00%3A00%3A00%2B00%3A00"
        "&updated_before=2026-05-04T00%3A00%3A00%2B00%3A00&sort_dir=ASC"
    )


@pytest.mark.parametrize("dialect", WITHOUT_FILTERS)
def test_no_filter_is_sent_to_a_server_that_has_none(dialect):
    assert dialect.list_target(0, 5, EVERY_FILTER) == dialect.list_target(0, 5, {})


def test_newest_first_needs_no_query():
    assert SYSTEM_JOBS.list_target(0, 5, {"oldest_first": False}).query == "offset=0&limit=5"


def test_a_dialect_is_found_by_its_name():
    assert [dialect_named(dialect.name) for dialect in GENERATIONS] == list(GENERATIONS)
    assert [dialect.name for dialect in GENERATIONS] == [
        "documented",
        "offset",
        "system-jobs-unfiltered",
        "system-jobs",
    ]
    known = "'auto', 'documented', 'offset', 'system-jobs-unfiltered', 'system-jobs'; not 'latest'"
    with pytest.raises(ks.ConfigurationError, match=known):
        dialect_named("latest")


@pytest.mark.parametrize(
    ("envelope", "window"),
    [
        ({"page": 1, "page_size": 20}, (0, 20, True)),
        ({"page": 3, "page_size": 20}, (40, 20, True)),
        ({"limit": 20, "offset": 0}, (0, 20, False)),
        ({"limit": 7, "offset": 45}, (45, 7, False)),
        ({"limit": 20, "offset": 0, "page": 9, "page_size": 9}, (0, 20, False)),
        ({}, None),
        ({"page": 1}, None),
        ({"page_size": 20}, None),
        ({"limit": 20}, None),
        ({"offset": 0}, None),
        ({"page": 0, "page_size": 20}, None),
        ({"page": 1, "page_size": 0}, None),
        ({"limit": 0, "offset": 0}, None),
        ({"limit": 20, "offset": -1}, None),
    ],
)
def test_an_envelope_says_which_window_it_holds(envelope, window):
    assert window_of(page(**envelope)) == window


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 100))
def test_a_numbered_window_holds_the_item_that_it_was_asked_for(start, size):
    query = dict(parse_qsl(DOCUMENTED.paging.query(start, size)))
    begin, found, by_number = window_of(page(page=int(query["page"]), page_size=size))
    assert begin <= start < begin + found
    assert by_number


BY_NUMBER = {"page": 1, "page_size": 20}
BY_OFFSET = {"offset": 0, "limit": 20}


@pytest.mark.parametrize("known", GENERATIONS)
@pytest.mark.parametrize("items", [(), (item(),), (item(document_name="a.pdf"),)])
@pytest.mark.parametrize("asked", [DOCUMENTED, OFFSET])
@pytest.mark.parametrize(("envelope", "spoken"), [(BY_NUMBER, DOCUMENTED), (BY_OFFSET, OFFSET)])
def test_the_envelope_tells_which_of_the_older_generations_spoke(
    asked, envelope, spoken, items, known
):
    assert spoken_dialect(asked, page(*items, **envelope), known) is spoken


@pytest.mark.parametrize("known", GENERATIONS)
@pytest.mark.parametrize("asked", [UNFILTERED, SYSTEM_JOBS])
@pytest.mark.parametrize(
    ("items", "spoken"),
    [
        ([item()], UNFILTERED),
        ([item(materialized_path="/a.pdf")], UNFILTERED),
        ([item(document_name="a.pdf", is_active_version=True)], SYSTEM_JOBS),
        ([item(document_name="a.pdf")], SYSTEM_JOBS),
        ([item(document_name="")], SYSTEM_JOBS),
        ([item(is_active_version=True)], SYSTEM_JOBS),
        ([item(is_active_version=False)], SYSTEM_JOBS),
        ([item(), item(), item(document_name="a.pdf")], SYSTEM_JOBS),
        ([item(document_name="a.pdf"), item()], SYSTEM_JOBS),
    ],
)
def test_items_tell_which_of_the_later_generations_spoke(asked, items, spoken, known):
    assert spoken_dialect(asked, page(*items, **BY_OFFSET), known) is spoken


@pytest.mark.parametrize("asked", [UNFILTERED, SYSTEM_JOBS])
@pytest.mark.parametrize(
    ("known", "spoken"),
    [
        (UNFILTERED, UNFILTERED),
        (SYSTEM_JOBS, SYSTEM_JOBS),
        # Where nothing is known of that path, the one that can less.
        (DOCUMENTED, UNFILTERED),
        (OFFSET, UNFILTERED),
    ],
)
def test_a_page_without_items_leaves_what_is_known(asked, known, spoken):
    assert spoken_dialect(asked, page(**BY_OFFSET), known) is spoken


@pytest.mark.parametrize("known", GENERATIONS)
@pytest.mark.parametrize("asked", [UNFILTERED, SYSTEM_JOBS])
def test_an_envelope_that_no_generation_has_is_not_taken_for_another(asked, known):
    for items in ((), (item(),), (item(document_name="a.pdf"),)):
        assert spoken_dialect(asked, page(*items, **BY_NUMBER), known) is asked
