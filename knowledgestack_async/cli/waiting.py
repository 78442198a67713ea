"""Waiting for many things at once, and printing each when it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import click

import knowledgestack_async as ks

from .connection import run_with_session
from .exits import Exit, Tally, exit_for, explain
from .many import Fan, for_each
from .options import Decorator, Options
from .outage import Outage, is_outage, make_contact
from .output import Printer
from .text import count_words

__all__ = ["deadline_option", "wait_for_each", "wait_for_ingestions"]

WAITS_AT_ONCE = 500
GOOD = "completed"
OPEN = ("pending", "processing")

deadline_option: Decorator = click.option(
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


def wait_for_ingestions(
    options: Options, ids: Sequence[str], printer: Printer, *, deadline: float | None
) -> Exit:
    """Wait for many ingestions by one watch, and print each when it is over.

    Args:
        options: What was asked of this run.
        ids: Their ids.
        printer: What prints the outcomes.
        deadline: How long to wait at most for all of them, in seconds.

    Returns:
        0 only if all of them were completed.
    """
    screen, tally = options.screen, Tally()

    async def whole(session: ks.Session) -> Exit:
        if not ids:
            screen.note("No ids came: nothing to do.")
            with printer:
                return Exit.DONE
        await make_contact(session)
        outage = Outage(screen, session)
        watch = ks.watch_ingestions(session, ids, deadline=deadline)
        screen.activity = lambda: _activity_of(watch.summary)
        with printer:
            async with watch, outage.noticing():
                async for change in watch:
                    _judge(options, outage, change, printer, tally)
        if watch.timed_out:
            _tell_who_is_late(options, watch.summary, tally)
        if len(ids) > 1 and tally.code is not Exit.DONE:
            screen.note(f"Of {len(ids):,}: {tally}.")
        return tally.code

    return run_with_session(options, whole)


def _judge(
    options: Options,
    outage: Outage,
    change: ks.StatusChange[ks.WorkflowSummaryResponse],
    printer: Printer,
    tally: Tally,
) -> None:
    """Print what is over; say what is wrong, and give up where the key is refused."""
    error = change.error
    if isinstance(error, ks.Unauthorized | ks.Forbidden):
        raise error
    outage.judge(change)
    if error is not None and not is_outage(error):
        options.screen.complain(explain(error))
    if change.is_final and change.state is not None:
        printer.write(change.state.to_dict())
        tally.add(Exit.DONE if change.current == GOOD else Exit.FAILED)
    elif change.is_final and error is not None:
        tally.add(exit_for(error))


def _activity_of(summary: ks.WatchSummary) -> str:
    told = ", ".join(f"{count:,} {word}" for word, count in summary.counts.items())
    return f"waiting: {told or 'nothing seen yet'}"


def _tell_who_is_late(options: Options, summary: ks.WatchSummary, tally: Tally) -> None:
    late = summary.total - summary.finished - summary.missing
    for _ in range(late):
        tally.add(Exit.FAILED)
    told = "1 is not over yet" if late == 1 else f"{late:,} are not over yet"
    words = {word: count for word, count in summary.counts.items() if word in OPEN}
    state = ", ".join(f"{count:,} {word}" for word, count in words.items())
    options.screen.complain(
        [f"Error: {told}: {state or 'none was seen'}", "  Wait again, or longer: --deadline."]
    )
