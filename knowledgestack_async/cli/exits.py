"""From what happened to the exit code, and to the lines that say it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from enum import IntEnum

import knowledgestack_async as ks

__all__ = ["NO_API_HERE", "Exit", "Tally", "exit_for", "explain", "worst"]

NO_API_HERE = "There is no Knowledge Stack API at this address: check --base-url and its path."


class Exit(IntEnum):
    """What ``ks-async`` exits with."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    AUTH = 4
    UNKNOWN = 5
    INTERRUPTED = 130


# When several ids fare differently, the first of these that happened is the exit code.
_WORST_FIRST = (Exit.UNKNOWN, Exit.AUTH, Exit.USAGE, Exit.FAILED, Exit.NOT_FOUND, Exit.DONE)

_BY_ERROR: tuple[tuple[type[ks.KnowledgeStackError], Exit], ...] = (
    (ks.ConfigurationError, Exit.USAGE),
    (ks.OutcomeUnknown, Exit.UNKNOWN),
    (ks.Unauthorized, Exit.AUTH),
    (ks.Forbidden, Exit.AUTH),
    (ks.NotFound, Exit.NOT_FOUND),
)

_WORDS = {
    Exit.DONE: "done",
    Exit.FAILED: "failed",
    Exit.USAGE: "refused",
    Exit.NOT_FOUND: "not found",
    Exit.AUTH: "not allowed",
    Exit.UNKNOWN: "with unknown outcome",
}

# The library speaks of its own arguments; here they have these names.
_OPTIONS = {
    "KS_API_KEY": "KS_API_KEY or --api-key-file",
    "or allow_plain_http=True": "or --allow-plain-http",
    "Open the session with dialect='auto', or with the name of": "Give --dialect auto, or",
    "lower max_in_flight or rate": "try again later, or with a lower --concurrency",
    "the key is given as api_key": "the key comes from KS_API_KEY or --api-key-file",
    "base_url": "--base-url",
    "name_like": "--name-like",
    "latest_version_only": "--latest-version-only",
    "uploader_user_id": "--uploader",
    "oldest_first": "--oldest-first",
    ", or raise max_in_flight": "",
    "Wait longer, or go on from what .last holds": "Wait again, or longer: --deadline",
    "give ssl= a context that trusts it": "name its authority in SSL_CERT_FILE",
}
_OUR_NAMES = re.compile("|".join(rf"(?<![\w./'-]){re.escape(name)}(?!\w)" for name in _OPTIONS))


def exit_for(error: ks.KnowledgeStackError) -> Exit:
    """The exit code that goes with an error."""
    return next((code for kind, code in _BY_ERROR if isinstance(error, kind)), Exit.FAILED)


def worst(codes: Iterable[Exit]) -> Exit:
    """The code that decides: 5, else 4, 2, 1, 3, and 0 only if all is done."""
    seen = set(codes)
    return next((code for code in _WORST_FIRST if code in seen), Exit.DONE)


def explain(error: ks.KnowledgeStackError) -> list[str]:
    """What happened, and on a line of its own what to do about it.

    Our own words are put into the command line's; the server's stay as they are, and so do paths.
    """
    if not isinstance(error, ks.RequestError):
        is_told_by_path = isinstance(error, ks.JournalError)
        return [f"Error: {error if is_told_by_path else _in_options(str(error))}"]
    facts = [
        f"{error.status}" if error.status is not None else "",
        f"request id {error.request_id}" if error.request_id else "",
        f"{error.tries} tries" if error.tries > 1 else "",
    ]
    told = ", ".join(filter(None, facts))
    call = f"{error.method} {error.path}".strip() + (f": {told}" if told else "")
    last = getattr(error, "last", None)
    state = f"; it is {last.status}" if last is not None and hasattr(last, "status") else ""
    lines = [f"Error: {error.message}{state} ({call})"]
    # A list is there wherever the API is, however empty.
    is_list = isinstance(error, ks.NotFound) and error.path.endswith("/document_versions")
    if hint := NO_API_HERE if is_list else error.hint:
        lines.append(f"  {_in_options(hint)}")
    return lines


def _in_options(text: str) -> str:
    return _OUR_NAMES.sub(lambda match: _OPTIONS[match[0]], text)


class Tally:
    """How many ids fared how."""

    def __init__(self) -> None:
        self._counts: Counter[Exit] = Counter()

    def __len__(self) -> int:
        return self._counts.total()

    def __contains__(self, code: Exit) -> bool:
        return code in self._counts

    def add(self, code: Exit) -> None:
        """Count one."""
        self._counts[code] += 1

    @property
    def code(self) -> Exit:
        """The code that decides."""
        return worst(self._counts)

    def __str__(self) -> str:
        told = [code for code in _WORDS if self._counts[code]]
        return ", ".join(f"{self._counts[code]:,} {_WORDS[code]}" for code in told)
