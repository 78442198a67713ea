"""Running a bulk rerun's job: shown while it runs, summed up when it ends, resumable when it stops."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs

import knowledgestack_async as ks

from ..rerun_report import cause_of
from .again import command_line
from .exits import Exit, worst
from .folders import job_name
from .options import Options
from .outage import Outage
from .output import Printer, Shape, printer_for
from .pace import How
from .screen import Screen
from .table import Column
from .targets import Target
from .text import clean, cut

__all__ = [
    "OUTCOME",
    "exit_of",
    "in_words",
    "is_missing",
    "print_causes",
    "print_ids",
    "print_missing",
    "run_job",
    "show_no_job",
]

_NOT_FOUND = frozenset({"404", "not_found"})

FEW = 10
"""So many are told one by one on a terminal; of more only the sum."""

OUTCOME = Shape.of(
    ks.RerunOutcome,
    Column(title="WORKFLOW", fields=("workflow_id",)),
    Column(title="STATE", fields=("state",), typical=8, is_status=True),
    Column(title="OUTCOME", fields=("outcome",), typical=9, is_status=True),
    Column(title="ERROR", fields=("error", "code"), least=20, rank=1, typical=40),
)


@attrs.define
class _Run:
    """A job that runs here: with what, and how it is shown."""

    options: Options
    job: ks.RerunJob
    path: Path
    how: How
    outage: Outage
    shows_events: bool
    printer: Printer
    is_stopping: bool = False

    @property
    def screen(self) -> Screen:
        return self.options.screen


async def run_job(
    options: Options, session: ks.Session, targets: Sequence[Target], path: Path, how: How
) -> Exit:
    """Run a job, or go on with it.

    Args:
        options: What was asked of this run.
        session: An open session.
        targets: What to run again; not read where the journal has it.
        path: The journal.
        how: How to run it.

    Returns:
        0 if all is good, 5 if nobody can tell what came of some, 3 if some don't exist and nothing
        else went wrong, else 1.

    Raises:
        KnowledgeStackError: It can't be run.
    """
    screen = options.screen
    options.print_events()
    job = ks.rerun_ingestions(session, targets, journal=path, **_arguments(how, targets))
    run = _Run(
        options=options,
        job=job,
        path=path,
        how=how,
        outage=Outage(screen, session, is_doubtful=lambda: job.progress.paused is not None),
        shows_events=options.output != "table" or not screen.is_terminal,
        printer=printer_for(options, OUTCOME, "lines", ids=_ids_of(targets)),
    )
    try:
        await _go(run)
    except (asyncio.CancelledError, BrokenPipeError):
        _tell_where_it_stopped(run)
        raise
    _sum_up(run)
    return exit_of(run.job.report)


def show_no_job(options: Options) -> Exit:
    """Print what comes of a job of nothing: in JSON, an empty list."""
    options.print_events()
    with printer_for(options, OUTCOME, "lines"):
        return Exit.DONE


def _arguments(how: How, targets: Sequence[Target]) -> dict[str, Any]:
    """What the library is told; no more at a time than there are, where that is known."""
    most = min(how.concurrency, len(targets)) or how.concurrency
    return {**attrs.asdict(how), "concurrency": most}


def _ids_of(targets: Sequence[Target]) -> list[str]:
    return [one if isinstance(one, str) else one.workflow_id for one in targets[:FEW]]


async def _go(run: _Run) -> None:
    screen, job = run.screen, run.job
    screen.activity = lambda: f"{job.progress.done:,} of {job.progress.total:,}"
    with run.printer:
        async with _shown(run), run.outage.noticing(), job:
            try:
                async for outcome in job:
                    if run.shows_events:
                        run.printer.write(attrs.asdict(outcome))
            except asyncio.CancelledError:
                run.is_stopping = True
                raise
        report = job.report
        if not run.shows_events and len(report.items) <= FEW:
            for outcome in report.items:
                run.printer.write(attrs.asdict(outcome))


@asynccontextmanager
async def _shown(run: _Run) -> AsyncGenerator[None]:
    """A picture of the job, if there is a terminal for it with no events on it."""
    screen = run.screen
    if not screen.can_draw_on_err or (screen.is_terminal and run.shows_events):
        yield
        return
    from .canvas import drawn  # noqa: PLC0415 - rich is slow to import
    from .job_view import draw_job  # noqa: PLC0415

    def draw(width: int, _height: int) -> Any:
        now = run.job.progress
        now = attrs.evolve(now, paused=now.paused or run.outage.reason)
        return draw_job(now, stopping=run.is_stopping, width=width)

    async with drawn(screen, draw, on_err=True):
        yield


def exit_of(report: ks.RerunReport) -> Exit:
    """The exit code that goes with what came of a job; of several, the worst."""
    if report.unknown:
        return Exit.UNKNOWN
    if report.stopped_by is not None:
        return Exit.FAILED
    bad = [item for item in report.items if not item.is_good]
    return worst(Exit.NOT_FOUND if is_missing(item) else Exit.FAILED for item in bad)


def is_missing(outcome: ks.RerunOutcome) -> bool:
    """Whether it was refused because there is no such ingestion."""
    return outcome.state is ks.ItemState.REFUSED and (outcome.code or "").lower() in _NOT_FOUND


def _tell_where_it_stopped(run: _Run) -> None:
    progress = run.job.progress
    if not progress.total:
        run.screen.note("Stopped before anything was sent.")
        return
    run.screen.note(f"Stopped: {in_words(progress.counts)}.")
    _tell_how_to_go_on(run, "Go on with")


def _sum_up(run: _Run) -> None:
    screen, report = run.screen, run.job.report
    screen.note(f"Of {sum(report.counts.values()):,}: {in_words(report.counts)}.")
    if report.outcomes:
        screen.note(f"The new runs: {in_words(report.outcomes)}.")
    missing = [item.workflow_id for item in report.items if is_missing(item)]
    print_causes(screen, _causes_of(item for item in report.items if not is_missing(item)))
    print_missing(screen, missing)
    if report.unknown:
        screen.note("Nobody can tell whether these ran:")
        print_ids(screen, report.unknown)
    if report.stopped_by is not None:
        screen.note(f"Stopped: {report.stopped_by}.")
    if report.stopped_by is not None or report.unknown:
        _tell_how_to_go_on(run, "Go on with" if report.stopped_by else "Look again with")
    elif exit_of(report) is Exit.FAILED and not run.options.sandbox:
        again = command_line(run.options, "jobs", "retry-failed", job_name(run.path))
        screen.note(f"Try those that went wrong again with: {again}")


def _tell_how_to_go_on(run: _Run, what: str) -> None:
    if not run.options.sandbox:
        again = command_line(run.options, "jobs", "resume", job_name(run.path), *run.how.pace)
        run.screen.note(f"{what}: {again}")


def _causes_of(outcomes: Iterable[ks.RerunOutcome]) -> dict[str, int]:
    told = filter(None, (one.error or one.code for one in outcomes))
    return dict(Counter(map(cause_of, told)).most_common())


def in_words(counts: Mapping[str, int]) -> str:
    """Counts as a list, the largest first."""
    largest_first = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{count:,} {word}" for word, count in largest_first if count) or "none"


def print_causes(screen: Screen, causes: Mapping[str, int], most: int = FEW) -> None:
    """Say why things went wrong, the most frequent cause first."""
    for cause, count in list(causes.items())[:most]:
        screen.note(cut(f"{count:>7,}  {clean(cause)}", max(40, screen.width)))
    if len(causes) > most:
        screen.note(f"{'':>7}  and {len(causes) - most:,} other causes")


def print_missing(screen: Screen, ids: Iterable[str]) -> None:
    """Name some of those that don't exist."""
    print_ids(screen, ids, before="not found: ")


def print_ids(screen: Screen, ids: Iterable[str], most: int = FEW, *, before: str = "  ") -> None:
    """Name some of them."""
    listed = list(ids)
    for id_ in listed[:most]:
        screen.note(f"{before}{clean(id_)}")
    if len(listed) > most:
        screen.note(f"  and {len(listed) - most:,} more")
