"""The session: settings, the connection pool, and everything that lives as long as they do."""

from __future__ import annotations

import asyncio
import os
import random
import warnings
from collections.abc import Callable, Coroutine, Mapping, MutableMapping, Sequence
from copy import copy
from importlib import import_module
from ssl import SSLContext
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, cast
from uuid import UUID
from weakref import WeakValueDictionary

import aiohttp
import attrs
import msgspec

from ._checks import check_count
from ._clock import Clock, MonotonicClock
from ._codec import load_long_way
from ._dialects import Dialect
from ._engine import Done, Engine
from ._governor import Governor
from ._hearing import Hearing
from ._negotiation import Negotiation, Page
from ._raw import RawResponse, raw_call
from ._retry import Chance, CircuitBreaker, RetryPolicy, load_backoff
from ._settings import (
    DEFAULT_BASE_URL,
    UNSET,
    ApiKey,
    CallOptions,
    GivenKeys,
    SealedHeaders,
    Unset,
    call_options,
    changed,
    resolve_key,
)
from ._transport import Transport
from ._transport_options import TransportOptions
from ._wire import Call, Secret, check_base_url, seal
from .errors import ConfigurationError, SessionError

__all__ = ["RawResponse", "Session", "SessionStats"]

T = TypeVar("T")
ClosableT = TypeVar("ClosableT", bound="Closable")


class Closable(Protocol):
    """What lives as long as a session, and is closed with it."""

    async def close(self) -> None:
        """End it."""
        ...


@attrs.frozen(kw_only=True)
class SessionStats:
    """Counters of a session, as they were when they were read.

    Attributes:
        requests: Requests that were sent, retries included.
        retries: How many of them were retries.
        bytes_in: Bytes of bodies that came in, as they were on the wire.
        cool_downs: How often the server asked for a pause.
        in_flight: Requests in flight now.
        waiting: Calls that wait for a slot now.
        limit: How many requests may be in flight now; it adapts to the server.
    """

    requests: int
    retries: int
    bytes_in: int
    cool_downs: int
    in_flight: int
    waiting: int
    limit: int


class _Core:
    """What a session and its views share.

    When it goes unclosed, it says so, and closes what can be closed then.
    """

    def __init__(
        self, engine: Engine, transport: Transport, governor: Governor, base_url: str
    ) -> None:
        self.engine = engine
        self.transport = transport
        self.governor = governor
        self.loop: asyncio.AbstractEventLoop | None = None
        self.is_closed = False
        self.base_url = base_url
        self.lacks_bulk = False
        self.closables: dict[object, Closable] = {}
        self.shared: WeakValueDictionary[object, Closable] = WeakValueDictionary()

    def __del__(self, warn: Callable[..., None] = warnings.warn) -> None:
        if self.loop is not None and not self.is_closed:
            warn(
                f"unclosed knowledgestack_async.Session to {self.base_url}: use it with 'async with', "
                "or await its close()",
                ResourceWarning,
                stacklevel=2,
            )
            self.transport.abandon()


