"""Reporting a run's outcome, come what may; it is handed what it calls, and knows no HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias, TypeVar

import attrs

from ._checks import plain
from ._clock import Clock, shielded
from ._report_text import REPORT_LENGTH, describe_error, fit_report
from ._spool import Spool, SpoolEntry, is_gone
from .errors import (
    AlreadyFinished,
    ConfigurationError,
    DeadlineExceeded,
    JournalError,
    KnowledgeStackError,
)
from .models import WorkflowCallbackResponse, WorkflowRunResponse

__all__ = ["Decisions", "Outcome", "Reporter", "Work", "work_within"]

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("knowledgestack_async")

Status: TypeAlias = Literal["COMPLETED", "FAILED"]
Work: TypeAlias = Coroutine[Any, Any, T] | Callable[[WorkflowRunResponse], Awaitable[T]]
"""What a run does: a coroutine, or a function that is given the run and returns one."""


class Decisions:
    """The outcomes that runs were given in a session: another block for a run sends no other.

    Only the last ones are remembered.
    """

    MOST = 1000

    def __init__(self) -> None:
        self._entries: dict[str, SpoolEntry] = {}

    def settle(self, entry: SpoolEntry) -> tuple[SpoolEntry, bool]:
        """The outcome that a run has, and whether it had it before: the first decision stands."""
        kept = self._entries.get(entry.run_id)
        if kept is not None:
            return kept, True
        self.remember(entry)
        return entry, False

    def remember(self, entry: SpoolEntry) -> None:
        """Take note of an outcome that comes from a spool."""
        self._entries[entry.run_id] = entry
        if len(self._entries) > self.MOST:
            del self._entries[next(iter(self._entries))]

    async def close(self) -> None:
        """Nothing to do."""


@attrs.frozen(kw_only=True)
class Reporter:
    """How one run's outcome gets to its server.

    Attributes:
        server: The server's base URL.
        send: Sends an outcome; gives the answer, and whether an earlier try may have acted already.
        censor: Gives what takes the secrets out of a text; never fails, and takes little time.
        clock: Where time comes from.
        decisions: The outcomes that other blocks have decided.
        spool: Where the outcome is kept until it is delivered.
    """

    server: str
    send: Callable[[Status, str | None], Awaitable[tuple[WorkflowCallbackResponse, bool]]]
    censor: Callable[[], Awaitable[Callable[[str], str]]]
    clock: Clock
    decisions: Decisions
    spool: Spool | None = None


class Outcome:
    """The one outcome of a run, reported when its block is left (see ``report_outcome``).

    Attributes:
        run_id: Which run.
        status: COMPLETED or FAILED, once that is decided. It may differ from what this block decided:
            an outcome that the run was given before, or that a spool has for it, stands.
        error: What was reported as the reason of a failure.
        response: The server's answer, once there is one.
        delivered: Whether the server took the outcome, or had one before.
        spooled: Whether the outcome is in the spool, for `deliver_spooled` to deliver.
        problem: Why the outcome could not be delivered, if it could not.
    """

    def __init__(self, run_id: str, reporter: Reporter, cancel_deadline: float) -> None:
        self.run_id = run_id
        self.status: Status | None = None
        self.error: str | None = None
        self.response: WorkflowCallbackResponse | None = None
        self.delivered: bool = False
        self.spooled: bool = False
        self.problem: Exception | None = None
        self._reporter = reporter
        self._cancel_deadline = cancel_deadline
        self._why: tuple[str, str] | None = None
        self._doubted = False
        self._is_used = False
        self._is_handed_over = False

    def __repr__(self) -> str:
        return f"<Outcome of run {self.run_id}: {self.status or 'undecided'}>"

    @property
    def already_terminal(self) -> bool | None:
        """Whether the run had an outcome before any of our tries can have acted.

        None where that can't be known: an earlier try may have set it, the answer could not be read,
        or there is none yet. Reading the run tells what its outcome is now.
        """
        if self.response is None or self.response.status is None:
            return None
        if not self.response.already_terminal:
            return False
        return None if self._doubted or self.spooled else True

    def complete(self) -> None:
        """Decide that the run is COMPLETED; it is reported when the block is left.

        Whatever is raised afterwards is raised on, and changes nothing about the outcome.

        Raises:
            ConfigurationError: It was decided that it FAILED.
        """
        self._decide("COMPLETED", None)

    def fail(self, why: str | BaseException) -> None:
        """Decide that the run FAILED; it is reported when the block is left.

        The first reason stands; another one that comes later is passed over.

        Args:
            why: A text, or an exception, which is told with its type and traceback. At most 8,192
                characters are sent: the beginning and the last lines.

        Raises:
            ConfigurationError: It was decided that it is COMPLETED.
        """
        told = describe_error(why) if isinstance(why, BaseException) else (_plain_reason(why), "")
        self._decide("FAILED", told)

    def hand_over(self) -> None:
        """Report nothing when the block is left: somebody else does, or has."""
        self._is_handed_over = True

    async def __aenter__(self) -> Self:
        if self._is_used:
            raise ConfigurationError(f"the outcome of run {self.run_id} was reported already")
        self._is_used = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_handed_over:
            return
        if isinstance(exc, GeneratorExit):
            # Nothing can be awaited in a coroutine that is thrown away.
            logger.warning("run %s was abandoned: its outcome is not reported", self.run_id)
            return
        is_cancelled = isinstance(exc, asyncio.CancelledError | KeyboardInterrupt)
        if self.status is None:
            self._decide_by(exc, is_cancelled=is_cancelled)
        report = asyncio.create_task(self._report())
        if is_cancelled:
            await self._hurry(report)
        else:
            await self._see_through(report, exc)
        self._tell_problem(exc)

    def _decide(self, status: Status, why: tuple[str, str] | None) -> None:
        if self.status is None:
            self.status, self._why = status, why
        elif self.status != status:
            raise ConfigurationError(
                f"run {self.run_id} is {self.status}, which was decided before"
            )

    def _decide_by(self, exc: BaseException | None, *, is_cancelled: bool) -> None:
        if exc is None or (isinstance(exc, SystemExit) and not exc.code):
            self.complete()
        else:
            self.fail("cancelled" if is_cancelled else exc)

    async def _see_through(self, report: asyncio.Task[None], exc: BaseException | None) -> None:
        """Wait for the report; who is cancelled meanwhile waits for it a little longer."""
        try:
            await asyncio.shield(report)
        except asyncio.CancelledError as cancelled:
            await self._hurry(report)
            raise cancelled from exc

    async def _hurry(self, report: asyncio.Task[None]) -> None:
        """See the report end within its short deadline, however often this is cancelled."""
        end = asyncio.create_task(self._end_in_time(report))
        with shielded():
            while not end.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({end})

    async def _end_in_time(self, report: asyncio.Task[None]) -> None:
        try:
            async with self._reporter.clock.timeout(self._cancel_deadline):
                await asyncio.wait({report})
                if report.cancelled():  # with all other tasks of a loop that ends, perhaps half-way
                    self._doubted = True
                    await self._report()
        except TimeoutError:
            report.cancel()
            if not self.delivered:
                took = f"it was not taken in {self._cancel_deadline:g} s"
                hint = "With a spool, deliver_spooled() delivers it."
                self._note(DeadlineExceeded(took, "report of", f"run {self.run_id}", hint=hint))

    async def _report(self) -> None:
        """Tell the server; what goes wrong is kept in ``problem``."""
        entry = await self._keep(await self._entry())
        self.status, self.error = entry.status, entry.error
        try:
            self.response, doubted = await self._reporter.send(entry.status, entry.error)
        except Exception as problem:  # noqa: BLE001 - raised or told when the block is left
            self._note(problem)
            if not is_gone(problem):
                return
        else:
            self.delivered = True
            self._doubted |= doubted
        if self._reporter.spool is not None and self.spooled:
            is_dropped, was_handed_out = await self._reporter.spool.drop(entry)
            self._doubted |= was_handed_out
            self.spooled = not is_dropped

    async def _entry(self) -> SpoolEntry:
        error: str | None = None
        if self._why is not None:
            censor = await self._reporter.censor()
            head, rest = map(censor, self._why)
            error = fit_report(head + rest, keep=len(head) if rest else REPORT_LENGTH)
        return SpoolEntry(self._reporter.server, self.run_id, self.status or "COMPLETED", error)

    async def _keep(self, entry: SpoolEntry) -> SpoolEntry:
        """What is reported: the outcome that the run has already, if any; put into the spool, if any."""
        decisions, spool = self._reporter.decisions, self._reporter.spool
        kept, was_there = decisions.settle(entry)
        self._doubted |= was_there
        if spool is not None:
            try:
                kept, was_there = await spool.put(kept)
            except JournalError as problem:
                logger.error("the outcome of run %s can't be spooled: %s", self.run_id, problem)  # noqa: TRY400
            else:
                decisions.remember(kept)
                self.spooled = True
                self._doubted |= was_there
        if kept.status != entry.status:
            logger.warning("run %s is %s, which was decided before", self.run_id, kept.status)
        return kept

    def _note(self, problem: Exception) -> None:
        self.problem = problem
        logger.warning("the outcome of run %s is not delivered: %s", self.run_id, _shown(problem))

    def _tell_problem(self, exc: BaseException | None) -> None:
        if self.problem is None:
            return
        if exc is not None:
            told = f"The outcome of run {self.run_id} is not delivered: {_shown(self.problem)}"
            with suppress(Exception):  # an exception of the user's may refuse it; the log has it
                exc.add_note(told)
        elif not self.spooled:
            raise self.problem


async def work_within(
    outcome: Outcome,
    read: Callable[[], Awaitable[tuple[WorkflowRunResponse, float]]],
    work: Work[T],
    *,
    margin: float,
    clock: Clock,
) -> T:
    """Do a run's work within the time that the run may take; see ``run_with_limit``.

    Args:
        outcome: What is reported.
        read: Reads the run; gives it and the seconds since it started.
        work: The work.
        margin: How long before the limit the work is cancelled, in seconds.
        clock: Where time comes from.
    """
    task: asyncio.Task[T] | None = None
    try:
        async with outcome:
            run, age = await read()
            if run.is_terminal:
                outcome.hand_over()
                told = f"it is {run.status} already: its work is not begun"
                raise AlreadyFinished(told, "work of", f"run {run.id}", last=run)
            limit, seconds = _time_for_work(run, age, margin)
            task = asyncio.create_task(_begin(work, run))
            try:
                with suppress(TimeoutError):
                    async with clock.timeout(seconds):
                        await asyncio.wait({task})
            finally:
                task.cancel()  # changes nothing about work that is done
            if task.done():
                return task.result()
            outcome.fail(
                f"ran longer than {age + (seconds or 0):.6g} s; the run may take {limit} s"
            )
            raise DeadlineExceeded("it took too long", "work of", f"run {run.id}", last=run)
    finally:
        # The outcome goes first: what the work does to clean up must not hold it up.
        if task is not None:
            await _see_end(task)


async def _see_end(task: asyncio.Task[Any]) -> None:
    """Wait for work that was cancelled; who is cancelled meanwhile cancels it again."""
    cancelled: asyncio.CancelledError | None = None
    with shielded():
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as again:
                task.cancel()
                cancelled = again
    _ = task.cancelled() or task.exception()  # it is told already, or came too late
    if cancelled is not None:
        raise cancelled


FOREVER = 10**9
"""From this number of seconds on, a limit is none."""


def _time_for_work(
    run: WorkflowRunResponse, age: float, margin: float
) -> tuple[int | None, float | None]:
    """The run's limit, and how long the work may take from now; both None if there is no limit."""
    limit = None if run.run_snapshot is None else run.run_snapshot.max_run_duration_seconds
    if limit is None or not 0 < limit < FOREVER:
        return None, None
    left = max(0.0, limit - age)
    return limit, left - min(margin, left / 2)


async def _begin(work: Work[T], run: WorkflowRunResponse) -> T:
    return await (work(run) if callable(work) else work)


def _plain_reason(why: object) -> str:
    return plain(why) if isinstance(why, str) else str(why)


def _shown(problem: Exception) -> str:
    """A problem without what a function of the user's may have put into it."""
    return str(problem) if isinstance(problem, KnowledgeStackError) else type(problem).__name__
