"""A program that can import nothing any more once its sessions are open, as when the disk is gone.

Or one that has hardly a file descriptor left. It imports no more than a user of the SDK would.
"""

import asyncio
import contextlib
import json
import logging
import os
import pickle
import sys

import knowledgestack_async as ks
from knowledgestack_async import deliver_spooled, report_outcome, rerun_ingestions, run_with_limit

ID, RUN = "w-1", "0f4a2c1e-8f4a-4f0e-9f60-0a5f3c1d2e3f"
late: list[str] = []


class Nothing:
    """Finds no module, and remembers what was looked for."""

    def find_spec(self, name, *_):
        late.append(name)
        raise ModuleNotFoundError(f"nothing can be imported any more, {name} neither", name=name)


async def outcome_of(work):
    """What comes of a call: its error's name, or its result's."""
    try:
        result = await work
    except ks.KnowledgeStackError as error:
        again = pickle.loads(pickle.dumps(error))
        assert str(again) == str(error)
        return type(error).__name__
    return type(result).__name__


async def read(session, place):
    return [await outcome_of(ks.get_workflow_status(session, ID))]


async def read_all_kinds(session, place):
    found = [
        await ks.get_workflow_status(session, ID),
        await ks.get_ingestion_workflow(session, ID),
        await ks.get_workflow_run(session, RUN),
        await ks.list_ingestion_workflows(session),
    ]
    for one in found:
        again = pickle.loads(pickle.dumps(one))
        assert (again, again.raw) == (one, one.raw)
        assert one.to_dict()
        assert one.extra is not None
    return [type(one).__name__ for one in found]


async def act(session, place):
    return [
        await outcome_of(ks.rerun_ingestion_workflow(session, ID)),
        await outcome_of(ks.cancel_workflow(session, ID)),
        await outcome_of(ks.send_workflow_run_callback(session, RUN, "FAILED", error="é")),
        await outcome_of(ks.delete_workflow_run(session, RUN)),
        await outcome_of(session.request("POST", "/v1/x", json={"a": [1.5, "é"]})),
        await outcome_of(session.request("GET", "/v1/x", params={"a": "é"})),
    ]


async def follow_route(session, place):
    some = (await ks.list_ingestion_workflows(session.with_options())).items[0]
    other = ks.Session(session_key, session.base_url, retry=session_retry)
    async with other:
        found = await outcome_of(ks.get_ingestion_workflow(other, some.workflow_id))
        return [found, other.dialect, await outcome_of(ks.get_workflow_status(other, "none"))]


async def walk(session, place):
    it = ks.iter_ingestion_workflows(session, page_size=20, status=["failed", "completed"])
    first = [item.workflow_id async for item in it]
    again = ks.iter_ingestion_workflows(session, limit=30)
    given = [item.workflow_id async for item in again]
    later = [item async for item in ks.iter_ingestion_workflows(session, position=again.position)]
    return [len(set(first)) > 100, len(given), len(later) > 0]


async def poll(session, place):
    page = await ks.list_ingestion_workflows(session)
    ids = [item.workflow_id for item in page.items]
    results = [result async for result in ks.poll_workflow_statuses(session, [*ids, "none"])]
    return sorted({type(result.status or result.error).__name__ for result in results})


async def watch(session, place):
    page = await ks.list_ingestion_workflows(session)
    done = [item.workflow_id for item in page.items if item.is_terminal]
    async with ks.watch_ingestions(session, [*done, "none"]) as changes:
        told = {change.kind.name async for change in changes}
    waited = await outcome_of(ks.wait_for_ingestion(session, done[0]))
    late_one = await outcome_of(ks.wait_for_workflow_run(session, RUN, deadline=0.1))
    return [*sorted(told), waited, late_one]


async def rerun_many(session, place):
    failed = ks.iter_ingestion_workflows(session, status="failed")
    async with rerun_ingestions(session, failed, journal=f"{place}/j", concurrency=4) as job:
        told = [outcome.state.name async for outcome in job]
    return [len(told), sorted(job.report.counts)]


