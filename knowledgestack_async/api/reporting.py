"""Reporting the outcomes of runs, come what may (reference page: Run callback)."""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TypeVar, cast
from urllib.parse import quote
from uuid import UUID

from .._checks import check_count, check_seconds
from .._dialects import Dialect, Route
from .._responses import http_date
from .._spool import Spool, SpoolEntry, SpoolReport, deliver_entries
from .._wire import (
    Answer,
    Call,
    Secret,
    check_credential,
    check_id,
    model_reader,
    route_target,
    seal,
)
from ..errors import ConfigurationError
from ..models import WorkflowCallbackResponse, WorkflowRunResponse, WorkflowRunStatus
from ..runner import Decisions, Outcome, Reporter, Work, work_within
from ..session import Session
from .workflow_runs import callback_call

__all__ = ["Token", "deliver_spooled", "report_outcome", "run_with_limit"]

T = TypeVar("T")

Token = str | Callable[[], str | Awaitable[str]]
"""A run's token or the runner's secret, or a function (a coroutine function too) that is asked for it
each time."""
SealedToken = Secret | Callable[[], str | Awaitable[str]]

CANCEL_DEADLINE = 5.0
"""How long a report may take after a cancellation, in seconds."""
SECRETS_PATIENCE = 1.0
"""How long to wait for a secret that is to be hidden, in seconds: the outcome comes first."""
HIDDEN = "[secret]"
_NOT_BEGUN = (WorkflowRunStatus.PENDING, WorkflowRunStatus.NOT_STARTED)


def report_outcome(
    session: Session,
    run_id: str | UUID,
    *,
    token: Token | None = None,
    spool: str | os.PathLike[str] | None = None,
    hide: Iterable[str] = (),
    cancel_deadline: float = CANCEL_DEADLINE,
) -> Outcome:
    """Report how a run ended when an ``async with`` block is left (reference page: Run callback).

    ========================================= ====================================================
    the block                                 what is reported
    ========================================= ====================================================
    ends                                      COMPLETED
    raises                                    FAILED: the exception's type, text and last lines of
                                              its traceback
    is cancelled, raises KeyboardInterrupt    FAILED: cancelled
    raises SystemExit                         COMPLETED if its code is 0 or None, else FAILED
    called ``.complete()`` or ``.fail(why)``  just that, whatever is raised afterwards
    is thrown away (GeneratorExit)            nothing, for nothing can be awaited then
    ========================================= ====================================================

    What the block raised is raised on. A report that fails is raised only where the block raised
    nothing; else it is a note on the block's exception. With a spool it is not raised: the outcome is
    then left for `deliver_spooled`, and ``.problem`` says why. Where the API says that it has no such
    run, that is raised with a spool, too: nothing is left to deliver. A 404 that names no run may be a
    proxy's, and leaves the outcome in the spool.

    After a cancellation the report has ``cancel_deadline`` seconds, during which the task can't be
    cancelled again; then the cancellation goes on. Who is cancelled while an outcome is being reported
    has as long to see that through, and is then cancelled; what the block raised is then the cause.

    One block reports one outcome, the first that was decided, and sends no other. Where the spool, or
    another block of this session, has given the run an outcome already, that one is reported.

    Args:
        session: An open session.
        run_id: UUID of the run.
        token: The run's own token or the runner's secret, or a function that is asked for it each
            time; default: the session's key. Once given, the session's key is not used in its place.
        spool: A file that keeps the outcome from before it is first sent until the server has taken it,
            has one already, or doesn't know the run any more. The processes of a host may share one.
            It holds no token. An outcome that can't be written there is sent all the same.
        hide: Further secrets to take out of what is reported, such as the runner's webhook secret; a
            text is one of them. The session's key and the token are taken out in any case.
        cancel_deadline: How long the report may take after a cancellation, in seconds.

    Raises:
        ConfigurationError: An argument is wrong; nothing was sent.
        SessionError: The session is not open, or belongs to another event loop.

    Example:
        ```python
        async with ks.report_outcome(session, run_id, token=token, spool="outcomes.db") as outcome:
            await work()
        ```
    """
    key, hidden = seal(token), _seal_all(hide)
    del token, hide  # so that no error's frame shows them
    return _outcome(session, run_id, key, hidden, spool, cancel_deadline)


