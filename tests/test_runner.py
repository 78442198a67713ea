"""A run's one outcome gets to the server, whatever happens to the runner."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import random
from collections import defaultdict
from traceback import StackSummary, TracebackException
from typing import get_args
from urllib.parse import quote

import attrs
import pytest

import knowledgestack_async as ks
from knowledgestack_async import _report_text
from knowledgestack_async._report_text import REPORT_LENGTH, describe_error, fit_report
from knowledgestack_async._spool import Spool, SpoolEntry
from knowledgestack_async.api.reporting import deliver_spooled, report_outcome, run_with_limit
from knowledgestack_async.runner import Decisions
from knowledgestack_async.sandbox import Fault, Sandbox
from knowledgestack_async.sandbox.faults import FaultKind
from support import KEY, FakeClock, http, raw_server

CALLBACK = "send_workflow_run_callback"


class QuickClock(FakeClock):
    """Only timeouts of one length pass at once; the others have all the time that they need."""

    def __init__(self, quick):
        super().__init__()
        self.quick = quick

    def timeout(self, seconds):
        self.patience = 0.02 if seconds == self.quick else 5.0
        return super().timeout(seconds)


@pytest.fixture
def run(sandbox):
    return sandbox.store.add_run("RUNNING", max_run_duration_seconds=600)


def outcome_of(run):
    return run.status, run.error


def bodies(sandbox):
    return {r.body for r in sandbox.requests if r.route == CALLBACK}


def warnings_in(caplog):
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


# What is reported


async def test_a_block_that_ends_is_completed(sandbox, session, run):
    async with report_outcome(session, run.id) as outcome:
        assert (outcome.status, outcome.already_terminal, outcome.delivered) == (None, None, False)
    assert outcome_of(run) == ("COMPLETED", None)
    assert (outcome.status, outcome.already_terminal, outcome.delivered) == (
        "COMPLETED",
        False,
        True,
    )
    assert outcome.response.status == "accepted"
    assert repr(outcome) == f"<Outcome of run {run.id}: COMPLETED>"


async def test_an_exception_is_reported_and_raised_on(session, run):
    with pytest.raises(ZeroDivisionError) as caught:
        async with report_outcome(session, run.id) as outcome:
            _ = 1 / 0
    assert run.status == "FAILED"
    assert run.error == outcome.error
    assert run.error.startswith("ZeroDivisionError: division by zero\n\nTraceback (most")
    assert "_ = 1 / 0" in run.error
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (SystemExit(), ("COMPLETED", None)),
        (SystemExit(0), ("COMPLETED", None)),
        (SystemExit(3), ("FAILED", "SystemExit: 3")),
        (KeyboardInterrupt(), ("FAILED", "cancelled")),
        (asyncio.CancelledError("why"), ("FAILED", "cancelled")),
        (
            ks.NotFound("no such document", "GET", "/x"),
            ("FAILED", "knowledgestack_async.errors.NotFound"),
        ),
        (
            ExceptionGroup("two", [ValueError("a"), KeyError("b")]),
            ("FAILED", "ExceptionGroup: two (2"),
        ),
    ],
)
async def test_what_ends_a_block_decides(session, run, raised, expected):
    with pytest.raises(type(raised)):
        async with report_outcome(session, run.id):
            raise raised
    status, error = outcome_of(run)
    assert (status, error and error[: len(expected[1])]) == expected


async def test_what_is_decided_early_stands_whatever_is_raised_afterwards(sandbox, session):
    first, second, third = (sandbox.store.add_run("RUNNING") for _ in range(3))
    with pytest.raises(ValueError, match="too late"):
        async with report_outcome(session, first.id) as outcome:
            outcome.complete()
            outcome.complete()
            raise ValueError("too late")
    async with report_outcome(session, second.id) as outcome:
        outcome.fail("the first reason")
        outcome.fail("another one")
    async with report_outcome(session, third.id) as outcome:
        outcome.fail(ValueError("never raised"))
    assert outcome_of(first) == ("COMPLETED", None)
    assert outcome_of(second) == ("FAILED", "the first reason")
    assert outcome_of(third) == ("FAILED", "ValueError: never raised")
    assert len(sandbox.effects) == len(sandbox.requests) == 3


@pytest.mark.parametrize("first", ["complete", "fail"])
async def test_two_different_decisions_are_a_mistake_and_the_first_stands(
    sandbox, session, run, first
):
    with pytest.raises(ks.ConfigurationError, match="decided before"):
        async with report_outcome(session, run.id) as outcome:
            if first == "fail":
                outcome.fail("no good")
                outcome.complete()
            outcome.complete()
            outcome.fail("no good")
    assert outcome_of(run) == (("FAILED", "no good") if first == "fail" else ("COMPLETED", None))
    assert len(sandbox.requests) == 1
    with pytest.raises(ks.ConfigurationError, match="reported already"):
        async with outcome:
            pass
    assert len(sandbox.requests) == 1


async def test_what_is_handed_over_is_not_reported(sandbox, session, run):
    with pytest.raises(ValueError, match="mine"):
        async with report_outcome(session, run.id) as outcome:
            outcome.hand_over()
            raise ValueError("mine")
    assert sandbox.requests == []
    assert repr(outcome) == f"<Outcome of run {run.id}: undecided>"


async def test_a_block_that_is_thrown_away_says_so(sandbox, session, run, caplog):
    async def work():
        async with report_outcome(session, run.id):
            await asyncio.Event().wait()

    thrown_away = work()
    thrown_away.send(None)
    thrown_away.close()
    assert caplog.messages == [f"run {run.id} was abandoned: its outcome is not reported"]
    assert sandbox.requests == []


async def test_two_blocks_for_one_run_never_send_two_outcomes(sandbox, session, run, caplog):
    async with report_outcome(session, run.id) as outer:
        with pytest.raises(ValueError, match="inner"):
            async with report_outcome(session, run.id) as inner:
                raise ValueError("inner")
    async with report_outcome(session, run.id) as later:
        pass
    assert len(bodies(sandbox)) == 1
    assert outer.status == inner.status == later.status == run.status == "FAILED"
    assert outer.error == later.error == run.error
    assert (inner.already_terminal, outer.already_terminal) == (False, None)
    assert warnings_in(caplog) == [f"run {run.id} is FAILED, which was decided before"] * 2


async def test_the_last_thousand_decisions_are_remembered():
    decisions = Decisions()
    for number in range(1001):
        entry = SpoolEntry("https://one", f"run-{number}", "FAILED", "why")
        assert decisions.settle(entry) == (entry, False)
    other = SpoolEntry("https://one", "run-1", "COMPLETED")
    kept, was_there = decisions.settle(other)
    assert (kept.status, was_there) == ("FAILED", True)
    assert decisions.settle(attrs.evolve(other, run_id="run-0"))[1] is False


async def test_an_exception_that_takes_no_note_is_raised_on(sandbox, session, run, caplog):
    class Unnoted(Exception):
        __notes__ = 7

    sandbox.faults.add(Fault("status", status=403))
    with pytest.raises(Unnoted):
        async with report_outcome(session, run.id):
            raise Unnoted
    assert "is not delivered" in caplog.text


# Whether it had an outcome before


async def test_a_run_that_was_over_before_is_known_as_such(sandbox, session):
    run = sandbox.store.add_run("FAILED")
    sandbox.faults.add(Fault("status", status=503, times=1))  # that try did nothing for certain
    async with report_outcome(session, run.id) as outcome:
        pass
    assert outcome.already_terminal is True
    assert outcome.delivered
    assert run.status == "FAILED"


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_try_that_may_have_acted_leaves_it_open(sandbox, session, run, when):
    sandbox.faults.add(Fault("reset", when=when, times=1))
    async with report_outcome(session, run.id) as outcome:
        pass
    assert outcome.already_terminal is (None if when == "after" else False)
    assert run.status == "COMPLETED"


async def test_an_answer_that_cant_be_read_leaves_it_open(sandbox, session, run):
    sandbox.faults.add(Fault("garbage", body="nan"))
    async with report_outcome(session, run.id) as outcome:
        pass
    assert outcome.delivered
    assert outcome.already_terminal is None
    assert len(sandbox.requests) == 1


async def test_another_servers_page_delivers_nothing(sandbox, session, run, tmp_path):
    sandbox.faults.add(Fault("page"))
    with pytest.raises(ks.OutcomeUnknown, match="another server's page"):
        async with report_outcome(session, run.id) as outcome:
            pass
    assert not outcome.delivered
    spool = tmp_path / "outcomes.db"
    async with report_outcome(session, run.id, spool=spool) as outcome:
        pass
    assert not outcome.delivered
    assert run.status == "RUNNING"
    sandbox.faults.clear()
    report = await deliver_spooled(session, spool)
    assert (report.delivered, report.left) == ((run.id,), {})
    assert run.status == "COMPLETED"


# The credential


async def ask_later(token):
    await asyncio.sleep(0)
    return token


@pytest.mark.parametrize("ask", [lambda t: t, lambda t: lambda: t, lambda t: lambda: ask_later(t)])
async def test_a_token_of_its_own_is_all_that_is_sent(sandbox, session, run, ask):
    token = sandbox.run_token(run.id)
    async with report_outcome(session, run.id, token=ask(token)):
        pass
    assert [r.headers["Authorization"] for r in sandbox.requests] == [f"Bearer {token}"]
    assert run.status == "COMPLETED"


async def test_a_callable_is_asked_each_time_for_tokens_expire(sandbox, session, run):
    sandbox.faults.add(Fault("status", status=503, times=2))
    tokens = iter(["ksrun_1", "ksrun_2", sandbox.run_token(run.id)])
    async with report_outcome(session, run.id, token=lambda: next(tokens)):
        pass
    assert run.status == "COMPLETED"


async def test_a_token_that_is_refused_is_not_replaced_by_the_sessions_key(sandbox, session, run):
    with pytest.raises(ks.Unauthorized):
        async with report_outcome(session, run.id, token="ksrun_expired"):
            pass
    assert [r.headers["Authorization"] for r in sandbox.requests] == ["Bearer ksrun_expired"]
    assert run.status == "RUNNING"


@pytest.mark.parametrize("token", ["", "two words", 7])
def test_a_token_that_is_none_is_found_before_the_work(token):
    session = ks.Session(KEY, "http://127.0.0.1:9")
    with pytest.raises(ks.ConfigurationError):
        report_outcome(session, "run-1", token=token)


async def test_a_callable_that_fails_never_falls_back_and_tells_nothing(
    sandbox, session, run, caplog
):
    def ask():
        raise LookupError("vault-password-1")

    with pytest.raises(ks.CredentialError, match="raised LookupError") as refused:
        async with report_outcome(session, run.id, token=ask):
            pass
    assert isinstance(refused.value.__cause__, LookupError)
    with pytest.raises(ValueError, match="mine") as caught:
        async with report_outcome(session, run.id, token=ask) as outcome:
            raise ValueError("mine")
    [note] = caught.value.__notes__
    assert note.startswith(f"The outcome of run {run.id} is not delivered: ")
    assert "the function for api_key or token raised LookupError" in note
    assert isinstance(outcome.problem, ks.CredentialError)
    assert "vault-password-1" not in caplog.text
    assert sandbox.requests == []


async def test_a_token_function_that_is_cancelled_cancels_no_work(sandbox, session, run, caplog):
    async def ask():
        raise asyncio.CancelledError

    with pytest.raises(ks.ConfigurationError, match="token was cancelled"):
        async with report_outcome(session, run.id, token=ask) as outcome:
            pass
    assert outcome.problem
    assert "is not delivered" in caplog.text


async def test_no_frame_of_ours_shows_a_token_or_a_secret(sandbox, session, run):
    token, secret = "ksrun_canary-1", "whsec_canary-2"

    async def work(_run):
        raise ValueError("mine")

    async def reported():
        async with report_outcome(session, run.id, token=token, hide=[secret]):
            pass

    tries = (
        lambda: run_with_limit(session, run.id, work, token=token, hide=[secret]),
        lambda: run_with_limit(session, run.id, work, token=token, hide=[secret], margin=-1),
        lambda: run_with_limit(session, "../x", work, token=token, hide=[secret]),
        lambda: run_with_limit(session, run.id, work, token=f"{token} two", hide=[secret]),
        lambda: deliver_spooled(session, "/", token=token),
        reported,
    )
    for attempt in tries:
        with pytest.raises((ks.KnowledgeStackError, ValueError)) as caught:
            await attempt()
        told = TracebackException.from_exception(caught.value, capture_locals=True)
        frames = [frame for frame in told.stack if frame.filename != __file__]
        shown = "".join(StackSummary.from_list(frames).format()) + str(caught.value)
        assert frames
        assert token not in shown
        assert secret not in shown


@pytest.mark.parametrize(
    "given",
    [
        {"run_id": "../x"},
        {"cancel_deadline": 0},
        {"hide": [None]},
        {"hide": ["text", b"bytes"]},
        {"hide": b"bytes"},
        {"spool": ""},
        {"spool": 7},
        {"spool": "a\0b"},
    ],
)
def test_a_wrong_argument_is_found_before_the_work(given):
    session = ks.Session(KEY, "http://127.0.0.1:9")
    with pytest.raises(ks.ConfigurationError):
        report_outcome(session, **({"run_id": "run-1"} | given))


# What a failure says


async def test_secrets_are_taken_out_wherever_they_are(sandbox, session, run, caplog):
    caplog.set_level(logging.DEBUG)
    token = sandbox.run_token(run.id)
    secret = "whsec+/="
    with pytest.raises(ValueError, match="Bearer"):
        async with report_outcome(session, run.id, token=token, hide=[secret, "", secret[:5]]):
            _ = "whsec+/="  # stands in the traceback's lines
            raise ValueError(f"Bearer {KEY}", {"t": token}, f"?s={quote(secret)}", "whsec+/=")
    for word in (KEY, token, secret, quote(secret, safe=""), secret[:5]):
        assert word not in run.error
        assert word not in caplog.text
    assert run.error.count("[secret]") >= 5


async def test_a_key_that_a_function_gives_is_taken_out_too(sandbox, clock, run):
    token = sandbox.run_token(run.id)
    async with (
        sandbox.session(clock=clock, api_key=lambda: KEY) as session,
        report_outcome(session, run.id, token=lambda: token) as outcome,
    ):
        outcome.fail(f"{KEY} {token}")
    assert run.error == "[secret] [secret]"


async def test_a_key_that_was_rotated_since_is_taken_out_too(sandbox, run):
    keys = iter(["sk-user-expired", KEY, KEY])
    async with sandbox.session(api_key=lambda: next(keys)) as session:
        with pytest.raises(ks.Unauthorized):
            await ks.get_workflow_run(session, run.id)
        async with report_outcome(session, run.id) as outcome:
            outcome.fail(f"sk-user-expired {KEY}")
    assert run.error == "[secret] [secret]"


@pytest.mark.parametrize(
    ("hide", "text"),
    [
        ("whsec", "whsec"),
        (["s"], "s"),
        (["half \udcff", ""], "half \udcff"),
        (['quo"te\\'], json.dumps('quo"te\\')[1:-1]),
        (["quo'te\n"], repr("quo'te\n")[1:-1]),
    ],
)
async def test_any_text_can_be_hidden_in_all_its_forms(session, run, hide, text):
    async with report_outcome(session, run.id, hide=hide) as outcome:
        outcome.fail(f"<{text}>")
    assert run.error == "<[secret]>"


async def test_a_key_that_cant_be_had_doesnt_hold_up_the_outcome(sandbox):
    def fails():
        raise OSError("no vault")

    async def hangs():
        await asyncio.Event().wait()

    for api_key in (fails, hangs):
        run = sandbox.store.add_run("RUNNING")
        token = sandbox.run_token(run.id)
        async with (
            sandbox.session(clock=QuickClock(1.0), api_key=api_key) as session,
            report_outcome(session, run.id, token=token) as outcome,
        ):
            outcome.fail(f"it was {token}")
        assert outcome_of(run) == ("FAILED", "it was [secret]")


@pytest.mark.parametrize("char", ["x", "ä", "€", "😀"])
@pytest.mark.parametrize("surplus", [-1, 0, 1, 2, 3, 40_000])
async def test_a_text_is_cut_to_8192_characters_and_never_within_one(
    sandbox, session, run, char, surplus
):
    text = char * (8192 + surplus)
    async with report_outcome(session, run.id) as outcome:
        outcome.fail(text)
    assert len(run.error) == min(len(text), 8192)
    assert set(run.error) <= {char, "\n", "…"}
    assert (run.error == text) is (surplus <= 0)
    run.error.encode()


async def test_of_a_long_failure_the_type_and_text_and_the_last_lines_stay(session, run):
    def deep(level):
        if not level:
            raise ValueError("the reason 😀 " + "ä" * 3000)
        for each in (level,):  # calls from two lines in turn, which a traceback doesn't sum up
            if each % 2:
                deep(each - 1)
            else:
                deep(each - 1)

    with pytest.raises(ValueError, match="the reason"):
        async with report_outcome(session, run.id):
            deep(200)
    assert len(run.error) <= 8192
    assert run.error.startswith("ValueError: the reason 😀 ää")
    _head, gap, end = run.error.partition("\n…\n")
    assert gap
    assert end.startswith("  ")
    assert 'raise ValueError("the reason' in end
    assert len(run.error) > 8192 - 200


async def test_half_characters_and_nulls_are_replaced(session, run):
    async with report_outcome(session, run.id) as outcome:
        outcome.fail("a\ud83db\0c")
    assert run.error == "a?b\ufffdc"


def test_whole_lines_stay_where_there_are_any():
    lines = "".join(f"line {number}\n" for number in range(2000))
    cut = fit_report(lines)
    assert len(cut) <= REPORT_LENGTH
    assert cut.endswith("line 1999\n")
    assert "\n…\nline " in cut
    assert len(fit_report("x" * 9000 + "\n")) <= REPORT_LENGTH
    assert fit_report("head" + "y" * 9000, keep=4).startswith("head\n…\ny")


def test_an_exception_that_cant_be_described_is_told_by_its_type(monkeypatch):
    class Nasty(Exception):
        def __str__(self):
            raise RuntimeError("no")

    assert describe_error(Nasty())[0].endswith("Nasty: <exception str() failed>")

    class Broken:
        @staticmethod
        def from_exception(*_args, **_kwargs):
            raise RecursionError

    monkeypatch.setattr(_report_text, "TracebackException", Broken)
    assert describe_error(ValueError("x")) == ("ValueError", "")


# Cancellation


async def begin(session, run, *, token=None, **options):
    """A task that waits in a block, and its outcome."""
    begun = asyncio.Event()
    outcome = report_outcome(session, run.id, token=token, **options)

    async def work():
        async with outcome:
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await begun.wait()
    return task, outcome


async def test_cancelled_work_is_reported_and_the_cancellation_goes_on(session, run):
    task, outcome = await begin(session, run)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert outcome.delivered
    assert outcome_of(run) == ("FAILED", "cancelled")


async def test_a_timeout_around_a_block_stays_a_timeout(session, run):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01), report_outcome(session, run.id):
            await asyncio.Event().wait()
    assert outcome_of(run) == ("FAILED", "cancelled")


async def test_after_a_cancellation_a_silent_server_has_five_seconds(sandbox, run, caplog):
    sandbox.faults.add(Fault("silence"))
    clock = QuickClock(5.0)
    async with sandbox.session(clock=clock) as session:
        task, outcome = await begin(session, run)
        before = clock.now()
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert clock.now() - before == pytest.approx(5)
    assert isinstance(outcome.problem, ks.DeadlineExceeded)
    assert "not taken in 5 s" in str(outcome.problem)
    assert "not taken in 5 s" in caught.value.__notes__[0]
    assert caplog.messages == [f"the outcome of run {run.id} is not delivered: {outcome.problem}"]


async def test_who_is_cancelled_again_and_again_still_reports(sandbox, session, run):
    seen = asyncio.Event()
    sandbox.before_request = lambda _request: seen.set()
    sandbox.faults.add(Fault("latency", seconds=0.02))
    task, outcome = await begin(session, run)
    task.cancel()
    await seen.wait()
    for _ in range(5):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert outcome.delivered
    assert outcome_of(run) == ("FAILED", "cancelled")


@pytest.mark.parametrize("fails", [False, True])
async def test_who_is_cancelled_while_reporting_sees_it_through(sandbox, session, run, fails):
    seen = asyncio.Event()
    sandbox.before_request = lambda _request: seen.set()
    sandbox.faults.add(Fault("latency", seconds=0.02))

    async def work():
        with pytest.raises(asyncio.CancelledError) as caught:
            async with report_outcome(session, run.id):
                if fails:
                    raise ValueError("mine")
        return caught.value.__cause__

    task = asyncio.create_task(work())
    await seen.wait()
    task.cancel()
    assert isinstance(await task, ValueError) is fails
    assert run.status == ("FAILED" if fails else "COMPLETED")
    assert len(bodies(sandbox)) == 1


def test_a_loop_that_ends_cancels_all_of_it_and_the_report_goes_out_all_the_same(tmp_path):
    async def main():
        async with Sandbox(ingestions=0, runs=0) as sandbox, sandbox.session() as session:
            run = sandbox.store.add_run("RUNNING")
            seen = asyncio.Event()
            sandbox.before_request = lambda _request: seen.set()
            sandbox.faults.add(Fault("silence", times=1))
            before = asyncio.all_tasks()

            async def work():
                async with report_outcome(session, run.id) as outcome:
                    outcome.fail("decided")

            task = asyncio.create_task(work())
            await seen.wait()
            for one in asyncio.all_tasks() - before:
                if "Outcome" in repr(one) or one is task:
                    one.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return run.status, run.error

    assert asyncio.run(main()) == ("FAILED", "decided")


async def test_what_was_delivered_in_time_is_no_problem(session, run, tmp_path, monkeypatch):
    async def hang(_spool, _entry):
        await asyncio.Event().wait()

    monkeypatch.setattr(Spool, "drop", hang)
    session.clock.patience = 0.2
    with pytest.raises(asyncio.CancelledError):
        async with report_outcome(session, run.id, spool=tmp_path / "outcomes.db") as outcome:
            raise asyncio.CancelledError
    assert (outcome.delivered, outcome.spooled, outcome.problem) == (True, True, None)


# A report that fails


async def test_a_report_that_fails_is_raised_where_the_work_didnt_fail(sandbox, session, run):
    sandbox.faults.add(Fault("status", status=422))
    with pytest.raises(ks.UnprocessableEntity):
        async with report_outcome(session, run.id) as outcome:
            pass
    assert (outcome.delivered, outcome.spooled) == (False, False)


async def test_a_report_that_fails_is_a_note_where_the_work_failed(sandbox, session, run, caplog):
    sandbox.faults.add(Fault("status", status=403))
    with pytest.raises(ValueError, match="mine") as caught:
        async with report_outcome(session, run.id):
            raise ValueError("mine")
    [note] = caught.value.__notes__
    assert note.startswith(f"The outcome of run {run.id} is not delivered: POST /v1/workflow-runs/")
    assert "Forbidden" in note
    assert len(warnings_in(caplog)) == 1


async def test_a_session_that_was_closed_is_told(sandbox, run):
    async with sandbox.session() as session:
        outcome = report_outcome(session, run.id)
    with pytest.raises(ks.SessionError):
        async with outcome:
            pass
    with pytest.raises(ks.SessionError):
        report_outcome(session, run.id)


# The limit


async def test_work_within_its_limit_gives_its_result(sandbox, session, run):
    async def work(read):
        assert read.run_snapshot.max_run_duration_seconds == 600
        return 42

    assert await run_with_limit(session, run.id, work, token=sandbox.run_token(run.id)) == 42
    assert outcome_of(run) == ("COMPLETED", None)


async def test_work_that_fails_is_reported_as_such(session, run):
    async def work():
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await run_with_limit(session, run.id, work())
    assert run.error.startswith("ValueError: mine")


async def test_past_the_limit_the_outcome_goes_first_and_the_work_cleans_up(sandbox):
    run = sandbox.store.add_run("PENDING", max_run_duration_seconds=600)
    reported = asyncio.Event()
    steps = []
    sandbox.rewrite_answer = lambda request, body: (
        request.route == CALLBACK and reported.set(),
        body,
    )[1]

    async def work(_run):
        try:
            await asyncio.Event().wait()
        finally:
            steps.append("cancelled")
            await reported.wait()
            steps.append(run.status)

    async with sandbox.session(clock=QuickClock(590.0)) as session:
        with pytest.raises(ks.DeadlineExceeded, match="took too long") as caught:
            await run_with_limit(session, run.id, work, margin=10)
    assert caught.value.last.id == run.id
    assert outcome_of(run) == ("FAILED", "ran longer than 590 s; the run may take 600 s")
    assert steps == ["cancelled", "FAILED"]


async def test_the_limit_counts_from_the_start_by_the_servers_clock():
    date = "Thu, 01 Jan 2026 00:10:00 GMT"
    sent = []
    async with raw_server(run_answers("2026-01-01T00:02:00Z", date, sent)) as server:
        clock = QuickClock(115.0)  # 600 s, less 480 s that are over, less the margin
        async with ks.Session(KEY, server.base_url, clock=clock) as session:
            with pytest.raises(ks.DeadlineExceeded):
                await run_with_limit(session, "run-1", asyncio.Event().wait())
    assert [json.loads(body)["error"] for body in sent] == [
        "ran longer than 595 s; the run may take 600 s"
    ]


@pytest.mark.parametrize(
    ("date", "left"),
    [
        ("Thu, 01 Jan 2026 00:00:00 GMT", 595.0),  # it starts in the future
        ("", 595.0),
        ("yesterday", 595.0),
        ("Thu, 01 Jan 2026 00:11:56 GMT", 2.0),  # the margin is at most half of what is left
        ("Thu, 01 Jan 2026 09:00:00 GMT", 0.0),
    ],
)
async def test_a_clock_that_says_nothing_useful_does_no_harm(date, left):
    async with (
        raw_server(run_answers("2026-01-01T00:02:00Z", date, [])) as server,
        ks.Session(KEY, server.base_url, clock=QuickClock(left)) as session,
    ):
        with pytest.raises(ks.DeadlineExceeded):
            await run_with_limit(session, "run-1", lambda _run: asyncio.Event().wait())


def run_answers(started_at, date, sent):
    """A server's script: a run that started then, read at that date; it keeps what it is sent."""
    run = {
        "id": "run-1",
        "workflow_definition_id": "d",
        "status": "RUNNING",
        "started_at": started_at,
    }
    run |= {"created_at": started_at, "updated_at": started_at}
    run["run_snapshot"] = {"max_run_duration_seconds": 600}

    async def script(reader, writer, head):
        if head.startswith(b"GET"):
            writer.write(
                http(json.dumps(run).encode(), headers=f"Date: {date}\r\n" if date else "")
            )
            return
        [length] = [
            line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
        ]
        sent.append(await reader.readexactly(int(length.partition(b":")[2])))
        writer.write(http(b'{"status": "accepted"}'))

    return script


