"""The sandbox's store: order, indexes, pipelines on a stepped clock, runs."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowledgestack_async.sandbox import (
    ConflictError,
    Filters,
    NotFoundError,
    RunningClock,
    SteppedClock,
    Store,
)
from knowledgestack_async.sandbox.index import SequenceIndex, select
from knowledgestack_async.sandbox.material import apportion, plan_run
from knowledgestack_async.sandbox.records import to_moment, to_text

MIX = {"completed": 0.5, "failed": 0.3, "processing": 0.1, "pending": 0.05, "cancelled": 0.05}


@pytest.fixture
def clock():
    return SteppedClock()


@pytest.fixture
def store(clock):
    made = Store(clock=clock)
    made.seed_ingestions(20, MIX)
    return made


def shown(store, *statuses):
    return Filters(statuses=frozenset(statuses))


def test_a_stepped_clock_stands_still_and_never_goes_back():
    clock = SteppedClock(start=10.0)
    clock.advance(2.5)
    assert clock.now() == clock.now() == 12.5
    with pytest.raises(ValueError, match="go back"):
        clock.advance(-1)


def test_a_running_clock_runs_as_fast_as_told():
    clock = RunningClock(speed=1e6, start=5.0)
    first = clock.now()
    assert first >= 5.0
    assert clock.now() > first


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3000), max_size=60), st.integers(0, 2**32), st.booleans())
def test_a_slice_of_indexes_is_a_slice_of_their_sorted_union(actions, seed, oldest_first):
    indexes, present = [SequenceIndex(), SequenceIndex()], [set(), set()]
    for number in actions:
        which = number % 2
        if number in present[which]:
            indexes[which].remove(number)
            present[which].remove(number)
        else:
            indexes[which].add(number)
            present[which].add(number)
    draws = Random(seed)
    low, high = sorted(draws.choices(range(3200), k=2))
    start, size = draws.randrange(20), draws.randrange(30)
    union = sorted(present[0] | present[1], reverse=not oldest_first)
    expected = [number for number in union if low <= number < high]
    got = select(indexes, range(low, high), start, size, oldest_first=oldest_first)
    assert got == (expected[start : start + size], len(expected))
    assert [len(index) for index in indexes] == [len(numbers) for numbers in present]


def test_shares_are_kept_exactly():
    assert apportion(20, MIX) == {
        "completed": 10,
        "failed": 6,
        "processing": 2,
        "pending": 1,
        "cancelled": 1,
    }
    assert apportion(2, {"a": 1, "b": 1, "c": 1}) == {"a": 1, "b": 1, "c": 0}
    with pytest.raises(ValueError, match="positive"):
        apportion(3, {"a": 0.0})
    with pytest.raises(ValueError, match="positive"):
        apportion(3, {"a": 2.0, "b": -1.0})


def test_moments_are_written_in_utc():
    time = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    assert to_text(to_moment(time)) == "2026-01-02T03:04:05.000006Z"
    assert to_moment(time.replace(tzinfo=None)) == to_moment(time)


def test_the_list_is_newest_first_and_seeded(store, clock):
    items, total = store.list(0, 100)
    created = [item.created for item in items]
    assert total == len(store) == len(set(created)) == 20
    assert created == sorted(created, reverse=True)
    assert Counter(item.row.status for item in items) == {
        "completed": 10,
        "failed": 6,
        "processing": 2,
        "pending": 1,
        "cancelled": 1,
    }
    assert all((item.row.error is not None) == (item.row.status == "failed") for item in items)
    assert all(item.created / 1e6 < clock.now() for item in items)
    again = Store(clock=SteppedClock())
    again.seed_ingestions(20, MIX)
    assert again.ids() == store.ids()
    assert [item.row for item in again.list(0, 100)[0]] == [item.row for item in items]
    other = Store(seed=1, clock=SteppedClock())
    other.seed_ingestions(20, MIX)
    assert not set(other.ids()) & set(store.ids())


def test_a_past_is_only_for_an_empty_store(store):
    with pytest.raises(ValueError, match="empty"):
        store.seed_ingestions(1, MIX)


def test_the_share_of_superseded_ones(clock):
    store = Store(clock=clock)
    store.seed_ingestions(100, MIX, 0.05)
    superseded = [item for item in store.list(0, 100)[0] if item.superseded]
    assert len(superseded) == 3
    assert {item.row.status for item in superseded} == {"completed"}


def test_a_page_starts_anywhere_and_runs_both_ways(store):
    ids = store.ids()
    assert [item.workflow_id for item in store.list(5, 3)[0]] == ids[5:8]
    backwards, total = store.list(5, 3, oldest_first=True)
    assert ([item.workflow_id for item in backwards], total) == (ids[::-1][5:8], 20)
    assert store.list(30, 5) == ([], 20)


def test_arrivals_come_in_at_the_front_and_gaps_close(store):
    ids = store.ids()
    newer = store.add_ingestion("completed", document_name="a.pdf", workflow_id="mine")
    newest = store.add_ingestion()
    store.remove_ingestion(ids[3])
    assert store.ids() == [newest.workflow_id, "mine", *ids[:3], *ids[4:]]
    assert newest.created > newer.created
    assert (newer.row.status, newest.row.status) == ("completed", "pending")
    with pytest.raises(NotFoundError, match="not found"):
        store.get(ids[3])
    with pytest.raises(NotFoundError):
        store.remove_ingestion(ids[3])
    with pytest.raises(ConflictError, match="exists"):
        store.add_ingestion(workflow_id="mine")


def test_an_upload_of_a_given_time_still_comes_last(store):
    later = datetime(2030, 1, 1, tzinfo=UTC)
    first = store.add_ingestion("failed", created_at=later, error="told")
    second = store.add_ingestion("failed", created_at=later - timedelta(days=1))
    assert (first.created, second.created) == (to_moment(later), to_moment(later) + 1)
    assert first.row.error == "told"
    assert second.row.error not in {None, "told"}


def test_the_first_ingestion_of_an_empty_store():
    store = Store()
    added = store.add_ingestion()
    assert store.get_version(added.document_version_id) is added
    assert store.list() == ([added], 1)
    with pytest.raises(NotFoundError, match="version"):
        store.get_version("none")


def test_a_pipeline_runs_from_pending_to_its_outcome(clock):
    store = Store(clock=clock, pipeline_seconds=(10, 10))
    ingestion = store.add_ingestion()
    created = ingestion.created
    assert (ingestion.row.status, ingestion.row.last_activity) == ("pending", "Queued")
    assert ingestion.row.last_run == created
    seen = [ingestion.row]
    for _ in range(22):
        clock.advance(0.5)
        row = store.get(ingestion.workflow_id).row
        if row != seen[-1]:
            seen.append(row)
    assert [row.status for row in seen] == ["pending", *["processing"] * 4, "completed"]
    assert len({row.last_activity for row in seen}) == 6
    chunks = [row.chunks for row in seen[1:]]
    assert chunks == sorted(chunks)
    assert chunks[-1] > chunks[0] == 0
    assert seen[1].last_run == created + 2_000_000
    assert seen[-1].last_update == created + 10_000_000 == ingestion.engine.close
    assert ingestion.engine.status == "COMPLETED"


def test_outcomes_follow_their_weights_and_explain_themselves(clock):
    outcomes = {"failed": 1.0, "cancelled": 1.0, "quota_limit": 1.0}
    store = Store(clock=clock, rerun_outcomes=outcomes)
    ingestions = [store.add_ingestion() for _ in range(60)]
    clock.advance(10)
    store.list()
    counts = Counter(ingestion.row.status for ingestion in ingestions)
    assert set(counts) == set(outcomes)
    words = {(item.row.status, item.engine.status) for item in ingestions}
    assert words == {("failed", "FAILED"), ("cancelled", "CANCELED"), ("quota_limit", "FAILED")}
    texts = [item.row.error for item in ingestions if item.row.status == "failed"]
    assert len(set(texts)) > 5
    assert all((item.row.error is None) == (item.row.status == "cancelled") for item in ingestions)


def test_a_plan_without_variation():
    plan = plan_run(Random(0), {"failed": 1}, (4.0, 4.0))
    assert plan[0].after == 0
    assert plan[-1].after == 4_000_000
    assert plan[-1].status == "failed"


def test_seeded_open_runs_end_by_themselves(store, clock):
    processing = store.ids("processing")
    assert len(processing) == 2
    clock.advance(60)
    assert store.ids("processing", "pending") == []
    assert len(store.ids("completed")) == 13
    assert store.get(processing[0]).row.status == "completed"


def test_a_rerun_begins_anew(store, clock):
    workflow_id = store.ids("failed")[0]
    before = store.get(workflow_id)
    old_run, old_time = before.engine.run_id, before.row.last_run
    after = store.rerun(workflow_id)
    assert (after.row.status, after.row.error) == ("pending", None)
    assert after.engine.run_id != old_run
    assert after.row.last_run == old_time
    assert (after.engine.status, after.engine.close) == ("RUNNING", None)
    with pytest.raises(ConflictError, match="in progress") as caught:
        store.rerun(workflow_id)
    assert caught.value.reason == "in_progress_workflow"
    clock.advance(10)
    assert store.get(workflow_id).row.status == "completed"
    assert store.get(workflow_id).row.last_run > old_time


def test_a_superseded_version_is_not_rerun(store):
    workflow_id = store.ids("failed")[0]
    store.set_superseded(workflow_id)
    with pytest.raises(ConflictError, match="supersedes"):
        store.rerun(workflow_id)
    store.set_superseded(workflow_id, superseded=False)
    store.rerun(workflow_id)


def test_after_a_rerun_the_list_is_stale_for_a_while(clock):
    store = Store(clock=clock, stale_after_rerun=3, pipeline_seconds=(4, 4))
    workflow_id = store.add_ingestion("failed").workflow_id
    ingestion = store.rerun(workflow_id)
    assert (ingestion.row.status, ingestion.shown.status) == ("pending", "failed")
    assert store.ids("failed") == [workflow_id]
    clock.advance(2)
    assert store.get(workflow_id).row.status == "processing"
    assert store.ids("failed") == [workflow_id]
    clock.advance(1)
    assert store.ids("processing") == [workflow_id]
    assert store.ids("failed") == []
    clock.advance(1)
    assert store.ids("completed") == [workflow_id]


def test_cancelling(store, clock):
    workflow_id = store.ids("pending")[0]
    ingestion = store.cancel(workflow_id)
    assert (ingestion.row.status, ingestion.engine.status) == ("cancelled", "CANCELED")
    clock.advance(60)
    assert store.get(workflow_id).row.status == "cancelled"
    with pytest.raises(ConflictError, match="finished"):
        store.cancel(workflow_id)


def test_a_status_set_by_hand_stays(store, clock):
    workflow_id = store.ids("failed")[0]
    old_run = store.get(workflow_id).engine.run_id
    store.set_status(workflow_id, "processing")
    ingestion = store.get(workflow_id)
    assert ingestion.engine.run_id != old_run
    assert ingestion.row.last_run == ingestion.row.last_update
    clock.advance(60)
    assert store.ids("processing") == [workflow_id]
    store.set_status(workflow_id, "a-new-word", "why")
    assert store.ids("a-new-word") == [workflow_id]
    assert (ingestion.row.error, ingestion.engine.status) == ("why", "COMPLETED")
    pending = store.add_ingestion("pending")
    clock.advance(60)
    assert store.get(pending.workflow_id).row.status == "pending"
    assert pending.engine.close is None


def test_what_was_removed_does_not_come_back(store, clock):
    workflow_id = store.ids("pending")[0]
    store.remove_ingestion(workflow_id)
    clock.advance(60)
    assert workflow_id not in store.ids()
    assert len(store) == 19


def test_filters_narrow_the_list(store):
    items, _ = store.list(0, 20)
    store.set_superseded(items[4].workflow_id)
    user = items[2].uploader.user_id
    middle, name = items[10], items[7].document_name

    def found(**wanted):
        filters = Filters(**wanted)
        assert store.list(0, 1, filters)[1] == len(store.list(0, 20, filters)[0])
        return list(store.list(0, 20, filters)[0])

    assert found(statuses=frozenset({"failed", "pending"})) == [
        item for item in items if item.row.status in {"failed", "pending"}
    ]
    assert found(statuses=frozenset({"unheard-of"})) == []
    assert found(name_like=name.upper()) == [items[7]]
    assert found(latest_version_only=True) == [item for item in items if item != items[4]]
    assert found(uploader_user_id=user) == [i for i in items if i.uploader.user_id == user]
    assert found(created_after=middle.created) == list(items[:11])
    assert found(created_before=middle.created) == list(items[11:])
    updated = middle.row.last_update
    assert found(updated_after=updated) == [i for i in items if i.row.last_update >= updated]
    assert found(updated_before=updated) == [i for i in items if i.row.last_update < updated]
    assert store.list(0, 2, Filters(latest_version_only=True), oldest_first=True) == (
        [items[-1], items[-2]],
        19,
    )


@pytest.mark.no_cover
def test_a_hundred_thousand_are_no_sweat():
    store = Store(clock=SteppedClock())
    store.seed_ingestions(100_000, MIX)
    page, total = store.list(60_000, 100)
    assert (len(page), total) == (100, 100_000)
    assert store.list(0, 1, shown(store, "failed", "cancelled"))[1] == 35_000


def test_runs_live_and_end_once(clock):
    store = Store(clock=clock)
    run = store.add_run()
    assert store.get_run(run.id) is run
    assert run.started is None
    assert store.callback(run.id, "FAILED", "broken")
    assert not store.callback(run.id, "COMPLETED")
    assert (run.status, run.error, run.started) == ("FAILED", "broken", run.completed)
    other = store.add_run("RUNNING")
    assert store.callback(other.id, "COMPLETED", "ignored")
    assert other.error is None
    assert store.runs.ids() == [run.id, other.id]
    store.delete_run(other.id)
    with pytest.raises(NotFoundError, match="not found"):
        store.get_run(other.id)


def test_a_running_run_is_not_deleted_unless_allowed(clock):
    store = Store(clock=clock)
    run = store.add_run("RUNNING")
    with pytest.raises(ConflictError, match="running"):
        store.delete_run(run.id)
    store.delete_run(run.id, running=True)
    assert store.runs.ids() == []


def test_runs_start_and_the_newest_is_found(clock):
    store = Store(clock=clock)
    first, second = store.add_run(), store.add_run()
    assert store.runs.newest("PENDING") is second
    assert store.runs.start(second.id).status == "RUNNING"
    assert store.runs.newest("PENDING") is first
    assert store.runs.newest("FAILED") is None
    store.callback(first.id, "COMPLETED")
    with pytest.raises(ConflictError, match="finished"):
        store.runs.start(first.id)


def test_the_watchdog_ends_runs_that_take_too_long(clock):
    store = Store(clock=clock, run_watchdog=True)
    slow = store.add_run("RUNNING", max_run_duration_seconds=40)
    deleted = store.add_run("RUNNING", max_run_duration_seconds=40)
    quick = store.add_run("PENDING", max_run_duration_seconds=40)
    store.runs.start(quick.id)
    store.callback(quick.id, "COMPLETED")
    store.delete_run(deleted.id, running=True)
    assert store.get_run(slow.id).status == "RUNNING"
    clock.advance(60)
    assert store.get_run(slow.id).status == "FAILED"
    assert slow.error == "The run took longer than 40 seconds"
    assert store.get_run(quick.id).status == "COMPLETED"
