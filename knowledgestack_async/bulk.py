"""Reruns in bulk, on a journal: killed at any moment, it is known what ran.

What is meant is written down before anything is sent, and that it is being sent before the first
byte goes out. What was being sent when the process died, or whose answer was lost, is unknown until a
newer run proves that it acted; it is sent again only if the user says so.

Knows no HTTP: it is handed what it calls.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, cast

import attrs
import msgspec

from ._clock import Clock
from ._journal import ItemState, Journal, JournalItem
from ._rerun_breaker import Breaker
from ._rerun_plan import IsNewer, Source, plan, renew, settle, time_to_show
from ._rerun_send import Sender
from ._rerun_settings import RerunSettings
from ._rerun_supply import Supply
from ._retry import Chance
from ._upstream import Upstream
from .errors import KnowledgeStackError, SessionError
from .models import WorkflowSummaryResponse
from .rerun_report import RerunOutcome, RerunProgress, RerunReport, Tally
from .watching import ChangeKind, StatusChange, Watch

__all__ = ["RerunJob", "Source"]


class RerunJob:
    """A bulk rerun; see ``rerun_ingestions``.

    Use it with ``async with``: ``async for`` gives outcomes as they come, ``finish()`` runs it to its
    end without looking. Leaving the block early stops it: what is on its way is waited for, the rest
    stays planned, and the same call with the same journal goes on.

    Attributes:
        resumed: Whether the journal had a planned job already, which goes on, or is told again if it
            is finished: then the source is not read.
    """

    WAITING_OUTCOMES = 1000
    PUBLISH_EVERY = 1.0
    RATE_WINDOW = 30.0
    TIME_TO_LOOK = 1.0
    """Seconds after which a watch that was told of a server's return knows better if it isn't back."""

    def __init__(
        self,
        journal: Journal,
        upstream: Upstream,
        source: Source,
        settings: RerunSettings,
        is_newer: IsNewer,
        *,
        clock: Clock,
        chance: Chance,
    ) -> None:
        self._journal = journal
        self._upstream = upstream
        self._source = source
        self._settings = settings
        self._is_newer = is_newer
        self._clock = clock
        self._outcomes: asyncio.Queue[RerunOutcome | None] = asyncio.Queue(self.WAITING_OUTCOMES)
        self._breaker = Breaker(upstream, clock, chance)
        self._supply = Supply(
            journal, self._breaker, clock, settings, bulk_limit=lambda: upstream.bulk_limit
        )
        self._sender = Sender(
            journal, upstream, self._breaker, self._supply, settings, on_done=self._note
        )
        self._watch = upstream.follow()
        self._breaker.on_back = self._watch.look_now
        self._breaker.on_stop = self._note_stop
        self._canary_good = 0
        self._canary_bad = 0
        self._followed: set[str] = set()
        self._held: set[str] = set()
        self._unproven: list[JournalItem] = []
        self._seen_running: set[str] = set()
        self._beside: set[asyncio.Task[None]] = set()
        self._waiting_for_return: asyncio.Task[None] | None = None
        self._trouble: str | None = None
        self._all_ended = asyncio.Event()
        self._work: asyncio.Task[None] | None = None
        self._has_begun = False
        self._is_exhausted = False
        self._counts: Counter[ItemState] = Counter()
        self._endings: deque[float] = deque()
        self._began_at = 0.0
        self._published_at = float("-inf")
        self._report: RerunReport | None = None
        self.resumed: bool = False

    async def __aenter__(self) -> Self:
        self._began_at = self._clock.now()
        await self._journal.open(self._upstream.server, self._settings.defining)
        try:
            await self._publish(is_over=False)
        except BaseException:
            await self._journal.close()
            raise
        self._work = asyncio.get_running_loop().create_task(self._run())
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        work, self._work = self._work, None
        if work is None:
            return
        if not work.done():
            self._breaker.stop("it was left before its end")
        if not self._has_begun:
            work.cancel()  # nothing was sent: there is nothing on its way to be waited for
        try:
            try:
                await self._wait_until_done(work)
            finally:
                work.cancel()
                await self._wait_until_done(work)
                failure = None if work.cancelled() else work.exception()
            if self._report is None:
                self._report = await self._read_report()
            self._publish(is_over=True)
            if failure is not None and exc is None and not self._is_exhausted:
                raise failure  # nobody was told yet
        finally:
            await self._journal.close()

    async def _wait_until_done(self, work: asyncio.Task[None]) -> None:
        """What is on its way ends by itself; nobody reads outcomes any more, so make room."""
        while not work.done():
            while not self._outcomes.empty():
                self._outcomes.get_nowait()
            await asyncio.wait([work], timeout=0.05)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RerunOutcome:
        work = self._work
        if work is None:
            raise SessionError("use a bulk rerun with 'async with', and iterate inside of it")
        if self._is_exhausted:
            raise StopAsyncIteration
        outcome = await self._outcomes.get()
        if outcome is not None:
            return outcome
        self._is_exhausted = True
        await work  # what ended it comes up here
        self._report = await self._read_report()
        raise StopAsyncIteration

    async def finish(self) -> RerunReport:
        """Run to the end without looking at outcomes one by one."""
        async for _ in self:
            pass
        return self.report

    @property
    def report(self) -> RerunReport:
        """What came of the job; there once its end was reached or its block was left.

        Raises:
            SessionError: It is still running.
        """
        if self._report is None:
            raise SessionError("the report is there once the job has ended or its block was left")
        return self._report

    @property
    def progress(self) -> RerunProgress:
        """Where it is now."""
        now = self._clock.now()
        while self._endings and self._endings[0] < now - self.RATE_WINDOW:
            self._endings.popleft()
        span = min(self.RATE_WINDOW, now - self._began_at)
        rate = len(self._endings) / span if span > 0 else 0.0
        total = sum(self._counts.values())
        left = self._counts[ItemState.PLANNED] + self._counts[ItemState.SENDING]
        left += len(self._followed) if self._settings.wait else 0
        return RerunProgress(
            counts={str(state): count for state, count in self._counts.items() if count},
            total=total,
            done=total - left,
            in_flight=self._supply.running,
            rate=rate,
            eta=left / rate if rate else None,
            paused=self._breaker.paused_by or self._trouble,
            elapsed=now - self._began_at,
        )

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                looking_out = group.create_task(self._breaker.look_out())
                await self._prepare()
                await self._carry_out()
                looking_out.cancel()
        except BaseExceptionGroup as several:
            raise _first_of(several) from None
        finally:
            await self._outcomes.put(None)

    async def _prepare(self) -> None:
        """All that comes before the first one is sent."""
        news: list[JournalItem] = []
        pause, settings = self._breaker.pause, self._settings
        await self._upstream.make_contact()
        self.resumed = await self._journal.is_planned()
        if not self.resumed:
            await plan(self._journal, self._upstream, self._source, pause)
            news = [item async for item in self._journal.items(ItemState.REFUSED)]
        news += await settle(
            self._journal,
            self._upstream,
            self._is_newer,
            resend=settings.resend_unknown,
            settle_after=settings.settle_after,
            clock=self._clock,
            pause=pause,
        )
        if self.resumed:
            await renew(self._journal, self._upstream, pause)
        self._has_begun = True
        self._unproven = [item for item in news if item.state is ItemState.UNKNOWN]
        self._counts = Counter(await self._journal.counts())
        await self._tell_news(news)
        self._publish(is_over=False)

    async def _carry_out(self) -> None:
        if not self._settings.follows:
            await self._sender.send()
            return
        async with self._watch, asyncio.TaskGroup() as self._group:
            self._start_beside(self._follow(self._watch))
            await self._send_and_wait()
            for task in self._beside:
                task.cancel()

    def _start_beside(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something while things are sent and waited for, no longer."""
        task = self._group.create_task(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)
        return task

    async def _tell_news(self, items: list[JournalItem]) -> None:
        """Tell what has its outcome before anything is sent; what is followed has it at its end."""
        later = {ItemState.PLANNED}
        if self._settings.wait:
            later.add(ItemState.ACCEPTED)
        for item in items:
            if item.state not in later:
                await self._emit(item)

    async def _send_and_wait(self) -> None:
        if self._settings.wait or self._settings.max_in_flight is not None:
            # Those of an earlier go may be running still: followed, they are told, or make room.
            async for item in self._journal.items(ItemState.ACCEPTED):
                if item.outcome is None:
                    self._start_following(item)
                    self._supply.started()
        if self._settings.max_in_flight is not None:
            for item in self._unproven:
                self._supply.started()
                self._hold(item, time_to_show(item, self._settings.settle_after))
        await self._try_canary()
        await self._sender.send()
        if self._settings.wait:
            await self._all_have_ended()

    async def _try_canary(self) -> None:
        """Run a first few to their end; those of which nothing is known are replaced by others."""
        judged = 0
        while judged < self._settings.canary:
            sent = await self._sender.send(self._settings.canary - judged)
            await self._all_have_ended()
            judged = self._canary_good + self._canary_bad
            if not sent:
                break
        if judged and self._canary_bad > self._settings.abort_over * judged:
            self._breaker.stop(f"{self._canary_bad} of the first {judged} failed again")

    async def _all_have_ended(self) -> None:
        while self._followed and self._breaker.stopped_by is None:
            self._all_ended.clear()
            await self._all_ended.wait()

    def _start_following(self, item: JournalItem) -> None:
        before = item.baseline and msgspec.structs.replace(item.baseline, document_version_id=None)
        self._followed.add(item.workflow_id)
        self._watch.add(item.workflow_id, before)

    def _note_stop(self) -> None:
        self._supply.stop()
        self._all_ended.set()

    def _stop_following(self, workflow_id: str) -> None:
        self._followed.discard(workflow_id)
        self._held.discard(workflow_id)
        self._supply.ended()
        self._all_ended.set()

    def _hold(self, item: JournalItem, seconds: float) -> None:
        """One that may run has its place on the server's side until it is over, or doesn't show in time."""
        self._held.add(item.workflow_id)
        self._start_following(item)
        self._start_beside(self._let_go(item.workflow_id, seconds))

    async def _let_go(self, workflow_id: str, seconds: float) -> None:
        await self._clock.sleep(seconds)
        if workflow_id in self._held and workflow_id not in self._seen_running:
            self._stop_following(workflow_id)

    async def _note(self, item: JournalItem) -> None:
        """An item has an outcome, or was accepted and is followed to its end."""
        self._counts[ItemState.PLANNED] -= 1
        self._counts[item.state] += 1
        accepted = item.state is ItemState.ACCEPTED
        if accepted and self._settings.follows:
            self._start_following(item)
        if item.state is ItemState.UNKNOWN and self._settings.max_in_flight is not None:
            self._hold(item, self._settings.settle_after)
        if item.state in {ItemState.REFUSED, ItemState.FAILED}:
            self._canary_bad += 1
        if not (accepted and self._settings.wait):
            await self._emit(item)

    async def _follow(self, watch: Watch[WorkflowSummaryResponse]) -> None:
        while changes := await watch.next_changes():
            self._note_trouble(changes)
            ours = [change for change in changes if change.workflow_id in self._followed]
            ended = {change.workflow_id: change for change in ours if change.is_final}
            seen = {change.workflow_id for change in ours if change.state is not None}
            self._seen_running |= seen & self._held
            for workflow_id, change in ended.items():
                if workflow_id not in self._held:
                    good = change.current == "completed"
                    self._canary_good += good
                    self._canary_bad += not good
            if self._settings.wait:
                await self._tell_ends(ended)
            for workflow_id in self._followed & ended.keys():
                self._stop_following(workflow_id)

    def _note_trouble(self, changes: Sequence[StatusChange[WorkflowSummaryResponse]]) -> None:
        for change in changes:
            if not change.workflow_id:
                self._trouble = None if change.error is None else str(change.error)
        waiting = self._waiting_for_return
        is_troubled = any(change.kind is ChangeKind.TROUBLE for change in changes)
        if is_troubled and (waiting is None or waiting.done()):
            # The watch looks more and more seldom, and would see late that the server is back.
            self._waiting_for_return = self._start_beside(self._wait_for_return())

    async def _wait_for_return(self) -> None:
        while True:
            await self._breaker.wait_until_back()
            await self._clock.sleep(self.TIME_TO_LOOK)
            if self._trouble is None:
                return

    async def _tell_ends(self, ended: Mapping[str, StatusChange[WorkflowSummaryResponse]]) -> None:
        found = await self._journal.find([one for one in ended if one not in self._held])
        items = [_at_its_end(item, ended[item.workflow_id]) for item in found]
        await self._journal.update(items)
        for item in items:
            await self._emit(item)

    async def _emit(self, item: JournalItem) -> None:
        self._endings.append(self._clock.now())
        if self._clock.now() - self._published_at >= self.PUBLISH_EVERY:
            self._publish(is_over=False)
        if self._work is not None:  # else it is left, and nobody reads any more
            await self._outcomes.put(RerunOutcome.of(item))

    def _publish(self, *, is_over: bool) -> Awaitable[None]:
        self._published_at = self._clock.now()
        return self._journal.publish({"is_over": is_over, **attrs.asdict(self.progress)})

    async def _read_report(self) -> RerunReport:
        tally = Tally()
        async for item in self._journal.items():
            tally.add(item)
        return tally.report(self._breaker.stopped_by)


def _at_its_end(item: JournalItem, change: StatusChange[WorkflowSummaryResponse]) -> JournalItem:
    good, state = change.current == "completed", change.state
    return msgspec.structs.replace(
        item,
        outcome=change.current or "missing",
        error=None if good or state is None else state.error,
    )


def _first_of(several: BaseException) -> BaseException:
    """What several tasks ended with, in one error: one of ours if there is any."""
    while isinstance(several, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", several)
        several = (group.subgroup(KnowledgeStackError) or group).exceptions[0]
    return several
