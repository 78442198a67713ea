"""The sandbox itself: the options, and what a test can see and do."""

import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from random import Random
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from attrs import Attribute, define, field

from knowledgestack_async.sandbox.clock import Clock, RunningClock
from knowledgestack_async.sandbox.dialects import (
    DialectName,
    FinishedCancel,
    RunShape,
    find_dialect,
)
from knowledgestack_async.sandbox.dispatch import post_signed
from knowledgestack_async.sandbox.endpoints import Endpoints
from knowledgestack_async.sandbox.faults import Faults
from knowledgestack_async.sandbox.recording import Effect, RecordedRequest, Recorder
from knowledgestack_async.sandbox.records import OPEN_STATUSES
from knowledgestack_async.sandbox.render import render_snapshot
from knowledgestack_async.sandbox.server import Server
from knowledgestack_async.sandbox.settings import Hidden, Settings
from knowledgestack_async.sandbox.store import Store

if TYPE_CHECKING:
    from knowledgestack_async.session import Session

_MIX = {"completed": 0.5, "failed": 0.3, "processing": 0.1, "pending": 0.05, "cancelled": 0.05}
_RUN_STATUSES = ("RUNNING", "PENDING", "COMPLETED", "FAILED")


def _switch(sandbox: "Sandbox", _: "Attribute[DialectName]", name: DialectName) -> DialectName:
    sandbox.settings.dialect = find_dialect(name)
    return name