class Session:
    """The way to one Knowledge Stack server; used with ``async with``.

    Args:
        api_key: The key, or a function that is asked for it for each request (a coroutine function
            too). Default: ``KS_API_KEY``.
        base_url: The server, with a path prefix if it has one. Default: ``KS_BASE_URL``, else the
            documented host, https://api-staging.knowledgestack.ai.
        dialect: The generation of the API: ``documented``, ``offset``, ``system-jobs-unfiltered``,
            ``system-jobs``, or ``auto`` to find out.
        timeout: Seconds for one try, from when it gets its slot.
        deadline: Seconds for a whole call, queue, waits and retries included. Without one, no retry
            begins later than ``retry.give_up_after`` after the first try.
        headers: Headers to send with every request.
        retry: How calls are sent again.
        max_in_flight: The most requests in flight at a time; how many are allowed below that adapts
            to what the server takes.
        retry_budget: How many retries may be outstanding before the circuit breaker opens: then all
            retries of the route are held but for one probe at a time, until one succeeds. Default: 20.
        rate: The most requests a second; None for no such limit.
        client_session: An aiohttp session to use instead of one of our own. It is never closed here,
            and it brings its own cookies, proxies and middlewares, not its ``.netrc``; a connection of its
            own for calls whose answer names nothing can then not be had for certain.
        trace_configs: aiohttp's trace configs, such as OpenTelemetry's.
        proxy: An HTTP proxy to go through.
        ssl: An SSL context, or False to not check certificates (don't).
        allow_plain_http: Whether ``http://`` may be used to other machines than this one.
        clock: Where time comes from; for tests.
        chance: Where jitter comes from; for tests.

    Raises:
        ConfigurationError: A setting is missing or wrong.

    Example:
        ```python
        async with ks.Session() as session:
            run = await ks.get_workflow_run(session, run_id)
        ```
    """

    def __init__(
        self,
        api_key: ApiKey | None = None,
        base_url: str | None = None,
        *,
        dialect: str = "auto",
        timeout: float = 30.0,
        deadline: float | None = None,
        headers: Mapping[str, str] | None = None,
        retry: RetryPolicy | None = None,
        max_in_flight: int = 100,
        retry_budget: int | None = None,
        rate: float | None = None,
        client_session: aiohttp.ClientSession | None = None,
        trace_configs: Sequence[aiohttp.TraceConfig] = (),
        proxy: str | None = None,
        ssl: SSLContext | bool | aiohttp.Fingerprint = True,
        allow_plain_http: bool = False,
        clock: Clock | None = None,
        chance: Chance | None = None,
    ) -> None:
        load_long_way()
        load_backoff()
        load_what_failures_need()
        key, sealed = seal(api_key), None if headers is None else SealedHeaders(headers)
        hidden_proxy, address = seal(proxy), seal(base_url)
        del api_key, headers, proxy, base_url  # so that no error's frame shows them
        self._options = call_options(key, timeout, deadline, sealed, retry)
        if retry_budget is not None:
            check_count(retry_budget, "retry_budget", least=0)
        if address is None:
            address = seal(os.environ.get("KS_BASE_URL") or DEFAULT_BASE_URL)
        self._base_url = check_base_url(address, allow_plain_http=allow_plain_http)
        if not isinstance(cast("object", hidden_proxy), Secret | None):
            raise ConfigurationError("proxy must look like http://host:port")
        way = TransportOptions(
            client_session=client_session, trace_configs=trace_configs, proxy=hidden_proxy, ssl=ssl
        )
        way.check()
        self.clock: Clock = clock or MonotonicClock()
        self.chance: Chance = chance or random.Random()
        self._negotiation = Negotiation(dialect, self.clock)
        governor = Governor(
            clock=self.clock,
            chance=self.chance,
            ceiling=max_in_flight,
            pool_size=way.pool_size,
            rate=rate,
        )
        transport = Transport(self._base_url, way, self.clock)
        engine = Engine(
            transport=transport,
            governor=governor,
            negotiation=self._negotiation,
            clock=self.clock,
            chance=self.chance,
            budget=CircuitBreaker.BUDGET if retry_budget is None else retry_budget,
        )
        self._core = _Core(engine, transport, governor, self._base_url)
        self._is_view = False

    def __repr__(self) -> str:
        if not hasattr(self, "_core"):  # an error's frame shows one that is half made
            return "<Session that was not made>"
        return f"<Session to {self._base_url}, dialect {self.dialect}>"

    @property
    def base_url(self) -> str:
        """The server that this session talks to."""
        return self._base_url

    @property
    def dialect(self) -> str:
        """The generation of the API that the server speaks, as far as it is known by now."""
        return self._negotiation.dialect.name

    @property
    def capabilities(self) -> Dialect:
        """What that generation can do, such as its paging, filters and bulk calls."""
        return self._negotiation.dialect

    @property
    def stats(self) -> SessionStats:
        """The session's counters now."""
        core = self._core
        return SessionStats(
            requests=core.engine.requests,
            retries=core.engine.retries,
            bytes_in=core.transport.bytes_in,
            cool_downs=core.governor.cool_downs,
            in_flight=core.governor.in_flight,
            waiting=core.governor.waiting,
            limit=core.governor.limit,
        )

    def with_options(
        self,
        *,
        timeout: float | None = None,
        deadline: float | Unset | None = UNSET,
        headers: Mapping[str, str] | None = None,
        api_key: ApiKey | None = None,
        retry: RetryPolicy | None = None,
    ) -> Session:
        """A view of this session with other options: same pool, governor and counters.

        What isn't given stays as it is, and ``deadline=None`` takes the deadline off; headers are
        added to the session's. A view is neither opened nor closed: it lives as long as its session.

        Raises:
            ConfigurationError: An option is wrong.

        Example:
            ```python
            hurried = session.with_options(deadline=2)
            ```
        """
        key, sealed = seal(api_key), None if headers is None else SealedHeaders(headers)
        del api_key, headers
        return self._view(
            changed(
                self._options,
                api_key=key,
                timeout=timeout,
                deadline=deadline,
                headers=sealed,
                retry=retry,
            )
        )

    def _view(self, options: CallOptions) -> Session:
        view = copy(self)
        view._options, view._is_view = options, True  # noqa: SLF001 - it is one of us
        return view

    def with_what_is_left(self, began: float) -> Session:
        """A view for a further request of a call that began then: the deadline is for all of it."""
        if self.deadline is None:
            return self
        left = self.deadline - (self.clock.now() - began)
        return self._view(msgspec.structs.replace(self._options, deadline=left))

    def without_deadline(self) -> Session:
        """A view for work that many calls share, and that none of their deadlines may end."""
        return self._view(msgspec.structs.replace(self._options, deadline=None))

    async def credential(self) -> Secret:
        """The key that a call would be sent with now; a function is asked for it.

        Raises:
            ConfigurationError: The function gave none.
        """
        return await resolve_key(self._options.key)

    @property
    def given_keys(self) -> GivenKeys:
        """The last keys and tokens that functions gave, the session's and those of its views."""
        return self._core.engine.admission.given_keys

    @property
    def deadline(self) -> float | None:
        """The seconds that a whole call may take, if that is bounded."""
        return self._options.deadline

    @property
    def identity(self) -> object:
        """Equal for calls with the same credential and headers, which may share answers."""
        return self._options.identity

    @property
    def has_key_function(self) -> bool:
        """Whether the key is asked for each time."""
        return not isinstance(self._options.key, Secret)

    @property
    def patience(self) -> object:
        """Equal for calls that wait as long and are sent as often, which may share work."""
        return self._options.timeout, self._options.retry

    @property
    def bulk_limit(self) -> int | None:
        """How many document versions one bulk rerun takes; None where the server has none."""
        return None if self._core.lacks_bulk else self.capabilities.bulk_limit

    def learn_no_bulk(self) -> None:
        """The server answered that it has no bulk rerun: it isn't asked again."""
        self._core.lacks_bulk = True

    @property
    def is_exhausted(self) -> bool:
        """Whether the circuit breaker is open, so that retries are held."""
        return self._core.engine.breaker.is_open

    def is_failing(self, route: object) -> bool:
        """Whether the last calls of a route, by their key, were all given up."""
        return self._core.engine.breaker.is_failing(route)

    def cooling_for(self) -> float:
        """The seconds left of the pause that the server asked for; 0 if none."""
        return self._core.governor.cooling_for()

    @property
    def hearing(self) -> Hearing:
        """Whether the server still speaks."""
        return self._core.engine.hearing

    def busy_for(self) -> float:
        """The seconds so far in which anything was in flight."""
        return self._core.governor.busy_for()

    async def __aenter__(self) -> Self:
        core = self._core
        if self._is_view:
            raise SessionError(
                "a view of a session is not opened: use it while its session is open"
            )
        if core.is_closed:
            raise SessionError("the session is closed; make a new one")
        if core.loop is not None:
            raise SessionError("the session is open already")
        loop = _running_loop()
        core.transport.open()
        core.loop = loop
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def aclose(self) -> None:
        """The same as `close`, for ``contextlib.aclosing``."""
        await self.close()

    async def close(self) -> None:
        """Close the session, as leaving its block does; said again, it does nothing.

        What is on its way ends: calls that only read raise SessionError, and those that may have acted
        OutcomeUnknown.

        Raises:
            SessionError: It is a view, which ends with its session.
        """
        core = self._core
        if self._is_view:
            raise SessionError("a view of a session is not closed: close its session")
        if core.is_closed:
            return
        core.is_closed = True
        core.engine.close()
        try:
            for closable in [*core.closables.values(), *core.shared.values()]:
                await closable.close()
        finally:
            tasks = list(core.engine.tasks)
            for task in tasks:
                task.cancel()
            # Whoever cancels the closing, too, leaves no connection open.
            closing = asyncio.ensure_future(core.transport.close())
            await asyncio.gather(*tasks, asyncio.shield(closing), return_exceptions=True)

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int | float | bool | UUID] | None = None,
        json: Any = None,
        idempotent: bool | None = None,
    ) -> RawResponse:
        """Call an endpoint that the SDK doesn't model, under the same rules.

        Args:
            method: The HTTP method.
            path: The path below the base URL, from its slash on; reserved characters quoted by you.
            params: The query.
            json: The body, if there is one.
            idempotent: Whether sending it twice does no harm, so that it may be sent again when its
                answer is lost. Default: only GET, HEAD and OPTIONS.

        Raises:
            ConfigurationError: The path could leave the server, or the method is none.
            RequestError: The call failed.

        Example:
            ```python
            answer = await session.request("GET", "/v1/documents", params={"limit": 5})
            ```
        """
        call = raw_call(
            method, path, params={} if params is None else params, json=json, idempotent=idempotent
        )
        return (await self.execute(call)).value

    def execute(self, call: Call[T]) -> Coroutine[Any, Any, Done[T]]:
        """Send a call; what the endpoint functions await.

        Raises:
            SessionError: The session is not open, or belongs to another event loop.
            RequestError: The call failed.
        """
        self.check_usable()
        return self._core.engine.run(call, self._options)

    def observe(self, asked: Dialect, page: Page) -> Dialect:
        """Learn from a page of the list which generation gave it."""
        return self._negotiation.observe(asked, page)

    def check_usable(self) -> None:
        """Make sure that calls can be sent.

        Raises:
            SessionError: The session is not open, or belongs to another event loop.
        """
        core = self._core
        if core.is_closed:
            raise SessionError("the session is closed; make a new one")
        if core.loop is None:
            raise SessionError(
                "the session is not open: use it inside 'async with Session() as ...'"
            )
        if _running_loop() is not core.loop:
            raise SessionError("the session belongs to another event loop; open one on this loop")

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task that ends with the session at the latest."""
        return self._core.engine.spawn(work)

    def keep(self, key: object, make: Callable[[], ClosableT]) -> ClosableT:
        """What lives as long as the session under that key; made if it isn't there yet."""
        return _found_or_made(self._core.closables, key, make)

    def share(self, key: object, make: Callable[[], ClosableT]) -> ClosableT:
        """The same for what lives as long as anybody uses it, and is closed with the session at last."""
        return _found_or_made(self._core.shared, key, make)


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise SessionError(
            "no asyncio event loop is running here: a session needs asyncio (trio is not supported), "
            "and is used inside a coroutine that asyncio.run() or a framework runs"
        ) from None


def load_what_failures_need() -> None:
    """Load the modules that asyncio loads only at a first name look-up, thread or TLS name."""
    import_module("concurrent.futures.thread")
    import_module("encodings.idna")


def _found_or_made(
    there: MutableMapping[object, Closable], key: object, make: Callable[[], ClosableT]
) -> ClosableT:
    found = there.get(key)
    if found is None:
        found = there[key] = make()
    return cast("ClosableT", found)
