"""The runner of the docs as a process of its own; the sandbox plays the dispatcher."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import knowledgestack_async as ks
from knowledgestack_async.sandbox import Fault, Sandbox

EXAMPLE = Path(__file__).parent.parent / "docs" / "examples" / "runner.py"
CALLBACK = "send_workflow_run_callback"

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="SIGTERM ends a process at once there"
)


@asynccontextmanager
async def example_runner(
    sandbox: Sandbox, home: Path, **settings: str
) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """The example at work: its webhook, and its process."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    known = {
        "KS_API_KEY": sandbox.api_key,
        "KS_BASE_URL": sandbox.base_url,
        "KS_WEBHOOK_SECRET": sandbox.webhook_secret,
        "PORT": str(port),
        "RUNNER_SPOOL": str(home / "outcomes.db"),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", str(EXAMPLE)),
        env=os.environ | known | settings,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        await asyncio.wait_for(process.stdout.readuntil(b"Running on"), 30)
        yield f"http://127.0.0.1:{port}/runs", process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(ingestions=0, runs=0) as running:
        yield running


async def test_it_answers_at_once_works_and_reports(sandbox, tmp_path):
    async with example_runner(sandbox, tmp_path, RUNNER_WORK_SECONDS="0.05") as (url, process):
        assert await sandbox.dispatch_run(url, secret="not the secret") == 401
        run_id = sandbox.store.runs.ids()[0]
        assert await sandbox.dispatch_run(url, run_id) == 202
        assert await sandbox.dispatch_run(url, run_id) == 202
        async with sandbox.session() as session:
            run = await ks.wait_for_workflow_run(session, run_id, deadline=20)
        assert run.status == "COMPLETED"
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 10) == 0
    [report] = [r for r in sandbox.requests if r.route == CALLBACK]
    assert report.headers["Authorization"] == f"Bearer {sandbox.run_token(run_id)}"


async def test_sigterm_lets_short_work_end_and_reports_long_work_as_cancelled(sandbox, tmp_path):
    drained = (("0.4", "10", "COMPLETED", None), ("60", "0.05", "FAILED", "cancelled"))
    for seconds, patience, status, error in drained:
        settings = {"RUNNER_WORK_SECONDS": seconds, "RUNNER_DRAIN_SECONDS": patience}
        async with example_runner(sandbox, tmp_path, **settings) as (url, process):
            run = sandbox.store.add_run("PENDING")
            assert await sandbox.dispatch_run(url, run.id) == 202
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 15) == 0
        assert (run.status, run.error) == (status, error)


async def test_what_a_killed_runner_left_is_delivered_by_the_next(sandbox, tmp_path):
    reported = asyncio.Event()
    hidden = sandbox.faults.add(Fault("silence", route=CALLBACK))
    sandbox.before_request = lambda request: request.route == CALLBACK and reported.set()
    async with example_runner(sandbox, tmp_path, RUNNER_WORK_SECONDS="0") as (url, process):
        run = sandbox.store.add_run("PENDING")
        await sandbox.dispatch_run(url, run.id)
        await reported.wait()
        process.kill()
        await process.wait()
    assert run.status == "RUNNING"
    hidden.remove()
    async with example_runner(sandbox, tmp_path), sandbox.session() as session:
        assert (await ks.wait_for_workflow_run(session, run.id)).status == "COMPLETED"
