"""Waiting for many things at once, and printing each when it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import click

import knowledgestack_async as ks

from .connection import run_with_session
from .exits import Exit
from .many import Fan, for_each
from .options import Options
from .output import Printer
from .text import count_words

__all__ = ["deadline_option", "wait_for_each"]

WAITS_AT_ONCE = 500

deadline_option = click.option(
    "--deadline",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    help="How long to wait at most. [default: as long as it takes]",
)


class Waited(Protocol):
    """What is waited for."""

    @property
    def status(self) -> object:
        """Where it is."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """All of it."""
        ...


class Wait(Protocol):
    """A function of the library's that waits for one thing."""

    async def __call__(
        self,
        session: ks.Session,
        id_: str,
        /,
        *,
        deadline: float | None = None,
        on_change: Callable[[Any], None] | None = None,
    ) -> Waited:
        """Wait."""
        ...


def wait_for_each(
    options: Options,
    ids: Sequence[str],
    wait: Wait,
    printer: Printer,
    *,
    good: str,
    deadline: float | None,
) -> Exit:
    """Wait for each of many, and print it when it is over.

    Args:
        options: What was asked of this run.
        ids: The ids.
        wait: What waits for one.
        printer: What prints the outcomes.
        good: The status that they are to end with.
        deadline: How long to wait at most for all of them, in seconds.

    Returns:
        0 only if all of them ended with the good status.
    """
    seen: dict[str, str] = {}

    def show(_id: str, ended: Waited) -> Exit:
        printer.write(ended.to_dict())
        return Exit.DONE if ended.status == good else Exit.FAILED

    async def whole(session: ks.Session) -> Exit:
        loop = asyncio.get_running_loop()
        ends_at = None if deadline is None else loop.time() + deadline

        async def wait_for(id_: str) -> Waited:
            left = None if ends_at is None else max(0.001, ends_at - loop.time())
            return await wait(session, id_, deadline=left, on_change=_remember(seen, id_))

        fan = Fan(ids, wait_for, at_once=WAITS_AT_ONCE, in_order=False)
        with printer:
            return await for_each(options, fan, show, activity=lambda: _activity(seen))

    return run_with_session(options, whole)


def _activity(seen: dict[str, str]) -> str:
    return f"waiting: {count_words(seen.values()) or 'nothing seen yet'}"


def _remember(seen: dict[str, str], id_: str) -> Callable[[Waited], None]:
    return lambda now: seen.update({id_: str(now.status)})
