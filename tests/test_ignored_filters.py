"""Servers of the third generation, which ignore filters: what was asked for is done here, or refused."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta

import aiohttp
import attrs
import pytest
from aiohttp import web
from test_cli_support import make_cli

import knowledgestack_async as ks
from knowledgestack_async.sandbox import Sandbox, SteppedClock
from support import KEY, QuickClock, Stepping

LATER_FIELDS = ("document_name", "materialized_path", "is_active_version", "uploader")
TIMES = ("created_after", "created_before", "updated_after", "updated_before")
UNROUTED = {"detail": "Not Found"}
NAMED = {"detail": "Workflow bulk-rerun not found", "code": "not_found", "request_id": "r-1"}
"""What it answers to a bulk rerun, where that path is the one of a single rerun."""


@attrs.define
class Front:
    """A proxy that makes a server of today's generation one that is older, or a little off.

    Attributes:
        box: The server behind it.
        is_old: Whether it has no filters, no bulk rerun, and no names of documents.
        drops: The query's parameters that it ignores though it is not old.
        on_request: Called with each request before it is answered.
        bulk_answer: What it answers where there is no bulk rerun.
        bulk_requests: How many reached that.
        lists: The queries of the lists that it was asked for.
    """

    box: Sandbox
    is_old: bool = True
    drops: frozenset[str] = frozenset()
    on_request: object = None
    bulk_answer: dict = attrs.field(factory=lambda: UNROUTED)
    bulk_requests: int = 0
    lists: list = attrs.field(factory=list)
    base_url: str = ""
    api_key: str = KEY
    _client: aiohttp.ClientSession | None = None
    _runner: web.AppRunner | None = None

    async def __aenter__(self):
        await self.box.__aenter__()
        self._client = aiohttp.ClientSession()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.base_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_):
        await self._runner.cleanup()
        await self._client.close()
        await self.box.__aexit__(None, None, None)

    async def _answer(self, request):
        if self.on_request is not None:
            self.on_request(request)
        is_old = self.is_old
        query = list(request.query.items())
        if request.path.endswith("/document_versions"):
            self.lists.append(query)
        if is_old and request.method == "POST" and request.path.endswith("/bulk-rerun"):
            self.bulk_requests += 1
            return web.json_response(self.bulk_answer, status=404)
        query = [
            (name, value)
            for name, value in query
            if (name in {"limit", "offset"} if is_old else name not in self.drops)
        ]
        headers = {
            name: request.headers[name]
            for name in ("Authorization", "Content-Type")
            if name in request.headers
        }
        url = self.box.base_url + request.path
        body = await request.read()
        async with self._client.request(
            request.method, url, params=query, headers=headers, data=body or None
        ) as answer:
            content = await answer.read()
            if is_old and request.method == "GET" and answer.status == 200:
                content = without_later_fields(content)
            return web.Response(
                status=answer.status, body=content, content_type=answer.content_type
            )

    def session(self, **options):
        return ks.Session(KEY, self.base_url, **options)


def without_later_fields(content):
    told = json.loads(content)
    for item in told.get("items", [told]):
        for name in LATER_FIELDS:
            item.pop(name, None)
    return json.dumps(told).encode()


QUICK = {"speed": 1000, "pipeline_seconds": (2.0, 8.0)}


def make_front(count=120, *, is_old=True, drops=(), **options):
    options = {"superseded": 0, "pipeline_seconds": (4000.0, 5000.0)} | options
    box = Sandbox(ingestions=count, dialect="system-jobs", api_key=KEY, **options)
    return Front(box, is_old=is_old, drops=frozenset(drops))


@asynccontextmanager
async def fronted(count=120, *, session=None, **options):
    """A proxy before a server, and a session to it."""
    async with make_front(count, **options) as front, front.session(**(session or {})) as opened:
        yield front, opened


@contextmanager
def served_front(**options):
    """The same on a thread, so that commands can run loops of their own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    front = make_front(**options)
    try:
        asyncio.run_coroutine_threadsafe(front.__aenter__(), loop).result()
        try:
            yield front
        finally:
            asyncio.run_coroutine_threadsafe(front.__aexit__(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def ran(front):
    return Counter(effect.id for effect in front.box.effects if effect.kind == "rerun")


async def ids_in(walk):
    return [item.workflow_id async for item in walk]


@contextmanager
def refused_if_named(front, session):
    """A server that is not the one that was named may be refused, before anything is acted on."""
    try:
        yield
    except ks.InvalidResponse as error:
        assert front.is_old
        assert session
        assert "not as 'system-jobs'" in str(error)
        assert front.box.effects == []


OLD = {"is_old": True}
PARTLY = {"is_old": False, "drops": ("status",)}
every_server = pytest.mark.parametrize("server", [OLD, PARTLY], ids=["old", "drops status"])
every_session = pytest.mark.parametrize(
    "session", [{}, {"dialect": "system-jobs"}], ids=["found out", "by name"]
)


# --- walks ---


@pytest.mark.no_cover
@every_server
@every_session
@pytest.mark.parametrize("status", ["failed", ("failed", "cancelled"), ("completed",)])
@pytest.mark.parametrize("page_size", [7, 100])
async def test_a_status_that_the_server_ignores_is_honoured_here(
    server, session, status, page_size
):
    async with fronted(**server, session=session) as (front, opened):
        wanted = [status] if isinstance(status, str) else status
        with refused_if_named(front, session):
            walk = ks.iter_ingestion_workflows(opened, status=status, page_size=page_size)
            assert await ids_in(walk) == list(front.box.store.ids(*wanted))


@every_server
async def test_a_status_is_honoured_by_pages_limits_and_positions_too(server):
    async with fronted(**server) as (front, session):
        failed = list(front.box.store.ids("failed"))
        pages = [
            item.workflow_id
            async for page in ks.iter_ingestion_workflows(session, status="failed").pages()
            for item in page
        ]
        assert pages == failed
        some = ks.iter_ingestion_workflows(session, status="failed", limit=5)
        assert await ids_in(some) == failed[:5]
        async with ks.iter_ingestion_workflows(session, status="failed", page_size=10) as walk:
            first = [(await anext(walk)).workflow_id for _ in range(8)]
            position = walk.position
        rest = ks.iter_ingestion_workflows(session, status="failed", position=position)
        assert sorted({*first, *await ids_in(rest)}) == sorted(failed)


@pytest.mark.no_cover
@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("also", [{}, {"status": "failed"}], ids=["alone", "with a status"])
@pytest.mark.parametrize("is_old", [True, False], ids=["old", "drops it"])
async def test_times_that_the_server_ignores_are_honoured_here(name, also, is_old):
    async with fronted(is_old=is_old, drops=[name]) as (_, session):
        items = await ks.iter_ingestion_workflows(session)
        moments = sorted(map(time_in(name), items))
        moment = moments[len(moments) // 2]
        wanted = [
            item.workflow_id
            for item in items
            if (time_in(name)(item) >= moment) is name.endswith("_after")
            and str(item.status) == also.get("status", str(item.status))
        ]
        assert 0 < len(wanted) < len(items)
        walk = ks.iter_ingestion_workflows(session, **{name: moment}, **also)
        assert await ids_in(walk) == wanted


def time_in(name):
    """Where an item tells what a filter is about."""
    if name.startswith("created"):
        return lambda item: item.created_at
    return lambda item: item.last_state_update_timestamp or item.created_at


UNHONOURED = [
    {"name_like": "report"},
    {"latest_version_only": True},
    {"uploader_user_id": "00000000-0000-4000-8000-000000000000"},
    {"oldest_first": True},
    {"status": "failed", "name_like": "report"},
]
every_unhonoured = pytest.mark.parametrize("filters", UNHONOURED, ids="+".join)


@every_unhonoured
@pytest.mark.parametrize("is_known", [True, False], ids=["known", "unknown"])
async def test_what_the_server_ignores_and_items_dont_tell_is_an_error(filters, is_known):
    async with fronted() as (front, session):
        if is_known:
            await ks.list_ingestion_workflows(session)
        given = []
        with pytest.raises(ks.ConfigurationError, match="can't be honoured") as caught:
            async for item in ks.iter_ingestion_workflows(session, **filters):
                given.append(item)
        assert given == []
        assert list(filters)[-1] in str(caught.value)
        with pytest.raises(ks.ConfigurationError, match="can't be honoured"):
            await ks.iter_ingestion_workflows(session, **filters)
        with pytest.raises(ks.ConfigurationError, match="can't be honoured"):
            await anext(ks.iter_ingestion_workflows(session, **filters).pages())
        assert len(front.lists) < 12


@every_unhonoured
async def test_a_dialect_by_name_is_no_reason_to_ignore_a_filter(filters):
    async with fronted(session={"dialect": "system-jobs"}) as (_, session):
        with pytest.raises(ks.KnowledgeStackError):
            await ks.iter_ingestion_workflows(session, **filters)


async def test_a_server_that_has_the_filters_does_what_was_asked_for():
    async with fronted(is_old=False) as (front, session):
        ids = list(front.box.store.ids())
        oldest = ks.iter_ingestion_workflows(session, oldest_first=True)
        assert await ids_in(oldest) == ids[::-1]
        some = (await ks.list_ingestion_workflows(session)).items[3]
        named = await ids_in(ks.iter_ingestion_workflows(session, name_like=some.document_name))
        assert some.workflow_id in named
        assert len(named) < len(ids)
        # A list without items tells nothing of the server; it is no reason to refuse.
        for nothing in ({"name_like": "no-such-name"}, {"status": "quota_limit"}):
            assert await ids_in(ks.iter_ingestion_workflows(session, **nothing)) == []
        assert len(await ids_in(ks.iter_ingestion_workflows(session, latest_version_only=True)))


@pytest.mark.parametrize("is_old", [True, False], ids=["old", "new"])
@pytest.mark.parametrize("filters", [{"status": "quota_limit"}, {"name_like": "no-such-name"}])
async def test_a_first_list_without_items_spoils_nothing_that_follows(is_old, filters):
    async with fronted(is_old=is_old) as (front, session):
        if is_old and "name_like" in filters:
            with pytest.raises(ks.ConfigurationError):
                await ks.iter_ingestion_workflows(session, **filters)
        else:
            assert await ids_in(ks.iter_ingestion_workflows(session, **filters)) == []
        failed = await ids_in(ks.iter_ingestion_workflows(session, status="failed"))
        assert failed == list(front.box.store.ids("failed"))
        if not is_old:
            oldest = await ids_in(ks.iter_ingestion_workflows(session, oldest_first=True))
            assert oldest == list(front.box.store.ids())[::-1]


# --- a server that holds nothing ---


@every_server
async def test_a_server_that_holds_nothing_gives_nothing(server, tmp_path):
    async with fronted(0, **server) as (front, session):
        assert await ids_in(ks.iter_ingestion_workflows(session, status="failed")) == []
        failed = ks.iter_ingestion_workflows(session, status="failed")
        async with ks.rerun_ingestions(session, failed, journal=tmp_path / "job") as job:
            report = await job.finish()
        assert (report.counts, ran(front), front.bulk_requests) == ({}, Counter(), 0)


async def test_what_is_uploaded_to_a_server_that_held_nothing_tells_what_it_can():
    async with fronted(0) as (front, session):
        try:
            assert await ids_in(ks.iter_ingestion_workflows(session, name_like="x")) == []
        except ks.ConfigurationError as error:
            assert "can't be honoured" in str(error)
        front.box.store.add_ingestion("failed")
        front.box.store.add_ingestion("completed")
        with pytest.raises(ks.ConfigurationError, match="can't be honoured"):
            await ks.iter_ingestion_workflows(session, name_like="no-such-name")
        failed = await ids_in(ks.iter_ingestion_workflows(session, status="failed"))
        assert failed == list(front.box.store.ids("failed"))


# --- reruns ---


@pytest.mark.no_cover
@every_server
@every_session
@pytest.mark.parametrize("wait", [False, True], ids=["sent", "followed"])
async def test_only_those_that_failed_are_run_again(server, session, wait, tmp_path):
    async with fronted(**server, **QUICK, session=session) as (front, opened):
        failed = list(front.box.store.ids("failed"))
        source = ks.iter_ingestion_workflows(opened, status="failed")
        journal = tmp_path / "job"
        with refused_if_named(front, session):
            async with ks.rerun_ingestions(opened, source, journal=journal, wait=wait) as job:
                report = await job.finish()
            assert report.counts == {"accepted": len(failed)}
            assert ran(front) == Counter(failed)
        assert front.bulk_requests <= 1


@every_unhonoured
async def test_a_walk_that_cant_be_honoured_runs_nothing_again(filters, tmp_path):
    async with fronted() as (front, session):
        source = ks.iter_ingestion_workflows(session, **filters)
        with pytest.raises(ks.ConfigurationError, match="can't be honoured"):
            async with ks.rerun_ingestions(session, source, journal=tmp_path / "job") as job:
                await job.finish()
        assert front.box.effects == []
        assert not [one for one in front.box.requests if one.method == "POST"]
        # Nothing of it stays: the same journal is good for what can be honoured.
        source = ks.iter_ingestion_workflows(session, status="cancelled")
        async with ks.rerun_ingestions(session, source, journal=tmp_path / "job") as job:
            await job.finish()
    assert set(ran(front).values()) == {1}
    assert len(job.report.items) == len(ran(front)) < 10


@pytest.mark.parametrize("answer", [UNROUTED, NAMED], ids=["unrouted", "named"])
@pytest.mark.parametrize("given", ["ids", "summaries", "walk"])
@every_session
async def test_a_missing_bulk_route_costs_one_request_a_session_at_most(
    answer, given, session, tmp_path
):
    """Two jobs, each with more than would go in one request."""
    options = {"statuses": {"failed": 1.0}, "session": {"clock": QuickClock(50)} | session}
    async with fronted(40, **QUICK, **options) as (front, opened):
        front.bulk_answer = answer
        ids = list(front.box.store.ids())
        with refused_if_named(front, session):
            for number, part in enumerate((ids[:20], ids[20:])):
                source = part
                if given == "summaries":
                    found = await ks.iter_ingestion_workflows(opened)
                    source = [one for one in found if one.workflow_id in part]
                if given == "walk":
                    source = ks.iter_ingestion_workflows(opened, status="failed", limit=20)
                async with asyncio.timeout(8):
                    async with ks.rerun_ingestions(
                        opened, source, journal=tmp_path / str(number), max_in_flight=4
                    ) as job:
                        report = await job.finish()
                assert report.counts == {"accepted": 20}
            assert ran(front) == Counter(ids)
        assert front.bulk_requests <= 1


# --- an upgrade, or a way back, in the middle ---

MOVES = pytest.mark.parametrize("is_old", [True, False], ids=["upgraded", "rolled back"])


def turn_at(front, number, matches=lambda _request: True):
    """Become the other kind of server at the so-manieth request that matches."""
    left = [number]

    def count(request):
        if matches(request):
            left[0] -= 1
            if left[0] == 0:
                front.is_old = not front.is_old

    front.on_request = count


@pytest.mark.no_cover
@MOVES
@pytest.mark.parametrize("at", [2, 3, 5, 8, 12])
@pytest.mark.parametrize("filters", [{}, {"status": "failed"}, {"status": ("failed", "completed")}])
async def test_a_walk_through_a_change_gives_what_was_asked_for_once(is_old, at, filters):
    async with fronted(300, is_old=is_old) as (front, session):
        wanted = list(front.box.store.ids(*given(filters)))
        await ks.list_ingestion_workflows(session)
        turn_at(front, at)
        walk = ks.iter_ingestion_workflows(session, page_size=20, **filters)
        try:
            found = await ids_in(walk)
        except ks.WalkError:
            return  # it is told, at least
        assert found == wanted


def given(filters):
    status = filters.get("status", ())
    return [status] if isinstance(status, str) else list(status)


@pytest.mark.no_cover
@pytest.mark.parametrize("at", [1, 2, 3, 5])
@pytest.mark.parametrize(
    "filters", [{"oldest_first": True}, {"name_like": "report"}, {"latest_version_only": True}]
)
async def test_a_walk_that_can_no_more_be_honoured_says_so(filters, at):
    async with fronted(300, is_old=False) as (front, session):
        async with front.session() as other:
            wanted = await ids_in(ks.iter_ingestion_workflows(other, page_size=20, **filters))
        await ks.list_ingestion_workflows(session)
        turn_at(front, at)
        found = []
        try:
            async for item in ks.iter_ingestion_workflows(session, page_size=20, **filters):
                found.append(item.workflow_id)
        except ks.KnowledgeStackError as error:
            assert isinstance(error, ks.ConfigurationError | ks.WalkError)
        else:
            assert found == wanted
        assert found == wanted[: len(found)]


@MOVES
@pytest.mark.parametrize("at", [1, 4, 9])
async def test_a_job_through_a_change_runs_those_that_failed_once(is_old, at, tmp_path):
    def is_post(request):
        return request.method == "POST"

    options = {"statuses": {"failed": 0.5, "completed": 0.5}, "session": {"clock": QuickClock(10)}}
    async with fronted(120, is_old=is_old, **QUICK, **options) as (front, session):
        failed = list(front.box.store.ids("failed"))
        turn_at(front, at, is_post)
        source = ks.iter_ingestion_workflows(session, status="failed")
        async with ks.rerun_ingestions(
            session, source, journal=tmp_path / "job", max_in_flight=6
        ) as job:
            report = await job.finish()
        assert report.counts == {"accepted": 60}
        assert ran(front) == Counter(failed)
        assert front.bulk_requests <= 2  # two may be on their way when it changes


@pytest.mark.no_cover
@MOVES
@pytest.mark.parametrize("at", [2, 3, 4])
async def test_a_job_whose_planning_goes_through_a_change_runs_those_that_failed_once(
    is_old, at, tmp_path
):
    async with fronted(300, is_old=is_old) as (front, session):
        failed = list(front.box.store.ids("failed"))
        turn_at(front, at)
        source = ks.iter_ingestion_workflows(session, status="failed", page_size=20)
        job = ks.rerun_ingestions(session, source, journal=tmp_path / "job")
        try:
            async with job:
                report = await job.finish()
        except ks.WalkError:
            assert not ran(front)
            return
        assert report.counts == {"accepted": len(failed)}
        assert ran(front) == Counter(failed)


RUNNING = {
    "statuses": {"processing": 0.6, "completed": 0.4},
    "pipeline_seconds": (40.0, 41.0),
}


@asynccontextmanager
async def stepped(count, **options):
    clock = SteppedClock()
    settings = {"clock": Stepping(clock)}
    async with fronted(count, clock=clock, session=settings, **options) as found:
        yield found


@pytest.mark.no_cover
@MOVES
@pytest.mark.parametrize("count", [3, 60, None], ids=["few", "many", "everything"])
@pytest.mark.parametrize("at", [2, 6])
async def test_a_watch_through_a_change_tells_each_end_once(is_old, count, at):
    async with stepped(150, is_old=is_old, **RUNNING) as (front, session):
        active = front.box.store.ids("processing")
        ids = None if count is None else active[:count]
        turn_at(front, at)
        async with ks.watch_ingestions(session, ids, deadline=200) as watch:
            changes = [change async for change in watch]
    ended = Counter(change.workflow_id for change in changes if change.is_final)
    assert ended == Counter(front.box.store.ids() if ids is None else ids)
    assert {change.current for change in changes if change.is_final} == {"completed"}
    assert not [change for change in changes if change.kind == "missing"]


# --- what a watch costs ---


async def cost_of(front, session, ids):
    """Requests a tick of a watch where everything goes on; the first ticks are not counted."""
    at = Counter()

    def count(_request):
        at[session.clock.now()] += 1

    front.on_request = count
    async with ks.watch_ingestions(session, ids, deadline=150) as watch:
        _ = [change async for change in watch]
    costs = list(at.values())[2:]
    assert len(costs) >= 6
    return sum(costs) / len(costs)


@pytest.mark.no_cover
@pytest.mark.parametrize("count", [None, 60], ids=["everything", "many"])
async def test_a_watch_of_a_server_without_filters_reads_the_list_once_a_tick(count):
    slow = RUNNING | {"pipeline_seconds": (4000.0, 4001.0)}
    async with stepped(400, **slow) as (front, session):
        ids = None if count is None else front.box.store.ids("processing")[:count]
        assert await cost_of(front, session, ids) <= 4.5  # its pages are four


async def test_a_watch_of_a_server_with_filters_reads_what_is_active():
    slow = {"statuses": {"processing": 0.02, "completed": 0.98}}
    slow["pipeline_seconds"] = (4000.0, 4001.0)
    async with stepped(400, is_old=False, **slow) as (front, session):
        assert await cost_of(front, session, None) <= 3


# --- the command line ---


@pytest.fixture(params=[OLD, PARTLY], ids=["old", "drops status"])
def front(request):
    with served_front(**request.param) as served:
        yield served


@pytest.fixture
def old():
    with served_front() as served:
        yield served


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path):
    return make_cli(monkeypatch, capsys, tmp_path)


def test_the_command_line_lists_those_that_failed(cli, front):
    cli.aim_at(front)
    failed = list(front.box.store.ids("failed"))
    result = cli("ingestions", "list", "--status", "failed", "-o", "ids")
    assert (result.code, result.out.split()) == (0, failed)
    several = cli("ingestions", "list", "-s", "failed", "-s", "cancelled", "-o", "ids")
    assert several.out.split() == list(front.box.store.ids("failed", "cancelled"))
    few = cli("ingestions", "list", "-s", "failed", "-n", "3", "-o", "ids")
    assert few.out.split() == failed[:3]


def test_a_dry_run_counts_those_that_failed(cli, front):
    cli.aim_at(front)
    failed = list(front.box.store.ids("failed"))
    rerun = ("ingestions", "rerun", "--status", "failed", "--dry-run")
    result = cli(*rerun)
    assert result.code == 0
    assert result.out.startswith(f"Would run again:  {len(failed)}\n")
    assert f"By status:        {len(failed)} failed\n" in result.out
    assert cli(*rerun, "-o", "ids").out.split() == failed
    told = json.loads(cli(*rerun, "-o", "json").out)
    assert (told["targets"], told["by_status"]) == (len(failed), {"failed": len(failed)})
    assert front.box.effects == []


@pytest.mark.no_cover
def test_the_command_line_reruns_those_that_failed(cli, front):
    cli.aim_at(front)
    failed = list(front.box.store.ids("failed"))
    result = cli("ingestions", "rerun", "--status", "failed", "--yes")
    assert result.code == 0
    assert f"Of {len(failed)}: {len(failed)} accepted." in result.err
    assert ran(front) == Counter(failed)
    assert front.bulk_requests <= 1


def test_the_command_line_watches_those_that_failed(cli, front):
    cli.aim_at(front)
    failed = list(front.box.store.ids("failed"))
    result = cli("watch", "--status", "failed", "-o", "ids", "--deadline", "5")
    assert result.code == 0
    assert sorted(result.out.split()) == sorted(failed)


def test_a_status_that_none_has_is_nothing_to_do(cli, front):
    cli.aim_at(front)
    for command in (
        ("ingestions", "rerun", "--yes"),
        ("ingestions", "rerun", "--dry-run"),
        ("watch",),
    ):
        result = cli(*command, "--status", "quota_limit")
        assert result.code == 0
        assert "No ingestions are quota_limit now: nothing to do." in result.err
    assert front.box.effects == []


@pytest.mark.parametrize(
    "option",
    [
        ("--name-like", "report"),
        ("--latest-version-only",),
        ("--uploader", "00000000-0000-4000-8000-000000000000"),
        ("--oldest-first",),
    ],
    ids=lambda option: option[0],
)
def test_the_command_line_refuses_what_cant_be_honoured(cli, old, option):
    cli.aim_at(old)
    result = cli("ingestions", "list", *option, "-o", "ids")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("Error: ")
    assert f"{option[0]} can't be honoured" in result.err


def test_the_command_line_applies_times(cli, old):
    cli.aim_at(old)
    everything = cli("ingestions", "list", "-o", "ndjson").out.splitlines()
    items = [json.loads(line) for line in everything]
    created = [datetime.fromisoformat(item["created_at"]) for item in items]
    moment = sorted(created)[60]
    wanted = [i["workflow_id"] for i, at in zip(items, created, strict=True) if at >= moment]
    told = cli("ingestions", "list", "--created-after", moment.isoformat(), "-o", "ids")
    assert told.out.split() == wanted
    assert len(wanted) == 60
    later = datetime.now(UTC) + timedelta(days=400)
    assert not cli("ingestions", "list", "--created-after", later.isoformat(), "-o", "ids").out
