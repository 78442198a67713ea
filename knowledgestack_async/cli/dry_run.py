"""What a rerun would do, without doing it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import attrs

import knowledgestack_async as ks

from .._rerun_supply import BULK_STATUSES, Supply
from ..rerun_report import cause_of
from .exits import Exit
from .options import Options
from .output import Shape, printer_for
from .pace import How
from .running import in_words
from .table import Column
from .targets import Target
from .text import clean, cut, span

__all__ = ["show_dry_run"]

_MOST_CAUSES = 20


@attrs.frozen(kw_only=True)
class Estimate:
    """What a rerun of these would be.

    Attributes:
        targets: How many there are.
        by_status: How many have which status.
        by_cause: Why they failed: how many of each cause.
        missing: How many the server doesn't know.
        lookups: Requests to find out what they are like.
        reruns: Requests to run them again, retries apart.
        seconds: How long sending these takes at least.
    """

    targets: int
    by_status: dict[str, int]
    by_cause: dict[str, int]
    missing: int
    lookups: int
    reruns: int
    seconds: float


REPORT = Shape(
    fields=tuple(field.name for field in attrs.fields(Estimate)),
    columns=(Column(title="TARGETS", fields=("targets",)),),
    id_field="targets",
)
TARGET = Shape.of(ks.WorkflowSummaryResponse, Column(title="WORKFLOW", fields=("workflow_id",)))


async def show_dry_run(
    options: Options, session: ks.Session, targets: Sequence[Target], how: How
) -> Exit:
    """Look at the targets, and tell what running them again would be.

    Raises:
        KnowledgeStackError: They can't be looked up.
    """
    found, missing = await _look_up(session, targets)
    if options.output == "ids":
        with printer_for(options, TARGET) as printer:
            for summary in found:
                printer.write(summary.to_dict())
        return Exit.DONE
    estimate = await _estimate(session, found, missing, how)
    if options.output != "table" or options.fields:
        with printer_for(options, REPORT, "sheet", single=True) as printer:
            printer.write(attrs.asdict(estimate))
    else:
        _print(options, estimate, how)
    return Exit.DONE


async def _look_up(
    session: ks.Session, targets: Sequence[Target]
) -> tuple[list[ks.WorkflowSummaryResponse], int]:
    """What they are like now, in as few requests as it takes; and how many there are not."""
    found = {one.workflow_id: one for one in targets if not isinstance(one, str)}
    bare = [one for one in targets if isinstance(one, str)]
    left = set(bare)
    async with ks.watch_ingestions(session, bare) as watch:
        while left:
            change = await anext(watch)
            if change.state is not None:
                found[change.workflow_id] = change.state
            elif change.error is not None and change.kind is not ks.ChangeKind.MISSING:
                raise change.error
            left.discard(change.workflow_id)
    missing = sum(one not in found for one in bare)
    return [*found.values()] if not bare else [found[one] for one in bare if one in found], missing


async def _estimate(
    session: ks.Session, found: Sequence[ks.WorkflowSummaryResponse], missing: int, how: How
) -> Estimate:
    lookups = session.stats.requests
    began = time.perf_counter()
    await ks.list_ingestion_workflows(session, page_size=1)
    latency = time.perf_counter() - began
    limit = session.bulk_limit
    in_bulk = sum(str(one.status) in BULK_STATUSES for one in found) if limit else 0
    alone = len(found) - in_bulk
    most = min(limit or 1, how.max_in_flight or in_bulk or 1, max(1, int(how.rate or in_bulk)))
    bulks = -(-in_bulk // most)
    rounds = -(-bulks // Supply.BULK_AT_A_TIME) + -(-alone // how.concurrency)
    seconds = max(rounds * latency, len(found) / how.rate if how.rate else 0.0)
    return Estimate(
        targets=len(found) + missing,
        by_status=_counted(str(one.status) for one in found),
        by_cause=_counted(cause_of(one.error) for one in found if one.error),
        missing=missing,
        lookups=lookups,
        reruns=bulks + alone,
        seconds=round(seconds, 3),
    )


def _counted(words: Any) -> dict[str, int]:
    return dict(Counter[str](words).most_common())


def _print(options: Options, estimate: Estimate, how: How) -> None:
    out = options.screen.out
    width = options.screen.width if options.screen.is_terminal else 1000
    out(f"Would run again:  {estimate.targets - estimate.missing:,}")
    if estimate.missing:
        out(f"Don't exist:      {estimate.missing:,}")
    out(f"By status:        {in_words(estimate.by_status)}")
    if estimate.by_cause:
        out("By cause:")
    for cause, count in list(estimate.by_cause.items())[:_MOST_CAUSES]:
        out(cut(f"{count:>9,}  {clean(cause)}", width))
    if len(estimate.by_cause) > _MOST_CAUSES:
        out(f"{'':>9}  and {len(estimate.by_cause) - _MOST_CAUSES:,} other causes")
    watching = ", and those that follow them to their end" if how.wait else ""
    out(f"Requests:         {estimate.reruns:,}, and {estimate.lookups:,} lookups{watching}")
    soon = "less than 1 s" if estimate.seconds < 1 else f"{span(estimate.seconds)} at least"
    out(f"Time to send:     {soon}")
    if how.max_in_flight or how.canary:
        out("                  and what the pipelines take, for they are waited for")
    out("Nothing was changed.")
