"""Outcomes on the disk: written before they are sent, gone when they are delivered, never lost."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import sys
import threading
from contextlib import closing

import pytest
from runner_kills import add_noise, check_nothing_is_lost, count_decided, kill_runners, run_child

import knowledgestack_async as ks
from knowledgestack_async._clock import MonotonicClock
from knowledgestack_async._database import Database
from knowledgestack_async._spool import Spool, SpoolEntry
from knowledgestack_async.api.reporting import deliver_spooled, report_outcome, run_with_limit
from knowledgestack_async.sandbox import Fault, Sandbox
from support import KEY, FakeClock

CALLBACK = "send_workflow_run_callback"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "spools" / "outcomes.db"


@pytest.fixture
def run(sandbox):
    return sandbox.store.add_run("RUNNING")


def rows(path):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT run_id, status, error FROM outcomes").fetchall()


async def leave(session, sandbox, path, runs, *, fails=False):
    """Outcomes that could not be delivered."""
    refusal = sandbox.faults.add(Fault("status", status=403, route=CALLBACK))
    for run in runs:
        async with report_outcome(session, run.id, spool=path) as outcome:
            if fails:
                outcome.fail(f"{run.id} failed")
        assert (outcome.delivered, outcome.spooled) == (False, True)
    refusal.remove()


def entry_of(number, server="https://one"):
    return SpoolEntry(server, f"run-{number}", "FAILED", "why")


# Reporting with a spool


async def test_an_outcome_is_on_the_disk_before_it_is_sent_and_gone_afterwards(
    sandbox, session, run, path
):
    seen = []
    sandbox.before_request = lambda _request: seen.append(rows(path))
    async with report_outcome(session, run.id, spool=path) as outcome:
        outcome.fail("no good")
    assert seen == [[(run.id, "FAILED", "no good")]]
    assert rows(path) == []
    assert outcome.delivered
    assert not outcome.spooled
    assert outcome.already_terminal is False
    assert sys.platform == "win32" or path.stat().st_mode & 0o077 == 0


async def test_what_a_server_has_already_is_not_kept(sandbox, session, path):
    run = sandbox.store.add_run("COMPLETED")
    async with report_outcome(session, run.id, spool=path) as outcome:
        pass
    assert outcome.already_terminal is True
    assert rows(path) == []


async def test_a_run_that_is_gone_is_told_and_not_kept(session, path):
    gone = "00000000-0000-4000-8000-000000000000"
    with pytest.raises(ks.NotFound):
        async with report_outcome(session, gone, spool=path) as outcome:
            pass
    assert (outcome.delivered, outcome.spooled) == (False, False)
    assert rows(path) == []


@pytest.mark.parametrize(
    ("answer", "is_kept"),
    [
        (Fault("status", status=404, body=b"404 page not found\n"), True),
        (Fault("status", status=404, body=b'{"detail": "Not Found"}'), True),
        (Fault("status", status=404, body=b'{"detail": "Workflow run x not found"}'), False),
        (Fault("status", status=410, body=b""), False),
        (Fault("status", status=409, body=b'{"detail": "not now"}'), True),
    ],
)
async def test_an_outcome_is_given_up_only_where_the_api_says_that_the_run_is_gone(
    sandbox, session, run, path, answer, is_kept
):
    await leave(session, sandbox, path, [run])
    fault = sandbox.faults.add(answer)
    report = await deliver_spooled(session, path)
    assert (list(report.left), list(report.gone)) == (([run.id], []) if is_kept else ([], [run.id]))
    other = sandbox.store.add_run("RUNNING")
    try:
        async with report_outcome(session, other.id, spool=path) as outcome:
            pass
    except ks.ResponseError:
        assert not is_kept
    assert outcome.spooled is is_kept
    assert len(rows(path)) == 2 * is_kept
    fault.remove()
    assert len((await deliver_spooled(session, path)).delivered) == 2 * is_kept


async def test_what_cant_be_delivered_is_kept_and_told_in_the_log(
    sandbox, session, run, path, caplog
):
    sandbox.faults.add(Fault("reset", when="before"))
    async with report_outcome(session, run.id, spool=path) as outcome:
        pass
    assert isinstance(outcome.problem, ks.OutcomeUnknown)
    assert (outcome.delivered, outcome.spooled, outcome.already_terminal) == (False, True, None)
    assert rows(path) == [(run.id, "COMPLETED", None)]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_no_credential_is_on_the_disk(sandbox, session, run, path):
    token = sandbox.run_token(run.id)
    sandbox.faults.add(Fault("status", status=401))
    with pytest.raises(ValueError, match="Bearer"):
        async with report_outcome(session, run.id, token=lambda: token, spool=path):
            raise ValueError(f"Bearer {token} {KEY}")
    assert rows(path)[0][2].startswith("ValueError: Bearer [secret] [secret]")
    for file in path.parent.iterdir():
        assert token.encode() not in file.read_bytes()
        assert KEY.encode() not in file.read_bytes()


async def test_an_outcome_that_was_kept_before_stands(sandbox, session, run, path, caplog):
    await leave(session, sandbox, path, [run], fails=True)
    caplog.clear()
    async with report_outcome(session, run.id, spool=path) as outcome:
        pass  # the run was dispatched again, and ended otherwise
    assert (run.status, run.error) == ("FAILED", f"{run.id} failed")
    assert (outcome.status, outcome.error) == ("FAILED", f"{run.id} failed")
    assert outcome.delivered
    assert "which was decided before" in caplog.text
    assert len(sandbox.effects) == 1
    assert rows(path) == []


async def test_an_outcome_that_was_kept_before_may_have_been_sent(sandbox, session, run, path):
    await leave(session, sandbox, path, [run])
    sandbox.store.callback(run.id, "COMPLETED")
    async with report_outcome(session, run.id, spool=path) as outcome:
        pass
    assert outcome.delivered
    assert outcome.already_terminal is None


async def test_a_spool_that_cant_be_written_holds_up_nothing(
    sandbox, session, run, tmp_path, caplog
):
    async with report_outcome(session, run.id, spool=tmp_path) as outcome:
        pass
    assert run.status == "COMPLETED"
    assert (outcome.delivered, outcome.spooled) == (True, False)
    assert "can't be spooled" in caplog.text
    refused = sandbox.store.add_run("RUNNING")
    sandbox.faults.add(Fault("status", status=403))
    with pytest.raises(ks.Forbidden):
        async with report_outcome(session, refused.id, spool=tmp_path):
            pass


async def test_what_cant_be_taken_out_stays_and_is_told(sandbox, session, run, path, caplog):
    garbage = b"something else, that is no database" * 9
    sandbox.before_request = lambda _request: path.write_bytes(garbage)
    async with report_outcome(session, run.id, spool=path) as outcome:
        pass
    assert (outcome.delivered, outcome.spooled) == (True, True)
    assert "stays in the spool" in caplog.text


async def test_what_is_cancelled_before_a_silent_server_answers_stays_on_the_disk(
    sandbox, run, path
):
    sandbox.faults.add(Fault("silence"))
    async with sandbox.session(clock=FakeClock(patience=0.2)) as session:
        with pytest.raises(asyncio.CancelledError):
            async with report_outcome(session, run.id, spool=path) as outcome:
                raise asyncio.CancelledError
        assert outcome.spooled
    assert rows(path) == [(run.id, "FAILED", "cancelled")]


async def test_work_within_a_limit_may_have_a_spool_too(sandbox, session, run, path):
    sandbox.faults.add(Fault("status", status=403, route=CALLBACK))
    assert await run_with_limit(session, run.id, asyncio.sleep(0, "done"), spool=path) == "done"
    assert rows(path) == [(run.id, "COMPLETED", None)]


@pytest.mark.parametrize("ends", ["before the answer", "after the answer"])
async def test_an_outcome_that_another_process_delivers_meanwhile_is_not_taken_for_anothers(
    sandbox, session, run, path, ends
):
    """Both send it, and whose came first can't be known."""
    spool = spool_at(path)
    handed_out = []

    async def deliver_elsewhere():
        if not handed_out:
            handed_out.extend(await spool.hand_out(session.base_url))
            sandbox.store.callback(run.id, "COMPLETED")
            if ends == "before the answer":
                await spool.drop(handed_out[0])

    real_send = session.execute

    async def execute(call):
        await deliver_elsewhere()
        return await real_send(call)

    session.execute = execute
    async with report_outcome(session, run.id, spool=path) as outcome:
        pass
    assert outcome.response.already_terminal
    assert outcome.delivered
    assert outcome.already_terminal is None
    assert rows(path) == []


