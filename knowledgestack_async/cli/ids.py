"""Ids from the command line or standard input, and asking whether they are meant."""

from __future__ import annotations

import signal
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import click

from .._wire import check_id
from .connection import server_of
from .options import Options

__all__ = [
    "ask",
    "check_can_ask",
    "ids_argument",
    "ids_if_meant",
    "is_single",
    "read_ids",
    "yes_option",
]

ids_argument = click.argument("ids", metavar="ID... | -", nargs=-1, required=True)
yes_option = click.option("--yes", "-y", is_flag=True, help="Don't ask.")


def read_ids(given: Sequence[str], what: str = "workflow_id") -> list[str]:
    """The ids that were given, each once; ``-`` reads them from standard input, one a line.

    Raises:
        ConfigurationError: One of them can't be an id.
    """
    found: dict[str, None] = {}
    for word in given:
        lines = map(str.strip, sys.stdin) if word == "-" else [word]
        found |= dict.fromkeys(check_id(line, what) for line in lines if line or word != "-")
    return list(found)


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
