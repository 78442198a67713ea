"""The command ``ks-async``, which needs the extra ``[cli]``: click and rich."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec

__all__ = ["main", "prepare"]

_NEEDED = ("click", "rich")
_USAGE_ERROR = 2


def main() -> int:
    """Run the command line.

    Returns:
        The exit code.
    """
    return prepare()()


def prepare() -> Callable[[], int]:
    """Import what the command line needs.

    Returns:
        What runs it, and gives the exit code.
    """
    if any(find_spec(name) is None for name in _NEEDED):
        return _ask_for_extra
    from .app import run  # noqa: PLC0415

    return run


def _ask_for_extra() -> int:
    if sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison] - 2>&- makes it None
        sys.stderr.write("ks-async needs its extra: pip install 'knowledgestack-async[cli]'\n")
    return _USAGE_ERROR
