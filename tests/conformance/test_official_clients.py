"""The official clients and ours read the same from equal sandboxes, call by call."""

import asyncio
import json
import os
from datetime import datetime
from pathlib import Path

import pytest
from comparison import Comparison, lines

import knowledgestack_async as ks
from knowledgestack_async._dialects import Route
from knowledgestack_async.sandbox import Sandbox, SteppedClock
from knowledgestack_async.sandbox.records import to_text

PEERS = Path(os.environ["KS_PEERS"])
READER = Path(__file__).with_name("official_client.py")
NOWHERE = "00000000-0000-4000-8000-000000000000"

# Each client's version, its server's generation, and how that wrote runs.
CLIENTS = {
    "1.67.0": ("offset", "status"),
    "1.120.0": ("offset", "execution_state"),
    "1.150.0": ("system-jobs-unfiltered", "run_folders"),
    "3.13.1": ("system-jobs-unfiltered", "run_folders"),
    "3.18.2": ("system-jobs", "run_folders"),
}
MIX = {"completed": 0.3, "failed": 0.25, "processing": 0.2, "pending": 0.15, "cancelled": 0.1}


def make_sandbox(version):
    """Equal ones each time: the clock moves with what changes something, and with nothing else."""
    dialect, run_shape = CLIENTS[version]
    mix = MIX if version == "1.67.0" else MIX | {"completed": 0.2, "quota_limit": 0.1}
    clock = SteppedClock()
    sandbox = Sandbox(
        ingestions=40,
        runs=8,
        seed=11,
        dialect=dialect,
        run_shape=run_shape,
        clock=clock,
        statuses=mix,
        superseded=0.3,
    )
    if run_shape != "status":
        sandbox.store.add_run("NOT_STARTED")
    sandbox.before_request = lambda sent: clock.advance(0.1 if sent.method != "GET" else 0)
    return sandbox


def plan_steps(version, store):
    """Every call, on ingestions and runs of every status, what is refused included."""
    ids = store.ids()
    steps = [("list", {"limit": 7, "offset": start}) for start in range(0, 49, 7)]
    steps += [("list", {}), ("list", {"limit": 100, "offset": 0})]
    steps += [(call, {"workflow_id": id_}) for id_ in ids for call in ("get", "status")]
    for call, some in (("cancel", ids[::3]), ("rerun", ids[::2]), ("cancel", ids[::4])):
        for id_ in [*some, NOWHERE]:
            steps += [(also, {"workflow_id": id_}) for also in (call, "get", "status")]
    steps += [("list", {"limit": 100, "offset": 0})]
    runs = store.runs.ids()
    steps += [("get_run", {"run_id": id_}) for id_ in [*runs, NOWHERE]]
    for place, id_ in enumerate([*runs, NOWHERE]):
        outcome = ("COMPLETED", "FAILED")[place % 2]
        report = {"run_id": id_, "status": outcome}
        report |= {"error": "out of pages"} if outcome == "FAILED" else {}
        report |= {"token": store.get_run(id_).token} if place < 2 else {}
        steps += [("delete_run", {"run_id": id_})] if place > 3 else []
        steps += [("callback", report), ("callback", report), ("get_run", {"run_id": id_})]
        steps += [("delete_run", {"run_id": id_}), ("get_run", {"run_id": id_})]
    if version == "3.18.2":
        versions = [store.get(id_).document_version_id for id_ in ids[1::3]]
        steps += [("bulk_rerun", {"ids": [*versions, NOWHERE]})]
        steps += [("list", filters) for filters in plan_filters(store)]
    return steps


def plan_filters(store):
    some = store.get(store.ids()[15])
    created = to_text(some.created)
    return [
        {"status": ["failed"]},
        {"status": ["completed", "quota_limit"], "limit": 100},
        {"name_like": some.document_name[2:7], "limit": 100},
        {"latest_version_only": True, "limit": 100},
        {"uploader_user_id": some.uploader.user_id, "limit": 100},
        {"created_after": created, "limit": 100},
        {"created_before": created, "limit": 100},
        {"updated_after": created, "limit": 100},
        {"updated_before": created, "limit": 100},
        {"sort_dir": "ASC", "limit": 100},
    ]