@pytest.mark.parametrize("limit", [None, 0, -1])
async def test_a_run_without_a_limit_takes_as_long_as_it_takes(sandbox, session, run, limit):
    def unlimit(request, body):
        if request.route == "get_workflow_run":
            body["run_snapshot"] = limit if limit is None else {"max_run_duration_seconds": limit}
        return body

    sandbox.rewrite_answer = unlimit
    assert await run_with_limit(session, run.id, asyncio.sleep(0.01, "done")) == "done"
    assert run.status == "COMPLETED"


@pytest.mark.parametrize("status", ["COMPLETED", "FAILED"])
async def test_the_work_of_a_run_that_is_over_is_not_begun(sandbox, session, status):
    run = sandbox.store.add_run(status)
    with pytest.raises(ks.AlreadyFinished, match="not begun") as caught:
        await run_with_limit(session, run.id, asyncio.sleep(0))
    with pytest.raises(ks.AlreadyFinished):
        await run_with_limit(session, run.id, lambda _run: asyncio.sleep(0))
    assert caught.value.last.status == status
    assert sandbox.request_counts[CALLBACK] == 0


async def test_a_run_that_cant_be_read_has_failed(sandbox, session, run):
    sandbox.faults.add(Fault("status", status=403, route="get_workflow_run"))
    with pytest.raises(ks.Forbidden):
        await run_with_limit(session, run.id, asyncio.sleep(0))
    assert run.error.startswith("knowledgestack_async.errors.Forbidden: GET /v1/workflow-runs/")


