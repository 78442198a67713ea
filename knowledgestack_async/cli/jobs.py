"""``ks-async jobs``: the journals of bulk reruns."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import attrs
import click

import knowledgestack_async as ks

from .commands import Command, Group
from .connection import run_with_session
from .exits import Exit
from .folders import jobs_folder
from .ids import ask, check_can_ask, yes_option
from .jobfiles import (
    JobFile,
    delete_job,
    find_job,
    journals_in,
    look_into,
    names_of_jobs,
    read_report,
)
from .options import Decorator, Options, pass_options, printing, printing_events
from .outage import make_contact
from .output import Shape, printer_for
from .pace import How, job_options, pace_options, resend_option
from .rerun import begin, journal_option
from .running import in_words, run_job, show_no_job
from .table import Column, show_time

__all__ = ["jobs"]

_FIELDS = (
    "name",
    "path",
    "state",
    "process",
    "total",
    "left",
    "server",
    "settings",
    "created_at",
    "counts",
    "published",
    "problem",
)


def _show_counts(value: Any) -> str:
    return value if isinstance(value, str) else in_words(value)


LISTED = Shape(
    fields=_FIELDS,
    columns=(
        Column(title="JOB", fields=("name",)),
        Column(title="STATE", fields=("state",), typical=11),
        Column(title="PROCESS", fields=("process",), rank=1),
        Column(title="CREATED", fields=("created_at",), show=show_time, rank=2),
        Column(title="COUNTS", fields=("counts", "problem"), show=_show_counts, least=20),
        Column(title="SERVER", fields=("server",), least=16, rank=3),
    ),
    id_field="name",
)
SHOWN = attrs.evolve(LISTED, fields=(*_FIELDS, "outcomes", "causes", "unknown"))

jobs: Group = Group(
    "jobs",
    help="Bulk reruns, by their journals.",
    lazy={
        "list": "jobs:list_",
        "show": "jobs:show",
        "resume": "jobs:resume",
        "export": "jobs:export",
        "retry-failed": "jobs:retry_failed",
        "delete": "jobs:delete",
    },
    example="""
    ks-async jobs list
    ks-async jobs resume rerun-20260701-093000-1a2b
    """,
)

job_argument: Decorator = click.argument("job", metavar="JOB", shell_complete=names_of_jobs)


def _told(job: JobFile) -> dict[str, Any]:
    """An empty table of counts is no reason to hide what is wrong."""
    told = job.to_dict()
    return told | {"counts": told["counts"] or None}


@click.command(
    "list",
    cls=Command,
    example="""
    ks-async jobs list
    ks-async jobs list ./journals -o ndjson
    """,
)
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
@printing
@pass_options
def list_(options: Options, paths: tuple[Path, ...]) -> Exit:
    """List jobs.

    Those in the usual folder, or the journals and folders at PATHS.
    """
    places = paths or (jobs_folder(),)
    found = list(journals_in(place for place in places if place.exists()))

    async def look() -> list[JobFile]:
        return [await look_into(path) for path in found]

    with printer_for(options, LISTED) as printer:
        for job in asyncio.run(look()):
            printer.write(_told(job))
    if not found:
        options.screen.note(f"No jobs in {', '.join(map(str, places))}.")
    return Exit.DONE


@click.command(
    cls=Command,
    example="""
    ks-async jobs show rerun-20260701-093000-1a2b
    ks-async jobs show ./rerun.journal -o json --fields counts,causes,unknown
    """,
)
@job_argument
@printing
@pass_options
def show(options: Options, job: str) -> Exit:
    """Show how a job fares, and why.

    Its settings, the counts and causes, and the items that nobody can tell of. JOB is its
    name or its journal's path. Of one that is in use it shows what was last published, and
    the process that uses it.
    """
    path = find_job(job)

    async def look() -> dict[str, Any]:
        known = await look_into(path)
        told = known.to_dict()
        if known.problem is None:
            report = await read_report(path)
            told["counts"] = dict(report.counts)
            told |= {"outcomes": dict(report.outcomes), "causes": dict(report.causes)}
            told["unknown"] = list(report.unknown)
        elif known.published is None:
            raise ks.JournalError(known.problem)
        return told

    with printer_for(options, SHOWN, "sheet", single=True) as printer:
        printer.write(asyncio.run(look()))
    return Exit.DONE


@click.command(
    cls=Command,
    example="""
    ks-async jobs resume rerun-20260701-093000-1a2b
    ks-async jobs resume ./rerun.journal --resend-unknown
    """,
)
@job_argument
@pace_options
@resend_option
@printing_events
@pass_options
def resume(options: Options, /, job: str, **pace: Any) -> Exit:
    """Go on with a job that was interrupted, killed or stopped.

    What was being sent then is settled by proof first: a newer run means that it ran. The
    rest stays unknown, unless --resend-unknown.
    """
    path = find_job(job)

    async def work(session: ks.Session) -> Exit:
        known = await look_into(path)
        known.check_free()
        if not known.is_planned:
            raise ks.JournalError(
                f"{path} was left before all of its targets were in it; nothing was sent. "
                f"Give them again: ks-async ingestions rerun --journal {path}"
            )
        await make_contact(session)
        how = How.of({**known.settings, **pace})
        return await run_job(options, session, [], path, how)

    return run_with_session(options, work)


@click.command(
    cls=Command,
    example="""
    ks-async jobs export rerun-20260701-093000-1a2b > report.json
    ks-async jobs export ./rerun.journal --output csv > items.csv
    """,
)
@job_argument
@click.option(
    "--output",
    "-o",
    "form",
    type=click.Choice(["json", "csv"]),
    default="json",
    show_default=True,
    help="json: the whole report; csv: its items.",
)
@pass_options
def export(options: Options, job: str, form: str) -> Exit:
    """Print what came of a job, item by item."""
    report = asyncio.run(read_report(find_job(job)))
    text = report.to_json() if form == "json" else report.to_csv().replace("\r\n", "\n")
    options.screen.out(text.removesuffix("\n"))
    return Exit.DONE


@click.command(
    "retry-failed",
    cls=Command,
    example="ks-async jobs retry-failed rerun-20260701-093000-1a2b --wait",
)
@job_argument
@yes_option
@journal_option
@job_options
@pace_options
@printing_events
@pass_options
def retry_failed(
    options: Options, /, job: str, yes: bool, journal: Path | None, **settings: Any
) -> Exit:
    """Run those again that went wrong, as a new job.

    Those that were refused, failed, or ended badly; the new job has a new journal. Those of
    which nobody can tell whether they ran are left to ks-async jobs resume.
    """
    path = find_job(job)
    check_can_ask(yes=yes)
    if journal is not None and journal.exists():
        raise click.UsageError(f"--journal {journal} is there already: a new job needs a new one.")

    async def work(session: ks.Session) -> Exit:
        known = await look_into(path)
        known.check_free()
        if known.server != session.base_url:
            raise ks.JournalError(f"{path} is of a job at {known.server}, not {session.base_url}")
        report = await read_report(path)
        ended = {ks.ItemState.REFUSED, ks.ItemState.FAILED}
        bad = [
            item.workflow_id
            for item in report.items
            if item.state in ended or item.outcome not in {None, "completed"}
        ]
        if report.unknown:
            options.screen.note(f"{len(report.unknown):,} are unknown, and left as they are.")
        if not bad:
            options.screen.note("Nothing went wrong: nothing to do.")
            return show_no_job(options)
        return await begin(options, session, [*bad], journal, How.of(settings), yes=yes)

    return run_with_session(options, work)


@click.command(
    cls=Command,
    example="""
    ks-async jobs delete rerun-20260701-093000-1a2b
    ks-async jobs delete ./night.journal --yes
    """,
)
@click.argument("names", metavar="JOB...", nargs=-1, required=True, shell_complete=names_of_jobs)
@yes_option
@pass_options
def delete(options: Options, names: tuple[str, ...], yes: bool) -> Exit:
    """Delete jobs, with what they tell of their reruns.

    What was run again is not touched, but nobody can tell any more what ran. One that is in
    use is not deleted, nor what is no journal; then nothing is.
    """
    paths = list(dict.fromkeys(map(find_job, names)))
    check_can_ask(yes=yes)

    async def look() -> list[JobFile]:
        return [await look_into(path) for path in paths]

    known = asyncio.run(look())
    for job in known:
        job.check_free()
    open_ones = sum(not job.is_finished for job in known)
    many = f"{len(known):,} job{'' if len(known) == 1 else 's'}"
    which = f"{many}, {open_ones:,} of them not finished" if open_ones else many
    if not yes and not ask(options, f"Delete {which}?"):
        return Exit.FAILED
    for path in paths:
        delete_job(path)
    options.screen.note(f"Deleted {many}.")
    return Exit.DONE
