"""Whether a session's server still speaks, and what is done about what it won't answer any more."""

from __future__ import annotations

from ._clock import Clock
from ._governor import Governor
from ._pulse import Pulse
from ._transport import Transport

__all__ = ["Hearing"]


class Hearing:
    """Listens for answers; those to reads don't hide that reruns are not answered.

    Attributes:
        was_understood: Whether the server ever answered as the API does.
        lost_before: What was sent before then and still waits will hardly be answered.
    """

    def __init__(self, transport: Transport, governor: Governor, clock: Clock) -> None:
        self._transport = transport
        self._governor = governor
        self._clock = clock
        self._of_all = Pulse()
        self._of_what_goes_once = Pulse()
        self.lost_before: float = float("-inf")
        self._resumed_at = float("-inf")
        self.was_understood = False

    @property
    def was_heard(self) -> bool:
        """Whether the server ever answered anything."""
        return self._of_all.heard_at is not None

    @property
    def is_silent(self) -> bool:
        """Whether an answer is overdue, to anything or to what must not be sent twice."""
        now = self._clock.now()
        pulses = ((self._of_all, False), (self._of_what_goes_once, True))
        return any(
            pulse.is_silent(
                now, self._transport.oldest(self.lost_before, once=once), self._resumed_at
            )
            for pulse, once in pulses
        )

    def heard(self, now: float, took: float, *, once: bool) -> None:
        """An answer came, after so many seconds; ``once``: to what must not be sent twice."""
        self._of_all.heard(now, took)
        if once:
            self._of_what_goes_once.heard(now, took)

    def resumed(self) -> None:
        """We didn't run for a while, so nothing was heard: that is no silence of the server's."""
        self._resumed_at = self._clock.now()

    def hang_up(self, before: float) -> None:
        """Send again what waits since before then and may be sent again: at once, each call once.

        For one who saw the server go silent and come back.
        """
        self.lost_before = before
        self._transport.hang_up(before)

    def write_off(self, before: float, most: int | None) -> None:
        """Don't count what is in flight since before then, the oldest first, towards the limit."""
        self._governor.write_off(before, most)
