"""Arguments of wrong types: each is a clear error of ours, before anything is sent."""

import ssl
from datetime import UTC, datetime, timedelta, timezone

import aiohttp
import attrs
import pytest
from yarl import URL

import knowledgestack_async as ks
from knowledgestack_async._filters import ListFilters
from support import KEY

HUGE = 10**400


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"base_url": 5}, "base_url must be a str, not int"),
        ({"base_url": b"https://one.example"}, "base_url must be a str, not bytes"),
        ({"base_url": URL("https://one.example")}, "base_url must be a str, not URL"),
        ({"base_url": ""}, "must look like https://host"),
        ({"headers": ["a"]}, "headers must be a mapping, not list"),
        ({"headers": "a"}, "headers must be a mapping, not str"),
        ({"headers": {1: "a"}}, "1 is not the name of a header"),
        ({"rate": "5"}, "rate must be requests a second above 0"),
        ({"rate": True}, "rate must be requests a second above 0"),
        ({"timeout": HUGE}, "timeout must be a number of seconds above 0"),
        ({"client_session": "x"}, "client_session must be .*ClientSession"),
        ({"trace_configs": ["x"]}, "each of trace_configs must be TraceConfig, not str"),
        ({"trace_configs": 5}, "trace_configs must be list | tuple"),
        ({"proxy": "not a url"}, "proxy must look like http://host:port"),
        ({"proxy": 5}, "proxy must look like http://host:port"),
        ({"proxy": "http://[::1"}, "proxy must look like http://host:port"),
        ({"ssl": "x"}, "ssl must be"),
    ],
)
def test_a_session_says_what_is_wrong(options, problem):
    with pytest.raises(ks.ConfigurationError, match=problem.replace("|", r"\|")):
        ks.Session(KEY, **({"base_url": "https://one.example"} | options))


def test_what_aiohttp_takes_is_taken():
    ways = {"trace_configs": (aiohttp.TraceConfig(),), "proxy": "http://127.0.0.1:8080"}
    made = ks.Session(KEY, "https://one.example", ssl=ssl.create_default_context(), **ways)
    assert "one.example" in repr(made)
    way = made._core.transport._options
    assert repr(way).startswith("<TransportOptions: proxy True")
    assert "8080" not in repr(way)
    with pytest.raises(ks.ConfigurationError, match="headers must be a mapping"):
        made.with_options(headers=["a"])
    with pytest.raises(ks.ConfigurationError, match="max_delay must be a number of seconds"):
        ks.RetryPolicy(max_delay=HUGE)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"method": 5}, "method must be one of"),
        ({"path": 5}, "path must be a str, not int"),
        ({"path": "/x%2f..%2fy"}, r"must not hold '\.' or '\.\.'"),
        ({"path": "/x%5c%2e%2e%5cy"}, r"must not hold '\.' or '\.\.'"),
        ({"params": [1]}, "params must be a mapping, not list"),
        ({"params": "a=b"}, "params must be a mapping, not str"),
        (
            {"params": {"a": None}},
            "params must be texts, finite numbers or booleans by their names",
        ),
        (
            {"params": {"a": [1, 2]}},
            "params must be texts, finite numbers or booleans by their names",
        ),
        (
            {"params": {"a": float("nan")}},
            "params must be texts, finite numbers or booleans by their names",
        ),
        (
            {"params": {"a": float("inf")}},
            "params must be texts, finite numbers or booleans by their names",
        ),
        ({"params": {1: "a"}}, "params must be texts, finite numbers or booleans by their names"),
        ({"params": {"a": "\ud800"}}, "half a character"),
        ({"json": object()}, "json can't be sent"),
        ({"json": "\ud800"}, "json can't be sent"),
    ],
)
async def test_a_request_says_what_is_wrong(sandbox, session, arguments, problem):
    call = {"method": "GET", "path": "/v1/x"} | arguments
    with pytest.raises(ks.ConfigurationError, match=problem):
        await session.request(call.pop("method"), call.pop("path"), **call)
    assert sandbox.requests == []


async def test_a_body_that_holds_itself_is_refused(session):
    body = []
    body.append(body)
    with pytest.raises(ks.ConfigurationError, match="holds itself"):
        await session.request("POST", "/v1/x", json=body)


