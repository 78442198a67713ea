"""The same user code against all three generations of the API, and finding out which one is talking."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import knowledgestack_async as ks
from knowledgestack_async.sandbox import Fault, Sandbox
from support import KEY, FakeClock, assert_within, ids_of, run_id_of

DIALECTS = ("documented", "offset", "system-jobs")
LISTS = {"list_ingestion_workflows", "no_route"}


@pytest.fixture(params=DIALECTS)
async def box(request):
    async with Sandbox(ingestions=250, runs=4, dialect=request.param, speed=100) as sandbox:
        yield sandbox


@pytest.fixture
async def user(box):
    async with box.session(clock=FakeClock()) as session:
        yield session


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_all_eight_endpoints_work(dialect):
    async with Sandbox(ingestions=250, runs=4, dialect=dialect) as box:  # at a pace of its own
        async with box.session(clock=FakeClock()) as user:
            await call_all_eight_endpoints(box, user)


async def call_all_eight_endpoints(box, user):
    failed, going = ids_of(box, "failed")[0], ids_of(box, "processing")[0]
    page = await ks.list_ingestion_workflows(user, page=2, page_size=50)
    assert (page.page, page.page_size, page.total, len(page.items)) == (2, 50, 250, 50)
    detail = await ks.get_ingestion_workflow(user, failed)
    assert detail.execution_status == "FAILED"
    assert detail.duration > timedelta(0)
    assert (await ks.rerun_ingestion_workflow(user, failed)).workflow_id == failed
    assert (await ks.get_workflow_status(user, going)).execution_status
    waiting = ids_of(box, "pending")[0]
    assert (await ks.cancel_workflow(user, waiting)).workflow_id == waiting
    run_id = run_id_of(box, "RUNNING")
    run = await ks.get_workflow_run(user, run_id)
    assert run.status == ks.WorkflowRunStatus.RUNNING
    assert run.raw.get("status", run.raw.get("execution_state")) in {"RUNNING", "IN_PROGRESS"}
    assert run.user_id
    assert (await ks.send_workflow_run_callback(user, run_id, "COMPLETED")).status == "accepted"
    assert (await ks.send_workflow_run_callback(user, run_id, "FAILED")).already_terminal
    await ks.delete_workflow_run(user, run_id)
    with pytest.raises(ks.NotFound):
        await ks.get_workflow_run(user, run_id)
    assert user.dialect == box.dialect


async def test_a_walk_gives_everything_once_and_newest_first(box, user):
    found = await ks.iter_ingestion_workflows(user, page_size=30)
    assert [item.workflow_id for item in found] == list(box.store.ids())
    assert [item.created_at for item in found] == sorted(
        (i.created_at for i in found), reverse=True
    )


@pytest.mark.no_cover
async def test_failed_ones_are_found_rerun_and_waited_for(box, user):
    failed = await ks.iter_ingestion_workflows(user, status=ks.IngestionStatus.FAILED, limit=3)
    for before in failed:
        await ks.rerun_ingestion_workflow(user, before.workflow_id)
    async with box.session() as patient:
        waits = (ks.wait_for_ingestion(patient, b.workflow_id, after=b, deadline=5) for b in failed)
        assert {done.status for done in await asyncio.gather(*waits)} == {"completed"}


async def test_the_right_first_guess_costs_nothing(box):
    async with box.session(dialect=box.dialect) as session:
        await ks.list_ingestion_workflows(session)
        await ks.get_ingestion_workflow(session, ids_of(box, "failed")[0])
    assert len(box.requests) == 2


@pytest.mark.parametrize(
    ("dialect", "most"), [("documented", 1), ("offset", 2), ("system-jobs", 3)]
)
async def test_finding_out_costs_two_requests_at_most(dialect, most):
    async with Sandbox(ingestions=5, dialect=dialect) as box, box.session() as session:
        await ks.list_ingestion_workflows(session)
        assert len(box.requests) == most
        await ks.list_ingestion_workflows(session)
        assert len(box.requests) == most + 1


async def test_what_was_learned_is_shared_by_concurrent_tasks(caplog):
    async with Sandbox(ingestions=250, dialect="system-jobs") as box:
        async with box.session(max_in_flight=100) as session:
            with caplog.at_level(logging.INFO, logger="knowledgestack_async"):
                found = await asyncio.gather(
                    *(ks.get_workflow_status(session, one) for one in box.store.ids())
                )
    assert len(found) == 250
    assert box.request_counts["list_ingestion_workflows"] == 1
    assert (
        box.request_counts["no_route"] <= 60
    )  # those that were in flight meanwhile, and one probe
    told = [r.getMessage() for r in caplog.records if "dialect" in r.getMessage()]
    assert told == ["the server speaks the dialect 'system-jobs'"]


async def test_a_real_404_stays_one_and_is_looked_into_once(box, user):
    for number in range(20):
        with pytest.raises(ks.NotFound):
            await ks.get_ingestion_workflow(user, f"nobody-{number}")
    probes = [request for request in box.requests if request.route in LISTS]
    assert len(probes) <= (2 if box.dialect != "system-jobs" else 4)


async def test_a_post_to_a_route_that_is_not_there_goes_to_the_one_that_is(box, user):
    failed = ids_of(box, "failed")[0]
    await ks.rerun_ingestion_workflow(user, failed)
    assert [(effect.kind, effect.id) for effect in box.effects] == [("rerun", failed)]


@pytest.mark.parametrize("later", DIALECTS)
async def test_a_server_that_changes_its_generation_is_followed(box, user, later):
    ids = list(box.store.ids())
    await ks.list_ingestion_workflows(user)
    box.switch_dialect(later)
    assert (await ks.get_ingestion_workflow(user, ids[3])).workflow_id == ids[3]
    assert [item.workflow_id for item in await ks.iter_ingestion_workflows(user)] == ids
    assert user.dialect == later


@pytest.mark.parametrize("later", DIALECTS)
async def test_a_change_of_generation_during_a_walk_loses_nothing(box, user, later):
    ids = list(box.store.ids())
    walk = ks.iter_ingestion_workflows(user, page_size=40)
    found = [(await anext(walk)).workflow_id for _ in range(60)]
    box.switch_dialect(later)
    found += [item.workflow_id async for item in walk]
    assert found == ids


@pytest.mark.parametrize(("status", "kind"), [(401, ks.Unauthorized), (500, ks.ServerError)])
async def test_a_probe_that_meets_trouble_decides_nothing(status, kind, clock):
    async with Sandbox(ingestions=5, dialect="system-jobs") as box:
        box.faults.add(Fault("status", status=status, route="list_ingestion_workflows", times=5))
        box.faults.add(Fault("status", status=404, route="no_route"))
        async with box.session(clock=clock, retry=ks.RetryPolicy(tries=1)) as session:
            for _ in range(5):
                with pytest.raises(kind):
                    await ks.get_workflow_status(session, box.store.ids()[0])
                assert session.dialect == "documented"
            assert await ks.get_workflow_status(session, box.store.ids()[0])
            assert session.dialect == "system-jobs"


async def test_a_list_that_this_key_may_not_read_is_there(clock):
    async with Sandbox(ingestions=5, dialect="system-jobs") as box:
        box.faults.add(Fault("status", status=403, route="list_ingestion_workflows"))
        async with box.session(clock=clock) as session:
            for _ in range(5):
                assert await ks.get_workflow_status(session, box.store.ids()[0])
                # Only items would tell that it can more.
                assert session.dialect == "system-jobs-unfiltered"
        assert box.request_counts["list_ingestion_workflows"] == 1


async def test_a_confirmed_dialect_is_asked_about_again_after_half_a_minute_only(clock):
    async with Sandbox(ingestions=5) as box, box.session(clock=clock) as session:
        for seconds, probes in ((0, 4), (29, 4), (2, 6)):
            clock.time += seconds
            with pytest.raises(ks.NotFound):
                await ks.get_workflow_status(session, "nobody")
            with pytest.raises(ks.NotFound):
                await ks.get_workflow_status(session, "nobody")
            asked = [request for request in box.requests if request.route in LISTS]
            assert len(asked) <= probes
        assert box.request_counts["get_workflow_status"] == 6


async def test_a_probe_ends_with_the_deadline(clock):
    async with Sandbox(ingestions=5, dialect="system-jobs") as box:
        box.faults.add(Fault("silence", route="list_ingestion_workflows"))
        async with box.session(deadline=0.05) as session:

            async def measure():
                began = time.monotonic()
                with pytest.raises(ks.RequestError):
                    await ks.get_workflow_status(session, "w")
                return time.monotonic() - began

            await assert_within(0.3, measure)


async def test_no_list_route_at_all_is_not_found(clock):
    async with Sandbox(ingestions=5) as box:
        box.faults.add(Fault("status", status=404, route="list_ingestion_workflows"))
        async with box.session(clock=clock) as session:
            with pytest.raises(ks.NotFound):
                await ks.list_ingestion_workflows(session)


async def test_a_dialect_by_name_is_not_guessed_about():
    async with Sandbox(ingestions=5, dialect="offset") as box:
        async with box.session(dialect="documented") as session:
            told = "^GET /v1/workflows/document_versions: .* 'offset', not as 'documented'"
            with pytest.raises(ks.InvalidResponse, match=told):
                await ks.list_ingestion_workflows(session)
        async with box.session(dialect="system-jobs") as session:
            with pytest.raises(ks.NotFound):
                await ks.list_ingestion_workflows(session)
    with pytest.raises(ks.ConfigurationError, match="dialect"):
        ks.Session(KEY, dialect="klingon")


def rewriting(change: Any) -> Any:
    """A hook that changes every item of a page, or the one object of another answer."""

    def rewrite(_request: object, body: Any) -> Any:
        for item in body.get("items", [body]) if isinstance(body, dict) else ():
            change(item)
        return body

    return rewrite


async def test_an_unknown_status_is_kept(box, user):
    box.rewrite_answer = rewriting(lambda item: item.update(status="hibernating"))
    found = await ks.iter_ingestion_workflows(
        user, status="hibernating" if box.dialect != "system-jobs" else None
    )
    assert {item.status for item in found} == {"hibernating"}
    assert len(found) == 250
    assert found[0].is_terminal


async def test_an_unknown_field_is_passed_on(box, user):
    box.rewrite_answer = rewriting(lambda item: item.update(mood="fine"))
    page = await ks.list_ingestion_workflows(user)
    assert page.items[0].extra == {"mood": "fine"}
    detail = await ks.get_ingestion_workflow(user, page.items[0].workflow_id)
    assert detail.extra["mood"] == "fine"


async def test_a_missing_optional_field_is_none(box, user):
    box.rewrite_answer = rewriting(
        lambda item: [item.pop(n, None) for n in ("error", "last_activity")]
    )
    assert {item.error for item in await ks.iter_ingestion_workflows(user)} == {None}


async def test_null_for_an_absent_object_is_none(box, user):
    box.rewrite_answer = rewriting(
        lambda item: item.update(uploader=None, run_snapshot=None, triggered_by=None)
    )
    assert (await ks.list_ingestion_workflows(user)).items[0].uploader is None
    run = await ks.get_workflow_run(user, run_id_of(box))
    assert run.run_snapshot is None
    assert run.triggered_by is None


async def test_extra_keys_of_an_envelope_are_passed_on(box, user):
    box.rewrite_answer = lambda _r, body: body | {"took_ms": 3}
    assert (await ks.list_ingestion_workflows(user)).extra == {"took_ms": 3}
    assert len(await ks.iter_ingestion_workflows(user)) == 250


@pytest.mark.parametrize("size", [7, 20, 99])
@pytest.mark.parametrize("prefetch", [0, None, 4])
async def test_a_page_size_other_than_the_one_asked_for_loses_nothing(box, user, size, prefetch):
    box.settings.honoured_page_size = size
    found = await ks.iter_ingestion_workflows(user, prefetch=prefetch)
    assert [item.workflow_id for item in found] == list(box.store.ids())


@pytest.mark.no_cover
@pytest.mark.parametrize("prefetch", [0, None])
@pytest.mark.parametrize("grows", [True, False])
async def test_a_total_that_moves_during_the_walk_loses_nothing(box, user, grows, prefetch):
    ids = list(box.store.ids())
    removed = set(ids[10:200:7])
    doomed = iter(removed)

    def change(_request: object) -> None:
        if grows:
            for _ in range(5):
                box.store.add_ingestion()
        else:
            for one in [one for one, _ in zip(doomed, range(4), strict=False)]:
                box.store.remove_ingestion(one)

    box.before_request = change
    found = [
        item.workflow_id
        for item in await ks.iter_ingestion_workflows(user, page_size=25, prefetch=prefetch)
    ]
    assert len(found) == len(set(found))
    staying = [one for one in ids if grows or one in set(box.store.ids())]
    assert [one for one in found if one in set(staying)] == staying


async def test_filters_are_honoured_or_refused_but_never_ignored(box, user):
    some = box.store.list(100, 1)[0][0]
    moment = (await ks.get_ingestion_workflow(user, some.workflow_id)).created_at
    ids = list(box.store.ids())
    younger = await ks.iter_ingestion_workflows(user, created_after=moment)
    assert [item.workflow_id for item in younger] == ids[:101]
    older = await ks.iter_ingestion_workflows(user, created_before=moment)
    assert [item.workflow_id for item in older] == ids[101:]
    everything = datetime(2001, 1, 1, tzinfo=UTC)
    assert len(await ks.iter_ingestion_workflows(user, updated_after=everything)) == 250
    assert not await ks.iter_ingestion_workflows(user, updated_before=everything)
    both = await ks.iter_ingestion_workflows(user, status=["failed", "cancelled"])
    assert {item.status for item in both} == {"failed", "cancelled"}
    for filters in (
        {"name_like": some.document_name[:9]},
        {"latest_version_only": True},
        {"uploader_user_id": "00000000-0000-0000-0000-000000000000"},
        {"oldest_first": True},
    ):
        walk = ks.iter_ingestion_workflows(user, **filters)
        if box.dialect == "system-jobs":
            assert len(await walk) <= 250
        else:
            with pytest.raises(ks.ConfigurationError, match="can't be honoured"):
                await walk


async def test_oldest_first_where_the_server_can():
    async with Sandbox(ingestions=250, dialect="system-jobs") as box, box.session() as session:
        found = await ks.iter_ingestion_workflows(session, oldest_first=True)
        assert [item.workflow_id for item in found] == list(box.store.ids())[::-1]


@pytest.mark.no_cover
@pytest.mark.parametrize("prefetch", [None, 0, 4, 16])
async def test_a_walk_among_steady_arrivals_ends_and_loses_nothing(prefetch):
    async with Sandbox(ingestions=250, dialect="system-jobs") as box:
        ids = list(box.store.ids())
        box.before_request = lambda _request: [box.store.add_ingestion() for _ in range(30)]
        async with box.session(dialect="system-jobs") as session:
            walk = ks.iter_ingestion_workflows(session, page_size=50, prefetch=prefetch)
            found = [item.workflow_id for item in await walk]
        assert len(found) == len(set(found))
        staying = set(ids)
        assert [one for one in found if one in staying] == ids
        assert len(box.requests) <= 100
        # A fence at the first item would keep out what is created later and listed among the rest.
        assert not [request for request in box.requests if "created_before" in dict(request.query)]


async def test_both_forms_of_error_bodies_are_read(box, user):
    with pytest.raises(ks.NotFound) as caught:
        await ks.get_workflow_run(user, "00000000-0000-0000-0000-000000000000")
    modern = box.dialect == "system-jobs"
    assert caught.value.code == ("not_found" if modern else None)
    assert bool(caught.value.request_id) is modern
    with pytest.raises(ks.UnprocessableEntity) as invalid:
        await ks.get_workflow_run(user, "not-a-uuid")
    assert invalid.value.fields[0].location == ("path", "run_id")
    box.faults.add(Fault("status", status=409, body=b"", headers={"X-Request-Id": "r-9"}))
    with pytest.raises(ks.Conflict) as bare:
        await ks.get_workflow_run(user, run_id_of(box))
    assert modern or bare.value.request_id == "r-9"