async def test_cancelling_it_cancels_the_work(sandbox, session, run):
    begun = asyncio.Event()
    ended = []

    async def work(_run):
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    task = asyncio.create_task(run_with_limit(session, run.id, work))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]
    assert outcome_of(run) == ("FAILED", "cancelled")


async def test_work_that_fails_while_it_is_cancelled_changes_nothing(sandbox, session, run):
    async def work(_run):
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("in the clean-up")

    begun = asyncio.Event()
    task = asyncio.create_task(run_with_limit(session, run.id, work))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert outcome_of(run) == ("FAILED", "cancelled")


async def test_who_is_cancelled_again_leaves_no_work_behind(session, run):
    steps = []

    async def work(_run):
        try:
            steps.append("working")
            await asyncio.Event().wait()
        finally:
            try:
                steps.append("cleaning up")
                await asyncio.Event().wait()
            finally:
                steps.append("cancelled again")

    task = asyncio.create_task(run_with_limit(session, run.id, work))
    while not steps:
        await asyncio.sleep(0.001)
    while len(steps) < 3:
        task.cancel()
        await asyncio.sleep(0.001)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["working", "cleaning up", "cancelled again"]
    assert outcome_of(run) == ("FAILED", "cancelled")


@pytest.mark.parametrize(
    "given", [{"margin": -1}, {"token": ""}, {"run_id": "../x"}, {"spool": ""}]
)
async def test_work_that_is_never_begun_is_closed(session, run, given):
    work = asyncio.sleep(1)
    with pytest.raises(ks.ConfigurationError):
        await run_with_limit(session, **({"run_id": run.id, "work": work} | given))
    assert inspect.getcoroutinestate(work) == inspect.CORO_CLOSED


