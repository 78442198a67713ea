"""What a bulk rerun looks like on a terminal while it runs."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

import knowledgestack_async as ks

from .canvas import bar
from .text import span, status_color

__all__ = ["draw_job"]

_ORDER = ("accepted", "refused", "failed", "unknown", "sending", "planned")


def draw_job(progress: ks.RerunProgress, *, stopping: bool, width: int) -> RenderableType:
    """A bar, the counts by state, and the pace.

    Args:
        progress: Where the job is.
        stopping: Whether it is ending early.
        width: How many columns there are.
    """
    if not progress.total:
        return Text(f"Taking down what they are like … {span(progress.elapsed)}", style="dim")
    line = bar(progress.done, progress.total, "done", width)
    return Group(line, _counts(progress, width), _pace(progress, stopping, width))


def _counts(progress: ks.RerunProgress, width: int) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis", end="\n")
    known = [*_ORDER, *(word for word in progress.counts if word not in _ORDER)]
    for word in known:
        if count := progress.counts.get(word):
            text.append("  " if text else "")
            text.append(f"{count:,}", style="bold")
            text.append(f" {word}", style=status_color(word) or "")
    text.truncate(width, overflow="ellipsis")
    return text


def _outlook(progress: ks.RerunProgress) -> list[str]:
    told = [f"{progress.rate:,.1f}/s"] if progress.rate else []
    if progress.paused:
        told.append(f"paused: {progress.paused}")
    elif progress.eta is not None:
        told.append(f"about {span(progress.eta)} left")
    return told


def _pace(progress: ks.RerunProgress, stopping: bool, width: int) -> Text:
    told = [span(progress.elapsed)]
    if progress.in_flight:
        told.append(f"{progress.in_flight:,} in flight")
    if stopping:
        told.append("stopping: what is on its way is waited for")
    else:
        told += _outlook(progress)
    text = Text("  ·  ".join(told), style="yellow" if stopping or progress.paused else "dim")
    text.truncate(width, overflow="ellipsis")
    return text
