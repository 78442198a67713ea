"""Checks of what users give: each says what is wrong, and what would be right."""

from __future__ import annotations

from .errors import ConfigurationError

__all__ = ["check_count", "check_seconds"]


def check_count(value: object, name: str, *, most: int | None = None) -> int:
    """A whole number from 1.

    Raises:
        ConfigurationError: It isn't one, or is more than ``most``.
    """
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= (most or value):
        return value
    bound = "from 1" if most is None else f"from 1 to {most}"
    raise ConfigurationError(f"{name} must be a whole number {bound}, not {value!r}")


def check_seconds(value: object, name: str, *, or_zero: bool = False) -> float:
    """A number of seconds above 0, or also 0.

    Raises:
        ConfigurationError: It isn't one.
    """
    seconds = float("nan")
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    if 0 < seconds < float("inf") or (or_zero and seconds == 0):
        return seconds
    bound = "from 0" if or_zero else "above 0"
    raise ConfigurationError(f"{name} must be a number of seconds {bound}, not {value!r}")
