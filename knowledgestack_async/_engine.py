"""One call from its slot to its outcome: tries, waits, and what to say at the end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Generic, TypeVar

import msgspec

from . import errors
from ._clock import Clock, Interruption
from ._codec import DecodeError
from ._dialects import Dialect, Route, Target
from ._governor import CoolingDown, Governor, Slot
from ._hearing import Hearing
from ._negotiation import Negotiation, Page, probe_call
from ._problems import (
    Problem,
    call_facts,
    hide_in_text,
    make_error,
    own_copy,
    without_secrets,
)
from ._retry import Chance, CircuitBreaker, Fault, decide, fault_of
from ._settings import CallOptions, GivenKeys, KeySource
from ._transport import Failure, Transport
from ._wire import (
    Answer,
    Call,
    Misdelivered,
    Secret,
    Withdrawn,
    excerpt,
    is_foreign,
    lacks_route,
    names_missing_thing,
    read_retry_after,
)
from .errors import KnowledgeStackError, RequestError, SessionError

__all__ = ["Done", "Engine"]

R = TypeVar("R")
T = TypeVar("T")

logger = logging.getLogger("knowledgestack_async")

FOREVER = float("inf")
_JSON_BODY = {"Content-Type": "application/json"}


class Done(msgspec.Struct, Generic[T], frozen=True):
    """What came of a call.

    Attributes:
        value: What the answer means.
        doubted: Whether an earlier try of it may have acted already.
        tries: How often it was sent.
        request_id: What the server calls the request that was answered.
    """

    value: T
    doubted: bool = False
    tries: int = 0
    request_id: str | None = None


class _Progress(msgspec.Struct):
    """What happened to one call so far."""

    ticket: int
    deadline_at: float
    give_up_at: float = FOREVER
    tries: int = 0
    held: int = 0
    """Tries that were due and not sent, for the circuit breaker was open."""
    excused: int = 0
    """Tries that were refused for the rate while others got through."""
    successes: int = -1
    retries: int = 0
    moves: int = 0
    probe: object | None = None
    doubted: bool = False
    was_hung_up: bool = False
    secrets: tuple[object, ...] = ()

    def done(self, value: T, answer: Answer) -> Done[T]:
        return Done(value, self.doubted, self.tries, answer.request_id)


class _Closed(Exception):
    """The session was closed meanwhile."""


class _Nap(Interruption):
    """The wait for a retry."""

    __slots__ = ()
    ends_with = _Closed


class Engine:
    """Runs calls: takes a slot, tries, decides whether to try again, and tells what came of it."""

    FRESH_FOR, MOST_KEYS = 1.0, 3
    """A key that a function gave is asked for again where the wait for a slot took longer, in seconds."""
    MOST_MOVES = 6
    """How often a call is sent again after a 404 that names nothing."""
    MOST_TURNS = 12
    """The same where two generations answer by turns."""

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
        self.given_keys = GivenKeys()
        self.tasks: set[asyncio.Task[Any]] = set()
        self._naps: set[_Nap] = set()
        self._finding: dict[object, asyncio.Task[None]] = {}
        self.requests = 0
        self.retries = 0

    async def run(self, call: Call[T], options: CallOptions) -> Done[T]:
        """Send a call until it has an outcome.

        Raises:
            RequestError: It failed; which one, the tree of errors says.
            Withdrawn: It isn't to be sent any more.
        """
        progress = _Progress(self._governor.ticket(), FOREVER)
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
        except SessionError as error:
            raise self._ended(call, progress, problem, error) from None
        finally:
            self.breaker.failed(progress.probe, self._clock.now())

    def _ended(
        self,
        call: Call[Any],
        progress: _Progress,
        problem: Problem | None,
        error: SessionError,
    ) -> KnowledgeStackError:
        """The error of a call that its session ended; one that may have acted is in doubt."""
        may_have_acted = problem is not None and problem.fault in {Fault.UNCERTAIN, Fault.ODD}
        if problem is None or not may_have_acted or not call.effect:
            return error
        target = call.target(self._negotiation.dialect)
        return self._error(call, target, progress, problem, why="the session was closed")

    async def _read_404(
        self,
        call: Call[T],
        options: CallOptions,
        dialect: Dialect,
        target: Target,
        progress: _Progress,
        answer: Answer,
    ) -> Done[T] | bool:
        """What a 404 means besides its error: it is gone, as was wanted, or to be sent again."""
        if not names_missing_thing(answer):
            return await self._follows_route(
                call, options, dialect, target, progress, lacks_route=lacks_route(answer)
            )
        if progress.doubted and call.gone is not None:
            return Done(call.gone(), doubted=True, tries=progress.tries)
        return False

    def _tell_breaker(self, call: Call[Any], problem: Problem, progress: _Progress) -> None:
        """What the server has a reason to say no to shows that it is there, too."""
        if problem.fault in {Fault.DENIED, Fault.QUOTA, Fault.LIMITED}:
            self.breaker.succeeded(call.key, 0)
        else:
            self.breaker.failed(progress.probe, self._clock.now())
        progress.probe = None

    async def _attempt(
        self,
        call: Call[T],
        options: CallOptions,
        progress: _Progress,
        problem: Problem | None,
    ) -> tuple[Dialect, Target, Done[T] | Problem]:
        """One try, from its key on; a second one where the first was ended by us."""
        credential, slot = await self._find_credential_and_slot(call, options, progress, problem)
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

    async def _find_credential_and_slot(
        self,
        call: Call[Any],
        options: CallOptions,
        progress: _Progress,
        problem: Problem | None,
    ) -> tuple[Secret, Slot]:
        """The key first, for what its function waits for may need a slot; anew if that took long."""
        keys_left = self.MOST_KEYS
        while True:
            keys_left -= 1
            asked_at = self._clock.now()
            credential = await self._find_credential(call, options, progress)
            slot = self._take_slot(progress)
            if slot is None:
                waiting = self._wait_for_slot(call, options, progress, problem)
                slot = await self._wait_permitted(call, progress, waiting)
            is_given = isinstance(call.credential or options.key, Secret)
            if is_given or not keys_left or self._clock.now() - asked_at < self.FRESH_FOR:
                return credential, slot
            self._governor.release(slot)

    def _take_slot(self, progress: _Progress) -> Slot | None:
        """A slot that is free; waiting for one takes time, even where there is one."""
        now = self._clock.now()
        return self._governor.take_free(now) if now < progress.deadline_at else None

    async def _wait_for_slot(
        self,
        call: Call[Any],
        options: CallOptions,
        progress: _Progress,
        problem: Problem | None,
    ) -> Slot:
        time_left = min(progress.deadline_at, progress.give_up_at) - self._clock.now()
        cooling = self._governor.cooling_for()
        patience = options.retry.give_up_after
        if cooling < min(time_left, patience):
            try:
                return await self._governor.acquire(
                    call.priority, time_left, ticket=progress.ticket, patience=patience
                )
            except TimeoutError:
                cooling = 0.0
            except CoolingDown as error:
                if not error.is_pause and problem is None:
                    target = call.target(self._negotiation.dialect)
                    raise errors.TooManyRequests(
                        f"the server refused everything for {error.seconds:.3g} s",
                        **call_facts(call, target, progress.tries),
                        hint="Nothing was sent. Lower max_in_flight or rate, or try again later.",
                    ) from None
                cooling = error.seconds
        target = call.target(self._negotiation.dialect)
        if problem is not None:
            raise self._error(call, target, progress, problem, why="no slot came free in time")
        raise errors.DeadlineExceeded(
            f"the server asked all callers to pause for {cooling:.3g} s more"
            if cooling
            else "no slot came free before the deadline",
            **call_facts(call, target, progress.tries),
            retry_after=cooling or None,
            hint=(
                "Nothing was sent. Wait that long, or give it a longer deadline."
                if cooling
                else "Nothing was sent. Give it a longer deadline, or raise max_in_flight."
            ),
        )

    async def _try_once(
        self,
        call: Call[T],
        options: CallOptions,
        dialect: Dialect,
        target: Target,
        credential: Secret,
        progress: _Progress,
        slot: Slot,
    ) -> Done[T] | Problem:
        if call.permit is not None and not call.permit.may_send():
            raise self._withdraw(progress)
        progress.tries += 1
        self.requests += 1
        began = self._clock.now()
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
                return self._read_failure(call, result, progress)
            result = (
                result.answer
            )  # pragma: no cover - a refusal that is cut; Python 3.11 doesn't trace it
        now = self._clock.now()
        self.hearing.heard(now, now - began, once=not call.idempotent)
        return self._read_answer(call, dialect, result, slot, progress)

    async def _find_credential(
        self, call: Call[Any], options: CallOptions, progress: _Progress
    ) -> Secret:
        credential = call.credential or options.key
        if not isinstance(credential, Secret):
            target = call.target(self._negotiation.dialect)
            asking = self._ask_for_key(credential, call, options, progress, target)
            credential = await self._wait_permitted(call, progress, asking)
        progress.secrets = (credential, options.key)
        return credential

    async def _ask_for_key(
        self,
        source: KeySource,
        call: Call[Any],
        options: CallOptions,
        progress: _Progress,
        target: Target,
    ) -> Secret:
        time_left = min(options.timeout, progress.deadline_at - self._clock.now())
        try:
            async with self._clock.timeout(max(0.0, time_left)):
                return await self.given_keys.resolve(source)
        except TimeoutError:
            raise errors.DeadlineExceeded(
                "the function for api_key or token took too long",
                **call_facts(call, target, progress.tries),
                hint="Ask for keys ahead of time, or give it a longer timeout and deadline.",
            ) from None
        except errors.CredentialError as error:
            error.method, error.path, error.tries = call.method, target.path, progress.tries
            raise

    def _read_failure(
        self, call: Call[T], failure: Failure, progress: _Progress
    ) -> Done[T] | Problem:
        head = failure.answer
        if head is not None and call.accepted is not None and not is_foreign(head):
            return progress.done(call.accepted(head), head)
        if failure.is_final and not failure.sent:
            return Problem(Fault.UNTRUSTED, failure.reason, hint=failure.hint, cause=failure.cause)
        if failure.is_final:
            shown = None if head is None else without_secrets(progress.secrets, head)
            return Problem(Fault.ODD, failure.reason, shown, cause=failure.cause)
        fault = Fault.UNCERTAIN if failure.sent else Fault.NOT_SENT
        return Problem(fault, failure.reason, hung_up=failure.hung_up)

    def _read_answer(
        self,
        call: Call[T],
        dialect: Dialect,
        answer: Answer,
        slot: Slot,
        progress: _Progress,
    ) -> Done[T] | Problem:
        fault = fault_of(answer)
        if fault is None:
            self._governor.answered()
            return _read_body(call, dialect, answer, progress)
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
        progress: _Progress,
        problem: Problem,
    ) -> None:
        if problem.fault is Fault.LIMITED:
            # While others get through, it is a matter of time, which has its own bound.
            progress.excused += self._governor.successes > progress.successes >= 0
            progress.successes = self._governor.successes
            if self._governor.refused_for() >= options.retry.give_up_after:
                why = "the server refuses everything"
                raise self._error(call, target, progress, problem, why=why)
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
                raise self._error(call, target, progress, problem, why=verdict.reason)
            await self._wait_permitted(call, progress, self._sleep(verdict.wait))
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

    async def _wait_permitted(
        self, call: Call[Any], progress: _Progress, waiting: Coroutine[Any, Any, R]
    ) -> R:
        """Wait for what comes before a try, unless the call is withdrawn meanwhile."""
        if call.permit is None:
            return await waiting
        try:
            with call.permit:
                return await waiting
        except Withdrawn:
            waiting.close()  # it may not have begun
            raise self._withdraw(progress) from None

    def _withdraw(self, progress: _Progress) -> Withdrawn:
        """Its retries are others' again."""
        self.breaker.give_back(progress.retries)
        return Withdrawn(progress.tries)

    async def _follows_route(
        self,
        call: Call[Any],
        options: CallOptions,
        asked: Dialect,
        target: Target,
        progress: _Progress,
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
        finding = self._find_generation(asked, options, progress, call, target, insists=insists)
        await self._wait_permitted(call, progress, finding)
        return True

    async def _find_generation(
        self,
        asked: Dialect,
        options: CallOptions,
        progress: _Progress,
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
                    return (await self.run(probe_call(generation), patient)).value
                except errors.NotFound:
                    return False
                except errors.Forbidden:
                    return True

            finding = self._negotiation.find(asked, probe, list_is_missing=is_list, insists=insists)
            task = self._finding[key] = self.spawn(finding)
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

    def spawn(self, work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        """Start a task that ends with the session at the latest."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def _error(
        self, call: Call[Any], target: Target, progress: _Progress, problem: Problem, *, why: str
    ) -> RequestError:
        return make_error(
            call,
            call_facts(call, target, progress.tries),
            problem,
            doubted=progress.doubted,
            deadline_is_over=progress.deadline_at <= self._clock.now(),
            why=why,
        )

    def _log_try(
        self,
        call: Call[Any],
        target: Target,
        progress: _Progress,
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


def _read_body(
    call: Call[T],
    dialect: Dialect,
    answer: Answer,
    progress: _Progress,
) -> Done[T] | Problem:
    if call.effect and is_foreign(answer):
        # Whoever sent that page, it is not the API, which may never have seen the request.
        answer.discard()
        kind = excerpt(answer.headers.get("Content-Type", "")) or "text/html"
        reason = f"the answer is another server's page ({kind})"
        return Problem(Fault.UNCERTAIN, reason, without_secrets(progress.secrets, answer))
    try:
        return progress.done(call.read(answer, dialect), answer)
    except Misdelivered as error:
        answer.discard()
        reason = hide_in_text(progress.secrets, f"the answer is not to this request: {error}")
        return Problem(Fault.UNCERTAIN, reason, without_secrets(progress.secrets, answer))
    except DecodeError as error:
        answer.discard()
        if call.accepted is not None:
            return progress.done(call.accepted(answer), answer)
        shown = without_secrets(progress.secrets, answer)
        reason = hide_in_text(progress.secrets, error.reason)
        if answer.is_on_reused and progress.tries == 1:
            # It may be a late answer to the request before; another connection tells.
            return Problem(Fault.UNCERTAIN, reason, shown)
        return Problem(Fault.ODD, reason, shown, json_path=error.path)


def _look_at_error(task: asyncio.Task[Any]) -> None:
    """Retrieve the error of a task that may have lost everyone who waited for it."""
    if not task.cancelled():
        task.exception()
