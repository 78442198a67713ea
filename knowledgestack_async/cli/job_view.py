"""What a bulk rerun looks like on a terminal while it runs."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

import knowledgestack_async as ks

from .text import span, status_color

__all__ = ["draw_job"]

_ORDER = ("accepted", "refused", "failed", "unknown", "sending", "planned")
_LABEL = 22


def draw_job(progress: ks.RerunProgress, *, stopping: bool, width: int) -> RenderableType:
    """A bar, the counts by state, and the pace.

    Args:
        progress: Where the job is.
        stopping: Whether it is ending early.
        width: How many columns there are.
    """
    if not progress.total:
        return Text(f"Taking down what they are like … {span(progress.elapsed)}", style="dim")
    line = Table.grid(padding=(0, 1))
    bar = ProgressBar(
        total=progress.total, completed=progress.done, width=max(10, width - _LABEL - 1)
    )
    line.add_row(bar, f"{progress.done:,} of {progress.total:,} done")
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


def _pace(progress: ks.RerunProgress, stopping: bool, width: int) -> Text:
    told = [span(progress.elapsed)]
    if progress.in_flight:
        told.append(f"{progress.in_flight:,} in flight")
    if progress.rate:
        told.append(f"{progress.rate:,.1f}/s")
    if stopping:
        told.append("stopping: what is on its way is waited for")
    elif progress.paused:
        told.append(f"paused: {progress.paused}")
    elif progress.eta is not None:
        told.append(f"about {span(progress.eta)} left")
    text = Text("  ·  ".join(told), style="yellow" if stopping or progress.paused else "dim")
    text.truncate(width, overflow="ellipsis")
    return text
