"""``--status``: the words that are known, in any case; a newer server may have others."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

import click
from click.shell_completion import CompletionItem

import knowledgestack_async as ks

from .screen import Screen

__all__ = ["refusing", "status_option", "tell_of_odd"]

KNOWN = tuple(map(str, ks.IngestionStatus))


class Status(click.ParamType[str]):
    """A status of an ingestion."""

    name = "status"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:  # noqa: ARG002
        """What stands for it in the help."""
        return "STATUS"

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,  # noqa: ARG002
        ctx: click.Context | None,  # noqa: ARG002
    ) -> str:
        """The word as the API writes it."""
        word = str(value)
        return word.lower() if word.lower() in KNOWN else word

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem]:
        """The words that begin so."""
        return [CompletionItem(word) for word in KNOWN if word.startswith(incomplete.lower())]


def status_option(what: str) -> Callable[[Any], Any]:
    """``--status``, which can be given several times.

    Args:
        what: What is done with those that have one.
    """
    help_text = f"{what}: {', '.join(KNOWN)}. Can be given several times."
    return click.option("--status", "-s", multiple=True, type=Status(), help=help_text)


@contextmanager
def refusing(statuses: Iterable[str]) -> Generator[None]:
    """A word that is not known here, and that the server refuses in this block, is wrong usage.

    Raises:
        click.UsageError: It is.
    """
    odd = [word for word in statuses if word not in KNOWN]
    try:
        yield
    except (ks.UnprocessableEntity, ks.BadRequest) as error:
        if not odd:
            raise
        raise click.UsageError(
            f"--status {', '.join(odd)}: the server knows no such status; "
            f"known are {', '.join(KNOWN)}."
        ) from error


def tell_of_odd(screen: Screen, asked: Iterable[str], found: Iterable[str]) -> None:
    """Say which words nothing was found for that aren't known here: perhaps they are misspelt.

    A server that has no filter takes any word.
    """
    seen = set(found)
    odd = [word for word in asked if word not in KNOWN and word not in seen]
    if odd:
        words = ", ".join(odd)
        screen.note(f"--status {words}: nothing has it, and known are {', '.join(KNOWN)}.")
