"""May a call be sent again, and when. Pure: time and chance are handed in.

The only module that imports backoff, of which it uses the generators for the delays' ceiling: its
decorators count time on the wall clock, undercut Retry-After and print the exception's text.
"""

from __future__ import annotations

from enum import Enum, auto
from itertools import islice
from typing import Protocol

import attrs
import msgspec

from ._checks import check_count, check_seconds
from ._wire import Answer, is_quota_refusal

__all__ = ["Chance", "Fault", "RetryBudget", "RetryPolicy", "Verdict", "decide", "fault_of"]


class Chance(Protocol):
    """What the SDK asks of chance; ``random.Random`` is one."""

    def random(self) -> float:
        """A number from 0 up to, but not including, 1."""
        ...


class Fault(Enum):
    """What went wrong, as far as sending again is concerned."""

    NOT_SENT = auto()
    """Nothing reached the server."""
    UNTRUSTED = auto()
    """Nothing reached the server, which could not prove who it is: trying again doesn't help."""
    REFUSED = auto()
    """The server said that it can't now, and did nothing: 429, 503."""
    QUOTA = auto()
    """The server said that a quota is used up."""
    UNCERTAIN = auto()
    """It may have acted: the answer was lost, cut or late, or is 408, 500, 502 or 504."""
    ODD = auto()
    """A whole answer that makes no sense, such as a redirect. It may have acted."""
    DENIED = auto()
    """The server said no, and will say no again: any other 4xx."""


_REFUSALS = frozenset({429, 503})
_UNCERTAIN = frozenset({408, 500, 502, 504})


def fault_of(answer: Answer) -> Fault | None:
    """What is wrong with an answer; None for a success."""
    status = answer.status
    if status // 100 == 2 and status != 206:
        return None
    if status in _REFUSALS:
        return Fault.QUOTA if is_quota_refusal(answer) else Fault.REFUSED
    if status in _UNCERTAIN:
        return Fault.UNCERTAIN
    if status // 100 == 4:
        return Fault.DENIED
    return Fault.ODD


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """How a call is sent again.

    Attributes:
        tries: How often a call is sent at most, the first time included.
        base_delay: The ceiling of the first wait, in seconds; it doubles from wait to wait.
        max_delay: The ceiling that it grows to, in seconds.
        give_up_after: Without a deadline, no retry begins later than this after the first slot,
            in seconds.
    """

    tries: int = attrs.field(default=5)
    base_delay: float = attrs.field(default=0.5)
    max_delay: float = attrs.field(default=20.0)
    give_up_after: float = attrs.field(default=120.0)

    def __attrs_post_init__(self) -> None:
        check_count(self.tries, "tries")
        for name in ("base_delay", "max_delay", "give_up_after"):
            check_seconds(getattr(self, name), name, or_zero=True)

    def ceiling(self, tries: int) -> float:
        """The longest wait after so many tries, in seconds."""
        import backoff  # noqa: PLC0415 - most programs never come here

        delays = backoff.expo(base=2, factor=self.base_delay, max_value=self.max_delay)
        return float(next(islice(delays, tries, None)))  # the first one is None


class RetryBudget:
    """How many retries a session may have outstanding: for outages, where trying again only hurts.

    A retry takes a token and a retry that succeeds gives it back, so noise costs nothing; a success
    at the first try gives back a little, so the budget fills up again after an outage.
    """

    CAPACITY = 35.0
    REFILL = 0.1

    def __init__(self) -> None:
        self._tokens = self.CAPACITY

    @property
    def is_empty(self) -> bool:
        """Whether the next retry will be refused."""
        return self._tokens < 1

    def take(self) -> bool:
        """Ask for a retry."""
        if self.is_empty:
            return False
        self._tokens -= 1
        return True

    def give_back(self, retries: int) -> None:
        """Tell of a call that succeeded after so many retries."""
        self._tokens = min(self.CAPACITY, self._tokens + (retries or self.REFILL))


class Verdict(msgspec.Struct, frozen=True):
    """Whether to send again: after so many seconds, or not (None), and why not."""

    wait: float | None
    reason: str = ""


def decide(
    policy: RetryPolicy,
    fault: Fault,
    *,
    idempotent: bool,
    tries: int,
    retry_after: float | None,
    time_left: float,
    chance: Chance,
) -> Verdict:
    """Whether a call that failed is sent again, and after how long.

    Args:
        policy: The user's settings.
        fault: What went wrong.
        idempotent: Whether sending it twice does no harm.
        tries: How often it was sent so far.
        retry_after: What the server asked for, in seconds: never undercut, jitter only on top.
        time_left: Until the deadline, or until the policy gives up, in seconds.
        chance: Where jitter comes from.
    """
    again: set[Fault] = {Fault.NOT_SENT, Fault.REFUSED}
    if fault not in again | ({Fault.UNCERTAIN} if idempotent else again):
        return Verdict(None, "sending it again would not help, or is not safe")
    if tries >= policy.tries:
        return Verdict(None, f"{tries} tries are all that the retry policy allows")
    asked = retry_after or 0.0
    if asked >= time_left:
        return Verdict(None, f"the time left is shorter than the {asked:.3g} s that must be waited")
    # What was asked for gets a little jitter on top, but a small or past one is no reason to hurry.
    ceiling, share = policy.ceiling(tries), chance.random()
    wait = max(asked + share * min(ceiling, asked / 4), share * ceiling)
    return Verdict(min(wait, max(asked, time_left * 0.99)))
