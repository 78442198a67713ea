"""``ks-async watch``: many ingestions at once, live on a terminal, or as events in a pipe."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import click

import knowledgestack_async as ks

from .again import command_line
from .commands import Command
from .connection import run_with_session
from .exits import Exit, worst
from .jobfiles import look_into, opened
from .observed import EVENT, Observed, event_of, raise_if_hopeless
from .options import Options, pass_options, printing_events
from .outage import Outage, make_contact
from .output import printer_for, readable
from .running import in_words, print_causes, print_missing
from .table import sheet
from .targets import Wanted, is_journal, targeting
from .text import span
from .waiting import deadline_option

__all__ = ["watch"]


@attrs.frozen(kw_only=True)
class _Task:
    """What to watch, and how.

    Attributes:
        ids: Which; None for all there are.
        after: What they were like before the runs that are watched.
        deadline: How long at most.
        interval: Seconds between looks at least.
        exit_status: Whether failures make the exit code.
        words: What names them on a command line; None if that can't be repeated.
    """

    ids: list[str] | None
    after: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    deadline: float | None
    interval: float | None
    exit_status: bool
    words: list[str] | None

    @property
    def title(self) -> str:
        """What is watched, in words."""
        which = "all" if self.ids is None else f"{len(self.ids):,}"
        return f"Watching {which} ingestion{'' if self.ids and len(self.ids) == 1 else 's'}"


@click.command(
    cls=Command,
    example="""
    ks-async watch
    ks-async watch -s processing -s pending --deadline 3600 --exit-status
    ks-async watch --from rerun.journal
    ks-async ingestions list -s processing -o ids | ks-async watch - -o ndjson
    """,
)
@targeting("A file of ids, one a line, or a job's journal: then those that it has run again.")
@deadline_option
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    metavar="SECONDS",
    help="Between two looks at least. [default: short at first, up to 15 later]",
)
@click.option("--exit-status", is_flag=True, help="Exit with 1 if any failed.")
@printing_events
@pass_options
def watch(
    options: Options,
    ids: tuple[str, ...],
    status: tuple[str, ...],
    file: Path | None,
    deadline: float | None,
    interval: float | None,
    exit_status: bool,
) -> Exit:
    """Watch ingestions until they are over.

    Those that are named, or all there are: then it goes on with those that come. On a
    terminal it is a screen that changes, in a pipe NDJSON: an event a line. A hundred are
    looked up a request. Ctrl-C leaves; nothing stops by that.
    """
    wanted = Wanted(ids, status, file)

    async def work(session: ks.Session) -> Exit:
        ids: list[str] | None = None
        after: dict[str, Any] = {}
        if file is not None and is_journal(file):
            found = await _read_journal(options, file)
            if found is None:
                return Exit.DONE
            ids, after = found
        elif wanted:
            targets = await wanted.find(options, session)
            ids = [one if isinstance(one, str) else one.workflow_id for one in targets]
        if ids is not None and not ids:
            options.screen.note(wanted.nothing)
            return Exit.DONE
        task = _Task(
            ids=ids,
            after=after,
            deadline=deadline,
            interval=interval,
            exit_status=exit_status,
            words=wanted.words,
        )
        return await _follow(options, session, task)

    return run_with_session(options, work)


async def _read_journal(options: Options, path: Path) -> tuple[list[str], dict[str, Any]] | None:
    """What a job has run again, and what it was like before; None if the job is running now."""
    known = await look_into(path)
    if known.published is not None:
        screen = options.screen
        screen.note(f"{known.problem}. What it said last:")
        told = {**known.published, "counts": in_words(known.counts)}
        for line in sheet(readable(told), None):
            screen.out(line)
        return None
    known.check_free()
    async with opened(path) as (journal, _):
        ran = {item.workflow_id: item async for item in journal.items(ks.ItemState.ACCEPTED)}
    rest = {word: count for word, count in known.counts.items() if word != "accepted"}
    if rest:
        options.screen.note(f"Not watched, for they were not run again: {in_words(rest)}.")
    return list(ran), {id_: item.baseline for id_, item in ran.items() if item.baseline}


async def _follow(options: Options, session: ks.Session, task: _Task) -> Exit:
    screen = options.screen
    draws = screen.can_draw and options.output == "table"
    options.print_events()
    printer = printer_for(options, EVENT, "lines", ids=(task.ids or [])[:1])
    await make_contact(session)
    outage = Outage(screen, session)
    watching = ks.watch_ingestions(
        session, task.ids, deadline=task.deadline, interval=task.interval, after=task.after
    )
    seen = Observed(f"{task.title} at {session.base_url}", watching, is_everything=not task.ids)
    screen.activity = lambda: f"watching: {in_words(seen.summary.counts)}"
    try:
        with printer:
            async with _shown(options, seen, outage, draws=draws), watching, outage.noticing():
                async for change in watching:
                    seen.note(change)
                    raise_if_hopeless(change)
                    outage.judge(change)
                    if not draws and (options.output != "ids" or change.is_final):
                        printer.write(attrs.asdict(event_of(change)))
    except asyncio.CancelledError:
        _tell_how_to_go_on(options, task, seen)
        raise
    return _sum_up(options, task, seen, is_late=watching.timed_out)


@asynccontextmanager
async def _shown(
    options: Options, seen: Observed, outage: Outage, *, draws: bool
) -> AsyncGenerator[None]:
    if not draws:
        yield
        return
    from .canvas import drawn  # noqa: PLC0415 - rich is slow to import
    from .watch_view import draw_watch  # noqa: PLC0415

    def draw(width: int, height: int) -> Any:
        return draw_watch(seen, width, height, outage.reason)

    async with drawn(options.screen, draw, whole=True):
        yield


def _sum_up(options: Options, task: _Task, seen: Observed, *, is_late: bool) -> Exit:
    summary, screen = seen.summary, options.screen
    left = summary.total - summary.finished - summary.missing
    screen.note(f"After {span(summary.elapsed)}: {in_words(summary.counts)}.")
    print_causes(screen, dict(seen.causes.most_common()))
    codes = [Exit.FAILED] if task.exit_status and seen.has_failed else []
    if task.ids is not None:
        print_missing(screen, seen.missing)
        codes += [Exit.NOT_FOUND] if seen.missing else []
    if is_late and task.ids is not None:
        are = "ingestion is" if left == 1 else "ingestions are"
        screen.note(f"The deadline is over, and {left:,} {are} not.")
        codes.append(Exit.FAILED)
    return worst(codes)


def _tell_how_to_go_on(options: Options, task: _Task, seen: Observed) -> None:
    screen = options.screen
    screen.note(f"Left after {span(seen.summary.elapsed)}: {in_words(seen.summary.counts)}.")
    if task.words is None:
        screen.note("To go on, give the same ids again: nothing was stopped by leaving.")
    elif not options.sandbox:
        screen.note(f"Go on with: {command_line(options, 'watch', *task.words)}")
