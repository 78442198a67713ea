"""What is held by counting rather than by the clock, so that it can't slip unseen on a busy machine."""

import asyncio
import gc
import json
import subprocess
import sys
from collections import Counter

import pytest

import knowledgestack_async as ks
from knowledgestack_async._codec import decode_summary_page
from knowledgestack_async.sandbox import Sandbox, SteppedClock
from support import Stepping

ITEMS = 100
EARLIER = {
    "workflow_id": "ingest-{}",
    "document_id": "document-{}",
    "document_version_id": "version-{}",
    "status": "failed",
    "last_activity": "step {}",
    "error": "reason {}",
    "last_run_timestamp": "2026-07-01T12:00:00.5Z",
    "last_state_update_timestamp": "2026-07-01T12:00:01.5Z",
    "created_at": "2026-07-01T11:59:59.5Z",
}
LATER = {
    "document_name": "name {}",
    "materialized_path": "/path/{}",
    "is_active_version": True,
    "uploader": {"user_id": "user-{}", "first_name": "Ada {}", "last_name": "Lovelace {}"},
}


def numbered(value, number):
    if isinstance(value, dict):
        return {name: numbered(part, number) for name, part in value.items()}
    return value.format(number) if isinstance(value, str) else value


def page_of(item):
    items = [numbered(item, number) for number in range(ITEMS)]
    return json.dumps({"items": items, "total": ITEMS, "limit": ITEMS, "offset": 0}).encode()


def imported_by(statement):
    script = f"import sys; {statement}; print(*sys.modules)"
    return set(subprocess.check_output([sys.executable, "-c", script], text=True).split())


def test_the_import_stays_beside_aiohttps():
    more = imported_by("import knowledgestack_async") - imported_by("import aiohttp")
    heavy = {"cattrs", "click", "rich", "sqlite3", "uvloop", "knowledgestack_async.sandbox"}
    assert not more & (heavy | {"knowledgestack_async.cli"})
    foreign = {name for name in more if not name.startswith("knowledgestack_async")}
    assert len(foreign) <= 70, sorted(foreign)


# An item is itself, a text or a time for each of its fields, and its place in the page; with the
# later fields also the uploader, with texts and a place of its own.
@pytest.mark.no_cover
@pytest.mark.parametrize(("item", "blocks"), [(EARLIER, 14), (EARLIER | LATER, 24)])
def test_a_decoded_item_takes_few_allocations(item, blocks):
    body = page_of(item)
    decode_summary_page(body)
    gc.collect()
    before = sys.getallocatedblocks()
    page = decode_summary_page(body)
    taken = sys.getallocatedblocks() - before
    assert len(page.items) == ITEMS
    assert taken / ITEMS <= blocks


@pytest.mark.parametrize(("item", "calls"), [(EARLIER, 1.2), (EARLIER | LATER, 1.2)])
def test_decoding_a_page_hardly_runs_any_python_for_an_item(item, calls):
    body = page_of(item)
    counted = 0

    def count(_frame, event, _argument):
        nonlocal counted
        counted += event == "call"

    decode_summary_page(body)
    profiler = sys.getprofile()
    sys.setprofile(count)
    try:
        decode_summary_page(body)
    finally:
        sys.setprofile(profiler)
    assert counted / ITEMS <= calls


# Windows overlap, which proves that nothing is missing between them: by an item where the server
# takes offsets, by what a size can be found for where it numbers its pages.
@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("dialect", "more"), [("documented", 1.15), ("offset", 1.02), ("system-jobs", 1.02)]
)
async def test_a_walk_takes_few_requests(dialect, more):
    options = {"dialect": dialect, "clock": SteppedClock(), "record": False}
    async with Sandbox(ingestions=10_000, **options) as sandbox:
        async with sandbox.session(dialect=dialect) as session:
            walked = await ks.iter_ingestion_workflows(session)
        assert len(walked) == 10_000
        assert sandbox.request_counts["list_ingestion_workflows"] <= 100 * more


# Offsets are swept as numbered pages are; the soak test of the watch has all three.
@pytest.mark.parametrize("dialect", ["documented", "system-jobs"])
async def test_a_tick_that_watches_10_000_takes_a_hundred_requests(dialect):
    running = {"statuses": {"processing": 1.0}, "pipeline_seconds": (1000.0, 1001.0)}
    options = {"dialect": dialect, "clock": SteppedClock(), "record": False, "superseded": 0}
    requests = Counter()
    async with Sandbox(ingestions=10_000, **running, **options) as sandbox:
        clock = Stepping(options["clock"])  # a tick waits for the end of the one before it
        async with sandbox.session(dialect=dialect, clock=clock) as session:
            watch = ks.watch_ingestions(session, sandbox.store.ids())
            async with watch, asyncio.timeout(60):
                sandbox.before_request = lambda _: requests.update([watch._poller.ticks])
                while watch._poller.ticks < 3:
                    await asyncio.sleep(0.01)
    assert 100 <= requests[1] <= 102
    assert 100 <= requests[2] <= 102


@pytest.mark.no_cover
@pytest.mark.parametrize(("dialect", "requests"), [("offset", 1_000), ("system-jobs", 5)])
async def test_rerunning_what_was_just_read_takes_no_request_but_the_reruns(
    dialect, requests, tmp_path
):
    options = {"dialect": dialect, "clock": SteppedClock(), "record": False, "superseded": 0}
    async with Sandbox(ingestions=1_000, statuses={"failed": 1.0}, **options) as sandbox:
        async with sandbox.session(dialect=dialect) as session:
            failed = await ks.iter_ingestion_workflows(session)
            before = sandbox.request_counts.copy()
            async with ks.rerun_ingestions(session, failed, journal=tmp_path / "j") as job:
                assert (await job.finish()).counts == {"accepted": 1_000}
        assert (Counter(sandbox.request_counts) - Counter(before)).total() == requests