async def report(session, place):
    spool = f"{place}/spool"
    states = []
    for fails in (False, True):
        with contextlib.suppress(ValueError):
            async with report_outcome(session, RUN, spool=spool) as outcome:
                if fails:
                    raise ValueError("no good: é")
        states.append([outcome.status, outcome.delivered, outcome.spooled])
    left = await deliver_spooled(session, spool)
    return [*states, len(left.left)]


async def work(session, place):
    async def do(run):
        await asyncio.sleep(0)
        raise ValueError(run.id)

    try:
        await run_with_limit(session, RUN, do, spool=f"{place}/spool")
    except ValueError as error:
        return [type(error).__name__, *getattr(error, "__notes__", ())]


async def be_wrong(session, place):
    wrong = [
        lambda: ks.list_ingestion_workflows(session, page=0),
        lambda: ks.get_workflow_status(session, "a/b"),
        lambda: session.request("GET", "x"),
        lambda: session.request("POST", "/x", json=object()),
        lambda: ks.send_workflow_run_callback(session, RUN, "DONE"),
        lambda: ks.wait_for_ingestion(session, ID, deadline=-1),
    ]
    return sorted({await outcome_of(one()) for one in wrong})


async def be_cancelled(session, place):
    task = asyncio.create_task(ks.get_workflow_status(session, ID))
    await asyncio.sleep(0.05)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    in_flight = [
        asyncio.create_task(outcome_of(ks.rerun_ingestion_workflow(session, ID))),
        asyncio.create_task(outcome_of(ks.get_workflow_status(session, ID))),
    ]
    await asyncio.sleep(0.05)
    await session.__aexit__(None, None, None)
    return await asyncio.gather(*in_flight)


# With hardly a descriptor left


async def shortage(session, place):
    import resource

    free = os.dup(0)
    os.close(free)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 8, most))
    page = await ks.list_ingestion_workflows(session)
    ids = [item.workflow_id for item in page.items]
    gets = [outcome_of(ks.get_workflow_status(session, id_)) for id_ in ids]
    got = await asyncio.gather(*gets, return_exceptions=True)
    polled = [result async for result in ks.poll_workflow_statuses(session, ids)]
    walked = outcome_of(_collect(ks.iter_ingestion_workflows(session, page_size=5)))
    kinds = [
        *(one if isinstance(one, str) else f"bare {type(one).__name__}" for one in got),
        *(type(one.status or one.error).__name__ for one in polled),
        *[await walked],
    ]
    return [len(polled), sorted(set(kinds))]


async def shortage_in_a_job(session, place):
    import resource

    page = await ks.list_ingestion_workflows(session)
    ids = [item.workflow_id for item in page.items if item.status == "failed"]
    async with rerun_ingestions(session, ids, journal=f"{place}/j", concurrency=30) as job:
        free = os.dup(0)
        os.close(free)
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 8, most))
        told = [outcome.state.name async for outcome in job]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return [len(told) == len(ids), sorted(set(told))]


async def _collect(walk):
    return [item async for item in walk]


def session_for(scenario, url, proxy):
    dialect = "auto" if scenario in {"follow_route", "walk", "rerun_many"} else "documented"
    options = {"retry": session_retry, "timeout": 0.4, "dialect": dialect, "proxy": proxy}
    return ks.Session(session_key, url, **options)


async def main(cases):
    logging.getLogger("knowledgestack_async").setLevel(logging.DEBUG)
    logging.getLogger("knowledgestack_async").addHandler(logging.NullHandler())
    found = {}
    async with contextlib.AsyncExitStack() as stack:
        opened = [
            await stack.enter_async_context(session_for(scenario, url, proxy))
            for _, scenario, url, _, proxy in cases
        ]
        if not cases[0][1].startswith("shortage"):
            sys.meta_path[:] = [Nothing()]
        for session, (name, scenario, _, place, _) in zip(opened, cases, strict=True):
            try:
                result = await globals()[scenario](session, place)
            except BaseException as error:
                result = f"bare {type(error).__name__}: {error}"
            found[name] = [result, [*late]]
            late.clear()
    return found


session_key = "sk-user-imports"
session_retry = ks.RetryPolicy(tries=3, base_delay=0.01)
os.write(1, json.dumps(asyncio.run(main(json.loads(sys.argv[1])))).encode())
