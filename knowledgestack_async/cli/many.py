"""Doing something with each of many ids, some at a time, and telling how each fared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

import attrs

import knowledgestack_async as ks

from .connection import run_with_session
from .exits import Exit, Tally, exit_for, explain
from .options import Options
from .output import Printer
from .screen import Screen

__all__ = ["AT_ONCE", "Fan", "Outcome", "for_each", "run_for_each"]

T = TypeVar("T")

AT_ONCE = 16
"""How many ids are worked on at a time."""


@attrs.frozen
class Outcome(Generic[T]):
    """What became of one id: a value, or an error."""

    id: str
    value: T | None = None
    error: Exception | None = None


class Fan(Generic[T]):
    """Does something with each id, some at a time; used with ``async with``.

    Once the key is refused it begins no more; what has begun comes to its end.

    Args:
        ids: The ids.
        work: What to do.
        at_once: How many at a time.
        in_order: Whether outcomes come in the ids' order, or as they come.

    Attributes:
        in_flight: The ids that have begun, and have no outcome.
        not_begun: How many have not begun.
    """

    def __init__(
        self,
        ids: Sequence[str],
        work: Callable[[str], Awaitable[T]],
        *,
        at_once: int = AT_ONCE,
        in_order: bool = True,
    ) -> None:
        self._rest: Iterator[tuple[int, str]] = enumerate(ids)
        self._work = work
        self._workers_wanted = min(at_once, len(ids))
        self._in_order = in_order
        self._arrived: asyncio.Queue[tuple[int, Outcome[T] | None]] = asyncio.Queue()
        self._workers: list[asyncio.Task[None]] = []
        self.in_flight: set[str] = set()
        self.not_begun: int = len(ids)

    async def __aenter__(self) -> Self:
        self._workers = [asyncio.create_task(self._serve()) for _ in range(self._workers_wanted)]
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def outcomes(self) -> AsyncIterator[Outcome[T]]:
        """What became of each id."""
        running, due = len(self._workers), 0
        early: dict[int, Outcome[T]] = {}
        while running:
            place, outcome = await self._arrived.get()
            if outcome is None:
                running -= 1
            elif not self._in_order:
                yield outcome
            else:
                early[place] = outcome
                while due in early:
                    yield early.pop(due)
                    due += 1

    async def _serve(self) -> None:
        while (begun := next(self._rest, None)) is not None:
            place, id_ = begun
            self.not_begun -= 1
            self.in_flight.add(id_)
            try:
                outcome = Outcome(id_, value=await self._work(id_))
            except Exception as error:  # noqa: BLE001 - whoever reads the outcomes looks at it
                outcome = Outcome[T](id_, error=error)
            self.in_flight.discard(id_)
            if isinstance(outcome.error, ks.Unauthorized):
                self._rest = iter(())  # the key is refused: it would be for all others too
            self._arrived.put_nowait((place, outcome))
        self._arrived.put_nowait((-1, None))


async def for_each(
    options: Options,
    fan: Fan[T],
    show: Callable[[str, T], Exit],
    *,
    acts: bool = False,
    activity: Callable[[], str] | None = None,
) -> Exit:
    """Show what becomes of each id, and say how many fared how.

    Args:
        options: What was asked of this run.
        fan: What does the work.
        show: Prints what became of an id; gives the exit code that goes with it.
        acts: Whether the work changes anything, so that an interruption leaves questions.
        activity: What is going on, for the line that moves.

    Returns:
        The exit code of the one that fared worst.
    """
    screen, tally = options.screen, Tally()
    count = fan.not_begun
    if not count:
        screen.note("No ids came: nothing to do.")
    screen.activity = activity or (lambda: f"{len(tally):,} of {count:,}")
    try:
        async with fan:
            async for outcome in fan.outcomes():
                tally.add(_tell(screen, outcome, show, tally))
    except asyncio.CancelledError:
        if acts:
            _tell_interrupted(screen, fan, tally)
        raise
    if count > 1 and (acts or tally.code is not Exit.DONE):
        skipped = f", {fan.not_begun:,} not tried" if fan.not_begun else ""
        screen.note(f"Of {count:,}: {tally}{skipped}.")
    return tally.code


def _tell(
    screen: Screen, outcome: Outcome[T], show: Callable[[str, T], Exit], tally: Tally
) -> Exit:
    error = outcome.error
    if error is None:
        return show(outcome.id, cast("T", outcome.value))
    if not isinstance(error, ks.KnowledgeStackError):
        raise error
    if not isinstance(error, ks.Unauthorized) or Exit.AUTH not in tally:
        screen.complain(explain(error))
    return exit_for(error)


def _tell_interrupted(screen: Screen, fan: Fan[Any], tally: Tally) -> None:
    screen.note(f"Interrupted: {tally or 'none done'}, {fan.not_begun:,} not begun.")
    if fan.in_flight:
        screen.note("These may have acted; look before you repeat them:")
        for id_ in sorted(fan.in_flight):
            screen.note(f"  {id_}")


def _to_dict(_id: str, value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value.to_dict())


def _always_done(_value: object) -> Exit:
    return Exit.DONE


def run_for_each(
    options: Options,
    ids: Sequence[str],
    work: Callable[[ks.Session, str], Awaitable[T]],
    printer: Printer,
    *,
    record: Callable[[str, T], Mapping[str, Any]] = _to_dict,
    judge: Callable[[T], Exit] = _always_done,
    acts: bool = False,
    at_once: int = AT_ONCE,
) -> Exit:
    """Open a session, do something with each id, and print what came of it.

    Args:
        options: What was asked of this run.
        ids: The ids.
        work: What to do with one.
        printer: What prints the outcomes.
        record: What is printed of one.
        judge: The exit code that goes with one.
        acts: Whether the work changes anything.
        at_once: How many at a time.

    Returns:
        The exit code of the one that fared worst.
    """

    def show(id_: str, value: T) -> Exit:
        printer.write(record(id_, value))
        return judge(value)

    async def whole(session: ks.Session) -> Exit:
        fan = Fan(ids, lambda id_: work(session, id_), at_once=at_once, in_order=not acts)
        with printer:
            return await for_each(options, fan, show, acts=acts)

    return run_with_session(options, whole)
