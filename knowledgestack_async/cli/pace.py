"""How a bulk rerun is run: what is the job's for good, and the pace, which may change on resuming."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, TypeVar

import attrs
import click

from .options import Decorator

__all__ = ["How", "job_options", "pace_options", "resend_option"]

CONCURRENCY = 50

F = TypeVar("F", bound=Callable[..., Any])


@attrs.frozen(kw_only=True)
class How:
    """The arguments of ``rerun_ingestions`` that the command line has options for."""

    wait: bool = False
    canary: int = 0
    abort_over: float = 0.2
    rate: float | None = None
    max_in_flight: int | None = None
    concurrency: int = CONCURRENCY
    resend_unknown: bool = False

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Self:
        """Take these options out of a command's."""
        names = [field.name for field in attrs.fields(cls)]
        return cls(**{name: settings.pop(name) for name in names if name in settings})

    @property
    def pace(self) -> list[str]:
        """The options of the pace, as far as they aren't as usual."""
        usual = How()
        names = ("rate", "max_in_flight", "concurrency")
        told = {name: getattr(self, name) for name in names}
        return [
            word
            for name, value in told.items()
            if value != getattr(usual, name)
            for word in (f"--{name.replace('_', '-')}", f"{value:g}")
        ]


_JOB = (
    click.option(
        "--wait", is_flag=True, help="Follow each to the end of the run that this job starts."
    ),
    click.option(
        "--canary",
        type=click.IntRange(min=0),
        metavar="N",
        default=0,
        help="Run a first few to their end, and go on only if they are good. [default: none]",
    ),
    click.option(
        "--abort-over",
        type=click.FloatRange(0, 1),
        metavar="SHARE",
        default=0.2,
        show_default=True,
        help="The share of these first few that may fail again.",
    ),
)

_PACE = (
    click.option(
        "--rate",
        type=click.FloatRange(min=0, min_open=True),
        metavar="N",
        help="At most so many a second.",
    ),
    click.option(
        "--max-in-flight",
        type=click.IntRange(min=1),
        metavar="N",
        help="At most so many of the job running on the server at a time.",
    ),
    click.option(
        "--concurrency",
        type=click.IntRange(1, 100),
        metavar="N",
        default=CONCURRENCY,
        show_default=True,
        help="How many to send at a time.",
    ),
)

resend_option: Decorator = click.option(
    "--resend-unknown",
    is_flag=True,
    help="Send those again of which nobody can tell whether they ran; they may run twice.",
)


def job_options(command: F) -> F:
    """Give a command the options that are a job's for good."""
    for option in reversed(_JOB):
        command = option(command)
    return command


def pace_options(command: F) -> F:
    """Give a command the options of the pace."""
    for option in reversed(_PACE):
        command = option(command)
    return command
