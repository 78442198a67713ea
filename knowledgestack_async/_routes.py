"""Following a route to the generation that has it, after a 404 that names nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

import msgspec

from . import errors
from ._clock import Clock
from ._dialects import Dialect, Route, Target
from ._negotiation import Negotiation, Page, probe_call
from ._outcome import FOREVER, CallProgress, Done
from ._problems import call_facts, own_copy
from ._settings import CallOptions
from ._wire import Call
from .errors import RequestError, SessionError

__all__ = ["RouteFinder"]

T = TypeVar("T")


class Run(Protocol):
    """Sends a call until it has an outcome."""

    def __call__(self, call: Call[T], options: CallOptions) -> Coroutine[Any, Any, Done[T]]:
        """Send it."""
        ...


class RouteFinder:
    """Finds out where the routes are; all calls that wait for the same share it.

    Args:
        negotiation: What is known of the server's generation.
        clock: Where time comes from.
        run: Sends the probes.
        spawn: Starts a task that ends with the session.
    """

    MOST_MOVES = 6
    """How often a call is sent again after a 404 that names nothing."""
    MOST_TURNS = 12
    """The same where two generations answer by turns."""

    def __init__(
        self,
        negotiation: Negotiation,
        clock: Clock,
        run: Run,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._negotiation = negotiation
        self._clock = clock
        self._run = run
        self._spawn = spawn
        self._finding: dict[object, asyncio.Task[None]] = {}

    async def follow(
        self,
        call: Call[Any],
        options: CallOptions,
        asked: Dialect,
        target: Target,
        progress: CallProgress,
        *,
        lacks_route: bool,
    ) -> bool:
        """Whether to send again after a 404 that names nothing: the route moved, or another pod has it.

        Raises:
            RequestError: Whether the route is there can't be found out, so nothing is known of the thing.
        """
        negotiation = self._negotiation
        if call.route is None or negotiation.is_fixed:
            return False
        most = self.MOST_TURNS if negotiation.is_mixed else self.MOST_MOVES
        if not negotiation.is_mixed and (not lacks_route or negotiation.is_settled):
            most = 1  # a proxy's, or the service's way to say it, more likely than another pod's
        if progress.moves >= most:
            if not negotiation.is_mixed:
                negotiation.gave_up()
                return False
            raise errors.InvalidResponse(
                "the server answers as two generations of the API by turns",
                **call_facts(call, target, progress.tries),
                hint="Is an upgrade under way? Try again when it is done.",
            )
        progress.moves += 1
        insists = lacks_route and not negotiation.is_settled
        await self._find_generation(asked, options, progress, call, target, insists=insists)
        return True

    async def _find_generation(
        self,
        asked: Dialect,
        options: CallOptions,
        progress: CallProgress,
        call: Call[Any],
        target: Target,
        *,
        insists: bool,
    ) -> None:
        """Find out where the routes are, in a task that outlives this call's deadline."""
        is_list = call.route is Route.LIST_INGESTIONS
        # What one key may see says nothing of what another may.
        key = (asked.name, is_list, insists, options.identity)
        task = self._finding.get(key)
        if task is None:
            patient = msgspec.structs.replace(options, deadline=None)

            async def probe(generation: Dialect) -> Page | bool:
                try:
                    return (await self._run(probe_call(generation), patient)).value
                except errors.NotFound:
                    return False
                except errors.Forbidden:
                    return True

            finding = self._negotiation.find(asked, probe, list_is_missing=is_list, insists=insists)
            task = self._finding[key] = self._spawn(finding)
            task.add_done_callback(lambda _: self._finding.pop(key))
            task.add_done_callback(_look_at_error)
        time_left = progress.deadline_at - self._clock.now()
        try:
            async with self._clock.timeout(None if time_left == FOREVER else max(0.0, time_left)):
                await asyncio.shield(task)
        except asyncio.CancelledError:
            own = asyncio.current_task()
            if own is None or own.cancelling() or not task.cancelled():
                raise
            raise SessionError("the session was closed while this call waited") from None
        except TimeoutError:
            raise errors.DeadlineExceeded(
                "the deadline is over; which generation of the API answers was not known yet",
                **call_facts(call, target, progress.tries),
                hint="Give it a longer deadline.",
            ) from None
        except RequestError as error:
            raise own_copy(error) from None


def _look_at_error(task: asyncio.Task[Any]) -> None:
    """Retrieve the error of a task that may have lost everyone who waited for it."""
    if not task.cancelled():
        task.exception()