@pytest.mark.parametrize("margin", [-1, float("nan"), "5"])
async def test_a_margin_is_a_number_of_seconds(session, run, margin):
    with pytest.raises(ks.ConfigurationError, match="margin"):
        await run_with_limit(session, run.id, lambda _run: asyncio.sleep(0), margin=margin)


# Everything at once

FAULTS = [
    *(Fault("status", status=status) for status in (400, 401, 408, 418, 429, 500, 502, 503, 504)),
    Fault("status", status=500, effect=True),
    Fault("status", status=504, effect=True),
    Fault("status", status=503, retry_after=3),
    *(Fault(kind, when=when) for kind in ("reset", "close") for when in ("before", "after")),
    Fault("reset", when="before", effect_delay=0.01),
    *(Fault("truncate", how=how) for how in ("length", "chunk", "header")),
    *(Fault("garbage", body=body) for body in ("html", "empty", "nan", "not-utf-8", "not-gzip")),
    Fault("silence"),
    Fault("silence", effect=True),
    Fault("slow"),
    Fault("stall_body"),
    Fault("banner"),
    Fault("raw", body=b"HTTP/1.1 2", effect=True),
    Fault("informational"),
    Fault("redirect"),
    Fault("unsolicited"),
    Fault("cookie"),
    Fault("latency", seconds=0.002),
    Fault("page"),
    Fault("page", effect=True),
    Fault("page", status=404),
    Fault("page", status=502, body="default backend - 502"),
    Fault("rate-limit", per_second=0.5),
]


