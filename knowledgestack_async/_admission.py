"""What a try needs before it is sent: a key, and a slot."""

from __future__ import annotations

from typing import Any

from . import errors
from ._clock import Clock
from ._dialects import Target
from ._governor import CoolingDown, Governor, Slot
from ._negotiation import Negotiation
from ._outcome import CallProgress, call_error, wait_permitted
from ._problems import Problem, call_facts
from ._settings import CallOptions, GivenKeys, KeySource
from ._wire import Call, Secret

__all__ = ["Admission"]


class Admission:
    """Finds the key of a try, and waits for its slot."""

    FRESH_FOR, MOST_KEYS = 1.0, 3
    """A key that a function gave is asked for again where the wait for a slot took longer, in seconds."""

    def __init__(self, governor: Governor, negotiation: Negotiation, clock: Clock) -> None:
        self._governor = governor
        self._negotiation = negotiation
        self._clock = clock
        self.given_keys = GivenKeys()

    async def admit(
        self,
        call: Call[Any],
        options: CallOptions,
        progress: CallProgress,
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
                slot = await wait_permitted(call, progress, waiting)
            is_given = isinstance(call.credential or options.key, Secret)
            if is_given or not keys_left or self._clock.now() - asked_at < self.FRESH_FOR:
                return credential, slot
            self._governor.release(slot)

    def _take_slot(self, progress: CallProgress) -> Slot | None:
        """A slot that is free; waiting for one takes time, even where there is one."""
        now = self._clock.now()
        return self._governor.take_free(now) if now < progress.deadline_at else None

    async def _wait_for_slot(
        self,
        call: Call[Any],
        options: CallOptions,
        progress: CallProgress,
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
            why = "no slot came free in time"
            raise call_error(call, target, progress, problem, self._clock.now(), why=why)
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

    async def _find_credential(
        self, call: Call[Any], options: CallOptions, progress: CallProgress
    ) -> Secret:
        credential = call.credential or options.key
        if not isinstance(credential, Secret):
            target = call.target(self._negotiation.dialect)
            asking = self._ask_for_key(credential, call, options, progress, target)
            credential = await wait_permitted(call, progress, asking)
        progress.secrets = (credential, options.key)
        return credential

    async def _ask_for_key(
        self,
        source: KeySource,
        call: Call[Any],
        options: CallOptions,
        progress: CallProgress,
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