async def deliver_spooled(
    session: Session,
    spool: str | os.PathLike[str],
    *,
    token: str | Callable[[str], str | Awaitable[str]] | None = None,
    concurrency: int = 8,
) -> SpoolReport:
    """Deliver the outcomes that a spool has for the session's server (reference page: Run callback).

    Call it when the runner starts, and from time to time. One that is refused, or can't be sent, stays
    in the spool and holds up no other. Each is sent as often as the session's retry policy says;
    during an outage, give it a view of the session with a short deadline.

    Args:
        session: An open session.
        spool: The file that `report_outcome` was given.
        token: The runner's secret, or a function that gives the token of a run by its id; default: the
            session's key. Once given, the session's key is not used in its place.
        concurrency: How many are sent at a time.

    Raises:
        ConfigurationError: An argument is wrong.
        JournalError: The file is no spool, is damaged, or stays in use.

    Example:
        ```python
        report = await ks.deliver_spooled(session, "outcomes.db", token=webhook_secret)
        for run_id, error in report.left.items():
            print(run_id, error)
        ```
    """
    key = seal(token)
    del token  # so that no error's frame shows it
    session.check_usable()
    check_count(concurrency, "concurrency")

    async def send(entry: SpoolEntry) -> None:
        _decisions(session).remember(entry)
        own = partial(key, entry.run_id) if callable(key) else key
        await _send(_as_runner(session, own), entry.run_id, entry.status, entry.error)

    file = _spool_at(session, _check_place(spool))
    return await deliver_entries(file, session.base_url, send, concurrency=concurrency)


async def run_with_limit(
    session: Session,
    run_id: str | UUID,
    work: Work[T],
    *,
    token: Token | None = None,
    spool: str | os.PathLike[str] | None = None,
    hide: Iterable[str] = (),
    margin: float = 5.0,
) -> T:
    """Do a run's work, for no longer than the run may take, and report how it ended.

    The limit is ``max_run_duration_seconds`` of the run's snapshot, counted from when the run started
    by the server's clock where the server says so, else from now. ``margin`` seconds before it the
    work is cancelled and FAILED is reported, before the server's own watchdog does it; while the
    report goes out, the work may clean up. A run that has no limit takes as long as it takes.

    The run is read with the session's key, for a run's own token is good for its callback only. All
    else is as with `report_outcome`.

    Args:
        session: An open session.
        run_id: UUID of the run.
        work: What is to be done: a coroutine, or a function that is given the run and returns one.
        token: As for `report_outcome`.
        spool: As for `report_outcome`.
        hide: As for `report_outcome`.
        margin: How long before the limit the work ends, in seconds; at most half of what is left.

    Returns:
        What the work returns.

    Raises:
        ConfigurationError: An argument is wrong; nothing was sent.
        AlreadyFinished: The run is over; its work was not begun, and nothing was reported.
        DeadlineExceeded: The work took too long; ``last`` is the run.
        RequestError: The run can't be read, or its outcome can't be delivered.

    Example:
        ```python
        await ks.run_with_limit(
            session, run_id, lambda run: summarize(run.run_snapshot), token=token
        )
        ```
    """
    key, hidden = seal(token), _seal_all(hide)
    del token, hide  # so that no error's frame shows them
    try:
        check_seconds(margin, "margin", or_zero=True)
        outcome = _outcome(session, run_id, key, hidden, spool, CANCEL_DEADLINE)
        read = partial(_read_with_age, session, outcome.run_id)
        return await work_within(outcome, read, work, margin=margin, clock=session.clock)
    finally:
        if inspect.iscoroutine(work):
            work.close()  # it may not have begun


