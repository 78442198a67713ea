"""Whether the server still speaks. Pure: time is handed in."""

from __future__ import annotations

__all__ = ["Pulse"]


class Pulse:
    """Remembers when the server was heard last, and how long it takes to answer."""

    SHORTEST = 3.0
    """Nothing shorter than so many seconds is a silence."""
    FACTOR = 4.0
    """Nor is what is not so many times as long as the slowest answer of late."""
    FADING = 0.999
    """What is left of a slow answer's weight after one more."""

    def __init__(self) -> None:
        self.heard_at: float | None = None
        self._slowest = 0.0

    def heard(self, now: float, took: float) -> None:
        """An answer came, after so many seconds."""
        self.heard_at = now
        self._slowest = max(took, self._slowest * self.FADING)

    def is_silent(self, now: float, asked_at: float | None, resumed_at: float) -> bool:
        """Whether the answer to what was asked then, the oldest that waits for one, is overdue.

        Args:
            now: The time.
            asked_at: When it was asked; None if nothing is.
            resumed_at: When we ran again after a time in which we didn't, and heard nothing.
        """
        if asked_at is None:
            return False
        since = max(asked_at, resumed_at, asked_at if self.heard_at is None else self.heard_at)
        return now - since >= max(self.SHORTEST, self.FACTOR * self._slowest)
