"""``ks-async ingestions rerun``: running ingestions again, on a journal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import knowledgestack_async as ks

from .again import command_line
from .commands import Command
from .connection import run_with_session
from .dry_run import show_dry_run
from .exits import Exit
from .folders import job_name, journal_for
from .ids import ask, check_can_ask, yes_option
from .jobfiles import JobFile, look_into
from .options import Decorator, Options, pass_options, printing_events
from .outage import make_contact
from .pace import How, job_options, pace_options, resend_option
from .running import run_job, show_no_job
from .targets import Target, Wanted, is_journal, targeting

__all__ = ["journal_option", "rerun", "things"]

journal_option: Decorator = click.option(
    "--journal",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="PATH",
    help="The job's file, which makes it resumable. [default: a new one, which is told]",
)


@click.command(
    cls=Command,
    example="""
    ks-async ingestions rerun --status failed --dry-run
    ks-async ingestions rerun --status failed --canary 20 --wait
    ks-async ingestions list -s failed -o ids | ks-async ingestions rerun - --yes
    """,
)
@targeting("A file of ids, one a line.")
@yes_option
@click.option(
    "--dry-run",
    is_flag=True,
    help="Tell what would be run again and why it failed; change nothing.",
)
@journal_option
@job_options
@pace_options
@resend_option
@printing_events
@pass_options
def rerun(
    options: Options,
    /,
    ids: tuple[str, ...],
    status: tuple[str, ...],
    file: Path | None,
    yes: bool,
    dry_run: bool,
    journal: Path | None,
    **settings: Any,
) -> Exit:
    """Run ingestions again, and know what ran, whatever happens.

    A journal keeps what is meant, sent and answered: interrupted or killed, the job goes on
    with ks-async jobs resume. None is sent twice that may have run. Where no answer tells
    whether it ran, that is exit code 5. In a pipe it prints NDJSON: an outcome a line.
    """
    wanted, how = Wanted(ids, status, file), How.of(settings)
    if not wanted:
        raise click.UsageError("say which: ids, -, --status or --from.")
    if file is not None and is_journal(file):
        raise click.UsageError(f"{file} is a job's journal: ks-async jobs retry-failed takes it.")
    if not dry_run:
        check_can_ask(yes=yes, reads_stdin=wanted.reads_stdin)

    async def work(session: ks.Session) -> Exit:
        if not dry_run and journal is not None and is_journal(journal):
            known = await look_into(journal)
            known.check_free()
            if known.is_planned:
                return await _go_on(options, session, known, how, yes=yes)
        targets = await wanted.find(options, session)
        if not targets:
            options.screen.note(wanted.nothing)
        if dry_run:
            return await show_dry_run(options, session, targets, how)
        if not targets:
            return show_no_job(options)
        return await begin(options, session, targets, journal, how, yes=yes)

    return run_with_session(options, work)


async def begin(
    options: Options,
    session: ks.Session,
    targets: list[Target],
    journal: Path | None,
    how: How,
    *,
    yes: bool,
) -> Exit:
    """Ask, and run a new job.

    Raises:
        KnowledgeStackError: It can't be run.
    """
    await make_contact(session)
    server = "a sandbox" if options.sandbox else session.base_url
    if not yes and not ask(options, f"Run {things(len(targets))} again at {server}?"):
        return Exit.FAILED
    if journal is not None:
        return await run_job(options, session, targets, journal, how)
    with journal_for(sandbox=options.sandbox) as place:
        if not options.sandbox:
            options.screen.note(f"The job's journal: {place}")
        return await run_job(options, session, targets, place, how)


async def _go_on(
    options: Options, session: ks.Session, known: JobFile, how: How, *, yes: bool
) -> Exit:
    if known.is_finished:
        again = command_line(options, "jobs", "retry-failed", job_name(known.path))
        raise click.UsageError(
            f"{known.path} holds a job that is finished; take another --journal, or {again!r}."
        )
    await make_contact(session)
    options.screen.note(
        f"{known.path} has a job of {known.total:,} already: that one goes on, no other targets are read."
    )
    left = known.left + known.unknown
    are = "is" if left == 1 else "are"
    is_meant = f"Go on with the {left:,} that {are} left, at {session.base_url}?"
    if not yes and not ask(options, is_meant):
        return Exit.FAILED
    return await run_job(options, session, [], known.path, how)


def things(count: int) -> str:
    """So many ingestions, in words."""
    return f"{count:,} ingestion" + ("" if count == 1 else "s")
