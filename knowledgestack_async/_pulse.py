"""Whether the server still speaks. Pure: time is handed in."""

from __future__ import annotations

__all__ = ["Pulse"]


class Pulse:
    """Remembers when the server was heard last, and how long it takes to answer.

    Attributes:
        was_heard: Whether there was ever any answer.
    """

    SHORTEST = 3.0
    """Nothing shorter than so many seconds is a silence."""
    FACTOR = 4.0
    """Nor is what is not so many times as long as the slowest answer of late."""
    FADING = 0.999
    """What is left of a slow answer's weight after one more."""

    def __init__(self) -> None:
        self.was_heard = False
        self._listening_since = 0.0
        self._slowest = 0.0

    def asked(self, now: float) -> None:
        """Something is sent, and nothing else is on its way: from now on an answer may come."""
        self._listening_since = now

    def heard(self, now: float, took: float) -> None:
        """An answer came, after so many seconds."""
        self.was_heard = True
        self._listening_since = now
        self._slowest = max(took, self._slowest * self.FADING)

    def is_silent(self, now: float) -> bool:
        """Whether an answer is overdue, if something is on its way."""
        return now - self._listening_since >= max(self.SHORTEST, self.FACTOR * self._slowest)
