"""Which ingestions a command is about: ids, a file of them, or all that have a status now."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import attrs
import click

import knowledgestack_async as ks

from .ids import ids_in, read_ids
from .options import Options
from .statuses import refusing, status_option, tell_of_odd

__all__ = ["Target", "Wanted", "is_journal", "targeting"]

F = TypeVar("F", bound=Callable[..., Any])

Target = str | ks.WorkflowSummaryResponse

_MAGIC = b"SQLite format 3\0"


def targeting(what_from: str) -> Callable[[F], F]:
    """Give a command ids, ``--status`` and ``--from``.

    Args:
        what_from: What ``--from`` takes, in words.
    """

    def give(command: F) -> F:
        for decorate in (
            click.option(
                "--from",
                "file",
                metavar="FILE",
                type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
                help=what_from,
            ),
            status_option("All that are now"),
            click.argument("ids", metavar="[ID... | -]", nargs=-1),
        ):
            command = decorate(command)
        return command

    return give


def is_journal(path: Path) -> bool:
    """Whether a file is the journal of a job, and not a list of ids."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


@attrs.frozen
class Wanted:
    """What was given of them: one kind at most.

    Attributes:
        ids: Ids, or ``-``.
        statuses: Statuses.
        file: A file.
    """

    ids: tuple[str, ...]
    statuses: tuple[str, ...]
    file: Path | None

    def __attrs_post_init__(self) -> None:
        if sum(map(bool, (self.ids, self.statuses, self.file))) > 1:
            raise click.UsageError("give ids, --status or --from: one of them.")

    def __bool__(self) -> bool:
        return bool(self.ids or self.statuses or self.file)

    @property
    def reads_stdin(self) -> bool:
        """Whether ids come from standard input."""
        return "-" in self.ids or str(self.file) == "-"

    @property
    def nothing(self) -> str:
        """What to say where none were found."""
        if self.statuses:
            return f"No ingestions are {' or '.join(self.statuses)} now: nothing to do."
        return "No ids came: nothing to do."

    @property
    def words(self) -> list[str] | None:
        """What names them on a command line; None if that can't be repeated."""
        if self.reads_stdin:
            return None
        options = [word for status in self.statuses for word in ("--status", status)]
        return [*self.ids, *options, *([] if self.file is None else ["--from", str(self.file)])]

    async def find(self, options: Options, session: ks.Session) -> list[Target]:
        """Look them up.

        Raises:
            click.UsageError: The file is no list of ids.
            ConfigurationError: An id can't be one.
            KnowledgeStackError: The list can't be read.
        """
        if self.statuses:
            async with ks.iter_ingestion_workflows(session, status=self.statuses) as found:
                options.screen.activity = lambda: f"{found.matched:,} found"
                with refusing(self.statuses):
                    summaries = [summary async for summary in found]
            tell_of_odd(options.screen, self.statuses, (str(one.status) for one in summaries))
            return [*summaries]
        if self.file is None:
            return list(read_ids(self.ids))
        if str(self.file) == "-":
            return list(read_ids(["-"]))
        try:
            lines = self.file.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"{self.file} can't be read as a list of ids.") from error
        return list(read_ids(list(ids_in(lines))))
