"""Ids from the command line or standard input, and asking whether they are meant."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import click

from .._wire import check_id
from .connection import server_of
from .options import Decorator, Options
from .text import clean, cut

__all__ = [
    "ask",
    "check_can_ask",
    "ids_argument",
    "ids_if_meant",
    "ids_in",
    "is_single",
    "read_ids",
    "yes_option",
]

_NO_ID = re.compile(r"[\s{}\[\]]")

ids_argument: Decorator = click.argument("ids", metavar="ID... | -", nargs=-1, required=True)
yes_option: Decorator = click.option("--yes", "-y", is_flag=True, help="Don't ask.")


def read_ids(given: Sequence[str], what: str = "workflow_id") -> list[str]:
    """The ids that were given, each once; ``-`` reads them from standard input, one a line.

    Raises:
        click.UsageError: A line holds more than an id.
        ConfigurationError: One of them can't be an id.
    """
    found: dict[str, None] = {}
    for word in given:
        ids = ids_in(sys.stdin, what) if word == "-" else [word]
        found |= dict.fromkeys(check_id(one, what) for one in ids)
    return list(found)


def ids_in(lines: Iterable[str], what: str = "workflow_id") -> Iterator[str]:
    """The ids in lines: as they are, or in the objects that ``-o ndjson`` prints.

    Lines that are empty or begin with ``#`` are left out, and so is a ``-``.

    Raises:
        click.UsageError: A line holds more than an id.
    """
    for number, line in enumerate(lines, 1):
        text = line.strip().removeprefix("\ufeff")
        if not text or text == "-" or text.startswith("#"):
            continue
        id_ = _id_in(text, what)
        if id_ is None:
            raise click.UsageError(
                f"line {number} is no id ({cut(clean(text), 40)}): ids are one a line; use -o ids."
            )
        yield id_


def _id_in(text: str, what: str) -> str | None:
    """The id in a line; None if it holds something else."""
    if not _NO_ID.search(text):
        return text
    try:
        record = json.loads(text)
    except ValueError:
        return None
    found = None
    if isinstance(record, dict):
        known = cast("dict[str, object]", record)
        found = known.get("id" if what == "run_id" else what)
    return found if isinstance(found, str) else None


def is_single(given: Sequence[str]) -> bool:
    """Whether one id was asked for, so that the answer is one thing and not a list."""
    return len(given) == 1 and given[0] != "-"


def check_can_ask(*, yes: bool, reads_stdin: bool = False) -> None:
    """Make sure that there is somebody to ask, unless that isn't needed.

    Raises:
        click.UsageError: There is nobody.
    """
    if not yes and (reads_stdin or not sys.stdin.isatty()):
        raise click.UsageError(
            "this asks first, and there is no terminal to ask on: give --yes if it is meant."
        )


def ask(options: Options, question: str) -> bool:
    """Ask a person; also while a loop is running, which has no part in it. No answer is a no.

    Raises:
        click.Abort: The answer was Ctrl-C.
    """
    options.screen.clear_status()
    try:
        with _ctrl_c_ends_the_question():
            is_meant = click.confirm(question, err=True)
    except click.Abort as error:
        if not isinstance(error.__context__, EOFError):
            raise
        is_meant = False
        options.screen.note("")
    if not is_meant:
        options.screen.note("Nothing was done.")
    return is_meant


@contextmanager
def _ctrl_c_ends_the_question() -> Generator[None]:
    """A loop's own handler would only take note of Ctrl-C, and the question would stay."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def ids_if_meant(
    options: Options,
    given: Sequence[str],
    question: str,
    noun: str,
    *,
    yes: bool,
    what: str = "workflow_id",
) -> list[str] | None:
    """The ids, if a person agrees to what is going to be done with them.

    Args:
        options: What was asked of this run.
        given: The ids on the command line.
        question: What is asked; ``{}`` stands for how many there are, and then for the server.
        noun: What one of them is.
        yes: Whether it was agreed to beforehand.
        what: What an id is called.

    Raises:
        click.UsageError: There is nobody to ask.
        ConfigurationError: One of them can't be an id.
    """
    check_can_ask(yes=yes, reads_stdin="-" in given)
    ids = read_ids(given, what)
    things = f"{len(ids):,} {noun}" + ("" if len(ids) == 1 else "s")
    if not ids or yes or ask(options, question.format(things, server_of(options))):
        return ids
    return None