async def test_who_reports_a_run_whose_outcome_was_delivered_here_sends_the_same(
    sandbox, session, run, path
):
    await leave(session, sandbox, path, [run], fails=True)
    async with sandbox.session() as later:
        assert (await deliver_spooled(later, path)).delivered == (run.id,)
        async with report_outcome(later, run.id, spool=path) as outcome:
            pass
    assert (outcome.status, outcome.already_terminal) == ("FAILED", None)
    assert len({request.body for request in sandbox.requests}) == 1


async def test_a_token_function_that_is_cancelled_holds_up_no_other(sandbox, session, path):
    runs = [sandbox.store.add_run("RUNNING") for _ in range(3)]
    await leave(session, sandbox, path, runs)

    async def token_of(run_id):
        if run_id == runs[0].id:
            raise asyncio.CancelledError
        return sandbox.run_token(run_id)

    report = await deliver_spooled(session, path, token=token_of, concurrency=1)
    assert list(report.left) == [runs[0].id]
    assert set(report.delivered) == {runs[1].id, runs[2].id}


# Delivering what is left


async def test_what_is_left_is_delivered_and_one_that_is_refused_holds_up_no_other(
    sandbox, session, path
):
    runs = [sandbox.store.add_run("RUNNING") for _ in range(20)]
    await leave(session, sandbox, path, runs, fails=True)
    gone, refused, over = runs[3], runs[5], runs[7]
    sandbox.store.delete_run(gone.id, running=True)
    sandbox.store.callback(over.id, "COMPLETED")
    sandbox.faults.add(Fault("status", status=422, id=refused.id))
    report = await deliver_spooled(session, path, concurrency=3)
    assert set(report.delivered) == {run.id for run in runs} - {gone.id, refused.id}
    assert report.gone == (gone.id,)
    assert list(report.left) == [refused.id]
    assert isinstance(report.left[refused.id], ks.UnprocessableEntity)
    assert rows(path) == [(refused.id, "FAILED", f"{refused.id} failed")]
    assert runs[0].error == f"{runs[0].id} failed"
    assert over.status == "COMPLETED"