async def work_of(number, outcome):
    """Four ways for work to end, and what that makes of the run."""
    match number % 4:
        case 1:
            raise ValueError(f"run {number} is no good")
        case 2:
            outcome.fail(f"run {number} decided so")
        case 3:
            asyncio.current_task().cancel()
            await asyncio.sleep(1)


async def test_under_every_fault_a_thousand_runs_end_as_their_work_did(tmp_path):
    assert {fault.kind for fault in FAULTS} == set(get_args(FaultKind))
    asyncio.get_running_loop().set_debug(False)  # it makes each step slow, and there are many
    spool = tmp_path / "outcomes.db"
    retry = ks.RetryPolicy(tries=20, give_up_after=1e9)
    async with Sandbox(ingestions=0, runs=0, seed=8) as sandbox:
        runs = [sandbox.store.add_run("RUNNING") for _ in range(1000)]
        for fault in FAULTS:
            sandbox.faults.add(attrs.evolve(fault, route=CALLBACK, probability=0.012))
        clock, chance = FakeClock(patience=0.1), random.Random(8)
        async with sandbox.session(
            clock=clock, chance=chance, retry=retry, max_in_flight=25
        ) as session:

            async def execute(number, run):
                async with report_outcome(session, run.id, spool=spool) as outcome:
                    await work_of(number, outcome)

            work = (execute(number, run) for number, run in enumerate(runs))
            results = await asyncio.gather(*work, return_exceptions=True)
            rounds = 0
            while (await deliver_spooled(session, spool, concurrency=25)).left:
                rounds += 1
                assert rounds < 20
        kinds = [type(None), ValueError, type(None), asyncio.CancelledError]
        assert [type(result) for result in results] == kinds * 250
        for number, run in enumerate(runs):
            errors = {
                1: f"ValueError: run {number} is no good\n\nTraceback",
                2: f"run {number} decided so",
                3: "cancelled",
            }
            expected = errors.get(number % 4)
            assert (run.status, expected) == ("FAILED" if expected else "COMPLETED", expected)
            assert (run.error or "").startswith(expected or "")
        sent = defaultdict(set)
        for request in sandbox.requests:
            sent[request.id].add(request.body)
        assert {len(outcomes) for outcomes in sent.values()} == {1}
        assert len(sandbox.effects) == len(runs)
        assert len({request.fault for request in sandbox.requests}) >= 14
