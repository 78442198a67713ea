"""The first lines of the installed script ``ks-async``, before anything slow is imported.

Installed a second time, as the module ``_knowledgestack_async_script``, which needs no package around
it: importing that takes a moment, and Ctrl-C in this moment would show where it was.
"""

from __future__ import annotations

import os
import signal

__all__ = ["main"]

_INTERRUPTED = 130


def main() -> int:
    """Run the command line.

    Returns:
        The exit code.
    """
    before = signal.getsignal(signal.SIGINT)
    _leave_at_ctrl_c()
    from knowledgestack_async.cli import prepare  # noqa: PLC0415 - this is what takes a moment

    run = prepare()
    try:
        # From here on Ctrl-C is an exception again, which the command line takes care of.
        signal.signal(signal.SIGINT, before)
        return run()
    except KeyboardInterrupt:
        return _INTERRUPTED
    finally:
        _leave_at_ctrl_c()


def _leave_at_ctrl_c() -> None:
    """Unless a shell has begun this in the background, where Ctrl-C is not meant for it."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _leave)


def _leave(_signal: int, _frame: object) -> None:
    """Leave at once: before and after the command's own time there is nothing to clean up."""
    os._exit(_INTERRUPTED)