async def test_each_is_delivered_with_its_own_token(sandbox, session, path):
    runs = [sandbox.store.add_run("RUNNING") for _ in range(3)]
    await leave(session, sandbox, path, runs)
    sandbox.forget_requests()

    async def token_of(run_id):
        if run_id == runs[1].id:
            raise LookupError("no token for this one")
        return sandbox.run_token(run_id)

    report = await deliver_spooled(session, path, token=token_of)
    assert list(report.left) == [runs[1].id]
    assert {r.id: r.headers["Authorization"] for r in sandbox.requests} == {
        run.id: f"Bearer {sandbox.run_token(run.id)}" for run in (runs[0], runs[2])
    }
    report = await deliver_spooled(session, path, token=sandbox.webhook_secret)
    assert report.delivered == (runs[1].id,)


async def test_only_this_servers_outcomes_are_delivered(sandbox, session, run, path):
    await leave(session, sandbox, path, [run])
    async with Sandbox(ingestions=0, runs=0, api_key=KEY) as other, other.session() as elsewhere:
        assert (await deliver_spooled(elsewhere, path)).delivered == ()
        assert other.requests == []
    assert (await deliver_spooled(session, path)).delivered == (run.id,)


async def test_a_wrong_argument_is_found_at_once(sandbox, session, path):
    with pytest.raises(ks.ConfigurationError, match="concurrency"):
        await deliver_spooled(session, path, concurrency=0)
    async with sandbox.session() as closed:
        pass
    with pytest.raises(ks.SessionError):
        await deliver_spooled(closed, path)


@pytest.mark.parametrize(
    ("sql", "match"),
    [
        ("CREATE TABLE t (x)", "is not a spool"),
        ("PRAGMA application_id = 1263749681; CREATE TABLE t (x)", "is not a spool"),
        ("PRAGMA application_id = 0x4B535031; PRAGMA user_version = 2", "newer release"),
    ],
)
async def test_another_kind_of_file_is_left_alone(session, tmp_path, sql, match):
    file = tmp_path / "file"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(sql)
    before = file.read_bytes()
    with pytest.raises(ks.JournalError, match=match):
        await deliver_spooled(session, file)
    assert file.read_bytes() == before
    file.write_bytes(b"no database at all, but long enough" * 9)
    with pytest.raises(ks.JournalError, match="is not a spool"):
        await deliver_spooled(session, file)