@define(kw_only=True, eq=False)
class Sandbox:
    """A Knowledge Stack of your own on loopback, for tests and for trying things out.

    Use it with ``async with``. It knows all routes of its generation, demands the key, runs
    pipelines on its own clock, remembers what it was asked, and goes wrong on demand. The options
    are read at the beginning; what can be changed later is `dialect`, and what is in `settings`,
    `store` and `faults`.

    Args:
        ingestions: How many ingestions there are at the beginning.
        runs: How many workflow runs; their statuses take turns: RUNNING, PENDING, COMPLETED,
            FAILED.
        seed: Everything random derives from it: the same seed and the same requests get the same
            answers.
        dialect: The generation: ``documented``, ``offset``, ``system-jobs-unfiltered`` or
            ``system-jobs``.
        run_shape: How runs are written, where it isn't the generation's usual way: ``status``,
            ``execution_state`` or ``run_folders``.
        api_key: The key that it takes.
        webhook_secret: The runner's secret, which the callback takes too, and which signs what
            `dispatch_run` sends; by default drawn from the seed.
        speed: Sandbox seconds per real second.
        clock: A clock of your own, such as a `SteppedClock`, in place of a `RunningClock`.
        statuses: The share of each pipeline status at the beginning, kept exactly.
        superseded: The share of the completed ingestions that a newer version has superseded.
        rerun_outcomes: The weight of each status that a run ends with.
        pipeline_seconds: The shortest and the longest that a run takes, in sandbox seconds.
        stale_after_rerun: For how many sandbox seconds after a rerun the list still shows the
            previous outcome.
        stale_detail: Whether an ingestion's own route does so too.
        forget_closed_after: After how many sandbox seconds the status route answers 404 for a
            workflow that has closed; None means never.
        cancel_finished: Whether cancelling what is finished is a 409 (``conflict``) or a 200 that
            does nothing (``ignore``), where that isn't the generation's usual way: it is a 409 but
            in ``system-jobs-unfiltered``.
        delete_running: Whether deleting a run that is RUNNING is a 409 (``refuse``) or works
            (``allow``).
        run_watchdog: Whether a RUNNING run fails once it is older than its own limit.
        latency: How many real seconds every answer takes.
        max_page_size: The largest page; a larger one asked for is a 422.
        honoured_page_size: If set, every page has this size, whatever is asked for.
        page_cap: If set, no page is larger; a larger one asked for gets this size.
        echoes_cap: Whether the envelope of such a page names the size that it has, or the one that
            was asked for.
        hidden: The ids of ingestions that the list leaves out after it has chosen the page, or a
            function that tells it of each: a key that may not see everything, or rows that are
            dropped late. The total still counts them.
        ssl_context: For https.
        host: The address to listen on.
        port: The port to listen on; 0 takes a free one.
        record: Whether requests are kept; they are counted in any case.
        effects_file: A file that requests, effects and answers are appended to, one JSON line
            each, flushed at once.

    Raises:
        ValueError: An option makes no sense.

    Attributes:
        base_url: Where it listens, while it does.
        faults: What goes wrong.
        settings: How the service behaves; can be changed at any time.
        store: What it holds; can be changed at any time.
    """

    ingestions: int = 20
    runs: int = 3
    seed: int = 0
    dialect: DialectName = field(default="documented", on_setattr=_switch)
    run_shape: RunShape | None = None
    _first_api_key: str = field(default="sk-user-sandbox", alias="api_key", repr=False)
    _first_secret: str | None = field(default=None, alias="webhook_secret", repr=False)
    speed: float = 1.0
    _own_clock: Clock | None = field(default=None, alias="clock", repr=False)
    statuses: Mapping[str, float] = field(factory=lambda: dict(_MIX))
    superseded: float = 0.02
    rerun_outcomes: Mapping[str, float] = field(factory=lambda: {"completed": 1.0})
    pipeline_seconds: tuple[float, float] = (2.0, 8.0)
    stale_after_rerun: float = 0.0
    stale_detail: bool = False
    forget_closed_after: float | None = None
    cancel_finished: FinishedCancel | None = None
    delete_running: Literal["refuse", "allow"] = "refuse"
    run_watchdog: bool = False
    latency: float = 0.0
    max_page_size: int = 100
    honoured_page_size: int | None = None
    page_cap: int | None = None
    echoes_cap: bool = True
    hidden: Hidden | None = field(default=None, repr=False)
    ssl_context: ssl.SSLContext | None = field(default=None, repr=False)
    host: str = "127.0.0.1"
    port: int = 0
    record: bool = True
    effects_file: str | None = None
    base_url: str = field(init=False, default="")
    settings: Settings = field(init=False, repr=False)
    store: Store = field(init=False, repr=False)
    faults: Faults = field(init=False, repr=False)
    _recorder: Recorder = field(init=False, repr=False)
    _server: Server = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        dialect = find_dialect(self.dialect)
        unknown = set(self.statuses) - dialect.statuses
        if unknown:
            raise ValueError(f"no pipeline status in {self.dialect}: {', '.join(sorted(unknown))}")
        if OPEN_STATUSES & set(self.rerun_outcomes):
            raise ValueError("a run cannot end as pending or processing")
        secret = f"whsec_{Random(f'{self.seed}:secret').randbytes(16).hex()}"
        self.settings = Settings(
            dialect=dialect,
            run_shape=self.run_shape,
            api_key=self._first_api_key,
            webhook_secret=self._first_secret or secret,
            max_page_size=self.max_page_size,
            honoured_page_size=self.honoured_page_size,
            page_cap=self.page_cap,
            echoes_cap=self.echoes_cap,
            hidden=self.hidden,
            cancel_finished=self.cancel_finished,
            delete_running=self.delete_running,
            forget_closed_after=self.forget_closed_after,
            stale_detail=self.stale_detail,
        )
        self.store = self._fill_store()
        self.faults = Faults(self.seed, self.store.clock.now)
        self._recorder = Recorder(keep=self.record)
        endpoints = Endpoints(self.store, self.settings, self._recorder)
        self._server = Server(endpoints, self._recorder, self.faults, self.latency)

    def _fill_store(self) -> Store:
        store = Store(
            seed=self.seed,
            clock=self._own_clock or RunningClock(self.speed),
            rerun_outcomes=self.rerun_outcomes,
            pipeline_seconds=self.pipeline_seconds,
            stale_after_rerun=self.stale_after_rerun,
            run_watchdog=self.run_watchdog,
        )
        store.seed_ingestions(self.ingestions, self.statuses, self.superseded)
        for number in range(self.runs):
            store.add_run(_RUN_STATUSES[number % len(_RUN_STATUSES)])
        return store

    async def __aenter__(self) -> Self:
        if self.effects_file is not None:
            self._recorder.open(self.effects_file)
        try:
            port = await self._server.start(self.host, self.port, self.ssl_context)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        scheme = "http" if self.ssl_context is None else "https"
        host = f"[{self.host}]" if ":" in self.host else self.host
        self.base_url = f"{scheme}://{host}:{port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._server.stop()
        self._recorder.close()

    @property
    def api_key(self) -> str:
        """The key that it takes; set another to rotate it."""
        return self.settings.api_key

    @api_key.setter
    def api_key(self, api_key: str) -> None:
        self.settings.api_key = api_key

    @property
    def webhook_secret(self) -> str:
        """The runner's secret."""
        return self.settings.webhook_secret

    @property
    def clock(self) -> Clock:
        """The sandbox's time."""
        return self.store.clock

    @property
    def requests(self) -> list[RecordedRequest]:
        """The requests so far, in the order of arrival; none if they aren't recorded."""
        return self._recorder.requests

    @property
    def request_counts(self) -> Counter[str]:
        """How many requests reached each route, by its name."""
        return self._recorder.counts

    @property
    def effects(self) -> list[Effect]:
        """What requests have changed, in order."""
        return self._recorder.effects

    @property
    def connections(self) -> int:
        """How many connections were opened."""
        return self._server.connections

    @property
    def max_in_flight(self) -> int:
        """The most requests that were under way at the same time."""
        return self._server.max_in_flight

    @property
    def before_request(self) -> Callable[[RecordedRequest], object] | None:
        """Called with each request just before it is handled; it may change the store."""
        return self._server.before_request

    @before_request.setter
    def before_request(self, hook: Callable[[RecordedRequest], object] | None) -> None:
        self._server.before_request = hook

    @property
    def rewrite_answer(self) -> Callable[[RecordedRequest, Any], Any] | None:
        """Called with each request and the object it is answered with; returns what is sent."""
        return self._server.rewrite_answer

    @rewrite_answer.setter
    def rewrite_answer(self, hook: Callable[[RecordedRequest, Any], Any] | None) -> None:
        self._server.rewrite_answer = hook

    def forget_requests(self) -> None:
        """Drop all requests, counts and effects that were remembered."""
        self._recorder.forget()

    def switch_dialect(self, name: DialectName) -> None:
        """Become a server of another generation, as one does that is updated.

        What is in the store stays, and so does every connection; the next request is the first that
        is answered in the new way. Called from `before_request`, it changes how that request is
        answered, so that some requests can reach servers of one generation and some of another.
        Setting `dialect` does the same.

        Args:
            name: Which.

        Raises:
            ValueError: There is none of this name.
        """
        self.dialect = name

    def run_token(self, run_id: str) -> str:
        """Return the token that is good for the callback of one run only.

        Raises:
            NotFoundError: There is no such run.
        """
        return self.store.get_run(run_id).token

    def session(self, **options: Any) -> "Session":
        """Return a client's session that talks to this sandbox.

        Args:
            options: What `knowledgestack_async.Session` takes.
        """
        from knowledgestack_async.session import Session  # noqa: PLC0415

        known: dict[str, Any] = {"api_key": self.api_key, "base_url": self.base_url}
        return Session(**(known | options))

    async def dispatch_run(
        self, url: str, run_id: str | None = None, *, secret: str | None = None
    ) -> int:
        """Trigger a runner: mark a run as RUNNING, and tell the runner's webhook.

        The object that is sent has ``run_id``, ``workflow_definition_id``, ``callback_url``,
        ``token`` (good for this run's callback) and ``snapshot``; the header ``X-KS-Signature``
        has ``sha256=`` and the body's HMAC.

        Args:
            url: The runner's webhook.
            run_id: Which run; by default the newest that is PENDING, or a new one.
            secret: What it is signed with; by default `webhook_secret`.

        Returns:
            The status that the runner answers with.

        Raises:
            NotFoundError: There is no such run.
            ConflictError: The run is finished.
        """
        if run_id is None:
            run_id = (self.store.runs.newest("PENDING") or self.store.add_run()).id
        run = self.store.runs.start(run_id)
        payload = {
            "run_id": run.id,
            "workflow_definition_id": run.workflow_definition_id,
            "callback_url": f"{self.base_url}/v1/workflow-runs/{run.id}/callback",
            "token": run.token,
            "snapshot": render_snapshot(self.settings.shape, run),
        }
        return await post_signed(url, payload, secret or self.webhook_secret)
