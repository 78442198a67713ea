"""One call from its slot to its outcome: tries, waits, and what to say at the end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from ._admission import Admission
from ._clock import Clock, Interruption
from ._dialects import Dialect, Target
from ._governor import Governor, Slot
from ._hearing import Hearing
from ._negotiation import Negotiation
from ._outcome import (
    FOREVER,
    CallProgress,
    Done,
    call_error,
    read_failure,
    read_success,
    wait_permitted,
)
from ._problems import (
    Problem,
    without_secrets,
)
from ._responses import lacks_route, names_missing_thing, read_retry_after
from ._retry import Chance, CircuitBreaker, Fault, decide, fault_of
from ._routes import RouteFinder
from ._settings import CallOptions
from ._transport import Failure, Transport
from ._wire import Answer, Call, Secret, Withdrawn
from .errors import KnowledgeStackError, RequestError, SessionError

__all__ = ["Done", "Engine"]

R = TypeVar("R")
T = TypeVar("T")

logger = logging.getLogger("knowledgestack_async")

_JSON_BODY = {"Content-Type": "application/json"}


class _Closed(Exception):
    """The session was closed meanwhile."""


def _is_said(problem: Problem) -> bool:
    """Whether the service said no itself; a 404 that names nothing may be a proxy's."""
    answer = problem.answer
    is_unnamed = answer is not None and answer.status == 404 and not names_missing_thing(answer)
    return problem.fault in {Fault.DENIED, Fault.QUOTA} and not is_unnamed


class _Nap(Interruption):
    """The wait for a retry."""

    __slots__ = ()
    ends_with = _Closed