async def test_a_file_that_a_killed_process_left_empty_is_used(session, path):
    path.parent.mkdir()
    path.touch()
    assert (await deliver_spooled(session, path)).delivered == ()
    assert rows(path) == []


# Several at a time


def spool_at(path, clock=None):
    return Spool(path, clock or MonotonicClock(), random.Random(3).random)


async def test_what_is_handed_in_at_the_same_time_is_one_commit(path, monkeypatch):
    opened = []
    real_open = Database.open

    async def count(self):
        opened.append(self)
        return await real_open(self)

    monkeypatch.setattr(Database, "open", count)
    spool = spool_at(path)
    await asyncio.gather(*(spool.put(entry_of(number)) for number in range(100)))
    assert len(rows(path)) == 100
    assert len(opened) <= 2
    kept = await spool.hand_out("https://one")
    assert [entry.run_id for entry in kept] == [f"run-{number}" for number in range(100)]
    assert await spool.hand_out("https://other") == []


async def test_processes_that_make_the_file_at_the_same_time_lose_nothing(path):
    spools = [spool_at(path) for _ in range(4)]
    works = (spools[number % 4].put(entry_of(number)) for number in range(20))
    assert [was_there for _, was_there in await asyncio.gather(*works)] == [False] * 20
    assert len(rows(path)) == 20


async def test_a_file_in_use_is_waited_for(path):
    spool = spool_at(path)
    await spool.put(entry_of(1))
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        threading.Timer(0.03, holder.close).start()
        await spool.put(entry_of(2))
    assert len(rows(path)) == 2


async def test_a_file_that_stays_in_use_is_an_error_for_all_who_wait(path):
    clock = FakeClock()
    spool = spool_at(path, clock)
    await spool.put(entry_of(1))
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        works = (spool.put(entry_of(2)), spool.put(entry_of(3)), spool.hand_out("https://one"))
        problems = await asyncio.gather(*works, return_exceptions=True)
    assert all("is in use by another process" in str(problem) for problem in problems)
    assert 3 <= sum(clock.slept) < 3.2
    assert max(clock.slept) <= 0.1
    assert len(await spool.hand_out("https://one")) == 1


async def test_who_is_cancelled_leaves_the_work_to_the_next(path, monkeypatch):
    spool = spool_at(path)
    real_open = Database.open
    opening, may_open = asyncio.Event(), asyncio.Event()

    async def hesitate(self):
        opening.set()
        await may_open.wait()
        return await real_open(self)

    monkeypatch.setattr(Database, "open", hesitate)
    tasks = [asyncio.create_task(spool.put(entry_of(number))) for number in range(3)]
    await opening.wait()
    tasks[0].cancel()
    may_open.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert [result[1] for result in results[1:]] == [False, False]
    assert len(rows(path)) == 3
    assert not [thread for thread in threading.enumerate() if "outcomes.db" in thread.name]


# Killed


@pytest.mark.parametrize("dies", ["decided", "delivered"])
async def test_killed_around_its_sending_an_outcome_is_delivered_later(tmp_path, dies):
    async with Sandbox(ingestions=0, runs=0) as sandbox:
        await run_child(sandbox, tmp_path, kill_after=None, runs=1, dies=dies)
        [run_id] = sandbox.store.runs.ids()
        [(kept, *_)] = rows(tmp_path / "outcomes.db")
        assert kept == run_id
        assert sandbox.store.get_run(run_id).is_finished is (dies == "delivered")
        assert await check_nothing_is_lost(sandbox, tmp_path) == 1
        assert sandbox.store.get_run(run_id).is_finished


@pytest.mark.no_cover
async def test_killed_at_random_points_no_outcome_is_lost(tmp_path):
    async with Sandbox(ingestions=0, runs=0) as sandbox:
        add_noise(sandbox)
        seed = 6
        while count_decided(tmp_path) <= 20:  # on a busy machine runners get less done
            await kill_runners(sandbox, tmp_path, kills=6, lanes=3, seed=seed)
            seed += 1
        assert await check_nothing_is_lost(sandbox, tmp_path) > 20
