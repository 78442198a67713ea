"""What a watch looks like on a terminal: a bar, counts, the pace, failures by cause, the last changes."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from rich.console import Group, RenderableType
from rich.text import Text

from .canvas import bar
from .observed import Event, Observed
from .text import as_moment, clean, cut, span, status_color

__all__ = ["draw_watch"]

_ORDER = ("completed", "processing", "pending", "failed", "cancelled", "quota_limit")
_FEW_LINES = 2


def draw_watch(
    seen: Observed, width: int, height: int, trouble: str | None = None
) -> RenderableType:
    """The whole screen.

    Args:
        seen: What was observed.
        width: How many columns there are.
        height: How many lines there are.
        trouble: What keeps the watch from seeing now, besides what it told itself.
    """
    trouble = seen.trouble or trouble
    top: list[RenderableType] = [_title(seen, width), Text(), _bar(seen, width), Text()]
    counts = _counts(seen, width)
    top += [*counts, Text(), _pace(seen, width)]
    if trouble is not None:
        top.append(_line(f"Can't look now: {clean(trouble)}", width, "yellow"))
    left = height - len(top) - 1
    causes = seen.causes.most_common()
    most = min(len(causes), max(_FEW_LINES, left // 2 - _FEW_LINES))
    rest = left - (most + _FEW_LINES if most else 0) - _FEW_LINES
    parts = [*top]
    if most:
        parts += [Text(), *_causes(causes, most, width)]
    if seen.recent and rest > 0:
        parts += [Text(), *_changes(list(seen.recent)[:rest], width)]
    return Group(*parts[: height - 1])


def _line(text: str, width: int, style: str = "") -> Text:
    return Text(cut(text, width), style=style, no_wrap=True)


def _title(seen: Observed, width: int) -> Text:
    elapsed = span(seen.summary.elapsed)
    what = cut(seen.title, width - len(elapsed) - 2)
    text = Text(what, style="bold", no_wrap=True)
    text.append(f"{elapsed:>{width - len(what)}}", style="not bold dim")
    return text


def _bar(seen: Observed, width: int) -> RenderableType:
    summary = seen.summary
    over = summary.finished + summary.missing
    is_known = summary.is_complete or not seen.is_everything
    return bar(over, summary.total, "over", width, is_known=is_known)


def _counts(seen: Observed, width: int) -> list[Text]:
    summary = seen.summary
    shown = {word: summary.counts[word] for word in _ORDER if word in summary.counts}
    shown |= {word: count for word, count in summary.counts.items() if word not in shown}
    room = max(10, width - 30)
    lines: list[Text] = []
    for word, count in shown.items():
        color = status_color(word) or ""
        share = count / max(1, summary.total)
        percent = f"{share:.0%}" if share >= 0.01 else "<1%"
        line = Text(no_wrap=True)
        line.append(f"{clean(word):<12}", style=color)
        line.append(f"{count:>9,}  {percent:>4}  ")
        line.append("▇" * ceil(share * room), style=color)
        lines.append(line)
    return lines


def _pace(seen: Observed, width: int) -> Text:
    summary, rate = seen.summary, seen.rate
    left = summary.total - summary.finished - summary.missing
    told: list[str] = []
    if not summary.is_complete:
        told.append("looking for the first time")
    elif not summary.total:
        told.append("there are none yet")
    elif not left:
        told.append("all are over")
    else:
        told.append(f"{rate:,.1f}/s" if rate else "none has ended lately")
        if rate:
            told.append(f"about {span(left / rate)} left")
    if summary.stalled:
        told.append(f"{len(summary.stalled):,} without a change for long")
    return _line("  ·  ".join([*told, "Ctrl-C leaves"]), width, "dim")


def _causes(causes: Sequence[tuple[str, int]], most: int, width: int) -> list[Text]:
    lines = [Text("Failures by cause", style="bold")]
    shown = causes if len(causes) <= most else causes[: most - 1]
    for cause, count in shown:
        line = Text(no_wrap=True)
        line.append(f"{count:>7,}", style="red")
        line.append(f"  {cut(clean(cause), width - 9)}")
        lines.append(line)
    if len(shown) < len(causes):
        rest = causes[len(shown) :]
        count = sum(count for _, count in rest)
        lines.append(_line(f"{count:>7,}  of {len(rest):,} other causes", width, "dim"))
    return lines


def _changes(events: Sequence[Event], width: int) -> list[Text]:
    return [Text("Last changes", style="bold"), *(_change(event, width) for event in events)]


def _change(event: Event, width: int) -> Text:
    moment = as_moment(event.seen_at)
    line = Text(no_wrap=True)
    line.append("" if moment is None else f"{moment.astimezone():%H:%M:%S}  ", style="dim")
    line.append(f"{clean(event.workflow_id)}  ")
    if event.previous:
        line.append(event.previous, style=status_color(event.previous) or "")
        line.append(" → ")
    now = event.current or event.kind
    line.append(now.replace("_", " "), style=status_color(now) or "")
    if event.error:
        line.append(f"  {clean(event.error)}", style="dim")
    line.truncate(width, overflow="ellipsis")
    return line