class Engine:
    """Runs calls: takes a slot, tries, decides whether to try again, and tells what came of it."""

    def __init__(
        self,
        *,
        transport: Transport,
        governor: Governor,
        negotiation: Negotiation,
        clock: Clock,
        chance: Chance,
        budget: int = CircuitBreaker.BUDGET,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._transport = transport
        self._governor = governor
        self._negotiation = negotiation
        self._clock = clock
        self._chance = chance
        self._wall_clock = wall_clock
        self.hearing = Hearing(transport, governor, clock)
        self.breaker = CircuitBreaker(budget)
        self.admission = Admission(governor, negotiation, clock)
        self.tasks: set[asyncio.Task[Any]] = set()
        self._naps: set[_Nap] = set()
        self._routes = RouteFinder(negotiation, clock, self.run, self.spawn)
        self.requests = 0
        self.retries = 0

    async def run(self, call: Call[T], options: CallOptions) -> Done[T]:
        """Send a call until it has an outcome.

        Raises:
            RequestError: It failed; which one, the tree of errors says.
            Withdrawn: It isn't to be sent any more.
        """
        progress = CallProgress(self._governor.ticket(), FOREVER)
        if options.deadline is not None:
            progress.deadline_at = self._clock.now() + options.deadline
        problem: Problem | None = None
        try:
            while True:
                dialect, target, outcome = await self._attempt(call, options, progress, problem)
                if not isinstance(outcome, Problem):
                    self.hearing.was_understood = True
                    self.breaker.succeeded(call.key, progress.retries)
                    return outcome
                problem = outcome
                self._tell_breaker(call, problem, progress)
                if problem.answer is not None and problem.answer.status == 404:
                    found = await self._read_404(
                        call, options, dialect, target, progress, problem.answer
                    )
                    if isinstance(found, Done):
                        return found
                    if found:
                        continue
                await self._wait_or_raise(call, options, target, progress, problem)
                progress.doubted |= problem.fault in {Fault.UNCERTAIN, Fault.ODD}
        except Withdrawn:
            self.breaker.give_back(progress.retries)  # others may use them
            raise
        except SessionError as error:
            raise self._ended(call, progress, problem, error) from None
        except RequestError:
            self._note_given_up(call, problem, progress)
            raise
        finally:
            self.breaker.failed(progress.probe, self._clock.now())

    def _ended(
        self,
        call: Call[Any],
        progress: CallProgress,
        problem: Problem | None,
        error: SessionError,
    ) -> KnowledgeStackError:
        """The error of a call that its session ended; one that may have acted is in doubt."""
        may_have_acted = problem is not None and problem.fault in {Fault.UNCERTAIN, Fault.ODD}
        if problem is None or not may_have_acted or not call.effect:
            return error
        target = call.target(self._negotiation.dialect)
        now = self._clock.now()
        return call_error(call, target, progress, problem, now, why="the session was closed")

    async def _read_404(
        self,
        call: Call[T],
        options: CallOptions,
        dialect: Dialect,
        target: Target,
        progress: CallProgress,
        answer: Answer,
    ) -> Done[T] | bool:
        """What a 404 means besides its error: it is gone, as was wanted, or to be sent again."""
        if not names_missing_thing(answer):
            following = self._routes.follow(
                call, options, dialect, target, progress, lacks_route=lacks_route(answer)
            )
            return await wait_permitted(call, progress, following)
        if progress.doubted and call.gone is not None:
            return Done(call.gone(), doubted=True, tries=progress.tries)
        return False

    def _tell_breaker(self, call: Call[Any], problem: Problem, progress: CallProgress) -> None:
        """What the server has a reason to say no to shows that it is there, too."""
        if _is_said(problem):
            self.breaker.succeeded(call.key, 0)
        elif problem.fault is Fault.LIMITED:
            self.breaker.answered(call.key)
        else:
            self.breaker.failed(progress.probe, self._clock.now())
        progress.probe = None

    def _note_given_up(
        self, call: Call[Any], problem: Problem | None, progress: CallProgress
    ) -> None:
        """What was sent before a silent server came back says nothing of it as it is now."""
        is_news = progress.sent_at >= self.hearing.lost_before
        if is_news and problem is not None and not _is_said(problem):
            self.breaker.gave_up(call.key)

    async def _attempt(
        self,
        call: Call[T],
        options: CallOptions,
        progress: CallProgress,
        problem: Problem | None,
    ) -> tuple[Dialect, Target, Done[T] | Problem]:
        """One try, from its key on; a second one where the first was ended by us."""
        credential, slot = await self.admission.admit(call, options, progress, problem)
        if progress.give_up_at == FOREVER and options.deadline is None:
            progress.give_up_at = self._clock.now() + options.retry.give_up_after
        try:
            # Only now that there is a slot: it may have been learned meanwhile.
            dialect = self._negotiation.dialect
            target = call.target(dialect)
            send = partial(self._try_once, call, options, dialect, target, credential, progress)
            outcome = await send(slot)
            # Tested, but Python 3.11 doesn't trace what an interruption resumes.
            if isinstance(outcome, Problem) and outcome.hung_up:  # pragma: no cover
                progress.was_hung_up = True
                progress.doubted |= outcome.fault is Fault.UNCERTAIN
                slot = self._governor.renew(slot)
                outcome = await send(slot)
        finally:
            self._governor.release(slot)
        return dialect, target, outcome

    async def _try_once(
        self,
        call: Call[T],
        options: CallOptions,
        dialect: Dialect,
        target: Target,
        credential: Secret,
        progress: CallProgress,
        slot: Slot,
    ) -> Done[T] | Problem:
        if call.permit is not None and not call.permit.may_send():
            raise Withdrawn(progress.tries)
        progress.tries += 1
        self.requests += 1
        progress.sent_at = began = self._clock.now()
        result = await self._transport.send(
            call.method,
            target,
            options.headers if call.body is None else options.headers.merged(_JSON_BODY),
            credential,
            body=call.body,
            timeout=min(options.timeout, max(0.0, progress.deadline_at - began)),
            own_connection=call.own_connection,
            once=not call.idempotent,
            patient=progress.was_hung_up,
        )
        if logger.isEnabledFor(logging.DEBUG):
            self._log_try(call, target, progress, result, self._clock.now() - began)
        if isinstance(result, Failure):
            if result.answer is None or fault_of(result.answer) is None:
                return read_failure(call, result, progress)
            result = (
                result.answer
            )  # pragma: no cover - a refusal that is cut; Python 3.11 doesn't trace it
        now = self._clock.now()
        self.hearing.heard(now, now - began, once=not call.idempotent)
        return self._read_answer(call, dialect, result, slot, progress)

    def _read_answer(
        self,
        call: Call[T],
        dialect: Dialect,
        answer: Answer,
        slot: Slot,
        progress: CallProgress,
    ) -> Done[T] | Problem:
        fault = fault_of(answer)
        if fault is None:
            self._governor.answered()
            return read_success(call, dialect, answer, progress)
        retry_after = read_retry_after(answer.headers, self._wall_clock())
        if fault in {Fault.REFUSED, Fault.LIMITED}:
            self._governor.pushed_back(slot, retry_after, limited=fault is Fault.LIMITED)
        reason = f"the server answered {answer.status}"
        if 300 <= answer.status < 400:
            reason += "; redirects are not followed"
        return Problem(fault, reason, without_secrets(progress.secrets, answer), retry_after)

    async def _wait_or_raise(
        self,
        call: Call[Any],
        options: CallOptions,
        target: Target,
        progress: CallProgress,
        problem: Problem,
    ) -> None:
        if problem.fault is Fault.LIMITED:
            # While others get through, it is a matter of time, which has its own bound.
            progress.excused += self._governor.successes > progress.successes >= 0
            progress.successes = self._governor.successes
            if self._governor.refused_for() >= options.retry.give_up_after:
                why = "the server refuses everything"
                raise call_error(call, target, progress, problem, self._clock.now(), why=why)
        retry_after = problem.retry_after
        while True:
            verdict = decide(
                options.retry,
                problem.fault,
                idempotent=call.idempotent,
                tries=progress.tries + progress.held - progress.excused,
                retry_after=retry_after,
                time_left=min(progress.deadline_at, progress.give_up_at) - self._clock.now(),
                chance=self._chance,
            )
            if verdict.wait is None:
                now = self._clock.now()
                raise call_error(call, target, progress, problem, now, why=verdict.reason)
            await wait_permitted(call, progress, self._sleep(verdict.wait))
            if call.exempt or problem.fault is Fault.LIMITED:
                break
            if self.breaker.may_retry(call.key, self._clock.now()):
                progress.probe = self.breaker.probe_of(call.key)
                progress.retries += progress.probe is None
                break
            # The server fails for all: this try is not sent, and counts as one that failed.
            progress.held += 1
            retry_after = None
        self.retries += 1

    async def _sleep(self, seconds: float) -> None:
        """Wait for a retry, but no longer than until the session is closed.

        Raises:
            SessionError: It was closed.
        """
        nap = _Nap()
        try:
            with nap:
                self._naps.add(nap)
                await self._clock.sleep(seconds)
        except _Closed:
            raise SessionError("the session was closed while this call waited") from None
        finally:
            self._naps.discard(nap)

    def close(self) -> None:
        """End what waits for a slot or a retry."""
        self._governor.close()
        for nap in self._naps:
            nap.interrupt()

    def spawn(self, work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        """Start a task that ends with the session at the latest."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def _log_try(
        self,
        call: Call[Any],
        target: Target,
        progress: CallProgress,
        result: Answer | Failure,
        seconds: float,
    ) -> None:
        answer = result.answer if isinstance(result, Failure) else result
        logger.debug(
            "%s %s -> %s in %.1f ms (request id %s, try %d)",
            call.method,
            target.path,
            result.reason if isinstance(result, Failure) else result.status,
            seconds * 1000,
            None if answer is None else without_secrets(progress.secrets, answer).request_id,
            progress.tries,
        )
