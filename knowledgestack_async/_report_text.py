"""What a failed run's report says: the exception, its last lines, cut to what the callback takes."""

from __future__ import annotations

from traceback import TracebackException

__all__ = ["REPORT_LENGTH", "describe_error", "fit_report"]

REPORT_LENGTH = 8192
"""How many characters of an error the callback takes (reference page: Run callback)."""
GAP = "\n…\n"


def describe_error(error: BaseException) -> tuple[str, str]:
    """An exception as a text: its type and text, and its traceback; the latter may be empty."""
    try:
        told = TracebackException.from_exception(error, compact=True)
        head = "".join(told.format_exception_only())
        traceback = "".join(told.format()).removesuffix(head)
    except Exception:  # noqa: BLE001 - an exception that can't be described is reported all the same
        return type(error).__qualname__, ""
    return head.rstrip("\n"), f"\n\n{traceback}" if traceback else ""


def fit_report(text: str, *, keep: int = REPORT_LENGTH) -> str:
    """A text as the callback takes it: at most `REPORT_LENGTH` characters, and no half ones.

    Of a longer one the beginning stays (``keep`` characters of it, but at most half of all), and as
    many of the last lines as fit.
    """
    whole = text.encode(errors="replace").decode().replace("\0", "\ufffd")
    if len(whole) <= REPORT_LENGTH:
        return whole
    head = whole[: min(keep, REPORT_LENGTH // 2)]
    end = whole[len(head) + len(GAP) - REPORT_LENGTH :]
    return head + GAP + (end.partition("\n")[2] or end)
