"""Texts for a terminal: short times, widths, nothing that would move the cursor."""

from __future__ import annotations

import textwrap
import unicodedata
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any, cast

__all__ = [
    "ago",
    "as_moment",
    "clean",
    "count_words",
    "cut",
    "flat",
    "full_time",
    "pad",
    "span",
    "status_color",
    "width_of",
    "wrap",
]

_COLORS = {
    "completed": "green",
    "failed": "red",
    "terminated": "red",
    "timed_out": "red",
    "cancelled": "yellow",
    "canceled": "yellow",
    "quota_limit": "magenta",
    "processing": "cyan",
    "running": "cyan",
    "pending": "blue",
    "not_started": "blue",
    "accepted": "green",
    "planned": "blue",
    "sending": "cyan",
    "refused": "red",
    "unknown": "magenta",
    "missing": "yellow",
    "trouble": "yellow",
}

_UNITS = ((60, 1, "s"), (3600, 60, "m"), (172_800, 3600, "h"), (None, 86_400, "d"))


def status_color(word: str) -> str | None:
    """The color of a status, in any of the API's spellings; None for a word never heard of."""
    return _COLORS.get(word.lower())


def clean(text: str) -> str:
    """The text on one line, without what a terminal would take for a command."""
    return "".join(char if char.isprintable() else " " for char in text)


def width_of(text: str) -> int:
    """How many columns a clean text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(_width_of_char(char) for char in text)


def _width_of_char(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in {"W", "F"} else 1


def cut(text: str, width: int) -> str:
    """The text, with an ellipsis where it is wider than that."""
    if width_of(text) <= width:
        return text
    taken = accumulate(map(_width_of_char, text))
    return text[: sum(total < width for total in taken)] + "…"


def pad(text: str, width: int) -> str:
    """The text, filled up with spaces."""
    return text + " " * (width - width_of(text))


def wrap(text: str, width: int, indent: str) -> list[str]:
    """The text in lines of that width, broken between words only; all but the first are indented."""
    return textwrap.wrap(
        text,
        width,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def as_moment(value: Any) -> datetime | None:
    """The time that an ISO text with a zone tells; None if it tells none."""
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return None if moment.tzinfo is None else moment


def ago(moment: datetime, now: datetime | None = None) -> str:
    """How long ago that was, such as ``3m ago``."""
    seconds = int(((now or datetime.now(UTC)) - moment).total_seconds())
    if seconds < 1:
        return "now" if seconds > -60 else "later"
    size, name = next((size, name) for end, size, name in _UNITS if end is None or seconds < end)
    return f"{seconds // size}{name} ago"


def span(seconds: float) -> str:
    """How long something takes, such as ``45 s`` or ``2m 05s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02}m" if hours else f"{minutes}m {rest:02}s"


def full_time(moment: datetime) -> str:
    """The time on this machine's clock, and how long ago that was."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S} ({ago(moment)})"


def flat(value: Any) -> str:
    """Any value of a record as one line of text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        parts = cast("dict[str, Any]", value)
        if parts and all(type(part) is int for part in parts.values()):
            return ", ".join(f"{count} {word}" for word, count in parts.items())
        return " ".join(filter(None, map(flat, parts.values())))
    if isinstance(value, list | tuple):
        return ", ".join(filter(None, map(flat, cast("list[Any]", value))))
    return clean(str(value))


def count_words(words: Iterable[str]) -> str:
    """How often each word comes, the most frequent first, such as ``3 completed, 1 failed``."""
    return ", ".join(f"{count:,} {word}" for word, count in Counter(words).most_common())
