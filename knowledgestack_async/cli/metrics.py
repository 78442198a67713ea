"""What a watch shows, as Prometheus reads it; needs the extra ``[metrics]``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import attrs
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

import knowledgestack_async as ks

from .connection import cannot_listen

__all__ = ["Gauges", "serving"]

REFRESH = 0.5


@attrs.frozen(kw_only=True)
class Reading:
    """What was the case when it was read: what the server's thread may see."""

    counts: Mapping[str, int] = attrs.field(factory=dict[str, int])
    oldest: datetime | None = None
    can_see: bool = False
    requests: int = 0
    retries: int = 0
    cool_downs: int = 0


class Gauges(Collector):
    """The metrics of a watch.

    Args:
        session: The session that it uses.
        watch: The watch.
    """

    def __init__(self, session: ks.Session, watch: ks.Watch[ks.WorkflowSummaryResponse]) -> None:
        self._session = session
        self._watch = watch
        self._active: dict[str, datetime] = {}
        self._can_see = False
        self._reading = Reading()

    def note(self, change: ks.StatusChange[ks.WorkflowSummaryResponse]) -> None:
        """Take a change down."""
        if change.kind is ks.ChangeKind.TROUBLE:
            self._can_see = self._can_see and bool(change.workflow_id)
            return
        self._can_see = True
        if change.is_final:
            self._active.pop(change.workflow_id, None)
        elif change.state is not None:
            self._active[change.workflow_id] = _active_since(change.state)

    def read(self) -> None:
        """Note what is the case now, for whoever asks from another thread."""
        stats = self._session.stats
        counts = self._watch.summary.counts
        self._reading = Reading(
            counts={word: count for word, count in counts.items() if word != "missing"},
            oldest=min(self._active.values(), default=None),
            can_see=self._can_see,
            requests=stats.requests,
            retries=stats.retries,
            cool_downs=stats.cool_downs,
        )

    def collect(self) -> Iterator[Any]:
        """The metrics, for Prometheus."""
        reading = self._reading
        statuses = GaugeMetricFamily(
            "ks_ingestions", "Ingestions by their status.", labels=["status"]
        )
        for word, count in reading.counts.items():
            statuses.add_metric([word], count)
        yield statuses
        age = 0.0
        if reading.oldest is not None:
            age = max(0.0, (datetime.now(UTC) - reading.oldest).total_seconds())
        yield GaugeMetricFamily(
            "ks_ingestions_oldest_active_age_seconds",
            "For how long the oldest one has been pending or processing; 0 if none is.",
            value=age,
        )
        yield GaugeMetricFamily(
            "ks_watch_up", "Whether the server could be asked.", value=float(reading.can_see)
        )
        for name, value, what in (
            ("ks_requests", reading.requests, "Requests that were sent, retries included."),
            ("ks_request_retries", reading.retries, "How many of them were retries."),
            ("ks_cool_downs", reading.cool_downs, "How often the server asked for a pause."),
        ):
            yield CounterMetricFamily(name, what, value=value)


def _active_since(state: ks.WorkflowSummaryResponse) -> datetime:
    """Since when it is active: one that is queued shows the run before, so its last change tells."""
    if state.status is ks.IngestionStatus.PENDING:
        return state.last_state_update_timestamp or state.created_at
    return state.last_run_timestamp


@asynccontextmanager
async def serving(gauges: Gauges, host: str, port: int) -> AsyncGenerator[str]:
    """Serve metrics from a thread while this block runs; gives where.

    Raises:
        click.UsageError: Nothing can listen there.
    """
    registry = CollectorRegistry()
    registry.register(gauges)
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise cannot_listen(host, port, error) from error
    reader = asyncio.create_task(_keep_reading(gauges))
    try:
        yield f"{host}:{server.server_port}"
    finally:
        reader.cancel()
        with suppress(asyncio.CancelledError):
            await reader
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join()


async def _keep_reading(gauges: Gauges) -> None:
    while True:
        gauges.read()
        await asyncio.sleep(REFRESH)