async def ask_official_client(version, sandbox, steps):
    python = PEERS / f"ksapi-{version}" / "bin" / "python"
    work = {"base_url": sandbox.base_url, "api_key": sandbox.api_key, "steps": steps}
    process = await asyncio.create_subprocess_exec(
        python, READER, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate(json.dumps(work).encode())
    assert process.returncode == 0
    return json.loads(printed)


class OurClient:
    """Takes the same steps as the official client, with our functions."""

    def __init__(self, session):
        self.session = session
        self.calls = {
            "list": self.list,
            "get": ks.get_ingestion_workflow,
            "rerun": ks.rerun_ingestion_workflow,
            "status": ks.get_workflow_status,
            "cancel": ks.cancel_workflow,
            "bulk_rerun": self.bulk_rerun,
            "get_run": ks.get_workflow_run,
            "delete_run": ks.delete_workflow_run,
            "callback": ks.send_workflow_run_callback,
        }

    async def take(self, name, arguments):
        try:
            made = await self.calls[name](self.session, **arguments)
        except ks.ResponseError as error:
            body = {"detail": error.message, "code": error.code}
            return {"status": error.status, "body": body}
        return {"value": "nothing" if made is None else made}

    async def list(self, session, limit=20, offset=0, **filters):
        if not filters:
            return await ks.list_ingestion_workflows(
                session, page=offset // limit + 1, page_size=limit
            )
        for name in ("created_after", "created_before", "updated_after", "updated_before"):
            if name in filters:
                filters[name] = datetime.fromisoformat(filters[name])
        filters["oldest_first"] = filters.pop("sort_dir", "") == "ASC"
        walk = ks.iter_ingestion_workflows(session, page_size=limit, **filters)
        return {"items": await walk, "total": walk.total, "limit": limit, "offset": offset}

    async def bulk_rerun(self, session, ids):
        path = session.capabilities.paths[Route.BULK_RERUN]
        answer = await session.request("POST", path, json={"document_version_ids": ids})
        return answer.json


def comparable(result):
    """What both read: each request has an id of its own, and what they don't read is tested apart."""
    result.get("body", {}).pop("request_id", None)
    return {name: value for name, value in result.items() if name != "foreign"}


@pytest.fixture(scope="module")
def official():
    """What each official client read; asked once."""
    read = {}

    async def ask(version):
        if version not in read:
            async with make_sandbox(version) as sandbox:
                steps = plan_steps(version, sandbox.store)
                read[version] = await ask_official_client(version, sandbox, steps)
        return read[version]

    return ask


@pytest.mark.timeout(300)
@pytest.mark.parametrize("version", CLIENTS)
async def test_the_sandbox_sends_what_that_generation_had_and_nothing_else(version, official):
    foreign = {name for result in await official(version) for name in result.get("foreign", ())}
    assert foreign == set()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("found_out", [False, True], ids=["told", "found-out"])
@pytest.mark.parametrize("version", CLIENTS)
async def test_reads_the_same(version, found_out, official):
    steps = plan_steps(version, make_sandbox(version).store)
    read = await official(version)
    comparison = Comparison()
    async with make_sandbox(version) as sandbox:
        spoken = CLIENTS[version][0]
        async with sandbox.session(dialect="auto" if found_out else spoken) as session:
            client = OurClient(session)
            for place, (name, arguments) in enumerate(steps):
                theirs = comparable(read[place])
                ours = await client.take(name, dict(arguments))
                told = ", ".join(f"{key}={value}" for key, value in arguments.items())
                comparison.compare(f"step {place}, {name}({told})", theirs, ours)
    results = zip(steps, read, strict=True)
    assert {name for (name, _), result in results if "value" in result} == {
        name for name, _ in steps
    }
    assert comparison.compared > 3000
    if comparison.differences:
        pytest.fail("\n".join(lines(comparison.differences)), pytrace=False)
    assert session.dialect == spoken
