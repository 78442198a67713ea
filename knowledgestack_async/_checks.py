"""Checks of what users give: each says what is wrong, and what would be right."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, TypeVar, cast

from .errors import ConfigurationError

__all__ = [
    "check_callable",
    "check_count",
    "check_each",
    "check_seconds",
    "check_share",
    "plain",
]

T = TypeVar("T")


def check_each(values: object, name: str, check: Callable[[object], T]) -> list[T]:
    """The values of an ordinary iterable, each of them checked.

    Raises:
        ConfigurationError: It is one text or no iterable, or one of them is wrong.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ConfigurationError(f"{name} must be an iterable, such as a list, not {values!r:.60}")
    return [check(value) for value in cast("Iterable[object]", values)]


def plain(text: str) -> str:
    """What a text says: for a member of a ``(str, Enum)`` its value, whatever its ``str()`` is."""
    return text if type(text) is str else str.__str__(text)


def check_callable(value: Any, name: str) -> None:
    """A function that isn't a coroutine function, or None.

    Raises:
        ConfigurationError: It is something else.
    """
    if inspect.iscoroutinefunction(value) or (
        callable(value) and inspect.iscoroutinefunction(type(value).__call__)
    ):
        raise ConfigurationError(f"{name} must be a plain function: nothing awaits what it gives")
    if value is not None and not callable(value):
        raise ConfigurationError(f"{name} must be a function, not {type(value).__name__}")


def check_count(value: object, name: str, *, least: int = 1, most: int | None = None) -> int:
    """A whole number from 1, or from ``least``.

    Raises:
        ConfigurationError: It isn't one, or is less than ``least`` or more than ``most``.
    """
    if (
        isinstance(value, int)
        and not isinstance(value, bool)
        and least <= value <= (value if most is None else most)
    ):
        return value
    bound = f"from {least}" if most is None else f"from {least} to {most}"
    raise ConfigurationError(f"{name} must be a whole number {bound}, not {value!r}")


def check_share(value: object, name: str) -> None:
    """A number from 0 to 1.

    Raises:
        ConfigurationError: It isn't one.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ConfigurationError(f"{name} must be from 0 to 1, not {value!r}")


def check_seconds(value: object, name: str, *, or_zero: bool = False) -> float:
    """A number of seconds above 0, or also 0.

    Raises:
        ConfigurationError: It isn't one.
    """
    seconds = float("nan")
    if isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(OverflowError):
            seconds = float(value)
    if 0 < seconds < float("inf") or (or_zero and seconds == 0):
        return seconds
    bound = "from 0" if or_zero else "above 0"
    raise ConfigurationError(f"{name} must be a number of seconds {bound}, not {value!r}")
