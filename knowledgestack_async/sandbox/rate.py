"""A limit on how many requests are taken in a second."""

from collections import deque
from math import floor

_ROUNDING = 1e-6


class Rate:
    """Takes so many in any second, and refuses the rest.

    What it has taken is remembered one by one, so that no second, wherever it begins, holds more
    than there may be. A rate that is no whole number is kept over a window of another length: 0.5
    takes one in two seconds.
    """

    def __init__(self, per_second: float) -> None:
        """Begin with nothing taken.

        Args:
            per_second: How many are taken in a second.
        """
        self._most = max(1, floor(per_second))
        self._window = self._most / per_second
        self._taken: deque[float] = deque(maxlen=self._most)

    def takes(self, now: float) -> bool:
        """Tell whether one more is taken, and count it if so.

        Args:
            now: The time in seconds.
        """
        full = len(self._taken) == self._most
        if full and now - self._taken[0] < self._window - _ROUNDING:
            return False
        self._taken.append(now)
        return True