def _outcome(
    session: Session,
    run_id: str | UUID,
    key: SealedToken | None,
    hidden: frozenset[Secret] | None,
    spool: str | os.PathLike[str] | None,
    cancel_deadline: float,
) -> Outcome:
    checked = check_id(run_id, "run_id")
    check_seconds(cancel_deadline, "cancel_deadline")
    if hidden is None:
        raise ConfigurationError("hide must hold nothing but texts")
    place = None if spool is None else _check_place(spool)
    runner = _as_runner(session, key)
    session.check_usable()
    reporter = Reporter(
        server=session.base_url,
        send=partial(_send, runner, checked),
        censor=partial(_make_censor, {session, runner}, hidden),
        clock=session.clock,
        decisions=_decisions(session),
        spool=None if place is None else _spool_at(session, place),
    )
    return Outcome(checked, reporter, cancel_deadline)


def _seal_all(words: object) -> frozenset[Secret] | None:
    """Texts as secrets; None if they aren't texts, for an error in here would show them."""
    if not isinstance(words, Iterable):
        return None
    found = [words] if isinstance(words, str) else [*cast("Iterable[object]", words)]
    texts = [word for word in found if isinstance(word, str)]
    return frozenset(map(Secret, texts)) if len(texts) == len(found) else None


def _decisions(session: Session) -> Decisions:
    return session.keep("outcomes", Decisions)


def _as_runner(session: Session, key: SealedToken | None) -> Session:
    """The session, or a view of it that has the token, and nothing else, for its key."""
    if key is None:
        return session
    return session.with_options(
        api_key=key if callable(key) else check_credential(key, "token").reveal
    )


async def _send(
    runner: Session, run_id: str, status: str, error: str | None
) -> tuple[WorkflowCallbackResponse, bool]:
    done = await runner.execute(callback_call(run_id, status, error))
    return done.value, done.doubted


async def _make_censor(
    owners: Iterable[Session], others: frozenset[Secret]
) -> Callable[[str], str]:
    """What takes the secrets out of a text, as far as they can be had in time."""
    secrets = set(others)
    for owner in owners:
        secrets.update(owner.given_keys)
        with suppress(Exception):  # then the report tells of it, when it is sent
            async with owner.clock.timeout(SECRETS_PATIENCE):
                secrets.add(await owner.credential())
    return partial(_censor, secrets)


def _censor(secrets: Iterable[Secret], text: str) -> str:
    words = {form for secret in secrets for form in _forms(secret.reveal())} - {""}
    longest_first = sorted(words, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest_first)), HIDDEN, text) if words else text


def _forms(word: str) -> tuple[str, ...]:
    """A text as an error may show it: as it is, in an address, in JSON, in a repr."""
    return word, quote(word, safe="", errors="replace"), json.dumps(word)[1:-1], repr(word)[1:-1]


def _check_place(path: str | os.PathLike[str]) -> str:
    try:
        place = os.path.realpath(os.fsdecode(path)) if path else ""
    except (TypeError, ValueError):
        place = ""
    if not place:
        raise ConfigurationError(f"spool must be the path of a file, not {path!r}")
    return place


def _spool_at(session: Session, place: str) -> Spool:
    """The session's own view of a spool: what it writes at the same time is one commit."""
    key = ("spool", place)
    return session.keep(key, lambda: Spool(place, session.clock, session.chance.random))


async def _read_with_age(session: Session, run_id: str) -> tuple[WorkflowRunResponse, float]:
    """A run, and for how long it has been running by the server's clock, in seconds."""
    read_run = model_reader(WorkflowRunResponse, echo="id", expected=run_id)

    def read(answer: Answer, dialect: Dialect) -> tuple[WorkflowRunResponse, float]:
        run = read_run(answer, dialect)
        return run, _age(run, answer.headers.get("Date", ""))

    call = Call(method="GET", target=route_target(Route.RUN, run_id), read=read)
    return (await session.execute(call)).value


def _age(run: WorkflowRunResponse, date: str) -> float:
    if run.started_at is None or run.status in _NOT_BEGUN:
        return 0.0
    now = http_date(date)
    return 0.0 if now is None else max(0.0, now - run.started_at.timestamp())
