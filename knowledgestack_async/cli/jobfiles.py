"""Looking into the journals of jobs, also into one that is in use or can't be read."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import click
from click.shell_completion import CompletionItem

import knowledgestack_async as ks

from .._journal import SqliteJournal, read_published
from .folders import SUFFIX, jobs_folder

__all__ = [
    "JobFile",
    "delete_job",
    "find_job",
    "journals_in",
    "look_into",
    "names_of_jobs",
    "opened",
    "read_report",
]


@attrs.frozen(kw_only=True)
class JobFile:
    """What a journal tells of its job.

    Attributes:
        path: Where it is.
        server: The server that it talks to.
        settings: The settings that are the job's for good.
        created_at: When it was made.
        is_planned: Whether all its targets are written down.
        counts: How many items are in which state.
        running: How many were accepted and are not known to be over, where that is waited for.
        published: Where another process, which uses it now, last said that it is; None if none does.
        problem: Why it can't be read.
    """

    path: Path
    server: str | None = None
    settings: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    created_at: str | None = None
    is_planned: bool = False
    counts: Mapping[str, int] = attrs.field(factory=dict[str, int])
    running: int = 0
    published: Mapping[str, Any] | None = None
    problem: str | None = None

    @property
    def name(self) -> str:
        """What to call it."""
        return self.path.name.removesuffix(SUFFIX)

    @property
    def state(self) -> str:
        """How the job is, in a word."""
        if self.published is not None:
            return "in use"
        if self.problem is not None:
            return "unreadable"
        if not self.is_planned:
            return "not planned"
        return "unfinished" if self.left else "finished"

    @property
    def process(self) -> int | None:
        """The process that uses it, as far as that is known."""
        return None if self.published is None else self.published.get("process")

    @property
    def total(self) -> int:
        """How many items there are."""
        return sum(self.counts.values())

    @property
    def left(self) -> int:
        """How many have no outcome yet."""
        open_states = (ks.ItemState.PLANNED, ks.ItemState.SENDING)
        return self.running + sum(self.counts.get(state, 0) for state in open_states)

    @property
    def unknown(self) -> int:
        """Of how many nobody can tell whether they ran."""
        return self.counts.get(ks.ItemState.UNKNOWN, 0)

    @property
    def is_finished(self) -> bool:
        """Whether going on with it would neither send nor look up anything."""
        return self.is_planned and not self.left and not self.unknown

    def check_free(self) -> None:
        """Make sure that it can be used here.

        Raises:
            JournalError: It is in use by another process, or can't be read.
        """
        if self.problem is not None:
            raise ks.JournalError(self.problem)

    def to_dict(self) -> dict[str, Any]:
        """What is printed of it."""
        known = attrs.asdict(self)
        told = ("server", "settings", "created_at", "counts", "published", "problem")
        return {
            "name": self.name,
            "path": str(self.path),
            "state": self.state,
            "process": self.process,
            "total": self.total,
            "left": self.left,
            **{name: known[name] for name in told},
        }


def find_job(name: str) -> Path:
    """The journal of that name in the usual folder, or at that path.

    Raises:
        click.UsageError: There is none.
    """
    folder = jobs_folder()
    for path in (Path(name), folder / f"{name}{SUFFIX}", folder / name):
        if path.is_file():
            return path
    raise click.UsageError(f"there is no job {name!r}: ks-async jobs list shows those in {folder}.")


def names_of_jobs(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The jobs in the usual folder whose name begins so, for a shell; else it offers files."""
    found = sorted(jobs_folder().glob(f"*{SUFFIX}"), reverse=True)
    names = [path.name.removesuffix(SUFFIX) for path in found]
    items = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return items or [CompletionItem(incomplete, type="file")]


def delete_job(path: Path) -> None:
    """Delete a journal, and what stands beside it."""
    for end in ("", ".state", "-wal", "-shm", "-journal"):
        path.with_name(path.name + end).unlink(missing_ok=True)


def journals_in(places: Iterable[Path]) -> Iterator[Path]:
    """The journals that were named, and those in the folders that were; the newest last."""
    for place in places:
        yield from sorted(place.glob(f"*{SUFFIX}")) if place.is_dir() else [place]


@asynccontextmanager
async def opened(path: Path) -> AsyncGenerator[tuple[SqliteJournal, dict[str, str]]]:
    """A journal to look into, and its header.

    Raises:
        JournalError: It is in use, foreign, torn or newer.
    """
    journal = SqliteJournal(path)
    header = await journal.open_to_read()
    try:
        yield journal, header
    finally:
        await journal.close()


async def look_into(path: Path) -> JobFile:
    """What a journal tells; never an error."""
    try:
        async with opened(path) as (journal, header):
            settings = json.loads(header.get("settings", "{}"))
            running = 0
            if settings.get("wait"):
                accepted = journal.items(ks.ItemState.ACCEPTED)
                running = sum([item.outcome is None async for item in accepted])
            return JobFile(
                path=path,
                server=header.get("server"),
                settings=settings,
                created_at=header.get("created_at"),
                is_planned="planned_at" in header,
                counts={str(state): count for state, count in (await journal.counts()).items()},
                running=running,
            )
    except ks.JournalError as error:
        if "in use" not in str(error):
            return JobFile(path=path, problem=str(error))
        published = read_published(path) or {}
        process = published.get("process")
        by = f"{error} (process {process})" if process else str(error)
        counts = published.get("counts", {})
        return JobFile(path=path, problem=by, published=published, counts=counts)


async def read_report(path: Path) -> ks.RerunReport:
    """What came of a job so far, item by item.

    Raises:
        JournalError: It is in use, foreign, torn or newer.
    """
    async with opened(path) as (journal, _):
        return ks.RerunReport.of([item async for item in journal.items()])
