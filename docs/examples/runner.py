"""A self-hosted runner: takes dispatches, answers at once, works, reports, and drains on SIGTERM.

Needs KS_API_KEY, KS_BASE_URL and KS_WEBHOOK_SECRET; point the workflow's webhook to /runs.
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator

from aiohttp import web

import knowledgestack_async as ks

SECRET = os.environ["KS_WEBHOOK_SECRET"]
SPOOL = os.environ.get("RUNNER_SPOOL", "outcomes.db")
DRAIN_SECONDS = float(os.environ.get("RUNNER_DRAIN_SECONDS", "20"))
logger = logging.getLogger("runner")
SESSION = web.AppKey("session", ks.Session)
RUNS = web.AppKey("runs", dict[str, asyncio.Task[None]])


async def work(run: ks.WorkflowRunResponse) -> None:
    """Do what the run asks for; yours goes here."""
    logger.info("working on %s: %s", run.id, run.run_snapshot)
    await asyncio.sleep(float(os.environ.get("RUNNER_WORK_SECONDS", "1")))


async def execute(session: ks.Session, run_id: str, token: str) -> None:
    """Do a run's work, and report how it ended."""
    try:
        await ks.run_with_limit(session, run_id, work, token=token, spool=SPOOL, hide=[SECRET])
    except Exception:
        logger.exception("run %s", run_id)


async def take_dispatch(request: web.Request) -> web.Response:
    """Answer at once; the work goes on behind it."""
    body = await request.read()
    if not ks.verify_webhook(SECRET, body, request.headers.get("X-KS-Signature")):
        return web.Response(status=401)
    told = json.loads(body)
    run_id, runs = told["run_id"], request.app[RUNS]
    if run_id not in runs:  # the same dispatch may come twice
        work_on_it = execute(request.app[SESSION], run_id, told["token"])
        runs[run_id] = asyncio.create_task(work_on_it)
        runs[run_id].add_done_callback(lambda _: runs.pop(run_id))
    return web.Response(status=202)


async def live(app: web.Application) -> AsyncIterator[None]:
    """Open the session, deliver what the last process left; in the end let the runs finish."""
    async with ks.Session() as session:
        app[SESSION], app[RUNS] = session, {}
        late = asyncio.create_task(ks.deliver_spooled(session, SPOOL, token=SECRET))
        yield
        if runs := set(app[RUNS].values()):
            _, unfinished = await asyncio.wait(runs, timeout=DRAIN_SECONDS)
            for task in unfinished:
                task.cancel()  # reports FAILED: cancelled
        late.cancel()
        await asyncio.gather(late, *runs, return_exceptions=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    runner = web.Application()
    runner.add_routes([web.post("/runs", take_dispatch)])
    runner.cleanup_ctx.append(live)
    web.run_app(runner, host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