@pytest.mark.parametrize("ids", ["abc", b"abc", 5])
async def test_ids_come_in_an_iterable_and_not_in_one_text(sandbox, session, tmp_path, ids):
    makers = [
        lambda: ks.watch_ingestions(session, ids),
        lambda: ks.watch_workflow_runs(session, ids),
        lambda: ks.poll_workflow_statuses(session, ids),
        lambda: ks.poll_workflow_statuses(session, ids, until_closed=True),
        lambda: ks.rerun_ingestions(session, ids, journal=tmp_path / "j"),
    ]
    for make in makers:
        with pytest.raises(ks.ConfigurationError, match="must be an iterable"):
            make()
    with pytest.raises(ks.ConfigurationError, match="must be an iterable"):
        ks.watch_workflow_runs(session, None)
    assert sandbox.requests == []


@pytest.mark.parametrize("after", [5, ["x"], {"x": "y"}])
async def test_after_is_what_was_read_by_id(session, after):
    with pytest.raises(ks.ConfigurationError, match="after must"):
        ks.watch_ingestions(session, ["x"], after=after)
    with pytest.raises(ks.ConfigurationError, match="after must"):
        await ks.wait_for_ingestion(session, "x", after=after)


async def test_on_change_is_a_function(sandbox, session):
    with pytest.raises(ks.ConfigurationError, match="on_change must be a function, not int"):
        await ks.wait_for_ingestion(session, "x", on_change=5)
    with pytest.raises(ks.ConfigurationError, match="on_change must be a function, not int"):
        await ks.wait_for_workflow_run(session, "x", on_change=5)
    assert sandbox.requests == []


@pytest.mark.parametrize(
    ("filters", "problem"),
    [
        ({"status": b"failed"}, "status must name at least one status"),
        ({"status": [None]}, "status must name at least one status"),
        ({"status": ["failed", ""]}, "status must name at least one status"),
        ({"uploader_user_id": 5}, "uploader_user_id must be a str or UUID, not 5"),
        ({"prefetch": False}, "prefetch must be a whole number"),
        ({"prefetch": 0.0}, "prefetch must be a whole number"),
        ({"position": {"reach": True, "total": 1, "last_ids": []}}, "position must be what"),
        ({"position": {"reach": 1, "total": -1, "last_ids": []}}, "position must be what"),
        (
            {"created_after": datetime.min.replace(tzinfo=timezone(timedelta(hours=5)))},
            "created_after must be a time that there is in UTC",
        ),
    ],
)
async def test_a_walk_says_what_is_wrong(sandbox, session, filters, problem):
    with pytest.raises(ks.ConfigurationError, match=problem):
        ks.iter_ingestion_workflows(session, **filters)
    assert sandbox.requests == []


ENDS_OF_TIME = [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]


@pytest.mark.parametrize("moment", ENDS_OF_TIME)
async def test_items_at_the_ends_of_time_are_filtered_as_all_others(session, moment):
    item = (await ks.list_ingestion_workflows(session)).items[0]
    noon = datetime(2026, 5, 1, 12, tzinfo=UTC)
    shown = attrs.evolve(item, created_at=moment, last_state_update_timestamp=None)
    is_late = moment > noon
    for name in ("created", "updated"):
        assert ListFilters.checked(**{f"{name}_after": moment}).keeps(shown)
        assert not ListFilters.checked(**{f"{name}_before": moment}).keeps(shown)
        assert ListFilters.checked(**{f"{name}_after": noon}).keeps(shown) is is_late
        assert ListFilters.checked(**{f"{name}_before": noon}).keeps(shown) is not is_late


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"journal": 5}, "journal must be the path of a file, not 5"),
        ({"journal": ""}, "journal must be the path of a file"),
        ({"abort_over": "x"}, "abort_over must be from 0 to 1"),
        ({"abort_over": True}, "abort_over must be from 0 to 1"),
    ],
)
async def test_a_bulk_rerun_says_what_is_wrong(session, tmp_path, options, problem):
    with pytest.raises(ks.ConfigurationError, match=problem):
        ks.rerun_ingestions(session, ["x"], **({"journal": str(tmp_path / "j")} | options))


@pytest.mark.parametrize("hide", [5, None, [b"x"]])
async def test_what_is_to_be_hidden_is_texts(sandbox, session, hide):
    with pytest.raises(ks.ConfigurationError, match="hide must hold nothing but texts"):
        async with ks.report_outcome(session, "3f2504e0-4f89-11d3-9a0c-0305e82c3301", hide=hide):
            pass
    assert sandbox.requests == []
