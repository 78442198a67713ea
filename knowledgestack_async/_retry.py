"""May a call be sent again, and when. Pure: time and chance are handed in.

The only module that imports backoff, of which it uses the generators for the delays' ceiling: its
decorators count time on the wall clock, undercut Retry-After and print the exception's text.
"""

from __future__ import annotations

from enum import Enum, auto
from itertools import islice
from types import ModuleType
from typing import Protocol

import attrs
import msgspec

from ._checks import check_count, check_seconds
from ._responses import is_quota_refusal
from ._wire import Answer

__all__ = [
    "Chance",
    "CircuitBreaker",
    "Fault",
    "RetryPolicy",
    "Verdict",
    "decide",
    "fault_of",
]


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
    """The server said that it can't now, and did nothing: 503."""
    LIMITED = auto()
    """The server limits the rate, and did nothing: 429."""
    QUOTA = auto()
    """The server said that a quota is used up."""
    UNCERTAIN = auto()
    """It may have acted: the answer was lost, cut or late, or is 408, or a 5xx that may pass."""
    ODD = auto()
    """A whole answer that makes no sense, such as a redirect. It may have acted."""
    DENIED = auto()
    """The server said no, and will say no again: any other 4xx."""


_LASTING = frozenset({501, 505, 511})
"""Of the 5xx those that are the same the next time; a 5xx that nobody knows is as 500 is (RFC 9110, 15)."""


def fault_of(answer: Answer) -> Fault | None:
    """What is wrong with an answer; None for a success."""
    status = answer.status
    if status // 100 == 2 and status != 206:
        return None
    if status == 429:
        return Fault.QUOTA if is_quota_refusal(answer) else Fault.LIMITED
    if status == 503:
        return Fault.REFUSED
    if status == 408 or (status // 100 == 5 and status not in _LASTING):
        return Fault.UNCERTAIN
    if status // 100 == 4:
        return Fault.DENIED
    return Fault.ODD


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """How a call is sent again.

    Attributes:
        tries: How often a call is sent at most, the first time included. A refusal for the rate (429)
            doesn't count while other calls get through.
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
        backoff = load_backoff()
        delays = backoff.expo(base=2, factor=self.base_delay, max_value=self.max_delay)
        return float(next(islice(delays, tries, None)))  # the first one is None


def load_backoff() -> ModuleType:
    """The library that the delays come from: loaded when a session is made, not when something fails."""
    import backoff  # noqa: PLC0415 - importing the package needn't load it

    return backoff


class CircuitBreaker:
    """Closed, it lets retries through as long as the retry budget lasts; open, one probe at a time.

    A retry takes a token and a retry that succeeds gives it back, so noise costs nothing. When none is
    left, many calls have failed and few have succeeded since: then the retries of the route that wants
    one more are held, all but one now and then, and the first success there closes it for all.

    Calls whose policy allows no retry spend no budget. A route that gave several of them up in a row,
    with no success between them, is failing, too.
    """

    BUDGET = 20
    MOST_GIVEN_UP = 8
    REFILL = 0.1
    FIRST_PROBE, LAST_PROBE, GROWTH = 0.1, 1.5, 1.6
    """Seconds from one probe to the next: they grow from the first by the factor, up to the last."""
    SHARE_OF_OUTAGE, SHARE_OF_PROBE = 1 / 12, 3
    """A long outage is probed less often, and one in which probes take long."""

    def __init__(self, budget: int) -> None:
        self._budget = self._tokens = float(budget)
        self._open: dict[object, _Outage] = {}
        self._given_up: dict[object, int] = {}

    def is_failing(self, route: object) -> bool:
        """Whether the last calls of a route were all given up."""
        return self._given_up.get(route, 0) >= self.MOST_GIVEN_UP

    @property
    def is_open(self) -> bool:
        """Whether the retries of any route are held."""
        return bool(self._open)

    def may_retry(self, route: object, now: float) -> bool:
        """Whether a retry may be sent now."""
        outage = self._open.get(route)
        if outage is None:
            if self._tokens >= 1:
                self._tokens -= 1
                return True
            outage = self._open[route] = _Outage(now, now, self.FIRST_PROBE)
        if outage.probing_since is not None or now < outage.probe_at:
            return False
        outage.probing_since = now
        return True

    def probe_of(self, route: object) -> object | None:
        """The probe that is on its way; None if there is none."""
        outage = self._open.get(route)
        return None if outage is None or outage.probing_since is None else outage

    def succeeded(self, route: object, retries: int) -> None:
        """A call succeeded after this number of retries, or the server said why it won't do it."""
        self._given_up.pop(route, None)
        self.answered(route, retries)

    def answered(self, route: object, retries: int = 0) -> None:
        """The server is there, whatever it said."""
        if self._open.pop(route, None) is not None:
            self._tokens = self._budget
        self.give_back(retries or self.REFILL)

    def gave_up(self, route: object) -> None:
        """A call failed for good, in a way that may pass."""
        self._given_up[route] = self._given_up.get(route, 0) + 1

    def give_back(self, retries: float) -> None:
        """A call needs its retries no more."""
        self._tokens = min(self._budget, self._tokens + retries)

    def failed(self, probe: object, now: float) -> None:
        """A probe failed, or was given up before it had an answer."""
        if isinstance(probe, _Outage) and probe.probing_since is not None:
            took, probe.probing_since = now - probe.probing_since, None
            longest = max(self.LAST_PROBE, (now - probe.since) * self.SHARE_OF_OUTAGE)
            probe.interval = min(longest, probe.interval * self.GROWTH)
            probe.probe_at = now + max(probe.interval, took * self.SHARE_OF_PROBE)


class _Outage(msgspec.Struct):
    """A route whose retries are held."""

    since: float
    probe_at: float
    interval: float
    probing_since: float | None = None


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
    again: set[Fault] = {Fault.NOT_SENT, Fault.REFUSED, Fault.LIMITED}
    if fault not in again | ({Fault.UNCERTAIN} if idempotent else again):
        return Verdict(None, "sending it again would not help, or is not safe")
    if tries >= policy.tries:
        return Verdict(None, f"{tries} tries are all that the retry policy allows")
    asked = retry_after or 0.0
    if asked >= time_left:
        return Verdict(None, f"the time left is shorter than the {asked:.3g} s that must be waited")
    # What was asked for gets a little jitter on top, but a small or past one is no reason to hurry. From
    # the second retry on at least half of the ceiling is waited, so that all tries of a call together
    # outlast a short outage.
    ceiling, share = policy.ceiling(tries), chance.random()
    if tries > 1:
        share = 0.5 + share / 2
    wait = max(asked + share * min(ceiling, asked / 4), share * ceiling)
    return Verdict(min(wait, max(asked, time_left * 0.99)))
