"""The command ``ks-async``, which needs the extra ``[cli]``: click and rich."""

from __future__ import annotations

import sys
from importlib.util import find_spec

__all__ = ["main"]

_NEEDED = ("click", "rich")
_USAGE_ERROR = 2


def main() -> int:
    """Run the command line; what the installed script ``ks-async`` calls.

    Returns:
        The exit code.
    """
    if any(find_spec(name) is None for name in _NEEDED):
        sys.stderr.write("ks-async needs its extra: pip install 'knowledgestack-async[cli]'\n")
        return _USAGE_ERROR
    from .app import run  # noqa: PLC0415

    return run()
