"""The sandbox's own time: it can run fast, or stand still until it is stepped."""

import time
from datetime import UTC, datetime
from typing import Protocol

from attrs import define, field

_STEPPED_START = datetime(2026, 7, 1, 12, tzinfo=UTC).timestamp()


class Clock(Protocol):
    """What the sandbox asks for the time."""

    def now(self) -> float:
        """Return the seconds since 1970 in UTC."""
        ...


@define
class RunningClock:
    """A clock that runs by itself, as fast as told.

    Args:
        speed: Sandbox seconds per real second; 60 makes an hour of a minute.
        start: Seconds since 1970 at which it begins; by default the present.
    """

    speed: float = 1.0
    start: float = field(factory=time.time)
    _began: float = field(factory=time.monotonic, init=False)

    def now(self) -> float:
        """Return the sandbox's time, in seconds since 1970."""
        return self.start + (time.monotonic() - self._began) * self.speed


@define
class SteppedClock:
    """A clock that stands still until `advance` is called.

    Args:
        start: Seconds since 1970 at which it begins; by default a fixed day, so that a test
            that uses it sees the same times in every run.
    """

    _now: float = field(default=_STEPPED_START, alias="start")

    def now(self) -> float:
        """Return the sandbox's time, in seconds since 1970."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the time on.

        Args:
            seconds: By how much; never negative.

        Raises:
            ValueError: The time would go back.
        """
        if seconds < 0:
            raise ValueError(f"a clock cannot go back, but seconds is {seconds}")
        self._now += seconds
